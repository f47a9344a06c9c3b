//! A simulated NetApp ONTAP array: the REST API with its quirks, and the bytes behind it.

mod account;
mod admin;
mod answer;
mod approval;
mod auth;
mod body;
mod build;
mod call;
mod cluster;
mod config;
mod control;
mod credentials;
mod disk;
mod dispatch;
mod draft;
mod error;
mod faults;
mod fields;
mod filter;
mod ids;
mod igroups;
mod initiators;
mod jobs;
mod log;
mod lun_create;
mod luns;
mod maps;
mod model;
mod network;
mod overrides;
mod recovery_queue;
mod relations;
mod restore;
mod role;
mod route;
mod schema;
mod select;
mod sessions;
mod sim;
mod size;
mod snapshots;
mod space;
mod target;
mod version;
mod volume_create;
mod volumes;
mod wire;

pub use admin::{IgroupInfo, LunInfo, MapInfo, Online, Running, SnapshotInfo, VolumeInfo, VolumeSettings};
pub use approval::Replicated;
pub use config::{
    AggregateConfig, AggregateEncryption, Assigned, CloneComment, CloneSettings, ClusterView, EmptyQuery,
    Hidden, IscsiConfig, Limits, MappedDelete, NodeView, OntapConfig, Pace, PortalConfig, Scope, SvmConfig,
    SwitchedUuid, Unverified, VolumeEncryption,
};
pub use faults::{Fault, Rule, RuleId, Times, When};
pub use log::{Counts, Entry, Mark, Outcome};
pub use overrides::Identity;
pub use relations::{SvmSubtype, SwitchedOver};
pub use role::{BadRole, Role};
pub use sim::OntapSim;
pub use version::{Personality, UnknownPersonality, UnknownVersion, Version};
