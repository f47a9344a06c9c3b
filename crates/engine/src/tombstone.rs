//! Tombstones: volumes that were deleted and cannot go yet. They have a name and a mark that say so, their own names are
//! free, and whichever node comes first removes them.

use std::time::Duration;

use san_core::{Cx, Deadline, Mark, OperationId, Owner, Result, VolumeKind, VolumeName};

use crate::clock::unix_now;
use crate::cluster::Binding;
use crate::plan::Request;
use crate::reconciled::Repair;
use crate::san::San;

/// What the objects of tombstones begin with; no other object does.
const PREFIX: &str = "deleting-";
/// As much of the array's key as tells volumes apart.
const MAX_KEY: usize = 64;
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(30);

/// Whether the name is one of a volume that was deleted.
pub(crate) fn is_tombstone(object: &str) -> bool {
    object.starts_with(PREFIX)
}

/// Who a volume is once it was deleted, whoever did so: by the array's key, which no other volume has, and, for people, as
/// much of its name as fits.
fn tombstone_of(bound: &Binding) -> Result<Owner> {
    let owner = &bound.owner;
    let mut key: String = bound.id.as_str().chars().filter(char::is_ascii_alphanumeric).collect();
    key.truncate(MAX_KEY);
    let mut object = format!("{PREFIX}{key}-{}", owner.object());
    object.truncate(Owner::MAX_PART);
    Owner::new(owner.realm(), owner.space(), &object)
}

/// What a tombstone was called before, or as much of it as fits.
fn former_name(object: &str) -> &str {
    object.strip_prefix(PREFIX).and_then(|it| it.split_once('-')).map_or(object, |(_, former)| former)
}

/// A volume that was deleted and has not gone yet.
#[derive(Debug, Clone)]
pub struct Leaving {
    /// What it was called, as far as its name as a tombstone tells.
    pub object: String,
    /// What it is called on the array.
    pub on_array: VolumeName,
    /// Since when, in seconds since 1970.
    pub deleted: Option<u64>,
    /// Why it could not go when this node tried last, and when it tries again; `None`: it has not tried yet.
    pub waits: Option<(String, Duration)>,
}

impl San {
    /// Gives a deleted volume its name and mark as such, both at once. Repeatable.
    pub(crate) async fn entomb(&self, cx: &Cx, bound: &Binding) -> Result<()> {
        let owner = tombstone_of(bound)?;
        let mark = Mark {
            owner: owner.clone(),
            claim: cx.operation(),
            kind: VolumeKind::Deleting,
            template: bound.template.clone(),
        };
        let name = self.encode(&owner)?;
        self.array().rename(cx, &bound.to_volume(), &name, &mark).await?;
        self.bind_tombstone(cx, bound, owner).await
    }

    /// The cluster knows it by its name as a tombstone only.
    pub(crate) async fn bind_tombstone(&self, cx: &Cx, bound: &Binding, owner: Owner) -> Result<()> {
        let name = self.encode(&owner)?;
        let deleted = bound.deleted.or_else(|| Some(unix_now()));
        // Where all nodes see it, the array does not tell who still has it.
        for node in self.cluster().attached_on(cx, &bound.owner).await? {
            self.cluster().note_attached(cx, &owner, &node).await?;
        }
        let tombstone = Binding { owner, name, kind: VolumeKind::Deleting, deleted, ..bound.clone() };
        self.cluster().bind(cx, &tombstone).await?;
        self.cluster().unbind(cx, &bound.owner, &bound.id).await
    }

    /// What was deleted and has not gone yet.
    pub async fn leaving(&self, cx: &Cx) -> Result<Vec<Leaving>> {
        let mut leaving = Vec::new();
        for owner in self.cluster().bound(cx, self.realm(), self.space()).await? {
            if !is_tombstone(owner.object()) {
                continue;
            }
            // A folder may hold a lease only.
            let Some(bound) = self.cluster().binding(cx, &owner).await? else { continue };
            let waits = self.shared().tombstones.of(owner.object());
            leaving.push(Leaving {
                object: former_name(owner.object()).to_owned(),
                on_array: bound.name,
                deleted: bound.deleted,
                waits,
            });
        }
        Ok(leaving)
    }

    /// Removes what was deleted and could not go at once, where it can go now. Costs nothing while there is no such volume.
    pub async fn finish_deletions(&self) -> Result<()> {
        let cx = self.cx(Deadline::after(ATTEMPT), OperationId::random());
        let mut left = self.cluster().bound(&cx, self.realm(), self.space()).await?;
        left.retain(|it| is_tombstone(it.object()));
        self.shared().tombstones.keep(|object| left.iter().any(|left| left.object() == object));
        for owner in left {
            let object = owner.object().to_owned();
            if self.shared().tombstones.is_resting(&object) {
                continue;
            }
            let deadline = Deadline::after(ATTEMPT);
            let ticket =
                self.submit(OperationId::random(), Request::Delete { object: object.clone() }, deadline);
            match ticket.wait(deadline).await {
                Ok(_) => self.reconciled(Repair::DeletionFinished, former_name(owner.object())),
                Err(error) => {
                    if self.shared().tombstones.rest(&object, error.chain().to_string()) {
                        tracing::info!(volume = %owner, error = %error.chain(), "it was deleted and cannot go yet");
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use san_core::{Identity, Wwid};

    use super::*;

    #[test]
    fn every_deleted_volume_has_a_name_of_its_own() {
        let bound = |object: &str, id: &str| Binding {
            owner: Owner::new("r", "s", object).unwrap(),
            id: id.parse().unwrap(),
            name: "sb__x".parse().unwrap(),
            identity: Identity { wwid: Wwid::Naa6([0x60; 16]), serial: "s".into() },
            size: None,
            kind: VolumeKind::Disk,
            template: None,
            place: None,
            deleted: None,
            shared: None,
        };
        let long = "x".repeat(Owner::MAX_PART);
        let names = ["a-1:b-2", "a-1:b-3"].map(|it| tombstone_of(&bound(&long, it)).unwrap());
        assert_ne!(names[0], names[1]);
        assert!(names.iter().all(|it| is_tombstone(it.object())));
        let short = bound("vm-100-disk-0", "a-1:b-2");
        assert_eq!(tombstone_of(&short).unwrap().object(), "deleting-a1b2-vm-100-disk-0");
        assert!(!is_tombstone(short.owner.object()));
        assert_eq!(former_name("deleting-a1b2-vm-100-disk-0"), "vm-100-disk-0");
    }
}
