//! Ledgers of a real node and of the kernel's targets: what of ours and what of others they hold.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use san_contract::audit::Ledger;

/// What begins the name and the UUID of every multipath map.
const MAP: &str = "mpath-";

/// A SCSI device as the kernel has it on record.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leg {
    /// Host, channel, target and LUN, joined by colons.
    pub address: String,
    /// What multipath would call it: `3` and the NAA identifier; empty where the kernel has none.
    pub wwid: String,
    /// `running`, `offline`, ...
    pub state: String,
}

/// A multipath map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Map {
    /// The kernel's name, `dm-3`.
    pub kernel: String,
    /// The WWID its UUID carries.
    pub wwid: String,
    /// Bytes.
    pub size: u64,
    /// The kernel's names of what is below it.
    pub slaves: Vec<String>,
}

fn text(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|it| it.trim().to_owned())
}

/// Names in a folder; none where there is no such folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|it| it.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Every SCSI device of the node.
pub fn legs() -> Vec<Leg> {
    let folder = Path::new("/sys/class/scsi_device");
    let legs = names(folder).into_iter().map(|address| {
        let device = folder.join(&address).join("device");
        let wwid = text(&device.join("wwid")).unwrap_or_default();
        Leg {
            wwid: wwid.strip_prefix("naa.").map(|it| format!("3{it}")).unwrap_or(wwid),
            state: text(&device.join("state")).unwrap_or_default(),
            address,
        }
    });
    legs.collect()
}

/// Every multipath map of the node, whatever its name.
pub fn maps() -> Vec<Map> {
    let folder = Path::new("/sys/block");
    let maps = names(folder).into_iter().filter_map(|kernel| {
        let device = folder.join(&kernel);
        let wwid = text(&device.join("dm/uuid"))?.strip_prefix(MAP)?.to_owned();
        let sectors: u64 = text(&device.join("size"))?.parse().ok()?;
        let slaves = names(&device.join("slaves"));
        Some(Map { kernel, wwid, size: sectors * 512, slaves })
    });
    maps.collect()
}

/// Links below `folder`, by their paths.
pub fn links(folder: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut found = Vec::new();
    for name in names(folder) {
        let path = folder.join(name);
        match fs::read_link(&path) {
            Ok(target) => found.push((path, target)),
            Err(_) => found.extend(links(&path)),
        }
    }
    found
}

/// The real node.
#[derive(Debug, Clone)]
pub struct NodeLedger {
    /// WWIDs of the LUNs that are not ours.
    pub foreign: BTreeSet<String>,
    /// Names of the targets whose sessions and node records stay by policy: logging in is the slowest step there is.
    pub targets: BTreeSet<String>,
    /// Where attached volumes appear.
    pub devices: PathBuf,
}

impl NodeLedger {
    fn lines(&self) -> Vec<(bool, String)> {
        let mut lines = Vec::new();
        let is_ours = |wwid: &str| !self.foreign.contains(wwid);
        for it in legs() {
            lines.push((is_ours(&it.wwid), format!("leg {} {} {}", it.address, it.wwid, it.state)));
        }
        for it in maps() {
            let legs = it.slaves.len();
            lines.push((is_ours(&it.wwid), format!("map {} of {} bytes over {legs} legs", it.wwid, it.size)));
        }
        lines.extend(
            links(&self.devices).into_iter().map(|(link, _)| (true, format!("link {}", link.display()))),
        );
        for session in names(Path::new("/sys/class/iscsi_session")) {
            let attribute = |name| text(&Path::new("/sys/class/iscsi_session").join(&session).join(name));
            let target = attribute("targetname").unwrap_or_default();
            if !self.targets.contains(&target) {
                lines.push((false, format!("session to {target}")));
            }
        }
        // Debian keeps them in the first, others in the second.
        let records = ["/var/lib/iscsi/nodes", "/etc/iscsi/nodes"].map(|it| names(Path::new(it))).concat();
        for target in records.into_iter().filter(|it| !self.targets.contains(it)) {
            lines.push((false, format!("node record of {target}")));
        }
        lines.extend(stuck_helpers().into_iter().map(|it| (true, it)));
        lines
    }
}

/// Helper processes that hang in the kernel: those of an abandoned job, whoever started them.
fn stuck_helpers() -> Vec<String> {
    let mut stuck = Vec::new();
    for pid in names(Path::new("/proc")).into_iter().filter(|it| it.parse::<u32>().is_ok()) {
        let folder = Path::new("/proc").join(&pid);
        let arguments = fs::read(folder.join("cmdline")).unwrap_or_default();
        let is_helper = arguments.split(|it| *it == 0).nth(1) == Some(b"helper".as_slice());
        let is_stuck = || {
            let stat = text(&folder.join("stat")).unwrap_or_default();
            // The state follows the name, which is in parentheses.
            stat.rsplit(')').next().is_some_and(|it| it.trim_start().starts_with('D'))
        };
        if is_helper && is_stuck() {
            stuck.push(format!("helper process {pid} stuck"));
        }
    }
    stuck
}

impl Ledger for NodeLedger {
    fn name(&self) -> String {
        "node".to_owned()
    }

    fn ours(&self) -> BTreeSet<String> {
        self.lines().into_iter().filter(|(ours, _)| *ours).map(|(_, line)| line).collect()
    }

    fn others(&self) -> BTreeSet<String> {
        self.lines().into_iter().filter(|(ours, _)| !*ours).map(|(_, line)| line).collect()
    }
}

/// The kernel's targets, as configfs has them.
#[derive(Debug, Clone)]
pub struct TargetLedger {
    /// Serial numbers of the LUNs that are not ours, as the array's management has them.
    pub foreign: BTreeSet<String>,
}

/// Where the kernel's targets are configured.
const TARGET: &str = "/sys/kernel/config/target";

/// The serial number a storage object was given; `None` where it is none of an array.
fn serial(object: &Path) -> Option<String> {
    let text = text(&object.join("wwn/vpd_unit_serial"))?;
    let digits = text.rsplit(' ').next()?.get(1..)?.as_bytes();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    String::from_utf8(bytes?).ok()
}

impl TargetLedger {
    /// Every storage object with its serial number, and every mapping of one to an initiator.
    ///
    /// # Errors
    /// Where configfs cannot be read.
    fn lines(&self) -> io::Result<Vec<(bool, String)>> {
        let mut lines = Vec::new();
        let mut foreign = BTreeSet::new();
        for adapter in names(&Path::new(TARGET).join("core")) {
            let folder = Path::new(TARGET).join("core").join(adapter);
            for name in names(&folder).into_iter().filter(|it| folder.join(it).join("wwn").is_dir()) {
                let object = folder.join(&name);
                let serial = serial(&object).unwrap_or_default();
                let ours = !self.foreign.contains(&serial);
                if !ours {
                    foreign.insert(object.canonicalize()?);
                }
                lines.push((ours, format!("storage object with serial {serial}")));
            }
        }
        for target in names(&Path::new(TARGET).join("iscsi")) {
            let folder = Path::new(TARGET).join("iscsi").join(&target);
            for group in names(&folder).into_iter().filter(|it| it.starts_with("tpgt_")) {
                let acls = folder.join(&group).join("acls");
                for initiator in names(&acls) {
                    for lun in names(&acls.join(&initiator)).into_iter().filter(|it| it.starts_with("lun_")) {
                        let ours = !leads_to(&acls.join(&initiator).join(&lun), &foreign);
                        lines.push((ours, format!("{lun} of {group} shown to {initiator}")));
                    }
                }
            }
        }
        Ok(lines)
    }

    fn part(&self, ours: bool) -> BTreeSet<String> {
        match self.lines() {
            Ok(lines) => lines.into_iter().filter(|(it, _)| *it == ours).map(|(_, line)| line).collect(),
            Err(error) => BTreeSet::from([format!("configfs cannot be read: {error}")]),
        }
    }
}

/// Whether a LUN of an initiator leads, over the portal group's LUN, to one of these storage objects.
fn leads_to(lun: &Path, objects: &BTreeSet<PathBuf>) -> bool {
    let follow = |folder: &Path| {
        let links = names(folder).into_iter().map(|it| folder.join(it));
        links.filter(|it| it.is_symlink()).find_map(|it| it.canonicalize().ok())
    };
    follow(lun).and_then(|it| follow(&it)).is_some_and(|it| objects.contains(&it))
}

impl Ledger for TargetLedger {
    fn name(&self) -> String {
        "the kernel's targets".to_owned()
    }

    fn ours(&self) -> BTreeSet<String> {
        self.part(true)
    }

    fn others(&self) -> BTreeSet<String> {
        self.part(false)
    }
}
