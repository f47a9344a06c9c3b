//! Rename: take the device down here, give the volume another name and mark, tell the cluster. Making a template is the same
//! with a snapshot before it, of which all clones will be made.

use async_trait::async_trait;
use san_core::{
    Cx, Error, ErrorKind, Mark, Marked, Owner, Result, SnapshotName, SnapshotSet, Volume, VolumeKey,
    VolumeKind,
};
use serde::{Deserialize, Serialize};

use super::detach::TakeDown;
use super::naming::taken;
use super::{Direction, Flow, Naming, Outcome, Plan};
use crate::cluster::{Binding, Tie};
use crate::readers::LocalReaders;
use crate::san::San;
use crate::site::require_ours;

const TAKE_DOWN: usize = 0;
const NAME: usize = 1;
const KEEP_STATE: usize = 2;
const RENAME: usize = 3;
const BIND: usize = 4;
const UNBIND: usize = 5;

/// The name of the snapshot that a template's clones are made of. Longer than the names that PVE takes from people.
const TEMPLATE_STATE: &str = "sanbridge-state-of-the-template-that-its-clones-are-made-of";

/// The state of a template that its clones begin with.
pub(crate) fn template_state() -> Result<SnapshotName> {
    TEMPLATE_STATE.parse()
}

/// Whether a snapshot was taken because somebody asked for it.
pub(crate) fn is_asked_for(snapshot: &SnapshotName) -> bool {
    snapshot.as_str() != TEMPLATE_STATE
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rename {
    owner: Owner,
    naming: Naming,
    /// What it is afterwards; `None`: what it was.
    becomes: Option<VolumeKind>,
    /// As it was.
    bound: Option<Binding>,
    mark: Option<Mark>,
    down: TakeDown,
    /// What reads snapshots of it here.
    #[serde(default)]
    readers: LocalReaders,
    /// The name it is trying.
    to: Option<Owner>,
    /// Names that were taken.
    taken: Vec<String>,
    /// Whether it keeps its new name, although nobody confirmed it: somebody uses it by that. `None`: not asked yet.
    #[serde(default)]
    kept: Option<bool>,
}

impl Rename {
    pub(crate) fn new(san: &San, owner: Owner, naming: Naming, becomes: Option<VolumeKind>) -> Result<Self> {
        naming.check(san)?;
        if naming == Naming::Exact(owner.object().to_owned()) {
            return Err(Error::new(ErrorKind::InvalidInput, "it has that name already").on(owner.object()));
        }
        Ok(Self {
            owner,
            naming,
            becomes,
            bound: None,
            mark: None,
            down: TakeDown::default(),
            readers: LocalReaders::default(),
            to: None,
            taken: Vec::new(),
            kept: None,
        })
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Who it will be, once that is known.
    pub(crate) fn to(&self) -> Option<&Owner> {
        self.to.as_ref()
    }

    fn known(&self) -> Result<(&Binding, &Mark)> {
        let known = self.bound.as_ref().zip(self.mark.as_ref());
        known.ok_or_else(|| Error::new(ErrorKind::Internal, "the volume to rename was not looked up"))
    }

    fn target(&self) -> Result<&Owner> {
        self.to.as_ref().ok_or_else(|| Error::new(ErrorKind::Internal, "the volume has no new name yet"))
    }

    pub(crate) fn verb(&self) -> &'static str {
        if self.is_made_template() { "make a template of" } else { "rename" }
    }

    fn is_made_template(&self) -> bool {
        self.becomes == Some(VolumeKind::Template)
    }

    async fn rename(&self, cx: &Cx, san: &San) -> Result<()> {
        let (bound, mark) = self.known()?;
        let to = self.target()?;
        let mark = Mark {
            owner: to.clone(),
            claim: cx.operation(),
            kind: self.becomes.unwrap_or(mark.kind),
            template: mark.template.clone(),
        };
        san.array().rename(cx, &bound.to_volume(), &san.encode(to)?, &mark).await
    }

    /// Gives it its old name back. Also where the array shows it already: a job that was given up may still mean to rename it,
    /// and comes before this one.
    async fn rename_back(&self, cx: &Cx, san: &San) -> Result<()> {
        let (bound, mark) = self.known()?;
        match san.array().volume(cx, &VolumeKey::Id(bound.id.clone())).await? {
            Some(_) => san.array().rename(cx, &bound.to_volume(), &bound.name, mark).await,
            None => Ok(()),
        }
    }

    /// Whether somebody uses it by its new name: taken back, it would be gone under him.
    async fn is_used_as_new(&self, cx: &Cx, san: &San) -> Result<bool> {
        let (Some(to), Some(bound)) = (&self.to, &self.bound) else { return Ok(false) };
        let Some(volume) = san.array().volume(cx, &VolumeKey::Id(bound.id.clone())).await? else {
            return Ok(false);
        };
        if volume.name != san.encode(to)? {
            return Ok(false);
        }
        let mappings = san.sorted_mappings(cx, &volume).await?;
        let is_mapped = !mappings.ours.is_empty() || !mappings.others.is_empty();
        let guests = san.cluster().guests_using(cx, to).await?;
        Ok(is_mapped
            || !san.cluster().attached_on(cx, to).await?.is_empty()
            || guests.iter().any(|it| it.tie == Tie::Configured))
    }

    /// The cluster knows it by its new name only.
    async fn tell_cluster(&self, cx: &Cx, san: &San) -> Result<()> {
        san.cluster().bind(cx, &self.rebound(san)?).await?;
        self.forget_old_name(cx, san).await
    }

    /// Nobody had it mapped; notes that say otherwise are of a node that is gone, or of this one before it took it down.
    async fn forget_old_name(&self, cx: &Cx, san: &San) -> Result<()> {
        for node in san.cluster().attached_on(cx, &self.owner).await? {
            san.cluster().note_detached(cx, &self.owner, &node).await?;
        }
        san.forget_readers(cx, &self.owner, None).await?;
        san.cluster().note_overwriting(cx, &self.owner, None).await?;
        san.cluster().unbind(cx, &self.owner, &self.known()?.0.id).await
    }

    async fn keep_state(&self, cx: &Cx, san: &San) -> Result<()> {
        let (bound, _) = self.known()?;
        let set = SnapshotSet { volumes: vec![bound.to_volume()], name: template_state()? };
        san.array().snapshot(cx, &set).await.map(drop)
    }

    async fn forget_state(&self, cx: &Cx, san: &San) -> Result<()> {
        let (bound, _) = self.known()?;
        let (volume, name) = (bound.to_volume(), template_state()?);
        let taken = san.array().snapshots(cx, &volume).await?;
        if taken.iter().any(|it| it.name == name && it.claim == Some(cx.operation())) {
            san.array().ensure_no_snapshot(cx, &volume, &name).await?;
        }
        Ok(())
    }

    /// The binding under the new name.
    fn rebound(&self, san: &San) -> Result<Binding> {
        let (bound, mark) = self.known()?;
        let owner = self.target()?.clone();
        let kind = self.becomes.unwrap_or(mark.kind);
        Ok(Binding { name: san.encode(&owner)?, owner, kind, ..bound.clone() })
    }

    /// Refuses a template of a disk with snapshots: nobody could roll it back any more.
    async fn require_fit(&self, cx: &Cx, san: &San, volume: &Volume, mark: &Mark) -> Result<()> {
        let conflict =
            |message: String| Err(Error::new(ErrorKind::Conflict, message).on(self.owner.object()));
        if !self.is_made_template() {
            return Ok(());
        }
        if mark.kind == VolumeKind::Template {
            return conflict("it is a template already".to_owned());
        }
        let snapshots = san.array().snapshots(cx, volume).await?;
        match snapshots.iter().find(|it| is_asked_for(&it.name)) {
            Some(it) => conflict(format!("it has a snapshot, {}, and a template has none", it.name)),
            None => Ok(()),
        }
    }

    /// Refuses a name that is taken, before a device is taken down for it.
    async fn require_free(&self, cx: &Cx, san: &San) -> Result<()> {
        self.naming.require_unbound(cx, san).await?;
        let Naming::Exact(object) = &self.naming else { return Ok(()) };
        let name = VolumeKey::Name(san.encode(&san.owner(object)?)?);
        match san.array().volume(cx, &name).await? {
            Some(_) => Err(taken(object)),
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Plan for Rename {
    fn steps(&self) -> &'static [&'static str] {
        &[
            "take down the device here",
            "choose a name",
            "keep the state that clones are made of",
            "rename it on the array",
            "tell the cluster the new name",
            "make the cluster forget the old name",
        ]
    }

    fn direction(&self) -> Direction {
        Direction::Undo
    }

    fn is_committed(&self, _step: usize) -> bool {
        false
    }

    fn outlasts_outages(&self) -> bool {
        true
    }

    fn needs_lease(&self) -> bool {
        true
    }

    async fn prepare(&mut self, cx: &Cx, san: &San) -> Result<Option<Outcome>> {
        // By its name, since only that shows the mark.
        let bound = san.cluster().binding(cx, &self.owner).await?;
        let name = VolumeKey::Name(san.encode(&self.owner)?);
        let volume = san.array().volume(cx, &name).await?.ok_or_else(|| san.no_such(&self.owner))?;
        require_ours(&self.owner, &volume, None)?;
        let identity = volume.identity()?;
        if bound.as_ref().is_some_and(|it| it.id == volume.id && it.identity != *identity) {
            let message = "it does not have the identity that is on record for it";
            return Err(Error::new(ErrorKind::IdentityMismatch, message).on(&volume.name));
        }
        let Marked::Ours(mark) = volume.mark.clone() else { return Err(san.no_such(&self.owner)) };
        self.require_fit(cx, san, &volume, &mark).await?;
        if bound.is_none() {
            san.note_whoever_may_have(cx, &self.owner, &volume).await?;
        }
        let mappings = san.sorted_mappings(cx, &volume).await?;
        self.readers = san.readers_here(cx, &self.owner, Some(&volume)).await?;
        self.require_free(cx, san).await?;
        if let Some(record) = san.attachments().get(&self.owner).await? {
            san.require_unused(cx, &record).await?;
            self.down = TakeDown::of(record);
        }
        let volume = match san.release_elsewhere(cx, &self.owner, &volume, &mappings).await? {
            Ok(now) => now.unwrap_or(volume),
            Err(held) => return Err(held.refusal(&self.owner)),
        };
        san.rebind(cx, &self.owner, &volume, bound.as_ref()).await?;
        self.bound = Some(san.bound(cx, &self.owner).await?);
        self.mark = Some(mark);
        Ok(None)
    }

    async fn forward(&mut self, step: usize, cx: &Cx, san: &San) -> Result<Flow> {
        match step {
            TAKE_DOWN => {
                self.readers.all(cx, san).await?;
                self.down.all(cx, san).await?;
            }
            NAME => self.to = Some(self.naming.choose(cx, san, &self.taken).await?),
            KEEP_STATE if self.is_made_template() => self.keep_state(cx, san).await?,
            RENAME => match self.rename(cx, san).await {
                Err(error)
                    if error.kind() == ErrorKind::AlreadyExists
                        && matches!(self.naming, Naming::Numbered { .. }) =>
                {
                    let object = self.target()?.object().to_owned();
                    self.taken.push(object);
                    return Ok(Flow::Again(NAME));
                }
                other => other?,
            },
            BIND => san.cluster().bind(cx, &self.rebound(san)?).await?,
            UNBIND => self.forget_old_name(cx, san).await?,
            _ => {}
        }
        Ok(Flow::Next)
    }

    async fn back(&mut self, step: usize, cx: &Cx, san: &San) -> Result<()> {
        if self.kept.is_none() && step >= RENAME {
            let is_used = self.is_used_as_new(cx, san).await?;
            if is_used {
                tracing::warn!(volume = %self.owner, "somebody uses it by its new name already: it keeps it");
                self.tell_cluster(cx, san).await?;
            }
            self.kept = Some(is_used);
        }
        if self.kept == Some(true) {
            return Ok(());
        }
        match step {
            // Nobody uses it: what has been begun of its detaching is ended.
            TAKE_DOWN => {
                if self.readers.have_begun() {
                    self.readers.all(cx, san).await?;
                }
                if self.down.has_begun() { self.down.all(cx, san).await } else { Ok(()) }
            }
            KEEP_STATE if self.is_made_template() => self.forget_state(cx, san).await,
            RENAME => self.rename_back(cx, san).await,
            BIND => match &self.to {
                Some(to) => san.cluster().unbind(cx, to, &self.known()?.0.id).await,
                None => Ok(()),
            },
            UNBIND => san.cluster().bind(cx, self.known()?.0).await,
            _ => Ok(()),
        }
    }

    fn outcome(&self, _san: &San) -> Outcome {
        let object = self.to.as_ref().map(|it| it.object().to_owned()).unwrap_or_default();
        Outcome::Renamed { object, template: self.mark.as_ref().and_then(|it| it.template.clone()) }
    }
}
