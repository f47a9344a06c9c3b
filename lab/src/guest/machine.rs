//! This machine as a node that the product works on: the product's door to it with a log, short timers, and a look at
//! what the kernel has.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use san_host::{Guard, System, SystemConfig};
use san_multipath::MultipathConfig;
use san_transport_iscsi::IscsiConfig;
use tokio::runtime::Handle;

use super::watched::Watched;
use super::{Failure, daemons, hung, ledger, tools, udev};

/// How much longer than on real hardware things may take under emulation, on an idle machine.
pub const SLOWNESS: u32 = 5;
/// Settings of multipathd beside the host's own: it looks often, so that outages are noticed soon.
const MULTIPATH: &str = "defaults {\n\tpolling_interval 1\n\tmax_polling_interval 2\n}\n\
                         overrides {\n\tfast_io_fail_tmo 2\n}\n";
const MULTIPATH_FILE: &str = "/etc/multipath/conf.d/lab.conf";
/// Where multipathd notes what it has made maps of, to make them again by itself.
const MULTIPATH_MEMORY: &str = "/etc/multipath/wwids";
const PATIENCE: Duration = Duration::from_secs(60);
/// How many programs are started to see how fast the machine is, and how long one takes on an idle one at most.
const PROGRAMS: u32 = 10;
const PROGRAM: Duration = Duration::from_millis(40);

/// The machine, as the product sees it.
#[derive(Debug)]
pub struct Machine {
    /// Its name on iSCSI.
    pub initiator: String,
    /// The product's door.
    pub host: Watched,
    /// How many times slower than an idle machine under emulation this one was found to be.
    pace: u32,
}

impl Machine {
    /// Prepares the machine: multipathd with short timers, udev with the rules that the package installs.
    ///
    /// # Errors
    /// Where the machine lacks something.
    pub async fn prepare() -> Result<Self, Failure> {
        fs::create_dir_all(Path::new(MULTIPATH_FILE).parent().unwrap_or(Path::new("/")))?;
        fs::write(MULTIPATH_FILE, MULTIPATH)?;
        udev::install_rules().await?;
        daemons::Daemon::Multipathd.start().await?;
        tools::run("multipathd", &["reconfigure"], PATIENCE).await?;
        daemons::Daemon::Iscsid.start().await?;
        let text = fs::read_to_string("/etc/iscsi/initiatorname.iscsi")?;
        let name = text.lines().find_map(|it| it.trim().strip_prefix("InitiatorName="));
        let initiator =
            name.ok_or_else(|| Failure("this machine has no initiator name".to_owned()))?.to_owned();
        let system = System::start(SystemConfig::new("/proc/self/exe", ["helper"]))?;
        Ok(Self { initiator, host: Watched::new(system), pace: pace().await? })
    }

    /// How much longer than on real hardware things may take here.
    pub fn slowness(&self) -> u32 {
        SLOWNESS * self.pace
    }

    /// As much time for each phase as this machine needs.
    pub fn multipath(&self) -> MultipathConfig {
        patient(self.pace)
    }

    /// What the product's parts take.
    pub fn guard(&self) -> Guard {
        Guard::new(Arc::new(self.host.clone()))
    }
}

/// Sessions that notice an outage within seconds, and wait for slow logins.
pub fn iscsi() -> IscsiConfig {
    IscsiConfig {
        login_timeout: Duration::from_secs(10),
        replacement_timeout: Duration::from_secs(2),
        ping: Duration::from_secs(1),
        login_hold: Duration::from_secs(10),
        // Many calls fit in here, and a port that is back is noticed within the contract's patience.
        probe_hold: Duration::from_secs(18),
        // An emulated machine under load answers late.
        probe_timeout: Duration::from_secs(2),
        ..IscsiConfig::default()
    }
}

/// As much time for each phase as an emulated processor needs.
pub fn multipath() -> MultipathConfig {
    patient(2)
}

fn patient(pace: u32) -> MultipathConfig {
    let usual = MultipathConfig::default();
    MultipathConfig {
        // Six disks at once are dozens of INQUIRYs beside udev's programs, on one emulated processor.
        inquiry: usual.inquiry * 2 * pace,
        leg: usual.leg * 2 * pace,
        straggler: usual.straggler * 5,
        // udev runs dozens of programs for a disk, and looks at many disks at once.
        udev: usual.udev * 4 * pace,
        map: usual.map * 2 * pace,
        ..usual
    }
}

/// Starts a few programs: what udev does for every disk, and most of what a disk costs.
async fn pace() -> Result<u32, Failure> {
    let started = Instant::now();
    for _ in 0..PROGRAMS {
        tools::run("true", &[], PATIENCE).await?;
    }
    let times = started.elapsed().as_millis().div_ceil((PROGRAM * PROGRAMS).as_millis());
    Ok(u32::try_from(times).unwrap_or(u32::MAX).clamp(1, 6))
}

/// Waits for what takes its time where a contract asks for it at once.
pub(super) fn now<T>(work: impl Future<Output = Result<T, Failure>>) -> T {
    sure(tokio::task::block_in_place(|| Handle::current().block_on(work)))
}

/// What a fixture is sure of.
#[expect(clippy::panic, reason = "a fixture that fails fails its clause, and a clause says so by a panic")]
pub(super) fn sure<T>(result: Result<T, Failure>) -> T {
    match result {
        Ok(value) => value,
        Err(failure) => panic!("the fixture: {failure}"),
    }
}

/// Every SCSI device, by its address.
pub fn legs() -> Vec<String> {
    ledger::names(Path::new("/sys/class/scsi_device"))
}

/// An attribute of a SCSI device.
fn attribute(leg: &str, name: &str) -> std::path::PathBuf {
    Path::new("/sys/class/scsi_device").join(leg).join("device").join(name)
}

/// Every device-mapper map, by its name, but for the inside of the array.
///
/// # Errors
/// Where the kernel does not say.
pub fn maps() -> Result<Vec<String>, Failure> {
    let blocks = ledger::names(Path::new("/sys/block")).into_iter().filter(|it| it.starts_with("dm-"));
    let mut names = Vec::new();
    for block in blocks {
        match fs::read_to_string(Path::new("/sys/block").join(block).join("dm/name")) {
            Ok(name) => names.push(name.trim_end().to_owned()),
            // It went while it was looked at.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    names.retain(|it| it != hung::BELOW);
    Ok(names)
}

/// How many iSCSI sessions there are, usable or not.
pub fn sessions() -> usize {
    ledger::names(Path::new("/sys/class/iscsi_session")).len()
}

/// The SCSI hosts of iSCSI sessions.
pub fn hosts() -> Vec<u32> {
    let hosts = ledger::names(Path::new("/sys/class/iscsi_host"));
    hosts.iter().filter_map(|it| it.strip_prefix("host")?.parse().ok()).collect()
}

/// The state of the session that brings SCSI host `host`; `None` where it has none.
pub fn session_state(host: u32) -> Option<String> {
    let folder = Path::new("/sys/class/scsi_host").join(format!("host{host}")).join("device");
    let session = ledger::names(&folder).into_iter().find(|it| it.starts_with("session"))?;
    let state = fs::read_to_string(Path::new("/sys/class/iscsi_session").join(session).join("state")).ok()?;
    Some(state.trim_end().to_owned())
}

/// Whether the session behind `host` carries commands, and every leg behind it is `running`.
pub fn is_up(host: u32) -> bool {
    session_state(host).as_deref() == Some("LOGGED_IN") && states(host).iter().all(|it| it == "running")
}

/// Whether the session behind `host` is broken and the kernel has given up waiting for it on every leg.
pub fn is_down(host: u32) -> bool {
    session_state(host).is_some_and(|it| it != "LOGGED_IN")
        && states(host).iter().all(|it| it == "transport-offline")
}

fn states(host: u32) -> Vec<String> {
    let own = legs().into_iter().filter(|it| it.starts_with(&format!("{host}:")));
    own.filter_map(|it| fs::read_to_string(attribute(&it, "state")).ok())
        .map(|it| it.trim_end().to_owned())
        .collect()
}

/// Whether a worker of udev is stuck in the kernel.
pub fn udev_waits_for_a_device() -> Result<bool, Failure> {
    for entry in fs::read_dir("/proc")? {
        // Processes come and go.
        let Ok(stat) = fs::read_to_string(entry?.path().join("stat")) else { continue };
        if stat.contains("(udev-worker) D ") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes every map and every SCSI device, as an administrator would who knows that nobody uses them, and makes
/// multipathd forget what it has seen.
///
/// # Errors
/// Where something stays.
pub async fn sweep() -> Result<(), Failure> {
    // A worker of udev that reads a map without paths would wait as long as that queues.
    for map in maps()? {
        tools::output("multipathd", &["disablequeueing", "map", &map], PATIENCE).await?;
    }
    daemons::udev_rests().await?;
    for map in maps()? {
        // A partition's map goes with the map it is on.
        if !map.contains("part") {
            tools::run("multipath", &["-f", &map], PATIENCE).await?;
        }
    }
    for leg in legs() {
        // It may have gone with another.
        let _ = fs::write(attribute(&leg, "delete"), "1");
    }
    daemons::until("devices stay", || Ok(legs().is_empty() && maps()?.is_empty())).await?;
    daemons::udev_rests().await?;
    match fs::remove_file(MULTIPATH_MEMORY) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
