//! Tests of the iSCSI transport on a simulated node.

mod array;
mod contract;
mod records;
