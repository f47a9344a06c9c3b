//! What an administrator configures of one ONTAP tenant, besides addresses and credentials.

use std::net::IpAddr;

use san_core::{DeleteMode, Network, TransportKind};
use serde::{Deserialize, Serialize};

/// One storage virtual machine and where its volumes go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OntapConfig {
    /// The name of the SVM.
    pub svm: String,
    /// The names of the aggregates that hold its volumes, at least one.
    pub aggregates: Vec<String>,
    /// The protocol its volumes are reached by.
    pub transport: TransportKind,
    /// The addresses of its data interfaces that are used; empty: all.
    #[serde(default)]
    pub portals: Vec<Network>,
    /// What its volumes are like.
    pub volumes: VolumeSettings,
    /// How deleted volumes are to go. Only checked against what the release can; each deletion says it anew.
    pub deletion: DeleteMode,
}

impl OntapConfig {
    /// One aggregate of an SVM, everything else as usual.
    pub fn new(svm: impl Into<String>, aggregate: impl Into<String>, transport: TransportKind) -> Self {
        Self {
            svm: svm.into(),
            aggregates: vec![aggregate.into()],
            transport,
            portals: Vec::new(),
            volumes: VolumeSettings::default(),
            deletion: DeleteMode::Recoverable,
        }
    }

    pub(crate) fn may_use(&self, portal: IpAddr) -> bool {
        self.portals.is_empty() || self.portals.iter().any(|it| it.contains(portal))
    }
}

/// What the FlexVols and LUNs of a tenant are like.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VolumeSettings {
    /// Whether the aggregate keeps their room for them.
    pub provisioning: Provisioning,
    /// Percent of a FlexVol that only its snapshots use, 0 to 90.
    pub snapshot_reserve: u8,
    /// How far a FlexVol may grow by itself, in percent of its size: 100 (not at all) and more.
    pub autosize_limit: u16,
    /// Whether the array deletes snapshots when a FlexVol is nearly full.
    pub autodelete: Autodelete,
    /// The snapshot policy by which the array takes snapshots of its own; `none`: it takes none.
    pub snapshot_policy: String,
    /// The QoS policy, fixed or adaptive; `none`: no policy; `None`: whatever a volume has.
    pub qos_policy: Option<String>,
    /// Which blocks go to the aggregate's cloud tier; `None`: as the array has it.
    pub tiering: Option<Tiering>,
    /// Whether they must be encrypted.
    pub encryption: Encryption,
}

impl Default for VolumeSettings {
    fn default() -> Self {
        Self {
            provisioning: Provisioning::Thin,
            snapshot_reserve: 0,
            autosize_limit: 1000,
            autodelete: Autodelete::Off,
            snapshot_policy: NONE.to_owned(),
            qos_policy: None,
            tiering: None,
            encryption: Encryption::AsOnArray,
        }
    }
}

/// The name of the policy, of either kind, that does nothing.
pub(crate) const NONE: &str = "none";

/// Whether the aggregate keeps room for a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Provisioning {
    /// Room is taken when it is written to.
    Thin,
    /// Room is taken when the volume is made: a full aggregate can never fail a write to a disk without snapshots.
    Thick,
}

/// Whether the array deletes snapshots when a FlexVol is nearly full, other tools' snapshots before ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Autodelete {
    /// It deletes none.
    Off,
    /// The oldest first.
    OldestFirst,
    /// The newest first.
    NewestFirst,
}

/// Which blocks go to the cloud tier of an aggregate that has one (FabricPool).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tiering {
    /// None.
    Off,
    /// Blocks that only snapshots use.
    SnapshotOnly,
    /// All that have not been read for a while.
    Auto,
    /// All.
    All,
}

/// Whether volumes must be encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encryption {
    /// As the aggregate has it.
    AsOnArray,
    /// By the aggregate (NAE), or else each by itself (NVE).
    Required,
}
