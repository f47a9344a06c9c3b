//! Ledgers of the simulation: what of ours, and what of others, an array, a node or a folder holds.

use std::collections::BTreeSet;
use std::path::Path;

use san_contract::audit::Ledger;
use san_sim::host::SimNode;
use san_sim::ontap::OntapSim;

/// What names of ours begin with on the array.
const OURS: &str = "sb";

/// A simulated ONTAP.
#[derive(Debug)]
pub struct ArrayLedger<'a>(pub &'a OntapSim);

impl ArrayLedger<'_> {
    fn lines(&self) -> Vec<(bool, String)> {
        let mut lines = Vec::new();
        let is_ours = |name: &str| name.starts_with(OURS);
        for it in self.0.volumes().into_iter().filter(|it| !it.deleted) {
            let ours = is_ours(&it.name);
            lines.push((ours, format!("volume {} {} bytes", it.name, it.size)));
            let snapshots = it
                .snapshots
                .iter()
                .map(|snapshot| (ours, format!("snapshot {} of {}", snapshot.name, it.name)));
            lines.extend(snapshots);
        }
        for it in self.0.luns() {
            // A LUN of a volume in the recovery queue went with it.
            let volume = it.path.split('/').nth(2).unwrap_or_default();
            if self.0.volume(&it.svm, volume).is_some_and(|it| !it.deleted) {
                lines.push((
                    is_ours(volume),
                    format!("LUN {} {} bytes, serial {}", it.path, it.size, it.serial),
                ));
            }
        }
        for it in self.0.maps() {
            let ours = it.lun.split('/').nth(2).is_some_and(is_ours);
            lines.push((ours, format!("map of {} to {} as {}", it.lun, it.igroup, it.number)));
        }
        for it in self.0.igroups() {
            // The node's own host object stays: it is made once and costs nothing.
            if !is_ours(&it.name) {
                lines.push((false, format!("igroup {} {:?}", it.name, it.initiators)));
            }
        }
        lines
    }
}

impl Ledger for ArrayLedger<'_> {
    fn name(&self) -> String {
        "array".to_owned()
    }

    fn ours(&self) -> BTreeSet<String> {
        self.lines().into_iter().filter(|(ours, _)| *ours).map(|(_, line)| line).collect()
    }

    fn others(&self) -> BTreeSet<String> {
        self.lines().into_iter().filter(|(ours, _)| !*ours).map(|(_, line)| line).collect()
    }
}

/// A simulated node. Sessions and node records stay by policy: logging in is the slowest step there is.
#[derive(Debug)]
pub struct HostLedger<'a>(pub &'a SimNode);

impl Ledger for HostLedger<'_> {
    fn name(&self) -> String {
        self.0.name()
    }

    fn ours(&self) -> BTreeSet<String> {
        let lines = self.0.inventory().lines();
        lines.into_iter().filter(|it| !it.starts_with("session ") && !it.starts_with("record ")).collect()
    }

    fn others(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }
}

/// A folder of records: intents, attachments, bindings, leases.
#[derive(Debug)]
pub struct FolderLedger {
    name: String,
    files: BTreeSet<String>,
}

impl FolderLedger {
    /// The files below `folder` now. What a cluster knows of hosts stays with the hosts.
    pub fn new(name: &str, folder: &Path) -> Self {
        let mut files = BTreeSet::new();
        collect(folder, folder, &mut files);
        files.retain(|it| !it.starts_with("hosts/"));
        Self { name: format!("records of {name}"), files }
    }
}

fn collect(root: &Path, folder: &Path, files: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            collect(root, &path, files);
        } else if let Ok(below) = path.strip_prefix(root) {
            files.insert(below.display().to_string());
        }
    }
}

impl Ledger for FolderLedger {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn ours(&self) -> BTreeSet<String> {
        self.files.clone()
    }

    fn others(&self) -> BTreeSet<String> {
        BTreeSet::new()
    }
}
