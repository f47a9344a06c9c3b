//! An array on the kernel's target, its REST interface, and this machine as its initiator.

use std::fs;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, header};
use san_sim::kernel::{KernelPlane, LiveArray, LivePlane};
use san_sim::ontap::{OntapConfig, OntapSim, PortalConfig, Version};
use san_sim::server::Api as _;
use serde_json::Value;

use crate::guest::network::{NAMESPACE_PATH, Network};
use crate::guest::{Failure, scratch, tools};

pub(super) const SVM: &str = "svm1";
pub(super) const IGROUP: &str = "lab";
/// `admin` with the simulated array's usual password.
const CREDENTIAL: &str = "Basic YWRtaW46bmV0YXBwMSE=";
const NETWORKS: u8 = 2;

/// Programs of open-iscsi take a second or so under emulation.
pub(super) const PATIENCE: Duration = Duration::from_secs(40);
/// What the kernel and udev do by themselves.
pub(super) const SOON: Duration = Duration::from_secs(20);
/// How often a new LUN is scanned for.
const SCANS: u32 = 4;

pub(super) const MIB: u64 = 1 << 20;

/// The bench.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) network: Network,
    pub(super) array: LiveArray,
    pub(super) initiator: String,
    scratch: PathBuf,
    next: AtomicU16,
}

/// A LUN of the array, mapped to this machine.
#[derive(Debug, Clone)]
pub(super) struct Lun {
    pub(super) volume: String,
    pub(super) path: String,
    pub(super) number: u16,
}

impl Bench {
    pub(super) async fn start() -> Result<Arc<Self>, Failure> {
        // Maps would appear on their own; here the legs themselves are looked at.
        tools::output("multipathd", &["shutdown"], PATIENCE).await?;
        // The kernel follows access states through it.
        tools::run("modprobe", &["scsi_dh_alua"], PATIENCE).await?;
        let scratch = scratch::mount().await?;
        let network = Network::start(NETWORKS).await?;
        let initiator = initiator()?;
        let array = array(&scratch, &network, 1)?;
        array.add_igroup(SVM, IGROUP, &[&initiator])?;
        let plane = blocking(|| KernelPlane::new(Path::new(NAMESPACE_PATH))).await?;
        let array = LiveArray::start(array, LivePlane::new(plane, vec![initiator.clone()])).await?;
        let bench = Arc::new(Self { network, array, initiator, scratch, next: AtomicU16::new(1) });
        bench.login().await?;
        Ok(bench)
    }

    pub(super) async fn stop(self: Arc<Self>) -> Result<(), Failure> {
        self.logout().await?;
        let this = Arc::clone(&self);
        blocking(move || this.array.plane().plane().clear()).await
    }

    /// Another array in the same networks, whose portals are at the next port.
    pub(super) fn other_array(&self) -> Result<OntapSim, Failure> {
        let array = array(&self.scratch, &self.network, 2)?;
        array.add_igroup(SVM, IGROUP, &[&self.initiator])?;
        Ok(array)
    }

    pub(super) async fn follow(&self) -> Result<(), Failure> {
        Ok(self.array.plane().sync().await?)
    }

    /// Discovers through one portal and logs in to all that answer.
    pub(super) async fn login(&self) -> Result<(), Failure> {
        let portal = Network::portal(1).to_string();
        tools::run("iscsiadm", &["-m", "discovery", "-t", "sendtargets", "-p", &portal], PATIENCE).await?;
        for (name, value) in [
            ("node.session.scan", "manual"),
            ("node.session.timeo.replacement_timeout", "2"),
            ("node.conn[0].timeo.noop_out_interval", "1"),
            ("node.conn[0].timeo.noop_out_timeout", "1"),
            ("node.conn[0].timeo.login_timeout", "3"),
            ("node.session.initial_login_retry_max", "1"),
        ] {
            self.setting(name, value).await?;
        }
        tools::run("iscsiadm", &["-m", "node", "--login"], PATIENCE).await.map(drop)
    }

    /// Changes a setting of all node records.
    pub(super) async fn setting(&self, name: &str, value: &str) -> Result<(), Failure> {
        let arguments = ["-m", "node", "-o", "update", "-n", name, "-v", value];
        tools::run("iscsiadm", &arguments, PATIENCE).await.map(drop)
    }

    /// Ends all sessions and forgets all records. No session and no record is fine.
    pub(super) async fn logout(&self) -> Result<(), Failure> {
        const NONE_FOUND: i32 = 21;
        for arguments in [&["-m", "node", "--logoutall=all"][..], &["-m", "node", "-o", "delete"]] {
            let ran = tools::output("iscsiadm", arguments, PATIENCE).await?;
            if ran.code != Some(NONE_FOUND) {
                ran.success()?;
            }
        }
        Ok(())
    }

    /// Carries out a request of the array's REST interface.
    pub(super) async fn rest(&self, method: Method, path: &str, body: Value) -> Result<Value, Failure> {
        let line = format!("{method} {path}");
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let request = Request::builder()
            .method(method)
            .uri(format!("https://array/api{path}"))
            .header(header::AUTHORIZATION, CREDENTIAL)
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)?;
        let answer = self.array.handle(request).await?;
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        if !answer.status().is_success() {
            return Err(Failure(format!("{line}: {} {text}", answer.status())));
        }
        Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
    }

    /// Makes a volume with one LUN, not mapped.
    pub(super) async fn make(&self, size: u64) -> Result<Lun, Failure> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let volume = format!("vol{number}");
        let body = serde_json::json!({
            "name": volume, "svm": { "name": SVM }, "aggregates": [{ "name": "aggr1" }], "size": 1_u64 << 32,
            "guarantee": { "type": "none" }, "space": { "snapshot": { "reserve_percent": 0 } },
        });
        self.rest(Method::POST, "/storage/volumes?return_timeout=15", body).await?;
        let path = format!("/vol/{volume}/lun0");
        let body = serde_json::json!({
            "name": path, "svm": { "name": SVM }, "os_type": "linux", "space": { "size": size },
        });
        self.rest(Method::POST, "/storage/luns", body).await?;
        Ok(Lun { volume, path, number })
    }

    /// Makes a LUN, maps it, and waits for both of its legs.
    pub(super) async fn mapped(&self, size: u64) -> Result<(Lun, Vec<PathBuf>), Failure> {
        let lun = self.make(size).await?;
        self.map(&lun, lun.number).await?;
        // A scan passes a session over that is only just coming back, and says nothing.
        for _ in 0..SCANS {
            self.scan().await?;
            if let Ok(legs) = self.legs_within(lun.number, 2, SOON / SCANS).await {
                return Ok((lun, legs));
            }
        }
        let legs = self.legs(lun.number, 2).await?;
        Ok((lun, legs))
    }

    pub(super) async fn map(&self, lun: &Lun, number: u16) -> Result<(), Failure> {
        let body = serde_json::json!({
            "svm": { "name": SVM }, "lun": { "name": lun.path }, "igroup": { "name": IGROUP },
            "logical_unit_number": number,
        });
        self.rest(Method::POST, "/protocols/san/lun-maps", body).await.map(drop)
    }

    pub(super) async fn unmap(&self, lun: &Lun) -> Result<(), Failure> {
        let sim = self.array.array();
        let found = sim.lun(SVM, &lun.path).ok_or_else(|| Failure(format!("{} is gone", lun.path)))?;
        let igroup = sim.igroups().into_iter().find(|it| it.name == IGROUP);
        let igroup = igroup.ok_or_else(|| Failure("the igroup is gone".to_owned()))?;
        let path = format!("/protocols/san/lun-maps/{}/{}", found.uuid, igroup.uuid);
        self.rest(Method::DELETE, &path, Value::Null).await.map(drop)
    }

    /// The array's path of a volume.
    pub(super) fn volume(&self, lun: &Lun) -> Result<String, Failure> {
        let found = self.array.array().volume(SVM, &lun.volume);
        let found = found.ok_or_else(|| Failure(format!("volume {} is gone", lun.volume)))?;
        Ok(format!("/storage/volumes/{}", found.uuid))
    }

    /// Lets every session look for LUNs.
    pub(super) async fn scan(&self) -> Result<(), Failure> {
        tools::run("iscsiadm", &["-m", "session", "--rescan"], PATIENCE).await.map(drop)
    }

    /// The legs with this LUN number, when there are `count` of them.
    pub(super) async fn legs(&self, number: u16, count: usize) -> Result<Vec<PathBuf>, Failure> {
        self.legs_within(number, count, SOON).await
    }

    async fn legs_within(&self, number: u16, count: usize, bound: Duration) -> Result<Vec<PathBuf>, Failure> {
        let mut found = Vec::new();
        within(bound, || {
            found = legs_now(number)?;
            Ok(found.len() == count)
        })
        .await
        .map_err(|_| Failure(format!("LUN {number} has {} of {count} legs: {found:?}", found.len())))?;
        Ok(found)
    }

    /// Takes the legs of this LUN number away from this machine, and only then the LUN.
    pub(super) async fn retire(&self, lun: &Lun) -> Result<(), Failure> {
        for leg in legs_now(lun.number)? {
            delete(&leg)?;
        }
        self.unmap(lun).await
    }
}

fn array(scratch: &Path, network: &Network, seed: u64) -> Result<OntapSim, Failure> {
    let mut config = OntapConfig::new(Version::new(9, 16, 1), scratch.join(format!("array{seed}")));
    config.seed = seed;
    let portals = network.portals().into_iter().zip([0, 1].into_iter().cycle());
    config.svms[0].portals = portals
        .map(|(mut address, node)| {
            address.set_port(address.port() + u16::try_from(seed - 1).unwrap_or_default());
            PortalConfig { address, node }
        })
        .collect();
    Ok(OntapSim::new(config)?)
}

/// This machine's IQN.
fn initiator() -> Result<String, Failure> {
    let text = fs::read_to_string("/etc/iscsi/initiatorname.iscsi")?;
    let name = text.lines().find_map(|it| it.strip_prefix("InitiatorName="));
    name.map(|it| it.trim().to_owned()).ok_or_else(|| Failure("this machine has no IQN".to_owned()))
}

/// The SCSI disks with this LUN number that have their node.
pub(super) fn legs_now(number: u16) -> Result<Vec<PathBuf>, Failure> {
    let shown = u64::from(if number < 256 { number } else { number | 0x4000 });
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/class/scsi_device")? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.rsplit(':').next().and_then(|it| it.parse::<u64>().ok()) != Some(shown) {
            continue;
        }
        let Ok(blocks) = fs::read_dir(format!("/sys/class/scsi_device/{name}/device/block")) else {
            continue;
        };
        for block in blocks {
            let node = Path::new("/dev").join(block?.file_name());
            if fs::metadata(&node).is_ok_and(|it| it.file_type().is_block_device()) {
                found.push(node);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The folder of a leg's SCSI device.
pub(super) fn device(leg: &Path) -> PathBuf {
    Path::new("/sys/block").join(leg.file_name().unwrap_or_default()).join("device")
}

/// An attribute of a leg's SCSI device.
pub(super) fn attribute(leg: &Path, name: &str) -> Result<String, Failure> {
    let path = device(leg).join(name);
    let text = fs::read_to_string(&path).map_err(|error| Failure(format!("{}: {error}", path.display())))?;
    Ok(text.trim().to_owned())
}

/// Bytes, as the kernel knows them.
pub(super) fn size(leg: &Path) -> Result<u64, Failure> {
    let path = Path::new("/sys/block").join(leg.file_name().unwrap_or_default()).join("size");
    Ok(fs::read_to_string(path)?.trim().parse::<u64>()? * 512)
}

/// Bytes in hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut digits, byte| {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
        digits
    })
}

/// Asks the target anew what a leg is.
pub(super) fn rescan(leg: &Path) -> Result<(), Failure> {
    Ok(fs::write(device(leg).join("rescan"), "1")?)
}

/// Removes a leg from this machine.
pub(super) fn delete(leg: &Path) -> Result<(), Failure> {
    Ok(fs::write(device(leg).join("delete"), "1")?)
}

/// Waits, with a bound, until something is so. The kernel offers no event for most of what is looked at here.
pub(super) async fn within(
    bound: Duration,
    mut is_so: impl FnMut() -> Result<bool, Failure>,
) -> Result<Duration, Failure> {
    let started = Instant::now();
    while !is_so()? {
        if started.elapsed() > bound {
            return Err(Failure(format!("it did not come about within {bound:?}")));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(started.elapsed())
}

/// Runs what may block on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    Ok(tokio::task::spawn_blocking(work).await??)
}
