//! The HTTP client the array backends share: pool, TLS, authentication, retry, budget, redaction.
//!
//! A [`Client`] sends through a [`Wire`]: [`HttpsWire`] in production, a simulated array in process in tests.

mod auth;
mod breaker;
mod client;
mod endpoint;
mod failover;
mod https;
mod peer;
mod request;
mod stats;
mod tls;
mod wire;

pub use auth::{CredentialSource, Credentials};
pub use client::Client;
pub use endpoint::{Address, CONNECT, Endpoint};
pub use https::HttpsWire;
pub use peer::{Peer, ValidUntil};
pub use request::{Answer, BodyLimit, Replay, Request};
pub use stats::RequestCount;
pub use tls::{Fingerprint, Trust};
pub use wire::{Wire, WireError};
