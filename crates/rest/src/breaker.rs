//! The circuit breaker: an array that does not answer costs its callers nothing until it answers again.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use san_core::{EffectState, Error, ErrorKind, Result};
use tokio::time::Instant;

/// So many failures in a row open it.
const FAILURES: u32 = 3;
/// While open, one request in this time is let through as a probe.
const PROBE: Duration = Duration::from_secs(5);

#[derive(Debug, Default)]
struct State {
    failures: u32,
    next_probe: Option<Instant>,
}

/// Counts connection failures of one array.
#[derive(Debug, Default)]
pub(crate) struct Breaker(Mutex<State>);

impl Breaker {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a request through.
    ///
    /// # Errors
    /// `Unavailable` while open and not yet time for a probe. A probe that is abandoned is followed by the next one in
    /// time, so nothing has to be given back.
    pub(crate) fn admit(&self) -> Result<()> {
        let mut state = self.state();
        let Some(next_probe) = state.next_probe else { return Ok(()) };
        let now = Instant::now();
        if now < next_probe {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "the array did not answer lately; it is tried every 5 s",
            )
            .with_effect(EffectState::None)
            .with_retry_after(next_probe - now)
            .with_retries_spent());
        }
        state.next_probe = Some(now + PROBE);
        Ok(())
    }

    /// The array answered, whatever it said.
    pub(crate) fn answered(&self) {
        *self.state() = State::default();
    }

    /// It did not.
    pub(crate) fn failed(&self) {
        let mut state = self.state();
        state.failures = state.failures.saturating_add(1);
        if state.failures >= FAILURES {
            state.next_probe = Some(Instant::now() + PROBE);
        }
    }

    /// Whether requests are held back now.
    pub(crate) fn is_open(&self) -> bool {
        self.state().next_probe.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn opens_after_three_failures_and_probes_every_five_seconds() {
        let breaker = Breaker::default();
        for _ in 0..2 {
            breaker.admit().unwrap();
            breaker.failed();
        }
        breaker.answered();
        for _ in 0..3 {
            breaker.admit().unwrap();
            breaker.failed();
        }
        let error = breaker.admit().unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, EffectState::None));
        tokio::time::advance(PROBE).await;
        breaker.admit().unwrap();
        assert!(breaker.admit().is_err(), "one probe at a time");
        tokio::time::advance(PROBE).await;
        breaker.admit().unwrap();
        breaker.answered();
        assert!(!breaker.is_open());
        breaker.admit().unwrap();
        breaker.admit().unwrap();
    }
}
