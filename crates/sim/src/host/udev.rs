//! udev: its data base below `/run/udev/data`, its links below `/dev`, and its workers, which can be late or stuck.

use super::dm::{Map, MapKind};
use super::formats::push;
use super::inquiry;
use super::log::LogKind;
use super::machine::{Event, Machine};
use super::scsi::{Address, Disk, Leg};
use crate::target::Portal;

/// Whether systemd-udevd runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Daemon {
    #[default]
    Running,
    Stopped,
}

/// What an event of a map is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MapNews {
    /// Its table or size: udev looks into the map.
    Table,
    /// One of its paths: udev keeps what it knows.
    Path,
}

/// udev.
#[derive(Debug, Default)]
pub(crate) struct Udev {
    pub(crate) daemon: Daemon,
    /// Events that came while it was stopped.
    waiting: Vec<Event>,
    /// Workers that opened a map which serves nothing.
    stuck: Vec<(u32, u64)>,
    /// Workers that read from a disk which answers nothing.
    reading: Vec<(Address, u64)>,
}

impl Udev {
    pub(crate) fn crash(&mut self) {
        *self = Self::default();
    }

    /// Whether anything is not yet worked off.
    fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.stuck.is_empty() && self.reading.is_empty()
    }

    /// Maps on which a worker hangs.
    pub(crate) fn stuck(&self) -> impl Iterator<Item = u32> {
        self.stuck.iter().map(|(minor, _)| *minor)
    }
}

impl Machine {
    pub(crate) fn stop_udev(&mut self) {
        self.udev.daemon = Daemon::Stopped;
        self.note(LogKind::Event, "udev stopped");
        self.touch();
    }

    pub(crate) fn start_udev(&mut self) {
        self.udev.daemon = Daemon::Running;
        self.note(LogKind::Event, "udev started");
        for event in std::mem::take(&mut self.udev.waiting) {
            self.later(self.spec.timing.udev, event);
        }
        self.touch();
    }

    /// `/run/udev/queue` is there for as long as udev has work.
    pub(crate) fn show_queue(&mut self) {
        if self.udev.is_idle() && !self.has_udev_event() {
            self.tree.remove("/run/udev/queue");
        } else {
            self.tree.put_file("/run/udev/queue", "");
        }
    }

    /// udev finishes an event of a disk: it believes what sysfs has cached.
    pub(crate) fn udev_disk(&mut self, address: Address, serial: u64) {
        if self.udev.daemon == Daemon::Stopped {
            self.udev.waiting.push(Event::UdevDisk { leg: address, serial });
            return;
        }
        let Some(leg) = self.scsi.legs.get(&address) else { return };
        let Some(session) = self.iscsi.on_host(address.host) else { return };
        let Some(disk) = leg.disk.clone().filter(|_| leg.serial == serial) else { return };
        if self.faults.hanging.contains(&address) {
            // It looks for file systems first.
            self.note(LogKind::Event, format!("a udev worker hangs on {}", disk.name));
            self.udev.reading.push((address, serial));
            return;
        }
        let Some((portal, _)) = self.portal(session.portal) else { return };
        // Numbers above 255 are written as their eight bytes.
        let lun = match address.lun {
            it @ 0..256 => it.to_string(),
            it => super::multipathd_commands::lun_hex(it),
        };
        let name = format!("ip-{}-iscsi-{}-lun-{lun}", session.portal, session.target);
        let links = links_of(leg, &disk, &name);
        let record = self.disk_record(leg, &portal, &name, &links);
        self.tree.put_file(&format!("/run/udev/data/b{}", disk.number), record);
        for link in &links {
            let path = format!("/dev/{link}");
            // A map's links have the higher priority.
            let taken = self.link_target(&path).is_some_and(|it| it.contains("/dm-"));
            if !taken {
                self.tree.put_link(&path, &format!("../../{}", disk.name));
            }
        }
        self.note(LogKind::Event, format!("udev recorded {}", disk.name));
        self.path_event(address);
        self.touch();
    }

    fn disk_record(&self, leg: &Leg, portal: &Portal, path: &str, links: &[String]) -> String {
        let naa = inquiry::hex(&leg.naa);
        let serial = String::from_utf8_lossy(&leg.unit_serial).into_owned();
        let (vendor, model) = (underscored(&leg.vendor), underscored(&leg.product));
        let encoded = [encoded(&leg.vendor, 8), encoded(&leg.product, 16)];
        let is_claimed = self.is_claimed(leg);
        let mut record = String::new();
        for link in links {
            push(&mut record, format_args!("S:{link}\n"));
        }
        push(&mut record, format_args!("I:{}\n", self.micros()));
        let properties = [
            ("SCSI_TPGS", "1".to_owned()),
            ("SCSI_TYPE", "disk".to_owned()),
            ("SCSI_VENDOR", vendor.clone()),
            ("SCSI_VENDOR_ENC", encoded[0].clone()),
            ("SCSI_MODEL", model.clone()),
            ("SCSI_MODEL_ENC", encoded[1].clone()),
            ("SCSI_REVISION", leg.revision.clone()),
            ("ID_SCSI", "1".to_owned()),
            ("ID_SCSI_INQUIRY", "1".to_owned()),
            ("SCSI_IDENT_SERIAL", serial.clone()),
            ("SCSI_IDENT_LUN_NAA_REGEXT", naa.clone()),
            ("SCSI_IDENT_LUN_T10", format!("{vendor}_{model}:{serial}")),
            ("SCSI_IDENT_PORT_RELATIVE", portal.group.to_string()),
            ("SCSI_IDENT_PORT_TARGET_PORT_GROUP", format!("{:#x}", portal.group)),
            ("SCSI_IDENT_LUN_LOGICAL_UNIT_GROUP", "0x0".to_owned()),
            ("SCSI_IDENT_PORT_NAME", format!("{},t,0x{:04x}", portal.target, portal.group)),
            ("SCSI_IDENT_TARGET_NAME", portal.target.clone()),
            ("ID_VENDOR", vendor),
            ("ID_VENDOR_ENC", encoded[0].clone()),
            ("ID_MODEL", model),
            ("ID_MODEL_ENC", encoded[1].clone()),
            ("ID_REVISION", leg.revision.clone()),
            ("ID_TYPE", "disk".to_owned()),
            ("ID_TARGET_PORT", portal.group.to_string()),
            ("ID_WWN_WITH_EXTENSION", format!("0x{naa}")),
            ("ID_WWN", format!("0x{}", &naa[..16])),
            ("ID_BUS", "scsi".to_owned()),
            ("ID_SERIAL", leg.wwid()),
            ("ID_SERIAL_SHORT", naa),
            ("ID_SCSI_SERIAL", serial),
            ("DM_MULTIPATH_DEVICE_PATH", if is_claimed { "1" } else { "0" }.to_owned()),
            ("ID_PATH", path.to_owned()),
            ("ID_PATH_TAG", tag(path)),
        ];
        for (key, value) in properties {
            push(&mut record, format_args!("E:{key}={value}\n"));
        }
        if is_claimed {
            record.push_str("E:DM_DEL_PART_NODES=1\nE:ID_FS_TYPE=mpath_member\nE:SYSTEMD_READY=0\n");
        }
        record.push_str("G:systemd\nQ:systemd\nV:1\n");
        record
    }

    /// A deleted disk's record and links go.
    pub(crate) fn udev_forgets(&mut self, leg: &Leg) {
        self.udev.reading.retain(|(_, serial)| *serial != leg.serial);
        self.show_queue();
        let Some(disk) = &leg.disk else { return };
        self.tree.remove(&format!("/run/udev/data/b{}", disk.number));
        let own = format!("../../{}", disk.name);
        for (link, target) in self.tree.links_below("/dev/disk") {
            if target == own {
                self.tree.remove(&link);
            }
        }
    }

    /// An event of a map: a worker opens it, and has it open until it is done.
    pub(crate) fn map_event(&mut self, minor: u32, action: &str) {
        self.map_event_with(minor, action, &[]);
    }

    /// The same with more keys.
    pub(crate) fn map_event_with(&mut self, minor: u32, action: &str, more: &[(&'static str, String)]) {
        let Some(map) = self.dm.maps.get_mut(&minor) else { return };
        let keys = super::scsi::block_keys(&format!("dm-{minor}"), map.number(), map.diskseq);
        let keys = [&keys[..], more].concat();
        let serial = map.serial;
        map.has_worker = self.udev.daemon == Daemon::Running;
        self.uevent(action, &format!("/devices/virtual/block/dm-{minor}"), "block", &keys);
        self.later(self.spec.timing.udev_map, Event::UdevMap { minor, serial, news: MapNews::Table });
    }

    /// udev finishes an event of a map, unless it hangs in it.
    pub(crate) fn udev_map(&mut self, minor: u32, serial: u64, news: MapNews) {
        if self.udev.daemon == Daemon::Stopped {
            self.udev.waiting.push(Event::UdevMap { minor, serial, news });
            return;
        }
        let Some(number) = self.dm.maps.get(&minor).filter(|it| it.serial == serial).map(Map::number) else {
            return;
        };
        // The rules look at the paths first: a map that has none in use is not opened.
        let is_ready = self.dm.maps.get(&minor).is_some_and(Map::is_ready);
        if is_ready && news == MapNews::Table && self.would_hang(number) {
            self.note(LogKind::Event, format!("a udev worker hangs on dm-{minor}"));
            self.udev.stuck.push((minor, serial));
            return;
        }
        let Some(map) = self.dm.maps.get_mut(&minor) else { return };
        if news == MapNews::Table {
            map.has_worker = false;
        }
        let (name, uuid, diskseq) = (map.name.clone(), map.uuid.clone(), map.diskseq);
        let serial = map.wwid().map(str::to_owned);
        let mut links = vec![format!("mapper/{name}")];
        if let MapKind::Multipath { wwid, .. } = &map.kind {
            let digits = wwid.get(1..).unwrap_or_default();
            links.push(format!("disk/by-id/wwn-0x{digits}"));
            links.push(format!("disk/by-id/scsi-{wwid}"));
        }
        links.push(format!("disk/by-id/dm-name-{name}"));
        links.push(format!("disk/by-id/dm-uuid-{uuid}"));
        links.push(format!("disk/by-diskseq/{diskseq}"));
        for link in &links {
            let up = "../".repeat(link.matches('/').count());
            self.tree.put_link(&format!("/dev/{link}"), &format!("{up}dm-{minor}"));
        }
        let mut record = String::new();
        for link in &links {
            push(&mut record, format_args!("S:{link}\n"));
        }
        push(&mut record, format_args!("L:50\nI:{}\n", self.micros()));
        for (key, value) in [
            ("DM_UDEV_PRIMARY_SOURCE_FLAG", "1"),
            ("DM_ACTIVATION", if news == MapNews::Table { "1" } else { "0" }),
            ("DM_NAME", &name),
            ("DM_UUID", &uuid),
            ("DM_UDEV_DISABLE_LIBRARY_FALLBACK_FLAG", "1"),
            ("DM_UDEV_RULES_VSN", "3"),
            ("MPATH_DEVICE_READY", if is_ready { "1" } else { "0" }),
        ] {
            push(&mut record, format_args!("E:{key}={value}\n"));
        }
        if news == MapNews::Path {
            record.push_str("E:MPATH_UNCHANGED=1\n");
        }
        if !is_ready {
            record.push_str("E:DM_UDEV_DISABLE_OTHER_RULES_FLAG=1\n");
        }
        if let Some(wwid) = serial {
            let digits = wwid.get(1..).unwrap_or_default();
            let keys = format!("E:DM_TYPE=scsi\nE:DM_WWN=0x{digits}\nE:DM_SERIAL={wwid}\n");
            record.push_str(&keys);
        }
        record.push_str("G:systemd\nQ:systemd\nV:1\n");
        self.tree.put_file(&format!("/run/udev/data/b{number}"), record);
        self.note(LogKind::Event, format!("udev recorded dm-{minor} ({name})"));
        self.touch();
    }

    /// Workers that hung get on once the map serves or fails.
    pub(crate) fn free_workers(&mut self) {
        for (leg, serial) in std::mem::take(&mut self.udev.reading) {
            self.udev_disk(leg, serial);
        }
        for (minor, serial) in std::mem::take(&mut self.udev.stuck) {
            self.udev_map(minor, serial, MapNews::Table);
        }
        self.show_queue();
    }

    /// A removed map's record and links go.
    pub(crate) fn udev_forgets_map(&mut self, minor: u32) {
        self.tree.remove(&format!("/run/udev/data/b{}:{minor}", super::dm::MAJOR));
        for folder in ["/dev/disk", "/dev/mapper"] {
            for (link, target) in self.tree.links_below(folder) {
                if target.rsplit('/').next() == Some(&format!("dm-{minor}")) {
                    self.tree.remove(&link);
                    if let Some(disk) = self.next_owner(&link) {
                        self.tree.put_link(&link, &format!("../../{disk}"));
                    }
                }
            }
        }
    }

    /// The disk that a link falls to once a map has gone: one whose record names it too.
    fn next_owner(&self, link: &str) -> Option<String> {
        let wanted = format!("S:{}", link.strip_prefix("/dev/")?);
        let disks = self.scsi.legs.values().filter_map(|it| it.disk.as_ref());
        let named = |it: &&Disk| {
            let record = self.tree.text(&format!("/run/udev/data/b{}", it.number));
            record.lines().any(|line| line == wanted)
        };
        disks.filter(named).max_by_key(|it| it.index).map(|it| it.name.clone())
    }

    fn micros(&self) -> u128 {
        self.now.saturating_duration_since(self.began).as_micros()
    }

    fn link_target(&self, path: &str) -> Option<&str> {
        match self.tree.entry(path) {
            Some(super::tree::Entry::Link(target)) => Some(target),
            _ => None,
        }
    }
}

/// A text of INQUIRY data as udev keeps it.
fn underscored(text: &str) -> String {
    text.trim().replace(' ', "_")
}

/// A text of INQUIRY data with its filling, blanks written out.
fn encoded(text: &str, length: usize) -> String {
    format!("{text:length$}").replace(' ', "\\x20")
}

/// A path's name as a tag: everything but letters, digits and dashes becomes an underscore.
fn tag(path: &str) -> String {
    let mut tag = String::new();
    for it in path.chars() {
        let it = if it.is_ascii_alphanumeric() || it == '-' { it } else { '_' };
        // Underscores are not repeated.
        if it != '_' || !tag.ends_with('_') {
            tag.push(it);
        }
    }
    tag
}

fn links_of(leg: &Leg, disk: &Disk, path: &str) -> Vec<String> {
    vec![
        format!("disk/by-diskseq/{}", disk.diskseq),
        format!("disk/by-id/scsi-{}", leg.wwid()),
        format!("disk/by-path/{path}"),
        format!("disk/by-id/wwn-0x{}", inquiry::hex(&leg.naa)),
    ]
}
