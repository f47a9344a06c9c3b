//! What the suites, the demo and the bench share: a simulated site of arrays and nodes with the real engine on each node.

pub mod bench;
pub mod crash;
pub mod daemons;
pub mod demo;
pub mod faults;
pub mod findings;
pub mod ledger;
pub mod log;
pub mod matrix;
pub mod operation;
pub mod parallel;
pub mod program;
pub mod simnode;
pub mod site;
pub mod walk;
