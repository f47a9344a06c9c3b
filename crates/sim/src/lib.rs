//! Simulated arrays and hosts.

pub mod host;
pub mod ontap;
pub mod server;
pub mod target;
