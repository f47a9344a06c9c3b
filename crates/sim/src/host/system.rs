//! The trait [`Host`] over a simulated node.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use san_core::{Deadline, DeviceNumber, EffectState, Error, ErrorKind, Result};
use san_host::{Attr, Counters, Host, Output, Probe, SocketAddress, Stream, Tool, Uevents};
use secrecy::{ExposeSecret, SecretString};

use super::data::{Attempt, Io};
use super::iscsi::SessionState;
use super::log::LogKind;
use super::machine::Machine;
use super::multipathd::Daemon;
use super::node::SimNode;
use super::scsi::LegState;
use super::settings::Sockets;
use super::tree::{Action, Entry};
use crate::target::Reachability;

/// multipathd's name in the abstract name space.
const ABSTRACT: &str = "/org/kernel/linux/storage/multipathd";
/// multipathd's socket in the file system.
const FILE: &str = "/run/multipathd.socket";

fn text(path: &Path) -> Result<String> {
    match path.to_str() {
        Some(it) if it.starts_with('/') => Ok(it.to_owned()),
        _ => Err(Error::new(ErrorKind::InvalidInput, "not an absolute path").on(path.display())),
    }
}

fn late() -> Error {
    Error::new(ErrorKind::Timeout, "the kernel did not answer in time")
}

/// An error of a call that only looks.
fn looking(kind: ErrorKind, message: &'static str, path: &str) -> Error {
    Error::new(kind, message).on(path).with_effect(EffectState::None)
}

/// A job in a helper process. Dropped while the kernel holds it, the process stays behind and its path is refused.
struct Job<'a> {
    node: &'a SimNode,
    path: &'a Path,
    is_held: bool,
}

impl Drop for Job<'_> {
    fn drop(&mut self) {
        if self.is_held {
            self.node.look(|it| {
                it.abandoned.insert(self.path.to_owned());
                it.counters.abandoned = it.abandoned.len() as u64;
                it.note(LogKind::Event, format!("a helper is stuck on {}", self.path.display()));
                it.touch();
            });
        }
    }
}

impl Machine {
    /// Forgets helpers that the kernel has let go.
    pub(crate) fn reap(&mut self) {
        let stuck = std::mem::take(&mut self.abandoned);
        self.abandoned = stuck.into_iter().filter(|it| self.holds(it)).collect();
        self.counters.abandoned = self.abandoned.len() as u64;
    }

    /// Whether the kernel would keep a helper that works on `path`: a node in `/dev` or an attribute in `/sys`.
    fn holds(&self, path: &Path) -> bool {
        match self.tree.follow(&path.to_string_lossy()) {
            Ok(Some(Entry::Node(device))) => self.node_would_hang(*device),
            Ok(Some(Entry::File { write: Some(Action::Rescan(leg) | Action::Delete(leg)), .. })) => {
                let is_running = self.scsi.legs.get(leg).is_some_and(|it| it.state == LegState::Running);
                is_running && self.leg_would_hang(*leg)
            }
            Ok(Some(Entry::File { write: Some(Action::Scan(host)), .. })) => {
                let mut asked = self.faults.scanning.iter();
                asked.any(|it| it.host == *host && self.faults.hanging.contains(it))
                    || self.iscsi.on_host(*host).is_some_and(|it| {
                        it.state == SessionState::LoggedIn && self.reachability(it.portal) != Reachability::Up
                    })
            }
            _ => false,
        }
    }

    /// Finds what a write goes to.
    fn writable(&self, path: &str) -> Result<(String, Action)> {
        let none =
            |kind, why: &'static str| Err(Error::new(kind, why).on(path).with_effect(EffectState::None));
        let Some(real) = self.tree.canonical(path)? else {
            return none(ErrorKind::NotFound, "no such attribute");
        };
        match self.tree.entry(&real) {
            Some(Entry::File { write: Some(action), .. }) => Ok((real, *action)),
            _ => none(ErrorKind::PermissionDenied, "the attribute cannot be written"),
        }
    }

    fn write(&mut self, real: &str, action: Action, value: &str) -> Result<()> {
        match action {
            Action::Store => {
                self.tree.set(real, value.trim_end_matches('\n'));
                Ok(())
            }
            Action::Scan(host) => self.scan(host, value),
            Action::State(leg) => self.set_state(leg, value),
            Action::Rescan(leg) => {
                self.rescan(leg);
                Ok(())
            }
            Action::Delete(leg) => {
                self.leg_disappears(leg);
                Ok(())
            }
            Action::DiskEvent(leg) => {
                self.disk_event(leg, value.trim_end());
                Ok(())
            }
            Action::MapEvent(minor) => {
                self.map_event(minor, value.trim_end());
                Ok(())
            }
        }
    }
}

impl SimNode {
    /// Begins a job on a path and waits for as long as the kernel holds it.
    async fn job(&self, path: &Path, deadline: Deadline) -> Result<()> {
        self.look(|it| {
            it.check_up()?;
            it.reap();
            if it.abandoned.contains(path) {
                return Err(Error::new(ErrorKind::Busy, "an earlier helper is still stuck in the kernel")
                    .on(path.display()));
            }
            it.counters.helper_jobs += 1;
            Ok(())
        })?;
        if !self.look(|it| it.holds(path)) {
            return Ok(());
        }
        let mut job = Job { node: self, path, is_held: true };
        let free = self.until(|it| (!it.holds(path)).then_some(()));
        if tokio::time::timeout_at(deadline.instant(), free).await.is_err() {
            return Err(late().on(path.display()));
        }
        job.is_held = false;
        Ok(())
    }

    /// Lets `time` pass, but not beyond the deadline.
    async fn pass(
        &self,
        time: impl FnOnce(&Machine) -> std::time::Duration,
        deadline: Deadline,
    ) -> Result<()> {
        let time = self.look(|it| time(it));
        let sleep = tokio::time::sleep(time);
        tokio::time::timeout_at(deadline.instant(), sleep).await.map_err(|_| late())
    }

    /// Runs one command on a block device to its end; the helper is lost if the kernel holds it for too long.
    async fn block_job(&self, device: &Path, io: &Io, deadline: Deadline) -> Result<Vec<u8>> {
        let path = text(device)?;
        loop {
            self.job(device, deadline).await?;
            let attempt = self.look(|it| {
                let number = it.block(&path)?;
                Ok(it.attempt(number, io))
            })?;
            match attempt {
                Attempt::Done(bytes) => return Ok(bytes),
                Attempt::Failed(error) => return Err(error),
                // It began to hang just now: wait like before.
                Attempt::Waits => {}
            }
        }
    }
}

#[async_trait]
impl Host for SimNode {
    async fn attr(&self, device: &Path, attribute: &str, _: Deadline) -> Result<Attr> {
        let device = text(device)?;
        self.look(|it| {
            it.check_up()?;
            let Some(real) = it.tree.canonical(&device)? else { return Ok(Attr::DeviceGone) };
            if !matches!(it.tree.entry(&real), Some(Entry::Dir(_))) {
                return Err(looking(ErrorKind::Conflict, "not a folder", &device));
            }
            match it.tree.follow(&format!("{real}/{attribute}"))? {
                None => Ok(Attr::Missing),
                Some(Entry::File { bytes: Some(bytes), .. }) => Ok(Attr::Value(bytes.clone())),
                Some(_) => Err(looking(ErrorKind::PermissionDenied, "the attribute cannot be read", &device)),
            }
        })
    }

    async fn list(&self, directory: &Path, _: Deadline) -> Result<Option<Vec<String>>> {
        let path = text(directory)?;
        self.look(|it| {
            it.check_up()?;
            it.tree.list(&path)
        })
    }

    async fn read_link(&self, path: &Path, _: Deadline) -> Result<Option<PathBuf>> {
        let path = text(path)?;
        self.look(|it| {
            it.check_up()?;
            let Some(real) = it.tree.canonical_parent(&path)? else { return Ok(None) };
            match it.tree.entry(&real) {
                Some(Entry::Link(target)) => Ok(Some(PathBuf::from(target))),
                _ => Err(looking(ErrorKind::Conflict, "not a symbolic link", &path)),
            }
        })
    }

    async fn read(&self, path: &Path, max: usize, _: Deadline) -> Result<Option<Vec<u8>>> {
        let path = text(path)?;
        self.look(|it| {
            it.check_up()?;
            match it.tree.bytes(&path)? {
                Some(bytes) if bytes.len() > max => {
                    Err(looking(ErrorKind::LimitReached, "the file is longer than asked for", &path))
                }
                found => Ok(found.map(<[u8]>::to_vec)),
            }
        })
    }

    async fn write_attr(&self, path: &Path, value: &str, deadline: Deadline) -> Result<()> {
        let path = text(path)?;
        let (real, action) = self.look(|it| {
            it.check_up()?;
            it.counters.writes += 1;
            it.note(LogKind::Write, format!("{path} {}", value.trim_end()));
            let found = it.writable(&path)?;
            if let Action::Scan(host) = found.1 {
                it.scan_begins(host, value);
            }
            Ok::<_, Error>(found)
        })?;
        self.job(Path::new(&path), deadline).await?;
        // The device may be gone meanwhile.
        self.look(|it| it.writable(&path))?;
        self.look(|it| {
            let result = it.write(&real, action, value);
            it.touch();
            result
        })?;
        self.pass(|it| it.spec.timing.write, deadline).await
    }

    async fn make_link(&self, link: &Path, target: &Path, _: Deadline) -> Result<()> {
        let (path, target) = (text(link)?, target.to_string_lossy().into_owned());
        self.look(|it| {
            it.check_up()?;
            if !matches!(it.tree.entry(&path), None | Some(Entry::Link(_))) {
                return Err(looking(ErrorKind::Conflict, "something else than a link is there", &path));
            }
            if it.tree.entry(&path) == Some(&Entry::Link(target.clone())) {
                return Ok(());
            }
            it.note(LogKind::Link, format!("make {path} {target}"));
            it.tree.put_link(&path, &target);
            it.mirror_link(&path, &target);
            it.touch();
            Ok(())
        })
    }

    async fn remove_link(&self, link: &Path, _: Deadline) -> Result<bool> {
        let path = text(link)?;
        self.look(|it| {
            it.check_up()?;
            match it.tree.entry(&path) {
                None => return Ok(false),
                Some(Entry::Link(_)) => {}
                Some(_) => return Err(looking(ErrorKind::Conflict, "not a symbolic link", &path)),
            }
            it.note(LogKind::Link, format!("remove {path}"));
            it.tree.remove(&path);
            it.unmirror_link(&path);
            it.touch();
            Ok(true)
        })
    }

    async fn put_file(&self, path: &Path, contents: &str, _: Deadline) -> Result<()> {
        let path = text(path)?;
        self.look(|it| {
            it.check_up()?;
            if !matches!(it.tree.entry(&path), None | Some(Entry::Link(_) | Entry::File { .. })) {
                return Err(looking(ErrorKind::Conflict, "neither a file nor a link is there", &path));
            }
            it.note(LogKind::File, format!("put {path}"));
            it.tree.put_file(&path, contents);
            it.touch();
            Ok(())
        })
    }

    async fn put_secret(
        &self,
        path: &Path,
        staged: &Path,
        secret: &SecretString,
        deadline: Deadline,
    ) -> Result<()> {
        // What is staged takes its place in the same step: nobody here sees it before.
        text(staged)?;
        Host::put_file(self, path, secret.expose_secret(), deadline).await
    }

    async fn link_file(&self, file: &Path, name: &Path, _: Deadline) -> Result<bool> {
        let (file, name) = (text(file)?, text(name)?);
        self.look(|it| {
            it.check_up()?;
            if it.tree.entry(&name).is_some() {
                return Ok(false);
            }
            if it.tree.entry(&file).is_none() {
                return Err(looking(ErrorKind::NotFound, "there is no such file", &file));
            }
            it.note(LogKind::File, format!("link {name}"));
            let contents = it.tree.text(&file);
            it.tree.put_file(&name, contents);
            it.touch();
            Ok(true)
        })
    }

    async fn remove_file(&self, path: &Path, _: Deadline) -> Result<bool> {
        let path = text(path)?;
        self.look(|it| {
            it.check_up()?;
            match it.tree.entry(&path) {
                None => return Ok(false),
                Some(Entry::Link(_) | Entry::File { .. }) => {}
                Some(_) => return Err(looking(ErrorKind::Conflict, "neither a file nor a link", &path)),
            }
            it.note(LogKind::File, format!("remove {path}"));
            it.tree.remove(&path);
            it.touch();
            Ok(true)
        })
    }

    async fn run(&self, tool: Tool, arguments: &[String], deadline: Deadline) -> Result<Output> {
        self.look(|it| {
            it.check_up()?;
            if it.faults.missing_tools.contains(&tool) {
                return Err(Error::new(ErrorKind::Unavailable, format!("{tool} is not installed"))
                    .with_remedy(format!("apt install {}", tool.package()))
                    .with_effect(EffectState::None));
            }
            it.counters.processes += 1;
            it.note(LogKind::Program, format!("{tool} {}", arguments.join(" ")));
            Ok(())
        })?;
        let run = async {
            match tool {
                Tool::Iscsiadm => Ok(super::iscsiadm::run(self, arguments).await),
                other => Err(Error::new(ErrorKind::Unsupported, format!("{other} is not simulated"))),
            }
        };
        tokio::time::timeout_at(deadline.instant(), run)
            .await
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, format!("{tool} was killed"))))
    }

    async fn connect(&self, address: &SocketAddress, _: Deadline) -> Result<Box<dyn Stream>> {
        let refused = || {
            Err(Error::new(ErrorKind::Unavailable, "nobody listens")
                .on(address)
                .with_effect(EffectState::None))
        };
        let epoch = self.look(|it| {
            it.check_up()?;
            it.counters.connections += 1;
            let sockets = it.spec.multipath.sockets;
            let listens = match address {
                SocketAddress::Abstract(name) => name == ABSTRACT && sockets != Sockets::File,
                SocketAddress::Path(path) => path == Path::new(FILE) && sockets != Sockets::Abstract,
            };
            if !listens || it.multipathd.daemon == Daemon::Stopped {
                return refused();
            }
            Ok(it.multipathd.epoch)
        })?;
        Ok(Box::new(super::socket::connect(self, epoch)))
    }

    async fn probe(&self, address: SocketAddr, deadline: Deadline) -> Result<Probe> {
        let answer = self.look(|it| {
            it.check_up()?;
            it.note(LogKind::Probe, address.to_string());
            Ok::<_, Error>(it.reachability(address))
        })?;
        match answer {
            Reachability::Up => Ok(Probe::Open),
            Reachability::Refusing => Ok(Probe::Refused),
            Reachability::BlackHole => {
                tokio::time::sleep_until(deadline.instant()).await;
                Ok(Probe::Silent)
            }
        }
    }

    fn uevents(&self) -> Uevents {
        Uevents::new(self.look(|it| it.uevents.subscribe()))
    }

    async fn inquiry(&self, device: &Path, page: Option<u8>, deadline: Deadline) -> Result<Vec<u8>> {
        let path = text(device)?;
        self.look(|it| {
            let page = page.map_or_else(|| "standard".to_owned(), |it| format!("{it:#04x}"));
            it.note(LogKind::Inquiry, format!("{} {page}", device.display()));
        });
        let unseen = |error: Error| error.with_effect(EffectState::None);
        self.job(device, deadline).await.map_err(unseen)?;
        self.pass(|it| it.spec.timing.command, deadline).await.map_err(unseen)?;
        self.look(|it| it.inquiry(it.device(&path)?, page)).map_err(unseen)
    }

    async fn flush(&self, device: &Path, deadline: Deadline) -> Result<()> {
        let path = text(device)?;
        let number = self.look(|it| {
            it.check_up()?;
            it.note(LogKind::Flush, &path);
            it.block(&path)
        })?;
        while let Some((offset, bytes)) = self.look(|it| it.cache.dirty(number)) {
            self.block_job(device, &Io::Write { offset, bytes }, deadline).await?;
            self.look(|it| it.cache.clean(number, offset));
        }
        self.block_job(device, &Io::Sync, deadline).await?;
        self.look(|it| {
            it.cache.forget(number);
            if let (Some(plane), Some(map)) = (&it.plane, it.dm.maps.get(&number.minor)) {
                plane.flushed(&it.spec.name, &map.name);
            }
        });
        self.pass(|it| it.spec.timing.command, deadline).await
    }

    async fn read_block(
        &self,
        device: &Path,
        offset: u64,
        length: usize,
        deadline: Deadline,
    ) -> Result<Vec<u8>> {
        let unseen = |error: Error| error.with_effect(EffectState::None);
        let read = Io::Read { offset, length };
        let bytes = self.block_job(device, &read, deadline).await.map_err(unseen)?;
        self.pass(|it| it.spec.timing.command, deadline).await.map_err(unseen)?;
        Ok(bytes)
    }

    async fn open_count(&self, device: DeviceNumber, _: Deadline) -> Result<Option<u32>> {
        self.look(|it| {
            it.check_up()?;
            it.reap();
            it.counters.helper_jobs += 1;
            Ok(it.open_count(device))
        })
    }

    fn counters(&self) -> Counters {
        self.look(|it| {
            it.reap();
            it.counters
        })
    }
}
