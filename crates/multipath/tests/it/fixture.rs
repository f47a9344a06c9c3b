//! A simulated node with a session to every portal of the array.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use san_contract::device::{DeviceFixture, Garble, Use};
use san_core::{ByteSize, Deadline, DeviceManager, Hctl, Identity, Route, TargetPort, Wwid};
use san_host::{Guard, Host, SocketAddress, Tool};
use san_multipath::{Multipath, MultipathConfig};
use san_sim::host::{
    FindMultipaths, Inventory, LegState, LogKind, NodeSpec, OpenHandle, SessionState, SimNode, World,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::array::{TARGET, TestArray, identity, portals};

/// The node, the array, and the device manager under test.
pub(crate) struct Fixture {
    pub(crate) node: SimNode,
    pub(crate) array: Arc<TestArray>,
    pub(crate) manager: Multipath,
    own_programs: AtomicU64,
    takes_everything: bool,
    _world: World,
}

impl Fixture {
    pub(crate) async fn on(spec: NodeSpec) -> Self {
        let world = World::new();
        let array = Arc::new(TestArray::new());
        world.add_array(array.clone());
        let takes_everything = spec.multipath.find_multipaths == FindMultipaths::Off;
        let node = world.add_node(spec);
        let manager = Multipath::new(Guard::new(Arc::new(node.clone())), MultipathConfig::default());
        let fixture =
            Self { node, array, manager, own_programs: AtomicU64::new(0), takes_everything, _world: world };
        for portal in portals() {
            let portal = portal.to_string();
            let node = ["-m", "node", "-T", TARGET, "-p", &portal, "-I", "default"];
            for tail in [
                &["-o", "new"][..],
                &["-o", "update", "-n", "node.session.scan", "-v", "manual"],
                &["--login"],
            ] {
                fixture.iscsiadm(&[&node[..], tail].concat()).await;
            }
        }
        fixture.until(|it| it.sessions.iter().filter(|it| is_up(it.state)).count() == portals().len()).await;
        fixture.node.forget_log();
        fixture
    }

    async fn iscsiadm(&self, arguments: &[&str]) {
        let arguments: Vec<_> = arguments.iter().map(|it| (*it).to_owned()).collect();
        let deadline = Deadline::after(Duration::from_secs(30));
        let output = self.node.run(Tool::Iscsiadm, &arguments, deadline).await.unwrap();
        assert_eq!(output.code, Some(0), "{arguments:?}");
        self.own_programs.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until the node has what is looked for.
    pub(crate) async fn until(&self, look: impl Fn(&Inventory) -> bool) {
        let waiting = async {
            while !look(&self.node.inventory()) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(300), waiting).await.unwrap();
    }
}

fn host_of(route: &Route) -> u32 {
    match route {
        Route::Scsi { host, .. } => *host,
        _ => panic!("another protocol"),
    }
}

fn is_up(state: SessionState) -> bool {
    state == SessionState::LoggedIn
}

fn portal_of(route: &Route) -> SocketAddr {
    match route.port() {
        TargetPort::Iscsi { portal, .. } => *portal,
        _ => panic!("another protocol"),
    }
}

fn map_name(n: u8) -> String {
    identity(n).wwid.multipath_name()
}

/// Ends a use of a device.
struct InUse(Option<Box<dyn FnOnce() + Send>>);

impl Drop for InUse {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

impl DeviceFixture for Fixture {
    fn manager(&self) -> &dyn DeviceManager {
        &self.manager
    }

    fn routes(&self) -> Vec<Route> {
        let sessions = self.node.inventory().sessions;
        let route = |portal: SocketAddr| Route::Scsi {
            host: sessions.iter().find(|it| it.portal == portal).unwrap().host,
            channel: 0,
            target: 0,
            port: TargetPort::Iscsi { portal, target: TARGET.parse().unwrap(), node: None },
        };
        portals().into_iter().map(route).collect()
    }

    fn identity(&self, n: u8) -> Identity {
        identity(n)
    }

    fn garble(&self, n: u8, how: Garble) {
        self.array.unit(n, |unit| match how {
            Garble::NoWwid => unit.naa = [0; 16],
            Garble::NoSerial => unit.serial = Vec::new(),
            Garble::WwidOf(other) => {
                let Wwid::Naa6(naa) = identity(other).wwid else { panic!("another kind of identifier") };
                unit.naa = naa;
            }
        });
    }

    fn show(&self, n: u8, lun: u16) {
        self.array.show(n, lun, &portals());
    }

    fn show_behind(&self, route: &Route, n: u8, lun: u16) {
        self.array.show(n, lun, &[portal_of(route)]);
    }

    fn hide(&self, lun: u16) {
        self.array.hide(lun);
    }

    fn resize(&self, n: u8, size: ByteSize) {
        self.array.unit(n, |unit| unit.size = size.bytes());
    }

    fn bytes(&self, n: u8, length: usize) -> Vec<u8> {
        self.array.bytes(n, length)
    }

    async fn cut(&self, route: &Route) {
        let host = host_of(route);
        self.node.partition(portal_of(route));
        self.until(|it| {
            it.sessions.iter().all(|it| it.host != host || !is_up(it.state))
                && it.legs.iter().all(|it| it.address.host != host || it.state == LegState::TransportOffline)
        })
        .await;
    }

    async fn mend(&self, route: &Route) {
        let host = host_of(route);
        self.node.heal(portal_of(route));
        self.until(|it| {
            it.sessions.iter().any(|it| it.host == host && is_up(it.state))
                && it.legs.iter().all(|it| it.address.host != host || it.state == LegState::Running)
        })
        .await;
    }

    async fn bounce(&self, route: &Route) {
        let host = host_of(route);
        self.node.bounce(portal_of(route));
        self.until(|it| it.sessions.iter().any(|it| it.host == host && !is_up(it.state))).await;
        self.until(|it| it.sessions.iter().any(|it| it.host == host && is_up(it.state))).await;
    }

    fn hang(&self, leg: Hctl) {
        self.node.hang(leg);
    }

    fn take_into_use(&self, device: &Path, how: Use) -> Box<dyn Send> {
        let node = self.node.clone();
        match how {
            Use::Handle => {
                let handle: OpenHandle = node.open(device).unwrap();
                Box::new(handle)
            }
            Use::Mount => {
                node.mount(device, Path::new("/mnt/a b")).unwrap();
                let end = move || assert!(node.unmount(Path::new("/mnt/a b")));
                Box::new(InUse(Some(Box::new(end))))
            }
            Use::Swap => {
                node.swap_on(device).unwrap();
                Box::new(InUse(Some(Box::new(move || node.swap_off()))))
            }
            Use::Stack => {
                let name = device.to_string_lossy();
                let map = name.rsplit_once("mpath-").unwrap().1.to_owned();
                node.stack_device(&map, "vg-lv", "LVM-abcdef").unwrap();
                let end = move || assert!(node.unstack_device("vg-lv"));
                Box::new(InUse(Some(Box::new(end))))
            }
        }
    }

    async fn partition(&self, n: u8) {
        self.node.add_partition(&map_name(n), 1).unwrap();
        // udev has it open for a moment.
        self.until(|it| it.maps.iter().all(|it| !it.uuid.starts_with("part") || it.open_count == 0)).await;
    }

    fn maps_come_by_themselves(&self) -> bool {
        self.takes_everything
    }

    async fn remove_map(&self, n: u8) {
        let address = SocketAddress::Abstract("/org/kernel/linux/storage/multipathd".to_owned());
        let deadline = Deadline::after(Duration::from_secs(5));
        let mut stream = self.node.connect(&address, deadline).await.unwrap();
        let command = format!("del map {}\0", map_name(n));
        let length = u64::try_from(command.len()).unwrap().to_ne_bytes();
        stream.write_all(&[&length, command.as_bytes()].concat()).await.unwrap();
        let mut reply = [0; 12];
        stream.read_exact(&mut reply).await.unwrap();
        assert_eq!(&reply[8..], b"ok\n\0");
    }

    async fn scan_everything(&self) {
        self.iscsiadm(&["-m", "session", "--rescan"]).await;
        tokio::time::sleep(Duration::from_secs(2)).await;
    }

    async fn write(&self, device: &Path, bytes: &[u8]) {
        self.node.write_at(device, 0, bytes).await.unwrap();
    }

    async fn read(&self, device: &Path, length: usize) -> Vec<u8> {
        self.node.read_at(device, 0, length).await.unwrap()
    }

    fn stop_daemon(&self) {
        self.node.stop_multipathd();
    }

    fn hang_daemon(&self) {
        self.node.hang_multipathd();
    }

    fn delay_daemon(&self, span: Duration) {
        self.node.delay_multipathd(span);
    }

    fn start_daemon(&self) {
        self.node.start_multipathd();
    }

    fn stop_udev(&self) {
        self.node.stop_udev();
    }

    fn start_udev(&self) {
        self.node.start_udev();
    }

    fn slow_disks(&self, span: Duration) {
        self.node.set_timing(|it| it.disk = span);
    }

    fn legs(&self) -> Vec<String> {
        self.node.inventory().legs.iter().map(|it| it.address.to_string()).collect()
    }

    fn maps(&self) -> Vec<String> {
        self.node.inventory().maps.iter().map(|it| it.name.clone()).collect()
    }

    fn changes(&self) -> Vec<String> {
        let log = self.node.log().into_iter();
        let changing = log.filter(|it| match it.kind {
            LogKind::Write => true,
            LogKind::Socket => !it.text.starts_with("show"),
            _ => false,
        });
        changing.map(|it| it.text).collect()
    }

    fn processes(&self) -> u64 {
        self.node.counters().processes - self.own_programs.load(Ordering::Relaxed)
    }
}
