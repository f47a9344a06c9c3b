//! Simulated arrays and hosts.

pub mod target;
