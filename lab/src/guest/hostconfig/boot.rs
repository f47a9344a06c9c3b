//! Boots and shutdowns of a machine with systemd: legs that are there before anything of ours runs, and an end without
//! paths. The machine keeps its disks; each start of this group does the next stage.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use san_core::{DeviceManager as _, Expected, Lun, Transport as _};
use san_multipath::Multipath;
use san_sim::kernel::{KernelPlane, LivePlane};
use san_transport_iscsi::Iscsi;
use tokio::time::Instant;

use super::bench::{PATIENCE, cx};
use super::guests;
use crate::guest::array::{TestArray, VOLUME_SIZE};
use crate::guest::machine::{self, Machine};
use crate::guest::network::{NAMESPACE_PATH, Network};
use crate::guest::{Check, Failure, Group, Machines, Recorder, Shown, daemons, ledger, run, tools, udev};

/// What the unit that plays the array asks for instead of a check.
const ARRAY: &str = "the_array_of_the_next_boot";
/// Everything that has to outlive a reboot.
const KEPT: &str = "/var/lib/sanbridge-lab";
const PROGRAM: &str = "/usr/local/sbin/sanbridge-lab-guest";
const UNITS: &str = "/etc/systemd/system";
const SHUTDOWN: &str = include_str!("../../../../host/systemd/sanbridge-shutdown.service");
const SHUTDOWN_UNIT: &str = "sanbridge-shutdown.service";
const MOUNT_POINT: &str = "/mnt/guest";
/// How long systemd waits for a unit here, instead of 90 s.
const UNIT_PATIENCE: u64 = 20;
/// What the machine needs to go down and up again where nothing hangs, on a loaded machine, and what systemd's three
/// patiences add to it.
const HANG: u64 = 2 * UNIT_PATIENCE;

/// The array is there before open-iscsi logs in, as a real one would be.
const ARRAY_UNIT: &str = "\
[Unit]
DefaultDependencies=no
After=systemd-remount-fs.service systemd-udevd.service systemd-tmpfiles-setup.service
Before=iscsid.service open-iscsi.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/sanbridge-lab-guest run boot --verdicts /dev/null --only the_array_of_the_next_boot
[Install]
WantedBy=sysinit.target
";

/// The LUNs, which have the numbers of their volumes: a volume group each, known to multipathd and so maps at boot, and
/// two md arrays on legs that nobody has claimed. The first of each kind is masked.
const GROUPS: [(u8, &str); 2] = [(1, "maskedvg"), (2, "openvg")];
const ARRAYS: [(u8, u8); 2] = [(3, 4), (5, 6)];
const MASKED: [u8; 3] = [1, 3, 4];
const OPEN: [u8; 3] = [2, 5, 6];

/// The group.
pub(crate) fn group() -> Group {
    Group::new("boot", |recorder| Box::pin(play(recorder))).on(Machines::Systemd)
}

/// What a stage stands on.
#[derive(Debug)]
struct Bench {
    network: Network,
    array: Arc<TestArray>,
}

impl Bench {
    async fn new() -> Result<Self, Failure> {
        let network = Network::start(1).await?;
        let folder = Path::new(KEPT).join("volumes");
        fs::create_dir_all(&folder)?;
        let array = Arc::new(TestArray::new("boot", network.portals(), folder));
        Ok(Self { network, array })
    }

    /// Shows every volume. Only once after each boot: a plane begins by taking down what another one has made.
    async fn show_all(&self) -> Result<(), Failure> {
        let plane = LivePlane::new(KernelPlane::new(Path::new(NAMESPACE_PATH))?, vec![initiator()?]);
        plane.add(self.array.clone());
        for n in MASKED.iter().chain(&OPEN) {
            self.array.show(*n, u16::from(*n), self.array.addresses())?;
        }
        Ok(plane.sync().await?)
    }

    fn map(&self, n: u8) -> String {
        self.array.identity(n).wwid.multipath_name()
    }
}

fn initiator() -> Result<String, Failure> {
    let text = fs::read_to_string("/etc/iscsi/initiatorname.iscsi")?;
    let name = text.lines().find_map(|it| it.trim().strip_prefix("InitiatorName="));
    name.map(str::to_owned).ok_or_else(|| Failure("this machine has no initiator name".to_owned()))
}

fn kept(name: &str) -> PathBuf {
    Path::new(KEPT).join(name)
}

/// Written through to the disk: what follows may never end.
fn keep(name: &str, text: &str) -> Result<(), Failure> {
    let mut file = fs::File::create(kept(name))?;
    file.write_all(text.as_bytes())?;
    Ok(file.sync_all()?)
}

fn number(name: &str) -> u64 {
    fs::read_to_string(kept(name)).ok().and_then(|it| it.trim().parse().ok()).unwrap_or(0)
}

fn now() -> Result<u64, Failure> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs())
}

async fn play(recorder: Recorder) -> Result<(), Failure> {
    if recorder.wants(ARRAY) && !recorder.wants("x") {
        return Bench::new().await?.show_all().await;
    }
    fs::create_dir_all(KEPT)?;
    let stage = number("stage");
    keep("stage", &(stage + 1).to_string())?;
    match stage {
        0 => set_up().await?,
        1 => {
            let bench = Arc::new(Bench::new().await?);
            for check in first_boot() {
                run(&recorder, &bench, &check).await?;
            }
            guests::release().await?;
            go_down_without_paths(&bench).await?;
        }
        2 => {
            keep("without", &took()?.to_string())?;
            fs::write(Path::new(UNITS).join(SHUTDOWN_UNIT), SHUTDOWN)?;
            tools::run("systemctl", &["daemon-reload"], PATIENCE).await?;
            tools::run("systemctl", &["enable", "--now", SHUTDOWN_UNIT], PATIENCE).await?;
            settled().await?;
            guests::release().await?;
            go_down_without_paths(&Bench::new().await?).await?;
        }
        _ => {
            keep("with", &took()?.to_string())?;
            let bench = Arc::new(());
            return run(&recorder, &bench, &shutdown()).await.map(drop);
        }
    }
    recorder.goes_on_after_a_reboot();
    Ok(())
}

/// Contents, records and files, as they are on a node that has run for a while.
async fn set_up() -> Result<(), Failure> {
    let bench = Bench::new().await?;
    for (n, name) in GROUPS {
        bench.array.change(n, |_| ())?;
        guests::with_volume_group(&bench.array.file(n), name).await?;
    }
    for (first, second) in ARRAYS {
        bench.array.change(first, |_| ())?;
        bench.array.change(second, |_| ())?;
        guests::with_md(&bench.array.file(first), &bench.array.file(second)).await?;
    }
    for n in MASKED {
        udev::mask(&bench.array.identity(n).wwid)?;
    }
    udev::install_rules().await?;
    let known: Vec<String> = GROUPS.iter().map(|(n, _)| format!("/{}/\n", bench.map(*n))).collect();
    fs::write("/etc/multipath/wwids", known.concat())?;
    fs::create_dir_all("/etc/systemd/system.conf.d")?;
    let patience = format!("[Manager]\nDefaultTimeoutStopSec={UNIT_PATIENCE}s\n");
    fs::write("/etc/systemd/system.conf.d/lab.conf", patience)?;
    fs::copy("/proc/self/exe", PROGRAM)?;
    fs::set_permissions(PROGRAM, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    fs::write(Path::new(UNITS).join("lab-array.service"), ARRAY_UNIT)?;
    tools::run("systemctl", &["enable", "lab-array.service", "open-iscsi.service"], PATIENCE).await?;
    bench.show_all().await?;
    let portal = bench.array.addresses()[0].to_string();
    let target = bench.array.target();
    let record = ["-m", "node", "-T", &target, "-p", &portal];
    tools::run("iscsiadm", &[&record[..], &["-o", "new"]].concat(), PATIENCE).await?;
    for (name, value) in [("node.startup", "automatic"), ("node.session.timeo.replacement_timeout", "2")] {
        let update = ["-o", "update", "-n", name, "-v", value];
        tools::run("iscsiadm", &[&record[..], &update].concat(), PATIENCE).await?;
    }
    tools::run("sync", &[], PATIENCE).await?;
    reboot().await
}

async fn reboot() -> Result<(), Failure> {
    keep("asked", &now()?.to_string())?;
    tools::run("systemctl", &["reboot", "--no-block"], PATIENCE).await.map(drop)
}

/// The seconds from asking for the reboot to the start of this kernel.
fn took() -> Result<u64, Failure> {
    let uptime = fs::read_to_string("/proc/uptime")?;
    let uptime: f64 = uptime.split(' ').next().unwrap_or_default().parse()?;
    Ok(now()?.saturating_sub(number("asked")).saturating_sub(Duration::from_secs_f64(uptime).as_secs()))
}

/// open-iscsi has logged in and udev has dealt with what came of it.
async fn settled() -> Result<(), Failure> {
    let is_whole = || {
        Ok::<bool, Failure>(
            machine::legs().len() == MASKED.len() + OPEN.len() && machine::maps()?.len() >= GROUPS.len(),
        )
    };
    let started = Instant::now();
    while !is_whole()? {
        if started.elapsed() > PATIENCE * 3 {
            let message = format!("legs {:?}, maps {:?} after the boot", machine::legs(), machine::maps()?);
            return Err(Failure(message));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    daemons::udev_rests().await
}

fn first_boot() -> Vec<Check<Bench>> {
    vec![
        Check {
            name: "legs_that_are_there_before_we_are_stay_unread",
            scenarios: &["74"],
            done: "a boot in which open-iscsi logs in by itself: LUNs with guests' volume groups and md arrays become maps and legs, half of them masked",
            run: |bench| Box::pin(unread(bench)),
            bound: Duration::from_secs(60),
        },
        Check {
            name: "after_a_reboot_a_disk_is_taken_over_once_it_is_proved",
            scenarios: &["67"],
            done: "attach of the volume whose map multipathd has made by itself at boot, and of one whose LUN number shows another volume after it",
            run: |bench| Box::pin(taken_over(bench)),
            bound: Duration::from_secs(60),
        },
    ]
}

/// The kernel's names of a volume's leg and map.
fn devices(bench: &Bench, n: u8) -> BTreeSet<String> {
    let wwid = bench.map(n);
    let address = |it: &String| it.ends_with(&format!(":{n}"));
    let legs = machine::legs().into_iter().filter(address);
    let blocks =
        legs.flat_map(|it| ledger::names(&Path::new("/sys/class/scsi_device").join(it).join("device/block")));
    let maps = ledger::maps().into_iter().filter(|it| it.wwid == wwid).map(|it| it.kernel);
    blocks.chain(maps).collect()
}

async fn unread(bench: Arc<Bench>) -> Result<Shown, Failure> {
    settled().await?;
    // What is not masked shows when the host has done all it does.
    let started = Instant::now();
    let telling = ["logical volume openvg-root is active", "md array"];
    let found = loop {
        let found = guests::harm();
        if telling.iter().all(|it| found.iter().any(|line| line.contains(it))) {
            daemons::udev_rests().await?;
            break guests::harm();
        }
        if started.elapsed() > PATIENCE {
            return Err(Failure(format!("without a mask only {found:?} is seen: this proves nothing")));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    let masked: BTreeSet<String> = MASKED.iter().flat_map(|n| devices(&bench, *n)).collect();
    let words = |line: &str| -> Vec<String> {
        line.split(|it: char| !it.is_ascii_alphanumeric() && it != '-').map(str::to_owned).collect()
    };
    let hurts =
        |line: &&String| line.contains("maskedvg") || words(line).iter().any(|it| masked.contains(it));
    let hurt: Vec<&String> = found.iter().filter(hurts).collect();
    if !hurt.is_empty() {
        return Err(Failure(format!("masked and touched all the same: {hurt:?}")));
    }
    let found = telling.map(|it| guests::in_short(&found, it)).join("; ");
    Ok(Shown::held(format!("of {masked:?} nothing; without a mask, in the same boot: {found}")))
}

async fn taken_over(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let node = Machine::prepare().await?;
    let transport = Iscsi::new(node.guard(), machine::iscsi());
    let routes = transport.routes(&cx(), &bench.array.ports()?).await?;
    let manager = Multipath::new(node.guard(), machine::multipath());
    let expect = |n: u8, lun: u16| -> Result<Expected, Failure> {
        let lun = Lun::new(lun).ok_or_else(|| Failure(format!("no LUN {lun}")))?;
        Ok(Expected { identity: bench.array.identity(n), size: VOLUME_SIZE, lun })
    };
    node.host.forget();
    let device = manager.attach(&cx(), &expect(1, 1)?, &routes).await?;
    if device.legs.len() != 1 || !node.host.writes().is_empty() {
        return Err(Failure(format!("{} legs, written: {:?}", device.legs.len(), node.host.writes())));
    }
    // While the node was down the array gave number 4 to another volume, as far as a record says that 3 has it.
    let error = match manager.attach(&cx(), &expect(3, 4)?, &routes).await {
        Ok(device) => return Err(Failure(format!("a wrong LUN was attached as {}", device.path.display()))),
        Err(error) => error,
    };
    let names: BTreeMap<u8, BTreeSet<String>> = [(4, devices(&bench, 4))].into();
    if names[&4].is_empty() {
        return Err(Failure("the leg of the other volume was removed".to_owned()));
    }
    Ok(Shown::held(format!(
        "the map is taken over without a write to the kernel; the other volume is refused ({}) and its leg stays",
        error.kind()
    )))
}

/// A file system with unwritten data on a map that has lost every path, and a reboot.
async fn go_down_without_paths(bench: &Bench) -> Result<(), Failure> {
    let map = bench.map(1);
    let path = format!("/dev/mapper/{map}");
    tools::run("mkfs.ext4", &["-q", "-F", &path], PATIENCE).await?;
    fs::create_dir_all(MOUNT_POINT)?;
    tools::run("mount", &[&path, MOUNT_POINT], PATIENCE).await?;
    tools::run("sync", &[], PATIENCE).await?;
    // The kernel must not write it out before the paths are gone.
    fs::write("/proc/sys/vm/dirty_expire_centisecs", "360000")?;
    fs::write("/proc/sys/vm/dirty_writeback_centisecs", "360000")?;
    fs::write(Path::new(MOUNT_POINT).join("file"), vec![0x5a; 8 << 20])?;
    bench.network.cut(1).await?;
    let started = Instant::now();
    loop {
        let said = tools::run("multipathd", &["show", "map", &map, "json"], PATIENCE).await?;
        if said.contains("\"paths\" : 0") {
            break;
        }
        if started.elapsed() > PATIENCE {
            return Err(Failure("the path stays up".to_owned()));
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    reboot().await
}

fn shutdown() -> Check<()> {
    Check {
        name: "a_node_without_paths_goes_down",
        scenarios: &["68"],
        done: "reboot with a mounted file system, unwritten data on it and no path, without and with sanbridge-shutdown.service; systemd waits 20 s for a unit instead of 90",
        run: |_| {
            Box::pin(async {
                let (without, with) = (number("without"), number("with"));
                let figures = BTreeMap::from([
                    ("reboot_without_unit_seconds".to_owned(), f64::from(u32::try_from(without)?)),
                    ("reboot_with_unit_seconds".to_owned(), f64::from(u32::try_from(with)?)),
                ]);
                if without < with + HANG {
                    return Err(Failure(format!("{without} s without the unit, {with} s with it")));
                }
                let text =
                    format!("{without} s without the unit, {with} s with it, from asking to the next kernel");
                Ok(Shown::Held(text, figures))
            })
        },
        bound: Duration::from_secs(5),
    }
}
