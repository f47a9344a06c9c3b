//! The trait [`Wire`]: one HTTP exchange. reqwest in production, a simulated array in process in tests.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use san_core::Deadline;

/// Carries one request to an array and its answer back. No retries, no redirects, no interpretation.
#[async_trait]
pub trait Wire: fmt::Debug + Send + Sync {
    /// Sends `request` (origin-form URI, headers complete) and waits for the whole answer until `deadline`.
    async fn send(&self, request: Request<Bytes>, deadline: Deadline) -> Result<Response<Bytes>, WireError>;
}

/// Why there is no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WireError {
    /// The request certainly never left: connection refused, name not resolved, TLS refused.
    #[error("cannot connect: {0}")]
    NotSent(String),
    /// The request may have been carried out: the connection broke or the answer could not be read.
    #[error("the answer was lost: {0}")]
    Lost(String),
    /// The deadline passed before an answer came.
    #[error("no answer in time")]
    TimedOut,
    /// The certificate is not the one that is trusted. Nothing was sent.
    #[error("the certificate is not trusted: {0}")]
    Untrusted(String),
    /// The answer is larger than what is accepted.
    #[error("the answer is larger than {0} bytes")]
    TooLarge(usize),
}
