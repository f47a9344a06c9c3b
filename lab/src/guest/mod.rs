//! Inside the machine: the groups of checks, and what runs them.

mod check;

pub use check::{Check, Failure, Group, Play, Recorder, Running, Shown, run};

/// Every group there is.
pub fn groups() -> Vec<Group> {
    vec![]
}
