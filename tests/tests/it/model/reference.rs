//! The reference of a random life: what must be there, and what each operation must come to.

use std::collections::{BTreeMap, BTreeSet};

use san_core::{ByteSize, SnapshotName};
use san_engine::{Naming, Request};

use super::{DISKS, Op, Step};

pub(super) fn disk(index: usize) -> String {
    format!("vm-{}-disk-0", 100 + index)
}

pub(super) fn template(index: usize) -> String {
    format!("base-{}-disk-0", 100 + index)
}

pub(super) fn snapshot(index: u8) -> SnapshotName {
    format!("snap{index}").parse().unwrap()
}

/// What a disk holds: a pattern in its first bytes, and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) pattern: u64,
    pub(super) size: ByteSize,
}

/// A volume for good, whatever it is called.
pub(super) type Id = usize;

/// What a clone is made of: a snapshot, or a template as it is.
pub(super) type Parent = (Id, Option<u8>);

/// One disk as it must be.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    pub(super) id: Id,
    pub(super) parent: Option<Parent>,
    pub(super) content: Content,
    pub(super) snapshots: BTreeMap<u8, Content>,
    /// The nodes that have it mapped.
    pub(super) attached: BTreeSet<usize>,
}

/// What must be there.
#[derive(Debug, Default)]
pub(super) struct Model {
    pub(super) disks: BTreeMap<usize, Disk>,
    pub(super) templates: BTreeMap<usize, Disk>,
    /// What deleted volumes that the array still has were made of.
    pub(super) deleted: Vec<Parent>,
    /// Where guests live.
    pub(super) homes: BTreeMap<usize, usize>,
    pub(super) patterns: u64,
    pub(super) ids: Id,
}

impl Model {
    pub(super) fn add(&mut self, disk: usize, content: Content, parent: Option<Parent>) {
        self.ids += 1;
        let snapshots = BTreeMap::new();
        let made = Disk { id: self.ids, parent, content, snapshots, attached: BTreeSet::new() };
        self.disks.insert(disk, made);
    }

    /// Whether a clone of this volume is there that is not deleted.
    pub(super) fn is_parent(&self, id: Id) -> bool {
        let all = self.disks.values().chain(self.templates.values());
        all.filter_map(|it| it.parent).any(|parent| parent.0 == id)
    }

    /// Whether a clone of this snapshot is there, deleted or not.
    pub(super) fn is_held(&self, id: Id, name: u8) -> bool {
        let all = self.disks.values().chain(self.templates.values()).filter_map(|it| it.parent);
        all.chain(self.deleted.iter().copied()).any(|parent| parent == (id, Some(name)))
    }

    /// What the deletion of a volume must come to.
    pub(super) fn deletion(&self, of: Option<&Disk>) -> Deletion {
        match of {
            Some(it) if self.is_parent(it.id) => Deletion::Refused,
            Some(it) if self.deleted.iter().any(|parent| parent.0 == it.id) => Deletion::Later,
            _ => Deletion::Done,
        }
    }

    pub(super) fn make_template(&mut self, disk: usize) {
        if let Some(mut made) = self.disks.remove(&disk) {
            made.attached.clear();
            self.templates.insert(disk, made);
        }
    }

    /// Most steps go where they find something, or room: by blind chance hardly any would.
    pub(super) fn aimed(&self, mut step: Step) -> Step {
        let pairs: Vec<(usize, u8)> =
            self.disks.iter().flat_map(|(at, it)| it.snapshots.keys().map(|name| (*at, *name))).collect();
        let free = |to: usize| (0..DISKS).map(|it| (it + to) % DISKS).find(|it| !self.disks.contains_key(it));
        match &mut step.op {
            Op::Create => step.disk = free(step.disk).unwrap_or(step.disk),
            Op::Template => {
                let fit = self
                    .disks
                    .iter()
                    .filter(|(at, it)| it.snapshots.is_empty() && !self.templates.contains_key(at));
                step.disk = one_of(fit.map(|it| *it.0), step.disk).unwrap_or(step.disk);
            }
            Op::CloneTemplate { to } => {
                *to = free(*to).unwrap_or(*to);
                step.disk = one_of(self.templates.keys().copied(), step.disk).unwrap_or(step.disk);
            }
            Op::DeleteTemplate => {
                step.disk = one_of(self.templates.keys().copied(), step.disk).unwrap_or(step.disk);
            }
            Op::Clone { name, .. } | Op::DeleteSnapshot(name) | Op::Rollback(name) | Op::Read(name) => {
                if let Some(pair) = one_of(pairs.into_iter(), step.disk + usize::from(*name) * DISKS) {
                    (step.disk, *name) = pair;
                }
                if let Op::Clone { to, .. } = &mut step.op {
                    *to = free(*to).unwrap_or(*to);
                }
            }
            Op::Delete | Op::Attach | Op::Detach | Op::Grow { .. } | Op::Snapshot(_) => {
                step.disk = one_of(self.disks.keys().copied(), step.disk).unwrap_or(step.disk);
            }
        }
        step
    }
}

fn one_of<T: Copy>(all: impl Iterator<Item = T>, number: usize) -> Option<T> {
    let all: Vec<T> = all.collect();
    all.get(number.checked_rem(all.len())?).copied()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Deletion {
    Done,
    /// It waits until the array has forgotten the deleted clones.
    Later,
    /// Clones are there.
    Refused,
}

impl Deletion {
    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Done => "a deletion",
            Self::Later => "a deletion that ends later",
            Self::Refused => "a deletion that is refused",
        }
    }
}

impl Step {
    /// The same as the node is asked.
    pub(super) fn request(self) -> Request {
        let (number, object) = (self.disk, disk(self.disk));
        let exact = |to: usize| Naming::Exact(disk(to));
        match self.op {
            Op::Create => Request::Create { naming: exact(number), size: size_of(number) },
            Op::Delete => Request::Delete { object },
            Op::Attach => Request::Attach { object },
            Op::Detach => Request::Detach { object },
            Op::Grow { mib } => Request::Grow { object, size: ByteSize::from_mib(mib) },
            Op::Snapshot(name) => Request::Snapshot { object, snapshot: snapshot(name) },
            Op::DeleteSnapshot(name) => Request::DeleteSnapshot { object, snapshot: snapshot(name) },
            Op::Rollback(name) => Request::Rollback { object, snapshot: snapshot(name) },
            Op::Read(name) => Request::AttachSnapshot { object, snapshot: snapshot(name), asker: None },
            Op::Clone { name, to } => {
                Request::Clone { source: object, snapshot: Some(snapshot(name)), naming: exact(to) }
            }
            Op::Template => Request::Template { object, naming: Naming::Exact(template(number)) },
            Op::CloneTemplate { to } => {
                Request::Clone { source: template(number), snapshot: None, naming: exact(to) }
            }
            Op::DeleteTemplate => Request::Delete { object: template(number) },
        }
    }
}

/// What disks are made with.
pub(super) fn size_of(disk: usize) -> ByteSize {
    ByteSize::from_mib(4 + disk as u64)
}
