//! The request log: what was asked, when, by whom, and what became of it. Headers and bodies are never kept.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

/// Entries kept; the counters go on beyond.
const KEPT: usize = 200_000;

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Number of the request, from 1.
    pub seq: u64,
    /// Time since the start of the simulation.
    pub at: Duration,
    /// HTTP method.
    pub method: String,
    /// Path as sent.
    pub path: String,
    /// Query as sent.
    pub query: String,
    /// The path below `/api` with variable parts named, or empty for an unknown path.
    pub template: &'static str,
    /// `X-Dot-Client-App`, else `User-Agent`.
    pub agent: String,
    /// Whether a job does its work.
    pub job: bool,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Not answered yet, or the client gave up.
    Pending,
    /// Answered with this status.
    Answered(u16),
    /// The connection was refused; nothing was carried out.
    Refused,
    /// The connection broke before the request was carried out.
    Reset,
    /// Carried out; the answer was lost.
    Lost,
}

/// A place in the log, to count from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark(u64);

/// Requests by method and path template.
pub type Counts = BTreeMap<(String, &'static str), usize>;

#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: std::collections::VecDeque<Entry>,
    last: u64,
}

impl Log {
    /// Notes a request and gives its number.
    pub(crate) fn add(&mut self, mut entry: Entry) -> u64 {
        self.last += 1;
        entry.seq = self.last;
        if self.entries.len() >= KEPT {
            self.entries.pop_front();
        }
        self.entries.push_back(entry);
        self.last
    }

    /// Notes that a job does the work of a request.
    pub(crate) fn became_job(&mut self, seq: u64) {
        if let Some(entry) = self.entry(seq) {
            entry.job = true;
        }
    }

    pub(crate) fn end(&mut self, seq: u64, outcome: Outcome) {
        if let Some(entry) = self.entry(seq) {
            entry.outcome = outcome;
        }
    }

    fn entry(&mut self, seq: u64) -> Option<&mut Entry> {
        let first = self.entries.front().map_or(0, |entry| entry.seq);
        self.entries.get_mut(usize::try_from(seq.wrapping_sub(first)).unwrap_or(usize::MAX))
    }

    pub(crate) fn mark(&self) -> Mark {
        Mark(self.last)
    }

    pub(crate) fn since(&self, mark: Mark) -> Vec<Entry> {
        self.entries.iter().filter(|entry| entry.seq > mark.0).cloned().collect()
    }

    pub(crate) fn counts(&self, mark: Mark) -> Counts {
        let mut counts = Counts::new();
        for entry in self.entries.iter().filter(|entry| entry.seq > mark.0) {
            *counts.entry((entry.method.clone(), entry.template)).or_default() += 1;
        }
        counts
    }
}

impl Mark {
    /// The start of the log.
    pub const START: Self = Self(0);

    /// Moves on to `seq` unless it is further already.
    pub(crate) fn advance(&mut self, seq: u64) -> bool {
        let further = seq > self.0;
        self.0 = self.0.max(seq);
        further
    }

    /// The place after request number `seq`.
    pub fn after(seq: u64) -> Self {
        Self(seq)
    }
}
