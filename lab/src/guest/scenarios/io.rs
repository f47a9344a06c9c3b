//! What guests of the scenarios do with their disks.

use std::io;
use std::path::Path;
use std::time::Duration;

use san_core::Device;
use tokio::task::JoinHandle;

use super::bench::Bench;
use super::play::wrong;
use crate::guest::{Failure, direct};

/// How many bytes a scenario writes at a time.
pub(super) const BLOCK: usize = 4096;
/// How long a request to a device that works may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A block that says what was written and where.
pub(super) fn block(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(BLOCK, b'.');
    bytes
}

/// Begins to write at the start of a device, past the cache; ends when the device lets it.
pub(super) fn writing(device: &Path, bytes: Vec<u8>) -> JoinHandle<io::Result<()>> {
    let device = device.to_owned();
    tokio::task::spawn_blocking(move || direct::Device::open(&device)?.write(0, &bytes))
}

/// Writes at the start of a device that works.
pub(super) async fn write(device: &Path, bytes: Vec<u8>) -> Result<(), Failure> {
    match tokio::time::timeout(PATIENCE, writing(device, bytes)).await {
        Ok(written) => Ok(written??),
        Err(_) => wrong(format!("a write to {} does not end", device.display())),
    }
}

/// Reads from the start of a device that works.
pub(super) async fn read(device: &Path, length: usize) -> Result<Vec<u8>, Failure> {
    let from = device.to_owned();
    let reading = tokio::task::spawn_blocking(move || direct::Device::open(&from)?.read(0, length));
    match tokio::time::timeout(PATIENCE, reading).await {
        Ok(read) => Ok(read??),
        Err(_) => wrong(format!("a read from {} does not end", device.display())),
    }
}

/// Writes to a device and finds it again in the volume on the array, and nowhere else.
pub(super) async fn carries(bench: &Bench, device: &Device, volume: u8) -> Result<(), Failure> {
    let bytes = block(&format!("volume {volume} through {}", device.number));
    write(&device.path, bytes.clone()).await?;
    if bench.array.bytes(volume, BLOCK)? != bytes {
        return wrong(format!("what was written to {} is not in volume {volume}", device.path.display()));
    }
    if read(&device.path, BLOCK).await? != bytes {
        return wrong(format!("{} reads something else than was written", device.path.display()));
    }
    Ok(())
}

/// The first bytes of a volume are these.
pub(super) fn holds(bench: &Bench, volume: u8, bytes: &[u8]) -> Result<(), Failure> {
    let found = bench.array.bytes(volume, bytes.len())?;
    if found == bytes {
        return Ok(());
    }
    let begin = |it: &[u8]| String::from_utf8_lossy(&it[..it.len().min(24)]).into_owned();
    wrong(format!("volume {volume} holds {:?} where {:?} is due", begin(&found), begin(bytes)))
}
