//! The client against fake wires, and the HTTPS wire against real sockets.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod client;
mod https;
