//! The suites over a whole simulated site.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod add;
mod all_nodes;
mod budgets;
mod callers;
mod check;
mod cli;
mod clones;
mod crash;
mod daemon;
mod deleting;
mod directions;
mod doubt;
mod exclusive;
mod farewell;
mod faults;
mod halfway;
mod hosts;
mod identity;
mod idle;
mod imports;
mod input;
mod kept;
mod leftovers;
mod life;
mod masks;
mod model;
mod network;
mod options;
mod outage;
mod paths;
mod perl;
mod prefetch;
mod readers;
mod release;
mod sections;
mod storages;
mod support;
mod verification;
mod waiting;
