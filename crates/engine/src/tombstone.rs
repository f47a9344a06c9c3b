//! Tombstones: volumes that were deleted and cannot go yet. They have a name and a mark that say so, their own names are
//! free, and whichever node comes first removes them.

use std::collections::HashMap;
use std::time::Duration;

use san_core::{Cx, Deadline, Mark, OperationId, Owner, Result, VolumeKind};
use tokio::time::Instant;

use crate::cluster::Binding;
use crate::plan::Request;
use crate::reconciled::Repair;
use crate::san::San;

/// What the objects of tombstones begin with; no other object does.
const PREFIX: &str = "deleting-";
/// As much of the array's key as tells volumes apart.
const MAX_KEY: usize = 64;
/// How long a tombstone rests after it could not be removed, at first and at most.
const PAUSES: (Duration, Duration) = (Duration::from_secs(55), Duration::from_secs(300));
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

/// When a tombstone is tried again.
#[derive(Debug)]
pub(crate) struct Rest {
    until: Instant,
    pause: Duration,
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
        let tombstone = Binding { owner, name, kind: VolumeKind::Deleting, ..bound.clone() };
        self.cluster().bind(cx, &tombstone).await?;
        self.cluster().unbind(cx, &bound.owner, &bound.id).await
    }

    /// Removes what was deleted and could not go at once, where it can go now. Costs nothing while there is no such volume.
    pub async fn finish_deletions(&self) -> Result<()> {
        let cx = self.cx(Deadline::after(ATTEMPT), OperationId::random());
        let mut left = self.cluster().bound(&cx, self.realm(), self.space()).await?;
        left.retain(|it| is_tombstone(it.object()));
        self.with_resting(|it| it.retain(|object, _| left.iter().any(|left| left.object() == object)));
        for owner in left {
            let object = owner.object().to_owned();
            if self.with_resting(|it| it.get(&object).is_some_and(|rest| rest.until > Instant::now())) {
                continue;
            }
            let deadline = Deadline::after(ATTEMPT);
            let ticket =
                self.submit(OperationId::random(), Request::Delete { object: object.clone() }, deadline);
            match ticket.wait(deadline).await {
                Ok(_) => self.reconciled(Repair::DeletionFinished, owner.object()),
                Err(error) => {
                    let first = self.with_resting(|it| rest(it, object));
                    if first {
                        tracing::info!(volume = %owner, error = %error.chain(), "it was deleted and cannot go yet");
                    }
                }
            }
        }
        Ok(())
    }
}

/// Lets a tombstone rest, longer every time; whether it is the first time.
fn rest(resting: &mut HashMap<String, Rest>, object: String) -> bool {
    let (shortest, longest) = PAUSES;
    let before = resting.get(&object).map(|it| it.pause);
    let pause = before.map_or(shortest, |it| (it * 2).min(longest));
    resting.insert(object, Rest { until: Instant::now() + pause, pause });
    before.is_none()
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
        };
        let long = "x".repeat(Owner::MAX_PART);
        let names = ["a-1:b-2", "a-1:b-3"].map(|it| tombstone_of(&bound(&long, it)).unwrap());
        assert_ne!(names[0], names[1]);
        assert!(names.iter().all(|it| is_tombstone(it.object())));
        let short = bound("vm-100-disk-0", "a-1:b-2");
        assert_eq!(tombstone_of(&short).unwrap().object(), "deleting-a1b2-vm-100-disk-0");
        assert!(!is_tombstone(short.owner.object()));
    }

    #[tokio::test(start_paused = true)]
    async fn what_cannot_go_is_tried_ever_less_often() {
        let mut resting = HashMap::new();
        assert!(rest(&mut resting, "a".to_owned()));
        for expected in [110, 220, 300, 300] {
            assert!(!rest(&mut resting, "a".to_owned()));
            assert_eq!(resting["a"].pause.as_secs(), expected);
        }
    }
}
