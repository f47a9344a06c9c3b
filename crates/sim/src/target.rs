//! What an initiator sees of a simulated array: portals, and behind each of them the logical units of this initiator.

use std::collections::BTreeMap;
use std::fmt::{self, Debug};
use std::net::SocketAddr;
use std::path::PathBuf;

/// The data side of a simulated SCSI array. Management changes (create, map, grow, roll back) show here at once.
pub trait Target: Debug + Send + Sync {
    /// Every iSCSI portal of every target of this array.
    fn portals(&self) -> Vec<Portal>;

    /// The logical units that `initiator` (an IQN) is shown on `portal` at this moment, by LUN number. Empty where the
    /// portal is down, unknown or shows this initiator nothing.
    fn units(&self, initiator: &str, portal: SocketAddr) -> BTreeMap<u16, Unit>;

    /// How an initiator (an IQN) may log in at a portal.
    fn access(&self, initiator: &str, portal: SocketAddr) -> Access {
        let _ = (initiator, portal);
        Access::Open
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

/// A CHAP user and its secret, which nothing prints.
#[derive(Clone, PartialEq, Eq)]
pub struct ChapUser {
    /// The user.
    pub user: String,
    /// The secret.
    pub secret: String,
}

impl fmt::Debug for ChapUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChapUser").field("user", &self.user).finish_non_exhaustive()
    }
}

/// How an initiator may log in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Access {
    /// Without authentication.
    #[default]
    Open,
    /// With CHAP.
    Chap {
        /// What it has to prove.
        initiator: ChapUser,
        /// What is proved to it where it asks for that.
        target: Option<ChapUser>,
    },
    /// Not at all: logins fail with an authorisation failure.
    Refused,
}

/// What an initiator proves by CHAP when it logs in, and what it wants to be proved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proof {
    /// Its own.
    pub of_initiator: Option<ChapUser>,
    /// The target's.
    pub of_target: Option<ChapUser>,
}

/// What becomes of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginOutcome {
    /// It is taken.
    Taken,
    /// The target refuses it.
    RefusedByTarget,
    /// The initiator breaks it off: the target does not prove what it should.
    RefusedByInitiator,
}

impl Access {
    /// What becomes of a login with `proof`. As open-iscsi and the kernel's target were seen to do it: an initiator that asks
    /// for no proof is given none, and one that asks for it takes nothing else, so that a target without CHAP refuses it.
    pub fn outcome(&self, proof: &Proof) -> LoginOutcome {
        match self {
            Self::Refused => LoginOutcome::RefusedByTarget,
            Self::Open if proof.of_target.is_some() => LoginOutcome::RefusedByTarget,
            Self::Chap { initiator, .. } if proof.of_initiator.as_ref() != Some(initiator) => {
                LoginOutcome::RefusedByTarget
            }
            Self::Chap { target, .. } if proof.of_target.is_some() && proof.of_target != *target => {
                LoginOutcome::RefusedByInitiator
            }
            Self::Open | Self::Chap { .. } => LoginOutcome::Taken,
        }
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
