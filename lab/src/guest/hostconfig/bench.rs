//! What the checks of host configuration stand on: a test array, sessions with it, and the host's own tools.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use san_core::{Cx, Deadline, Effects, OperationId, Route, Transport as _};
use san_multipath::Multipath;
use san_sim::kernel::{KernelPlane, LivePlane};
use san_transport_iscsi::Iscsi;

use super::files;
use crate::guest::array::TestArray;
use crate::guest::daemons::{self, Daemon};
use crate::guest::machine::{self, Machine};
use crate::guest::network::{NAMESPACE_PATH, Network};
use crate::guest::{Failure, ledger, scratch, tools, udev};

/// Programs take seconds under emulation.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// The array, the node and the sessions between them.
#[derive(Debug)]
pub(super) struct Bench {
    /// The networks.
    pub(super) network: Network,
    /// The array.
    pub(super) array: Arc<TestArray>,
    /// What lets the kernel follow it.
    pub(super) plane: Arc<LivePlane>,
    /// The node.
    pub(super) node: Machine,
    /// Our sessions.
    pub(super) routes: Vec<Route>,
}

/// A context for one call of the product.
pub(super) fn cx() -> Cx {
    Cx::new(Deadline::after(PATIENCE), OperationId::random(), Effects::unobserved())
}

impl Bench {
    /// An array called `name` in two networks of three, with a session in each.
    ///
    /// # Errors
    /// Where any of it fails.
    pub(super) async fn new(name: &str) -> Result<Self, Failure> {
        let folder = scratch::mount().await?;
        let network = Network::start(3).await?;
        let node = Machine::prepare().await?;
        files::remove_filter()?;
        let array = Arc::new(TestArray::new(name, network.portals()[..2].to_vec(), folder));
        let plane =
            LivePlane::new(KernelPlane::new(Path::new(NAMESPACE_PATH))?, vec![node.initiator.clone()]);
        plane.add(array.clone());
        plane.sync().await?;
        let transport = Iscsi::new(node.guard(), machine::iscsi());
        let ports = array.ports()?;
        let states = transport.connect(&cx(), &ports).await?;
        if let Some(down) = states.iter().find(|it| !it.status.is_up()) {
            return Err(Failure(format!("no session with {}: {:?}", down.port, down.status)));
        }
        let routes = transport.routes(&cx(), &ports).await?;
        Ok(Self { network, array, plane, node, routes })
    }

    /// The product's device manager.
    pub(super) fn manager(&self) -> Multipath {
        Multipath::new(self.node.guard(), machine::multipath())
    }

    /// The first portal alone: one leg is enough for what udev makes of a disk.
    pub(super) fn one(&self) -> &[SocketAddr] {
        &self.array.addresses()[..1]
    }

    /// All portals.
    pub(super) fn all(&self) -> &[SocketAddr] {
        self.array.addresses()
    }

    /// Shows volume `n` as LUN `lun`.
    ///
    /// # Errors
    /// Where the kernel's target does not follow.
    pub(super) async fn show(&self, n: u8, lun: u16, portals: &[SocketAddr]) -> Result<(), Failure> {
        self.array.show(n, lun, portals)?;
        Ok(self.plane.sync().await?)
    }

    /// Shows nothing as LUN `lun`.
    ///
    /// # Errors
    /// Where the kernel's target does not follow.
    pub(super) async fn hide(&self, lun: u16) -> Result<(), Failure> {
        self.array.hide(lun, self.all());
        Ok(self.plane.sync().await?)
    }

    /// The map of volume `n`, by its name.
    pub(super) fn map(&self, n: u8) -> String {
        self.array.identity(n).wwid.multipath_name()
    }

    /// Where it is.
    pub(super) fn map_path(&self, n: u8) -> PathBuf {
        Path::new("/dev/mapper").join(self.map(n))
    }

    /// The SCSI hosts of our sessions.
    fn hosts(&self) -> impl Iterator<Item = u32> {
        self.routes.iter().filter_map(|it| match it {
            Route::Scsi { host, .. } => Some(*host),
            _ => None,
        })
    }

    /// Scans for a LUN in every session, and waits until udev has dealt with what came of it.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(super) async fn scan(&self, lun: u16) -> Result<(), Failure> {
        for host in self.hosts() {
            fs::write(format!("/sys/class/scsi_host/host{host}/scan"), format!("0 0 {lun}"))?;
        }
        daemons::udev_rests().await
    }

    /// The disks of a LUN (`sda`).
    pub(super) fn disks(&self, lun: u16) -> Vec<String> {
        let device = |host| format!("/sys/class/scsi_device/{host}:0:0:{lun}/device/block");
        self.hosts().flat_map(|it| ledger::names(Path::new(&device(it)))).collect()
    }

    /// Has multipathd carry out a command that must succeed.
    ///
    /// # Errors
    /// With what it answers instead.
    pub(super) async fn multipathd(&self, command: &str) -> Result<String, Failure> {
        let arguments: Vec<&str> = command.split(' ').collect();
        let ran = tools::output("multipathd", &arguments, PATIENCE).await?;
        let line = ran.line.clone();
        let said = ran.success()?;
        if said.starts_with("fail") {
            return Err(Failure(format!("{line}: {}", said.trim())));
        }
        Ok(said)
    }

    /// Makes the map of volume `n`, and waits until udev has dealt with it.
    ///
    /// # Errors
    /// Where multipathd does not.
    pub(super) async fn add_map(&self, n: u8) -> Result<(), Failure> {
        let answer = self.multipathd(&format!("add map {}", self.map(n))).await?;
        if answer.trim() != "ok" {
            return Err(Failure(format!("add map: {}", answer.trim())));
        }
        daemons::udev_rests().await
    }

    /// One field of a map in multipathd's own words (`queueing`).
    ///
    /// # Errors
    /// Where there is no such map or field.
    pub(super) async fn map_field(&self, map: &str, field: &str) -> Result<String, Failure> {
        let said = self.multipathd(&format!("show map {map} json")).await?;
        let json: serde_json::Value = serde_json::from_str(&said)?;
        let value = &json["map"][field];
        value.as_str().map(str::to_owned).ok_or_else(|| Failure(format!("no {field} in {said}")))
    }

    /// Ends a check: daemons awake, links mended, settings and files as before it, no device and nothing shown.
    ///
    /// # Errors
    /// Where something stays.
    pub(super) async fn end(&self) -> Result<(), Failure> {
        for daemon in [Daemon::Udevd, Daemon::Multipathd, Daemon::Iscsid] {
            daemon.start().await?;
        }
        for n in 1..=self.network.networks() {
            self.network.mend(n).await?;
        }
        let is_up = |host| machine::session_state(host).as_deref() == Some("LOGGED_IN");
        daemons::until("a session stays down", || Ok(self.hosts().all(is_up))).await?;
        udev::remove_rules().await?;
        files::remove_filter()?;
        super::guests::release().await?;
        machine::sweep().await?;
        udev::unmask_all()?;
        self.array.hide_everything();
        self.plane.sync().await?;
        Ok(self.array.forget()?)
    }

    /// Ends the sessions and takes the array down.
    ///
    /// # Errors
    /// Where something stays.
    pub(super) async fn close(&self) -> Result<(), Failure> {
        for verb in [&["--logout"][..], &["-o", "delete"]] {
            let target = self.array.target();
            tools::run("iscsiadm", &[&["-m", "node", "-T", &target], verb].concat(), PATIENCE).await?;
        }
        let plane = Arc::clone(&self.plane);
        Ok(tokio::task::spawn_blocking(move || plane.plane().clear()).await??)
    }
}
