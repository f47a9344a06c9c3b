//! Counting what was done.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::host::Counters;

#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) processes: AtomicU64,
    pub(crate) helper_jobs: AtomicU64,
    pub(crate) writes: AtomicU64,
    pub(crate) connections: AtomicU64,
}

/// One more.
pub(crate) fn tick(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

impl Counts {
    pub(crate) fn read(&self, abandoned: usize) -> Counters {
        Counters {
            processes: self.processes.load(Ordering::Relaxed),
            helper_jobs: self.helper_jobs.load(Ordering::Relaxed),
            abandoned: u64::try_from(abandoned).unwrap_or(u64::MAX),
            writes: self.writes.load(Ordering::Relaxed),
            connections: self.connections.load(Ordering::Relaxed),
        }
    }
}
