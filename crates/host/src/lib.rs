//! The only door to the operating system: trait [`Host`], its implementation [`System`] and the [`Guard`] around it.
//!
//! [`Host`] knows files, sockets, programs and a few block-device calls; nothing above this crate reads `/sys`, starts a
//! program or opens a device in any other way. All parsing lies above, so that the same code runs on a simulated host.
//!
//! # Helper processes
//!
//! A call to a device that has lost its paths can block in the kernel for minutes, and no signal ends it. So every call
//! that waits for a device is made by a *helper*: a process that was started in advance, has a session of its own and
//! shares no descriptor with the daemon except the two ends of one socket. It does one job at a time.
//!
//! | call | where |
//! |---|---|
//! | [`Host::attr`], [`Host::list`], [`Host::read_link`], [`Host::read`], links and small files | a thread: the kernel answers from memory |
//! | [`Host::connect`], [`Host::probe`] | a thread or the runtime, bounded by the socket |
//! | [`Host::run`] | its own process group, killed at the deadline |
//! | [`Host::write_attr`], [`Host::inquiry`], [`Host::flush`], [`Host::read_block`], [`Host::open_count`] | a helper |
//!
//! A helper that does not answer by the deadline is killed and *abandoned*: the caller gets `Timeout`, another helper
//! takes its place, and while the kernel keeps it ([`Counters::abandoned`]) further jobs on the same path or map are
//! refused at once, naming the process and the kernel function it waits in. Other devices do not notice. Jobs on one
//! path take turns, so a slow device occupies one helper and not all. A caller that stops waiting changes nothing: the
//! job runs on until its deadline. What an abandoned helper had opened stays open: it is one of the openers that
//! [`Host::open_count`] reports.
//!
//! The program that is started as a helper calls [`helper_main`]. It ends when the daemon does, however that ends.

mod counts;
mod errno;
mod files;
mod guard;
mod helper;
mod host;
mod inquiry;
mod ioctl;
mod job;
mod link;
mod net;
mod pool;
mod process;
mod system;
mod tool;
mod uevent;

pub use guard::Guard;
pub use helper::helper_main;
pub use host::{Attr, Counters, Host, Output, Probe, SocketAddress, Stream, Tool, Uevent, Uevents};
pub use system::{System, SystemConfig};
