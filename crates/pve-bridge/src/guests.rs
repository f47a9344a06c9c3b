//! Which guest a volume belongs to, where that guest lives, and what it is locked for, from PVE's configuration files.

use std::io::ErrorKind as Io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use san_core::{Cx, Error, ErrorKind, NodeName, Owner, Result};
use san_engine::{Guest, Guests, Tie};
use san_host::Guard;

use crate::activity::{running, task};
use crate::names::DiskName;

/// The guests of a PVE cluster.
#[derive(Debug)]
pub(crate) struct PveGuests {
    nodes: PathBuf,
    host: Guard,
}

impl PveGuests {
    /// The guests whose configuration lies below `pve` (`/etc/pve`); what runs on this node is asked of `host`.
    pub(crate) fn new(pve: &Path, host: Guard) -> Self {
        Self { nodes: pve.join("nodes"), host }
    }

    /// The disks that a VM's present configuration has on a storage, wherever the VM lives. Unused ones are not among them.
    pub(crate) async fn disks(&self, cx: &Cx, vmid: u64, space: &str) -> Result<Vec<String>> {
        let space = space.to_owned();
        self.read(cx, move |nodes| {
            let mut disks = Vec::new();
            for (_, _, text) in configurations(nodes, vmid)? {
                disks.extend(disks_in(&text, &space));
            }
            Ok(disks)
        })
        .await
    }

    /// Reads configurations where it may take its time: a cluster file system can hang, and whoever asks must not.
    async fn read<T: Send + 'static>(
        &self,
        cx: &Cx,
        read: impl FnOnce(&Path) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let nodes = self.nodes.clone();
        let reading = tokio::task::spawn_blocking(move || read(&nodes));
        let bounded = cx.at_most(PATIENCE);
        let found = bounded.within("reading the guests' configurations", async {
            reading
                .await
                .map_err(|error| Error::new(ErrorKind::Internal, "a search did not end").caused_by(error))
        });
        found.await?.map_err(|error| {
            // Without the cluster file system nobody knows where a guest lives: that is not "nowhere".
            Error::new(ErrorKind::Unavailable, "cannot read the guests' configurations")
                .on(self.nodes.display())
                .with_remedy("check that the cluster file system is mounted: systemctl status pve-cluster")
                .caused_by(error)
        })
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
        let (space, object) = (owner.space().to_owned(), owner.object().to_owned());
        self.read(cx, move |nodes| {
            let found = configurations(nodes, vmid)?;
            let guest = |(node, word, text): (NodeName, &str, String)| {
                let tie = if refers(&text, &space, &object) { Tie::Configured } else { Tie::Named };
                Guest { label: format!("{word} {vmid}"), node, tie }
            };
            Ok(found.into_iter().map(guest).collect())
        })
        .await
    }

    async fn activity(&self, cx: &Cx, owner: &Owner, node: &NodeName) -> Result<Option<String>> {
        let Ok(DiskName { vmid, .. }) = DiskName::parse(owner.object()) else { return Ok(None) };
        let mut is_here = false;
        for (lives_on, word, text) in self.read(cx, move |nodes| configurations(nodes, vmid)).await? {
            let here = lives_on == *node;
            is_here |= here;
            // A lock concerns the node that has the guest, but a guest that moves concerns the one it moves to, too.
            if let Some(lock) = lock(&text).filter(|it| here || *it == "migrate") {
                return Ok(Some(format!("{word} {vmid} is locked ({lock})")));
            }
        }
        match running(cx, &self.host, vmid).await? {
            Some(running) => Ok(Some(running)),
            None => task(cx, &self.host, vmid, is_here).await,
        }
    }
}

/// What a guest is locked for. Sections of snapshots follow its present configuration.
fn lock(text: &str) -> Option<&str> {
    let present = text.lines().take_while(|it| !it.starts_with('['));
    present.filter_map(|it| it.strip_prefix("lock:")).map(str::trim).next()
}

/// The configurations of a guest: the node it lives on, PVE's word for what it is, and the text.
fn configurations(nodes: &Path, vmid: u64) -> std::io::Result<Vec<(NodeName, &'static str, String)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(nodes)? {
        let entry = entry?;
        let Some(node) = entry.file_name().to_str().and_then(|it| it.parse::<NodeName>().ok()) else {
            continue;
        };
        for (folder, word) in KINDS {
            match std::fs::read_to_string(entry.path().join(folder).join(format!("{vmid}.conf"))) {
                Ok(text) => found.push((node.clone(), word, text)),
                Err(error) if error.kind() == Io::NotFound => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(found)
}

/// The kinds of disks that a VM has while it runs.
const DISKS: [&str; 6] = ["ide", "sata", "scsi", "virtio", "efidisk", "tpmstate"];

/// The volumes of a storage that a VM's present configuration has as disks. Sections of snapshots follow it.
fn disks_in(text: &str, space: &str) -> Vec<String> {
    let is_disk = |key: &str| {
        let kind = key.trim_end_matches(|it: char| it.is_ascii_digit());
        kind.len() < key.len() && DISKS.contains(&kind)
    };
    let present = text.lines().take_while(|it| !it.starts_with('['));
    let values = present.filter_map(|it| it.split_once(':')).filter(|(key, _)| is_disk(key));
    let volumes = values.filter_map(|(_, value)| volume_in(value));
    volumes.filter(|(storage, _)| *storage == space).map(|(_, object)| object.to_owned()).collect()
}

/// The storage and the volume's own name in the value of a disk. A linked clone is named with its template before it.
fn volume_in(value: &str) -> Option<(&str, &str)> {
    let first = value.trim().split(',').next()?;
    let (storage, name) = first.trim_start_matches("file=").trim_start_matches("volume=").split_once(':')?;
    Some((storage, name.rsplit('/').next()?))
}

/// Whether a configuration names the volume, and not just one whose name begins alike.
fn refers(text: &str, space: &str, object: &str) -> bool {
    let values = text.lines().filter_map(|it| it.split_once(':')).map(|(_, value)| value);
    values.filter_map(volume_in).any(|it| it == (space, object))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_the_guests_own() {
        assert_eq!(lock("cores: 1\nlock: migrate\n"), Some("migrate"));
        assert_eq!(lock("cores: 1\n[before]\nlock: backup\n"), None);
    }

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
    #[test]
    fn the_disks_of_a_start_are_those_of_the_present_configuration() {
        let text = "boot: order=scsi0\nscsi0: san1:vm-100-disk-0,size=1G\nscsihw: virtio-scsi-single\n\
                    scsi1: san1:base-9000-disk-0/vm-100-disk-1,size=1G\nide2: none,media=cdrom\n\
                    ide0: file=san1:vm-100-cloudinit,media=cdrom\nefidisk0: san1:vm-100-disk-2,size=528K\n\
                    tpmstate0: san2:vm-100-disk-3,size=4M\nunused0: san1:vm-100-disk-4\n\
                    scsi9: /dev/disk/by-id/x\n\n[before]\nscsi5: san1:vm-100-disk-5\n";
        let expected = ["vm-100-disk-0", "vm-100-disk-1", "vm-100-cloudinit", "vm-100-disk-2"];
        assert_eq!(disks_in(text, "san1"), expected);
        assert_eq!(disks_in(text, "san2"), ["vm-100-disk-3"]);
    }
}
