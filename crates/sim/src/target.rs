//! What an initiator sees of a simulated array: portals, and behind each of them the logical units of this initiator.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The data side of a simulated SCSI array. Management changes (create, map, grow, roll back) show here at once.
pub trait Target: Debug + Send + Sync {
    /// Every iSCSI portal of every target of this array.
    fn portals(&self) -> Vec<Portal>;

    /// The logical units that `initiator` (an IQN) is shown on `portal` at this moment, by LUN number. Empty where the
    /// portal is down, unknown or shows this initiator nothing.
    fn units(&self, initiator: &str, portal: SocketAddr) -> BTreeMap<u16, Unit>;

    /// Whether an initiator that logs in at a portal proves what it must, and is proved what it asks for.
    fn admits(&self, initiator: &str, portal: SocketAddr, proof: &Proof) -> bool {
        let _ = (initiator, portal, proof);
        true
    }

    /// An initiator has made a session with a portal.
    fn logged_in(&self, initiator: &str, portal: SocketAddr) {
        let _ = (initiator, portal);
    }

    /// Such a session has ended.
    fn logged_out(&self, initiator: &str, portal: SocketAddr) {
        let _ = (initiator, portal);
    }
}

/// What an initiator proves by CHAP when it logs in, and what it wants to be proved: users and secrets.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Proof {
    /// Its own.
    pub of_initiator: Option<(String, String)>,
    /// The target's.
    pub of_target: Option<(String, String)>,
}

impl std::fmt::Debug for Proof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Proof").finish_non_exhaustive()
    }
}

/// One iSCSI portal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portal {
    /// Where it listens.
    pub address: SocketAddr,
    /// The target's name (IQN).
    pub target: String,
    /// The target portal group tag.
    pub group: u16,
    /// The array node (controller) it is on.
    pub node: String,
    /// Whether it takes connections.
    pub reachability: Reachability,
}

/// How a portal answers a TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reachability {
    /// It takes connections.
    Up,
    /// It refuses connections at once.
    Refusing,
    /// It does not answer at all.
    BlackHole,
}

/// One logical unit as INQUIRY, READ CAPACITY and the data path show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// INQUIRY vendor, at most 8 characters.
    pub vendor: String,
    /// INQUIRY product, at most 16 characters.
    pub product: String,
    /// INQUIRY revision, at most 4 characters.
    pub revision: String,
    /// Unit serial number (VPD page 0x80).
    pub serial: Vec<u8>,
    /// NAA type 6 identifier (VPD page 0x83), big-endian.
    pub naa: [u8; 16],
    /// Size in bytes.
    pub size: u64,
    /// The file that holds the bytes. Its inode stays the same for the life of the unit; roll back changes it in place.
    pub file: PathBuf,
    /// Whether this path is the optimised one (the portal is on the unit's own node).
    pub optimized: bool,
}
