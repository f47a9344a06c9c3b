//! The suites over a whole simulated site.

mod add;
mod budgets;
mod budgets;
mod callers;
mod crash;
mod daemon;
mod directions;
mod faults;
mod input;
mod life;
mod outage;
mod support;
