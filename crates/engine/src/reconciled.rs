//! What this node has put right by itself, for people who look at its status.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use crate::clock::unix_now;
use crate::san::San;

/// A kind of repair that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repair {
    /// An operation was finished or undone that an earlier process, or a silent array, had left open.
    OperationEnded,
    /// A volume was removed that had been deleted and could not go at once.
    DeletionFinished,
    /// A volume was removed that nobody has finished making.
    HalfMadeRemoved,
    /// A volume was detached that belongs here no longer.
    StaleDetached,
    /// A volume was detached that nobody has used here for a while.
    IdleDetached,
    /// A volume was detached that another node needs to be nowhere else.
    Released,
    /// A disk got paths that it lacked.
    PathsCompleted,
    /// A guest whose disk has lost every path was told so, since none came back or the array has taken the disk away.
    WaitingEnded,
}

impl Repair {
    /// Its name in answers of programs, which stays.
    pub fn name(self) -> &'static str {
        match self {
            Self::OperationEnded => "operation-ended",
            Self::DeletionFinished => "deletion-finished",
            Self::HalfMadeRemoved => "half-made-removed",
            Self::StaleDetached => "stale-detached",
            Self::IdleDetached => "idle-detached",
            Self::Released => "released",
            Self::PathsCompleted => "paths-completed",
            Self::WaitingEnded => "waiting-ended",
        }
    }

    /// In words for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::OperationEnded => "ended an operation that was left open",
            Self::DeletionFinished => "finished a deletion",
            Self::HalfMadeRemoved => "removed what nobody had finished making",
            Self::StaleDetached => "detached what belongs here no longer",
            Self::IdleDetached => "detached what nobody used",
            Self::Released => "detached what another node needed",
            Self::PathsCompleted => "made paths that were missing",
            Self::WaitingEnded => "ended the waiting of a guest whose disk has no path",
        }
    }
}

/// The repairs of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repaired {
    /// How many.
    pub count: u64,
    /// What the last one was about.
    pub object: String,
    /// When that was, in seconds since 1970.
    pub at: u64,
}

/// The repairs of one storage.
pub type Repairs = BTreeMap<Repair, Repaired>;

impl San {
    /// What was put right here since the daemon started.
    pub fn repairs(&self) -> Repairs {
        let all = self.node().repairs.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(self.space()).cloned().unwrap_or_default()
    }

    /// Counts and logs one repair.
    pub(crate) fn reconciled(&self, repair: Repair, object: &str) {
        tracing::info!(storage = %self.space(), %object, "{}", repair.words());
        self.count(repair, object);
    }

    /// Counts one that was logged with more than its name.
    pub(crate) fn count(&self, repair: Repair, object: &str) {
        let mut all = self.node().repairs.lock().unwrap_or_else(PoisonError::into_inner);
        let of_space = all.entry(self.space().to_owned()).or_default();
        let count = of_space.get(&repair).map_or(0, |it| it.count) + 1;
        of_space.insert(repair, Repaired { count, object: object.to_owned(), at: unix_now() });
    }
}
