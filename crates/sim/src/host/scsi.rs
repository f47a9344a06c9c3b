//! SCSI devices ("legs"): scanning, states, rescanning and deleting, with the kernel's rules and its stale caches.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use san_core::{DeviceNumber, Error, ErrorKind, Result};

use super::formats::lowest_free;
use super::inquiry;
use super::iscsi::SessionState;
use super::log::LogKind;
use super::machine::{Event, Machine};
use super::settings::UnshownLun;
use crate::target::{Portal, Unit};

/// A SCSI address as Linux numbers it; numbers of flat addressing are above 16383.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// The SCSI host.
    pub host: u32,
    /// The channel.
    pub channel: u32,
    /// The target id.
    pub target: u32,
    /// The logical unit.
    pub lun: u32,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.host, self.channel, self.target, self.lun)
    }
}

impl From<san_core::Hctl> for Address {
    fn from(it: san_core::Hctl) -> Self {
        Self { host: it.host, channel: it.channel, target: it.target, lun: it.lun.number().into() }
    }
}

/// The number Linux gives a logical unit: above 255 arrays use flat addressing, which shows in the number.
pub(crate) fn linux_lun(number: u16) -> u32 {
    let number = u32::from(number);
    if number < 256 { number } else { number | 0x4000 }
}

/// The state of a SCSI device as sysfs names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LegState {
    /// Usable.
    Running,
    /// Put aside by a write to `state`.
    Offline,
    /// Its session was lost a moment ago; commands wait.
    Blocked,
    /// Its session has been lost for long; commands fail.
    TransportOffline,
}

impl LegState {
    /// The text in sysfs.
    pub fn text(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Offline => "offline",
            Self::Blocked => "blocked",
            Self::TransportOffline => "transport-offline",
        }
    }
}

/// The block device of a leg.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    pub(crate) index: u32,
    pub(crate) name: String,
    pub(crate) number: DeviceNumber,
    pub(crate) diskseq: u64,
}

/// One SCSI device. Everything read from the unit is as old as the last scan or rescan.
#[derive(Debug)]
pub(crate) struct Leg {
    pub(crate) address: Address,
    pub(crate) sid: u32,
    /// Tells this device from an earlier one at the same address.
    pub(crate) serial: u64,
    pub(crate) state: LegState,
    pub(crate) vendor: String,
    pub(crate) product: String,
    pub(crate) revision: String,
    pub(crate) naa: [u8; 16],
    pub(crate) unit_serial: Vec<u8>,
    pub(crate) sectors: u64,
    pub(crate) optimized: bool,
    pub(crate) generic: u32,
    pub(crate) disk: Option<Disk>,
    /// The other units of its target as it last heard of them: a unit attention is due when they change. Of its own
    /// unit no target says anything.
    pub(crate) others: BTreeMap<u32, [u8; 16]>,
}

impl Leg {
    /// Below `/sys`.
    pub(crate) fn device_path(&self, sid: u32) -> String {
        let Address { host, channel, target, .. } = self.address;
        format!("/devices/platform/host{host}/session{sid}/target{host}:{channel}:{target}/{}", self.address)
    }

    /// Its block device's folder below `/sys`.
    pub(crate) fn disk_path(&self) -> Option<String> {
        Some(format!("{}/block/{}", self.device_path(self.sid), self.disk.as_ref()?.name))
    }

    /// The WWID as udev and multipathd spell it.
    pub(crate) fn wwid(&self) -> String {
        format!("3{}", inquiry::hex(&self.naa))
    }
}

/// All SCSI devices of a node.
#[derive(Debug, Default)]
pub(crate) struct Scsi {
    pub(crate) legs: BTreeMap<Address, Leg>,
    diskseq: u64,
}

impl Scsi {
    pub(crate) fn on_host(&self, host: u32) -> Vec<Address> {
        self.legs.keys().filter(|it| it.host == host).copied().collect()
    }

    pub(crate) fn by_number(&self, number: DeviceNumber) -> Option<&Leg> {
        self.legs.values().find(|it| it.disk.as_ref().is_some_and(|disk| disk.number == number))
    }

    pub(crate) fn next_diskseq(&mut self) -> u64 {
        self.diskseq += 1;
        self.diskseq
    }
}

/// `sda`, ..., `sdz`, `sdaa`, ...
pub(crate) fn disk_name(index: u32) -> String {
    let mut letters = Vec::new();
    let mut rest = index + 1;
    while rest > 0 {
        letters.push(char::from(b'a' + u8::try_from((rest - 1) % 26).unwrap_or(0)));
        rest = (rest - 1) / 26;
    }
    format!("sd{}", letters.iter().rev().collect::<String>())
}

/// Linux's numbers for SCSI disks: sixteen majors of sixteen disks each, then again with higher minors.
pub(crate) fn disk_number(index: u32) -> DeviceNumber {
    let major = match (index & 0xf0) >> 4 {
        0 => 8,
        it @ 1..=7 => 64 + it,
        it => 120 + it,
    };
    DeviceNumber { major, minor: ((index & 0xf) << 4) | (index & 0xfff00) }
}

/// What answered a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Unit,
    Nothing,
}

impl Machine {
    /// The unit behind a leg at this moment, not as cached; `None` where none is mapped or the session is down.
    pub(crate) fn unit_of(&self, leg: Address) -> Option<(Unit, Portal)> {
        let session = self.iscsi.on_host(leg.host)?;
        let unit = self.units(session.portal).remove(&leg.lun)?;
        let (portal, _) = self.portal(session.portal)?;
        Some((unit, portal))
    }

    /// A write to `scan`: three fields, each a number or `-`. Success says nothing about what was found.
    pub(crate) fn scan(&mut self, host: u32, value: &str) -> Result<()> {
        let fields: Vec<&str> = value.split_whitespace().collect();
        let field = |text: &str| match text {
            "-" => Some(None),
            it => it.parse::<u32>().ok().map(Some),
        };
        let wrong = || Error::new(ErrorKind::InvalidInput, "not a channel, target and LUN");
        let [channel, target, lun] = fields[..] else { return Err(wrong()) };
        let (Some(channel), Some(target), Some(lun)) = (field(channel), field(target), field(lun)) else {
            return Err(wrong());
        };
        if channel.is_some_and(|it| it != 0) || target.is_some_and(|it| it != 0) {
            return Ok(());
        }
        let Some(session) = self.iscsi.on_host(host) else { return Ok(()) };
        if session.state != SessionState::LoggedIn {
            return Ok(());
        }
        for shown in self.units(session.portal).into_keys() {
            let address = Address { host, channel: 0, target: 0, lun: shown };
            if lun.is_none_or(|it| it == shown) && !self.scsi.legs.contains_key(&address) {
                self.later(self.spec.timing.leg, Event::LegAppears(address));
            }
        }
        if let Some(lun) = lun
            && self.spec.unshown == UnshownLun::Diskless
        {
            // Whether it is shown is told when the kernel asks.
            let address = Address { host, channel: 0, target: 0, lun };
            if !self.scsi.legs.contains_key(&address) {
                self.later(self.spec.timing.leg, Event::LegAppears(address));
            }
        }
        Ok(())
    }

    /// A scan asks the units it is for who they are, and waits for one that answers nothing.
    pub(crate) fn scan_begins(&mut self, host: u32, value: &str) {
        let Some(portal) = self.iscsi.on_host(host).map(|it| it.portal) else { return };
        let wanted = value.split_whitespace().nth(2);
        for lun in self.units(portal).into_keys() {
            let address = Address { host, channel: 0, target: 0, lun };
            let is_meant = wanted == Some("-") || wanted.and_then(|it| it.parse().ok()) == Some(lun);
            let is_new = !self.scsi.legs.contains_key(&address);
            if is_meant && is_new && self.faults.hanging.contains(&address) {
                self.faults.scanning.insert(address);
            }
        }
    }

    /// What a scan finds: a unit, or nothing but the target's word that there is none.
    fn found_at(&self, address: Address) -> Option<(Unit, Portal, Found)> {
        if let Some((unit, portal)) = self.unit_of(address) {
            return Some((unit, portal, Found::Unit));
        }
        let session = self.iscsi.on_host(address.host)?;
        let (portal, _) = self.portal(session.portal)?;
        let unit = Unit {
            vendor: "NETAPP".to_owned(),
            product: "LUN C-Mode".to_owned(),
            revision: "9161".to_owned(),
            serial: Vec::new(),
            naa: [0; 16],
            size: 0,
            file: PathBuf::new(),
            optimized: true,
        };
        (self.spec.unshown == UnshownLun::Diskless).then_some((unit, portal, Found::Nothing))
    }

    /// What a login with automatic scan does.
    pub(crate) fn scan_all(&mut self, sid: u32) {
        if let Some(host) = self.iscsi.sessions.get(&sid).map(|it| it.host) {
            // A wildcard is well-formed.
            let _ = self.scan(host, "- - -");
        }
    }

    /// `iscsiadm -R`: a wildcard scan, and a rescan of every device there is.
    pub(crate) fn rescan_session(&mut self, sid: u32) {
        self.scan_all(sid);
        let Some(host) = self.iscsi.sessions.get(&sid).map(|it| it.host) else { return };
        for leg in self.scsi.on_host(host) {
            self.rescan(leg);
        }
    }

    pub(crate) fn leg_appears(&mut self, address: Address) {
        if self.scsi.legs.contains_key(&address) {
            return;
        }
        let Some(sid) = self.iscsi.on_host(address.host).map(|it| it.sid) else { return };
        let Some((unit, portal, found)) = self.found_at(address) else { return };
        let used: Vec<u32> = self.scsi.legs.values().map(|it| it.generic).collect();
        let generic = lowest_free(|it| used.contains(&it));
        let serial = self.serial();
        let leg = Leg {
            address,
            sid,
            serial,
            state: LegState::Running,
            vendor: unit.vendor.clone(),
            product: unit.product.clone(),
            revision: unit.revision.clone(),
            naa: unit.naa,
            unit_serial: unit.serial.clone(),
            sectors: unit.size / 512,
            optimized: unit.optimized,
            generic,
            disk: None,
            others: self.others(address),
        };
        self.leg_into_sysfs(&leg, &unit, &portal);
        if found == Found::Nothing {
            let folder = format!("/sys{}", leg.device_path(sid));
            self.tree.put_attr(&format!("{folder}/inquiry"), Some(inquiry::nothing_here()), None);
        }
        let device = leg.device_path(sid);
        let is_first = self.scsi.on_host(address.host).is_empty();
        self.scsi.legs.insert(address, leg);
        if let Some(session) = self.iscsi.sessions.get_mut(&sid) {
            session.is_scanned = true;
        }
        self.show_session(sid);
        self.tell_of_leg(&device, address, generic, is_first);
        self.note(LogKind::Event, format!("{address} appeared"));
        if found == Found::Unit {
            self.later(self.spec.timing.disk, Event::DiskAppears { leg: address, serial });
        }
    }

    pub(crate) fn disk_appears(&mut self, address: Address, serial: u64) {
        let held = self.dm.disks_held();
        let mut used: Vec<u32> =
            self.scsi.legs.values().filter_map(|it| it.disk.as_ref()).map(|it| it.index).collect();
        used.extend(held);
        let diskseq = self.scsi.next_diskseq();
        let Some(leg) = self.scsi.legs.get_mut(&address) else { return };
        if leg.serial != serial {
            return;
        }
        let index = lowest_free(|it| used.contains(&it));
        let disk = Disk { index, name: disk_name(index), number: disk_number(index), diskseq };
        leg.disk = Some(disk.clone());
        let (sectors, sid) = (leg.sectors, leg.sid);
        let device = leg.device_path(sid);
        self.disk_into_sysfs(address, &device, &disk, sectors);
        self.uevent("add", &format!("{device}/scsi_disk/{address}"), "scsi_disk", &[]);
        self.disk_event(address, "add");
        let more = [
            ("DEVTYPE", "scsi_device".to_owned()),
            ("DRIVER", "sd".to_owned()),
            ("MODALIAS", "scsi:t-0x00".to_owned()),
        ];
        self.uevent("bind", &device, "scsi", &more);
    }

    /// Sends a block event about a leg's disk and lets udev work on it.
    pub(crate) fn disk_event(&mut self, address: Address, action: &str) {
        self.disk_event_with(address, action, &[]);
    }

    /// The same with more keys.
    pub(crate) fn disk_event_with(
        &mut self,
        address: Address,
        action: &str,
        more: &[(&'static str, String)],
    ) {
        let Some(leg) = self.scsi.legs.get(&address) else { return };
        let (Some(disk), Some(path)) = (leg.disk.clone(), leg.disk_path()) else { return };
        let serial = leg.serial;
        let keys = [&block_keys(&disk.name, disk.number, disk.diskseq)[..], more].concat();
        self.uevent(action, &path, "block", &keys);
        self.later(self.spec.timing.udev, Event::UdevDisk { leg: address, serial });
    }

    /// A write to `state`. Only `running` and `offline` can be written, only over each other, and with a line break.
    pub(crate) fn set_state(&mut self, address: Address, value: &str) -> Result<()> {
        let wrong = || Error::new(ErrorKind::InvalidInput, "invalid argument").on(address);
        let new = match value {
            "running\n" => LegState::Running,
            "offline\n" => LegState::Offline,
            _ => return Err(wrong()),
        };
        let Some(leg) = self.scsi.legs.get_mut(&address) else { return Err(wrong()) };
        match leg.state {
            LegState::Running | LegState::Offline => {}
            LegState::Blocked | LegState::TransportOffline => return Err(wrong()),
        }
        let came_back = leg.state == LegState::Offline && new == LegState::Running;
        self.show_state(address, new);
        if came_back {
            // The kernel looks at the device again.
            self.rescan(address);
        }
        Ok(())
    }

    fn show_state(&mut self, address: Address, state: LegState) {
        let Some(leg) = self.scsi.legs.get_mut(&address) else { return };
        leg.state = state;
        let path = format!("/sys{}/state", leg.device_path(leg.sid));
        self.tree.set(&path, state.text());
        self.touch();
    }

    /// The session was lost. A device that was offline is blocked too, and so forgets that it was offline.
    pub(crate) fn leg_blocked(&mut self, address: Address) {
        self.show_state(address, LegState::Blocked);
    }

    /// The session came back, or was given up.
    pub(crate) fn leg_unblocked(&mut self, address: Address, state: LegState) {
        let Some(leg) = self.scsi.legs.get(&address) else { return };
        if matches!(leg.state, LegState::Blocked | LegState::TransportOffline) {
            self.show_state(address, state);
        }
    }

    /// Reads identity and capacity again. A device that is not running is left as it is, and nobody is told.
    pub(crate) fn rescan(&mut self, address: Address) {
        let unit = self.unit_of(address);
        let Some(leg) = self.scsi.legs.get_mut(&address) else { return };
        if leg.state != LegState::Running {
            return;
        }
        let folder = format!("/sys{}", leg.device_path(leg.sid));
        let old = leg.sectors;
        if let Some((unit, portal)) = &unit {
            leg.naa = unit.naa;
            leg.unit_serial.clone_from(&unit.serial);
            leg.sectors = unit.size / 512;
            let wwid = format!("naa.{}", inquiry::hex(&unit.naa));
            self.tree.set(&format!("{folder}/wwid"), wwid);
            for page in [0x80, 0x83] {
                if let Some(bytes) = inquiry::page(unit, portal, page) {
                    self.tree.set(&format!("{folder}/vpd_pg{page:x}"), bytes);
                }
            }
        } else {
            // READ CAPACITY fails; the identity stays as cached.
            leg.sectors = 0;
        }
        let new = leg.sectors;
        let Some(disk) = leg.disk.clone() else { return };
        self.tree.set(&format!("{folder}/block/{}/size", disk.name), new.to_string());
        self.unit_attention(address);
        if new != old && new != 0 && old != 0 {
            self.disk_event_with(address, "change", &[("RESIZE", "1".to_owned())]);
        }
        self.touch();
    }

    /// The device goes: a write to `delete`, or its session is logged out.
    pub(crate) fn leg_disappears(&mut self, address: Address) {
        let Some(leg) = self.scsi.legs.remove(&address) else { return };
        let device = leg.device_path(leg.sid);
        self.tree.remove(&format!("/sys/class/scsi_device/{address}"));
        self.tree.remove(&format!("/sys/class/scsi_generic/sg{}", leg.generic));
        self.tree.remove(&format!("/dev/sg{}", leg.generic));
        if let Some(disk) = &leg.disk {
            self.tree.remove(&format!("/sys/block/{}", disk.name));
            self.tree.remove(&format!("/dev/{}", disk.name));
            self.cache.forget(disk.number);
            self.udev_forgets(&leg);
        }
        self.tree.remove(&format!("/sys/class/scsi_disk/{address}"));
        self.tree.remove(&format!("/sys{device}"));
        let is_last = self.scsi.on_host(address.host).is_empty();
        self.tell_of_lost_leg(&leg, is_last);
        self.note(LogKind::Event, format!("{address} disappeared"));
        self.later(self.spec.timing.udev / 4, Event::PathGone { leg: address, serial: leg.serial });
    }
}

/// The keys every event of a block device has.
pub(crate) fn block_keys(name: &str, number: DeviceNumber, diskseq: u64) -> [(&'static str, String); 5] {
    [
        ("DEVNAME", name.to_owned()),
        ("DEVTYPE", "disk".to_owned()),
        ("DISKSEQ", diskseq.to_string()),
        ("MAJOR", number.major.to_string()),
        ("MINOR", number.minor.to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_are_named_and_numbered_as_linux_does() {
        for (index, name, number) in [
            (0, "sda", "8:0"),
            (15, "sdp", "8:240"),
            (16, "sdq", "65:0"),
            (25, "sdz", "65:144"),
            (26, "sdaa", "65:160"),
            (128, "sddy", "128:0"),
            (256, "sdiw", "8:256"),
            (701, "sdzz", "131:720"),
        ] {
            assert_eq!(disk_name(index), name);
            assert_eq!(disk_number(index).to_string(), number, "{name}");
        }
    }
}
