//! The device contract on the kernel's own devices: every clause as it stands, on real sessions, maps and daemons.

mod hangs;

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use san_contract::device::{DeviceFixture, Garble, Use};
use san_core::Transport as _;
use san_core::{
    ByteSize, Cx, Deadline, DeviceManager, Effects, Hctl, Identity, OperationId, Route, TargetPort,
};
use san_multipath::{Multipath, MultipathConfig};
use san_sim::kernel::{KernelPlane, LivePlane};
use san_sim::target::Reachability;
use san_transport_iscsi::Iscsi;

use super::array::TestArray;
use super::daemons::{Daemon, until};
use super::direct;
use super::hung::Hung;
use super::machine::{self, Machine, now, sure};
use super::network::{NAMESPACE, NAMESPACE_PATH, Network};
use super::{Check, Failure, Group, Recorder, Shown, daemons, run, scratch, tools, udev};

/// Three ports are as many as the contract asks for; each costs a pass of udev for every volume.
const NETWORKS: u8 = 3;
/// The clauses use volumes up to this number.
const VOLUMES: u8 = 9;
/// How long a unit that hangs holds each command.
const HANG_SECONDS: u32 = 8;
/// How many commands a disk answers before the kernel shows it.
const COMMANDS_OF_A_DISK: u32 = 8;
const PATIENCE: Duration = Duration::from_secs(60);
const MOUNT_POINT: &str = "/mnt/a b";

/// The node, the array, and the device manager under test.
#[derive(Debug)]
pub(super) struct Fixture {
    network: Network,
    array: Arc<TestArray>,
    plane: Arc<LivePlane>,
    node: Machine,
    manager: Multipath,
    /// The same with less patience for udev, for where it is held.
    hasty: Multipath,
    is_udev_held: AtomicBool,
    routes: Vec<Route>,
    hung: Mutex<Vec<Hung>>,
    /// How many times multipathd is to be woken yet.
    delays: Arc<AtomicUsize>,
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn cx() -> Cx {
    Cx::new(Deadline::after(PATIENCE), OperationId::random(), Effects::unobserved())
}

fn place(route: &Route) -> (u32, SocketAddr) {
    match route {
        Route::Scsi { host, port: TargetPort::Iscsi { portal, .. }, .. } => (*host, *portal),
        // All routes of this fixture are the iSCSI transport's.
        _ => (u32::MAX, SocketAddr::from(([0; 4], 0))),
    }
}

/// The number of the network a portal is in.
fn network_of(portal: SocketAddr) -> u8 {
    match portal.ip() {
        std::net::IpAddr::V4(address) => address.octets()[2],
        std::net::IpAddr::V6(_) => 0,
    }
}

impl Fixture {
    async fn new() -> Result<Self, Failure> {
        let folder = scratch::mount().await?;
        let network = Network::start(NETWORKS).await?;
        let node = Machine::prepare().await?;
        let array = Arc::new(TestArray::new("device", network.portals(), folder));
        let plane =
            LivePlane::new(KernelPlane::new(Path::new(NAMESPACE_PATH))?, vec![node.initiator.clone()]);
        plane.add(array.clone());
        plane.sync().await?;
        for n in 1..=VOLUMES {
            udev::mask(&array.identity(n).wwid)?;
        }
        let transport = Iscsi::new(node.guard(), machine::iscsi());
        let ports = array.ports()?;
        let states = transport.connect(&cx(), &ports).await?;
        if let Some(down) = states.iter().find(|it| !it.status.is_up()) {
            return Err(Failure(format!("no session with {}: {:?}", down.port, down.status)));
        }
        let routes = transport.routes(&cx(), &ports).await?;
        let manager = Multipath::new(node.guard(), node.multipath());
        let udev = MultipathConfig::default().udev * 2;
        let hasty = Multipath::new(node.guard(), MultipathConfig { udev, ..node.multipath() });
        let is_udev_held = AtomicBool::new(false);
        let hung = Mutex::default();
        Ok(Self {
            network,
            array,
            plane,
            node,
            manager,
            hasty,
            is_udev_held,
            routes,
            hung,
            delays: Arc::default(),
        })
    }

    fn portals(&self) -> &[SocketAddr] {
        self.array.addresses()
    }

    /// The array has changed: the kernel follows before anything else happens.
    fn changed(&self, change: std::io::Result<()>) {
        now(async {
            change?;
            Ok(self.plane.sync().await?)
        });
    }

    fn map_name(&self, n: u8) -> String {
        self.array.identity(n).wwid.multipath_name()
    }

    fn host_of(&self, portal: SocketAddr) -> Option<u32> {
        self.routes.iter().map(place).find(|it| it.1 == portal).map(|it| it.0)
    }

    /// The clause begins on a node without a leg and without a map.
    fn begin(&self) -> Result<(), Failure> {
        let found = [machine::legs(), machine::maps()?].concat();
        if !found.is_empty() {
            return Err(Failure(format!("left over from before: {}", found.join(", "))));
        }
        self.node.host.forget();
        Ok(())
    }

    /// What the clause has shown: nothing panicked, and every change was aimed at one thing.
    fn seen(&self) -> Shown {
        san_contract::device::assert_modest(self, 0);
        let changes = self.changes().len();
        Shown::held(format!(
            "all of it; {changes} changes, each aimed at one LUN, one leg or one map; no program"
        ))
    }

    /// Puts everything right, however the clause left it.
    async fn end(&self) -> Result<(), Failure> {
        until("multipathd stays delayed", || Ok(self.delays.load(Ordering::Relaxed) == 0)).await?;
        for daemon in [Daemon::Udevd, Daemon::Multipathd, Daemon::Iscsid] {
            daemon.start().await?;
        }
        self.is_udev_held.store(false, Ordering::Relaxed);
        for portal in self.portals() {
            self.network.mend(network_of(*portal)).await?;
            self.set_delay(*portal, None).await?;
        }
        let hung = std::mem::take(&mut *lock(&self.hung));
        for hung in hung {
            hung.remove().await?;
        }
        until("a session stays down", || {
            Ok(self
                .routes
                .iter()
                .all(|it| machine::session_state(place(it).0).as_deref() == Some("LOGGED_IN")))
        })
        .await?;
        machine::sweep().await?;
        self.array.hide_everything();
        self.plane.sync().await?;
        Ok(self.array.forget()?)
    }

    /// Ends the sessions and takes the array down.
    async fn close(&self) -> Result<(), Failure> {
        tools::run("iscsiadm", &["-m", "node", "-T", &self.array.target(), "--logout"], PATIENCE).await?;
        tools::run("iscsiadm", &["-m", "node", "-T", &self.array.target(), "-o", "delete"], PATIENCE).await?;
        let plane = Arc::clone(&self.plane);
        Ok(tokio::task::spawn_blocking(move || plane.plane().clear()).await??)
    }

    /// Everything between the array and the node on one network takes longer.
    async fn set_delay(&self, portal: SocketAddr, delay: Option<Duration>) -> Result<(), Failure> {
        let device = format!("t{}", network_of(portal));
        let head = ["-n", NAMESPACE, "qdisc"];
        let Some(delay) = delay else {
            // There may be none.
            tools::output("tc", &[&head[..], &["del", "dev", &device, "root"]].concat(), PATIENCE).await?;
            return Ok(());
        };
        let delay = format!("{}ms", delay.as_millis());
        let tail = ["replace", "dev", &device, "root", "netem", "delay", &delay];
        tools::run("tc", &[&head[..], &tail].concat(), PATIENCE).await.map(drop)
    }

    async fn mount(device: &Path) -> Result<Box<dyn Send>, Failure> {
        let path = device.to_string_lossy().into_owned();
        tools::run("mkfs.ext4", &["-q", "-F", &path], PATIENCE).await?;
        daemons::udev_rests().await?;
        std::fs::create_dir_all(MOUNT_POINT)?;
        tools::run("mount", &[&path, MOUNT_POINT], PATIENCE).await?;
        Ok(Box::new(InUse(&["umount", MOUNT_POINT])))
    }

    async fn swap(device: &Path) -> Result<Box<dyn Send>, Failure> {
        let path = device.to_string_lossy().into_owned();
        tools::run("mkswap", &[&path], PATIENCE).await?;
        daemons::udev_rests().await?;
        tools::run("swapon", &[&path], PATIENCE).await?;
        Ok(Box::new(InUse(&["swapoff", "--all"])))
    }

    async fn stack(device: &Path) -> Result<Box<dyn Send>, Failure> {
        let table = format!("0 8192 linear {} 0", device.display());
        tools::run("dmsetup", &["create", "vg-lv", "--uuid", "LVM-abcdef", "--table", &table], PATIENCE)
            .await?;
        daemons::udev_rests().await?;
        Ok(Box::new(InUse(&["dmsetup", "remove", "vg-lv"])))
    }

    /// A partition table with one partition, and its map.
    async fn make_partition(&self, n: u8) -> Result<(), Failure> {
        let path = format!("/dev/mapper/{}", self.map_name(n));
        let script = tempfile::NamedTempFile::new()?;
        std::fs::write(script.path(), "label: gpt\nsize=4MiB\n")?;
        let command = format!("sfdisk -q {path} < {}", script.path().display());
        tools::run("sh", &["-c", &command], PATIENCE).await?;
        daemons::udev_rests().await?;
        tools::run("kpartx", &["-a", "-s", "-p", "-part", &path], PATIENCE).await?;
        daemons::udev_rests().await?;
        let is_there = machine::maps()?.iter().any(|it| it.ends_with("-part1"));
        if is_there { Ok(()) } else { Err(Failure("kpartx made no map".to_owned())) }
    }
}

/// Ends a use of a device.
struct InUse(&'static [&'static str]);

impl Drop for InUse {
    fn drop(&mut self) {
        let [program, arguments @ ..] = self.0 else { return };
        now(async {
            tools::run(program, arguments, PATIENCE).await?;
            daemons::udev_rests().await
        });
    }
}

impl DeviceFixture for Fixture {
    fn slowness(&self) -> u32 {
        self.node.slowness()
    }

    fn manager(&self) -> &dyn DeviceManager {
        if self.is_udev_held.load(Ordering::Relaxed) { &self.hasty } else { &self.manager }
    }

    fn routes(&self) -> Vec<Route> {
        self.routes.clone()
    }

    fn identity(&self, n: u8) -> Identity {
        self.array.identity(n)
    }

    fn garble(&self, n: u8, how: Garble) {
        self.changed(match how {
            // The kernel's target makes the one of the other.
            Garble::NoWwid | Garble::NoSerial => self.array.make_nameless(n),
            Garble::WwidOf(other) => self.array.make_alike(n, other),
        });
    }

    fn show(&self, n: u8, lun: u16) {
        self.changed(self.array.show(n, lun, self.portals()));
    }

    fn show_behind(&self, route: &Route, n: u8, lun: u16) {
        self.changed(self.array.show(n, lun, &[place(route).1]));
    }

    fn hide(&self, lun: u16) {
        self.array.hide(lun, self.portals());
        self.changed(Ok(()));
    }

    fn resize(&self, n: u8, size: ByteSize) {
        self.changed(self.array.resize(n, size));
    }

    fn bytes(&self, n: u8, length: usize) -> Vec<u8> {
        sure(self.array.bytes(n, length).map_err(Failure::from))
    }

    async fn cut(&self, route: &Route) {
        let (host, portal) = place(route);
        sure(self.network.cut(network_of(portal)).await);
        sure(until("the node does not notice a cut", || Ok(machine::is_down(host))).await);
    }

    async fn mend(&self, route: &Route) {
        let (host, portal) = place(route);
        sure(self.network.mend(network_of(portal)).await);
        sure(until("the node does not notice a repair", || Ok(machine::is_up(host))).await);
    }

    async fn bounce(&self, route: &Route) {
        let (host, portal) = place(route);
        let is_live = || machine::session_state(host).as_deref() == Some("LOGGED_IN");
        self.array.set_reachability(portal, Reachability::Refusing);
        sure(self.plane.sync().await.map_err(Failure::from));
        sure(until("the session does not break", || Ok(!is_live())).await);
        self.array.set_reachability(portal, Reachability::Up);
        sure(self.plane.sync().await.map_err(Failure::from));
        sure(until("the session does not come back", || Ok(is_live())).await);
    }

    fn hang(&self, leg: Hctl) {
        let lun = leg.lun.number();
        let portal = self.portals().iter().find(|it| self.host_of(**it) == Some(leg.host));
        let portal = sure(portal.ok_or_else(|| Failure(format!("no session has host {}", leg.host))));
        self.array.withhold(lun, *portal);
        let hung = Hung::mute(&self.array, *portal, lun, &self.node.initiator, HANG_SECONDS);
        lock(&self.hung).push(sure(hung));
    }

    fn take_into_use(&self, device: &Path, how: Use) -> Box<dyn Send> {
        let device = device.to_owned();
        now(async {
            match how {
                // Closing a device that was open for writing makes udev look at it.
                Use::Handle => Ok(Box::new(File::open(&device)?) as Box<dyn Send>),
                Use::Mount => Self::mount(&device).await,
                Use::Swap => Self::swap(&device).await,
                Use::Stack => Self::stack(&device).await,
            }
        })
    }

    async fn partition(&self, n: u8) {
        sure(self.make_partition(n).await);
    }

    /// multipathd's own default: it makes maps of what it has made a map of before.
    fn maps_come_by_themselves(&self) -> bool {
        false
    }

    async fn remove_map(&self, n: u8) {
        sure(daemons::udev_rests().await);
        sure(tools::run("multipath", &["-f", &self.map_name(n)], PATIENCE).await);
    }

    async fn scan_everything(&self) {
        sure(tools::run("iscsiadm", &["-m", "session", "--rescan"], PATIENCE).await);
        // Whoever wants to make something of what appeared has done so when udev rests and a second has passed.
        sure(daemons::udev_rests().await);
        tokio::time::sleep(Duration::from_secs(1)).await;
        sure(daemons::udev_rests().await);
    }

    async fn write(&self, device: &Path, bytes: &[u8]) {
        let (device, bytes): (PathBuf, Vec<u8>) = (device.to_owned(), bytes.to_vec());
        let writing = tokio::task::spawn_blocking(move || direct::Device::open(&device)?.write(0, &bytes));
        sure(writing.await.map_err(Failure::from).and_then(|it| it.map_err(Failure::from)));
    }

    async fn read(&self, device: &Path, length: usize) -> Vec<u8> {
        let device = device.to_owned();
        let reading = tokio::task::spawn_blocking(move || direct::Device::open(&device)?.read(0, length));
        sure(reading.await.map_err(Failure::from).and_then(|it| it.map_err(Failure::from)))
    }

    fn stop_daemon(&self) {
        now(Daemon::Multipathd.stop());
    }

    fn hang_daemon(&self) {
        sure(Daemon::Multipathd.hold());
    }

    fn delay_daemon(&self, span: Duration) {
        // It answers when it is awake again.
        sure(Daemon::Multipathd.hold());
        self.delays.fetch_add(1, Ordering::Relaxed);
        let delays = Arc::clone(&self.delays);
        tokio::spawn(async move {
            tokio::time::sleep(span).await;
            sure(Daemon::Multipathd.wake());
            delays.fetch_sub(1, Ordering::Relaxed);
        });
    }

    fn start_daemon(&self) {
        now(Daemon::Multipathd.start());
    }

    fn stop_udev(&self) {
        self.is_udev_held.store(true, Ordering::Relaxed);
        sure(Daemon::Udevd.hold());
    }

    fn start_udev(&self) {
        now(Daemon::Udevd.start());
        self.is_udev_held.store(false, Ordering::Relaxed);
    }

    fn slow_disks(&self, span: Duration) {
        now(async {
            for portal in self.portals() {
                self.set_delay(*portal, Some(span / COMMANDS_OF_A_DISK)).await?;
            }
            Ok(())
        });
    }

    fn legs(&self) -> Vec<String> {
        machine::legs()
    }

    fn maps(&self) -> Vec<String> {
        sure(machine::maps())
    }

    fn changes(&self) -> Vec<String> {
        self.node.host.changes()
    }

    fn processes(&self) -> u64 {
        self.node.host.programs().len() as u64
    }
}

macro_rules! checks {
    (() $($clause:ident [$($scenario:literal),*],)+) => {
        vec![$(Check {
            name: stringify!($clause),
            scenarios: &[$($scenario),*],
            done: "this clause of the device contract, on sessions, disks and maps of the kernel",
            bound: Duration::from_secs(60),
            run: |fixture| Box::pin(async move {
                fixture.begin()?;
                san_contract::device::$clause(&*fixture).await;
                Ok(fixture.seen())
            }),
        }),+]
    };
}

/// The group.
pub(super) fn group() -> Group {
    Group::new("device", |recorder| Box::pin(play(recorder)))
}

async fn play(recorder: Recorder) -> Result<(), Failure> {
    let fixture = Arc::new(Fixture::new().await?);
    let mut checks: Vec<Check<Fixture>> = san_contract::device_clauses!([checks]());
    checks.extend(hangs::checks());
    let mut messes = Vec::new();
    for check in checks.iter().filter(|it| recorder.wants(it.name)) {
        run(&recorder, &fixture, check).await?;
        if let Err(mess) = fixture.end().await {
            tracing::error!(check = check.name, %mess, "the node does not come to rest");
            messes.push(format!("after {}: {mess}", check.name));
        }
    }
    fixture.close().await?;
    if messes.is_empty() { Ok(()) } else { Err(Failure(messes.join("; "))) }
}
