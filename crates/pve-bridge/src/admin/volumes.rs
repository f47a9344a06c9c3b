//! The volumes of this node's storages with who uses them and where, and the snapshots of one.

use std::sync::Arc;

use san_core::{ByteSize, Cx, Result, VolumeKind};
use san_engine::{Disk, San, Tie};
use serde::{Deserialize, Serialize};

use super::{Problem, Ready, side_by_side};
use crate::names::DiskName;
use crate::storage::Storage;

/// The answer of `admin.volumes`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Volumes {
    pub(crate) volumes: Vec<VolumeLine>,
    /// Storages that could not be listed.
    pub(crate) problems: Vec<Problem>,
}

/// One volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct VolumeLine {
    pub(crate) storage: String,
    pub(crate) name: String,
    pub(crate) vmid: u64,
    /// `disk` or `template`.
    pub(crate) kind: String,
    /// The template it was cloned from.
    pub(crate) template: Option<String>,
    pub(crate) size_bytes: u64,
    pub(crate) used_bytes: Option<u64>,
    /// In seconds since 1970.
    pub(crate) created: Option<i64>,
    /// The guest whose name it bears, or whose configuration names it, with its node.
    pub(crate) guest: Option<String>,
    /// Whether a guest's configuration names it.
    pub(crate) configured: bool,
    /// The nodes that have it, or may have it.
    pub(crate) attached_on: Vec<String>,
}

/// The answer of `admin.snapshots`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SnapshotList {
    pub(crate) storage: String,
    pub(crate) name: String,
    /// Oldest first.
    pub(crate) snapshots: Vec<SnapshotLine>,
}

/// One snapshot.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SnapshotLine {
    pub(crate) name: String,
    pub(crate) id: String,
    /// In seconds since 1970.
    pub(crate) created: Option<i64>,
}

/// All volumes of these storages. One list per array.
pub(crate) async fn list(cx: &Cx, ready: Ready) -> Result<Volumes> {
    let ask = |storage: Arc<Storage>| async move { of_storage(cx, &storage).await };
    let (lists, problems) = side_by_side(ready, ask).await?;
    Ok(Volumes { volumes: lists.into_iter().flatten().collect(), problems })
}

async fn of_storage(cx: &Cx, storage: &Storage) -> Result<Vec<VolumeLine>> {
    let san = &storage.san;
    let mut lines = Vec::new();
    for disk in san.disks(cx).await? {
        lines.push(line(cx, san, disk).await?);
    }
    lines.sort_by(|one, two| (one.vmid, &one.name).cmp(&(two.vmid, &two.name)));
    Ok(lines)
}

async fn line(cx: &Cx, san: &San, disk: Disk) -> Result<VolumeLine> {
    let name = DiskName::full(disk.template.as_deref(), disk.owner.object());
    let guests = san.guests_of(cx, &disk.owner).await?;
    let configured = guests.iter().find(|it| it.tie == Tie::Configured);
    let nodes = san.nodes_of(cx, &disk.owner).await?;
    Ok(VolumeLine {
        storage: san.space().to_owned(),
        // Another program may have marked what is no name of a guest's disk.
        vmid: DiskName::parse(&name).map_or(0, |it| it.vmid),
        name,
        kind: match disk.kind {
            VolumeKind::Template => "template",
            VolumeKind::Disk => "disk",
            VolumeKind::Deleting => "deleting",
        }
        .to_owned(),
        template: disk.template,
        size_bytes: disk.size.bytes(),
        used_bytes: disk.used.map(ByteSize::bytes),
        created: disk.created,
        guest: configured.or(guests.first()).map(|it| format!("{} on {}", it.label, it.node)),
        configured: configured.is_some(),
        attached_on: nodes.iter().map(ToString::to_string).collect(),
    })
}

/// The snapshots of one volume.
pub(crate) async fn snapshots(cx: &Cx, storage: &Storage, name: &str) -> Result<SnapshotList> {
    let name = DiskName::parse(name)?;
    let found = storage.san.snapshots(cx, &name.object).await?;
    let line = |it: san_core::Snapshot| SnapshotLine {
        name: it.name.to_string(),
        id: it.id.to_string(),
        created: it.created,
    };
    Ok(SnapshotList {
        storage: storage.san.space().to_owned(),
        name: name.object,
        snapshots: found.into_iter().map(line).collect(),
    })
}
