//! Volumes whose creation was cut short on a node that never came back to take it back: found by a look at the array now and
//! then, and removed when nobody can be making them any more.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use san_core::{
    ArrayId, Cx, Deadline, Marked, OperationId, Owner, Result, Volume, VolumeKey, VolumeKind, VolumeState,
};
use tokio::time::Instant;

use crate::plan::Request;
use crate::reconciled::Repair;
use crate::san::San;

/// Between two looks: each is one request for a list.
const LOOK: Duration = Duration::from_secs(600);
/// For how long looks must have found the same half-made volume. No creation goes on for longer than ten minutes and its
/// clean-up, and what takes one up later undoes it. Measured by this node's own clock alone.
const GRACE: Duration = Duration::from_secs(1800);
/// How long a look, or one removal, may take.
const ATTEMPT: Duration = Duration::from_secs(30);

/// The half-made volumes of a storage: which operation made each, and since when it is seen as it is.
#[derive(Debug)]
pub(crate) struct HalfMade(Mutex<Seen>);

#[derive(Debug)]
struct Seen {
    looked: Instant,
    since: HashMap<ArrayId, (OperationId, Instant)>,
}

impl Default for HalfMade {
    fn default() -> Self {
        Self(Mutex::new(Seen { looked: Instant::now(), since: HashMap::new() }))
    }
}

impl HalfMade {
    fn with<T>(&self, with: impl FnOnce(&mut Seen) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether it is time for the next look, which is begun with this.
    fn is_due(&self) -> bool {
        self.with(|it| {
            let is_due = it.looked.elapsed() >= LOOK;
            if is_due {
                it.looked = Instant::now();
            }
            is_due
        })
    }

    /// Takes what a look has found; returns what has been so for long enough.
    fn found(&self, found: &HashMap<ArrayId, OperationId>) -> Vec<ArrayId> {
        self.with(|it| {
            it.since.retain(|id, (claim, _)| found.get(id) == Some(claim));
            for (id, claim) in found {
                it.since.entry(id.clone()).or_insert_with(|| (*claim, Instant::now()));
            }
            let is_old = |since: &Instant| since.elapsed() >= GRACE;
            it.since.iter().filter(|(_, (_, since))| is_old(since)).map(|(id, _)| id.clone()).collect()
        })
    }
}

impl San {
    /// Removes volumes that were never finished by whoever began to make them, once that is certain: a volume with our mark and
    /// without a disk in it, that no node knows, and that has been so in every look for half an hour. One request every ten
    /// minutes, whenever it is called.
    pub async fn reap(&self) -> Result<()> {
        if !self.shared().half_made.is_due() {
            return Ok(());
        }
        let cx = self.cx(Deadline::after(ATTEMPT), OperationId::random());
        let mut found = HashMap::new();
        let mut volumes = HashMap::new();
        for volume in self.census(&cx).await? {
            if let Some((owner, claim)) = self.half_made(&cx, &volume).await? {
                found.insert(volume.id.clone(), claim);
                volumes.insert(volume.id.clone(), (volume, owner));
            }
        }
        for id in self.shared().half_made.found(&found) {
            let Some((volume, owner)) = volumes.get(&id) else { continue };
            if let Err(error) = self.remove_half_made(volume, owner).await {
                tracing::info!(volume = %volume.name, error = %error.chain(), "a half-made volume stays");
            }
        }
        Ok(())
    }

    /// Whose a half-made volume is, and which operation made it; `None` where it is none, or where anybody may know more of it.
    async fn half_made(&self, cx: &Cx, volume: &Volume) -> Result<Option<(Owner, OperationId)>> {
        let Marked::Ours(mark) = &volume.mark else { return Ok(None) };
        // Of a volume that is offline nobody can say what is in it.
        let is_empty = volume.identity.is_none() && volume.state == VolumeState::Online;
        let Some(owner) = self.owner_of(volume).filter(|_| is_empty && mark.kind == VolumeKind::Disk) else {
            return Ok(None);
        };
        let is_known = self.cluster().binding(cx, &owner).await?.is_some()
            || !self.cluster().attached_on(cx, &owner).await?.is_empty()
            || !self.intents().of(&owner).await?.is_empty();
        Ok((!is_known).then_some((owner, mark.claim)))
    }

    async fn remove_half_made(&self, seen: &Volume, owner: &Owner) -> Result<()> {
        let deadline = Deadline::after(ATTEMPT);
        let cx = self.cx(deadline, OperationId::random());
        let now = self.array().volume(&cx, &VolumeKey::Name(seen.name.clone())).await?;
        let Some(now) = now.filter(|it| it.id == seen.id && it.mark == seen.mark) else { return Ok(()) };
        if self.half_made(&cx, &now).await?.is_none() {
            return Ok(());
        }
        let request = Request::Delete { object: owner.object().to_owned() };
        self.submit(cx.operation(), request, deadline).wait(deadline).await?;
        self.reconciled(Repair::HalfMadeRemoved, owner.object());
        Ok(())
    }
}
