//! The state of one simulated node and its agenda: what happens later happens in a fixed order at a virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use san_core::{DeviceNumber, Error, ErrorKind, Result};
use san_host::{Counters, Uevent};
use tokio::sync::broadcast;
use tokio::time::Instant;

use super::data::PageCache;
use super::dm::DeviceMapper;
use super::faults::Faults;
use super::iscsi::Iscsi;
use super::log::{LogEntry, LogKind};
use super::multipathd::Multipathd;
use super::plane::BlockPlane;
use super::scsi::{Address, Scsi};
use super::settings::NodeSpec;
use super::tree::{Device, Entry, Tree};
use super::udev::{MapNews, Udev};
use super::users::Users;
use crate::target::{Portal, Reachability, Target, Unit};

/// The arrays of a world, shared by its nodes.
pub(crate) type Arrays = Arc<Mutex<Vec<Arc<dyn Target>>>>;

/// Something that happens by itself at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// A SCSI device appears, if the unit is still shown.
    LegAppears(Address),
    /// Its block device appears.
    DiskAppears { leg: Address, serial: u64 },
    /// udev finishes a disk.
    UdevDisk { leg: Address, serial: u64 },
    /// udev finishes an event of a map.
    UdevMap { minor: u32, serial: u64, news: MapNews },
    /// A login ends.
    Login { id: u64 },
    /// The initiator looks after a session (NOP, or the next attempt to log in).
    Session { sid: u32 },
    /// A NOP was not answered.
    NoAnswer { sid: u32, outage: u64 },
    /// The replacement timeout is over.
    Recovery { sid: u32, outage: u64 },
    /// multipathd's checker.
    Checker { epoch: u64 },
    /// multipathd notices that a path's device is gone.
    PathGone { leg: Address, serial: u64 },
}

/// One node.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) spec: NodeSpec,
    pub(crate) number: usize,
    pub(crate) arrays: Arrays,
    pub(crate) began: Instant,
    pub(crate) now: Instant,
    pub(crate) is_up: bool,
    pub(crate) tree: Tree,
    agenda: BTreeMap<(Instant, u64), Event>,
    next_serial: u64,
    pub(crate) generation: u64,
    pub(crate) iscsi: Iscsi,
    pub(crate) scsi: Scsi,
    pub(crate) udev: Udev,
    pub(crate) dm: DeviceMapper,
    pub(crate) multipathd: Multipathd,
    pub(crate) users: Users,
    pub(crate) cache: PageCache,
    pub(crate) faults: Faults,
    pub(crate) log: Vec<LogEntry>,
    pub(crate) counters: Counters,
    pub(crate) abandoned: BTreeSet<PathBuf>,
    pub(crate) uevents: broadcast::Sender<Arc<Uevent>>,
    pub(crate) plane: Option<Arc<dyn BlockPlane>>,
    sequence: u64,
}

impl Machine {
    pub(crate) fn new(
        spec: NodeSpec,
        number: usize,
        arrays: Arrays,
        began: Instant,
        plane: Option<Arc<dyn BlockPlane>>,
    ) -> Self {
        let (uevents, _) = broadcast::channel(1024);
        let mut machine = Self {
            spec,
            number,
            arrays,
            began,
            now: Instant::now(),
            is_up: true,
            tree: Tree::new(),
            agenda: BTreeMap::new(),
            next_serial: 0,
            generation: 0,
            iscsi: Iscsi::default(),
            scsi: Scsi::default(),
            udev: Udev::default(),
            dm: DeviceMapper::default(),
            multipathd: Multipathd::default(),
            users: Users::default(),
            cache: PageCache::default(),
            faults: Faults::default(),
            log: Vec::new(),
            counters: Counters::default(),
            abandoned: BTreeSet::new(),
            uevents,
            plane,
            sequence: 1000,
        };
        let initiator = format!("InitiatorName={}\n", machine.spec.initiator);
        machine.tree.put_file("/etc/iscsi/initiatorname.iscsi", initiator);
        machine.lay_out();
        machine
    }

    fn lay_out(&mut self) {
        for path in [
            "/sys/class/iscsi_session",
            "/sys/class/iscsi_connection",
            "/sys/class/iscsi_host",
            "/sys/class/scsi_host",
            "/sys/class/scsi_device",
            "/sys/class/scsi_generic",
            "/sys/block",
            "/sys/devices/platform",
            "/sys/devices/virtual/block",
            "/run/udev/data",
            "/run/lock/iscsi",
            "/dev/mapper",
            "/dev/disk/by-id",
            "/dev/disk/by-path",
            "/proc/self",
            "/etc/multipath/conf.d",
            self.spec.release.records(),
        ] {
            self.tree.make_dir(path);
        }
        self.write_proc();
    }

    /// Loses everything but what is on disk.
    pub(crate) fn crash(&mut self) {
        self.note(LogKind::Event, "crash");
        if let Some(plane) = &self.plane {
            plane.cleared(&self.spec.name);
        }
        let kept: Vec<_> =
            ["/etc", "/var"].into_iter().filter_map(|it| Some((it, self.tree.take(it)?))).collect();
        self.tree = Tree::new();
        for (path, entry) in kept {
            self.tree.restore(path, entry);
        }
        self.agenda.clear();
        for session in self.iscsi.sessions.values() {
            self.tell_of_logout(session.portal);
        }
        self.iscsi.crash();
        self.scsi = Scsi::default();
        self.udev.crash();
        self.dm = DeviceMapper::default();
        self.multipathd.crash();
        self.users.crash();
        self.cache = PageCache::default();
        self.faults.hanging.clear();
        self.faults.scanning.clear();
        self.faults.hanging_blocks.clear();
        self.abandoned.clear();
        self.is_up = false;
        self.touch();
    }

    /// Starts again with empty kernel state; sessions of automatic records come back by themselves.
    pub(crate) fn boot(&mut self) {
        if self.is_up {
            return;
        }
        self.note(LogKind::Event, "boot");
        self.is_up = true;
        self.lay_out();
        self.login_automatic();
        self.touch();
    }

    /// Runs everything whose time has come; whether there was anything.
    pub(crate) fn catch_up(&mut self, now: Instant) -> bool {
        let mut ran = false;
        while let Some((&(at, serial), _)) = self.agenda.first_key_value() {
            if at > now {
                break;
            }
            if let Some(event) = self.agenda.remove(&(at, serial)) {
                self.now = self.now.max(at);
                self.handle(event);
                ran = true;
            }
        }
        self.now = self.now.max(now);
        ran
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::LegAppears(leg) => self.leg_appears(leg),
            Event::DiskAppears { leg, serial } => self.disk_appears(leg, serial),
            Event::UdevDisk { leg, serial } => self.udev_disk(leg, serial),
            Event::UdevMap { minor, serial, news } => self.udev_map(minor, serial, news),
            Event::Login { id } => self.login_ends(id),
            Event::Session { sid } => self.look_after(sid),
            Event::NoAnswer { sid, outage } => self.no_answer(sid, outage),
            Event::Recovery { sid, outage } => self.recovery_over(sid, outage),
            Event::Checker { epoch } => self.check_paths(epoch),
            Event::PathGone { leg, serial } => self.path_gone(leg, serial),
        }
        self.show_queue();
        self.touch();
    }

    /// Whether udev has an event to finish.
    pub(crate) fn has_udev_event(&self) -> bool {
        self.agenda.values().any(|it| matches!(it, Event::UdevDisk { .. } | Event::UdevMap { .. }))
    }

    /// When the next event is due.
    pub(crate) fn next_event(&self) -> Option<Instant> {
        self.agenda.first_key_value().map(|((at, _), _)| *at)
    }

    /// Puts `event` on the agenda `after` from now.
    pub(crate) fn later(&mut self, after: Duration, event: Event) {
        let serial = self.serial();
        let is_udev = matches!(event, Event::UdevDisk { .. } | Event::UdevMap { .. });
        self.agenda.insert((self.now + after, serial), event);
        if is_udev {
            self.show_queue();
        }
        self.touch();
    }

    /// A number never used before on this node.
    pub(crate) fn serial(&mut self) -> u64 {
        self.next_serial += 1;
        self.next_serial
    }

    /// Tells waiters that something changed.
    pub(crate) fn touch(&mut self) {
        self.generation += 1;
    }

    pub(crate) fn note(&mut self, kind: LogKind, text: impl Into<String>) {
        let at = self.now.saturating_duration_since(self.began);
        self.log.push(LogEntry { at, kind, text: text.into() });
    }

    /// Sends a kernel event.
    pub(crate) fn uevent(&mut self, action: &str, device: &str, subsystem: &str, more: &[(&str, String)]) {
        self.sequence += 1;
        let mut keys = BTreeMap::from([
            ("ACTION".to_owned(), action.to_owned()),
            ("DEVPATH".to_owned(), device.to_owned()),
            ("SUBSYSTEM".to_owned(), subsystem.to_owned()),
            ("SEQNUM".to_owned(), self.sequence.to_string()),
        ]);
        keys.extend(more.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        let event = Uevent { action: action.to_owned(), device: device.to_owned(), keys };
        // Nobody listening is fine.
        let _ = self.uevents.send(Arc::new(event));
        self.touch();
    }

    /// The portal that listens at `address` and its array.
    pub(crate) fn portal(&self, address: SocketAddr) -> Option<(Portal, Arc<dyn Target>)> {
        let arrays = self.arrays.lock().unwrap_or_else(PoisonError::into_inner);
        arrays.iter().find_map(|array| {
            let portal = array.portals().into_iter().find(|it| it.address == address)?;
            Some((portal, Arc::clone(array)))
        })
    }

    /// How `address` answers this node.
    pub(crate) fn reachability(&self, address: SocketAddr) -> Reachability {
        if self.faults.partitioned.contains(&address) {
            return Reachability::BlackHole;
        }
        self.portal(address).map_or(Reachability::BlackHole, |(portal, _)| portal.reachability)
    }

    /// The logical units that this node is shown on a portal right now, by the number Linux gives them.
    pub(crate) fn units(&self, address: SocketAddr) -> BTreeMap<u32, Unit> {
        if self.faults.partitioned.contains(&address) {
            return BTreeMap::new();
        }
        let Some((_, array)) = self.portal(address) else { return BTreeMap::new() };
        let units = array.units(&self.spec.initiator, address);
        units.into_iter().map(|(lun, unit)| (super::scsi::linux_lun(lun), unit)).collect()
    }

    /// What a path below `/dev` stands for.
    pub(crate) fn device(&self, path: &str) -> Result<Device> {
        match self.tree.follow(path)? {
            Some(Entry::Node(device)) => Ok(*device),
            Some(_) => Err(Error::new(ErrorKind::InvalidInput, "not a device").on(path)),
            None => Err(Error::new(ErrorKind::NotFound, "no such device").on(path)),
        }
    }

    /// The block device a path stands for.
    pub(crate) fn block(&self, path: &str) -> Result<DeviceNumber> {
        match self.device(path)? {
            Device::Block(number) => Ok(number),
            Device::Generic(_) => Err(Error::new(ErrorKind::InvalidInput, "not a block device").on(path)),
        }
    }

    /// An error while the node is down.
    pub(crate) fn check_up(&self) -> Result<()> {
        if self.is_up {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::Unavailable, "the node is down").on(&self.spec.name))
        }
    }
}
