//! What could not be done and is tried again by itself, ever less often.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How long something rests after it failed, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(55), Duration::from_secs(300));

#[derive(Debug)]
struct Rest {
    until: Instant,
    pause: Duration,
    /// Why it failed last.
    why: String,
}

/// What rests, by name.
#[derive(Debug, Default)]
pub(crate) struct Resting(Mutex<HashMap<String, Rest>>);

impl Resting {
    fn with<T>(&self, with: impl FnOnce(&mut HashMap<String, Rest>) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Forgets all but these.
    pub(crate) fn keep(&self, is_kept: impl Fn(&str) -> bool) {
        self.with(|it| it.retain(|name, _| is_kept(name)));
    }

    /// Forgets one: it was done.
    pub(crate) fn end(&self, name: &str) {
        self.with(|it| it.remove(name));
    }

    /// Why it failed last, and when it is tried again; `None`: it has not failed.
    pub(crate) fn of(&self, name: &str) -> Option<(String, Duration)> {
        self.with(|it| {
            let rest = it.get(name)?;
            Some((rest.why.clone(), rest.until.saturating_duration_since(Instant::now())))
        })
    }

    /// Whether its next attempt is still to come.
    pub(crate) fn is_resting(&self, name: &str) -> bool {
        self.with(|it| it.get(name).is_some_and(|rest| rest.until > Instant::now()))
    }

    /// It failed: it rests, longer every time. Whether that was the first time.
    pub(crate) fn rest(&self, name: &str, why: String) -> bool {
        let (shortest, longest) = PAUSES;
        self.with(|it| {
            let before = it.get(name).map(|it| it.pause);
            let pause = before.map_or(shortest, |it| (it * 2).min(longest));
            it.insert(name.to_owned(), Rest { until: Instant::now() + pause, pause, why });
            before.is_none()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_fails_is_tried_ever_less_often() {
        let resting = Resting::default();
        assert!(resting.rest("a", "held".to_owned()));
        for expected in [110, 220, 300, 300] {
            assert!(!resting.rest("a", "held".to_owned()));
            assert_eq!(resting.of("a"), Some(("held".to_owned(), Duration::from_secs(expected))));
        }
        tokio::time::advance(Duration::from_secs(299)).await;
        assert!(resting.is_resting("a"));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(!resting.is_resting("a"));
        resting.end("a");
        assert!(resting.rest("a", "held".to_owned()));
    }
}
