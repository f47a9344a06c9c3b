//! [`SimNode`]: one simulated Linux node, for tests to look at and to break.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use san_core::{Error, ErrorKind, Result};
use san_host::Tool;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::data::{Attempt, Io, PAGE};
use super::dm::MapKind;
use super::iscsi::Iscsid;
use super::log::{LogEntry, LogKind};
use super::machine::Machine;
use super::records::Record;
use super::scsi::Address;
use super::settings::{Multipath, Timing};

/// One simulated node. Cheap to clone; all clones are the same node.
#[derive(Clone)]
pub struct SimNode(pub(crate) Arc<Inner>);

/// What all clones share.
pub(crate) struct Inner {
    machine: Mutex<Machine>,
    changed: Notify,
    wake: Arc<Notify>,
    driver: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for SimNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimNode").field(&self.lock().spec.name).finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The driver holds no strong reference; woken, it sees that the node is gone.
        self.wake.notify_one();
    }
}

impl SimNode {
    pub(crate) fn new(machine: Machine) -> Self {
        Self(Arc::new(Inner {
            machine: Mutex::new(machine),
            changed: Notify::new(),
            wake: Arc::new(Notify::new()),
            driver: Mutex::new(None),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.0.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the node as it is now, and perhaps changes it.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&mut Machine) -> R) -> R {
        self.drive();
        let mut machine = self.lock();
        let before = machine.generation;
        machine.catch_up(Instant::now());
        let result = look(&mut machine);
        let has_changed = machine.generation != before;
        if has_changed {
            machine.reap();
        }
        drop(machine);
        if has_changed {
            self.0.changed.notify_waiters();
            self.0.wake.notify_one();
        }
        result
    }

    /// Looks again after every change until there is an answer.
    pub(crate) async fn until<R>(&self, mut look: impl FnMut(&mut Machine) -> Option<R>) -> R {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change between is missed.
            changed.as_mut().enable();
            if let Some(answer) = self.look(&mut look) {
                return answer;
            }
            changed.await;
        }
    }

    /// Makes sure that the task is there that lets time pass for this node.
    fn drive(&self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut driver = self.0.driver.lock().unwrap_or_else(PoisonError::into_inner);
        if driver.as_ref().is_none_or(JoinHandle::is_finished) {
            *driver = Some(runtime.spawn(drive(Arc::downgrade(&self.0), Arc::clone(&self.0.wake))));
        }
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.lock().spec.name.clone()
    }

    /// Its iSCSI initiator name.
    pub fn initiator(&self) -> String {
        self.lock().spec.initiator.clone()
    }

    /// Everything it was asked to do and that happened to it.
    pub fn log(&self) -> Vec<LogEntry> {
        self.look(|it| it.log.clone())
    }

    /// The texts of one kind of log entry.
    pub fn logged(&self, kind: LogKind) -> Vec<String> {
        self.look(|it| it.log.iter().filter(|it| it.kind == kind).map(|it| it.text.clone()).collect())
    }

    /// Empties the log.
    pub fn forget_log(&self) {
        self.look(|it| it.log.clear());
    }

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
            let mut record = Record::new(it.spec.release, target, portal, None, "default");
            record.put("node.startup", "automatic");
            it.save_record(&record);
            it.reachability(portal) == crate::target::Reachability::Up
                && it.login(&record) == super::iscsi::Login::Done
        })
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
            it.faults.hanging_blocks.clear();
            it.free_workers();
            it.touch();
        });
    }

    /// Suspends or resumes a map, as a failed flush of an old multipath-tools leaves it.
    pub fn suspend(&self, map: &str, state: Suspension) -> bool {
        self.look(|it| {
            let Some(minor) = it.dm.find(map).map(|it| it.minor) else { return false };
            let is_suspended = state == Suspension::Suspended;
            if let Some(map) = it.dm.maps.get_mut(&minor) {
                map.is_suspended = is_suspended;
            }
            let path = format!("/sys/devices/virtual/block/dm-{minor}/dm/suspended");
            it.tree.set(&path, if is_suspended { "1" } else { "0" });
            it.free_workers();
            it.touch();
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

    /// Opens a block device as a guest's QEMU would, until the handle is dropped.
    ///
    /// # Errors
    /// `NotFound` where there is no such device.
    pub fn open(&self, path: &Path) -> Result<OpenHandle> {
        self.look(|it| {
            let text = path.to_string_lossy();
            let number = it.block(&text)?;
            let id = it.serial();
            it.users.handles.insert(id, (text.into_owned(), number));
            it.touch();
            Ok(OpenHandle { node: Arc::downgrade(&self.0), id })
        })
    }

    /// Mounts a block device.
    ///
    /// # Errors
    /// `NotFound` where there is no such device.
    pub fn mount(&self, device: &Path, at: &Path) -> Result<()> {
        self.look(|it| {
            let source = device.to_string_lossy().into_owned();
            let number = it.block(&source)?;
            it.users.mounts.insert(at.to_owned(), (source, number));
            it.write_proc();
            it.touch();
            Ok(())
        })
    }

    /// Unmounts; whether anything was mounted there.
    pub fn unmount(&self, at: &Path) -> bool {
        self.look(|it| {
            let was_mounted = it.users.mounts.remove(at).is_some();
            it.write_proc();
            it.touch();
            was_mounted
        })
    }

    /// Uses a block device as swap.
    ///
    /// # Errors
    /// `NotFound` where there is no such device.
    pub fn swap_on(&self, device: &Path) -> Result<()> {
        self.look(|it| {
            let number = it.block(&device.to_string_lossy())?;
            let name = if number.major == super::dm::MAJOR {
                format!("/dev/dm-{}", number.minor)
            } else {
                device.to_string_lossy().into_owned()
            };
            it.users.swaps.insert(name, number);
            it.write_proc();
            it.touch();
            Ok(())
        })
    }

    /// Stops using all swap.
    pub fn swap_off(&self) {
        self.look(|it| {
            it.users.swaps.clear();
            it.write_proc();
            it.touch();
        });
    }

    /// Stacks a device on a map, as LVM or dm-crypt would: `name` in `/dev/mapper`, `uuid` with its usual prefix.
    ///
    /// # Errors
    /// `NotFound` where there is no such map.
    pub fn stack_device(&self, map: &str, name: &str, uuid: &str) -> Result<PathBuf> {
        self.look(|it| {
            let Some(below) = it.dm.find(map).map(|it| (it.minor, it.sectors)) else {
                return Err(Error::new(ErrorKind::NotFound, "no such map").on(map));
            };
            it.create_map(name, uuid, MapKind::Over(below.0), below.1, Vec::new());
            Ok(PathBuf::from(format!("/dev/mapper/{name}")))
        })
    }

    /// Makes a partition's map on a map, as kpartx does. Nobody has it open: multipathd removes it with the map.
    ///
    /// # Errors
    /// `NotFound` where there is no such map.
    pub fn add_partition(&self, map: &str, number: u32) -> Result<PathBuf> {
        self.stack_device(map, &format!("{map}-part{number}"), &format!("part{number}-mpath-{map}"))
    }

    /// Removes a stacked device; whether there was one.
    pub fn unstack_device(&self, name: &str) -> bool {
        self.look(|it| {
            let found = it.dm.maps.values().find(|it| it.name == name && it.wwid().is_none());
            let Some(minor) = found.map(|it| it.minor) else { return false };
            it.remove_map(minor);
            true
        })
    }

    /// Reads past the page cache. Waits as long as the kernel would.
    ///
    /// # Errors
    /// `NotFound` where there is no such device, `Unavailable` for an I/O error.
    pub async fn read_at(&self, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.io(path, &Io::Read { offset, length }).await
    }

    /// Writes past the page cache. Waits as long as the kernel would.
    ///
    /// # Errors
    /// As [`SimNode::read_at`].
    pub async fn write_at(&self, path: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
        self.io(path, &Io::Write { offset, bytes: bytes.to_vec() }).await.map(drop)
    }

    async fn io(&self, path: &Path, io: &Io) -> Result<Vec<u8>> {
        let number = self.look(|it| {
            it.check_up()?;
            it.block(&path.to_string_lossy())
        })?;
        let mut waiting: Option<Waiting<'_>> = None;
        self.until(|it| match it.attempt(number, io) {
            Attempt::Done(bytes) => Some(Ok(bytes)),
            Attempt::Failed(error) => Some(Err(error)),
            Attempt::Waits => {
                if waiting.is_none() {
                    let id = it.serial();
                    it.users.waiting.insert(id, (number, matches!(io, Io::Write { .. })));
                    it.show_inflight(number);
                    waiting = Some(Waiting { node: self, id });
                }
                None
            }
        })
        .await
    }

    /// Reads through the page cache: what was read or written before comes from memory, however the volume changed.
    ///
    /// # Errors
    /// As [`SimNode::read_at`].
    pub async fn read_cached(&self, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.cache(path, offset, length).await?;
        self.look(|it| Ok(it.cache.read(it.block(&path.to_string_lossy())?, offset, length)))
    }

    /// Writes into the page cache: the bytes stay dirty until a flush.
    ///
    /// # Errors
    /// As [`SimNode::read_at`].
    pub async fn write_cached(&self, path: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
        self.cache(path, offset, bytes.len()).await?;
        self.look(|it| {
            let number = it.block(&path.to_string_lossy())?;
            it.cache.write(number, offset, bytes);
            it.touch();
            Ok(())
        })
    }

    async fn cache(&self, path: &Path, offset: u64, length: usize) -> Result<()> {
        let number = self.look(|it| it.block(&path.to_string_lossy()))?;
        for page in self.look(|it| it.cache.missing(number, offset, length)) {
            let bytes = self.read_at(path, page, usize::try_from(PAGE).unwrap_or(usize::MAX)).await?;
            self.look(|it| it.cache.fill(number, page, bytes));
        }
        Ok(())
    }

    /// Waits until `look` is true of the log's texts, for tests that follow what happens by itself.
    pub async fn until_logged(&self, kind: LogKind, part: &str) {
        self.until(|it| it.log.iter().any(|it| it.kind == kind && it.text.contains(part)).then_some(()))
            .await;
    }
}

/// Whether a map lets I/O pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suspension {
    /// It does.
    Active,
    /// It keeps all I/O.
    Suspended,
}

/// A block device held open; dropping it closes the device.
#[derive(Debug)]
pub struct OpenHandle {
    node: Weak<Inner>,
    id: u64,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").finish_non_exhaustive()
    }
}

impl Drop for OpenHandle {
    fn drop(&mut self) {
        if let Some(inner) = self.node.upgrade() {
            SimNode(inner).look(|it| {
                it.users.handles.remove(&self.id);
                it.touch();
            });
        }
    }
}

/// A request the kernel keeps, counted as in flight for as long.
struct Waiting<'a> {
    node: &'a SimNode,
    id: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.node.look(|it| {
            if let Some((number, _)) = it.users.waiting.remove(&self.id) {
                it.show_inflight(number);
            }
        });
    }
}

/// Lets time pass for a node: runs what is due and sleeps until something is.
async fn drive(node: Weak<Inner>, wake: Arc<Notify>) {
    loop {
        let next = match node.upgrade() {
            None => return,
            Some(inner) => SimNode(inner).step(),
        };
        match next {
            Some(at) => {
                // Woken early or on time: the agenda is looked at again.
                let _ = tokio::time::timeout_at(at, wake.notified()).await;
            }
            None => wake.notified().await,
        }
    }
}

impl SimNode {
    /// Runs what is due; when the next thing is.
    fn step(&self) -> Option<Instant> {
        let mut machine = self.lock();
        let ran = machine.catch_up(Instant::now());
        if ran {
            machine.reap();
        }
        let next = machine.next_event();
        drop(machine);
        if ran {
            self.0.changed.notify_waiters();
        }
        next
    }
}
