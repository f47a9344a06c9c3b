//! Both targets, the networks they are reached over, and a file for each disk.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use san_sim::kernel::{FcPort, FcTarget, Namespace, NvmeTarget};
use san_sim::target::Unit;
use uuid::Uuid;

use crate::guest::direct::{Device, hash, hash_of};
use crate::guest::network::{NAMESPACE_PATH, Network};
use crate::guest::{Failure, scratch, tools};

/// Programs take a second or so under emulation.
pub(super) const PATIENCE: Duration = Duration::from_secs(40);
/// What the kernel and udev do by themselves.
pub(super) const SOON: Duration = Duration::from_secs(40);

pub(super) const MIB: u64 = 1 << 20;

/// The NVMe subsystem.
pub(super) const NQN: &str = "nqn.1992-08.com.netapp:sn.1ab:subsystem.lab";
pub(super) const HOST_ID: &str = "1ab00000-0000-4000-8000-0000000000fa";
const NVME_PORT: u16 = 4420;

/// How much is written and hashed.
const LENGTH: usize = 1 << 20;

/// The bench.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) network: Network,
    pub(super) nvme: NvmeTarget,
    fc: Mutex<FcTarget>,
    scratch: PathBuf,
}

impl Bench {
    pub(super) async fn start() -> Result<Arc<Self>, Failure> {
        let scratch = scratch::mount().await?;
        let network = Network::start(2).await?;
        tools::run("modprobe", &["-a", "nvme-tcp", "scsi_dh_alua", "dm-multipath"], PATIENCE).await?;
        // Maps for whatever has a path, found quickly when a path is lost or comes back.
        std::fs::write(
            "/etc/multipath.conf",
            "defaults {\n\tfind_multipaths no\n\tpolling_interval 1\n\tmax_polling_interval 2\n}\n\
             blacklist {\n\tdevnode \"^(loop|nvme|vd)\"\n}\n\
             overrides {\n\tfast_io_fail_tmo 3\n}\n",
        )?;
        tools::run("multipathd", &["reconfigure"], PATIENCE).await?;
        let links = fc_links().await?;
        let ports = links.clone();
        let addresses = nvme_ports(&network);
        let nvme = blocking(move || {
            NvmeTarget::new(Path::new(NAMESPACE_PATH), NQN, "1abSerial0000000001", &addresses)
        })
        .await?;
        nvme.allow(&host_nqn())?;
        let fc = blocking(move || FcTarget::new(ports)).await?;
        Ok(Arc::new(Self { network, nvme, fc: Mutex::new(fc), scratch }))
    }

    pub(super) async fn stop(self: Arc<Self>) -> Result<(), Failure> {
        tools::run("nvme", &["disconnect-all"], PATIENCE).await?;
        blocking(move || {
            self.nvme.clear()?;
            self.fc().clear()
        })
        .await
    }

    pub(super) fn fc(&self) -> MutexGuard<'_, FcTarget> {
        self.fc.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The portal of the NVMe target in network `n`.
    pub(super) fn nvme_address(n: u8) -> String {
        Network::portal(n).ip().to_string()
    }

    /// A file of this size for a disk, made or changed.
    pub(super) fn file(&self, name: &str, size: u64) -> Result<PathBuf, Failure> {
        let path = self.scratch.join(name);
        let file = File::options().create(true).append(true).open(&path)?;
        file.set_len(size)?;
        Ok(path)
    }

    /// Namespace `id`, over a file of its own.
    pub(super) fn namespace(&self, id: u8, size: u64) -> Result<Namespace, Failure> {
        let mut nguid = *b"\x81\xa2\xb3\xc4\xd5\xe6\xf7\x08\x00\xa0\x98\0\0\0\0\0";
        nguid[15] = id;
        Ok(Namespace {
            id: id.into(),
            file: self.file(&format!("namespace{id}"), size)?,
            uuid: Uuid::from_u128(0x1ab0_0000_0000_4000_8000_0000_0000_0000 + u128::from(id)),
            nguid,
            group: 1 + u32::from(id.is_multiple_of(2)),
        })
    }

    /// The unit behind Fibre Channel LUN `lun`, over a file of its own.
    pub(super) fn unit(&self, lun: u16, size: u64) -> Result<Unit, Failure> {
        let mut naa = *b"\x60\x0a\x09\x80lab-fc------";
        naa[14..].copy_from_slice(&lun.to_be_bytes());
        Ok(Unit {
            vendor: "NETAPP".to_owned(),
            product: "LUN C-Mode".to_owned(),
            revision: "9161".to_owned(),
            serial: naa[4..].to_vec(),
            naa,
            size,
            file: self.file(&format!("fc{lun}"), size)?,
            optimized: true,
        })
    }
}

/// The name multipath gives a unit.
pub(super) fn wwid(unit: &Unit) -> String {
    unit.naa.iter().fold("3".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

pub(super) fn host_nqn() -> String {
    format!("nqn.2014-08.org.nvmexpress:uuid:{HOST_ID}")
}

fn nvme_ports(network: &Network) -> Vec<SocketAddr> {
    network.portals().into_iter().map(|it| SocketAddr::new(it.ip(), NVME_PORT)).collect()
}

/// The device of an initiator's end of link `n` (1 or 2).
pub(super) fn fc_host_end(n: u8) -> String {
    format!("fh{n}")
}

/// The device of the target's end of link `n`.
pub(super) fn fc_target_end(n: u8) -> String {
    format!("ft{n}")
}

/// The hardware address of the initiator's end of link `n`.
pub(super) fn fc_initiator(n: u8) -> [u8; 6] {
    [0x02, 0xfc, 0, 0, 0, n]
}

/// Two links of their own: FCoE lives in the initial namespace only, so both ends are here.
async fn fc_links() -> Result<Vec<FcPort>, Failure> {
    let mut ports = Vec::new();
    for n in [1, 2] {
        let (host, target) = (fc_host_end(n), fc_target_end(n));
        let (initiator, address) = (fc_initiator(n), [0x00, 0xa0, 0x98, 0, 0, 0x0a + n]);
        let text = |it: [u8; 6]| it.map(|byte| format!("{byte:02x}")).join(":");
        let pair = ["link", "add", &host, "address", &text(initiator), "mtu", "9000", "type", "veth"];
        let peer = ["peer", "name", &target, "address", &text(address), "mtu", "9000"];
        tools::run("ip", &[&pair[..], &peer[..]].concat(), PATIENCE).await?;
        for device in [&host, &target] {
            // Fibre Channel loses no frames, and each one lost costs a long time-out: room for a queue of any length.
            let queue = ["qdisc", "replace", "dev", device, "root", "pfifo", "limit", "100000"];
            tools::run("tc", &queue, PATIENCE).await?;
            tools::run("ip", &["link", "set", device, "up"], PATIENCE).await?;
        }
        ports.push(FcPort { device: target, address, initiator });
    }
    Ok(ports)
}

/// Bytes that no other seed gives.
fn pattern(seed: u8) -> Vec<u8> {
    let mut bytes = vec![seed; LENGTH];
    for (at, sector) in bytes.chunks_exact_mut(512).enumerate() {
        sector[..8].copy_from_slice(&(at as u64).to_le_bytes());
    }
    bytes
}

/// Writes what only this seed gives, away from where verified input and output goes.
pub(super) async fn write(disk: &Path, seed: u8) -> Result<(), Failure> {
    let disk = disk.to_owned();
    blocking(move || Device::open(&disk)?.write(4 * MIB, &pattern(seed))).await
}

/// Reads what was written with this seed, from the device and from the file behind it.
pub(super) async fn expect(disk: &Path, file: &Path, seed: u8, when: &str) -> Result<(), Failure> {
    let wanted = hash_of(&pattern(seed));
    let (device, behind) = (disk.to_owned(), file.to_owned());
    let found = blocking(move || {
        use std::os::unix::fs::FileExt as _;
        let mut bytes = vec![0; LENGTH];
        File::open(behind)?.read_exact_at(&mut bytes, 4 * MIB)?;
        Ok([hash(&device, 4 * MIB, LENGTH)?, hash_of(&bytes)])
    })
    .await?;
    if found == [wanted.as_str(), wanted.as_str()] {
        return Ok(());
    }
    Err(Failure(format!("{} or its file does not read what it must {when}", disk.display())))
}

/// Bytes, as the kernel knows them.
pub(super) fn size(disk: &Path) -> Result<u64, Failure> {
    let path = Path::new("/sys/block").join(disk.file_name().unwrap_or_default()).join("size");
    Ok(std::fs::read_to_string(path)?.trim().parse::<u64>()? * 512)
}

/// The attributes called `name` of everything in a class, by the name of the thing.
pub(super) fn class(class: &str, name: &str) -> Result<Vec<(String, String)>, Failure> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(Path::new("/sys/class").join(class)) else { return Ok(found) };
    for entry in entries {
        let entry = entry?;
        // What goes away meanwhile has no attributes.
        if let Ok(value) = std::fs::read_to_string(entry.path().join(name)) {
            found.push((entry.file_name().to_string_lossy().into_owned(), value.trim().to_owned()));
        }
    }
    found.sort();
    Ok(found)
}

/// Waits, with a bound, until something is so. The kernel offers no event for most of what is looked at here.
pub(super) async fn within(
    what: &str,
    mut is_so: impl FnMut() -> Result<bool, Failure>,
) -> Result<Duration, Failure> {
    let started = Instant::now();
    while !is_so()? {
        if started.elapsed() > SOON {
            return Err(Failure(format!("{what}: it did not come about within {SOON:?}")));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(started.elapsed())
}

/// Runs what may block on a thread of its own.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Failure> {
    Ok(tokio::task::spawn_blocking(work).await??)
}
