//! Tests of the device manager on a simulated node.

mod array;
mod contract;
mod fixture;
