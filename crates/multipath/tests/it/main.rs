//! Tests of the device manager on a simulated node.

mod array;
mod contract;
mod crash;
mod fixture;
mod steps;
