//! multipathd: which paths it knows, how it groups them into maps, its checker, and what it does by itself.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::dm::{MapKind, MapPath, Queueing};
use super::log::LogKind;
use super::machine::{Event, Machine};
use super::scsi::{Address, Disk, Leg, LegState};
use super::settings::{FindMultipaths, NoPathRetry, RecheckWwid};

/// Where multipathd remembers what it made maps of.
const WWIDS: &str = "/etc/multipath/wwids";
const WWIDS_HEAD: &str = "# Multipath wwids, Version : 1.0\n\
    # NOTE: This file is automatically maintained by multipath and multipathd.\n\
    # You should not need to edit this file in normal circumstances.\n#\n# Valid WWIDs:\n";

/// Whether multipathd runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Daemon {
    #[default]
    Running,
    Stopped,
    /// It takes connections and commands, and never answers.
    Hung,
}

/// A path as multipathd knows it: from udev, and as old as udev's last look.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) serial: u64,
    pub(crate) disk: Disk,
    pub(crate) wwid: String,
    pub(crate) is_ready: bool,
    pub(crate) priority: u32,
}

/// multipathd.
#[derive(Debug, Default)]
pub(crate) struct Multipathd {
    pub(crate) daemon: Daemon,
    /// Counts its starts: connections and checkers of an earlier one are void.
    pub(crate) epoch: u64,
    pub(crate) paths: BTreeMap<Address, Known>,
    /// Until when it answers `timeout` to everything.
    pub(crate) late_until: Option<Instant>,
    /// Until when it is at work on earlier commands: they run one by one.
    pub(crate) busy_until: Option<Instant>,
    is_checking: bool,
}

impl Multipathd {
    pub(crate) fn crash(&mut self) {
        *self = Self { epoch: self.epoch + 1, ..Self::default() };
    }
}

impl Machine {
    pub(crate) fn stop_multipathd(&mut self) {
        self.multipathd.daemon = Daemon::Stopped;
        self.multipathd.epoch += 1;
        self.multipathd.paths.clear();
        self.multipathd.is_checking = false;
        self.note(LogKind::Event, "multipathd stopped");
        self.touch();
    }

    pub(crate) fn hang_multipathd(&mut self) {
        self.multipathd.daemon = Daemon::Hung;
        self.note(LogKind::Event, "multipathd hangs");
        self.touch();
    }

    /// Starts, or wakes from hanging. Maps are in the kernel and stay; paths are found again.
    pub(crate) fn start_multipathd(&mut self) {
        if self.multipathd.daemon == Daemon::Stopped {
            self.multipathd.epoch += 1;
        }
        self.multipathd.daemon = Daemon::Running;
        self.note(LogKind::Event, "multipathd runs");
        // Paths whose device went while it did not look: those it knew, and those of tables it finds.
        let of_tables =
            self.dm.maps.values().flat_map(|it| it.paths.iter().map(|path| (path.leg, path.serial)));
        let known = self.multipathd.paths.iter().map(|(leg, it)| (*leg, it.serial));
        for (leg, serial) in known.chain(of_tables).collect::<Vec<_>>() {
            if self.scsi.legs.get(&leg).is_none_or(|it| it.serial != serial) {
                self.path_gone(leg, serial);
            }
        }
        for leg in self.scsi.legs.keys().copied().collect::<Vec<_>>() {
            self.path_event(leg);
        }
        self.touch();
    }

    /// Whether udev marks a disk as a path: every disk is one, or its WWID has a map or had one once.
    pub(crate) fn is_claimed(&self, leg: &Leg) -> bool {
        self.dm.find(&leg.wwid()).is_some() || self.is_wanted(&leg.wwid())
    }

    /// Whether multipathd makes a map of a path by itself.
    fn is_wanted(&self, wwid: &str) -> bool {
        let is_remembered = || self.tree.text(WWIDS).lines().any(|it| it.trim_matches('/') == wwid);
        self.spec.multipath.find_multipaths == FindMultipaths::Off || is_remembered()
    }

    /// Whoever had a map once gets one again, also after a reboot.
    fn remember(&mut self, wwid: &str) {
        let mut text = self.tree.text(WWIDS);
        if text.is_empty() {
            text.push_str(WWIDS_HEAD);
        }
        let line = format!("/{wwid}/\n");
        if !text.contains(&line) {
            text.push_str(&line);
            self.tree.put_file(WWIDS, text);
        }
    }

    /// udev has (again) recorded a disk.
    pub(crate) fn path_event(&mut self, address: Address) {
        if self.multipathd.daemon != Daemon::Running {
            return;
        }
        let Some(leg) = self.scsi.legs.get(&address) else { return };
        let Some(disk) = leg.disk.clone() else { return };
        // It believes udev's record, whatever the kernel has read since.
        let record = self.tree.text(&format!("/run/udev/data/b{}", disk.number));
        let Some(wwid) = record.lines().find_map(|it| it.strip_prefix("E:ID_SERIAL=")) else { return };
        let (wwid, serial) = (wwid.to_owned(), leg.serial);
        let (priority, is_ready) = (if leg.optimized { 50 } else { 10 }, leg.state == LegState::Running);
        match self.multipathd.paths.get(&address) {
            // A path it knows makes no new map, whatever event comes.
            Some(known) if known.serial == serial && known.wwid == wwid => return,
            Some(known) => {
                let old = known.serial;
                self.drop_path(address, old);
            }
            None => {}
        }
        let known = Known { serial, disk, wwid: wwid.clone(), is_ready, priority };
        self.multipathd.paths.insert(address, known);
        self.start_checking();
        if self.dm.find(&wwid).is_some() {
            self.adopt(address);
        } else if self.is_wanted(&wwid) {
            self.add_map(&wwid);
        }
    }

    /// Takes a known path into the map of its WWID; `false` where it cannot be one.
    pub(crate) fn adopt(&mut self, address: Address) -> bool {
        let Some(known) = self.multipathd.paths.get(&address) else { return false };
        let Some(map) = self.dm.find(&known.wwid) else { return false };
        if map.paths.iter().any(|it| it.leg == address && it.serial == known.serial) {
            return true;
        }
        let minor = map.minor;
        let (mut paths, sectors) = (map.paths.clone(), map.sectors);
        let fits = self.scsi.legs.get(&address).is_some_and(|it| it.sectors == sectors && can_open(it.state));
        let Some(path) = self.map_path(address).filter(|_| fits) else {
            self.note(LogKind::Event, format!("multipathd leaves {address} out of dm-{minor}"));
            return false;
        };
        paths.push(path);
        self.load_table(minor, paths);
        self.claim(&[address]);
        true
    }

    fn map_path(&self, leg: Address) -> Option<MapPath> {
        let known = self.multipathd.paths.get(&leg)?;
        Some(MapPath {
            leg,
            serial: known.serial,
            disk: known.disk.clone(),
            has_failed: !known.is_ready,
            priority: known.priority,
        })
    }

    /// Makes the map of a WWID with every path that has it, whatever volume it really is; the first path's size
    /// decides, others of another size are left out. `None` where there is no path to make it of.
    pub(crate) fn add_map(&mut self, wwid: &str) -> Option<u32> {
        if let Some(map) = self.dm.find(wwid) {
            return Some(map.minor);
        }
        let of_wwid = self.multipathd.paths.iter().filter(|(_, it)| it.wwid == wwid).map(|(leg, _)| *leg);
        let legs: Vec<Address> =
            of_wwid.filter(|it| self.scsi.legs.get(it).is_some_and(|leg| can_open(leg.state))).collect();
        let first = self.scsi.legs.get(legs.first()?)?;
        let sectors = first.sectors;
        let kind = MapKind::Multipath {
            wwid: wwid.to_owned(),
            vendor: first.vendor.clone(),
            product: first.product.clone(),
            revision: first.revision.clone(),
        };
        let file = self.unit_of(first.address).map(|(unit, _)| unit.file);
        let fits = |it: &&Address| self.scsi.legs.get(it).is_some_and(|leg| leg.sectors == sectors);
        let paths = legs.iter().filter(fits).filter_map(|it| self.map_path(*it)).collect();
        if let (Some(plane), Some(file)) = (self.plane.clone(), file) {
            plane.appeared(&self.spec.name, wwid, &file);
        }
        self.remember(wwid);
        let minor = self.create_map(wwid, &format!("mpath-{wwid}"), kind, sectors, paths);
        self.claim(&legs);
        Some(minor)
    }

    /// Lets udev look again at paths that it did not take for paths before they had a map.
    fn claim(&mut self, legs: &[Address]) {
        for leg in legs {
            let Some(disk) = self.scsi.legs.get(leg).and_then(|it| it.disk.as_ref()) else { continue };
            let record = self.tree.text(&format!("/run/udev/data/b{}", disk.number));
            if record.contains("E:DM_MULTIPATH_DEVICE_PATH=0\n") {
                self.disk_event_with(*leg, "change", &[("SYNTH_UUID", "0".to_owned())]);
            }
        }
    }

    /// A path's device is gone.
    pub(crate) fn path_gone(&mut self, leg: Address, serial: u64) {
        if self.multipathd.daemon == Daemon::Running {
            self.drop_path(leg, serial);
        }
    }

    /// Forgets a path and takes it out of its map. A map that loses its last path is flushed away, if nobody uses it
    /// (`flush_on_last_del`, built in for NETAPP).
    pub(crate) fn drop_path(&mut self, leg: Address, serial: u64) {
        if self.multipathd.paths.get(&leg).is_some_and(|it| it.serial == serial) {
            self.multipathd.paths.remove(&leg);
        }
        let is_it = |it: &MapPath| it.leg == leg && it.serial == serial;
        let Some(map) = self.dm.maps.values().find(|it| it.paths.iter().any(is_it)) else { return };
        let minor = map.minor;
        let paths: Vec<MapPath> = map.paths.iter().filter(|it| !is_it(it)).cloned().collect();
        let is_last = paths.is_empty();
        let is_netapp = matches!(&map.kind, MapKind::Multipath { vendor, .. } if vendor.trim() == "NETAPP");
        if is_last && is_netapp {
            // Nothing is to wait for a map that is to go.
            self.mark_path(minor, leg, true);
            if let Some(map) = self.dm.maps.get_mut(&minor) {
                map.queueing = Queueing::Off;
            }
        }
        self.load_table(minor, paths);
        if is_last && is_netapp {
            if self.is_in_use_but_for_udev(minor) {
                self.note(LogKind::Event, format!("dm-{minor} lost its last path and is in use"));
            } else {
                self.remove_map(minor);
            }
        }
    }

    fn is_in_use_but_for_udev(&mut self, minor: u32) -> bool {
        if let Some(map) = self.dm.maps.get_mut(&minor) {
            map.has_worker = false;
        }
        self.is_in_use(minor)
    }

    fn start_checking(&mut self) {
        if !self.multipathd.is_checking {
            self.multipathd.is_checking = true;
            let epoch = self.multipathd.epoch;
            self.later(self.spec.timing.checker, Event::Checker { epoch });
        }
    }

    /// One round of the checker.
    pub(crate) fn check_paths(&mut self, epoch: u64) {
        if epoch != self.multipathd.epoch || self.multipathd.daemon == Daemon::Stopped {
            return;
        }
        if self.multipathd.paths.is_empty() {
            self.multipathd.is_checking = false;
            return;
        }
        if self.multipathd.daemon == Daemon::Running {
            // Each portal is asked once a round, however many paths lead over it.
            let portals = self.iscsi.sessions.values().map(|it| (it.host, it.portal));
            let shown: BTreeMap<u32, _> =
                portals.map(|(host, portal)| (host, self.identities(portal))).collect();
            // Paths of no map are not looked at.
            let of_maps = self.dm.maps.values().flat_map(|it| it.paths.iter().map(|path| path.leg));
            for leg in of_maps.collect::<Vec<_>>() {
                if self.answers(leg) {
                    self.unit_attention(leg);
                }
                let own = shown.get(&leg.host);
                self.check_path(leg, own.and_then(|it| it.get(&leg.lun)).copied());
            }
            for minor in self.dm.maps.keys().copied().collect::<Vec<_>>() {
                if let Some(map) = self.dm.maps.get_mut(&minor) {
                    map.sort_paths();
                }
                self.count_retries(minor);
            }
        }
        self.later(self.spec.timing.checker, Event::Checker { epoch });
    }

    /// Whether a command to a leg is answered now, be it with an error.
    fn answers(&self, leg: Address) -> bool {
        let is_running = self.scsi.legs.get(&leg).is_some_and(|it| it.state == LegState::Running);
        is_running && !self.leg_would_hang(leg)
    }

    /// One TEST UNIT READY: it succeeds on whatever unit is there now.
    fn check_path(&mut self, address: Address, naa: Option<[u8; 16]>) {
        let Some(known) = self.multipathd.paths.get(&address).cloned() else { return };
        let Some(leg) = self.scsi.legs.get(&address).filter(|it| it.serial == known.serial) else { return };
        let is_ready = match leg.state {
            LegState::Running if self.faults.hanging.contains(&address) => false,
            // Pending: nothing is decided yet, and nothing is known of a session that died a moment ago.
            LegState::Running if self.leg_would_hang(address) => return,
            LegState::Blocked => return,
            LegState::Running => naa.is_some(),
            LegState::Offline | LegState::TransportOffline => false,
        };
        let was_failed = self.has_failed(address);
        if let Some(known) = self.multipathd.paths.get_mut(&address) {
            known.is_ready = is_ready;
        }
        if is_ready && (!known.is_ready || was_failed) {
            if self.has_other_identity(address, &known.wwid, naa) {
                return;
            }
            self.reinstate(address);
        } else if !is_ready && !was_failed {
            self.fail_path(address);
        }
    }

    /// With `recheck_wwid` a path that comes back is asked who it is; another volume is taken out of the map.
    fn has_other_identity(&mut self, address: Address, wwid: &str, naa: Option<[u8; 16]>) -> bool {
        if self.spec.multipath.recheck_wwid == RecheckWwid::No {
            return false;
        }
        let fresh = naa.map(|it| format!("3{}", super::inquiry::hex(&it)));
        if fresh.is_none_or(|it| it == wwid) {
            return false;
        }
        self.note(LogKind::Event, format!("{address} is another volume now"));
        if let Some(known) = self.multipathd.paths.get(&address).cloned() {
            self.drop_path(address, known.serial);
        }
        self.rescan(address);
        self.disk_event(address, "change");
        true
    }

    fn has_failed(&self, leg: Address) -> bool {
        let mut paths = self.dm.maps.values().flat_map(|it| &it.paths);
        paths.any(|it| it.leg == leg && it.has_failed)
    }

    pub(crate) fn minor_of_path(&self, leg: Address) -> Option<u32> {
        self.dm.maps.values().find(|it| it.paths.iter().any(|path| path.leg == leg)).map(|it| it.minor)
    }

    /// Reinstates a path; queueing comes back with it.
    pub(crate) fn reinstate(&mut self, leg: Address) -> bool {
        let Some(minor) = self.minor_of_path(leg) else { return false };
        self.mark_path(minor, leg, false);
        let retry = self.spec.multipath.no_path_retry;
        if let Some(map) = self.dm.maps.get_mut(&minor) {
            map.checks_failed = 0;
            if retry != NoPathRetry::Fail && map.queueing == Queueing::Off {
                map.queueing = Queueing::On;
            }
        }
        true
    }

    /// Fails a path.
    pub(crate) fn fail_path(&mut self, leg: Address) -> bool {
        let Some(minor) = self.minor_of_path(leg) else { return false };
        self.mark_path(minor, leg, true);
        true
    }

    /// With a number for `no_path_retry`, queueing ends after so many checks without any path.
    fn count_retries(&mut self, minor: u32) {
        let NoPathRetry::Checks(limit) = self.spec.multipath.no_path_retry else { return };
        let Some(map) = self.dm.maps.get_mut(&minor) else { return };
        if map.wwid().is_none() || map.paths.iter().any(|it| !it.has_failed) || !map.queues() {
            return;
        }
        map.checks_failed += 1;
        if map.checks_failed >= limit {
            map.queueing = Queueing::Off;
            self.note(LogKind::Event, format!("dm-{minor} stops queueing"));
            self.free_workers();
            self.touch();
        }
    }
}

/// Whether the kernel lets a disk be opened in this state.
fn can_open(state: LegState) -> bool {
    matches!(state, LegState::Running | LegState::Blocked)
}
