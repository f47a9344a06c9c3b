//! The suites over a whole simulated site.

mod add;
mod budgets;
mod callers;
mod crash;
mod daemon;
mod directions;
mod exclusive;
mod faults;
mod identity;
mod input;
mod life;
mod outage;
mod paths;
mod support;
