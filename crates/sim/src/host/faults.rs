//! What can be broken on a node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use san_core::DeviceNumber;
use san_host::Tool;

use super::scsi::Address;

/// The faults in force.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Portals there is no road to from this node.
    pub(crate) partitioned: BTreeSet<SocketAddr>,
    /// Portals that refuse logins, with iscsiadm's exit code.
    pub(crate) logins: BTreeMap<SocketAddr, i32>,
    /// Legs that answer no command although their session is fine.
    pub(crate) hanging: BTreeSet<Address>,
    /// Those of them that a scan has asked for: it does not end, and no other scan of their hosts begins.
    pub(crate) scanning: BTreeSet<Address>,
    /// Block devices whose I/O never ends.
    pub(crate) hanging_blocks: BTreeSet<DeviceNumber>,
    /// Programs that are not installed.
    pub(crate) missing_tools: BTreeSet<Tool>,
}
