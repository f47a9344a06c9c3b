//! Inside the machine: the groups of checks, and what runs them.

pub mod array;
pub mod bystander;
mod check;
pub mod direct;
pub mod ledger;
pub mod watched;

pub use check::{Check, Failure, Group, Play, Recorder, Running, Shown, run};

/// Every group there is.
pub fn groups() -> Vec<Group> {
    vec![]
}
