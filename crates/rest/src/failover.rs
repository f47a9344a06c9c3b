//! Which of an array's management addresses is tried first.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So long an address that failed is left alone while another one serves. Then a bare TCP connection finds out whether it
/// is worth a request: going back to it costs a request half a second in this time at the most.
const REST: Duration = Duration::from_secs(60);

/// What is known of an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It served last time, or was never tried.
    Up,
    /// It failed some time ago, and may be back.
    Due,
    /// It failed a moment ago: the last resort.
    Down,
}

/// The standing of each address of one array. Addresses are known by their place in the list: the first is the preferred
/// one.
#[derive(Debug)]
pub(crate) struct Failover(Mutex<Vec<Option<Instant>>>);

impl Failover {
    pub(crate) fn of(addresses: usize) -> Self {
        Self(Mutex::new(vec![None; addresses]))
    }

    fn set(&self, address: usize, failed: Option<Instant>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(it) = all.get_mut(address) {
            *it = failed;
        }
    }

    /// It took no connection, or broke off.
    pub(crate) fn failed(&self, address: usize) {
        self.set(address, Some(Instant::now()));
    }

    /// It answered.
    pub(crate) fn answered(&self, address: usize) {
        self.set(address, None);
    }

    /// Every address, best first: as they are listed, those that failed lately behind, the latest last.
    pub(crate) fn order(&self) -> VecDeque<(usize, Standing)> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let standing = |failed: Option<Instant>| match failed {
            None => Standing::Up,
            Some(at) if at.elapsed() >= REST => Standing::Due,
            Some(_) => Standing::Down,
        };
        let mut order: Vec<usize> = (0..all.len()).collect();
        order.sort_by_key(|it| {
            let failed = all.get(*it).copied().flatten();
            (standing(failed) == Standing::Down).then_some(failed)
        });
        order.into_iter().map(|it| (it, standing(all.get(it).copied().flatten()))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Standing::{Down, Due, Up};

    fn order(of: &Failover) -> Vec<(usize, Standing)> {
        of.order().into()
    }

    #[tokio::test(start_paused = true)]
    async fn what_failed_lately_comes_last_and_is_looked_at_again_in_time() {
        let it = Failover::of(3);
        assert_eq!(order(&it), [(0, Up), (1, Up), (2, Up)]);
        it.failed(0);
        tokio::time::advance(Duration::from_secs(1)).await;
        it.failed(1);
        assert_eq!(order(&it), [(2, Up), (0, Down), (1, Down)]);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(order(&it), [(0, Due), (2, Up), (1, Down)]);
        it.answered(0);
        it.answered(1);
        assert_eq!(order(&it), [(0, Up), (1, Up), (2, Up)]);
    }
}
