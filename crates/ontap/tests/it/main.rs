//! [`san_ontap::Ontap`] against the simulated array: the contract, faults, budgets, and what `connect` finds.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail the test")]

mod accounts;
mod budgets;
mod connect;
mod contract;
mod doubt;
mod faults;
mod fixture;
mod logins;
mod matrix;
mod relations;
mod releases;
mod sessions;
