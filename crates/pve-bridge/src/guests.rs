//! Which guest a volume belongs to and where that guest lives, from PVE's configuration files.

use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use san_core::{Cx, Error, ErrorKind, NodeName, Owner, Result};
use san_engine::{Guest, Guests, Tie};

use crate::names::DiskName;

/// The guests of a PVE cluster.
#[derive(Debug)]
pub(crate) struct PveGuests {
    nodes: PathBuf,
}

impl PveGuests {
    /// The guests whose configuration lies below `pve` (`/etc/pve`).
    pub(crate) fn new(pve: &Path) -> Self {
        Self { nodes: pve.join("nodes") }
    }
}

/// The configurations lie in memory: reading them takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// The folders of a node that hold guests' configurations, with PVE's words for the guests.
const KINDS: [(&str, &str); 2] = [("qemu-server", "VM"), ("lxc", "CT")];

#[async_trait]
impl Guests for PveGuests {
    async fn using(&self, cx: &Cx, owner: &Owner) -> Result<Vec<Guest>> {
        let Ok(DiskName { vmid, .. }) = DiskName::parse(owner.object()) else { return Ok(Vec::new()) };
        let nodes = self.nodes.clone();
        let (space, object) = (owner.space().to_owned(), owner.object().to_owned());
        let search = tokio::task::spawn_blocking(move || search(&nodes, vmid, &space, &object));
        // A cluster file system can hang; whoever asks must not.
        let bounded = cx.at_most(PATIENCE);
        let found = bounded.within("reading the guests' configurations", async {
            search
                .await
                .map_err(|error| Error::new(ErrorKind::Internal, "a search did not end").caused_by(error))
        });
        let found = found.await?;
        found.map_err(|error| {
            // Without the cluster file system nobody knows where a guest lives: that is not "nowhere".
            Error::new(ErrorKind::Unavailable, "cannot read the guests' configurations")
                .on(self.nodes.display())
                .with_remedy("check that the cluster file system is mounted: systemctl status pve-cluster")
                .caused_by(error)
        })
    }
}

fn search(nodes: &Path, vmid: u64, space: &str, object: &str) -> std::io::Result<Vec<Guest>> {
    let mut guests = Vec::new();
    for entry in std::fs::read_dir(nodes)? {
        let entry = entry?;
        let Some(node) = entry.file_name().to_str().and_then(|it| it.parse::<NodeName>().ok()) else {
            continue;
        };
        for (folder, word) in KINDS {
            match std::fs::read_to_string(entry.path().join(folder).join(format!("{vmid}.conf"))) {
                Ok(text) => {
                    let tie = if refers(&text, space, object) { Tie::Configured } else { Tie::Named };
                    guests.push(Guest { label: format!("{word} {vmid}"), node: node.clone(), tie });
                }
                Err(error) if error.kind() == Io::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(guests)
}

/// Whether a configuration names the volume, and not just one whose name begins alike. A linked clone is named with its
/// template before it.
fn refers(text: &str, space: &str, object: &str) -> bool {
    let values = text.lines().filter_map(|it| it.split_once(':')).map(|(_, value)| value.trim());
    let mut volumes = values
        .filter_map(|it| it.split(',').next())
        .filter_map(|it| it.trim_start_matches("file=").trim_start_matches("volume=").split_once(':'));
    volumes.any(|(storage, name)| storage == space && name.rsplit('/').next() == Some(object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_is_the_whole_name() {
        let text = "#scsi9: san1:vm-100-disk-9\nscsi0: san1:vm-100-disk-10,size=1G\nunused0: san1:vm-100-disk-2\n\
                    mp0: volume=san1:vm-100-disk-3,mp=/x\nvmstate: san1:vm-100-state-a\n\
                    scsi4: san1:base-9000-disk-0/vm-100-disk-4,size=1G\n";
        for (volume, expected) in [
            ("san1:vm-100-disk-4", true),
            ("san1:base-9000-disk-0", false),
            ("san1:disk-4", false),
            ("san1:vm-100-disk-10", true),
            ("san1:vm-100-disk-1", false),
            ("san1:vm-100-disk-2", true),
            ("san1:vm-100-disk-3", true),
            ("san1:vm-100-state-a", true),
            ("san2:vm-100-disk-2", false),
        ] {
            let (space, object) = volume.split_once(':').unwrap();
            assert_eq!(refers(text, space, object), expected, "{volume}");
        }
    }
}
