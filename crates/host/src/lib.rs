//! The only door to the operating system: trait [`Host`], its implementation [`System`] and the [`Guard`] around it.
//!
//! [`Host`] knows files, sockets, programs and a few block-device calls; nothing above this crate reads `/sys`, starts a
//! program or opens a device in any other way. All parsing lies above, so that the same code runs on a simulated host.

mod guard;
mod host;

pub use guard::Guard;
pub use host::{Attr, Counters, Host, Output, Probe, SocketAddress, Stream, Tool, Uevent, Uevents};
