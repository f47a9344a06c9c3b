//! The scratch disk: a file system with shared extents for the files behind LUNs.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Failure, tools};

/// Where it is mounted.
pub const SCRATCH: &str = "/scratch";

/// The serial number that the outside gives the disk.
const SERIAL: &str = "labscratch";

/// Where it is when no disk says its serial number.
const USUALLY: &str = "/dev/vdb";

/// Making a file system under emulation takes a few seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Mounts the scratch disk with a fresh file system; one that is mounted already stays.
///
/// # Errors
/// Without such a disk, or where the file system cannot be made or mounted.
pub async fn mount() -> Result<PathBuf, Failure> {
    let mounted = fs::read_to_string("/proc/mounts")?;
    if mounted.lines().any(|line| line.split(' ').nth(1) == Some(SCRATCH)) {
        return Ok(PathBuf::from(SCRATCH));
    }
    let disk = disk()?;
    tools::run("mkfs.xfs", &["-q", "-f", "-K", "-m", "reflink=1", &disk], PATIENCE).await?;
    fs::create_dir_all(SCRATCH)?;
    tools::run("mount", &["-t", "xfs", &disk, SCRATCH], PATIENCE).await?;
    Ok(PathBuf::from(SCRATCH))
}

fn disk() -> Result<String, Failure> {
    for entry in fs::read_dir("/sys/block")? {
        let entry = entry?;
        // Most block devices have no serial number here.
        let serial = fs::read_to_string(entry.path().join("serial")).unwrap_or_default();
        if serial.trim() == SERIAL {
            return Ok(format!("/dev/{}", entry.file_name().to_string_lossy()));
        }
    }
    if Path::new(USUALLY).try_exists()? {
        return Ok(USUALLY.to_owned());
    }
    Err(Failure(format!("there is no scratch disk (serial number {SERIAL})")))
}
