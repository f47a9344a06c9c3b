//! The system host on real files, sockets, programs and processes.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on panics; one that cannot run says so"
)]

mod block;
mod files;
mod fuse;
mod helpers;
mod links;
mod sockets;
mod support;
mod tools;
mod uevents;
