//! The array as an in-process [`Wire`]: the client's requests reach it without a socket.

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use san_core::Deadline;
use san_rest::{Wire, WireError};
use tokio::time::timeout_at;

use super::sim::OntapSim;
use crate::server::Cut;

#[async_trait]
impl Wire for OntapSim {
    async fn send(&self, request: Request<Bytes>, deadline: Deadline) -> Result<Response<Bytes>, WireError> {
        match timeout_at(deadline.instant(), self.handle(request)).await {
            Ok(answer) => answer.map_err(WireError::from),
            Err(_) => Err(WireError::TimedOut),
        }
    }
}

impl From<Cut> for WireError {
    fn from(cut: Cut) -> Self {
        match cut {
            Cut::Refused => Self::NotSent("connection refused".to_owned()),
            Cut::Reset | Cut::Lost => Self::Lost("connection reset by peer".to_owned()),
        }
    }
}
