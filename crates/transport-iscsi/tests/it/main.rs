//! Tests of the iSCSI transport on a simulated node.

#![expect(clippy::unwrap_used, reason = "a fixture that cannot be set up ends its test")]

mod array;
mod contract;
mod holds;
mod records;
