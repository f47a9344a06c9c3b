//! The operations that the matrices disturb: what each needs, asks, and must leave. A new one is a variant here and its
//! arms; the crash matrix and the fault matrix take it from there.

use std::str::FromStr;

use clap::ValueEnum;
use san_core::{ByteSize, Error, ErrorKind, Result, SnapshotName, Visibility};
use san_engine::{Asker, Naming, Outcome, Request, Tie};
use san_sim::ontap::VolumeInfo;

use crate::site::{SVM, Site, SiteNode};

/// The disk they are about.
pub const DISK: &str = "vm-100-disk-0";
/// Its size.
pub const SIZE: ByteSize = ByteSize::from_mib(8);
/// A larger one.
pub const GROWN: ByteSize = ByteSize::from_mib(16);
const STEM: &str = "vm-100-disk-";
/// What a numbered one is called when the first is there.
const NEXT: &str = "vm-100-disk-1";
/// What a template is made of, and the template.
const SOURCE: &str = "vm-9000-disk-0";
const TEMPLATE: &str = "base-9000-disk-0";
const RENAMED: &str = "vm-101-disk-7";
const SNAPSHOTTED: &[u8] = b"snapshotted";
const OVERWRITTEN: &[u8] = b"overwritten";

/// The snapshot they are about.
pub fn snapshot() -> Result<SnapshotName> {
    "before".parse()
}

/// An operation to be disturbed, on the first node of a fresh site of two whose engines run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Operation {
    /// A disk of a given name.
    Create,
    /// A disk of the next free number.
    CreateNumbered,
    /// A disk that is filled before it counts.
    Import,
    /// A disk made a device.
    Attach,
    /// A disk taken from the node.
    Detach,
    /// A disk that nobody has attached.
    Delete,
    /// A disk that this node has attached.
    DeleteAttached,
    /// A template that a clone in the array's recovery queue holds: it goes later.
    DeleteHeld,
    /// An attached disk made larger.
    Grow,
    /// A disk set as the options of its storage say.
    Conform,
    /// A snapshot taken.
    Snapshot,
    /// A snapshot removed.
    DeleteSnapshot,
    /// A disk put back to a snapshot.
    Rollback,
    /// A disk made of a template.
    Clone,
    /// A disk of the next free number made of a snapshot.
    CloneSnapshot,
    /// A disk made a template.
    Template,
    /// A disk given another name.
    Rename,
    /// A clone made independent of its template.
    Split,
    /// A deleted disk brought back.
    Undelete,
    /// A snapshot made a device to be read.
    AttachSnapshot,
    /// Such a snapshot taken from the node.
    DetachSnapshot,
    /// A snapshot removed that this node reads.
    DeleteSnapshotRead,
}

/// A row of the matrices: an operation, on a site whose disks are mapped so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Which.
    pub operation: Operation,
    /// How its disks are mapped.
    pub visibility: Visibility,
}

/// What stands behind the word for an operation whose disk all nodes see.
const FOR_ALL: &str = "-for-all";

impl Row {
    /// All operations, and once more those that map, unmap or find mapped what all nodes see.
    pub fn all() -> Vec<Self> {
        let for_all = [
            Operation::Create,
            Operation::Attach,
            Operation::Detach,
            Operation::Delete,
            Operation::DeleteAttached,
            Operation::Rollback,
            Operation::Clone,
            Operation::Rename,
        ];
        let of = |visibility| move |operation: &Operation| Self { operation: *operation, visibility };
        let per_node = Operation::value_variants().iter().map(of(Visibility::PerNode));
        per_node.chain(for_all.iter().map(of(Visibility::Shared))).collect()
    }

    /// Those that ask the array for anything: what all nodes see is taken from one of them without it.
    pub fn all_that_ask() -> Vec<Self> {
        let mut rows = Self::all();
        rows.retain(|it| it.operation != Operation::Detach || it.visibility == Visibility::PerNode);
        rows
    }

    /// A word for it, as `--operation` takes it.
    pub fn name(self) -> String {
        let word = self.operation.to_possible_value();
        let word = word.map_or_else(String::new, |it| it.get_name().to_owned());
        if self.visibility == Visibility::Shared { word + FOR_ALL } else { word }
    }
}

impl FromStr for Row {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let rows = Self::all();
        let names = || rows.iter().map(|it| it.name()).collect::<Vec<_>>().join(", ");
        rows.iter().find(|it| it.name() == text).copied().ok_or_else(|| format!("must be one of {}", names()))
    }
}

impl Operation {
    /// What is there before it begins.
    pub async fn prepare(self, site: &Site) -> Result<()> {
        let node = site.node(0);
        if matches!(self, Self::Create | Self::CreateNumbered | Self::Import) {
            return Ok(());
        }
        if matches!(self, Self::Clone | Self::DeleteHeld | Self::Split) {
            node.create(SOURCE, SIZE).await?;
            let path = node.attach(SOURCE).await?;
            node.write(&path, 0, SNAPSHOTTED).await?;
            node.detach(SOURCE).await?;
            let naming = Naming::Exact(TEMPLATE.to_owned());
            node.call(Request::Template { object: SOURCE.to_owned(), naming }).await?;
            if matches!(self, Self::DeleteHeld) {
                node.call(Self::Clone.request()?).await?;
                node.delete(DISK).await?;
            }
            if matches!(self, Self::Split) {
                node.call(Self::Clone.request()?).await?;
            }
            return Ok(());
        }
        node.create(DISK, SIZE).await?;
        if matches!(self, Self::Conform) {
            // Somebody has changed it on the array.
            for it in site.array.volumes().iter().filter(|it| it.comment.contains(DISK)) {
                site.array.set_snapshot_policy(SVM, &it.name, "default").map_err(|error| {
                    Error::new(ErrorKind::Internal, "the volume cannot be changed").caused_by(error)
                })?;
            }
        }
        if !self.is_written() {
            return Ok(());
        }
        let path = node.attach(DISK).await?;
        node.write(&path, 0, SNAPSHOTTED).await?;
        if self.is_overwritten() {
            node.snapshot(DISK, &snapshot()?).await?;
            node.write(&path, 0, OVERWRITTEN).await?;
        }
        if matches!(self, Self::DetachSnapshot | Self::DeleteSnapshotRead) {
            node.attach_snapshot(DISK, &snapshot()?).await?;
        }
        if !matches!(self, Self::Detach | Self::DeleteAttached | Self::Grow) {
            node.detach(DISK).await?;
        }
        if matches!(self, Self::Undelete) {
            node.delete(DISK).await?;
        }
        Ok(())
    }

    /// What is asked.
    pub fn request(self) -> Result<Request> {
        let object = DISK.to_owned();
        Ok(match self {
            Self::Create => Request::Create { naming: Naming::Exact(object), size: SIZE },
            Self::CreateNumbered => {
                Request::Create { naming: Naming::Numbered { stem: STEM.to_owned() }, size: SIZE }
            }
            Self::Import => {
                let importer = Asker { pid: 4711, started: None };
                Request::Import { naming: Naming::Exact(object), size: SIZE, importer }
            }
            Self::Attach => Request::Attach { object },
            Self::Detach => Request::Detach { object },
            Self::Delete | Self::DeleteAttached => Request::Delete { object },
            Self::DeleteHeld => Request::Delete { object: TEMPLATE.to_owned() },
            Self::Grow => Request::Grow { object, size: GROWN },
            Self::Conform => Request::Conform { object },
            Self::Snapshot => Request::Snapshot { object, snapshot: snapshot()? },
            Self::DeleteSnapshot | Self::DeleteSnapshotRead => {
                Request::DeleteSnapshot { object, snapshot: snapshot()? }
            }
            Self::AttachSnapshot => Request::AttachSnapshot { object, snapshot: snapshot()?, asker: None },
            Self::DetachSnapshot => Request::DetachSnapshot { object, snapshot: snapshot()?, asker: None },
            Self::Rollback => Request::Rollback { object, snapshot: snapshot()? },
            Self::Clone => {
                Request::Clone { source: TEMPLATE.to_owned(), snapshot: None, naming: Naming::Exact(object) }
            }
            Self::CloneSnapshot => Request::Clone {
                source: object,
                snapshot: Some(snapshot()?),
                naming: Naming::Numbered { stem: STEM.to_owned() },
            },
            Self::Template => Request::Template { object, naming: Naming::Exact(TEMPLATE.to_owned()) },
            Self::Rename => Request::Rename { object, naming: Naming::Exact(RENAMED.to_owned()) },
            Self::Split => Request::Split { object },
            Self::Undelete => Request::Undelete { object, queued: None },
        })
    }

    /// Whether it may change bytes or sizes, which the audit does not see.
    pub fn changes_content(self) -> bool {
        matches!(
            self,
            Self::Grow
                | Self::Rollback
                | Self::Clone
                | Self::CloneSnapshot
                | Self::Template
                | Self::Rename
                | Self::Split
                | Self::Undelete
        ) || self.reads()
    }

    /// What must hold afterwards, whichever way it went: the disk can be used and has its bytes, or is gone where that
    /// was asked for.
    pub async fn verify(self, site: &Site) -> Result<()> {
        self.verify_on(site.node(0)).await
    }

    /// Takes everything away again, as a user would.
    pub async fn clean_up(self, site: &Site) -> Result<()> {
        let node = site.node(0);
        // Clones before what they are made of.
        for object in [NEXT, DISK, RENAMED, TEMPLATE] {
            match node.delete(object).await {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // A clone in the recovery queue holds its template.
            site.array.purge_recovery_queue().map_err(|error| {
                Error::new(ErrorKind::Internal, "the queue cannot be purged").caused_by(error)
            })?;
        }
        node.san().finish_deletions().await
    }

    /// What the second node must be able to do, and to see, once the first is lost for ever in the middle of it.
    pub async fn take_over(self, site: &Site) -> Result<()> {
        let node = site.node(1);
        site.guests.place(DISK, &node.name, Tie::Configured);
        match self.verify_on(node).await {
            // A creation that was cut between its two halves is seen for what it is, and can be deleted.
            Err(error) if error.kind() == ErrorKind::Conflict && self.makes().is_some() => {
                require(error.remedy().is_some_and(|it| it.contains("delete it")), || format!("{error:?}"))?;
                node.delete(self.makes().unwrap_or(DISK)).await?;
            }
            // One that has its new name already is told by it, and whole.
            Err(error) if error.kind() == ErrorKind::Conflict && self.new_name().is_some() => {
                let name = self.new_name().unwrap_or_default();
                require(error.remedy().is_some_and(|it| it.contains(name)), || format!("{error:?}"))?;
                let path = node.attach(name).await?;
                holds(&node.read(&path, 0, SNAPSHOTTED.len()).await?, &[SNAPSHOTTED])?;
            }
            other => other?,
        }
        // What remains of a creation is seen, or its name is free.
        match node.create(DISK, SIZE).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let ours = |it: &VolumeInfo| it.name.starts_with("sb") && !it.deleted;
                require(site.array.volumes().iter().any(ours), || format!("{error:?}"))?;
            }
            other => drop(other?),
        }
        let numbered = Request::Create { naming: Naming::Numbered { stem: STEM.to_owned() }, size: SIZE };
        let made = node.call(numbered).await?;
        require(matches!(made, Outcome::Created { .. }), || format!("{made:?}"))
    }

    /// The disk that is new afterwards.
    fn makes(self) -> Option<&'static str> {
        match self {
            Self::Create | Self::CreateNumbered | Self::Import | Self::Clone => Some(DISK),
            Self::CloneSnapshot => Some(NEXT),
            _ => None,
        }
    }

    /// Whether it makes a disk of another number each time.
    pub fn counts_on(self) -> bool {
        matches!(self, Self::CreateNumbered | Self::CloneSnapshot)
    }

    /// What the disk is called afterwards, where that changes.
    fn new_name(self) -> Option<&'static str> {
        match self {
            Self::Rename => Some(RENAMED),
            Self::Template => Some(TEMPLATE),
            _ => None,
        }
    }

    /// Whether it is about a snapshot that is read.
    fn reads(self) -> bool {
        matches!(self, Self::AttachSnapshot | Self::DetachSnapshot | Self::DeleteSnapshotRead)
    }

    /// Whether the disk has other bytes than its snapshot.
    fn is_overwritten(self) -> bool {
        matches!(self, Self::DeleteSnapshot | Self::Rollback | Self::CloneSnapshot) || self.reads()
    }

    /// Whether something was written to the disk before.
    fn is_written(self) -> bool {
        !matches!(
            self,
            Self::Create
                | Self::CreateNumbered
                | Self::Import
                | Self::Delete
                | Self::Snapshot
                | Self::Conform
        )
    }

    /// Whichever way it went: the disk is gone where that was asked for, or has its bytes.
    async fn verify_on(self, node: &SiteNode) -> Result<()> {
        if matches!(self, Self::Conform) {
            node.call(Request::Conform { object: DISK.to_owned() }).await?;
            let again = node.call(Request::Conform { object: DISK.to_owned() }).await?;
            require(again == Outcome::Conformed { changed: Vec::new() }, || format!("{again:?}"))?;
        }
        let mut attached = node.attach(if self == Self::DeleteHeld { TEMPLATE } else { DISK }).await;
        if let (Err(error), Some(name)) = (&attached, self.new_name())
            && error.kind() == ErrorKind::NotFound
        {
            attached = node.attach(name).await;
        }
        let path = match attached {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let may_be_gone = self.makes() == Some(DISK)
                    || matches!(
                        self,
                        Self::Delete | Self::DeleteAttached | Self::DeleteHeld | Self::Undelete
                    );
                return if may_be_gone { Ok(()) } else { Err(error) };
            }
            other => other?,
        };
        let bytes = node.read(&path, 0, SNAPSHOTTED.len()).await?;
        match self {
            _ if !self.is_written() => holds(&bytes, &[&[0; SNAPSHOTTED.len()]]),
            Self::DeleteSnapshot => holds(&bytes, &[OVERWRITTEN]),
            Self::CloneSnapshot => {
                holds(&bytes, &[OVERWRITTEN])?;
                match node.attach(NEXT).await {
                    Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
                    attached => holds(&node.read(&attached?, 0, SNAPSHOTTED.len()).await?, &[SNAPSHOTTED]),
                }
            }
            _ if self.reads() => {
                holds(&bytes, &[OVERWRITTEN])?;
                match node.attach_snapshot(DISK, &snapshot()?).await {
                    Err(error) if error.kind() == ErrorKind::NotFound && self == Self::DeleteSnapshotRead => {
                        Ok(())
                    }
                    attached => holds(&node.read(&attached?, 0, SNAPSHOTTED.len()).await?, &[SNAPSHOTTED]),
                }
            }
            Self::Rollback => {
                holds(&bytes, &[SNAPSHOTTED, OVERWRITTEN])?;
                node.roll_back(DISK, &snapshot()?).await?;
                let path = node.attach(DISK).await?;
                holds(&node.read(&path, 0, SNAPSHOTTED.len()).await?, &[SNAPSHOTTED])
            }
            _ => holds(&bytes, &[SNAPSHOTTED]),
        }
    }
}

fn require(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::new(ErrorKind::Internal, otherwise())) }
}

fn holds(found: &[u8], expected: &[&[u8]]) -> Result<()> {
    require(expected.contains(&found), || {
        let words = |it: &[u8]| String::from_utf8_lossy(it).into_owned();
        let expected: Vec<String> = expected.iter().map(|it| words(it)).collect();
        format!("the disk holds {:?} instead of {expected:?}", words(found))
    })
}
