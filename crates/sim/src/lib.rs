//! Simulated arrays and hosts.

pub mod host;
pub mod kernel;
pub mod ontap;
pub mod recording;
pub mod server;
pub mod target;
