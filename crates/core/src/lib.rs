//! Domain types, errors and the traits [`Array`], [`Transport`] and [`DeviceManager`]. No input or output happens here.
//!
//! The three traits meet only in values: an array maps a [`Volume`] to a host and says on which [`TargetPort`]s it can
//! be reached; a transport turns target ports into [`Route`]s; a device manager turns routes and an expected
//! [`Identity`] into a [`Device`]. None of them knows the others.

mod array;
mod chap;
mod cx;
mod device;
mod error;
mod id;
mod mark;
mod name;
mod network;
mod reader;
mod roles;
mod size;
mod transport;
mod wwid;

pub use array::{
    Array, ArrayProfile, Capacity, CloneSpec, DeleteMode, Deviation, Ensured, HostAccess, HostSpec,
    KnownHost, Limits, LunChoice, MappedHost, Mapping, Marked, Policies, Snapshot, SnapshotSet, Visibility,
    Volume, VolumeKey, VolumeQuery, VolumeSpec, VolumeState,
};
pub use chap::{Chap, ChapName, HostLogin, HostLogins};
pub use cx::{Cx, Deadline, Effect, EffectKind, EffectObserver, Effects};
pub use device::{
    Device, DeviceManager, DeviceNumber, Expected, Hctl, Holder, KnownLegs, Leg, LegProblem, PathNews,
    PathWatch, Paths, Retired, Usage, Waiting,
};
pub use error::{Chain, EffectState, Error, ErrorKind, Result};
pub use id::{ArrayId, Iqn, Lun, NodeName, OperationId, Owner, SnapshotName, VolumeName};
pub use mark::{Mark, VolumeKind};
pub use name::{NameCodec, NameRules};
pub use network::{Network, spread};
pub use reader::{Reader, ReaderName, ReaderSpec};
pub use roles::{
    Checkup, Deleted, Finding, HostSession, Lineage, RecoveryQueue, Sessions, Severity, SharedAccess, Splits,
};
pub use size::ByteSize;
pub use transport::{Initiator, PortState, PortStatus, Route, TargetPort, Transport, TransportKind};
pub use wwid::{Identity, Wwid};
