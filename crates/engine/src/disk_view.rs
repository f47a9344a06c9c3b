//! What can be a device of a node: a disk as it is now, or as it was at a snapshot.

use std::fmt;

use san_core::{Owner, SnapshotName};
use serde::{Deserialize, Serialize};

/// A disk as it is now, or as it was at a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct View {
    /// The disk.
    pub owner: Owner,
    /// The state that is read; `None`: the disk itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<SnapshotName>,
}

impl View {
    /// The disk itself.
    pub fn disk(owner: Owner) -> Self {
        Self { owner, snapshot: None }
    }

    /// The disk as it was at `snapshot`.
    pub fn snapshot(owner: Owner, snapshot: SnapshotName) -> Self {
        Self { owner, snapshot: Some(snapshot) }
    }

    /// What its device and its record are called in the folder of its storage: no disk's name holds an `@`.
    pub fn file_name(&self) -> String {
        match &self.snapshot {
            Some(snapshot) => format!("{}@{snapshot}", self.owner.object()),
            None => self.owner.object().to_owned(),
        }
    }
}

impl fmt::Display for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.snapshot {
            Some(snapshot) => write!(f, "{}@{snapshot}", self.owner),
            None => self.owner.fmt(f),
        }
    }
}
