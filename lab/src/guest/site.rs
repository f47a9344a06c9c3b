//! A whole site in one machine: a simulated ONTAP behind real HTTPS whose LUNs the kernel shows over iSCSI, and this
//! machine as a node with the real daemon, the real tools and the real kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use san_contract::audit::{Audit, Ledger};
use san_sim::kernel::{KernelPlane, LiveArray, LivePlane};
use san_sim::ontap::{Assigned, IscsiConfig, OntapConfig, OntapSim, PortalConfig, SvmConfig, Version};
use san_sim::server::{Api, ApiState, Cut, HttpsServer};
use sanbridge_tests::daemons::{Client, Reply, options};
use sanbridge_tests::ledger::{ArrayLedger, FolderLedger};
use sanbridge_tests::site::SPACE;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::bystander::VerifiedIo;
use super::check::Failure;
use super::ledger::{self, NodeLedger, TargetLedger};
use super::network::{NAMESPACE_PATH, Network};
use super::node::{DEVICES, Form, Node, PVE};
use super::{scratch, tools};

/// How many networks, and so portals and legs, there are unless a group says otherwise.
pub const NETWORKS: u8 = 2;
/// The part of the array that belongs to somebody else, with an igroup that has this machine in it. The product keeps to
/// its own part: it refuses an initiator that is in a foreign igroup there.
pub const FOREIGN_SVM: &str = "svm2";
/// The igroup there.
pub const FOREIGN_IGROUP: &str = "foreign_hosts";
const FOREIGN_PORT: u16 = 3261;
const FOREIGN_LUN: u16 = 3;
const FOREIGN_PATH: &str = "/vol/foreign_db/lun0";
const FOREIGN_SIZE: u64 = 64 << 20;
/// How long udev, multipathd and the kernel may take until everything is as it will stay.
const REST: Duration = Duration::from_secs(60);
/// What a program of the admin's may take.
const TOOL: Duration = Duration::from_secs(120);

/// The site.
#[derive(Debug)]
pub struct Site {
    /// The networks between this machine and the array.
    pub network: Network,
    /// The array, with the kernel as its data plane. [`LivePlane::sync`] follows what is done behind its interface.
    pub live: LiveArray,
    /// This machine.
    pub node: Node,
    api: HttpsServer,
    spent: Arc<AtomicU64>,
    targets: BTreeSet<String>,
    foreign_targets: BTreeSet<String>,
}

/// The array's interface, with the time its answers take.
#[derive(Debug)]
struct Timed {
    live: LiveArray,
    /// Microseconds.
    spent: Arc<AtomicU64>,
}

#[async_trait]
impl Api for Timed {
    async fn handle(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Cut> {
        let started = Instant::now();
        let answer = self.live.handle(request).await;
        let micros = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.spent.fetch_add(micros, Ordering::Relaxed);
        answer
    }

    fn state(&self) -> watch::Receiver<ApiState> {
        self.live.state()
    }
}

/// A bystander: a LUN of somebody else's on the same array and the same networks.
#[derive(Debug)]
pub struct Bystander {
    /// Its input and output.
    pub io: VerifiedIo,
    /// Its map's name, the WWID.
    pub map: String,
}

impl Site {
    /// A site with [`NETWORKS`] networks whose array's interface listens on loopback. The daemon does not run.
    ///
    /// # Errors
    /// What the machine cannot do.
    pub async fn new() -> Result<Self, Failure> {
        let network = Network::start(NETWORKS).await?;
        Self::over(network, Ipv4Addr::LOCALHOST).await
    }

    /// A site over a network that is up, whose array's interface listens at `listen`.
    ///
    /// # Errors
    /// What the machine cannot do.
    pub async fn over(network: Network, listen: Ipv4Addr) -> Result<Self, Failure> {
        let folder = scratch::mount().await?;
        let node = Node::of_this_machine(Path::new("/var/lib/sanbridge-lab")).await?;
        let mut config = OntapConfig::new(Version::new(9, 16, 1), folder.join("array"));
        let portals = (1..=network.networks()).map(|it| PortalConfig {
            address: Network::portal(it),
            // Odd networks end at one controller, even ones at the other.
            node: usize::from((it + 1) % 2),
        });
        config.svms[0].portals = portals.collect();
        // Somebody else's part of the same array: a target of its own on the same networks.
        let neighbours = config.svms[0]
            .portals
            .iter()
            .map(|it| PortalConfig { address: SocketAddr::new(it.address.ip(), FOREIGN_PORT), ..*it });
        let neighbours = neighbours.collect();
        config.svms.push(SvmConfig {
            name: FOREIGN_SVM.to_owned(),
            iscsi: IscsiConfig::Enabled,
            portals: neighbours,
            assigned: Assigned::All,
        });
        let array = OntapSim::new(config)?;
        array.add_volume(FOREIGN_SVM, "foreign_db", 1 << 30, "made by hand")?;
        array.add_lun(FOREIGN_SVM, FOREIGN_PATH, FOREIGN_SIZE, "")?;
        array.add_igroup(FOREIGN_SVM, FOREIGN_IGROUP, &[&node.initiator])?;
        array.add_map(FOREIGN_SVM, FOREIGN_PATH, FOREIGN_IGROUP, Some(FOREIGN_LUN))?;
        let plane = tokio::task::spawn_blocking(|| KernelPlane::new(Path::new(NAMESPACE_PATH))).await??;
        let live = LiveArray::start(array, LivePlane::new(plane, vec![node.initiator.clone()])).await?;
        let listen = SocketAddr::from((listen, 0));
        let spent = Arc::new(AtomicU64::new(0));
        let timed = Timed { live: live.clone(), spent: Arc::clone(&spent) };
        let api = HttpsServer::start(Arc::new(timed), listen, &[]).await?;
        let portals = san_sim::target::Target::portals(live.array());
        let of = |foreign| {
            let them = portals.iter().filter(move |it| (it.address.port() == FOREIGN_PORT) == foreign);
            them.map(|it| it.target.clone()).collect()
        };
        let (targets, foreign_targets) = (of(false), of(true));
        Ok(Self { network, live, node, api, spent, targets, foreign_targets })
    }

    /// The array, for whatever is done to it behind its interface.
    pub fn array(&self) -> &OntapSim {
        self.live.array()
    }

    /// How long the array has worked on requests so far, the kernel's following included.
    pub fn array_time(&self) -> Duration {
        Duration::from_micros(self.spent.load(Ordering::Relaxed))
    }

    /// How many legs an attached volume has.
    pub fn legs_expected(&self) -> usize {
        usize::from(self.network.networks())
    }

    /// The targets of our part of the array.
    pub fn targets(&self) -> &BTreeSet<String> {
        &self.targets
    }

    /// Lets the kernel follow what was done to the array behind its interface.
    ///
    /// # Errors
    /// Where it cannot.
    pub async fn sync(&self) -> Result<(), Failure> {
        Ok(self.live.plane().sync().await?)
    }

    /// The storage's section as the plugin sends it, without the password.
    pub fn options(&self) -> BTreeMap<String, Value> {
        let mut options = options();
        options.insert("sanbridge-address".to_owned(), self.api.address().to_string().into());
        options.insert("sanbridge-fingerprint".to_owned(), self.api.fingerprint().to_string().into());
        options
    }

    /// Speaks to this node's daemon as the plugin does.
    pub fn client(&self) -> Client {
        let socket = self.node.socket().to_owned();
        Client { socket, storage: SPACE.to_owned(), options: self.options() }
    }

    /// Starts the daemon and adds the storage.
    ///
    /// # Errors
    /// What the daemon says.
    pub async fn serve(&self, form: Form) -> Result<(), Failure> {
        self.node.start(form).await?;
        self.client().add().await?;
        Ok(())
    }

    /// Makes a disk of a guest and says that the guest lives here.
    ///
    /// # Errors
    /// What the daemon says.
    pub async fn create(&self, disk: &str, bytes: u64) -> Result<(), Failure> {
        let vmid = vmid_of(disk)?;
        self.client()
            .call("volume.create", json!({ "vmid": vmid, "name": disk, "size_bytes": bytes }))
            .await?;
        self.place_guest(disk, self.node.name.as_str())
    }

    /// Says on which node the guest of a disk lives.
    ///
    /// # Errors
    /// Where its configuration cannot be written.
    pub fn place_guest(&self, disk: &str, node: &str) -> Result<(), Failure> {
        place_guest(vmid_of(disk)?, &[disk], node)
    }

    /// Attaches a disk; where it appears.
    ///
    /// # Errors
    /// What the daemon says.
    pub async fn attach(&self, disk: &str) -> Result<PathBuf, Failure> {
        let reply = self.client().call("volume.attach", json!({ "name": disk })).await?;
        let path = reply.ok["path"].as_str().ok_or_else(|| Failure(format!("no path: {reply:?}")))?;
        Ok(path.into())
    }

    /// Detaches a disk.
    ///
    /// # Errors
    /// What the daemon says.
    pub async fn detach(&self, disk: &str) -> Result<Reply, Failure> {
        Ok(self.client().call("volume.detach", json!({ "name": disk })).await?)
    }

    /// Grows a disk.
    ///
    /// # Errors
    /// What the daemon says.
    pub async fn grow(&self, disk: &str, bytes: u64) -> Result<Reply, Failure> {
        Ok(self.client().call("volume.grow", json!({ "name": disk, "size_bytes": bytes })).await?)
    }

    /// Deletes a disk.
    ///
    /// # Errors
    /// What the daemon says.
    pub async fn delete(&self, disk: &str) -> Result<Reply, Failure> {
        let reply = self.client().call("volume.delete", json!({ "name": disk })).await?;
        remove_guest(vmid_of(disk)?)?;
        Ok(reply)
    }

    /// The map's name (the WWID) of a disk of ours.
    ///
    /// # Errors
    /// Where the array has none of that name.
    pub fn wwid(&self, disk: &str) -> Result<String, Failure> {
        let ours = disk.replace('-', "_");
        let volumes = self.array().volumes().into_iter().filter(|it| !it.deleted);
        let volume = volumes
            .filter(|it| it.name.contains(&ours) || it.comment.contains(disk))
            .map(|it| it.name)
            .next();
        let volume = volume.ok_or_else(|| Failure(format!("the array has no {disk}")))?;
        let lun =
            self.array().luns().into_iter().find(|it| it.path.split('/').nth(2) == Some(volume.as_str()));
        lun.map(|it| format!("3{}", it.naa)).ok_or_else(|| Failure(format!("{volume} has no LUN")))
    }

    // ---- the bystander ----

    /// Somebody else's LUN, brought in by hand as an admin does it, under verified input and output from now on.
    ///
    /// # Errors
    /// Where it does not come up with all its legs.
    pub async fn bystander(&self) -> Result<Bystander, Failure> {
        let map = self.foreign_wwid()?;
        // An admin who wants his LUN in a map says so once.
        tools::run("multipath", &["-a", &map], TOOL).await?;
        self.foreign_login().await?;
        let device = Path::new("/dev/mapper").join(&map);
        let is_whole = || {
            let found = ledger::maps().into_iter().find(|it| it.wwid == map);
            found.is_some_and(|it| it.slaves.len() == self.legs_expected()) && device.is_symlink()
        };
        until("the bystander's map", is_whole).await?;
        let io = VerifiedIo::start(&device, Duration::from_millis(100))?;
        io.another_round(REST).await?;
        Ok(Bystander { io, map })
    }

    /// Logs in to the part of the array that is somebody else's, as an admin does.
    ///
    /// # Errors
    /// Where a login fails.
    pub async fn foreign_login(&self) -> Result<(), Failure> {
        for target in &self.foreign_targets {
            for portal in self.foreign_portals() {
                let record = ["-m", "node", "-T", target, "-p", &portal];
                tools::run("iscsiadm", &[record.as_slice(), &["-o", "new"]].concat(), TOOL).await?;
                tools::run("iscsiadm", &[record.as_slice(), &["--login"]].concat(), TOOL).await?;
            }
        }
        Ok(())
    }

    /// The target of that part.
    pub fn foreign_targets(&self) -> &BTreeSet<String> {
        &self.foreign_targets
    }

    /// The portals of that part, as `iscsiadm` takes them.
    pub fn foreign_portals(&self) -> Vec<String> {
        let portals = self.network.portals().into_iter();
        portals.map(|it| SocketAddr::new(it.ip(), FOREIGN_PORT).to_string()).collect()
    }

    fn foreign_wwid(&self) -> Result<String, Failure> {
        let lun = self.array().lun(FOREIGN_SVM, FOREIGN_PATH);
        lun.map(|it| format!("3{}", it.naa)).ok_or_else(|| Failure("the bystander's LUN is gone".to_owned()))
    }

    /// The SCSI hosts of the sessions to these targets: `host3`.
    pub fn hosts(&self, targets: &BTreeSet<String>) -> Vec<String> {
        let class = Path::new("/sys/class/iscsi_session");
        let mut hosts = Vec::new();
        for session in ledger::names(class) {
            let target = std::fs::read_to_string(class.join(&session).join("targetname")).unwrap_or_default();
            // .../platform/host3/session1/iscsi_session/session1
            let device = class.join(&session).canonicalize().unwrap_or_default();
            let host = device.iter().filter_map(|it| it.to_str()).find(|it| is_host(it)).map(str::to_owned);
            if targets.contains(target.trim()) {
                hosts.extend(host);
            }
        }
        hosts.sort();
        hosts
    }

    // ---- the audit ----

    /// Everything of ours, and everything beside it, at this moment.
    ///
    /// # Errors
    /// Where the bystander's LUN is gone.
    pub fn audit(&self) -> Result<Audit, Failure> {
        let foreign = self.array().lun(FOREIGN_SVM, FOREIGN_PATH);
        let foreign = foreign.ok_or_else(|| Failure("the bystander's LUN is gone".to_owned()))?;
        let node = NodeLedger {
            foreign: BTreeSet::from([format!("3{}", foreign.naa)]),
            targets: self.targets.clone(),
            devices: DEVICES.into(),
        };
        let target = TargetLedger { foreign: BTreeSet::from([foreign.serial]) };
        let array = ArrayLedger(self.array());
        let shared = Path::new(PVE).join("priv");
        let records = FolderLedger::new("cluster file system", &shared.join("sanbridge"));
        let secrets = FolderLedger::new("secrets", &shared.join("storage"));
        let state = FolderLedger::new(self.node.name.as_str(), self.node.state());
        let ledgers: [&dyn Ledger; 6] = [&node, &target, &array, &records, &secrets, &state];
        Ok(Audit::of(&ledgers))
    }

    /// The audit once it stays the same for a moment: udev and the kernel end their work a little after we do.
    ///
    /// # Errors
    /// Where it does not come to rest.
    pub async fn settled_audit(&self) -> Result<Audit, Failure> {
        let started = Instant::now();
        let (mut last, mut since) = (self.audit()?, Instant::now());
        while since.elapsed() < Duration::from_secs(1) {
            if started.elapsed() > REST {
                return Err(Failure(format!("the machine does not come to rest: {last:?}")));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = self.audit()?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
        }
        Ok(last)
    }

    /// Waits until everything is as it was: udev and the kernel end their work a little after we do.
    ///
    /// # Errors
    /// What is left over, or missing, or was touched.
    pub async fn require_as(&self, before: &Audit) -> Result<(), Failure> {
        let started = Instant::now();
        loop {
            let findings = self.audit()?.against(before);
            if findings.is_empty() {
                return Ok(());
            }
            if started.elapsed() > REST {
                return Err(Failure(format!("the audit is not empty:\n{findings}")));
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// Takes the kernel's targets down and proves that nothing of them is left.
    ///
    /// # Errors
    /// What is left.
    pub async fn end(self) -> Result<(), Failure> {
        self.node.stop().await?;
        let plane = Arc::clone(self.live.plane());
        tokio::task::spawn_blocking(move || plane.plane().clear()).await??;
        let left = TargetLedger { foreign: BTreeSet::new() }.ours();
        if left.is_empty() { Ok(()) } else { Err(Failure(format!("the kernel's target still has {left:?}"))) }
    }
}

impl Bystander {
    /// Ends the bystander's input and output.
    ///
    /// # Errors
    /// Where it met a single error or another byte than it wrote.
    pub async fn end(self) -> Result<super::bystander::Report, Failure> {
        self.io.end().await
    }
}

fn is_host(component: &str) -> bool {
    component
        .strip_prefix("host")
        .is_some_and(|it| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit()))
}

/// The guest a disk belongs to.
fn vmid_of(disk: &str) -> Result<u32, Failure> {
    let vmid = disk.split('-').nth(1).and_then(|it| it.parse().ok());
    vmid.ok_or_else(|| Failure(format!("{disk} is no name of a disk")))
}

/// Says on which node a guest lives and which disks are its own.
///
/// # Errors
/// Where its configuration cannot be written.
pub fn place_guest(vmid: u32, disks: &[&str], node: &str) -> Result<(), Failure> {
    remove_guest(vmid)?;
    let folder = Path::new(PVE).join("nodes").join(node).join("qemu-server");
    std::fs::create_dir_all(&folder)?;
    let lines: Vec<String> =
        disks.iter().enumerate().map(|(bus, it)| format!("scsi{bus}: {SPACE}:{it},size=1G\n")).collect();
    Ok(std::fs::write(folder.join(format!("{vmid}.conf")), lines.concat())?)
}

/// The guest is gone.
///
/// # Errors
/// Where its configuration cannot be removed.
pub fn remove_guest(vmid: u32) -> Result<(), Failure> {
    let nodes = Path::new(PVE).join("nodes");
    for node in ledger::names(&nodes) {
        let file = nodes.join(node).join("qemu-server").join(format!("{vmid}.conf"));
        match std::fs::remove_file(file) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

/// Waits until something holds.
///
/// # Errors
/// Where it does not in a minute.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) -> Result<(), Failure> {
    let started = Instant::now();
    while !holds() {
        if started.elapsed() > REST {
            return Err(Failure(format!("{what}: not in {REST:?}")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
