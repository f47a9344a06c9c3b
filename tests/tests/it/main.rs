//! The suites over a whole simulated site.

mod crash;
mod daemon;
mod directions;
mod life;
