//! The data path: from a block device through a map and a leg to whatever the LUN is on the array at that moment.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use san_core::{DeviceNumber, Error, ErrorKind, Result};

use super::dm::{MAJOR, Map, MapKind};
use super::log::LogKind;
use super::machine::Machine;
use super::scsi::{Address, LegState};
use super::tree::Device;

/// The size of a page of the cache.
pub(crate) const PAGE: u64 = 4096;

/// What a command does with bytes.
#[derive(Debug, Clone)]
pub(crate) enum Io {
    Read {
        offset: u64,
        length: usize,
    },
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    /// SYNCHRONIZE CACHE.
    Sync,
}

/// What came of it.
#[derive(Debug)]
pub(crate) enum Attempt {
    Done(Vec<u8>),
    /// The kernel keeps it until something changes.
    Waits,
    Failed(Error),
}

/// One page in memory.
#[derive(Debug, Clone)]
struct Page {
    bytes: Vec<u8>,
    is_dirty: bool,
}

/// The page cache of all block devices of a node.
#[derive(Debug, Default)]
pub(crate) struct PageCache(BTreeMap<(DeviceNumber, u64), Page>);

impl PageCache {
    /// Drops everything of a device, dirty or not.
    pub(crate) fn forget(&mut self, device: DeviceNumber) {
        self.0.retain(|(it, _), _| *it != device);
    }

    /// The pages of a range that are not in memory, as offsets.
    pub(crate) fn missing(&self, device: DeviceNumber, offset: u64, length: usize) -> Vec<u64> {
        pages(offset, length).filter(|it| !self.0.contains_key(&(device, *it))).collect()
    }

    /// Takes a page that was read.
    pub(crate) fn fill(&mut self, device: DeviceNumber, page: u64, bytes: Vec<u8>) {
        self.0.insert((device, page), Page { bytes, is_dirty: false });
    }

    /// Reads a range that is in memory.
    pub(crate) fn read(&self, device: DeviceNumber, offset: u64, length: usize) -> Vec<u8> {
        let mut found = Vec::with_capacity(length);
        for page in pages(offset, length) {
            if let Some(it) = self.0.get(&(device, page)) {
                found.extend_from_slice(&it.bytes);
            }
        }
        let skip = usize::try_from(offset % PAGE).unwrap_or(0);
        found.into_iter().skip(skip).take(length).collect()
    }

    /// Changes a range that is in memory.
    pub(crate) fn write(&mut self, device: DeviceNumber, offset: u64, bytes: &[u8]) {
        for (at, byte) in (offset..).zip(bytes) {
            let (page, within) = (at - at % PAGE, usize::try_from(at % PAGE).unwrap_or(0));
            if let Some(it) = self.0.get_mut(&(device, page)) {
                it.bytes[within] = *byte;
                it.is_dirty = true;
            }
        }
    }

    /// One dirty page.
    pub(crate) fn dirty(&self, device: DeviceNumber) -> Option<(u64, Vec<u8>)> {
        let mut of_device = self.0.iter().filter(|((it, _), page)| *it == device && page.is_dirty);
        of_device.next().map(|((_, page), it)| (*page, it.bytes.clone()))
    }

    /// Bytes not yet written of all devices of which there are any.
    pub(crate) fn unwritten(&self) -> BTreeMap<DeviceNumber, u64> {
        let mut sums = BTreeMap::new();
        for ((device, _), page) in self.0.iter().filter(|(_, it)| it.is_dirty) {
            *sums.entry(*device).or_insert(0) += page.bytes.len() as u64;
        }
        sums
    }

    /// A page was written out.
    pub(crate) fn clean(&mut self, device: DeviceNumber, page: u64) {
        if let Some(it) = self.0.get_mut(&(device, page)) {
            it.is_dirty = false;
        }
    }
}

fn pages(offset: u64, length: usize) -> impl Iterator<Item = u64> {
    let end = offset + length as u64;
    (offset / PAGE..end.div_ceil(PAGE)).map(|it| it * PAGE)
}

fn no_device(number: DeviceNumber) -> Error {
    Error::new(ErrorKind::NotFound, "no such device or address").on(number)
}

fn io_error(number: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Unavailable, "input/output error").on(number)
}

impl Machine {
    /// Whether a command to this device would wait in the kernel now.
    pub(crate) fn would_hang(&self, number: DeviceNumber) -> bool {
        if self.faults.hanging_blocks.contains(&number) {
            return true;
        }
        if number.major != MAJOR {
            return self.scsi.by_number(number).is_some_and(|it| self.leg_would_hang(it.address));
        }
        let Some(map) = self.dm.maps.get(&number.minor) else { return false };
        if map.is_suspended {
            return true;
        }
        if let MapKind::Over(below) = map.kind {
            return self.would_hang(DeviceNumber { major: MAJOR, minor: below });
        }
        for path in self.paths_by_priority(map.minor).iter().filter(|it| !it.has_failed) {
            match self.path_state(path) {
                Some(LegState::Running | LegState::Blocked) if self.leg_would_hang(path.leg) => return true,
                Some(LegState::Running) if self.unit_of(path.leg).is_some() => return false,
                _ => {}
            }
        }
        map.queues()
    }

    /// Whether a command to this leg would wait in the kernel now. A session that is dead and not yet known to be is
    /// no better than a blocked one.
    pub(crate) fn leg_would_hang(&self, leg: Address) -> bool {
        let Some(state) = self.scsi.legs.get(&leg).map(|it| it.state) else { return false };
        match state {
            LegState::Blocked => true,
            LegState::Running => {
                let portal = self.iscsi.on_host(leg.host).map(|it| it.portal);
                let up = portal.is_some_and(|it| self.reachability(it) == crate::target::Reachability::Up);
                self.faults.hanging.contains(&leg) || !up
            }
            LegState::Offline | LegState::TransportOffline => false,
        }
    }

    /// Whether a command to a device node would wait in the kernel now.
    pub(crate) fn node_would_hang(&self, device: Device) -> bool {
        match device {
            Device::Block(number) => self.would_hang(number),
            Device::Generic(leg) => self.leg_would_hang(leg),
        }
    }

    /// The size of a block device in bytes, as the kernel believes it.
    pub(crate) fn block_size(&self, number: DeviceNumber) -> Option<u64> {
        let sectors = match number.major {
            MAJOR => self.dm.maps.get(&number.minor)?.sectors,
            _ => self.scsi.by_number(number)?.sectors,
        };
        Some(sectors * 512)
    }

    /// One try of one command.
    pub(crate) fn attempt(&mut self, number: DeviceNumber, io: &Io) -> Attempt {
        let Some(size) = self.block_size(number) else { return Attempt::Failed(no_device(number)) };
        let end = match io {
            Io::Read { offset, length } => offset + *length as u64,
            Io::Write { offset, bytes } => offset + bytes.len() as u64,
            Io::Sync => 0,
        };
        if end > size {
            return Attempt::Failed(
                Error::new(ErrorKind::InvalidInput, "beyond the end of the device").on(number),
            );
        }
        if self.faults.hanging_blocks.contains(&number) {
            return Attempt::Waits;
        }
        if number.major != MAJOR {
            let Some(leg) = self.scsi.by_number(number).map(|it| it.address) else {
                return Attempt::Failed(no_device(number));
            };
            return self.attempt_leg(leg, io);
        }
        let Some(map) = self.dm.maps.get(&number.minor) else { return Attempt::Failed(no_device(number)) };
        if map.is_suspended {
            return Attempt::Waits;
        }
        if let MapKind::Over(below) = map.kind {
            return self.attempt(DeviceNumber { major: MAJOR, minor: below }, io);
        }
        self.attempt_map(number.minor, io)
    }

    fn attempt_map(&mut self, minor: u32, io: &Io) -> Attempt {
        for path in self.paths_by_priority(minor).iter().filter(|it| !it.has_failed) {
            if self.path_state(path).is_some() {
                match self.attempt_leg(path.leg, io) {
                    Attempt::Failed(_) => {}
                    other => {
                        if let Some(map) = self.dm.maps.get_mut(&minor) {
                            map.was_used = true;
                        }
                        return other;
                    }
                }
            }
            self.mark_path(minor, path.leg, true);
        }
        if self.dm.maps.get(&minor).is_some_and(Map::queues) {
            Attempt::Waits
        } else {
            Attempt::Failed(io_error(format!("dm-{minor}")))
        }
    }

    /// A command on a leg reaches what the LUN is now, whatever the leg was found as.
    fn attempt_leg(&mut self, leg: Address, io: &Io) -> Attempt {
        if self.leg_would_hang(leg) {
            return Attempt::Waits;
        }
        match self.scsi.legs.get(&leg).map(|it| it.state) {
            Some(LegState::Running) => {}
            _ => return Attempt::Failed(no_device_at(leg)),
        }
        self.unit_attention(leg);
        let Some((unit, _)) = self.unit_of(leg) else { return Attempt::Failed(io_error(leg)) };
        match on_file(&unit.file, io) {
            Ok(bytes) => Attempt::Done(bytes),
            Err(error) => {
                self.note(LogKind::Event, format!("{leg}: {}: {error}", unit.file.display()));
                Attempt::Failed(io_error(leg).caused_by(error))
            }
        }
    }

    /// A fresh INQUIRY through a SCSI generic device; the caller has made sure that it does not hang.
    pub(crate) fn inquiry(&mut self, device: Device, page: Option<u8>) -> Result<Vec<u8>> {
        let Device::Generic(leg) = device else {
            return Err(Error::new(ErrorKind::InvalidInput, "not a SCSI generic device"));
        };
        match self.scsi.legs.get(&leg).map(|it| it.state) {
            None => return Err(no_device_at(leg)),
            Some(LegState::Running) => {}
            Some(_) => return Err(io_error(leg)),
        }
        // INQUIRY is answered whatever else the unit has to say.
        match (self.unit_of(leg), page) {
            (Some((unit, _)), None) => Ok(super::inquiry::standard(&unit)),
            (None, None) => Ok(super::inquiry::nothing_here()),
            (Some((unit, portal)), Some(page)) => {
                super::inquiry::page(&unit, &portal, page).ok_or_else(|| {
                    Error::new(ErrorKind::Unsupported, "illegal request, invalid field in CDB (5/24/00)")
                        .on(leg)
                })
            }
            (None, Some(_)) => {
                Err(Error::new(ErrorKind::NotFound, "illegal request, logical unit not supported (5/25/00)")
                    .on(leg))
            }
        }
    }
}

fn no_device_at(leg: Address) -> Error {
    Error::new(ErrorKind::Unavailable, "no such device or address").on(leg)
}

fn on_file(path: &Path, io: &Io) -> io::Result<Vec<u8>> {
    match io {
        Io::Sync => Ok(Vec::new()),
        Io::Read { offset, length } => {
            let file = File::open(path)?;
            let mut bytes = vec![0; *length];
            let mut done = 0;
            while done < bytes.len() {
                // What lies beyond the end of a sparse file reads as zeros.
                match file.read_at(&mut bytes[done..], offset + done as u64)? {
                    0 => break,
                    read => done += read,
                }
            }
            Ok(bytes)
        }
        Io::Write { offset, bytes } => {
            OpenOptions::new().write(true).open(path)?.write_all_at(bytes, *offset)?;
            Ok(Vec::new())
        }
    }
}
