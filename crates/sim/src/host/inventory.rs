//! What a node has at a moment, as plain values, for audits.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;

use super::iscsi::SessionState;
use super::machine::Machine;
use super::node::SimNode;
use super::scsi::{Address, LegState};

/// One session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionView {
    /// Its number.
    pub sid: u32,
    /// Its SCSI host.
    pub host: u32,
    /// The target.
    pub target: String,
    /// The portal.
    pub portal: SocketAddr,
    /// Its state.
    pub state: SessionState,
}

/// One leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegView {
    /// Where it is.
    pub address: Address,
    /// Its disk, e.g. `sda`; `None` before it has one.
    pub disk: Option<String>,
    /// Its state.
    pub state: LegState,
    /// The WWID as cached when it was scanned last.
    pub cached_wwid: String,
    /// The WWID of the unit that is there now; `None` where there is none or the session is down.
    pub real_wwid: Option<String>,
    /// Its size in bytes as cached.
    pub size: u64,
}

/// One path of a map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathView {
    /// The leg.
    pub leg: Address,
    /// Its disk.
    pub disk: String,
    /// Whether the kernel has failed it.
    pub has_failed: bool,
}

/// One device-mapper map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapView {
    /// Its minor number.
    pub minor: u32,
    /// Its name.
    pub name: String,
    /// Its UUID.
    pub uuid: String,
    /// Its size in bytes.
    pub size: u64,
    /// Whether it is suspended.
    pub is_suspended: bool,
    /// Whether it keeps I/O while no path is left.
    pub queues: bool,
    /// Its paths; empty for maps stacked on others.
    pub paths: Vec<PathView>,
    /// How often it is open.
    pub open_count: u32,
}

/// One node record of open-iscsi.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordView {
    /// The target.
    pub target: String,
    /// The portal.
    pub portal: SocketAddr,
    /// The target portal group, where it is on record.
    pub group: Option<u16>,
    /// `node.startup`.
    pub startup: String,
}

/// Everything of a node that an operation could leave behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inventory {
    /// Sessions.
    pub sessions: Vec<SessionView>,
    /// Legs.
    pub legs: Vec<LegView>,
    /// Maps.
    pub maps: Vec<MapView>,
    /// Links below `/dev/sanbridge`, with what they hold.
    pub links: BTreeMap<PathBuf, PathBuf>,
    /// Files below `/etc/sanbridge/masked`: the disks that udev is not to look into.
    pub masks: BTreeSet<PathBuf>,
    /// Node records.
    pub records: Vec<RecordView>,
    /// Paths under which devices are held open, mounted or used as swap.
    pub users: Vec<String>,
    /// Devices on which an abandoned helper process is stuck.
    pub abandoned: Vec<PathBuf>,
    /// Maps on which a udev worker is stuck, by minor number.
    pub stuck_workers: Vec<u32>,
    /// Bytes in the page cache that are not written, in all.
    pub unwritten: u64,
}

impl Inventory {
    /// One line for each thing, without numbers that change when it is made again.
    pub fn lines(&self) -> BTreeSet<String> {
        let mut lines = BTreeSet::new();
        for it in &self.sessions {
            lines.insert(format!("session {} {} {}", it.target, it.portal, it.state.text()));
        }
        for it in &self.legs {
            lines.insert(format!("leg {} {} {} {}", it.address, it.cached_wwid, it.state.text(), it.size));
        }
        for it in &self.maps {
            let failed = it.paths.iter().filter(|path| path.has_failed).count();
            let suspended = if it.is_suspended { ", suspended" } else { "" };
            let queues = if it.queues { ", queues" } else { "" };
            lines.insert(format!(
                "map {} {}: {} paths, {failed} failed, {} bytes, opened {} times{suspended}{queues}",
                it.name,
                it.uuid,
                it.paths.len(),
                it.size,
                it.open_count
            ));
        }
        for (link, target) in &self.links {
            lines.insert(format!("link {} -> {}", link.display(), target.display()));
        }
        lines.extend(self.masks.iter().map(|it| format!("mask {}", it.display())));
        for it in &self.records {
            lines.insert(format!("record {} {} {:?} {}", it.target, it.portal, it.group, it.startup));
        }
        lines.extend(self.users.iter().map(|it| format!("user of {it}")));
        lines.extend(self.abandoned.iter().map(|it| format!("helper stuck on {}", it.display())));
        lines.extend(self.stuck_workers.iter().map(|it| format!("udev worker stuck on dm-{it}")));
        if self.unwritten > 0 {
            lines.insert(format!("{} bytes not written", self.unwritten));
        }
        lines
    }
}

impl SimNode {
    /// What the node has now.
    pub fn inventory(&self) -> Inventory {
        self.look(|it| {
            it.reap();
            it.inventory()
        })
    }
}

impl Machine {
    fn inventory(&self) -> Inventory {
        let sessions = self.iscsi.sessions.values().map(|it| SessionView {
            sid: it.sid,
            host: it.host,
            target: it.target.clone(),
            portal: it.portal,
            state: it.state,
        });
        let legs = self.scsi.legs.values().map(|it| LegView {
            address: it.address,
            disk: it.disk.as_ref().map(|disk| disk.name.clone()),
            state: it.state,
            cached_wwid: it.wwid(),
            real_wwid: self
                .unit_of(it.address)
                .map(|(unit, _)| format!("3{}", super::inquiry::hex(&unit.naa))),
            size: it.sectors * 512,
        });
        let records = self.records().into_iter().map(|it| RecordView {
            target: it.target().to_owned(),
            portal: it.portal(),
            group: it.group(),
            startup: it.get("node.startup").to_owned(),
        });
        let links = self.tree.links_below("/dev/sanbridge").into_iter();
        let masks = self.tree.files_below("/etc/sanbridge/masked").into_iter();
        let users = &self.users;
        let handles = users.handles.values().map(|(path, _)| path.clone());
        let mounts = users.mounts.iter().map(|(at, (path, _))| format!("{path} at {}", at.display()));
        Inventory {
            sessions: sessions.collect(),
            legs: legs.collect(),
            maps: self.dm.maps.keys().filter_map(|it| self.map_view(*it)).collect(),
            links: links.map(|(link, target)| (link.into(), target.into())).collect(),
            masks: masks.map(PathBuf::from).collect(),
            records: records.collect(),
            users: handles.chain(mounts).chain(users.swaps.keys().cloned()).collect(),
            abandoned: self.abandoned.iter().cloned().collect(),
            stuck_workers: self.udev.stuck().collect(),
            unwritten: self.cache.unwritten().values().sum(),
        }
    }

    fn map_view(&self, minor: u32) -> Option<MapView> {
        let map = self.dm.maps.get(&minor)?;
        let paths = map.paths.iter().map(|it| PathView {
            leg: it.leg,
            disk: it.disk.name.clone(),
            has_failed: it.has_failed,
        });
        Some(MapView {
            minor,
            name: map.name.clone(),
            uuid: map.uuid.clone(),
            size: map.sectors * 512,
            is_suspended: map.is_suspended,
            queues: map.queues(),
            paths: paths.collect(),
            open_count: self.open_count(map.number()).unwrap_or(0),
        })
    }
}
