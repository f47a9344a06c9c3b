//! Direct access for tests, demos and the audit: what the array holds, and what an admin or an accident does to it.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;
use uuid::Uuid;

use super::error::ApiError;
use super::lun_create;
use super::luns::{hex, split_path};
use super::model::{Autodelete, Autosize, Igroup, Initiator, Lun, State, Unit, Volume};
use super::overrides::Identity;
use super::sim::OntapSim;
use super::snapshots;
use super::target::naa;
use crate::target::Reachability;

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeInfo {
    /// Its uuid.
    pub uuid: Uuid,
    /// Its name (in the recovery queue: the new name there).
    pub name: String,
    /// Its SVM's name.
    pub svm: String,
    /// Its aggregate's name.
    pub aggregate: String,
    /// Bytes.
    pub size: u64,
    /// Its comment.
    pub comment: String,
    /// Whether it is online.
    pub online: bool,
    /// Whether it lies in the recovery queue.
    pub deleted: bool,
    /// The volume it is a FlexClone of.
    pub parent: Option<Uuid>,
    /// Its snapshots, oldest first.
    pub snapshots: Vec<SnapshotInfo>,
    /// What its creator or an admin set.
    pub settings: VolumeSettings,
}

/// The settings of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VolumeSettings {
    /// `guarantee.type`.
    pub guarantee: &'static str,
    /// `space.snapshot.reserve_percent`.
    pub snapshot_reserve: u8,
    /// `space.fractional_reserve`.
    pub fractional_reserve: u8,
    /// `autosize.mode`.
    pub autosize: &'static str,
    /// `autosize.maximum`.
    pub autosize_maximum: u64,
    /// `snapshot_policy.name`.
    pub snapshot_policy: String,
    /// `qos.policy.name`.
    pub qos_policy: Option<String>,
    /// `tiering.policy`.
    pub tiering: &'static str,
    /// `encryption.enabled`.
    pub encryption: bool,
    /// `space.snapshot.autodelete.delete_order`, while that is on.
    pub autodelete: Option<&'static str>,
}

/// A snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SnapshotInfo {
    /// Its uuid.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its comment.
    pub comment: String,
}

/// A LUN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LunInfo {
    /// Its uuid.
    pub uuid: Uuid,
    /// Its path `/vol/<volume>/<lun>`.
    pub path: String,
    /// Its SVM's name.
    pub svm: String,
    /// Serial number, 12 characters.
    pub serial: String,
    /// NAA identifier, 32 hexadecimal digits.
    pub naa: String,
    /// Bytes.
    pub size: u64,
    /// Whether room for all of it is reserved in its volume.
    pub reserved: bool,
    /// Its comment.
    pub comment: String,
    /// Its bytes, once anything needed them.
    pub file: Option<PathBuf>,
}

/// An igroup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IgroupInfo {
    /// Its uuid.
    pub uuid: Uuid,
    /// Its name.
    pub name: String,
    /// Its SVM's name.
    pub svm: String,
    /// Names of its initiators.
    pub initiators: Vec<String>,
}

/// A LUN map.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MapInfo {
    /// The LUN's path.
    pub lun: String,
    /// The igroup's name.
    pub igroup: String,
    /// The SVM's name.
    pub svm: String,
    /// The LUN number.
    pub number: u16,
}

impl OntapSim {
    /// Every volume, also those in the recovery queue.
    pub fn volumes(&self) -> Vec<VolumeInfo> {
        let state = self.state();
        state.volumes.values().map(|volume| volume_info(&state, volume)).collect()
    }

    /// The live volume of this name.
    pub fn volume(&self, svm: &str, name: &str) -> Option<VolumeInfo> {
        let state = self.state();
        let svm = state.svm_index(svm).ok()?;
        state.volume_named(svm, name).map(|volume| volume_info(&state, volume))
    }

    /// Every LUN of a live volume.
    pub fn luns(&self) -> Vec<LunInfo> {
        let state = self.state();
        let info = |(lun, volume): (&Lun, &Volume)| LunInfo {
            uuid: lun.uuid,
            path: volume.path_of(&lun.unit.name),
            svm: state.svms[volume.svm].name.clone(),
            serial: lun.serial.clone(),
            naa: hex(&naa(lun.serial.as_bytes())),
            size: lun.unit.size,
            reserved: lun.unit.reserved,
            comment: lun.unit.comment.clone(),
            file: lun.unit.file.clone(),
        };
        state.live_luns().map(info).collect()
    }

    /// The LUN at this path.
    pub fn lun(&self, svm: &str, path: &str) -> Option<LunInfo> {
        self.luns().into_iter().find(|lun| lun.svm == svm && lun.path == path)
    }

    /// Every igroup.
    pub fn igroups(&self) -> Vec<IgroupInfo> {
        let state = self.state();
        let info = |igroup: &Igroup| IgroupInfo {
            uuid: igroup.uuid,
            name: igroup.name.clone(),
            svm: state.svms[igroup.svm].name.clone(),
            initiators: igroup.initiators.iter().map(|it| it.name.clone()).collect(),
        };
        state.igroups.values().map(info).collect()
    }

    /// Every LUN map.
    pub fn maps(&self) -> Vec<MapInfo> {
        let state = self.state();
        let info = |((lun, igroup), number): (&(Uuid, Uuid), &u16)| {
            let (lun, volume) = state.live_lun(*lun)?;
            let igroup = state.igroups.get(igroup)?.name.clone();
            let svm = state.svms[volume.svm].name.clone();
            Some(MapInfo { lun: volume.path_of(&lun.unit.name), igroup, svm, number: *number })
        };
        state.maps.iter().filter_map(info).collect()
    }

    /// Jobs that have not ended.
    pub fn running_jobs(&self) -> usize {
        self.state().jobs.running()
    }

    /// The file with a LUN's bytes; made when nothing needed it before.
    pub fn lun_file(&self, svm: &str, path: &str) -> io::Result<PathBuf> {
        self.change(|state| {
            let lun = find_lun(state, svm, path)?;
            state.materialise(lun)
        })
    }

    /// Creates a thin volume of `size` bytes that the product knows nothing of.
    pub fn add_volume(&self, svm: &str, name: &str, size: u64, comment: &str) -> io::Result<Uuid> {
        self.change(|state| {
            let svm = state.svm_index(svm)?;
            super::volumes::check_name(state, svm, name)?;
            let volume = thin_volume(state, svm, name, size, comment);
            let uuid = volume.uuid;
            state.put_volume(volume);
            Ok(uuid)
        })
    }

    /// Creates a thin LUN at `/vol/<volume>/<lun>` in a volume that exists.
    pub fn add_lun(&self, svm: &str, path: &str, size: u64, comment: &str) -> io::Result<Uuid> {
        self.change(|state| {
            let (volume, name) = split_path(path)?;
            let svm = state.svm_index(svm)?;
            let volume = super::luns::volume_for(state, svm, volume)?;
            let unit = thin_unit(name, size, comment);
            lun_create::add(state, volume, unit)
        })
    }

    /// Creates an igroup for Linux and iSCSI.
    pub fn add_igroup(&self, svm: &str, name: &str, initiators: &[&str]) -> io::Result<Uuid> {
        self.change(|state| {
            let member = |name: &&str| Initiator { name: name.to_ascii_lowercase(), comment: String::new() };
            let igroup = Igroup {
                uuid: state.ids.uuid(),
                name: name.to_owned(),
                svm: state.svm_index(svm)?,
                os_type: "linux",
                protocol: "iscsi",
                comment: String::new(),
                delete_on_unmap: false,
                initiators: initiators.iter().map(member).collect(),
            };
            let uuid = igroup.uuid;
            state.igroups.insert(uuid, igroup);
            Ok(uuid)
        })
    }

    /// Maps a LUN; without a number the lowest free one is taken. Gives the number.
    pub fn add_map(&self, svm: &str, lun: &str, igroup: &str, number: Option<u16>) -> io::Result<u16> {
        self.change(|state| {
            let lun = find_lun(state, svm, lun)?;
            let igroup = find_igroup(state, svm, igroup)?;
            state.map(lun, igroup, number)
        })
    }

    /// Takes a LUN away from an igroup.
    pub fn remove_map(&self, svm: &str, lun: &str, igroup: &str) -> io::Result<()> {
        self.change(|state| {
            let lun = find_lun(state, svm, lun)?;
            let igroup = find_igroup(state, svm, igroup)?;
            state.maps.remove(&(lun, igroup));
            Ok(())
        })
    }

    /// Makes a snapshot of a volume.
    pub fn add_snapshot(&self, svm: &str, volume: &str, name: &str) -> io::Result<Uuid> {
        self.change(|state| {
            let svm = state.svm_index(svm)?;
            let volume = super::luns::volume_for(state, svm, volume)?;
            snapshots::take(state, volume, name.to_owned(), &super::body::Body::default())
        })
    }

    /// Gives a volume another snapshot policy, as its admin would.
    pub fn set_snapshot_policy(&self, svm: &str, volume: &str, policy: &str) -> io::Result<()> {
        self.change(|state| {
            let svm = state.svm_index(svm)?;
            let uuid = super::luns::volume_for(state, svm, volume)?;
            policy.clone_into(&mut state.volume_mut(uuid)?.snapshot_policy);
            Ok(())
        })
    }

    /// Lets every job that would never end fail now, as a restart of the array's management does.
    pub fn fail_stuck_jobs(&self) {
        self.state().fail_stuck_jobs();
    }

    /// Removes a volume for good, whatever hangs on it.
    pub fn destroy_volume(&self, svm: &str, name: &str) -> io::Result<()> {
        self.change(|state| {
            let svm = state.svm_index(svm)?;
            let uuid = super::luns::volume_for(state, svm, name)?;
            let luns = super::volumes::volume_of(state, uuid)?.luns.clone();
            for lun in luns {
                state.unmap_all(lun);
            }
            state.purge_volume(uuid)
        })
    }

    /// Gives the number that `igroup` uses for one LUN to another LUN: an admin's quick re-use of a LUN number.
    pub fn reuse_number(&self, svm: &str, igroup: &str, number: u16, lun: &str) -> io::Result<()> {
        self.change(|state| {
            let lun = find_lun(state, svm, lun)?;
            let igroup = find_igroup(state, svm, igroup)?;
            state.maps.retain(|(_, of), taken| *of != igroup || *taken != number);
            state.map(lun, igroup, Some(number)).map(drop)
        })
    }

    /// Takes a LUN offline, or back.
    pub fn set_lun_online(&self, svm: &str, path: &str, online: Online) -> io::Result<()> {
        self.change(|state| {
            let lun = find_lun(state, svm, path)?;
            state.lun_mut(lun)?.failed = online == Online::No;
            Ok(())
        })
    }

    /// Lets a LUN show another identity on one portal, or on all; `None` gives it its own back.
    pub fn override_identity(
        &self,
        svm: &str,
        path: &str,
        portal: Option<SocketAddr>,
        identity: Option<Identity>,
    ) -> io::Result<()> {
        self.change(|state| {
            let key = (find_lun(state, svm, path)?, portal);
            match identity {
                Some(identity) => drop(state.overrides.identities.insert(key, identity)),
                None => drop(state.overrides.identities.remove(&key)),
            }
            Ok(())
        })
    }

    /// Lets a portal answer, refuse, or fall silent.
    pub fn set_portal(&self, address: SocketAddr, reachability: Reachability) -> io::Result<()> {
        self.change(|state| {
            let portal = state.interfaces.iter_mut().find(|it| it.address == address && it.svm.is_some());
            portal.ok_or_else(ApiError::no_entry)?.reachability = reachability;
            Ok(())
        })
    }

    /// Starts or stops an SVM: its interfaces and LUNs come and go with it.
    pub fn set_svm_running(&self, svm: &str, running: Running) -> io::Result<()> {
        self.change(|state| {
            let at = state.svm_index(svm)?;
            state.svms[at].running = running == Running::Yes;
            Ok(())
        })
    }

    /// Leaves `free` bytes in an aggregate; the rest is used by others.
    pub fn set_aggregate_free(&self, aggregate: &str, free: u64) -> io::Result<()> {
        self.change(|state| {
            let at = state.aggregates.iter().position(|it| it.name == aggregate);
            let at = at.ok_or_else(ApiError::no_entry)?;
            state.aggregates[at].ballast = 0;
            let used = state.aggregate_used(at);
            state.aggregates[at].ballast = (state.aggregates[at].size - used).saturating_sub(free);
            Ok(())
        })
    }

    /// Puts another array in this one's place: cluster, nodes and SVMs get new uuids and serial numbers.
    pub fn replace_array(&self, seed: u64) {
        let mut state = self.state();
        state.ids = super::ids::Ids::new(seed);
        let State { ids, cluster, nodes, svms, .. } = &mut *state;
        cluster.uuid = ids.uuid();
        for node in nodes {
            node.uuid = ids.uuid();
            node.serial = ids.digits(12);
        }
        for svm in svms {
            svm.uuid = ids.uuid();
        }
    }

    /// Changes a LUN's serial number for good, as if another LUN had taken its place.
    pub fn set_serial(&self, svm: &str, path: &str, serial: &str) -> io::Result<()> {
        self.change(|state| {
            let lun = find_lun(state, svm, path)?;
            serial.clone_into(&mut state.lun_mut(lun)?.serial);
            Ok(())
        })
    }

    /// Locks a snapshot of a volume for `seconds` from now on, as an administrator or a policy does.
    pub fn lock_snapshot(&self, svm: &str, volume: &str, snapshot: &str, seconds: u64) -> io::Result<()> {
        self.change(|state| {
            let svm = state.svm_index(svm)?;
            let until = state.stamp(state.now + std::time::Duration::from_secs(seconds));
            let uuid = super::luns::volume_for(state, svm, volume)?;
            let mut snapshots = state.volume_mut(uuid)?.snapshots.iter_mut();
            let found = snapshots.find(|it| it.name == snapshot).ok_or_else(ApiError::no_entry)?;
            found.expiry = Some(until);
            Ok(())
        })
    }

    /// Empties the recovery queue.
    pub fn purge_recovery_queue(&self) -> io::Result<()> {
        self.change(|state| {
            let queued: Vec<Uuid> = state.recovery_queue.iter().map(|(_, uuid)| *uuid).collect();
            queued.into_iter().try_for_each(|uuid| state.purge_volume(uuid))
        })
    }

    /// Creates `count` thin volumes `<prefix>1`.. with one LUN `lun0` each, fast: for measurements on a full array.
    pub fn populate(&self, svm: &str, prefix: &str, count: usize, size: u64) -> io::Result<()> {
        self.change(|state| {
            let svm = state.svm_index(svm)?;
            for at in 1..=count {
                let mut volume = thin_volume(state, svm, &format!("{prefix}{at}"), size, "");
                let (uuid, serial) = (state.ids.uuid(), state.new_serial());
                volume.luns.insert(uuid);
                let (of, created, unit) = (volume.uuid, state.now, thin_unit("lun0", size, ""));
                state.luns.insert(uuid, Lun { uuid, volume: of, serial, created, unit, failed: false });
                state.put_volume(volume);
            }
            Ok(())
        })
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> Result<T, ApiError>) -> io::Result<T> {
        change(&mut self.state()).map_err(|error| io::Error::other(error.message))
    }
}

/// Whether a LUN is online.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Online {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// Whether an SVM runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Running {
    /// It does.
    Yes,
    /// It is stopped.
    No,
}

fn thin_volume(state: &mut State, svm: usize, name: &str, size: u64, comment: &str) -> Volume {
    Volume {
        uuid: state.ids.uuid(),
        name: name.to_owned(),
        svm,
        aggregate: 0,
        size,
        thick: false,
        online: true,
        comment: comment.to_owned(),
        snapshot_policy: "none".to_owned(),
        qos_policy: None,
        reserve_percent: 0,
        autodelete: Autodelete::default(),
        fractional_reserve: 0,
        tiering: "none",
        encrypted: false,
        autosize: Autosize::default(),
        clone: None,
        splitting: None,
        created: state.now,
        luns: BTreeSet::new(),
        snapshots: Vec::new(),
        deleted: None,
        written: false,
    }
}

fn thin_unit(name: &str, size: u64, comment: &str) -> Unit {
    Unit {
        name: name.to_owned(),
        size,
        os_type: "linux",
        comment: comment.to_owned(),
        class: "regular",
        enabled: true,
        auto_delete: false,
        reserved: false,
        unmap: true,
        file: None,
    }
}

fn find_lun(state: &State, svm: &str, path: &str) -> Result<Uuid, ApiError> {
    let svm = state.svm_index(svm)?;
    state.lun_at(svm, path).map(|lun| lun.uuid).ok_or_else(ApiError::no_entry)
}

fn find_igroup(state: &State, svm: &str, name: &str) -> Result<Uuid, ApiError> {
    let svm = state.svm_index(svm)?;
    let found = state.igroups.values().find(|it| it.svm == svm && it.name == name);
    found.map(|it| it.uuid).ok_or_else(ApiError::no_entry)
}

fn volume_info(state: &State, volume: &Volume) -> VolumeInfo {
    let snapshot = |it: &super::model::Snapshot| SnapshotInfo {
        uuid: it.uuid,
        name: it.name.clone(),
        comment: it.comment.clone(),
    };
    VolumeInfo {
        uuid: volume.uuid,
        name: volume.name.clone(),
        svm: state.svms[volume.svm].name.clone(),
        aggregate: state.aggregates[volume.aggregate].name.clone(),
        size: volume.size,
        comment: volume.comment.clone(),
        online: volume.online,
        deleted: volume.deleted.is_some(),
        parent: volume.clone.map(|clone| clone.volume),
        snapshots: volume.snapshots.iter().map(snapshot).collect(),
        settings: VolumeSettings {
            guarantee: if volume.thick { "volume" } else { "none" },
            snapshot_reserve: volume.reserve_percent,
            fractional_reserve: volume.fractional_reserve,
            autosize: volume.autosize.mode.word(),
            autosize_maximum: volume.autosize_maximum(),
            snapshot_policy: volume.snapshot_policy.clone(),
            qos_policy: volume.qos_policy.clone(),
            tiering: volume.tiering,
            encryption: volume.encrypted,
            autodelete: volume.autodelete.enabled.then_some(volume.autodelete.order),
        },
    }
}
