//! A small array and a node for the host tests: one target, two portals, volumes in sparse files.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use san_core::{Deadline, Result};
use san_host::{Attr, Host, Output, SocketAddress, Stream, Tool};
use san_sim::host::{NodeSpec, SimNode, World};
use san_sim::target::{Portal, Reachability, Target, Unit};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

pub(crate) const TARGET: &str = "iqn.1992-08.com.netapp:sn.lab0:vs.2";
pub(crate) const INITIATOR: &str = "iqn.1993-08.org.debian:01:pve-lab";
pub(crate) const SOCKET: &str = "/org/kernel/linux/storage/multipathd";
pub(crate) const MIB: u64 = 1 << 20;

/// The two portals.
pub(crate) fn portals() -> [SocketAddr; 2] {
    ["10.77.1.2:3260".parse().unwrap(), "10.77.2.2:3260".parse().unwrap()]
}

#[derive(Debug)]
struct Inside {
    portals: Vec<Portal>,
    /// By portal and LUN number.
    units: BTreeMap<(SocketAddr, u16), Unit>,
}

/// An array that shows everybody the same.
#[derive(Debug)]
pub(crate) struct Shelf {
    inside: Mutex<Inside>,
    folder: TempDir,
}

impl Target for Shelf {
    fn portals(&self) -> Vec<Portal> {
        self.inside.lock().unwrap().portals.clone()
    }

    fn units(&self, _: &str, portal: SocketAddr) -> BTreeMap<u16, Unit> {
        let inside = self.inside.lock().unwrap();
        if !inside.portals.iter().any(|it| it.address == portal && it.reachability == Reachability::Up) {
            return BTreeMap::new();
        }
        let units = inside.units.iter().filter(|((it, _), _)| *it == portal);
        units.map(|((_, lun), unit)| (*lun, unit.clone())).collect()
    }
}

impl Shelf {
    pub(crate) fn new() -> Arc<Self> {
        let portal = |at: usize, group| Portal {
            address: portals()[at],
            target: TARGET.to_owned(),
            group,
            node: format!("node-{at}"),
            reachability: Reachability::Up,
        };
        let inside = Inside { portals: vec![portal(0, 1028), portal(1, 1029)], units: BTreeMap::new() };
        Arc::new(Self { inside: Mutex::new(inside), folder: tempfile::tempdir().unwrap() })
    }

    /// Maps a volume on both portals; the last byte of the identifier is `id`.
    pub(crate) fn map(&self, lun: u16, id: u8, size: u64) {
        for portal in portals() {
            self.map_on(portal, lun, id, size);
        }
    }

    /// Maps a volume on one portal.
    pub(crate) fn map_on(&self, portal: SocketAddr, lun: u16, id: u8, size: u64) {
        let file = self.file(id);
        File::options().create(true).truncate(false).write(true).open(&file).unwrap().set_len(size).unwrap();
        let serial = format!("038302d426b3f5478795a31{id:02x}");
        let mut naa = *b"\x60\x0a\x09\x80\x38\x30\x2d\x42\x6b\x3f\x54\x78\x79\x5a\x31\x00";
        naa[15] = id;
        let unit = Unit {
            vendor: "NETAPP".to_owned(),
            product: "LUN C-Mode".to_owned(),
            revision: "9999".to_owned(),
            serial: serial.into_bytes(),
            naa,
            size,
            file,
            optimized: portal == portals()[0],
        };
        self.inside.lock().unwrap().units.insert((portal, lun), unit);
    }

    /// Changes a mapped unit.
    pub(crate) fn change(&self, lun: u16, change: impl Fn(&mut Unit)) {
        let mut inside = self.inside.lock().unwrap();
        inside.units.iter_mut().filter(|((_, it), _)| *it == lun).for_each(|(_, unit)| change(unit));
    }

    pub(crate) fn unmap(&self, lun: u16) {
        self.inside.lock().unwrap().units.retain(|(_, it), _| *it != lun);
    }

    pub(crate) fn set(&self, portal: SocketAddr, reachability: Reachability) {
        let mut inside = self.inside.lock().unwrap();
        inside
            .portals
            .iter_mut()
            .filter(|it| it.address == portal)
            .for_each(|it| it.reachability = reachability);
    }

    pub(crate) fn set_all(&self, reachability: Reachability) {
        for portal in portals() {
            self.set(portal, reachability);
        }
    }

    pub(crate) fn file(&self, id: u8) -> PathBuf {
        self.folder.path().join(format!("{id:02x}"))
    }
}

/// The WWID of volume `id`.
pub(crate) fn wwid(id: u8) -> String {
    format!("3600a098038302d426b3f5478795a31{id:02x}")
}

/// A node on the shelf's network.
pub(crate) struct Rig {
    pub(crate) world: World,
    pub(crate) shelf: Arc<Shelf>,
    pub(crate) node: SimNode,
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(10))
}

impl Rig {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut NodeSpec)) -> Self {
        let world = World::new();
        let shelf = Shelf::new();
        world.add_array(shelf.clone());
        let mut spec = NodeSpec::new("pve1", INITIATOR);
        spec.station = Some(1);
        change(&mut spec);
        let node = world.add_node(spec);
        Self { world, shelf, node }
    }

    /// A rig with a manual session on each portal.
    pub(crate) async fn connected() -> Self {
        let rig = Self::new();
        rig.connect().await;
        rig
    }

    pub(crate) async fn connect(&self) {
        for portal in portals() {
            let portal = portal.to_string();
            let at = ["-m", "node", "-T", TARGET, "-p", &portal];
            assert_eq!(self.iscsiadm(&[&at[..], &["-o", "new"]].concat()).await.code, Some(0));
            let manual = ["-o", "update", "-n", "node.session.scan", "-v", "manual"];
            assert_eq!(self.iscsiadm(&[&at[..], &manual].concat()).await.code, Some(0));
            assert_eq!(self.iscsiadm(&[&at[..], &["-l"]].concat()).await.code, Some(0));
        }
    }

    pub(crate) async fn iscsiadm(&self, arguments: &[&str]) -> Output {
        let arguments: Vec<String> = arguments.iter().map(|it| (*it).to_owned()).collect();
        let deadline = Deadline::after(Duration::from_secs(600));
        self.node.run(Tool::Iscsiadm, &arguments, deadline).await.unwrap()
    }

    /// Targeted scans on both hosts, until udev knows every leg.
    pub(crate) async fn scan(&self, lun: u16) {
        for host in 0..2 {
            self.write(&format!("/sys/class/scsi_host/host{host}/scan"), &format!("0 0 {lun}\n"))
                .await
                .unwrap();
        }
        self.settle().await;
    }

    /// Scan and map.
    pub(crate) async fn attach(&self, lun: u16, id: u8) {
        self.scan(lun).await;
        assert_eq!(self.multipathd(&format!("add map {}", wwid(id))).await, "ok\n");
        self.settle().await;
    }

    /// Lets everything that has begun come to its end.
    pub(crate) async fn settle(&self) {
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    pub(crate) async fn wait(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    pub(crate) async fn write(&self, path: &str, value: &str) -> Result<()> {
        self.node.write_attr(Path::new(path), value, soon()).await
    }

    pub(crate) async fn write_for(&self, time: Duration, path: &str, value: &str) -> Result<()> {
        self.node.write_attr(Path::new(path), value, Deadline::after(time)).await
    }

    /// An attribute's text; `None` where it or its device is missing.
    pub(crate) async fn text(&self, path: &str) -> Option<String> {
        let (device, attribute) = path.rsplit_once('/').unwrap();
        match self.node.attr(Path::new(device), attribute, soon()).await.unwrap() {
            Attr::Value(bytes) => Some(String::from_utf8(bytes).unwrap()),
            Attr::Missing | Attr::DeviceGone => None,
        }
    }

    pub(crate) async fn state(&self, hctl: &str) -> Option<String> {
        self.text(&format!("/sys/class/scsi_device/{hctl}/device/state")).await
    }

    pub(crate) async fn set_state(&self, hctl: &str, state: &str) -> Result<()> {
        self.write(&format!("/sys/class/scsi_device/{hctl}/device/state"), &format!("{state}\n")).await
    }

    pub(crate) async fn list(&self, path: &str) -> Vec<String> {
        self.node.list(Path::new(path), soon()).await.unwrap().unwrap_or_default()
    }

    pub(crate) async fn link(&self, path: &str) -> Option<String> {
        let target = self.node.read_link(Path::new(path), soon()).await.unwrap()?;
        Some(target.to_string_lossy().into_owned())
    }

    /// One command on a connection of its own.
    pub(crate) async fn multipathd(&self, command: &str) -> String {
        let mut stream = self.dial().await.unwrap();
        say(&mut stream, command).await;
        hear(&mut stream).await.unwrap()
    }

    pub(crate) async fn dial(&self) -> Result<Box<dyn Stream>> {
        self.node.connect(&SocketAddress::Abstract(SOCKET.to_owned()), soon()).await
    }

    /// Writes one line at the start of a map and reads it back.
    pub(crate) async fn first_bytes(&self, path: &str, count: usize) -> Vec<u8> {
        self.node.read_at(Path::new(path), 0, count).await.unwrap()
    }
}

pub(crate) async fn say(stream: &mut Box<dyn Stream>, command: &str) {
    let length = u64::try_from(command.len() + 1).unwrap();
    stream.write_all(&length.to_ne_bytes()).await.unwrap();
    stream.write_all(command.as_bytes()).await.unwrap();
    stream.write_all(&[0]).await.unwrap();
}

/// One reply; `None` where the connection ended.
pub(crate) async fn hear(stream: &mut Box<dyn Stream>) -> Option<String> {
    let mut length = [0; 8];
    stream.read_exact(&mut length).await.ok()?;
    let mut bytes = vec![0; usize::try_from(u64::from_ne_bytes(length)).unwrap()];
    stream.read_exact(&mut bytes).await.ok()?;
    assert_eq!(bytes.pop(), Some(0), "the length includes a NUL");
    Some(String::from_utf8(bytes).unwrap())
}

/// A recording.
pub(crate) fn recorded(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/host").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
