//! How many requests were sent, by method and path template.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// So many requests of one kind were sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestCount {
    /// The method.
    pub method: &'static str,
    /// The path with `{}` for each variable segment.
    pub path: &'static str,
    /// How often it was sent, repetitions included.
    pub sent: u64,
    /// How often no answer came.
    pub unanswered: u64,
}

type Key = (&'static str, &'static str);

#[derive(Debug, Default)]
pub(crate) struct Stats(Mutex<BTreeMap<Key, (u64, u64)>>);

impl Stats {
    pub(crate) fn count(&self, method: &'static str, path: &'static str, answered: Answered) {
        let mut table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (sent, unanswered) = table.entry((path, method)).or_default();
        *sent += 1;
        *unanswered += u64::from(matches!(answered, Answered::No));
    }

    pub(crate) fn all(&self) -> Vec<RequestCount> {
        let table = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        table
            .iter()
            .map(|(&(path, method), &(sent, unanswered))| RequestCount { method, path, sent, unanswered })
            .collect()
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Answered {
    Yes,
    No,
}
