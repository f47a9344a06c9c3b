//! Listing a full storage: pages and memory.

use std::time::{Duration, Instant};

use san_core::{Deadline, Error, ErrorKind, OperationId, Result};

use super::budgets::Budget;
use super::operations::{sample, site};
use super::report::Row;
use crate::site::PATIENCE;

/// What the list and everything that was needed to make it may occupy at its peak, the simulated array's side included
/// (both run in this process): 12 KiB for each disk.
const MEMORY_PER_DISK: u64 = 12 << 10;

pub(super) async fn measure(disks: usize) -> Result<Vec<Row>> {
    let site = site(3, disks, Duration::from_millis(5)).await?;
    let san = site.node(0).san();
    let before = Memory::reset()?;
    let begun = Instant::now();
    let cx = san.cx(Deadline::after(PATIENCE), OperationId::random());
    let (cost, listed) = sample(&site, san.disks(&cx)).await?;
    let real = begun.elapsed();
    let grown = Memory::peak()?.saturating_sub(before);
    if listed.len() != disks {
        let message = format!("{} of {disks} disks were listed", listed.len());
        return Err(Error::new(ErrorKind::Internal, message));
    }
    let mut row = Row::counted(&format!("list {disks} disks"), cost.requests, cost.processes);
    row.require(Budget::of(2));
    row.bound("peak memory in KiB", grown >> 10, (MEMORY_PER_DISK * disks as u64) >> 10);
    row.note(&format!("{} ms of real time in this build, both sides", real.as_millis()));
    Ok(vec![row])
}

/// This process's resident memory, as the kernel counts it.
struct Memory;

impl Memory {
    /// Lets the kernel's peak begin anew; what is resident now, in bytes.
    fn reset() -> Result<u64> {
        std::fs::write("/proc/self/clear_refs", "5").map_err(failed)?;
        Self::read("VmRSS:")
    }

    /// The peak since then, in bytes.
    fn peak() -> Result<u64> {
        Self::read("VmHWM:")
    }

    fn read(key: &str) -> Result<u64> {
        let text = std::fs::read_to_string("/proc/self/status").map_err(failed)?;
        let line = text.lines().find_map(|it| it.strip_prefix(key));
        let number = line.and_then(|it| it.split_whitespace().next()).and_then(|it| it.parse::<u64>().ok());
        number
            .map(|it| it << 10)
            .ok_or_else(|| Error::new(ErrorKind::Protocol, "no memory in /proc/self/status"))
    }
}

fn failed(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, "cannot read this process's memory").caused_by(error)
}
