//! Breaking and mending a simulated node: what a test or a demonstration does to it from outside.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use san_core::Result;
use san_host::Tool;

use super::interfaces::{DEFAULT, Interface};
use super::iscsi::{Iscsid, Login};
use super::log::LogKind;
use super::machine::Machine;
use super::node::SimNode;
use super::records::Record;
use super::scsi::Address;
use super::settings::{Multipath, Timing};
use crate::target::Reachability;

/// Whether a map lets I/O pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspension {
    /// It does.
    Active,
    /// It keeps all I/O.
    Suspended,
}

impl SimNode {
    /// Changes how long things take from now on.
    pub fn set_timing(&self, change: impl FnOnce(&mut Timing)) {
        self.look(|it| change(&mut it.spec.timing));
    }

    /// Changes multipathd's options, as a new configuration would.
    pub fn set_multipath(&self, change: impl FnOnce(&mut Multipath)) {
        self.look(|it| change(&mut it.spec.multipath));
    }

    /// Writes a file outside `/sys`, as an administrator would.
    pub fn put_file(&self, path: &Path, bytes: &[u8]) {
        self.look(|it| it.tree.put_file(&path.to_string_lossy(), bytes));
    }

    /// Removes a file outside `/sys`; whether there was one.
    pub fn remove_file(&self, path: &Path) -> bool {
        self.look(|it| it.tree.remove(&path.to_string_lossy()))
    }

    /// Logs in to a portal as another tool would (record with automatic scan and start); whether that worked.
    pub fn foreign_session(&self, target: &str, portal: SocketAddr) -> bool {
        self.look(|it| {
            let mut record = Record::new(it.spec.release, target, portal, None, &Interface::new(DEFAULT));
            record.put("node.startup", "automatic");
            it.save_record(&record);
            it.reachability(portal) == Reachability::Up && it.login(&record) == Login::Done
        })
    }

    /// Gives it another initiator name, as a new installation does: sessions that are made from now on have it.
    pub fn rename_initiator(&self, name: &str) {
        self.look(|it| {
            name.clone_into(&mut it.spec.initiator);
            it.tree.put_file("/etc/iscsi/initiatorname.iscsi", format!("InitiatorName={name}\n"));
        });
    }

    /// Cuts the road to a portal: packets vanish.
    pub fn partition(&self, portal: SocketAddr) {
        self.look(|it| {
            it.faults.partitioned.insert(portal);
            it.note(LogKind::Event, format!("partitioned from {portal}"));
            it.touch();
        });
    }

    /// Mends the road to a portal.
    pub fn heal(&self, portal: SocketAddr) {
        self.look(|it| {
            it.faults.partitioned.remove(&portal);
            it.note(LogKind::Event, format!("road to {portal} mended"));
            it.free_workers();
            it.touch();
        });
    }

    /// Breaks the connection of every session with a portal at once; iscsid logs in again if the portal answers.
    pub fn bounce(&self, portal: SocketAddr) {
        self.look(|it| {
            let sessions: Vec<u32> =
                it.iscsi.sessions.values().filter(|it| it.portal == portal).map(|it| it.sid).collect();
            for sid in sessions {
                it.connection_lost(sid);
            }
        });
    }

    /// Makes logins to a portal fail with one of iscsiadm's exit codes (24: refused), or succeed again.
    pub fn refuse_logins(&self, portal: SocketAddr, code: Option<i32>) {
        self.look(|it| match code {
            Some(code) => it.faults.logins.insert(portal, code),
            None => it.faults.logins.remove(&portal),
        });
    }

    /// Removes a program from the node.
    pub fn uninstall(&self, tool: Tool) {
        self.look(|it| {
            it.faults.missing_tools.insert(tool);
        });
    }

    /// Stops iscsid: sessions stay, but nobody repairs them.
    pub fn stop_iscsid(&self) {
        self.look(|it| it.iscsi.iscsid = Iscsid::Stopped);
    }

    /// Starts iscsid.
    pub fn start_iscsid(&self) {
        self.look(|it| it.iscsi.iscsid = Iscsid::Running);
    }

    /// Stops udev: events wait.
    pub fn stop_udev(&self) {
        self.look(Machine::stop_udev);
    }

    /// Starts udev: it works off what waited.
    pub fn start_udev(&self) {
        self.look(Machine::start_udev);
    }

    /// Stops multipathd: connections break and are refused; maps stay.
    pub fn stop_multipathd(&self) {
        self.look(Machine::stop_multipathd);
    }

    /// Makes multipathd take commands without answering any.
    pub fn hang_multipathd(&self) {
        self.look(Machine::hang_multipathd);
    }

    /// Starts multipathd, or wakes it.
    pub fn start_multipathd(&self) {
        self.look(Machine::start_multipathd);
    }

    /// Makes multipathd answer `timeout` to every command for a while.
    pub fn delay_multipathd(&self, span: Duration) {
        self.look(|it| it.multipathd.late_until = Some(it.now + span));
    }

    /// Makes a leg answer no command although its session is fine.
    pub fn hang(&self, leg: impl Into<Address>) {
        let leg = leg.into();
        self.look(|it| {
            it.faults.hanging.insert(leg);
            it.touch();
        });
    }

    /// Makes a block device's I/O hang.
    ///
    /// # Errors
    /// `NotFound` where there is no such device.
    pub fn hang_device(&self, path: &Path) -> Result<()> {
        self.look(|it| {
            let number = it.block(&path.to_string_lossy())?;
            it.faults.hanging_blocks.insert(number);
            it.touch();
            Ok(())
        })
    }

    /// Ends all hanging of devices.
    pub fn unhang(&self) {
        self.look(|it| {
            it.faults.hanging.clear();
            it.faults.scanning.clear();
            it.faults.hanging_blocks.clear();
            it.free_workers();
            it.touch();
        });
    }

    /// Suspends or resumes a map, as a failed flush of an old multipath-tools leaves it.
    pub fn suspend(&self, map: &str, state: Suspension) -> bool {
        self.look(|it| {
            let Some(minor) = it.dm.find(map).map(|it| it.minor) else { return false };
            it.suspend_map(minor, state);
            true
        })
    }

    /// Power is lost: kernel state and `/run` are gone, `/etc` and `/var` stay.
    pub fn crash(&self) {
        self.look(Machine::crash);
    }

    /// Starts a node that crashed.
    pub fn boot(&self) {
        self.look(Machine::boot);
    }
}

impl Machine {
    /// Lets a map keep its I/O, or pass it.
    pub(crate) fn suspend_map(&mut self, minor: u32, state: Suspension) {
        let is_suspended = state == Suspension::Suspended;
        let Some(map) = self.dm.maps.get_mut(&minor) else { return };
        map.is_suspended = is_suspended;
        let path = format!("/sys/devices/virtual/block/dm-{minor}/dm/suspended");
        self.tree.set(&path, if is_suspended { "1" } else { "0" });
        self.free_workers();
        self.touch();
    }
}
