//! The parts of ONTAP's answers that are read, spelled exactly as sent. Fields may be missing: ONTAP leaves out what is
//! not set, and what a release does not know.

use serde::Deserialize;

use crate::release::Release;

/// A reference to an object by name and UUID.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Reference {
    pub(crate) name: Option<String>,
    pub(crate) uuid: Option<String>,
}

/// `/cluster`.
#[derive(Debug, Deserialize)]
pub(crate) struct Cluster {
    // An SVM's account may not be told.
    pub(crate) name: Option<String>,
    pub(crate) uuid: Option<String>,
    pub(crate) version: Release,
    #[serde(default)]
    pub(crate) san_optimized: bool,
    #[serde(default)]
    pub(crate) disaggregated: bool,
}

/// `/cluster` with `fields=uuid,version`.
#[derive(Debug, Deserialize)]
pub(crate) struct ClusterId {
    pub(crate) uuid: Option<String>,
    pub(crate) version: Release,
}

/// `/cluster/nodes`.
#[derive(Debug, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) ha: Ha,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Ha {
    pub(crate) partners: Vec<Reference>,
}

/// `/svm/svms`.
#[derive(Debug, Deserialize)]
pub(crate) struct Svm {
    pub(crate) uuid: String,
    pub(crate) name: String,
    pub(crate) state: Option<String>,
    pub(crate) subtype: Option<String>,
    /// Those that are assigned to it.
    #[serde(default)]
    pub(crate) aggregates: Vec<Assigned>,
}

/// An aggregate as an SVM shows it.
#[derive(Debug, Deserialize)]
pub(crate) struct Assigned {
    pub(crate) name: String,
    pub(crate) available_size: Option<u64>,
}

/// `/storage/aggregates`.
#[derive(Debug, Deserialize)]
pub(crate) struct Aggregate {
    pub(crate) name: String,
    pub(crate) state: Option<String>,
    pub(crate) space: Option<AggregateSpace>,
    #[serde(default)]
    pub(crate) node: Reference,
    #[serde(default)]
    pub(crate) data_encryption: DataEncryption,
    #[serde(default)]
    pub(crate) cloud_storage: CloudStorage,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DataEncryption {
    pub(crate) software_encryption_enabled: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct CloudStorage {
    pub(crate) stores: Vec<serde_json::Value>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct AggregateSpace {
    pub(crate) block_storage: BlockStorage,
}

#[derive(Debug, Deserialize)]
pub(crate) struct BlockStorage {
    pub(crate) size: u64,
    pub(crate) available: u64,
}

/// `/storage/snapshot-policies` and `/storage/qos/policies`.
#[derive(Debug, Deserialize)]
pub(crate) struct Policy {
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) svm: Reference,
}

/// `/storage/volumes`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Volume {
    pub(crate) uuid: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) svm: Reference,
    pub(crate) comment: Option<String>,
    pub(crate) state: Option<String>,
    pub(crate) create_time: Option<String>,
    #[serde(default)]
    pub(crate) aggregates: Vec<Reference>,
    /// Whatever else it was asked for: its settings.
    #[serde(flatten)]
    pub(crate) fields: serde_json::Map<String, serde_json::Value>,
}

/// `/storage/volumes` with `fields=uuid,size`.
#[derive(Debug, Deserialize)]
pub(crate) struct SizeOf {
    pub(crate) size: u64,
}

/// The room of one of `/storage/volumes`.
#[derive(Debug, Deserialize)]
pub(crate) struct VolumeRoom {
    #[serde(default)]
    pub(crate) aggregates: Vec<Reference>,
    pub(crate) space: Option<VolumeSpace>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct VolumeSpace {
    pub(crate) size: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
}

/// `/storage/luns`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Lun {
    pub(crate) uuid: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) svm: Reference,
    pub(crate) serial_number: Option<String>,
    pub(crate) comment: Option<String>,
    pub(crate) space: Option<LunSpace>,
    #[serde(default)]
    pub(crate) status: LunStatus,
    #[serde(default)]
    pub(crate) location: Location,
    pub(crate) create_time: Option<String>,
    #[serde(rename = "lun_maps")]
    pub(crate) maps: Option<Vec<MapOfLun>>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct LunSpace {
    pub(crate) size: Option<u64>,
    pub(crate) used: Option<u64>,
    pub(crate) guarantee: Option<LunGuarantee>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct LunGuarantee {
    pub(crate) requested: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct LunStatus {
    pub(crate) state: Option<String>,
    pub(crate) mapped: Option<bool>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Location {
    pub(crate) volume: Reference,
    pub(crate) node: Reference,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct MapOfLun {
    pub(crate) logical_unit_number: u16,
    pub(crate) igroup: Reference,
}

/// `/storage/volumes/{uuid}/snapshots`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) uuid: String,
    pub(crate) name: String,
    pub(crate) comment: Option<String>,
    pub(crate) create_time: Option<String>,
    #[serde(default)]
    pub(crate) owners: Vec<String>,
}

/// `/protocols/san/igroups`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Igroup {
    pub(crate) uuid: String,
    pub(crate) name: String,
    #[serde(default)]
    pub(crate) svm: Reference,
    pub(crate) os_type: Option<String>,
    pub(crate) protocol: Option<String>,
    pub(crate) comment: Option<String>,
    #[serde(default)]
    pub(crate) initiators: Vec<Initiator>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Initiator {
    pub(crate) name: String,
}

/// `/protocols/san/lun-maps`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct LunMap {
    #[serde(default)]
    pub(crate) lun: MappedLun,
    #[serde(default)]
    pub(crate) igroup: Reference,
    pub(crate) logical_unit_number: u16,
    #[serde(default)]
    pub(crate) reporting_nodes: Vec<Reference>,
}

/// The LUN of a mapping.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct MappedLun {
    pub(crate) uuid: Option<String>,
    pub(crate) node: Reference,
}

/// `/protocols/san/iscsi/services`.
#[derive(Debug, Deserialize)]
pub(crate) struct IscsiService {
    #[serde(default)]
    pub(crate) enabled: bool,
    #[serde(default)]
    pub(crate) target: Reference,
}

/// `/network/ip/interfaces`.
#[derive(Debug, Deserialize)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) state: Option<String>,
    #[serde(default)]
    pub(crate) enabled: Option<bool>,
    pub(crate) ip: Option<Ip>,
    #[serde(default)]
    pub(crate) location: Location,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Ip {
    pub(crate) address: String,
}

/// `/cluster/jobs/{uuid}`.
#[derive(Debug, Deserialize)]
pub(crate) struct Job {
    pub(crate) state: String,
    pub(crate) message: Option<String>,
    pub(crate) code: Option<u64>,
    pub(crate) error: Option<Failure>,
}

/// One page of a collection.
#[derive(Debug, Deserialize)]
pub(crate) struct Page<T> {
    #[serde(default = "Vec::new")]
    pub(crate) records: Vec<T>,
    pub(crate) num_records: u64,
    #[serde(default, rename = "_links")]
    pub(crate) links: Links,
    pub(crate) error: Option<Failure>,
}

/// The answer to a change.
#[derive(Debug, Deserialize)]
pub(crate) struct Changed<T> {
    #[serde(default = "Vec::new")]
    pub(crate) records: Vec<T>,
    pub(crate) num_records: Option<u64>,
    pub(crate) job: Option<JobReference>,
    #[serde(default)]
    pub(crate) jobs: Vec<JobReference>,
    #[serde(default, rename = "_links")]
    pub(crate) links: Links,
    pub(crate) error: Option<Failure>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Links {
    pub(crate) next: Option<Link>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Link {
    pub(crate) href: String,
}

#[derive(Debug, Deserialize)]
pub(crate) struct JobReference {
    pub(crate) uuid: String,
}

/// The body of an error answer.
#[derive(Debug, Deserialize)]
pub(crate) struct ErrorBody {
    pub(crate) error: Failure,
}

/// An error object. The code is a string of digits.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Failure {
    #[serde(default)]
    pub(crate) message: String,
    pub(crate) code: Option<String>,
    pub(crate) target: Option<String>,
}

/// What an initiator has to prove, and what is proved to it; secrets are never shown.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Credential {
    pub(crate) svm: Reference,
    pub(crate) initiator: String,
    #[serde(default)]
    chap: ChapUsers,
}

#[derive(Debug, Clone, Default, Deserialize)]
struct ChapUsers {
    outbound: Option<ChapUser>,
}

#[derive(Debug, Clone, Deserialize)]
struct ChapUser {
    user: Option<String>,
}

impl Credential {
    /// Whether the array proves itself too.
    pub(crate) fn proves_itself(&self) -> bool {
        self.chap.outbound.as_ref().and_then(|it| it.user.as_deref()).is_some_and(|it| !it.is_empty())
    }
}
