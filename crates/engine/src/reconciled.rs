//! What this node has put right by itself, for people who look at its status.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use crate::clock::unix_now;
use crate::san::San;

/// A kind of repair that nobody asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Repair {
    /// A volume was removed that had been deleted and could not go at once.
    DeletionFinished,
    /// A volume was detached that belongs here no longer.
    StaleDetached,
    /// A volume was detached that nobody has used here for a while.
    IdleDetached,
}

impl Repair {
    /// In words for people.
    pub fn words(self) -> &'static str {
        match self {
            Self::DeletionFinished => "finished a deletion",
            Self::StaleDetached => "detached what belongs here no longer",
            Self::IdleDetached => "detached what nobody used",
        }
    }
}

/// The repairs of one storage on this node since its daemon started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// How many of each kind.
    pub counts: BTreeMap<Repair, u64>,
    /// The last one, in words, and when it was, in seconds since 1970.
    pub last: Option<(String, u64)>,
}

impl San {
    /// What was put right here since the start.
    pub fn repairs(&self) -> Reconciled {
        self.shared().reconciled.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Counts and logs one repair.
    pub(crate) fn reconciled(&self, repair: Repair, object: &str) {
        tracing::info!(storage = %self.space(), %object, "{}", repair.words());
        let mut reconciled = self.shared().reconciled.lock().unwrap_or_else(PoisonError::into_inner);
        *reconciled.counts.entry(repair).or_default() += 1;
        reconciled.last = Some((format!("{}: {object}", repair.words()), unix_now()));
    }
}
