//! How things stand on this node: from memory, records and the kernel, without a request to any array.

use std::time::Duration;

use san_core::{Cx, Lun, Result, TargetPort, Waiting};
use san_engine::{
    AttachmentState, Leaving, Node, OpenOperation, OpenState, Portal, Presence, Repair, Repaired,
};
use serde::{Deserialize, Serialize};

use crate::activity::is_program_replaced;
use crate::storage::{Storage, Storages};

/// The answer of `admin.status`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) node: String,
    /// Whether the program was replaced on disk since this daemon began; `None`: not known.
    pub(crate) replaced: Option<bool>,
    pub(crate) storages: Vec<StorageStatus>,
}

/// One storage.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct StorageStatus {
    pub(crate) id: String,
    /// Whether this node serves it; if not, nothing below is known.
    pub(crate) ready: bool,
    /// Whether PVE has its section of storage.cfg; `None`: not known.
    pub(crate) configured: Option<bool>,
    pub(crate) array: Option<ArrayStatus>,
    pub(crate) capacity: Option<Room>,
    /// Why the array's last answer was none.
    pub(crate) problem: Option<String>,
    pub(crate) portals: Vec<PortalStatus>,
    pub(crate) disks: Vec<DiskStatus>,
    pub(crate) operations: Vec<OperationStatus>,
    pub(crate) deleting: Vec<DeletingStatus>,
    pub(crate) repairs: Vec<RepairStatus>,
    /// What could not be found out, and why.
    pub(crate) unknown: Vec<String>,
}

/// What the array said of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ArrayStatus {
    pub(crate) name: String,
    pub(crate) vendor: String,
    pub(crate) personality: String,
    pub(crate) version: String,
    pub(crate) svm: String,
    /// Whether it failed to answer lately, so that requests are held back.
    pub(crate) cut_off: bool,
}

/// Its room, as of so long ago.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Room {
    pub(crate) total_bytes: u64,
    pub(crate) available_bytes: u64,
    pub(crate) age_seconds: u64,
}

/// A port of the array.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PortalStatus {
    pub(crate) portal: String,
    pub(crate) target: String,
    pub(crate) controller: Option<String>,
    pub(crate) up: bool,
}

/// A disk on record here.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DiskStatus {
    pub(crate) name: String,
    pub(crate) lun: Option<u16>,
    pub(crate) attached: bool,
    /// `None`: it has no device.
    pub(crate) paths_usable: Option<u32>,
    pub(crate) paths_expected: usize,
    /// Whether its guest would wait, should all paths go; `None`: not known.
    pub(crate) waits: Option<bool>,
    /// For how long it has had no path.
    pub(crate) outage_seconds: Option<u64>,
}

/// An operation that has not ended.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct OperationStatus {
    pub(crate) id: Option<String>,
    pub(crate) verb: String,
    pub(crate) volume: Option<String>,
    pub(crate) on_array: Option<String>,
    pub(crate) age_seconds: Option<u64>,
    pub(crate) running: bool,
    /// `forward`, `back`, `unconfirmed`, `stuck` or `unreadable`.
    pub(crate) state: String,
    pub(crate) step: Option<String>,
    pub(crate) reason: Option<String>,
    pub(crate) remedy: Option<String>,
}

/// A volume that was deleted and has not gone yet: its name is free, and whichever node can removes it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DeletingStatus {
    pub(crate) volume: String,
    pub(crate) on_array: String,
    pub(crate) age_seconds: Option<u64>,
    /// Why it could not go when this node tried last; `None`: it has not tried yet.
    pub(crate) why: Option<String>,
    pub(crate) next_try_seconds: Option<u64>,
}

/// What this node has put right by itself since its daemon started: one kind of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct RepairStatus {
    pub(crate) kind: String,
    pub(crate) what: String,
    pub(crate) count: u64,
    /// What the last one was about, and how long ago that was.
    pub(crate) last: String,
    pub(crate) age_seconds: u64,
}

/// How the storages of this node stand, or one of them.
pub(crate) async fn gather(cx: &Cx, node: &Node, storages: &Storages, id: Option<&str>) -> Result<Status> {
    let mut known = storages.known(cx).await?;
    if let Some(id) = id {
        known.retain(|it, _| it == id);
        if known.is_empty() {
            // With its cure.
            storages.by_id(cx, id).await?;
        }
    }
    let lost = storages.sections().lost(cx).await;
    if let (None, Ok(lost)) = (id, &lost) {
        // This node may have served none of it yet.
        for it in lost.keys() {
            known.entry(it.clone()).or_default();
        }
    }
    // Side by side: the kernel may be slow about one of them.
    let all = known.into_iter().map(|(id, storage)| async move {
        match storage {
            Some(storage) => of_storage(cx, id, &storage).await,
            None => StorageStatus::not_ready(id),
        }
    });
    let mut all = futures_util::future::join_all(all).await;
    for it in &mut all {
        match &lost {
            Ok(lost) => it.configured = Some(!lost.contains_key(&it.id)),
            Err(error) => it.unknown.push(format!("whether PVE has it: {}", error.chain())),
        }
    }
    Ok(Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        node: node.name().to_string(),
        replaced: is_program_replaced(cx, node.host()).await.ok().flatten(),
        storages: all,
    })
}

impl StorageStatus {
    fn not_ready(id: String) -> Self {
        Self {
            id,
            ready: false,
            configured: None,
            array: None,
            capacity: None,
            problem: Some("it is not ready on this node: journalctl -u sanbridge says why".to_owned()),
            portals: Vec::new(),
            disks: Vec::new(),
            operations: Vec::new(),
            deleting: Vec::new(),
            repairs: Vec::new(),
            unknown: Vec::new(),
        }
    }
}

async fn of_storage(cx: &Cx, id: String, storage: &Storage) -> StorageStatus {
    let (san, profile) = (&storage.san, storage.san.array().profile());
    let status = san.status();
    let (portals, disks, operations, deleting) =
        tokio::join!(san.portals(cx), san.presences(cx), san.open_operations(), san.leaving(cx));
    let mut unknown = Vec::new();
    let mut known = |what: &str, error: san_core::Error| unknown.push(format!("{what}: {}", error.chain()));
    StorageStatus {
        id,
        ready: true,
        configured: None,
        array: Some(ArrayStatus {
            name: profile.name.clone(),
            vendor: profile.vendor.clone(),
            personality: profile.personality.clone(),
            version: profile.version.clone(),
            svm: storage.options.ontap.svm.clone(),
            cut_off: storage.client.is_cut_off(),
        }),
        capacity: status.capacity.map(|(room, age)| Room {
            total_bytes: room.total.bytes(),
            available_bytes: room.available.bytes(),
            age_seconds: age.as_secs(),
        }),
        problem: status.problem.map(|it| it.chain().to_string()),
        portals: portals
            .map_err(|it| known("sessions", it))
            .unwrap_or_default()
            .into_iter()
            .filter_map(portal)
            .collect(),
        disks: disks.map_err(|it| known("disks", it)).unwrap_or_default().iter().map(disk).collect(),
        operations: operations
            .map_err(|it| known("operations", it))
            .unwrap_or_default()
            .into_iter()
            .map(operation)
            .collect(),
        deleting: deleting
            .map_err(|it| known("deletions", it))
            .unwrap_or_default()
            .into_iter()
            .map(leaving)
            .collect(),
        repairs: san.repairs().into_iter().map(|(kind, it)| repair(kind, it)).collect(),
        unknown,
    }
}

fn portal(of: Portal) -> Option<PortalStatus> {
    let TargetPort::Iscsi { portal, target, node } = of.port else { return None };
    Some(PortalStatus {
        portal: portal.to_string(),
        target: target.to_string(),
        controller: node,
        up: of.is_up,
    })
}

fn disk(of: &Presence) -> DiskStatus {
    DiskStatus {
        name: of.view.file_name(),
        lun: of.lun.map(Lun::number),
        attached: of.state == AttachmentState::Attached,
        paths_usable: of.paths.map(|it| it.usable),
        paths_expected: of.expected,
        waits: of.paths.map(|it| it.waiting == Waiting::Waits),
        outage_seconds: of.outage.as_ref().map(Duration::as_secs),
    }
}

fn operation(of: OpenOperation) -> OperationStatus {
    let (state, step, reason, remedy) = match of.state {
        OpenState::ToDo(step) => ("forward", Some(step), None, None),
        OpenState::ToUndo(step, why) => ("back", Some(step), Some(why), None),
        OpenState::Unconfirmed => ("unconfirmed", None, None, None),
        OpenState::Stuck(step, why) => (
            "stuck",
            Some(step),
            Some(why),
            Some("remove the named obstacle on the array or this node; it is tried again by itself"),
        ),
        OpenState::Unreadable(why) => (
            "unreadable",
            None,
            Some(why),
            Some("it was written by another version: update sanbridge on this node"),
        ),
    };
    OperationStatus {
        id: of.id.map(|it| it.to_string()),
        verb: of.verb.to_owned(),
        volume: of.object,
        on_array: of.on_array.map(|it| it.to_string()),
        age_seconds: of.started.map(|it| now().saturating_sub(it)),
        running: of.is_running,
        state: state.to_owned(),
        step: step.map(str::to_owned),
        reason,
        remedy: remedy.map(str::to_owned),
    }
}

fn leaving(of: Leaving) -> DeletingStatus {
    let (why, next_try) = of.waits.unzip();
    DeletingStatus {
        volume: of.object,
        on_array: of.on_array.to_string(),
        age_seconds: of.deleted.map(|it| now().saturating_sub(it)),
        why,
        next_try_seconds: next_try.map(|it: Duration| it.as_secs()),
    }
}

fn repair(kind: Repair, of: Repaired) -> RepairStatus {
    RepairStatus {
        kind: kind.name().to_owned(),
        what: kind.words().to_owned(),
        count: of.count,
        last: of.object,
        age_seconds: now().saturating_sub(of.at),
    }
}

/// Seconds since 1970.
pub(super) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |it| it.as_secs())
}
