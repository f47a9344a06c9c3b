//! What a simulated array looks like: release, nodes, SVMs, space, limits, and every fact the vendor leaves open.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::role::Role;
use super::version::{Personality, Version};

/// KiB, MiB and TiB in bytes.
pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const TIB: u64 = 1 << 40;

/// Everything that makes one simulated array. Start from [`OntapConfig::new`] and change what a test is about.
#[derive(Debug, Clone)]
pub struct OntapConfig {
    /// The release; fields, paths and parameters newer than it are refused.
    pub version: Version,
    /// The kind of system.
    pub personality: Personality,
    /// Identifiers and serial numbers are drawn from it. Give every array of a test its own.
    pub seed: u64,
    /// The cluster's name.
    pub cluster: String,
    /// Node names; each consecutive pair is an HA pair.
    pub nodes: Vec<String>,
    /// Aggregates.
    pub aggregates: Vec<AggregateConfig>,
    /// Storage virtual machines.
    pub svms: Vec<SvmConfig>,
    /// Snapshot policies of the cluster.
    pub snapshot_policies: Vec<String>,
    /// QoS policies that every SVM has, fixed or adaptive.
    pub qos_policies: Vec<String>,
    /// The one account.
    pub user: String,
    /// Its password.
    pub password: SecretString,
    /// Whose account it is.
    pub scope: Scope,
    /// What it may do; `None`: everything its scope lets it.
    pub role: Option<Role>,
    /// Folder for the LUNs' bytes. Created when missing; never shared by two arrays.
    pub data_dir: PathBuf,
    /// Limits an admin can meet.
    pub limits: Limits,
    /// How long things take.
    pub pace: Pace,
    /// Behaviour that no published document settles.
    pub unverified: Unverified,
    /// Unix time (seconds) of the start of the simulation; `create_time` and the like count from here.
    pub epoch: i64,
}

impl OntapConfig {
    /// Two nodes in an HA pair, one aggregate of 10 TiB on each, one SVM `svm1` with four iSCSI portals
    /// (10.0.0.1 to 10.0.0.4, two per node), account `admin` with password `netapp1!`.
    pub fn new(version: Version, data_dir: impl Into<PathBuf>) -> Self {
        Self {
            version,
            personality: Personality::Unified,
            seed: 1,
            cluster: "cluster1".to_owned(),
            nodes: vec!["cluster1-01".to_owned(), "cluster1-02".to_owned()],
            aggregates: vec![
                AggregateConfig::new("aggr1", 0, 10 * TIB),
                AggregateConfig::new("aggr2", 1, 10 * TIB),
            ],
            svms: vec![SvmConfig::new("svm1", [10, 0, 0])],
            snapshot_policies: ["none", "default", "default-1weekly"].map(str::to_owned).into(),
            qos_policies: ["gold", "silver"].map(str::to_owned).into(),
            user: "admin".to_owned(),
            password: SecretString::from("netapp1!"),
            scope: Scope::Cluster,
            role: None,
            data_dir: data_dir.into(),
            limits: Limits::default(),
            pace: Pace::default(),
            unverified: Unverified::default(),
            epoch: 1_767_225_600,
        }
    }
}

/// Whose the account is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// The cluster's.
    Cluster,
    /// That of the SVM of this name: it sees nothing else.
    Svm(String),
}

/// One aggregate.
#[derive(Debug, Clone)]
pub struct AggregateConfig {
    /// Its name.
    pub name: String,
    /// Index of the node that owns it.
    pub node: usize,
    /// Usable bytes.
    pub size: u64,
    /// Whether all that is in it is encrypted (NAE).
    pub encryption: AggregateEncryption,
    /// Object stores attached to it (FabricPool).
    pub object_stores: Vec<String>,
}

impl AggregateConfig {
    /// A plain one.
    pub fn new(name: impl Into<String>, node: usize, size: u64) -> Self {
        let encryption = AggregateEncryption::Off;
        Self { name: name.into(), node, size, encryption, object_stores: Vec::new() }
    }
}

/// Encryption of a whole aggregate (NAE).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AggregateEncryption {
    /// Off.
    Off,
    /// On.
    On,
}

/// One storage virtual machine.
#[derive(Debug, Clone)]
pub struct SvmConfig {
    /// Its name.
    pub name: String,
    /// Whether it has an iSCSI service, and in which state.
    pub iscsi: IscsiConfig,
    /// Its iSCSI interfaces.
    pub portals: Vec<PortalConfig>,
    /// The aggregates that are assigned to it: all that an account of the SVM can use. One of the cluster uses any.
    pub assigned: Assigned,
}

/// Aggregates that are assigned to an SVM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Assigned {
    /// All.
    All,
    /// Those of these names.
    These(Vec<String>),
}

impl Assigned {
    pub(crate) fn holds(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(names) => names.iter().any(|it| it == name),
        }
    }
}

impl SvmConfig {
    /// An SVM with iSCSI on and four portals `<network>.1` to `<network>.4`, two on each of the first two nodes.
    pub fn new(name: impl Into<String>, network: [u8; 3]) -> Self {
        let portal = |last: u8, node| PortalConfig {
            address: SocketAddr::from(([network[0], network[1], network[2], last], 3260)),
            node,
        };
        Self {
            name: name.into(),
            iscsi: IscsiConfig::Enabled,
            portals: vec![portal(1, 0), portal(2, 0), portal(3, 1), portal(4, 1)],
            assigned: Assigned::All,
        }
    }
}

/// The iSCSI service of an SVM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IscsiConfig {
    /// No service was ever created.
    Absent,
    /// A service exists but is switched off.
    Disabled,
    /// A service exists and runs.
    Enabled,
}

/// One iSCSI interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortalConfig {
    /// Address and port as hosts reach it. The REST API shows only the address.
    pub address: SocketAddr,
    /// Index of its node.
    pub node: usize,
}

/// Limits of the array. The lengths are the vendor's; the counts are configurable because they differ by model.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Volumes per SVM.
    pub volumes_per_svm: usize,
    /// LUNs per volume.
    pub luns_per_volume: usize,
    /// Snapshots per volume.
    pub snapshots_per_volume: usize,
    /// Highest LUN number.
    pub lun_number_max: u16,
    /// Mappings per igroup.
    pub maps_per_igroup: usize,
    /// Smallest volume in bytes.
    pub volume_min: u64,
    /// Largest volume in bytes; `None` follows release and personality (100 TiB; on FAS and AFF 300 TiB from 9.12.1).
    pub volume_max: Option<u64>,
    /// Largest LUN in bytes; `None` follows the release (16 TiB, 128 TiB from 9.12.1).
    pub lun_max: Option<u64>,
    /// LUN sizes are rounded up to a multiple of this.
    pub lun_granule: u64,
    /// What an empty volume uses for itself, in bytes.
    pub volume_metadata: u64,
    /// How long a deleted volume stays in the recovery queue.
    pub recovery_queue: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            volumes_per_svm: 12_000,
            luns_per_volume: 512,
            snapshots_per_volume: 1023,
            lun_number_max: 4095,
            maps_per_igroup: 4096,
            volume_min: 20 * MIB,
            volume_max: None,
            lun_max: None,
            lun_granule: 512,
            volume_metadata: 320 * KIB,
            recovery_queue: Duration::from_secs(12 * 3600),
        }
    }
}

/// How long things take, on tokio's clock: a paused clock makes them free.
#[derive(Debug, Clone, Default)]
pub struct Pace {
    /// Round trip of every request; half passes before the work, half after it.
    pub latency: Duration,
    /// From acceptance of an asynchronous request to its end. Zero: done when first looked at.
    pub job: Duration,
    /// How long splitting a FlexClone from its parent takes.
    pub split: Duration,
    /// Cost of each record of a collection GET; pages end early when `return_timeout` is used up by it.
    pub record: Duration,
}

/// Behaviour that is plausible but not settled by any published document. The defaults are our best guess; a client
/// must work with either value.
#[derive(Debug, Clone)]
pub struct Unverified {
    /// Error code of a request without valid credentials.
    pub unauthorized_code: u64,
    /// Error code of a mapping whose LUN number is taken.
    pub lun_number_in_use_code: u64,
    /// Error code when an aggregate has no room.
    pub no_space_code: u64,
    /// Error code when an SVM may not have more volumes.
    pub volume_limit_code: u64,
    /// Error code of a change inside an SVM that is stopped.
    pub svm_stopped_code: u64,
    /// Error code of deleting a volume that is the source of a SnapMirror relation.
    pub replicated_code: u64,
    /// Snapshot reserve in percent when the request does not say.
    pub snapshot_reserve: u8,
    /// Longest snapshot name.
    pub snapshot_name_max: usize,
    /// What a PATCH or DELETE by query answers when nothing matches.
    pub empty_query: EmptyQuery,
    /// What deleting a volume with mapped LUNs does.
    pub delete_volume_with_maps: MappedDelete,
    /// How long a LUN clone keeps its source snapshot busy.
    pub lun_clone_pins_snapshot: Duration,
    /// The comment of a FlexClone, or of a LUN clone, whose creation says one.
    pub clone_comment: CloneComment,
    /// Reserve, autosize, autodelete, tiering and snapshot policy of a FlexClone.
    pub clone_settings: CloneSettings,
    /// Whether a FlexClone has the QoS policy of its parent.
    pub clone_qos: CloneSettings,
    /// Whether encryption of a single volume (NVE) works: it needs a key manager.
    pub volume_encryption: VolumeEncryption,
    /// Whether the copy that serves during a MetroCluster switchover has the SVM's UUID.
    pub switched_svm_uuid: SwitchedUuid,
    /// What an SVM's account is told of nodes and aggregates.
    pub svm_account_hidden: Hidden,
    /// Whether an SVM's account is told which node a LUN or an interface is on.
    pub svm_account_nodes: NodeView,
    /// What an SVM's account is told of the cluster.
    pub svm_account_cluster: ClusterView,
}

impl Default for Unverified {
    fn default() -> Self {
        Self {
            unauthorized_code: 6,
            lun_number_in_use_code: 1_254_206,
            no_space_code: 917_505,
            volume_limit_code: 917_513,
            svm_stopped_code: 2_621_716,
            replicated_code: 917_736,
            snapshot_reserve: 5,
            snapshot_name_max: 255,
            empty_query: EmptyQuery::Success,
            delete_volume_with_maps: MappedDelete::Allowed,
            lun_clone_pins_snapshot: Duration::ZERO,
            clone_comment: CloneComment::AsSent,
            clone_settings: CloneSettings::OfParent,
            clone_qos: CloneSettings::OfNewVolume,
            volume_encryption: VolumeEncryption::Works,
            switched_svm_uuid: SwitchedUuid::Same,
            svm_account_hidden: Hidden::Forbidden,
            svm_account_nodes: NodeView::Shown,
            svm_account_cluster: ClusterView::Whole,
        }
    }
}

/// The UUID of an SVM at the other site of a MetroCluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SwitchedUuid {
    /// That of the SVM.
    Same,
    /// One of its own.
    Own,
}

/// Answer of a change by query that matches nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EmptyQuery {
    /// 200 with `num_records` 0.
    Success,
    /// 404 "entry doesn't exist".
    NotFound,
}

/// What an SVM's account is told of objects of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hidden {
    /// 403.
    Forbidden,
    /// That there are none.
    Absent,
}

/// Whether an SVM's account is told on which node something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeView {
    /// It is.
    Shown,
    /// It is not.
    Hidden,
}

/// What an SVM's account is told of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterView {
    /// Name and uuid too.
    Whole,
    /// Release and kind of system only.
    VersionOnly,
}

/// The comment of a FlexClone, or of a LUN clone, whose creation says one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloneComment {
    /// The one it was sent.
    AsSent,
    /// Its parent's, whatever was sent.
    OfParent,
    /// None.
    Empty,
}

/// The settings of a FlexClone that its creation does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloneSettings {
    /// Its parent's.
    OfParent,
    /// Those of any new volume.
    OfNewVolume,
}

/// What asking for an encrypted volume comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumeEncryption {
    /// It is encrypted.
    Works,
    /// It is made, and is not encrypted.
    Ignored,
    /// It is refused: there is no key manager.
    Refused,
}

/// Deleting a volume that holds mapped LUNs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MappedDelete {
    /// LUNs and maps vanish with the volume.
    Allowed,
    /// The request is refused while a LUN is mapped.
    Refused,
}
