//! The objects of a simulated array.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

use super::account::Account;
use super::approval::Approvals;
use super::config::{Assigned, Limits, Pace, Unverified};
use super::credentials::Credential;
use super::disk::{Stamp, Store};
use super::error::{ApiError, LUN_MISSING, SVM_MISSING};
use super::ids::Ids;
use super::jobs::Jobs;
use super::overrides::Overrides;
use super::relations::SvmSubtype;
use super::sessions::Sessions;
use super::version::{Personality, Version};
use crate::target::Reachability;

/// The whole array. `now` is the time since the simulation began, on tokio's clock.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) now: Duration,
    pub(crate) epoch: i64,
    pub(crate) version: Version,
    pub(crate) personality: Personality,
    pub(crate) account: Account,
    pub(crate) limits: Limits,
    pub(crate) pace: Pace,
    pub(crate) unverified: Unverified,
    pub(crate) ids: Ids,
    pub(crate) store: Store,
    pub(crate) cluster: Named,
    pub(crate) nodes: Vec<Node>,
    pub(crate) aggregates: Vec<Aggregate>,
    pub(crate) svms: Vec<Svm>,
    pub(crate) snapshot_policies: Vec<String>,
    pub(crate) qos_policies: Vec<String>,
    pub(crate) interfaces: Vec<Interface>,
    /// Change through [`State::put_volume`] and [`State::take_volume`] only: they keep the index of names.
    pub(crate) volumes: BTreeMap<Uuid, Volume>,
    /// Live volumes by name and SVM.
    pub(crate) names: BTreeMap<(String, usize), Uuid>,
    pub(crate) luns: BTreeMap<Uuid, Lun>,
    pub(crate) igroups: BTreeMap<Uuid, Igroup>,
    /// What initiators have to prove, by SVM and name in lower case.
    pub(crate) credentials: BTreeMap<(usize, String), Credential>,
    /// Who is logged in.
    pub(crate) sessions: Sessions,
    /// Every serial number given out so far.
    pub(crate) serials: BTreeSet<String>,
    /// By (LUN, igroup).
    pub(crate) maps: BTreeMap<(Uuid, Uuid), u16>,
    pub(crate) jobs: Jobs,
    /// Volumes in the recovery queue, by the time at which they are purged.
    pub(crate) recovery_queue: BTreeSet<(Duration, Uuid)>,
    pub(crate) overrides: Overrides,
    pub(crate) approvals: Approvals,
    /// Volumes that are replicated, and the snapshots their relations hold.
    pub(crate) replicated: BTreeSet<Uuid>,
}

#[derive(Debug, Clone)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
    pub(crate) serial: String,
    /// Index of the HA partner.
    pub(crate) partner: Option<usize>,
}

#[derive(Debug, Clone)]
pub(crate) struct Aggregate {
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
    pub(crate) node: usize,
    pub(crate) size: u64,
    /// Bytes used by others than the volumes we know.
    pub(crate) ballast: u64,
    pub(crate) encrypts: bool,
    pub(crate) object_stores: Vec<String>,
}

#[derive(Debug, Clone)]
pub(crate) struct Svm {
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
    pub(crate) running: bool,
    pub(crate) subtype: SvmSubtype,
    pub(crate) iscsi: Option<IscsiService>,
    pub(crate) assigned: Assigned,
}

#[derive(Debug, Clone)]
pub(crate) struct IscsiService {
    pub(crate) enabled: bool,
    pub(crate) target: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Interface {
    pub(crate) name: String,
    pub(crate) uuid: Uuid,
    pub(crate) address: SocketAddr,
    pub(crate) node: usize,
    /// `None`: a cluster management interface.
    pub(crate) svm: Option<usize>,
    pub(crate) group: u16,
    pub(crate) reachability: Reachability,
}

#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a property of its own in the API")]
pub(crate) struct Volume {
    pub(crate) uuid: Uuid,
    pub(crate) name: String,
    pub(crate) svm: usize,
    pub(crate) aggregate: usize,
    pub(crate) size: u64,
    pub(crate) thick: bool,
    pub(crate) online: bool,
    pub(crate) comment: String,
    pub(crate) snapshot_policy: String,
    pub(crate) qos_policy: Option<String>,
    pub(crate) reserve_percent: u8,
    pub(crate) autodelete: Autodelete,
    pub(crate) fractional_reserve: u8,
    pub(crate) tiering: &'static str,
    pub(crate) encrypted: bool,
    pub(crate) autosize: Autosize,
    pub(crate) clone: Option<CloneOf>,
    /// From when to when it is being split from its parent.
    pub(crate) splitting: Option<(Duration, Duration)>,
    pub(crate) created: Duration,
    pub(crate) luns: BTreeSet<Uuid>,
    /// Oldest first.
    pub(crate) snapshots: Vec<Snapshot>,
    /// When it went to the recovery queue.
    pub(crate) deleted: Option<Duration>,
    /// Whether any LUN of it ever had bytes: until then nothing need be asked of the file system.
    pub(crate) written: bool,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Autosize {
    pub(crate) mode: AutosizeMode,
    /// As set by a client; unset follows the size.
    pub(crate) maximum: Option<u64>,
    pub(crate) minimum: Option<u64>,
    pub(crate) grow_threshold: Option<u8>,
    pub(crate) shrink_threshold: Option<u8>,
}

/// Whether and in which order the array deletes snapshots of a volume that is nearly full. Only reported.
#[derive(Debug, Clone)]
pub(crate) struct Autodelete {
    pub(crate) enabled: bool,
    pub(crate) order: &'static str,
    pub(crate) commitment: &'static str,
    pub(crate) defer: &'static str,
    pub(crate) prefix: String,
}

impl Default for Autodelete {
    fn default() -> Self {
        Self {
            enabled: false,
            order: "oldest_first",
            commitment: "try",
            defer: "user_created",
            prefix: String::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum AutosizeMode {
    #[default]
    Off,
    Grow,
    GrowShrink,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct CloneOf {
    pub(crate) volume: Uuid,
    pub(crate) snapshot: Uuid,
}

#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) uuid: Uuid,
    pub(crate) version_uuid: Uuid,
    pub(crate) name: String,
    pub(crate) comment: String,
    pub(crate) label: Option<String>,
    pub(crate) expiry: Option<String>,
    pub(crate) created: Duration,
    pub(crate) images: Vec<Image>,
    /// Until when a LUN clone keeps it busy.
    pub(crate) busy_until: Duration,
}

/// A LUN as it was when its volume's snapshot was made.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) lun: Uuid,
    pub(crate) serial: String,
    pub(crate) unit: Unit,
    /// The live file when the snapshot was made: while it stays so, the snapshot costs nothing.
    pub(crate) stamp: Option<Stamp>,
}

#[derive(Debug, Clone)]
pub(crate) struct Lun {
    pub(crate) uuid: Uuid,
    pub(crate) volume: Uuid,
    pub(crate) serial: String,
    pub(crate) created: Duration,
    pub(crate) unit: Unit,
    /// Taken offline by a test.
    pub(crate) failed: bool,
}

/// What of a LUN a snapshot holds and a restore brings back.
#[derive(Debug, Clone)]
#[expect(clippy::struct_excessive_bools, reason = "each is a property of its own in the API")]
pub(crate) struct Unit {
    /// Path below the volume.
    pub(crate) name: String,
    pub(crate) size: u64,
    pub(crate) os_type: &'static str,
    pub(crate) comment: String,
    pub(crate) class: &'static str,
    pub(crate) enabled: bool,
    pub(crate) auto_delete: bool,
    /// Space reservation asked for.
    pub(crate) reserved: bool,
    /// Whether the host may learn of thin provisioning (UNMAP).
    pub(crate) unmap: bool,
    /// The bytes; `None` while nothing was ever written.
    pub(crate) file: Option<PathBuf>,
}

#[derive(Debug, Clone)]
pub(crate) struct Igroup {
    pub(crate) uuid: Uuid,
    pub(crate) name: String,
    pub(crate) svm: usize,
    pub(crate) os_type: &'static str,
    pub(crate) protocol: &'static str,
    pub(crate) comment: String,
    pub(crate) delete_on_unmap: bool,
    pub(crate) initiators: Vec<Initiator>,
}

#[derive(Debug, Clone)]
pub(crate) struct Initiator {
    pub(crate) name: String,
    pub(crate) comment: String,
}

impl State {
    pub(crate) fn svm_index(&self, name: &str) -> Result<usize, ApiError> {
        let found = self.svms.iter().position(|svm| svm.name == name);
        found.ok_or_else(|| SVM_MISSING.error(format!("SVM \"{name}\" does not exist")))
    }

    /// A change inside an SVM that is stopped is refused.
    pub(crate) fn check_running(&self, svm: usize) -> Result<(), ApiError> {
        if self.svms[svm].running {
            return Ok(());
        }
        let code = super::error::Code(self.unverified.svm_stopped_code, 409);
        Err(code.error(format!("SVM \"{}\" is not running", self.svms[svm].name)))
    }

    /// Volumes that are not in the recovery queue.
    pub(crate) fn live_volumes(&self) -> impl Iterator<Item = &Volume> {
        self.volumes.values().filter(|volume| volume.deleted.is_none())
    }

    pub(crate) fn live_volume(&self, uuid: Uuid) -> Option<&Volume> {
        self.volumes.get(&uuid).filter(|volume| volume.deleted.is_none())
    }

    pub(crate) fn volume_named(&self, svm: usize, name: &str) -> Option<&Volume> {
        self.volumes.get(self.names.get(&(name.to_owned(), svm))?)
    }

    /// The live volumes of these names in all SVMs.
    pub(crate) fn volumes_named<'a>(&'a self, names: &'a [&str]) -> impl Iterator<Item = &'a Volume> {
        let in_svm = move |svm| names.iter().filter_map(move |name| self.volume_named(svm, name));
        (0..self.svms.len()).flat_map(in_svm)
    }

    /// Adds a volume, or puts it in place of what it was.
    pub(crate) fn put_volume(&mut self, volume: Volume) {
        self.take_volume(volume.uuid);
        if volume.deleted.is_none() {
            self.names.insert((volume.name.clone(), volume.svm), volume.uuid);
        }
        self.volumes.insert(volume.uuid, volume);
    }

    /// Takes a volume out; its LUNs are not touched.
    pub(crate) fn take_volume(&mut self, uuid: Uuid) -> Option<Volume> {
        let volume = self.volumes.remove(&uuid)?;
        if volume.deleted.is_none() {
            self.names.remove(&(volume.name.clone(), volume.svm));
        }
        Some(volume)
    }

    /// A volume that is known to exist.
    pub(crate) fn volume_mut(&mut self, uuid: Uuid) -> Result<&mut Volume, ApiError> {
        self.volumes.get_mut(&uuid).filter(|volume| volume.deleted.is_none()).ok_or_else(ApiError::no_entry)
    }

    /// LUNs whose volume is not in the recovery queue, with that volume.
    pub(crate) fn live_luns(&self) -> impl Iterator<Item = (&Lun, &Volume)> {
        self.luns.values().filter_map(|lun| Some((lun, self.live_volume(lun.volume)?)))
    }

    pub(crate) fn live_lun(&self, uuid: Uuid) -> Option<(&Lun, &Volume)> {
        let lun = self.luns.get(&uuid)?;
        Some((lun, self.live_volume(lun.volume)?))
    }

    pub(crate) fn lun_mut(&mut self, uuid: Uuid) -> Result<&mut Lun, ApiError> {
        self.luns.get_mut(&uuid).ok_or_else(|| LUN_MISSING.error("LUN does not exist"))
    }

    /// The LUN at `/vol/<volume>/<unit>` of an SVM.
    pub(crate) fn lun_at(&self, svm: usize, path: &str) -> Option<&Lun> {
        let (volume, unit) = path.strip_prefix("/vol/")?.split_once('/')?;
        let volume = self.volume_named(svm, volume)?;
        volume.luns.iter().filter_map(|uuid| self.luns.get(uuid)).find(|lun| lun.unit.name == unit)
    }

    /// The igroups a LUN is mapped to, with its number there.
    pub(crate) fn maps_of(&self, lun: Uuid) -> impl Iterator<Item = (Uuid, u16)> {
        self.maps
            .range((lun, Uuid::nil())..=(lun, Uuid::max()))
            .map(|((_, igroup), number)| (*igroup, *number))
    }

    /// The node a volume lives on.
    pub(crate) fn node_of(&self, volume: &Volume) -> usize {
        self.aggregates[volume.aggregate].node
    }

    /// Time stamps as the array prints them.
    pub(crate) fn stamp(&self, at: Duration) -> String {
        let seconds = self.epoch.saturating_add(i64::try_from(at.as_secs()).unwrap_or(i64::MAX));
        jiff::Timestamp::from_second(seconds)
            .map(|at| at.display_with_offset(jiff::tz::Offset::UTC).to_string())
            .unwrap_or_default()
    }

    /// Gives a LUN its file, if it has none yet.
    pub(crate) fn materialise(&mut self, lun: Uuid) -> Result<PathBuf, ApiError> {
        let lun = self.luns.get_mut(&lun).ok_or_else(ApiError::no_entry)?;
        if let Some(file) = &lun.unit.file {
            return Ok(file.clone());
        }
        let file = self.store.create(lun.unit.size).map_err(|error| ApiError::data(&error))?;
        lun.unit.file = Some(file.clone());
        if let Some(volume) = self.volumes.get_mut(&lun.volume) {
            volume.written = true;
        }
        Ok(file)
    }
}

impl Volume {
    /// The path of a unit of this volume.
    pub(crate) fn path_of(&self, unit: &str) -> String {
        format!("/vol/{}/{unit}", self.name)
    }
}

impl AutosizeMode {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Grow => "grow",
            Self::GrowShrink => "grow_shrink",
        }
    }
}
