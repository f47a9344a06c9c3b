//! The suites over a whole simulated site.

mod life;
