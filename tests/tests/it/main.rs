//! The suites over a whole simulated site.

mod add;
mod callers;
mod crash;
mod daemon;
mod directions;
mod life;
mod outage;
mod support;
