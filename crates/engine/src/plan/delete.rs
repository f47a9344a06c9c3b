//! Delete: prove it ours and unused everywhere, take it down here, remove it, tell the cluster. What cannot go yet, for a
//! reason that passes by itself, is given a name and a mark that say so, and goes later.

use async_trait::async_trait;
use san_core::{ArrayId, Cx, Error, ErrorKind, MappedHost, Owner, Result, Volume, VolumeKey};
use serde::{Deserialize, Serialize};

use super::detach::TakeDown;
use super::{Direction, Flow, Outcome, Plan};
use crate::cluster::{Binding, Guest, Tie};
use crate::readers::LocalReaders;
use crate::release::Held;
use crate::san::San;
use crate::site::require_ours;
use crate::tombstone::is_tombstone;

const UNMAP: usize = 1;
const ENTOMB: usize = TakeDown::STEPS;
const REMOVE: usize = ENTOMB + 1;
const FORGET: usize = REMOVE + 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Delete {
    owner: Owner,
    /// How another process finds it again.
    key: Option<VolumeKey>,
    /// Which object it was, whatever has its name later.
    id: Option<ArrayId>,
    /// What this process has just seen of it, so that it is not asked for twice.
    #[serde(skip)]
    seen: Option<Volume>,
    bound: Option<Binding>,
    down: TakeDown,
    /// Mappings that no attachment accounts for: for this node, and for all.
    strays: Vec<MappedHost>,
    /// Why it cannot be removed yet, and is only marked as deleted.
    #[serde(default)]
    later: Option<String>,
    /// What reads snapshots of it here.
    #[serde(default)]
    readers: LocalReaders,
}

impl Delete {
    pub(crate) fn new(owner: Owner) -> Self {
        Self {
            owner,
            key: None,
            id: None,
            seen: None,
            bound: None,
            down: TakeDown::default(),
            strays: Vec::new(),
            later: None,
            readers: LocalReaders::default(),
        }
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// What is to be removed: as just seen, or looked at again by another process, with all checks repeated.
    async fn look(&mut self, cx: &Cx, san: &San) -> Result<Option<Volume>> {
        if let Some(seen) = self.seen.take() {
            return Ok(Some(seen));
        }
        let Some(key) = &self.key else { return Ok(None) };
        let Some(volume) = san.array().volume(cx, key).await? else { return Ok(None) };
        if self.id.as_ref() != Some(&volume.id) {
            // The one that was to go is gone, and its name is another's by now.
            return Ok(None);
        }
        require_ours(&self.owner, &volume, self.bound.as_ref())?;
        let mappings = san.sorted_mappings(cx, &volume).await?;
        san.require_nowhere_else(cx, &self.owner, &mappings).await?;
        if let Some(bound) = self.bound.as_ref().filter(|_| mappings.shared.is_some()) {
            san.rebind_shared(cx, bound, None).await?;
        }
        for host in mappings.ours.iter().chain(&mappings.shared) {
            san.array().ensure_unmapped(cx, &volume.id, &host.id).await?;
        }
        san.readers_here(cx, &self.owner, Some(&volume)).await?.unmap(cx, san).await?;
        Ok(Some(unseen(volume)))
    }
}

impl Delete {
    /// A node that has it and says nothing does not keep it from being deleted: it goes when that node is heard of again.
    /// Unless a guest may be running there that uses it.
    async fn wait_for(&mut self, cx: &Cx, san: &San, held: &Held) -> Result<()> {
        let Held::Silent(node) = held else { return Err(held.refusal(&self.owner)) };
        let guests = san.cluster().guests_using(cx, &self.owner).await?;
        let lives_elsewhere = |it: &&Guest| it.tie == Tie::Configured && it.node != *san.node_name();
        if let Some(guest) = guests.iter().find(lives_elsewhere) {
            let message = format!("{} on node {} has it in its configuration", guest.label, guest.node);
            return Err(Error::wrap(held.refusal(&self.owner), message).on(self.owner.object()));
        }
        self.later = Some(format!("node {node} has it attached, and its daemon does not answer"));
        Ok(())
    }

    /// Nobody has it mapped, or knows it any more: notes that say otherwise are of an earlier object, or of a node that is
    /// gone. Those of a later object of that name stay.
    async fn forget_notes(&self, cx: &Cx, san: &San) -> Result<()> {
        if san.cluster().binding(cx, &self.owner).await?.is_some_and(|it| self.id.as_ref() != Some(&it.id)) {
            return Ok(());
        }
        for node in san.cluster().attached_on(cx, &self.owner).await? {
            san.cluster().note_detached(cx, &self.owner, &node).await?;
        }
        san.forget_readers(cx, &self.owner, None).await
    }

    /// Ends the mappings that no attachment accounts for. Where it is not deleted after all, nobody looks for it under the number
    /// that all nodes had for it.
    async fn end_strays(&mut self, cx: &Cx, san: &San) -> Result<()> {
        let strays = &self.strays;
        let ends = |it: &&mut Binding| {
            it.shared.as_ref().is_some_and(|shared| strays.iter().any(|it| it.id == shared.host.id))
        };
        // Another process looks again first (`look`).
        if let Some(bound) = self.bound.as_mut().filter(ends).filter(|_| self.seen.is_some()) {
            bound.shared = None;
            san.rebind_shared(cx, bound, None).await?;
        }
        for stray in &self.strays {
            if let Some(volume) = &self.seen {
                san.array().ensure_unmapped(cx, &volume.id, &stray.id).await?;
            }
        }
        Ok(())
    }

    async fn remove(&mut self, cx: &Cx, san: &San) -> Result<Flow> {
        let Some(volume) = self.look(cx, san).await? else { return Ok(Flow::Next) };
        match san.array().ensure_no_volume(cx, &volume, san.deletion()).await {
            // It passes by itself, but perhaps not today: deleted clones stay recoverable for hours.
            Err(error)
                if error.kind() == ErrorKind::Busy
                    && self.bound.is_some()
                    && !is_tombstone(self.owner.object()) =>
            {
                self.later = Some(error.chain().to_string());
                Ok(Flow::Again(ENTOMB))
            }
            other => other.map(|_| Flow::Next),
        }
    }
}

#[async_trait]
impl Plan for Delete {
    fn steps(&self) -> &'static [&'static str] {
        &[
            "retire the device",
            "unmap it on the array",
            "delete its legs",
            "forget the attachment",
            "mark it as deleted where it cannot go yet",
            "remove it on the array",
            "tell the cluster",
        ]
    }

    fn direction(&self) -> Direction {
        Direction::Forward
    }

    fn is_committed(&self, step: usize) -> bool {
        TakeDown::is_committed(step) || step == FORGET
    }

    fn has_begun(&self, step: usize) -> bool {
        let is_mapped = !self.strays.is_empty() || !self.readers.is_empty();
        self.down.had_to_begin(step) || (is_mapped && step > UNMAP)
    }

    fn needs_lease(&self) -> bool {
        true
    }

    async fn prepare(&mut self, cx: &Cx, san: &San) -> Result<Option<Outcome>> {
        let bound = san.cluster().binding(cx, &self.owner).await?;
        let Some(volume) = san.find(cx, &self.owner, bound.as_ref()).await? else {
            if let Some(bound) = &bound {
                san.cluster().unbind(cx, &self.owner, &bound.id).await?;
            }
            // It may have been deleted elsewhere while this node still had it.
            self.readers = san.readers_here(cx, &self.owner, None).await?;
            let record = san.attachments().get(&self.owner).await?;
            if record.is_none() && self.readers.is_empty() {
                san.forget_readers(cx, &self.owner, None).await?;
                return Ok(Some(Outcome::Deleted));
            }
            if let Some(record) = record {
                san.require_unused(cx, &record).await?;
                self.down = TakeDown::of(record);
            }
            return Ok(None);
        };
        // The look brought it up to date, or made it.
        self.bound = san.cluster().binding(cx, &self.owner).await?;
        let mappings = san.sorted_mappings(cx, &volume).await?;
        self.readers = san.readers_here(cx, &self.owner, Some(&volume)).await?;
        let record = san.attachments().get(&self.owner).await?;
        if record.as_ref().is_none_or(|it| it.volume != volume.id) {
            self.strays.clone_from(&mappings.ours);
        }
        // Nobody elsewhere lets go of it for a refusal.
        if let Some(record) = record {
            san.require_unused(cx, &record).await?;
            self.down = TakeDown::of(record);
        }
        if is_tombstone(self.owner.object()) {
            // Whoever had it under its own name finds by himself that it is gone, this node too.
            san.require_nowhere_else(cx, &self.owner, &mappings).await?;
            if let Some(record) = san.attached().await?.into_iter().find(|it| it.volume == volume.id) {
                let message = format!("it is attached on this node still, as {}", record.owner.object());
                return Err(Error::new(ErrorKind::InUse, message).on(self.owner.object()));
            }
        }
        let volume = match san.release_elsewhere(cx, &self.owner, &volume, &mappings).await? {
            Ok(now) => {
                // Nobody has it any more. As long as somebody may, its number must not come to mean another volume.
                self.strays.extend(mappings.shared);
                now.unwrap_or(volume)
            }
            Err(held) => {
                self.wait_for(cx, san, &held).await?;
                volume
            }
        };
        self.key = Some(match &self.bound {
            Some(it) if it.id == volume.id => VolumeKey::Id(volume.id.clone()),
            _ => VolumeKey::Name(volume.name.clone()),
        });
        self.id = Some(volume.id.clone());
        // Others have none, and ours are gone before it is removed.
        self.seen = Some(unseen(volume));
        Ok(None)
    }

    async fn forward(&mut self, step: usize, cx: &Cx, san: &San) -> Result<Flow> {
        match step {
            UNMAP => {
                self.readers.forward(step, cx, san).await?;
                self.down.forward(step, cx, san).await?;
                self.end_strays(cx, san).await?;
            }
            ENTOMB if self.later.is_some() => {
                let bound = self.bound.as_ref().ok_or_else(|| {
                    Error::new(ErrorKind::Internal, "the volume was not looked up").on(self.owner.object())
                })?;
                san.entomb(cx, bound).await?;
            }
            REMOVE if self.later.is_some() => {}
            REMOVE => return self.remove(cx, san).await,
            FORGET => {
                self.forget_notes(cx, san).await?;
                if let Some(bound) = &self.bound {
                    san.cluster().unbind(cx, &self.owner, &bound.id).await?;
                }
            }
            ENTOMB => {}
            _ => {
                self.readers.forward(step, cx, san).await?;
                self.down.forward(step, cx, san).await?;
            }
        }
        Ok(Flow::Next)
    }

    fn outcome(&self, _san: &San) -> Outcome {
        match &self.later {
            Some(why) => Outcome::Deleting { why: why.clone() },
            None => Outcome::Deleted,
        }
    }
}

/// The volume once nobody sees it any more.
fn unseen(volume: Volume) -> Volume {
    Volume { mapped: Some(Vec::new()), readers: Some(Vec::new()), ..volume }
}
