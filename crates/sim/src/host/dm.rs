//! device-mapper: maps with their tables, their folders in sysfs, and what they do with I/O.

use std::collections::{BTreeMap, BTreeSet};

use san_core::DeviceNumber;

use super::formats::{self, lay_out, lowest_free};
use super::log::LogKind;
use super::machine::{Event, Machine};
use super::scsi::{Address, Disk, LegState};
use super::tree::{Action, Device};
use super::udev::MapNews;

/// device-mapper's major number.
pub(crate) const MAJOR: u32 = 253;

/// What a map is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MapKind {
    /// A multipath map.
    Multipath { wwid: String, vendor: String, product: String, revision: String },
    /// A linear map over another: a partition (kpartx), a logical volume, an encrypted device.
    Over(u32),
}

/// What a map does with I/O when no path is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Queueing {
    /// Keeps it.
    On,
    /// Fails it.
    Off,
    /// Fails it because somebody said `disablequeueing`, until it is taken back.
    Disabled,
}

/// One path of a multipath table.
#[derive(Debug, Clone)]
pub(crate) struct MapPath {
    pub(crate) leg: Address,
    /// The SCSI device it was loaded with, not whatever came after it at that address.
    pub(crate) serial: u64,
    pub(crate) disk: Disk,
    pub(crate) has_failed: bool,
    pub(crate) priority: u32,
}

/// One map.
#[derive(Debug)]
pub(crate) struct Map {
    pub(crate) minor: u32,
    pub(crate) serial: u64,
    pub(crate) diskseq: u64,
    pub(crate) name: String,
    pub(crate) uuid: String,
    pub(crate) kind: MapKind,
    pub(crate) sectors: u64,
    pub(crate) is_suspended: bool,
    pub(crate) queueing: Queueing,
    pub(crate) paths: Vec<MapPath>,
    pub(crate) faults: u32,
    pub(crate) loads: u32,
    /// Whether any I/O went through: the kernel has chosen a group.
    pub(crate) was_used: bool,
    /// A udev worker has it open.
    pub(crate) has_worker: bool,
    /// Checks since the last path failed.
    pub(crate) checks_failed: u32,
}

impl Map {
    pub(crate) fn number(&self) -> DeviceNumber {
        DeviceNumber { major: MAJOR, minor: self.minor }
    }

    /// Sorts the paths as multipathd does when it loads a table: paths of one priority are one group, the best first; a
    /// group without a usable path comes last. Where there is none at all it leaves the table alone.
    pub(crate) fn sort_paths(&mut self) {
        if self.paths.iter().all(|it| it.has_failed) {
            return;
        }
        let usable: BTreeSet<u32> =
            self.paths.iter().filter(|it| !it.has_failed).map(|it| it.priority).collect();
        self.paths.sort_by_key(|it| {
            (std::cmp::Reverse(usable.contains(&it.priority)), std::cmp::Reverse(it.priority))
        });
    }

    /// Whether udev finds something to look at behind it.
    pub(crate) fn is_ready(&self) -> bool {
        self.wwid().is_none() || self.paths.iter().any(|it| !it.has_failed)
    }

    pub(crate) fn queues(&self) -> bool {
        self.queueing == Queueing::On
    }

    pub(crate) fn wwid(&self) -> Option<&str> {
        match &self.kind {
            MapKind::Multipath { wwid, .. } => Some(wwid),
            MapKind::Over(_) => None,
        }
    }
}

/// All maps of a node.
#[derive(Debug, Default)]
pub(crate) struct DeviceMapper {
    pub(crate) maps: BTreeMap<u32, Map>,
}

impl DeviceMapper {
    /// The index of every disk that a table refers to, whether or not the disk is still there.
    pub(crate) fn disks_held(&self) -> Vec<u32> {
        self.maps.values().flat_map(|it| it.paths.iter().map(|path| path.disk.index)).collect()
    }

    /// By name, UUID or `dm-N`, as multipathd's commands do.
    pub(crate) fn find(&self, text: &str) -> Option<&Map> {
        self.maps.values().find(|it| {
            it.wwid().is_some()
                && (it.name == text || it.wwid() == Some(text) || format!("dm-{}", it.minor) == text)
        })
    }

    /// Maps stacked on this one.
    pub(crate) fn over(&self, minor: u32) -> Vec<u32> {
        self.maps.values().filter(|it| it.kind == MapKind::Over(minor)).map(|it| it.minor).collect()
    }
}

impl Machine {
    /// Makes a map and its device; the name in `/dev/mapper` comes from udev later.
    pub(crate) fn create_map(
        &mut self,
        name: &str,
        uuid: &str,
        kind: MapKind,
        sectors: u64,
        paths: Vec<MapPath>,
    ) -> u32 {
        let minor = lowest_free(|it| self.dm.maps.contains_key(&it));
        let (serial, diskseq) = (self.serial(), self.scsi.next_diskseq());
        let keeps = matches!(kind, MapKind::Multipath { .. })
            && self.spec.multipath.no_path_retry != super::settings::NoPathRetry::Fail;
        let queueing = if keeps { Queueing::On } else { Queueing::Off };
        let map = Map {
            minor,
            serial,
            diskseq,
            name: name.to_owned(),
            uuid: uuid.to_owned(),
            kind,
            sectors,
            is_suspended: false,
            queueing,
            paths: Vec::new(),
            faults: 0,
            loads: 0,
            was_used: false,
            has_worker: false,
            checks_failed: 0,
        };
        self.map_into_sysfs(&map);
        let keys = super::scsi::block_keys(&format!("dm-{minor}"), map.number(), diskseq);
        self.dm.maps.insert(minor, map);
        self.uevent("add", &format!("/devices/virtual/block/dm-{minor}"), "block", &keys);
        self.note(LogKind::Event, format!("map {name} is dm-{minor}"));
        self.load_table(minor, paths);
        minor
    }

    fn map_into_sysfs(&mut self, map: &Map) {
        let minor = map.minor;
        let folder = format!("/sys/devices/virtual/block/dm-{minor}");
        let number = map.number();
        let uevent = format!(
            "MAJOR={MAJOR}\nMINOR={minor}\nDEVNAME=dm-{minor}\nDEVTYPE=disk\nDISKSEQ={}",
            map.diskseq
        );
        let values = [
            ("dev", number.to_string()),
            ("size", map.sectors.to_string()),
            ("diskseq", map.diskseq.to_string()),
            ("dm/name", map.name.clone()),
            ("dm/uuid", map.uuid.clone()),
        ];
        lay_out(&mut self.tree, &folder, formats::BLOCK_DM, &values);
        let tree = &mut self.tree;
        tree.put_attr(&format!("{folder}/uevent"), Some(uevent.into_bytes()), Some(Action::MapEvent(minor)));
        tree.put_link(&format!("{folder}/bdi"), &format!("../../bdi/{number}"));
        tree.put_link(&format!("{folder}/subsystem"), "../../../../class/block");
        tree.make_dir(&format!("{folder}/holders"));
        tree.make_dir(&format!("{folder}/slaves"));
        tree.put_link(&format!("/sys/block/dm-{minor}"), &format!("../devices/virtual/block/dm-{minor}"));
        tree.put_node(&format!("/dev/dm-{minor}"), Device::Block(number));
        if let MapKind::Over(below) = map.kind {
            tree.put_link(
                &format!("/sys/devices/virtual/block/dm-{below}/holders/dm-{minor}"),
                &format!("../../dm-{minor}"),
            );
            tree.put_link(&format!("{folder}/slaves/dm-{below}"), &format!("../../dm-{below}"));
        }
    }

    /// Loads a table with these paths in place of the present one.
    pub(crate) fn load_table(&mut self, minor: u32, paths: Vec<MapPath>) {
        let Some(map) = self.dm.maps.get_mut(&minor) else { return };
        let old = std::mem::replace(&mut map.paths, paths);
        map.loads += 1;
        map.sort_paths();
        let new = map.paths.clone();
        let slaves = format!("/sys/devices/virtual/block/dm-{minor}/slaves");
        for path in &old {
            self.tree.remove(&format!("{slaves}/{}", path.disk.name));
            if let Some(folder) = self.disk_folder(path) {
                self.tree.remove(&format!("/sys{folder}/holders/dm-{minor}"));
            }
        }
        for path in &new {
            let Some(folder) = self.disk_folder(path) else { continue };
            let target = folder.strip_prefix("/devices").unwrap_or(&folder);
            self.tree.put_link(&format!("{slaves}/{}", path.disk.name), &format!("../../../..{target}"));
            self.tree.put_link(
                &format!("/sys{folder}/holders/dm-{minor}"),
                &format!("../../../../../../../../virtual/block/dm-{minor}"),
            );
            // multipathd shortens the replacement timeout of sessions it uses (fast_io_fail_tmo).
            if let Some(session) = self.iscsi.on_host(path.leg.host) {
                let sid = session.sid;
                let attribute = format!(
                    "/sys/devices/platform/host{}/session{sid}/iscsi_session/session{sid}/recovery_tmo",
                    path.leg.host
                );
                self.tree.set(&attribute, "5");
            }
        }
        self.free_workers();
        self.map_event(minor, "change");
        // A new table begins with all paths in use; multipathd takes those out again that it knows to be down.
        for path in new.iter().filter(|it| it.has_failed) {
            self.tell_of_path(minor, path.disk.number, true);
        }
    }

    /// device-mapper tells that a path failed or serves again.
    fn tell_of_path(&mut self, minor: u32, path: DeviceNumber, has_failed: bool) {
        let Some(map) = self.dm.maps.get(&minor) else { return };
        let valid = map.paths.iter().filter(|it| !it.has_failed).count();
        let action = if has_failed { "PATH_FAILED" } else { "PATH_REINSTATED" };
        let more = [
            ("DM_ACTION", action.to_owned()),
            ("DM_NAME", map.name.clone()),
            ("DM_NR_VALID_PATHS", valid.to_string()),
            ("DM_PATH", path.to_string()),
            ("DM_TARGET", "multipath".to_owned()),
            ("DM_UUID", map.uuid.clone()),
        ];
        let keys = super::scsi::block_keys(&format!("dm-{minor}"), map.number(), map.diskseq);
        let keys = [&keys[..], &more].concat();
        let serial = map.serial;
        self.uevent("change", &format!("/devices/virtual/block/dm-{minor}"), "block", &keys);
        self.later(self.spec.timing.udev_map, Event::UdevMap { minor, serial, news: MapNews::Path });
    }

    fn disk_folder(&self, path: &MapPath) -> Option<String> {
        self.scsi.legs.get(&path.leg).filter(|it| it.serial == path.serial)?.disk_path()
    }

    /// Changes a map's size.
    pub(crate) fn size_map(&mut self, minor: u32, sectors: u64) {
        let Some(map) = self.dm.maps.get_mut(&minor) else { return };
        map.sectors = sectors;
        map.loads += 1;
        let name = map.name.clone();
        self.tree.set(&format!("/sys/devices/virtual/block/dm-{minor}/size"), sectors.to_string());
        if let Some(plane) = self.plane.clone() {
            plane.grown(&self.spec.name, &name);
        }
        self.map_event_with(minor, "change", &[("RESIZE", "1".to_owned())]);
    }

    /// Removes a map nobody uses.
    pub(crate) fn remove_map(&mut self, minor: u32) {
        for child in self.dm.over(minor) {
            self.remove_map(child);
        }
        // Its table goes first, so that the legs are free.
        let Some(map) = self.dm.maps.get(&minor) else { return };
        let folders: Vec<String> = map.paths.iter().filter_map(|it| self.disk_folder(it)).collect();
        let keys = super::scsi::block_keys(&format!("dm-{minor}"), map.number(), map.diskseq);
        let (name, number, kind) = (map.name.clone(), map.number(), map.kind.clone());
        for folder in folders {
            self.tree.remove(&format!("/sys{folder}/holders/dm-{minor}"));
        }
        if let MapKind::Over(below) = kind {
            self.tree.remove(&format!("/sys/devices/virtual/block/dm-{below}/holders/dm-{minor}"));
        }
        self.dm.maps.remove(&minor);
        self.cache.forget(number);
        self.tree.remove(&format!("/sys/block/dm-{minor}"));
        self.tree.remove(&format!("/sys/devices/virtual/block/dm-{minor}"));
        self.tree.remove(&format!("/dev/dm-{minor}"));
        self.udev_forgets_map(minor);
        if let Some(plane) = self.plane.clone() {
            plane.removed(&self.spec.name, &name);
        }
        // device-mapper tells of it, and then the block layer.
        for _ in 0..2 {
            self.uevent("remove", &format!("/devices/virtual/block/dm-{minor}"), "block", &keys);
        }
        self.note(LogKind::Event, format!("map {name} (dm-{minor}) removed"));
    }

    /// The SCSI device of a path, if it is still the one the table was loaded with.
    pub(crate) fn path_state(&self, path: &MapPath) -> Option<LegState> {
        self.scsi.legs.get(&path.leg).filter(|it| it.serial == path.serial).map(|it| it.state)
    }

    /// The paths of a map in the order in which the kernel tries them.
    pub(crate) fn paths_by_priority(&self, minor: u32) -> Vec<MapPath> {
        let mut paths = self.dm.maps.get(&minor).map(|it| it.paths.clone()).unwrap_or_default();
        paths.sort_by_key(|it| std::cmp::Reverse(it.priority));
        paths
    }

    /// Fails or reinstates one path of a map.
    pub(crate) fn mark_path(&mut self, minor: u32, leg: Address, has_failed: bool) {
        let Some(map) = self.dm.maps.get_mut(&minor) else { return };
        let Some(path) = map.paths.iter_mut().find(|it| it.leg == leg) else { return };
        if path.has_failed == has_failed {
            return;
        }
        path.has_failed = has_failed;
        if has_failed {
            map.faults += 1;
        }
        let (name, number) = (path.disk.name.clone(), path.disk.number);
        self.tell_of_path(minor, number, has_failed);
        let word = if has_failed { "failed" } else { "reinstated" };
        self.note(LogKind::Event, format!("dm-{minor}: path {name} {word}"));
        self.touch();
        if !has_failed {
            self.free_workers();
        }
    }
}
