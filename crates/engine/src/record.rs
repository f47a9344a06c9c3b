//! Attachment records: which volumes are on this node, and so which devices may be touched.

use san_core::{
    ArrayId, ByteSize, Cx, Expected, Hctl, HostAccess, Identity, KnownLegs, Lun, Owner, Result, Route,
    SnapshotName, TargetPort, Visibility,
};
use serde::{Deserialize, Serialize};

use crate::cluster::Binding;
use crate::disk_view::View;
use crate::store::Folder;

/// How far an attachment is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttachmentState {
    /// Being made.
    Attaching,
    /// Handed out.
    Attached,
}

/// What a reader on this node reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reading {
    /// The snapshot.
    pub snapshot: SnapshotName,
    /// The array's key of the disk.
    pub disk: ArrayId,
}

/// One volume on this node: written before the first effect of attach, removed after the last leg is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attachment {
    /// Whose.
    pub owner: Owner,
    /// What it reads; `None`: it is the disk itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reads: Option<Reading>,
    /// The array, as its profile names itself.
    pub array: String,
    /// The array's key of the volume.
    pub volume: ArrayId,
    /// What every leg must report.
    pub identity: Identity,
    /// Its size when it was last measured here.
    pub size: ByteSize,
    /// The host object it is mapped to; `None` until it is known.
    pub host: Option<HostAccess>,
    /// Whether that is this node's own.
    #[serde(default)]
    pub visibility: Visibility,
    /// The number it has here; `None` until it is mapped.
    pub lun: Option<Lun>,
    /// The ports behind which it was mapped.
    pub ports: Vec<TargetPort>,
    /// Where it was scanned for.
    pub addresses: Vec<Hctl>,
    /// How far it is.
    pub state: AttachmentState,
}

impl Attachment {
    /// What is attached.
    pub fn view(&self) -> View {
        View { owner: self.owner.clone(), snapshot: self.reads.as_ref().map(|it| it.snapshot.clone()) }
    }

    /// Whether it is of the array object that its owner has now.
    pub(crate) fn is_of(&self, bound: &Binding) -> bool {
        match &self.reads {
            Some(reads) => reads.disk == bound.id,
            None => self.volume == bound.id && self.identity == bound.identity,
        }
    }

    /// What must be found before the device is handed out; `None` until it is mapped.
    pub fn expected(&self) -> Option<Expected> {
        self.lun.map(|lun| Expected { identity: self.identity.clone(), size: self.size, lun })
    }

    /// The only legs that may be touched; `None` until it is mapped.
    pub fn known_legs(&self) -> Option<KnownLegs> {
        self.lun.map(|lun| KnownLegs {
            identity: self.identity.clone(),
            lun,
            addresses: self.addresses.clone(),
        })
    }
}

/// The addresses of one LUN behind routes.
pub(crate) fn addresses(routes: &[Route], lun: Lun) -> Vec<Hctl> {
    let address = |route: &Route| match route {
        Route::Scsi { host, channel, target, .. } => {
            Some(Hctl { host: *host, channel: *channel, target: *target, lun })
        }
        // Other kinds of routes have no SCSI address.
        _ => None,
    };
    routes.iter().filter_map(address).collect()
}

/// The attachments of one storage on this node.
#[derive(Debug, Clone)]
pub(crate) struct Attachments(Folder);

impl Attachments {
    pub(crate) fn at(folder: Folder) -> Self {
        Self(folder)
    }

    /// A disk's.
    pub(crate) async fn get(&self, owner: &Owner) -> Result<Option<Attachment>> {
        self.of(&View::disk(owner.clone())).await
    }

    pub(crate) async fn of(&self, view: &View) -> Result<Option<Attachment>> {
        self.0.read(&view.file_name()).await
    }

    pub(crate) async fn put(&self, cx: &Cx, record: &Attachment) -> Result<()> {
        self.0.write(cx, &record.view().file_name(), record).await
    }

    pub(crate) async fn remove(&self, cx: &Cx, view: &View) -> Result<()> {
        self.0.remove(cx, &view.file_name()).await.map(|_| ())
    }

    /// All that can be read. One that cannot is reported and left out: it must not stop every other disk.
    pub(crate) async fn all(&self) -> Result<Vec<Attachment>> {
        let mut records = Vec::new();
        for name in self.0.names().await? {
            match self.0.read(&name).await {
                Ok(record) => records.extend(record),
                Err(error) => tracing::error!(%error, "an attachment record cannot be read"),
            }
        }
        Ok(records)
    }
}
