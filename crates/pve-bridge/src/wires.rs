//! How the daemon comes by a connection to an array: HTTPS in production, a simulated array in process in tests.

use std::fmt;
use std::sync::Arc;

use san_core::Result;
use san_rest::{Endpoint, HttpsWire, Wire};

/// Makes the wire to an endpoint.
pub trait Wires: fmt::Debug + Send + Sync {
    /// A wire to `endpoint`; nothing is sent yet.
    fn wire(&self, endpoint: &Endpoint) -> Result<Arc<dyn Wire>>;
}

/// Real HTTPS.
#[derive(Debug, Clone, Copy, Default)]
pub struct HttpsWires;

impl Wires for HttpsWires {
    fn wire(&self, endpoint: &Endpoint) -> Result<Arc<dyn Wire>> {
        Ok(Arc::new(HttpsWire::new(endpoint)?))
    }
}
