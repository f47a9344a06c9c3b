//! Simulated arrays and hosts.

pub mod ontap;
pub mod server;
pub mod target;
