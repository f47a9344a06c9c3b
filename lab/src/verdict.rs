//! What a check found, as it travels from the guest to whoever asked: one JSON object a line.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// What must hold held.
    Held,
    /// It did not, or the check could not be carried out.
    Failed,
    /// It cannot be shown on this kind of machine; the reason is in [`Verdict::found`].
    CannotBeShown,
}

/// One check and what came of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// The group it belongs to; a group runs in a machine of its own.
    pub group: String,
    /// Its name, unique in its group.
    pub check: String,
    /// The failure scenarios it shows, by their numbers.
    pub scenarios: Vec<String>,
    /// How it ended.
    pub outcome: Outcome,
    /// What was done.
    pub done: String,
    /// What held, what failed, or why it cannot be shown.
    pub found: String,
    /// How long it took, in milliseconds.
    pub millis: u64,
    /// Figures by name; the unit is the end of the name (`_ms`, `_requests`, `_processes`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub figures: BTreeMap<String, f64>,
}
