//! What a session is made for: a port, through one interface of this node.

use std::fmt;
use std::net::SocketAddr;

use san_core::TargetPort;

use crate::transport::DEFAULT;

/// A port of the array and an interface of open-iscsi.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Link {
    pub(crate) port: TargetPort,
    pub(crate) interface: String,
}

impl Link {
    pub(crate) fn new(port: &TargetPort, interface: &str) -> Self {
        Self { port: port.clone(), interface: interface.to_owned() }
    }

    /// The same as far as a session can tell it: which array node a port is on may be known to one caller and not to
    /// another.
    pub(crate) fn key(&self) -> Self {
        let port = match &self.port {
            TargetPort::Iscsi { portal, target, .. } => {
                let portal = SocketAddr::new(portal.ip().to_canonical(), portal.port());
                TargetPort::Iscsi { portal, target: target.clone(), node: None }
            }
            other => other.clone(),
        };
        Self { port, interface: self.interface.clone() }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.interface.as_str() {
            DEFAULT => self.port.fmt(f),
            named => write!(f, "{} through {named}", self.port),
        }
    }
}
