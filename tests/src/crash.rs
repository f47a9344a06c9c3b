//! Stops operations at effect boundaries.
