//! Inside the machine: the groups of checks, and what runs them.

pub mod array;
pub mod bystander;
mod check;
pub mod daemons;
mod device;
pub mod direct;
mod hung;
pub mod ledger;
pub mod node;
mod life;
pub mod network;
pub mod node;
pub mod scratch;
pub mod site;
pub mod tools;
pub mod watched;

pub use check::{Check, Failure, Group, Play, Recorder, Running, Shown, run};

/// Every group there is.
pub fn groups() -> Vec<Group> {
    vec![life::group()]
}
