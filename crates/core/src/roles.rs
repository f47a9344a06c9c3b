//! Roles: what only some arrays can do. Each is reached by an accessor of [`crate::Array`], so that its absence is visible.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Cx, Ensured, HostAccess, HostSpec, Initiator, Owner, Result, Volume, VolumeName, VolumeQuery};

/// Whether a volume shares blocks with what it was cloned from, and so holds that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lineage {
    /// It hangs on nothing.
    Independent,
    /// It hangs on the volume it was cloned from.
    Clone,
    /// It does, and is being made independent; so much of it is, in percent, where the array says so.
    Splitting(Option<u8>),
}

/// Makes clones independent of what they were cloned from. The array works on it by itself, for as long as it takes; the clone
/// may be used meanwhile.
#[async_trait]
pub trait Splits: fmt::Debug + Send + Sync {
    /// How it is now.
    async fn lineage(&self, cx: &Cx, volume: &Volume) -> Result<Lineage>;

    /// Makes sure that a clone is being made independent, or is so already. Repeatable.
    ///
    /// # Errors
    /// `Conflict` naming the snapshots of the clone that the array would delete, `OutOfSpace`.
    async fn ensure_splitting(&self, cx: &Cx, volume: &Volume) -> Result<Lineage>;
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know.
    Notice,
    /// It works, until something else goes wrong.
    Warning,
    /// It does not work, or a guest's disk is in danger.
    Failure,
}

/// Something that is not as it should be, in words for the person who mends it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Which check found it: a name that stays.
    pub check: String,
    /// How much it matters.
    pub severity: Severity,
    /// On what.
    pub subject: String,
    /// What is so.
    pub what: String,
    /// What comes of it.
    pub why: String,
    /// What mends it.
    pub fix: String,
    /// What takes that back.
    pub undo: Option<String>,
}

/// Looks for settings of the array that are known to cause trouble. Changes nothing.
#[async_trait]
pub trait Checkup: fmt::Debug + Send + Sync {
    /// What is not as it should be for `host` and for the volumes whose names match `of`.
    async fn findings(&self, cx: &Cx, host: &HostSpec, of: &VolumeQuery) -> Result<Vec<Finding>>;
}

/// An initiator that is logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSession {
    /// Which.
    pub initiator: Initiator,
    /// From where, as far as the array tells.
    pub from: Vec<String>,
}

/// Tells who is logged in to it at this moment.
#[async_trait]
pub trait Sessions: fmt::Debug + Send + Sync {
    /// The sessions of `initiators`: none proves that they have none.
    async fn sessions_of(&self, cx: &Cx, initiators: &[Initiator]) -> Result<Vec<HostSession>>;
}

/// A volume that was deleted and can be brought back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deleted {
    /// Its name before.
    pub name: VolumeName,
    /// What the array calls it now.
    pub queued: String,
}

/// Keeps deleted volumes for a while.
#[async_trait]
pub trait RecoveryQueue: fmt::Debug + Send + Sync {
    /// The deleted volumes whose former names match.
    async fn deleted(&self, cx: &Cx, of: &VolumeQuery) -> Result<Vec<Deleted>>;

    /// Makes sure that a deleted volume has its former name again and serves. Repeatable. Nobody sees it yet.
    ///
    /// # Errors
    /// `AlreadyExists` where the name is taken, `NotFound` where it is kept no longer, `Conflict` where it turns out to be
    /// marked as another's; then it is left alone, offline.
    async fn ensure_recovered(&self, cx: &Cx, deleted: &Deleted, owner: &Owner) -> Result<()>;
}

/// Maps a volume once for all nodes of a realm, through one host object that holds the initiators of all of them. It stands
/// beside the host objects of the nodes: what one node alone may see is still mapped to its own.
#[async_trait]
pub trait SharedAccess: fmt::Debug + Send + Sync {
    /// Makes sure that the realm has its host object and that it holds this node's initiators; those of others stay.
    ///
    /// # Errors
    /// `Conflict` where an object of that name was not made for this, where a foreign host object holds one of the initiators,
    /// or where the node sees, through its own host object, a volume or a number that it would see twice then.
    async fn ensure_member(&self, cx: &Cx, spec: &HostSpec) -> Result<Ensured<HostAccess>>;

    /// Takes initiators of a node that is gone for ever out of the realm's host object; whether any was in it. Whoever still
    /// goes by them sees nothing through it any more.
    async fn ensure_no_member(&self, cx: &Cx, realm: &str, initiators: &[Initiator]) -> Result<bool>;
}
