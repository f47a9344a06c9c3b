//! The trait [`Transport`]: the roads from this node to an array's target ports.

use std::fmt;
use std::net::SocketAddr;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Cx, Error, HostLogin, Iqn, Result};

/// A storage protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum TransportKind {
    /// iSCSI over TCP.
    Iscsi,
}

impl fmt::Display for TransportKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iscsi => f.write_str("iSCSI"),
        }
    }
}

/// A name this node goes by on a fabric.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Initiator {
    /// An iSCSI initiator name.
    Iscsi(Iqn),
}

impl fmt::Display for Initiator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iscsi(iqn) => iqn.fmt(f),
        }
    }
}

/// A port of an array that serves volumes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum TargetPort {
    /// An iSCSI portal of a target.
    Iscsi {
        /// Where it listens.
        portal: SocketAddr,
        /// The target's name.
        target: Iqn,
        /// The array node (controller) it is on, where the array says so.
        node: Option<String>,
    },
}

impl TargetPort {
    /// The array node (controller) it is on, where the array says so.
    pub fn node(&self) -> Option<&str> {
        match self {
            Self::Iscsi { node, .. } => node.as_deref(),
        }
    }

    /// The protocol it speaks.
    pub fn kind(&self) -> TransportKind {
        match self {
            Self::Iscsi { .. } => TransportKind::Iscsi,
        }
    }
}

impl fmt::Display for TargetPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Iscsi { portal, target, .. } => write!(f, "{portal} {target}"),
        }
    }
}

/// A usable road to a target port: where the kernel looks for logical units.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Route {
    /// A SCSI host that leads to one target.
    Scsi {
        /// The number of the SCSI host.
        host: u32,
        /// The channel.
        channel: u32,
        /// The target id on the channel.
        target: u32,
        /// The port it leads to.
        port: TargetPort,
    },
}

impl Route {
    /// The port it leads to.
    pub fn port(&self) -> &TargetPort {
        match self {
            Self::Scsi { port, .. } => port,
        }
    }
}

/// How one port fared.
#[derive(Debug, Clone)]
pub enum PortStatus {
    /// A session was there and healthy; nothing was done.
    Connected,
    /// A session was made now.
    Joined,
    /// No session; the reason.
    Failed(Error),
}

impl PortStatus {
    /// Whether volumes can be reached through it.
    pub fn is_up(&self) -> bool {
        matches!(self, Self::Connected | Self::Joined)
    }

    /// Why there is no session; `None` where there is one.
    pub fn failure(&self) -> Option<&Error> {
        match self {
            Self::Failed(error) => Some(error),
            Self::Connected | Self::Joined => None,
        }
    }
}

/// One port and how it fared.
#[derive(Debug, Clone)]
pub struct PortState {
    /// Which.
    pub port: TargetPort,
    /// How.
    pub status: PortStatus,
}

/// Roads to target ports. Implementations are safe to call concurrently; work on one port is serialised inside.
#[async_trait]
pub trait Transport: fmt::Debug + Send + Sync {
    /// The protocol.
    fn kind(&self) -> TransportKind;

    /// How many sessions there are with each port: one for each interface of this node that its settings name.
    fn sessions_per_port(&self) -> usize {
        1
    }

    /// What this node's logins are to prove, as it is at this moment.
    ///
    /// # Errors
    /// Where the secrets cannot be read.
    async fn login(&self, cx: &Cx) -> Result<HostLogin> {
        let _ = cx;
        Ok(HostLogin::AsItIs)
    }

    /// The names this node goes by.
    ///
    /// # Errors
    /// `NotFound` where the node has none yet, with the command that makes one, or lacks an interface that it shall use.
    async fn initiators(&self, cx: &Cx) -> Result<Vec<Initiator>>;

    /// Makes sure that there are sessions with each port, in parallel, probing reachability first. Reports every port, once
    /// for each session there should be; an error only where nothing could be tried at all (a missing tool or daemon). Healthy sessions cost nothing.
    async fn connect(&self, cx: &Cx, ports: &[TargetPort]) -> Result<Vec<PortState>>;

    /// The routes that exist now to `ports`, from the kernel's own state. Changes nothing, starts nothing.
    async fn routes(&self, cx: &Cx, ports: &[TargetPort]) -> Result<Vec<Route>>;

    /// Ends the sessions with `ports` that this implementation made and that no device uses. Sessions of others are
    /// never touched. Returns how many were ended.
    async fn disconnect(&self, cx: &Cx, ports: &[TargetPort]) -> Result<usize>;
}
