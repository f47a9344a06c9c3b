//! What each method of the protocol means to the engine.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use san_core::{ByteSize, Cx, Deadline, Error, ErrorKind, OperationId, Result, SnapshotName, VolumeKind};
use san_engine::{Asker, Naming, Node, Outcome, Request, Ticket};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::admin;
use crate::names::DiskName;
use crate::protocol::{Caller, Frame, StorageRef, VERSION};
use crate::secrets::Secrets;
use crate::server::Service;
use crate::storage::{Addition, Storage, Storages};

/// How long keeping a copy of a section may take; nobody waits for it.
const KEEPING: Duration = Duration::from_secs(20);

/// What a request came to.
pub(crate) enum Reply {
    /// An answer.
    Value(Value),
    /// Settings were taken; what is to be told of them.
    Updated(Vec<String>),
    /// An operation of the engine to wait for.
    Operation(Box<Running>),
    /// A storage was added; it is removed again unless the answer is acknowledged. With what is to be told of it.
    Added(StorageRef, Addition, Vec<String>),
}

/// An operation and how it is started again if its recovery undid it.
pub(crate) struct Running {
    pub(crate) ticket: Ticket,
    storage: Option<(Arc<Storage>, Request)>,
}

impl Running {
    /// Begins an operation of a storage under the id of the request.
    pub(crate) fn begin(cx: &Cx, storage: Arc<Storage>, request: Request) -> Self {
        let ticket = storage.san.submit(cx.operation(), request.clone(), cx.deadline());
        Self { ticket, storage: Some((storage, request)) }
    }

    /// Starts the operation anew, for a request that was sent again.
    pub(crate) fn again(&self, deadline: Deadline) -> Option<Ticket> {
        let (storage, request) = self.storage.as_ref()?;
        Some(storage.san.submit(self.ticket.id(), request.clone(), deadline))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct None_ {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Add {
    #[serde(default)]
    secrets: Secrets,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Update {
    #[serde(default)]
    changes: BTreeMap<String, Value>,
    delete: Option<Vec<String>>,
    #[serde(default)]
    secrets: Secrets,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Create {
    vmid: u64,
    name: Option<String>,
    size_bytes: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Clone {
    name: String,
    vmid: u64,
    snapshot: Option<SnapshotName>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rename {
    name: String,
    vmid: u64,
    target: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct List {
    vmid: Option<u64>,
    names: Option<Vec<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Presence {
    name: String,
    snapshot: Option<SnapshotName>,
    /// Where the guest lives is read from its configuration; that there are any says that it starts.
    #[serde(default)]
    hints: BTreeMap<String, Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Grow {
    name: String,
    size_bytes: u64,
    #[serde(default)]
    #[expect(
        dead_code,
        reason = "part of the message; the device of this node is grown whenever it is attached"
    )]
    running: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfSnapshot {
    name: String,
    snapshot: SnapshotName,
    #[serde(default)]
    #[expect(dead_code, reason = "part of the message; the array deletes under a running guest as well")]
    running: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wait {
    operation: OperationId,
}

pub(crate) fn params<T: DeserializeOwned>(frame: &Frame) -> Result<T> {
    let value = if frame.params.is_null() { json!({}) } else { frame.params.clone() };
    serde_json::from_value(value).map_err(|error| {
        Error::new(ErrorKind::InvalidInput, "the parameters of the request are not understood")
            .caused_by(error)
    })
}

/// The engine's name of a volume.
fn disk(name: &str) -> Result<String> {
    DiskName::parse(name).map(|it| it.object)
}

/// How a new or renamed disk of a guest is to be called.
fn naming(vmid: u64, name: Option<String>) -> Result<Naming> {
    let Some(name) = name else {
        disk(&format!("vm-{vmid}-disk-0"))?;
        return Ok(Naming::Numbered { stem: format!("vm-{vmid}-disk-") });
    };
    let parsed = DiskName::parse(&name)?;
    if parsed.vmid == vmid && parsed.kind == VolumeKind::Disk && parsed.template.is_none() {
        return Ok(Naming::Exact(name));
    }
    let message = format!("{name} is not a name for a disk of guest {vmid}");
    Err(Error::new(ErrorKind::InvalidInput, message))
}

/// Whether the answer may be confirmed as late as the caller likes: when it has filled what it was given.
pub(crate) fn is_confirmed_late(method: Option<&str>) -> bool {
    method == Some("volume.import")
}

/// Answers a request, or says which operation will.
pub(crate) async fn call(service: &Service, frame: &Frame, deadline: Deadline) -> Result<Reply> {
    let Service { node, storages, prefetch, .. } = service;
    let cx = &node.cx(deadline, frame.id);
    let method = frame.method.as_deref().unwrap_or_default();
    match method {
        "daemon.ping" => {
            let None_ {} = params(frame)?;
            return Ok(Reply::Value(json!({ "version": env!("CARGO_PKG_VERSION"), "protocol": VERSION })));
        }
        "operation.wait" => {
            let Wait { operation } = params(frame)?;
            let ticket = node.find(operation).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("operation {operation} is not known (any more)"))
            })?;
            return Ok(Reply::Operation(Box::new(Running { ticket, storage: None })));
        }
        admin if admin.starts_with("admin.") => return admin::call(cx, service, frame).await,
        _ => {}
    }
    let Some(of) = &frame.storage else {
        return Err(Error::new(ErrorKind::InvalidInput, "the request names no storage"));
    };
    match method {
        "storage.add" => {
            let Add { secrets } = params(frame)?;
            let (addition, warnings) = storages.add(cx, of, &secrets).await?;
            Ok(Reply::Added(of.clone(), addition, warnings))
        }
        "storage.update" => {
            let Update { changes, delete, secrets } = params(frame)?;
            let mut new = of.clone();
            new.options.extend(changes);
            delete.unwrap_or_default().iter().for_each(|it| drop(new.options.remove(it)));
            Ok(Reply::Updated(storages.update(cx, of, &new, &secrets).await?))
        }
        "storage.remove" => {
            let None_ {} = params(frame)?;
            storages.remove(cx, of).await?;
            Ok(Reply::Value(json!({})))
        }
        _ => {
            let storage = storages.get(cx, of).await?;
            keep_section(node, storages, of);
            let reply = of_storage(cx, Arc::clone(&storage), method, frame).await?;
            if let Some(name) = starts(method, frame) {
                prefetch.others(cx, &storage, &name);
            }
            Ok(reply)
        }
    }
}

/// Keeps a copy of the section that came with a request, beside whatever it asks for.
fn keep_section(node: &Node, storages: &Storages, of: &StorageRef) {
    if storages.sections().is_noted(of) {
        return;
    }
    let (sections, of) = (Arc::clone(storages.sections()), of.clone());
    let cx = node.cx(Deadline::after(KEEPING), OperationId::random());
    node.run(async move { sections.note(&cx, &of).await });
}

/// The disk with which a guest begins to start: PVE gives hints at no other time.
fn starts(method: &str, frame: &Frame) -> Option<DiskName> {
    let Presence { name, snapshot: None, hints } =
        params(frame).ok().filter(|_| method == "volume.attach")?
    else {
        return None;
    };
    DiskName::parse(&name).ok().filter(|_| !hints.is_empty())
}

/// The template before a clone's name is part of the name: a volume that has another one, or none, is not meant.
async fn require_meant(cx: &Cx, storage: &Storage, method: &str, frame: &Frame) -> Result<()> {
    // A new volume is on no record, a list picks by whole names, and a guest's stop must not wait for the array's word.
    if ["volume.create", "volume.import", "volume.list", "volume.detach"].contains(&method) {
        return Ok(());
    }
    let Some(Ok(name)) = frame.params.get("name").and_then(Value::as_str).map(DiskName::parse) else {
        return Ok(());
    };
    storage.san.require_template(cx, &name.object, name.template.as_deref()).await
}

async fn of_storage(cx: &Cx, storage: Arc<Storage>, method: &str, frame: &Frame) -> Result<Reply> {
    require_meant(cx, &storage, method, frame).await?;
    let san = &storage.san;
    let value = match method {
        // Both may be asked while the array is down: its profile is known, and attached disks go on working.
        "storage.check" => json!({ "online": true }),
        "storage.activate" => json!({}),
        "storage.status" => {
            let known = san.status();
            if known.capacity.is_none() && known.problem.is_none() {
                // The first poll since the start. Whatever comes of it in time is remembered and told.
                drop(san.refresh_status(cx).await);
            }
            status(&storage)
        }
        "storage.identity" => json!({ "identity": format!("ontap:{}", san.array().profile().serial) }),
        "volume.list" => list(cx, &storage, params(frame)?).await?,
        "volume.size" => {
            let Named { name } = params(frame)?;
            json!({ "size_bytes": san.size(cx, &disk(&name)?).await?.bytes() })
        }
        "snapshot.list" => {
            let Named { name } = params(frame)?;
            let found = san.snapshots(cx, &disk(&name)?).await?;
            let entry = |it: &san_core::Snapshot| {
                (it.name.to_string(), json!({ "id": it.id, "created": it.created }))
            };
            json!({ "snapshots": found.iter().map(entry).collect::<serde_json::Map<_, _>>() })
        }
        "snapshot.check" => {
            let OfSnapshot { name, snapshot, .. } = params(frame)?;
            let found = san.snapshots(cx, &disk(&name)?).await?;
            // Newer snapshots stay, so that they never block.
            let possible = found.iter().any(|it| it.name == snapshot);
            let reason = (!possible).then(|| format!("{name} has no snapshot {snapshot}"));
            json!({ "possible": possible, "blockers": [], "reason": reason })
        }
        _ => {
            let request = request(method, frame)?;
            return Ok(Reply::Operation(Box::new(Running::begin(cx, storage, request))));
        }
    };
    Ok(Reply::Value(value))
}

/// A newer client asks for more than this daemon can do.
pub(crate) fn no_method(method: &str) -> Error {
    let shown: String = method.chars().take(40).collect();
    Error::new(ErrorKind::Unsupported, format!("this daemon has no method {shown:?}"))
        .with_remedy("update sanbridge on this node")
}

/// The engine's request for a method that changes something.
fn request(method: &str, frame: &Frame) -> Result<Request> {
    Ok(match method {
        "volume.create" => {
            let Create { vmid, name, size_bytes } = params(frame)?;
            let naming = naming(vmid, name)?;
            Request::Create { naming, size: ByteSize::from_bytes(size_bytes) }
        }
        "volume.import" => {
            let Create { vmid, name, size_bytes } = params(frame)?;
            let pid = frame.caller.as_ref().and_then(|it| it.pid).ok_or_else(|| {
                Error::new(ErrorKind::InvalidInput, "an import says which process fills the disk")
            })?;
            let importer = Asker { pid, started: None };
            Request::Import { naming: naming(vmid, name)?, size: ByteSize::from_bytes(size_bytes), importer }
        }
        "volume.clone" => {
            let Clone { name, vmid, snapshot } = params(frame)?;
            Request::Clone { source: disk(&name)?, snapshot, naming: naming(vmid, None)? }
        }
        "volume.template" => {
            let Named { name } = params(frame)?;
            let name = DiskName::parse(&name)?;
            Request::Template { naming: Naming::Exact(name.as_template()), object: name.object }
        }
        "volume.rename" => {
            let Rename { name, vmid, target } = params(frame)?;
            let name = DiskName::parse(&name)?;
            if name.kind == VolumeKind::Template {
                let message = "a template keeps its name: its clones are known by it";
                return Err(Error::new(ErrorKind::InvalidInput, message).on(name.object));
            }
            Request::Rename { object: name.object, naming: naming(vmid, target)? }
        }
        "volume.delete" => {
            let Named { name } = params(frame)?;
            Request::Delete { object: disk(&name)? }
        }
        "volume.attach" | "volume.detach" => {
            let Presence { name, snapshot, .. } = params(frame)?;
            let object = disk(&name)?;
            let asker = frame.caller.as_ref().and_then(Caller::asker);
            match (method, snapshot) {
                ("volume.attach", None) => Request::Attach { object },
                ("volume.attach", Some(snapshot)) => Request::AttachSnapshot { object, snapshot, asker },
                (_, None) => Request::Detach { object },
                (_, Some(snapshot)) => Request::DetachSnapshot { object, snapshot, asker },
            }
        }
        "volume.grow" => {
            let Grow { name, size_bytes, .. } = params(frame)?;
            Request::Grow { object: disk(&name)?, size: ByteSize::from_bytes(size_bytes) }
        }
        "snapshot.create" | "snapshot.delete" | "snapshot.rollback" => {
            let OfSnapshot { name, snapshot, .. } = params(frame)?;
            let object = disk(&name)?;
            match method {
                "snapshot.create" => Request::Snapshot { object, snapshot },
                "snapshot.delete" => Request::DeleteSnapshot { object, snapshot },
                _ => Request::Rollback { object, snapshot },
            }
        }
        _ => {
            return Err(no_method(method));
        }
    })
}

/// The answer for an operation's outcome, with its warnings.
pub(crate) fn outcome(outcome: Outcome) -> (Value, Vec<String>) {
    match outcome {
        Outcome::Created { object, size, template } | Outcome::Undeleted { object, size, template } => {
            let name = DiskName::full(template.as_deref(), &object);
            (json!({ "name": name, "size_bytes": size.bytes() }), Vec::new())
        }
        Outcome::Renamed { object, template } => {
            (json!({ "name": DiskName::full(template.as_deref(), &object) }), Vec::new())
        }
        Outcome::Deleted => (json!({ "pending": false }), Vec::new()),
        Outcome::Deleting { why } => {
            let warning =
                format!("it is deleted, and its space is given back as soon as that is possible: {why}");
            (json!({ "pending": false }), vec![warning])
        }
        Outcome::Attached { path, size, warnings } => {
            (json!({ "path": path, "size_bytes": size.bytes() }), warnings)
        }
        Outcome::Detached { pending: Some(why) } => (
            json!({}),
            vec![format!("the array still has a mapping and loses it as soon as it answers: {why}")],
        ),
        Outcome::Conformed { changed } => {
            let line = |it: san_core::Deviation| json!({ "option": it.setting, "field": it.field, "is": it.is, "wanted": it.wanted });
            (json!({ "changed": changed.into_iter().map(line).collect::<Vec<_>>() }), Vec::new())
        }
        Outcome::Grown { size } => (json!({ "size_bytes": size.bytes() }), Vec::new()),
        Outcome::Detached { pending: None }
        | Outcome::SnapshotTaken
        | Outcome::SnapshotDeleted
        | Outcome::RolledBack
        | Outcome::Splitting => (json!({}), Vec::new()),
    }
}

fn status(storage: &Storage) -> Value {
    let status = storage.san.status();
    let open = storage.open.load(Ordering::Relaxed);
    match status.capacity {
        Some((capacity, age)) => json!({
            "total": capacity.total.bytes(),
            "available": capacity.available.bytes(),
            "used": capacity.total.minus(capacity.available).bytes(),
            "active": true,
            "age_seconds": age.as_secs(),
            "open_operations": open,
            "problem": status.problem.map(|it| it.chain().to_string()),
        }),
        // Nothing is known yet, and nothing is invented.
        None => json!({
            "total": 0, "available": 0, "used": 0, "active": false, "age_seconds": 0,
            "open_operations": open,
            "problem": status.problem.map(|it| it.chain().to_string()),
        }),
    }
}

async fn list(cx: &Cx, storage: &Storage, list: List) -> Result<Value> {
    let wanted = |name: &str, vmid: u64| match (&list.names, list.vmid) {
        (Some(names), _) => names.iter().any(|it| it == name),
        (None, Some(id)) => id == vmid,
        (None, None) => true,
    };
    let mut volumes = Vec::new();
    for disk in storage.san.disks(cx).await? {
        let name = DiskName::full(disk.template.as_deref(), disk.owner.object());
        let Ok(DiskName { vmid, .. }) = DiskName::parse(&name) else { continue };
        if wanted(&name, vmid) {
            volumes.push(json!({
                "name": name,
                "vmid": vmid,
                "size_bytes": disk.size.bytes(),
                "used_bytes": disk.used.map(ByteSize::bytes),
                "created": disk.created,
            }));
        }
    }
    Ok(json!({ "volumes": volumes }))
}
