//! What stock-taking must look at beside a node's legs and maps and the array's LUNs: what others made of our devices,
//! processes that hang, and the sessions every scenario shares.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use san_contract::audit::Ledger;

use crate::guest::ledger::names;

/// The surroundings of a node's volumes at this moment. A thing that vanishes while it is looked at is not there.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    /// The bystander's WWID, as multipath writes it.
    pub bystander: &'a str,
    /// How many helper processes are kept in advance.
    pub helpers: usize,
    /// Calls of ours that hang in the kernel.
    pub abandoned: u64,
}

impl Ledger for Surroundings<'_> {
    fn name(&self) -> String {
        "surroundings".to_owned()
    }

    fn ours(&self) -> BTreeSet<String> {
        let mut all: BTreeSet<String> = stacked().into_iter().collect();
        all.extend(links().into_iter().filter(|it| !it.contains(self.bystander)));
        all.extend(processes(self.helpers));
        if self.abandoned > 0 {
            all.insert(format!("{} abandoned helpers", self.abandoned));
        }
        all
    }

    fn others(&self) -> BTreeSet<String> {
        let mut all: BTreeSet<String> =
            links().into_iter().filter(|it| it.contains(self.bystander)).collect();
        all.extend(sessions());
        for target in names(Path::new("/var/lib/iscsi/nodes")) {
            let portals = names(&Path::new("/var/lib/iscsi/nodes").join(&target));
            all.extend(portals.into_iter().map(|it| format!("node record {target} {it}")));
        }
        all.extend(names(Path::new("/sys/block")).into_iter().filter(|it| it.starts_with("vd")));
        all
    }
}

fn text(path: PathBuf) -> Option<String> {
    fs::read_to_string(path).ok().map(|it| it.trim().to_owned())
}

/// Device-mapper and md devices that are no multipath maps: somebody opened a guest's disk.
pub(super) fn stacked() -> Vec<String> {
    let folder = Path::new("/sys/block");
    let device = |kernel: String| {
        if kernel.starts_with("md") {
            return Some(format!("device {kernel}"));
        }
        let dm = folder.join(&kernel).join("dm");
        let uuid = text(dm.join("uuid"))?;
        (!uuid.starts_with("mpath-"))
            .then(|| format!("device {} {uuid}", text(dm.join("name")).unwrap_or_default()))
    };
    names(folder).into_iter().filter_map(device).collect()
}

/// Links that udev makes for volumes and their contents. One that leads nowhere is not counted: udev forgets it where the
/// last event of a map comes after the map's end.
fn links() -> Vec<String> {
    let mut all = Vec::new();
    for folder in ["/dev/mapper", "/dev/disk/by-id", "/dev/disk/by-uuid", "/dev/disk/by-label"].map(Path::new)
    {
        let leads = |it: &String| folder.join(it).try_exists().unwrap_or(true);
        let names = names(folder).into_iter().filter(leads);
        all.extend(names.map(|it| format!("link {}/{it}", folder.display())));
    }
    all
}

fn sessions() -> Vec<String> {
    let folder = Path::new("/sys/class/iscsi_session");
    let session = |name: &String| {
        let number = name.trim_start_matches("session");
        let connection = Path::new("/sys/class/iscsi_connection").join(format!("connection{number}:0"));
        let address = text(connection.join("persistent_address")).unwrap_or_default();
        let attribute = |it: &str| text(folder.join(name).join(it)).unwrap_or_default();
        format!("{name} {} {address} {}", attribute("targetname"), attribute("state"))
    };
    names(folder).iter().map(session).collect()
}

/// Helper processes beyond those kept, and programs that hang in the kernel.
fn processes(kept: usize) -> Vec<String> {
    let me = std::process::id().to_string();
    let mut helpers = 0;
    let mut all = Vec::new();
    for pid in names(Path::new("/proc")).into_iter().filter(|it| it.bytes().all(|it| it.is_ascii_digit())) {
        let folder = Path::new("/proc").join(&pid);
        let Some(stat) = text(folder.join("stat")) else { continue };
        // The name, in parentheses, may hold anything.
        let Some((head, tail)) = stat.rsplit_once(')') else { continue };
        let mut fields = tail.split_whitespace();
        let (state, parent) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let command = text(folder.join("cmdline")).unwrap_or_default();
        // Threads of the kernel have no command line and wait in this state by profession.
        if state == "D" && !command.is_empty() {
            let name = head.split_once('(').map_or(head, |it| it.1);
            all.push(format!("{name} hangs in the kernel"));
        }
        if parent == me && command.split('\0').nth(1) == Some("helper") {
            helpers += 1;
        }
    }
    if helpers > kept {
        all.push(format!("{} helpers beyond those kept", helpers - kept));
    }
    all
}
