//! The bench of the scenarios: two arrays on the kernel's target, this node's device manager and transport, a bystander,
//! and the calls of scenarios, each of which has to end in time.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use san_contract::audit::Audit;
use san_core::{
    Cx, Deadline, Device, DeviceManager, Effects, Expected, Hctl, KnownLegs, Lun, OperationId, Retired,
    Route, Transport,
};
use san_host::{Guard, Host, System, SystemConfig};
use san_multipath::{Multipath, MultipathConfig};
use san_sim::kernel::{KernelPlane, LivePlane};
use san_transport_iscsi::{Iscsi, IscsiConfig};

use super::tools;
use crate::guest::Failure;
use crate::guest::array::{TestArray, VOLUME_SIZE};
use crate::guest::bystander::VerifiedIo;
use crate::guest::ledger::names;
use crate::guest::network::{NAMESPACE_PATH, Network};
use crate::guest::watched::Watched;
use crate::guest::{scratch, udev};

/// How many networks there are.
const NETWORKS: u8 = 4;
/// How long one call of a scenario may take: nothing here needs longer, also under emulation on a loaded machine.
pub(super) const SPAN: Duration = Duration::from_secs(90);
/// How much later than its deadline a call may end.
const GRACE: Duration = Duration::from_secs(1);
/// Helper processes kept in advance.
pub(super) const HELPERS: usize = 4;
/// Networks, sessions and legs that most scenarios use; the bystander has all of them.
pub(super) const USUAL: usize = 2;
pub(super) const BYSTANDER: u8 = 1;
pub(super) const BYSTANDER_LUN: u16 = 99;
/// Short timers, so that outages are over quickly; no default of the product is changed.
const TIMERS: &str = "defaults {\n\tpolling_interval 1\n\tmax_polling_interval 2\n}\n\
                      overrides {\n\tfast_io_fail_tmo 2\n\tno_path_retry 300\n}\n";
/// What the package installs, or offers to be installed.
const VENDOR: &str = include_str!("../../../../host/multipath/sanbridge-vendor.conf");
/// What scenarios are played on.
#[derive(Debug)]
pub struct Bench {
    /// The array of most scenarios.
    pub array: Arc<TestArray>,
    /// Another one, behind the same addresses.
    pub second: Arc<TestArray>,
    /// The kernel's targets, which follow both.
    pub plane: Arc<LivePlane>,
    /// The networks between them and this node.
    pub network: Network,
    /// This node.
    pub system: Arc<System>,
    /// This node with a log of what we do to it.
    pub host: Watched,
    /// Ours.
    pub devices: Multipath,
    /// Ours.
    pub roads: Iscsi,
    bystander: Option<VerifiedIo>,
    /// The bystander's WWID as multipath writes it.
    pub bystander_map: String,
    /// Where the sessions of the first array lead: by network.
    places: Vec<Hctl>,
    pub(super) before: Audit,
    pub(super) late: Mutex<Vec<String>>,
    next: AtomicU8,
}

/// A context that ends in `span`.
pub(super) fn cx(span: Duration) -> Cx {
    Cx::new(Deadline::after(span), OperationId::random(), Effects::unobserved())
}

/// A LUN number.
pub(super) fn lun(number: u16) -> Result<Lun, Failure> {
    Lun::new(number).ok_or_else(|| Failure(format!("{number} is no LUN number")))
}

/// What is expected of a volume that was never resized, at a number.
pub(super) fn expected(array: &TestArray, volume: u8, number: u16) -> Result<Expected, Failure> {
    Ok(Expected { identity: array.identity(volume), size: VOLUME_SIZE, lun: lun(number)? })
}

/// The addresses of a number behind routes.
pub(super) fn addresses(routes: &[Route], lun: Lun) -> Vec<Hctl> {
    let address = |route: &Route| match route {
        Route::Scsi { host, channel, target, .. } => {
            Some(Hctl { host: *host, channel: *channel, target: *target, lun })
        }
        _ => None,
    };
    routes.iter().filter_map(address).collect()
}

/// How iSCSI sessions of the bench behave.
pub(super) fn iscsi_config() -> IscsiConfig {
    let second = Duration::from_secs(1);
    IscsiConfig {
        replacement_timeout: 2 * second,
        ping: 2 * second,
        login_timeout: 10 * second,
        login_hold: 2 * second,
        probe_hold: second,
        ..IscsiConfig::default()
    }
}

/// How devices of the bench are built: udev, the kernel and multipathd have the time they need under emulation.
pub(super) fn multipath_config() -> MultipathConfig {
    let seconds = Duration::from_secs;
    MultipathConfig {
        leg: seconds(20),
        straggler: seconds(5),
        udev: seconds(60),
        map: seconds(30),
        ..MultipathConfig::default()
    }
}

/// This node's operating system, with helpers of its own.
pub(super) fn system(tool_folders: Option<Vec<PathBuf>>) -> Result<Arc<System>, Failure> {
    let mut config = SystemConfig::new("/proc/self/exe", ["helper"]);
    config.helpers = HELPERS;
    if let Some(folders) = tool_folders {
        config.tool_folders = folders;
    }
    Ok(System::start(config)?)
}

/// Installs this node's host configuration.
async fn configure_host() -> Result<(), Failure> {
    std::fs::create_dir_all("/etc/multipath/conf.d")?;
    std::fs::write("/etc/multipath/conf.d/sanbridge-vendor.conf", VENDOR)?;
    std::fs::write("/etc/multipath/conf.d/zz-lab.conf", TIMERS)?;
    tools::run("multipathd", &["reconfigure"]).await?;
    udev::install_rules().await
}

/// An array with a portal on each network.
fn array(network: &Network, folder: &Path, name: &str, port: u16) -> Result<Arc<TestArray>, Failure> {
    let folder = folder.join(name);
    std::fs::create_dir_all(&folder)?;
    let mut portals = network.portals();
    for portal in &mut portals {
        portal.set_port(port);
    }
    Ok(Arc::new(TestArray::new(name, portals, folder)))
}

impl Bench {
    /// Builds it in a fresh machine: networks, arrays, sessions to the first array, the bystander at work.
    pub(super) async fn new(block: u32) -> Result<Self, Failure> {
        let network = Network::start(NETWORKS).await?;
        let folder = scratch::mount().await?;
        configure_host().await?;
        let second = array(&network, &folder, "labb", 3261)?;
        let array = array(&network, &folder, "laba", 3260)?;
        let plane = LivePlane::new(KernelPlane::new(Path::new(NAMESPACE_PATH))?, vec![tools::initiator()?]);
        plane.plane().set_block_size(block);
        plane.add(Arc::clone(&array) as _);
        plane.add(Arc::clone(&second) as _);
        array.show(BYSTANDER, BYSTANDER_LUN, array.addresses())?;
        plane.sync().await?;
        let system = system(None)?;
        let host = Watched::new(Arc::clone(&system) as Arc<dyn Host>);
        let guard = Guard::new(Arc::new(host.clone()));
        let devices = Multipath::new(guard.clone(), multipath_config());
        let roads = Iscsi::new(guard, iscsi_config());
        let ports = array.ports()?;
        let states = roads.connect(&cx(SPAN), &ports).await?;
        if let Some(down) = states.iter().find(|it| !it.status.is_up()) {
            return Err(Failure(format!("no session: {down:?}")));
        }
        let routes = roads.routes(&cx(SPAN), &ports).await?;
        let expected = expected(&array, BYSTANDER, BYSTANDER_LUN)?;
        let device = devices.attach(&cx(SPAN), &expected, &routes).await?;
        let bystander = VerifiedIo::start(&device.path, Duration::from_millis(50))?;
        let mut places = Vec::new();
        for port in &ports {
            let leading: Vec<Route> = routes.iter().filter(|it| it.port() == port).cloned().collect();
            places.extend(addresses(&leading, expected.lun));
        }
        let mut this = Self {
            array,
            second,
            plane,
            network,
            system,
            host,
            devices,
            roads,
            bystander: Some(bystander),
            bystander_map: expected.identity.wwid.multipath_name(),
            places,
            before: Audit::default(),
            late: Mutex::default(),
            next: AtomicU8::new(10),
        };
        tools::quiet().await?;
        this.before = this.stock();
        Ok(this)
    }

    /// Ends the bystander, removes everything, and says how the bystander fared.
    pub(super) async fn end(mut self) -> Result<(), Failure> {
        if let Some(bystander) = self.bystander.take() {
            bystander.end().await?;
        }
        let expected = expected(&self.array, BYSTANDER, BYSTANDER_LUN)?;
        let known =
            KnownLegs { identity: expected.identity, lun: expected.lun, addresses: self.places.clone() };
        let retired = self.devices.retire(&cx(SPAN), &known).await?;
        self.hide_from(&self.array, BYSTANDER_LUN).await?;
        self.devices.bury(&cx(SPAN), &retired).await?;
        self.roads.disconnect(&cx(SPAN), &self.array.ports()?).await?;
        self.fall().await
    }

    /// The bystander has had another good round by now, and no bad one ever.
    pub(super) async fn ask_bystander(&self, patience: Duration) -> Result<(), Failure> {
        let Some(bystander) = &self.bystander else { return Ok(()) };
        bystander.another_round(patience).await?;
        bystander.require_well().map(drop)
    }

    /// Waits until every session carries commands.
    pub(super) async fn await_sessions(&self) -> Result<(), Failure> {
        let folder = Path::new("/sys/class/iscsi_session");
        let state = |it: &String| std::fs::read_to_string(folder.join(it).join("state")).unwrap_or_default();
        let are_live = || names(folder).iter().all(|it| state(it).trim() == "LOGGED_IN");
        tools::until("the return of every session", SPAN, are_live).await.map(drop)
    }

    /// The number of a volume nobody has seen before.
    pub(super) fn volume(&self) -> u8 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The first array shows a volume behind the usual portals; it is masked before, as the engine does it.
    pub(super) async fn show(&self, volume: u8, number: u16) -> Result<(), Failure> {
        udev::mask(&self.array.identity(volume).wwid)?;
        self.array.show(volume, number, &self.array.addresses()[..USUAL])?;
        self.sync().await
    }

    /// The first array shows nothing at a number any more.
    pub(super) async fn hide(&self, number: u16) -> Result<(), Failure> {
        self.hide_from(&self.array, number).await
    }

    async fn hide_from(&self, array: &TestArray, number: u16) -> Result<(), Failure> {
        array.hide(number, array.addresses());
        self.sync().await
    }

    /// Has the kernel's targets follow what was changed.
    pub(super) async fn sync(&self) -> Result<(), Failure> {
        Ok(self.plane.sync().await?)
    }

    /// Takes every target away, as an array that reboots; [`Bench::sync`] brings it back.
    pub(super) async fn fall(&self) -> Result<(), Failure> {
        let plane = Arc::clone(&self.plane);
        Ok(tokio::task::spawn_blocking(move || plane.plane().clear()).await??)
    }

    /// What is expected of a volume of the first array.
    pub(super) fn expected(&self, volume: u8, number: u16) -> Result<Expected, Failure> {
        expected(&self.array, volume, number)
    }

    /// The routes to the first `count` ports of the first array.
    pub(super) async fn routes(&self, count: usize) -> Result<Vec<Route>, Failure> {
        Ok(self.roads.routes(&cx(SPAN), &self.array.ports()?[..count]).await?)
    }

    /// What is on record of a volume behind the usual ports, whatever has become of their sessions.
    pub(super) fn known(&self, volume: u8, number: u16) -> Result<KnownLegs, Failure> {
        let expected = self.expected(volume, number)?;
        let places = self.places.iter().take(USUAL);
        let addresses = places.map(|it| Hctl { lun: expected.lun, ..*it }).collect();
        Ok(KnownLegs { identity: expected.identity, lun: expected.lun, addresses })
    }

    /// Waits for a call that has `span`, and remembers it where it ends later than it may.
    pub(super) async fn timed<T>(
        &self,
        what: &str,
        span: Duration,
        call: impl Future<Output = san_core::Result<T>>,
    ) -> san_core::Result<T> {
        let started = Instant::now();
        let answer = call.await;
        let took = started.elapsed();
        if took > span + GRACE {
            let line = format!("{what} had {span:?} and took {took:?}");
            self.late.lock().unwrap_or_else(PoisonError::into_inner).push(line);
        }
        answer
    }

    /// Attaches what is shown already, over the usual routes.
    pub(super) async fn try_attach(
        &self,
        volume: u8,
        number: u16,
    ) -> Result<san_core::Result<Device>, Failure> {
        let (expected, routes) = (self.expected(volume, number)?, self.routes(USUAL).await?);
        Ok(self.timed("attach", SPAN, self.devices.attach(&cx(SPAN), &expected, &routes)).await)
    }

    /// Shows a volume and attaches it with both legs.
    pub(super) async fn attach(&self, volume: u8, number: u16) -> Result<Device, Failure> {
        self.show(volume, number).await?;
        let device = self.try_attach(volume, number).await??;
        if device.legs.len() != USUAL {
            let message = format!("{} legs instead of {USUAL}: {:?}", device.legs.len(), device.missing);
            return Err(Failure(message));
        }
        Ok(device)
    }

    /// Looks at an attached volume.
    pub(super) async fn inspect(
        &self,
        volume: u8,
        number: u16,
    ) -> Result<san_core::Result<Option<Device>>, Failure> {
        let (expected, routes) = (self.expected(volume, number)?, self.routes(USUAL).await?);
        Ok(self.timed("inspect", SPAN, self.devices.inspect(&cx(SPAN), &expected, &routes)).await)
    }

    /// Retires a volume.
    pub(super) async fn try_retire(
        &self,
        volume: u8,
        number: u16,
    ) -> Result<san_core::Result<Retired>, Failure> {
        let known = self.known(volume, number)?;
        Ok(self.timed("retire", SPAN, self.devices.retire(&cx(SPAN), &known)).await)
    }

    /// Buries what was retired.
    pub(super) async fn bury(&self, retired: &Retired) -> Result<(), Failure> {
        Ok(self.timed("bury", SPAN, self.devices.bury(&cx(SPAN), retired)).await?)
    }

    /// The whole way down.
    pub(super) async fn detach(&self, volume: u8, number: u16) -> Result<(), Failure> {
        let retired = self.try_retire(volume, number).await??;
        self.hide(number).await?;
        self.bury(&retired).await
    }
}
