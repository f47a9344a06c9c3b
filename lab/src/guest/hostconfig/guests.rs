//! What guests write onto their disks, and what a host that looks there makes of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::bench::PATIENCE;
use crate::guest::{Failure, ledger, tools};

/// LVM sees loop devices for this command only.
const LVM_SEES_ALL: [&str; 2] = ["--config", "devices { global_filter = [ \"a|.*|\" ] }"];
/// What udev notes of a disk that multipathd has claimed.
const CLAIMED: [&str; 2] = ["mpath_member", "none"];

/// A file as a disk for the time of `work`.
async fn as_disk<T>(file: &Path, work: impl AsyncFnOnce(&str) -> Result<T, Failure>) -> Result<T, Failure> {
    let file = file.to_string_lossy();
    let device = tools::run("losetup", &["-P", "--show", "-f", &file], PATIENCE).await?;
    let result = work(device.trim()).await;
    tools::run("losetup", &["-d", device.trim()], PATIENCE).await?;
    result
}

async fn lvm(command: &str, arguments: &[&str]) -> Result<(), Failure> {
    tools::run(command, &[&LVM_SEES_ALL[..], &["-q"], arguments].concat(), PATIENCE).await.map(drop)
}

async fn volume_group(device: &str, name: &str) -> Result<(), Failure> {
    lvm("pvcreate", &["--yes", device]).await?;
    lvm("vgcreate", &[name, device]).await?;
    lvm("lvcreate", &["-an", "-Zn", "-Wn", "-L8M", "-nroot", name]).await
}

/// A volume group on the whole disk.
///
/// # Errors
/// Where LVM fails.
pub(super) async fn with_volume_group(file: &Path, name: &str) -> Result<(), Failure> {
    as_disk(file, async |device| volume_group(device, name).await).await
}

/// Two members of one array.
///
/// # Errors
/// Where mdadm fails.
pub(super) async fn with_md(first: &Path, second: &Path) -> Result<(), Failure> {
    as_disk(first, async |first| {
        as_disk(second, async |second| {
            let head = ["--create", "/dev/md/labguest", "--level=1", "--raid-devices=2", "--metadata=1.2"];
            let tail = ["--run", "--assume-clean", "--homehost=any", first, second];
            tools::run("mdadm", &[&head[..], &tail].concat(), PATIENCE).await?;
            tools::run("mdadm", &["--stop", "/dev/md/labguest"], PATIENCE).await.map(drop)
        })
        .await
    })
    .await
}

/// A btrfs on the whole disk.
///
/// # Errors
/// Where mkfs fails.
pub(super) async fn with_btrfs(file: &Path) -> Result<(), Failure> {
    tools::run("mkfs.btrfs", &["-q", "-f", "-M", "-L", "labguest", &file.to_string_lossy()], PATIENCE)
        .await
        .map(drop)
}

/// A partition table with swap, a file system and a volume group, each with a name that could be the host's own.
///
/// # Errors
/// Where a tool fails.
pub(super) async fn with_partitions(file: &Path, group: &str) -> Result<(), Failure> {
    let table = tempfile::NamedTempFile::new()?;
    fs::write(
        table.path(),
        "label: gpt\nsize=12M, type=swap, name=swap\nsize=12M, name=root\nsize=20M, type=lvm, name=pv\n",
    )?;
    let script = format!("sfdisk -q {} <{}", file.display(), table.path().display());
    tools::run("sh", &["-c", &script], PATIENCE).await?;
    as_disk(file, async |device| {
        tools::run("mkswap", &["-q", "-L", "swap0", &format!("{device}p1")], PATIENCE).await?;
        tools::run("mkfs.ext4", &["-q", "-L", "root0", &format!("{device}p2")], PATIENCE).await?;
        volume_group(&format!("{device}p3"), group).await
    })
    .await
}

/// Everything this host has made of what is on LUNs and on maps of them.
pub(super) fn harm() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for block in ledger::names(Path::new("/sys/block")).iter().filter(|it| it.starts_with("dm-")) {
        let text = |attribute| {
            let path = Path::new("/sys/block").join(block).join(attribute);
            // It may go while it is looked at.
            fs::read_to_string(path).unwrap_or_default().trim_end().to_owned()
        };
        let (name, uuid) = (text("dm/name"), text("dm/uuid"));
        if uuid.starts_with("LVM-") {
            found.insert(format!("logical volume {name} is active"));
        } else if uuid.starts_with("part") {
            found.insert(format!("partition {name} is mapped"));
        }
    }
    let arrays = fs::read_to_string("/proc/mdstat").unwrap_or_default();
    let arrays = arrays.lines().filter(|it| it.starts_with("md"));
    found.extend(arrays.map(|it| format!("md array {it}")));
    for folder in ["by-uuid", "by-label", "by-partuuid", "by-partlabel"] {
        for (link, target) in ledger::links(&Path::new("/dev/disk").join(folder)) {
            let device = target.file_name().map(|it| it.to_string_lossy().into_owned()).unwrap_or_default();
            if is_san(&device) {
                found.insert(format!("{} leads to {device}", link.display()));
            }
        }
    }
    found.extend(read_by_udev());
    found
}

/// The most telling of what was found, and how much else.
pub(super) fn in_short(found: &BTreeSet<String>, telling: &str) -> String {
    let first = found.iter().find(|it| it.contains(telling)).map_or("nothing", String::as_str);
    format!("{first} and {} more traces", found.len().saturating_sub(1))
}

fn is_san(device: &str) -> bool {
    device.starts_with("sd") || device.starts_with("dm-")
}

/// Disks and partitions of which udev knows what is on them.
fn read_by_udev() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for device in ledger::names(Path::new("/sys/class/block")).iter().filter(|it| is_san(it)) {
        let Ok(number) = fs::read_to_string(Path::new("/sys/class/block").join(device).join("dev")) else {
            continue;
        };
        let record = fs::read_to_string(format!("/run/udev/data/b{}", number.trim())).unwrap_or_default();
        for line in record.lines() {
            let kind = line.strip_prefix("E:ID_FS_TYPE=").filter(|it| !CLAIMED.contains(it));
            if let Some(kind) = kind {
                found.insert(format!("udev has read {kind} on {device}"));
            }
            if line.starts_with("E:ID_BTRFS_READY=") {
                found.insert(format!("the kernel's btrfs was told of {device}"));
            }
        }
    }
    found
}

/// Takes down whatever the host has made of guests' disks, as if it had been started anew.
///
/// # Errors
/// Where something stays.
pub(super) async fn release() -> Result<(), Failure> {
    crate::guest::daemons::udev_rests().await?;
    let blocks = || ledger::names(Path::new("/sys/block"));
    for name in blocks().iter().filter(|it| it.starts_with("md")) {
        tools::run("mdadm", &["--stop", &format!("/dev/{name}")], PATIENCE).await?;
    }
    // A volume group may be in a partition.
    for kind in ["LVM-", "part"] {
        for name in blocks() {
            let folder = Path::new("/sys/block").join(&name).join("dm");
            let told = |attribute: &str| fs::read_to_string(folder.join(attribute)).unwrap_or_default();
            if !told("uuid").starts_with(kind) {
                continue;
            }
            // By its own name: the one below /dev may not be there yet, or any more.
            let removed = tools::run("dmsetup", &["remove", "--retry", told("name").trim()], PATIENCE).await;
            if told("uuid").starts_with(kind) {
                removed?;
            }
        }
    }
    // LVM activates a group once after a start.
    for folder in ["pvs_online", "vgs_online", "pvs_lookup"] {
        for name in ledger::names(&Path::new("/run/lvm").join(folder)) {
            fs::remove_file(Path::new("/run/lvm").join(folder).join(name))?;
        }
    }
    crate::guest::daemons::udev_rests().await
}
