//! The HTTP client the array backends share: pool, TLS, authentication, retry, budget, redaction.

mod wire;

pub use wire::{Wire, WireError};
