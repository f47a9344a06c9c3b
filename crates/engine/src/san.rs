//! One storage on one array as this node sees it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use san_core::{
    Array, ByteSize, Capacity, Cx, Deadline, DeleteMode, Error, ErrorKind, HostAccess, HostLogin, Marked,
    NameCodec, OperationId, Owner, Result, Snapshot, TargetPort, Transport, Visibility, Volume, VolumeKind,
    VolumeQuery, Wwid,
};
use tokio::time::Instant;

use crate::cluster::Cluster;
use crate::disk_view::View;
use crate::idle::Use;
use crate::intent::Intents;
use crate::node::{Inner, Node};
use crate::plan::{Request, is_asked_for};
use crate::reaper::HalfMade;
use crate::reconciled::Repair;
use crate::record::{Attachment, AttachmentState, Attachments};
use crate::rest::Resting;
use crate::store::Folder;

/// What a storage is made of.
#[derive(Debug)]
pub struct SanConfig {
    /// Its name in the cluster.
    pub space: String,
    /// The array.
    pub array: Arc<dyn Array>,
    /// The roads to it. Storages of one node share what they know of sessions, each with its own settings.
    pub transport: Arc<dyn Transport>,
    /// Most paths of one disk on this node; `None`: as many as there are.
    pub max_paths: Option<usize>,
    /// What the nodes know together.
    pub cluster: Arc<dyn Cluster>,
    /// How long input and output of a disk that has lost every path waits before it fails; [`OUTAGE`] if in doubt.
    pub outage: Duration,
    /// How disks that are deleted go.
    pub deletion: DeleteMode,
    /// Whether new disks are mapped node by node, or once for all nodes.
    pub visibility: Visibility,
}

/// Longer than an array takes to hand its work to the other controller, shorter than people take to pull the plug.
pub const OUTAGE: Duration = Duration::from_secs(150);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) node: Arc<Inner>,
    pub(crate) config: SanConfig,
    pub(crate) codec: NameCodec,
    pub(crate) intents: Intents,
    pub(crate) attachments: Attachments,
    pub(crate) host: tokio::sync::Mutex<Option<(HostAccess, HostLogin)>>,
    /// The host object of all nodes, once this one is known to be in it.
    pub(crate) host_of_all: tokio::sync::Mutex<Option<HostAccess>>,
    pub(crate) ports: tokio::sync::Mutex<Option<Vec<TargetPort>>>,
    status: Mutex<LastStatus>,
    /// The disks that have lost every path, and since when.
    outages: Mutex<HashMap<Wwid, Instant>>,
    /// Who wants what is attached.
    pub(crate) uses: Mutex<HashMap<View, Use>>,
    /// Volumes that were deleted and could not go when that was tried last.
    pub(crate) tombstones: Resting,
    /// Volumes that nobody has finished making.
    pub(crate) half_made: HalfMade,
    /// What lacks paths that could not be made when that was tried last.
    pub(crate) incomplete: Resting,
    /// Whether this node could not be made one of those that see what all nodes see.
    pub(crate) joining: Resting,
}

#[derive(Debug, Default)]
struct LastStatus {
    capacity: Option<(Capacity, Instant)>,
    problem: Option<Error>,
    asked: Option<Instant>,
}

/// What is known of a storage without asking anybody.
#[derive(Debug, Clone)]
pub struct Status {
    /// Its room, and how long ago the array said so.
    pub capacity: Option<(Capacity, Duration)>,
    /// Why the array's last answer was none.
    pub problem: Option<Error>,
}

/// One disk of a storage.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Whose.
    pub owner: Owner,
    /// Its size.
    pub size: ByteSize,
    /// What it occupies, where the array says so.
    pub used: Option<ByteSize>,
    /// When it was made, in seconds since 1970, where the array says so.
    pub created: Option<i64>,
    /// What it is for.
    pub kind: VolumeKind,
    /// The template it was cloned from, as part of the name by which people know it.
    pub template: Option<String>,
}

/// One storage on one array as this node sees it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct San(pub(crate) Arc<Shared>);

/// Whether an operation runs now, for as long as this lives.
#[derive(Debug)]
pub(crate) struct RunningMark(San, OperationId);

impl RunningMark {
    pub(crate) fn new(san: San, id: OperationId) -> Self {
        Self(san, id)
    }
}

impl Drop for RunningMark {
    fn drop(&mut self) {
        self.0.0.node.active.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl San {
    /// The storage `config` on `node`. Call [`San::start`] before the first operation, and then [`San::take_up_open`].
    pub fn new(node: &Node, config: SanConfig) -> Result<Self> {
        let node = Arc::clone(&node.inner);
        // The space is a folder and a part of every owner: it is checked as such.
        Owner::new(&node.realm, &config.space, "x")?;
        let codec = NameCodec::new(config.array.profile().limits.name)?;
        let folder: Folder = node.state.below(&config.space);
        Ok(Self(Arc::new(Shared {
            codec,
            intents: Intents::at(folder.below("intents")),
            attachments: Attachments::at(folder.below("attachments")),
            host: tokio::sync::Mutex::default(),
            host_of_all: tokio::sync::Mutex::default(),
            ports: tokio::sync::Mutex::default(),
            status: Mutex::default(),
            outages: Mutex::default(),
            uses: Mutex::default(),
            tombstones: Resting::default(),
            half_made: HalfMade::default(),
            incomplete: Resting::default(),
            joining: Resting::default(),
            node,
            config,
        })))
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.0
    }

    /// Makes it ready for its first operation: what leases an earlier process of this node left behind are given back,
    /// and callers that waited for that process find their operations again. Ending what that process left open is
    /// [`San::take_up_open`], which may take as long as the array does. Disks that are on record here are masked, whoever
    /// removed their masks meanwhile, and from now on their paths are watched.
    pub async fn start(&self) -> Result<()> {
        let started = || self.0.node.started.lock().unwrap_or_else(PoisonError::into_inner);
        if !started().contains(self.space()) {
            let cx = self.0.node.cx(Deadline::after(Duration::from_secs(60)), OperationId::random());
            self.cluster().give_back_leftovers(&cx, self.realm(), self.space(), self.node_name()).await?;
            self.expect_callers().await?;
            for record in self.attached().await? {
                if let Err(error) = self.mask(&cx, &record).await {
                    tracing::error!(volume = %record.owner, error = %error.chain(), "the host may look into a guest's disk");
                }
            }
            started().insert(self.space().to_owned());
        }
        self.watch_paths();
        Ok(())
    }

    /// Makes the array know this node, and what it proves when it logs in, as the settings are now.
    pub async fn announce(&self, cx: &Cx) -> Result<()> {
        self.host_access(cx).await?;
        if self.is_for_all() { self.shared_host(cx).await.map(drop) } else { Ok(()) }
    }

    /// A context for reading.
    pub fn cx(&self, deadline: Deadline, operation: OperationId) -> Cx {
        self.0.node.cx(deadline, operation)
    }

    /// Runs `task` beside the operations: it ends with the node.
    pub fn run_beside(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.0.node.spawn(task);
    }

    /// Its name in the cluster.
    pub fn space(&self) -> &str {
        &self.0.config.space
    }

    /// The array.
    pub fn array(&self) -> &Arc<dyn Array> {
        &self.0.config.array
    }

    /// How disks that are deleted go.
    pub(crate) fn deletion(&self) -> DeleteMode {
        self.0.config.deletion
    }

    /// The owner of one of its disks. What stands behind an `@` would be a snapshot of it.
    pub fn owner(&self, object: &str) -> Result<Owner> {
        if object.contains('@') {
            return Err(Error::new(ErrorKind::InvalidInput, "the name of a disk holds no @"));
        }
        Owner::new(self.realm(), self.space(), object)
    }

    /// Where an attached disk, or snapshot of one, appears.
    pub fn device_path(&self, view: &View) -> PathBuf {
        self.0.node.devices_folder.join(view.owner.space()).join(view.file_name())
    }

    /// What matches the volumes of this storage and no other.
    pub(crate) fn query(&self) -> VolumeQuery {
        VolumeQuery { prefix: self.0.codec.prefix(self.realm(), self.space()) }
    }

    /// All disks: complete, or an error. Half-made and deleted ones are left out; whatever carries another's mark or none is
    /// not ours.
    pub async fn disks(&self, cx: &Cx) -> Result<Vec<Disk>> {
        let volumes = self.array().volumes(cx, &self.query()).await?;
        let disk = |volume: Volume| {
            let Marked::Ours(mark) = volume.mark else { return None };
            if mark.kind == VolumeKind::Deleting {
                return None;
            }
            let name = self.encode(&mark.owner).ok()?;
            if name != volume.name {
                tracing::warn!(name = %volume.name, owner = %mark.owner, "a volume's mark and name disagree; it is not listed");
                return None;
            }
            volume.identity.map(|_| Disk {
                owner: mark.owner,
                kind: mark.kind,
                template: mark.template,
                size: volume.size,
                used: volume.used,
                created: volume.created,
            })
        };
        Ok(volumes.into_iter().filter_map(disk).collect())
    }

    /// The size of a disk: from the cluster's binding, or the array where that does not know.
    pub async fn size(&self, cx: &Cx, object: &str) -> Result<ByteSize> {
        let bound = self.bound_with_size(cx, &self.owner(object)?).await?;
        Ok(bound.size.unwrap_or_default())
    }

    /// The snapshots of a disk, oldest first.
    pub async fn snapshots(&self, cx: &Cx, object: &str) -> Result<Vec<Snapshot>> {
        let bound = self.bound(cx, &self.owner(object)?).await?;
        let mut found = self.array().snapshots(cx, &bound.to_volume()).await?;
        found.retain(|it| is_asked_for(&it.name));
        Ok(found)
    }

    /// The disks, and the snapshots of disks, attached on this node.
    pub async fn attached(&self) -> Result<Vec<Attachment>> {
        self.0.attachments.all().await
    }

    /// Takes down what is attached here on record and belongs here no longer: another node has ended its mapping, or the
    /// name means another object by now. What is in use stays.
    pub async fn drop_stale_attachments(&self) -> Result<()> {
        for record in self.attached().await? {
            let cx = self.0.node.cx(Deadline::after(Duration::from_secs(30)), OperationId::random());
            let view = record.view();
            let is_noted = self.is_noted(&cx, &view).await?;
            let bound = self.cluster().binding(&cx, &record.owner).await?;
            let is_stale = !is_noted || bound.is_none_or(|it| !record.is_of(&it));
            if record.state == AttachmentState::Attached && is_stale {
                let ticket = self.submit(cx.operation(), Request::detach(&view), cx.deadline());
                match ticket.wait(cx.deadline()).await {
                    Ok(_) => self.reconciled(Repair::StaleDetached, &view.file_name()),
                    Err(error) => {
                        tracing::debug!(volume = %view, error = %error.chain(), "a stale attachment stays");
                    }
                }
            }
        }
        Ok(())
    }

    /// Makes sure that a volume is known by the template it is said to be cloned from. Where that cannot be told, whatever is
    /// to be done with the volume meets the same trouble and says so.
    pub async fn require_template(&self, cx: &Cx, object: &str, template: Option<&str>) -> Result<()> {
        match self.bound(cx, &self.owner(object)?).await {
            Ok(bound) if bound.template.as_deref() != template => {
                let message = match &bound.template {
                    Some(it) => format!("the volume of this name is a clone of {it}"),
                    None => "the volume of this name is no clone of a template".to_owned(),
                };
                Err(Error::new(ErrorKind::NotFound, message).on(object))
            }
            _ => Ok(()),
        }
    }

    /// What is known without asking anybody.
    pub fn status(&self) -> Status {
        let last = self.0.status.lock().unwrap_or_else(PoisonError::into_inner);
        Status {
            capacity: last.capacity.map(|(capacity, at)| (capacity, at.elapsed())),
            problem: last.problem.clone(),
        }
    }

    /// Remembers which disks have no path.
    pub(crate) fn keep_outages(&self, since: HashMap<Wwid, Instant>) {
        *self.0.outages.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// For how long a disk has had no path, as far as this process has seen.
    pub(crate) fn outage(&self, wwid: &Wwid) -> Option<Duration> {
        let outages = self.0.outages.lock().unwrap_or_else(PoisonError::into_inner);
        outages.get(wwid).map(Instant::elapsed)
    }

    /// Whether the array was last asked for its room longer than `age` ago.
    pub fn status_is_older_than(&self, age: Duration) -> bool {
        let last = self.0.status.lock().unwrap_or_else(PoisonError::into_inner);
        last.asked.is_none_or(|it| it.elapsed() > age)
    }

    /// Asks the array for its room and remembers the answer, whatever it is. One request.
    pub async fn refresh_status(&self, cx: &Cx) -> Result<Capacity> {
        self.0.status.lock().unwrap_or_else(PoisonError::into_inner).asked = Some(Instant::now());
        let answer = self.array().capacity(cx).await;
        let mut last = self.0.status.lock().unwrap_or_else(PoisonError::into_inner);
        last.problem = answer.as_ref().err().cloned();
        if let Ok(capacity) = answer {
            last.capacity = Some((capacity, Instant::now()));
        }
        answer
    }
}
