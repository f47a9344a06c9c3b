//! Sanbridge for Proxmox VE: the node daemon, its protocol, and everything that speaks PVE's language. The only crate
//! that knows a storage id, a guest id or `/etc/pve`.
//!
//! The protocol is described in `PROTOCOL.md` beside this crate's sources.

mod activity;
mod admin;
pub mod cli;
mod daemon;
mod guests;
mod members;
mod methods;
mod names;
mod options;
mod peers;
mod prefetch;
mod protocol;
mod realm;
mod secrets;
mod sections;
mod server;
mod storage;
mod wires;

pub use daemon::{Config, Daemon};
pub use options::Options;
pub use wires::{HttpsWires, Wires};
