//! The trait [`Array`]: what every array can do. Optional abilities are roles, reached by accessors that return `Option`.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{
    ArrayId, ByteSize, Checkup, Cx, Error, ErrorKind, HostLogins, Identity, Initiator, Lun, Mark, NameRules,
    NodeName, OperationId, Owner, Reader, ReaderSpec, RecoveryQueue, Result, Sessions, SharedAccess,
    SnapshotName, Splits, TargetPort, TransportKind, VolumeName,
};

/// Whether something was made now or was there already. A conflicting request is an error, never `Already`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ensured<T> {
    /// Made by this call.
    Created(T),
    /// It was there as asked for.
    Already(T),
}

impl<T> Ensured<T> {
    /// Whether this call made it.
    pub fn changed(&self) -> bool {
        matches!(self, Self::Created(_))
    }

    /// The thing itself.
    pub fn into_inner(self) -> T {
        match self {
            Self::Created(it) | Self::Already(it) => it,
        }
    }
}

/// Numbers an array imposes. Requests are checked against them before the array is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Sizes are rounded up to a multiple of this.
    pub volume_granule: ByteSize,
    /// Smallest volume.
    pub volume_min: ByteSize,
    /// Largest volume.
    pub volume_max: ByteSize,
    /// Names of volumes.
    pub name: NameRules,
    /// Highest LUN.
    pub lun_max: Lun,
    /// Most snapshots of one volume.
    pub snapshots_max: u32,
}

/// What an array said of itself when it was first asked. Kept on disk so that attached disks can be served while the
/// array's management is down, and compared at its next answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArrayProfile {
    /// The maker, e.g. `NetApp`.
    pub vendor: String,
    /// The kind of system, e.g. `FAS/AFF`.
    pub personality: String,
    /// The release, e.g. `9.16.1`.
    pub version: String,
    /// What makes it this array and this tenant and no other (for ONTAP: cluster and SVM UUID).
    pub serial: String,
    /// A name for people, e.g. `cluster1/svm_pve`.
    pub name: String,
    /// Its limits.
    pub limits: Limits,
}

/// Room for volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Capacity {
    /// All of it.
    pub total: ByteSize,
    /// What is left.
    pub available: ByteSize,
}

/// How a look-up names its volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeKey {
    /// By name; the answer carries the mark.
    Name(VolumeName),
    /// By the array's own key, learned from an earlier answer: one request, the mark is not read again.
    Id(ArrayId),
}

impl fmt::Display for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(it) => it.fmt(f),
            Self::Id(it) => it.fmt(f),
        }
    }
}

/// Which volumes to list: those whose names begin with this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeQuery {
    /// As [`crate::NameCodec::prefix`] makes it.
    pub prefix: String,
}

/// A volume to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSpec {
    /// Its name on the array.
    pub name: VolumeName,
    /// Whose it will be.
    pub owner: Owner,
    /// The operation that makes it.
    pub claim: OperationId,
    /// Its size, a multiple of the granule.
    pub size: ByteSize,
    /// Where volumes are that should not fail or slow down together with it ([`Volume::place`]), once for each of them.
    /// A wish: room counts more.
    #[serde(default)]
    pub apart_from: Vec<String>,
}

impl VolumeSpec {
    /// The mark the create request writes.
    pub fn mark(&self) -> Mark {
        Mark::disk(self.owner.clone(), self.claim)
    }
}

/// A volume to be made of another one's snapshot, sharing its blocks: it takes no time and, at first, no room.
#[derive(Debug, Clone, PartialEq)]
pub struct CloneSpec {
    /// Its name on the array.
    pub name: VolumeName,
    /// What the create request writes: whose it will be and which operation makes it.
    pub mark: Mark,
    /// The volume it is made of.
    pub source: Volume,
    /// Which state of that.
    pub snapshot: SnapshotName,
}

/// What is known of an object's mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Marked {
    /// It carries this mark.
    Ours(Mark),
    /// It carries no mark: foreign, or not yet marked.
    Unmarked,
    /// This look-up did not read it.
    NotRead,
}

/// Whether a volume serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum VolumeState {
    /// It serves.
    Online,
    /// It does not; the array's word for why.
    Offline(String),
}

/// A host object of the array that may see a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappedHost {
    /// The array's key of the host object.
    pub id: ArrayId,
    /// Its name on the array.
    pub name: String,
    /// The number it has there.
    pub lun: Lun,
}

/// A volume as the array shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// The array's unchangeable key.
    pub id: ArrayId,
    /// Its name on the array.
    pub name: VolumeName,
    /// Whose it is.
    pub mark: Marked,
    /// What devices of it report. `None`: half-made, there is nothing to map yet.
    pub identity: Option<Identity>,
    /// Its size.
    pub size: ByteSize,
    /// What it occupies, where the answer carried it.
    pub used: Option<ByteSize>,
    /// When it was made, in seconds since 1970, where the answer carried it.
    pub created: Option<i64>,
    /// Whether it serves.
    pub state: VolumeState,
    /// Who may see it, where the answer carried it (single look-ups always do).
    pub mapped: Option<Vec<MappedHost>>,
    /// Who reads snapshots of it, where the answer carried it (single look-ups always do, with their mappings; lists
    /// without).
    pub readers: Option<Vec<Reader>>,
    /// The array's word for the part of it that holds the volume (for ONTAP: the aggregate), where the answer carried it.
    pub place: Option<String>,
}

impl Volume {
    /// What devices of it report.
    ///
    /// # Errors
    /// `Conflict` while it is half-made.
    pub fn identity(&self) -> Result<&Identity> {
        self.identity.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Conflict, "the volume is half-made: its creation was interrupted")
                .on(&self.name)
                .with_remedy("delete it, or wait until the node that was creating it has finished")
        })
    }

    /// Who reads snapshots of it.
    ///
    /// # Errors
    /// `Internal` where the answer it came with did not say so.
    pub fn readers(&self) -> Result<&[Reader]> {
        self.readers.as_deref().ok_or_else(|| {
            Error::new(ErrorKind::Internal, "the array was not asked for its readers").on(&self.name)
        })
    }
}

/// How a volume is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeleteMode {
    /// Into the array's recovery queue, where it has one.
    Recoverable,
    /// At once and for good.
    Immediate,
}

/// One snapshot of one volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The name the person gave it.
    pub name: SnapshotName,
    /// The array's key.
    pub id: ArrayId,
    /// When it was taken, in seconds since 1970, where the array says so.
    pub created: Option<i64>,
    /// The operation that took it, where its note says so.
    pub claim: Option<OperationId>,
}

/// Volumes to be snapshotted together under one name.
#[derive(Debug, Clone)]
pub struct SnapshotSet {
    /// The volumes.
    pub volumes: Vec<Volume>,
    /// The name.
    pub name: SnapshotName,
}

/// This node as the array is to know it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostSpec {
    /// The realm, so that equally named nodes of two clusters never share a host object.
    pub realm: String,
    /// The node.
    pub node: NodeName,
    /// The names it goes by on the fabric.
    pub initiators: Vec<Initiator>,
}

/// This node's host object on the array.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HostAccess {
    /// The array's key.
    pub id: ArrayId,
    /// Its name on the array.
    pub name: String,
}

/// A host object as the array has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownHost {
    /// Which.
    pub access: HostAccess,
    /// The names by which the array knows the node.
    pub initiators: Vec<Initiator>,
}

/// Which LUN a mapping may get: the first of these that the array has free.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LunChoice(pub Vec<Lun>);

/// A volume's permission for one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// Whose.
    pub host: HostAccess,
    /// The number the host sees.
    pub lun: Lun,
    /// The ports behind which it sees it.
    pub ports: Vec<TargetPort>,
}

/// Whether a volume is mapped per node or for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Visibility {
    /// Mapped at attach, unmapped at detach.
    #[default]
    PerNode,
    /// Mapped at create, unmapped only by delete: every node can attach it without asking the array.
    Shared,
}

/// A storage array (one tenant of it). All calls may run concurrently. Every verb is repeatable: what is already so is
/// not an error, what contradicts is one.
#[async_trait]
pub trait Array: fmt::Debug + Send + Sync {
    /// What it said of itself.
    fn profile(&self) -> &ArrayProfile;

    /// What maps a volume once for all nodes, where the array can.
    fn shared_access(&self) -> Option<&dyn SharedAccess> {
        None
    }

    /// Who may log in, where the array checks that.
    fn host_logins(&self) -> Option<&dyn HostLogins> {
        None
    }

    /// Comparing volumes with the settings they are to have, where the array has such settings.
    fn policies(&self) -> Option<&dyn Policies> {
        None
    }

    /// Room for volumes.
    async fn capacity(&self, cx: &Cx) -> Result<Capacity>;

    /// All volumes that match: complete, or an error. Half-made ones are listed too.
    async fn volumes(&self, cx: &Cx, of: &VolumeQuery) -> Result<Vec<Volume>>;

    /// One volume with its mappings. `None` only when it is proved absent.
    async fn volume(&self, cx: &Cx, key: &VolumeKey) -> Result<Option<Volume>>;

    /// Makes a volume, marked by the create request itself. `Already` only where the mark holds our claim.
    ///
    /// # Errors
    /// `AlreadyExists` where the name is taken by anything else, `OutOfSpace`, `LimitReached`.
    async fn ensure_volume(&self, cx: &Cx, spec: &VolumeSpec) -> Result<Ensured<Volume>>;

    /// Makes a volume out of a snapshot of another one, as large as that and marked by the request that makes it; nobody sees
    /// it yet. `Already` only where the mark holds our claim. The snapshot stays busy as long as the clone hangs on it.
    ///
    /// # Errors
    /// `AlreadyExists` where the name is taken by anything else, `NotFound` where there is no such snapshot, `OutOfSpace`,
    /// `LimitReached`.
    async fn ensure_clone(&self, cx: &Cx, spec: &CloneSpec) -> Result<Ensured<Volume>>;

    /// Gives a volume another name and another mark, both at once. Its key, identity, mappings and snapshots stay.
    ///
    /// # Errors
    /// `AlreadyExists` where the name is taken by anything else.
    async fn rename(&self, cx: &Cx, volume: &Volume, name: &VolumeName, mark: &Mark) -> Result<()>;

    /// Removes a volume and its snapshots; whether this call did it. The caller has checked the mark.
    ///
    /// # Errors
    /// `InUse` while it, or a reader of it, is mapped to anybody or clones hang on it, `Busy` where that passes by itself: of
    /// the clones only some are left that were deleted and can be recovered for a while.
    async fn ensure_no_volume(&self, cx: &Cx, volume: &Volume, mode: DeleteMode) -> Result<bool>;

    /// Grows a volume to `size`; returns the size it has now. Equal is success; smaller is `InvalidInput`.
    async fn resize(&self, cx: &Cx, volume: &Volume, size: ByteSize) -> Result<ByteSize>;

    /// Snapshots all volumes of the set at one instant, or refuses before anything is done.
    ///
    /// # Errors
    /// `AlreadyExists` where one has a snapshot of that name that this operation did not make.
    async fn snapshot(&self, cx: &Cx, set: &SnapshotSet) -> Result<Vec<Snapshot>>;

    /// The snapshots of a volume that carry our naming, oldest first: complete, or an error.
    async fn snapshots(&self, cx: &Cx, volume: &Volume) -> Result<Vec<Snapshot>>;

    /// Removes a snapshot; whether this call did it.
    ///
    /// # Errors
    /// `Busy` while a clone or the array itself depends on it.
    async fn ensure_no_snapshot(&self, cx: &Cx, volume: &Volume, name: &SnapshotName) -> Result<bool>;

    /// Puts the bytes and the size of a snapshot back into the volume. Its identity and every snapshot, newer ones too,
    /// stay.
    ///
    /// # Errors
    /// `InUse` while it is mapped to anybody, `NotFound` where there is no such snapshot.
    async fn rollback(&self, cx: &Cx, volume: &Volume, name: &SnapshotName) -> Result<()>;

    /// Makes the state of a snapshot readable as a volume of its own, which lies in `volume` and goes with it; nobody sees it
    /// yet. `Already` only where the same operation made it: what an earlier one left under the name may hold an older
    /// snapshot that was called alike. The snapshot is not kept busy, and what is read stays where the snapshot is removed or
    /// the volume is rolled back.
    ///
    /// # Errors
    /// `AlreadyExists` where another operation made one, `NotFound` where there is no such snapshot, `OutOfSpace`,
    /// `LimitReached`.
    async fn ensure_reader(&self, cx: &Cx, volume: &Volume, of: &ReaderSpec) -> Result<Ensured<Volume>>;

    /// Removes a reader; whether this call did it. Never anything that is no reader.
    ///
    /// # Errors
    /// `InUse` while it is mapped to anybody.
    async fn ensure_no_reader(&self, cx: &Cx, reader: &ArrayId) -> Result<bool>;

    /// Makes sure that this node has its host object with exactly these initiators.
    ///
    /// # Errors
    /// `Conflict` naming the foreign host object that already holds one of the initiators.
    async fn ensure_host(&self, cx: &Cx, spec: &HostSpec) -> Result<Ensured<HostAccess>>;

    /// The host object of a node, whatever initiators it has. `None` only when it is proved absent.
    ///
    /// # Errors
    /// `Conflict` where an object of that name was not made for that node.
    async fn host(&self, cx: &Cx, realm: &str, node: &NodeName) -> Result<Option<KnownHost>>;

    /// Removes a host object; whether this call did it.
    ///
    /// # Errors
    /// `InUse` while anything is mapped to it.
    async fn ensure_no_host(&self, cx: &Cx, host: &ArrayId) -> Result<bool>;

    /// Makes the volume visible to the host under one of `choice`. `Already` keeps the number it has.
    ///
    /// # Errors
    /// `LimitReached` where every number of `choice` is taken.
    async fn ensure_mapped(
        &self,
        cx: &Cx,
        volume: &Volume,
        host: &HostAccess,
        choice: &LunChoice,
    ) -> Result<Ensured<Mapping>>;

    /// Takes the volume away from the host; whether this call did it.
    async fn ensure_unmapped(&self, cx: &Cx, volume: &ArrayId, host: &ArrayId) -> Result<bool>;

    /// The host's mapping of the volume with the ports that really serve it now, or `None` where there is none.
    async fn mapping(&self, cx: &Cx, volume: &Volume, host: &HostAccess) -> Result<Option<Mapping>>;

    /// The ports of this tenant that serve `kind`.
    async fn target_ports(&self, cx: &Cx, kind: TransportKind) -> Result<Vec<TargetPort>>;

    /// What looks for settings that are known to cause trouble.
    fn checkup(&self) -> Option<&dyn Checkup> {
        None
    }

    /// What keeps deleted volumes for a while.
    fn recovery_queue(&self) -> Option<&dyn RecoveryQueue> {
        None
    }

    /// What tells who is logged in.
    fn sessions(&self) -> Option<&dyn Sessions> {
        None
    }

    /// What makes clones independent of what they were cloned from.
    fn splits(&self) -> Option<&dyn Splits> {
        None
    }
}

/// A setting of a volume that is not as configured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deviation {
    /// The word for it in configurations, e.g. `snapshot-reserve`.
    pub setting: String,
    /// The array's own word for it.
    pub field: String,
    /// What it is.
    pub is: String,
    /// What it is to be.
    pub wanted: String,
}

/// Settings of volumes that were configured after the volumes had been made. The caller has checked whose they are.
#[async_trait]
pub trait Policies: fmt::Debug + Send + Sync {
    /// What of a volume is not as configured. Changes nothing.
    async fn review(&self, cx: &Cx, volume: &Volume) -> Result<Vec<Deviation>>;

    /// Sets it as configured; returns what differed before. Repeatable.
    ///
    /// # Errors
    /// `OutOfSpace` where the array has no room for what is to be kept for it.
    async fn apply(&self, cx: &Cx, volume: &Volume) -> Result<Vec<Deviation>>;
}
