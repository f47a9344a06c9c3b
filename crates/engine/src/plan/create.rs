//! Create, empty or as a clone: claim a name on the array, make the volume, tell the cluster.

use async_trait::async_trait;
use san_core::{
    ByteSize, CloneSpec, Cx, DeleteMode, Error, ErrorKind, Mark, Marked, OperationId, Owner, Result,
    SnapshotName, Visibility, Volume, VolumeKey, VolumeKind, VolumeSpec,
};
use serde::{Deserialize, Serialize};

use super::detach::TakeDown;
use super::rename::template_state;
use super::{Direction, Flow, Naming, Outcome, Plan};
use crate::cluster::{Binding, Tie};
use crate::idle::Asker;
use crate::san::San;

const NAME: usize = 0;
const VOLUME: usize = 1;
const SHARE: usize = 2;
const BIND: usize = 3;

/// What a clone is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Origin {
    source: Owner,
    /// Which state of it; `None`: the one it was made a template with.
    snapshot: Option<SnapshotName>,
    bound: Option<Binding>,
}

impl Origin {
    /// A linked clone carries the template's object in its mark; one of a snapshot is a disk like others.
    fn template(&self) -> Option<String> {
        self.snapshot.is_none().then(|| self.source.object().to_owned())
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Create {
    space: String,
    naming: Naming,
    size: ByteSize,
    /// What it is made of; `None` for an empty one.
    #[serde(default)]
    origin: Option<Origin>,
    /// Who fills it before it counts.
    #[serde(default)]
    importer: Option<Asker>,
    /// How it is mapped once it is there.
    #[serde(default)]
    visibility: Visibility,
    /// Whether it was handed out although nobody confirmed that, so that others may have taken it since.
    #[serde(default)]
    was_handed_out: bool,
    /// The name it is trying, and who it will be.
    owner: Option<Owner>,
    /// Names that were taken.
    taken: Vec<String>,
    /// What was made.
    made: Option<Binding>,
}

impl Create {
    pub(crate) fn new(san: &San, naming: Naming, size: ByteSize) -> Result<Self> {
        let size = san.checked_size(size)?;
        Self::made_of(san, naming, size, None)
    }

    /// The same for `importer`, who fills it before it counts: see `import.rs`.
    pub(crate) fn filled_by(self, importer: Asker) -> Self {
        Self { importer: Some(importer), ..self }
    }

    /// A clone of `source`, as it was at `snapshot` or, without one, when it was made a template.
    pub(crate) fn clone_of(
        san: &San,
        naming: Naming,
        source: Owner,
        snapshot: Option<SnapshotName>,
    ) -> Result<Self> {
        Self::made_of(san, naming, ByteSize::ZERO, Some(Origin { source, snapshot, bound: None }))
    }

    fn made_of(san: &San, naming: Naming, size: ByteSize, origin: Option<Origin>) -> Result<Self> {
        naming.check(san)?;
        Ok(Self {
            space: san.space().to_owned(),
            naming,
            size,
            origin,
            visibility: san.visibility(),
            importer: None,
            was_handed_out: false,
            owner: None,
            taken: Vec::new(),
            made: None,
        })
    }

    pub(crate) fn owner(&self) -> Option<&Owner> {
        self.owner.as_ref()
    }

    pub(crate) fn importer(&self) -> Option<Asker> {
        self.importer
    }

    /// Nobody has confirmed the answer, and it is to be taken back.
    pub(crate) fn note_handed_out(&mut self) {
        self.was_handed_out = true;
    }

    /// Whether a disk that was handed out to be filled stays although it is to be taken back. Asked anew before each step, for
    /// hours may lie between two of them. An error: it is not taken back now.
    pub(crate) async fn stays(&mut self, cx: &Cx, san: &San) -> Result<bool> {
        let filled = self.made.clone().filter(|_| self.importer.is_some() && self.was_handed_out);
        let Some(made) = filled else { return Ok(false) };
        let named = san.array().volume(cx, &VolumeKey::Name(made.name.clone())).await?;
        if !named.is_some_and(|it| it.id == made.id && is_claimed_by(&it, cx.operation())) {
            // A later operation has made it something else, such as a template, and nothing of that is ours; or it is gone.
            return Ok(san.array().volume(cx, &VolumeKey::Id(made.id)).await?.is_some());
        }
        let guests = san.cluster().guests_using(cx, &made.owner).await?;
        if guests.iter().any(|it| it.tie == Tie::Configured) {
            if san.cluster().binding(cx, &made.owner).await?.is_none() {
                self.forward(SHARE, cx, san).await?;
                self.forward(BIND, cx, san).await?;
            }
            return Ok(true);
        }
        match san.attached_elsewhere(cx, &made.owner).await?.first() {
            Some(node) => {
                Err(Error::new(ErrorKind::InUse, format!("node {node} has it, or may have it, attached"))
                    .on(made.owner.object()))
            }
            None => Ok(false),
        }
    }

    /// Who takes back what is being filled excludes whoever attaches it.
    pub(crate) fn lock_name(&self) -> String {
        match (&self.importer, &self.owner) {
            (Some(_), Some(owner)) => Naming::Exact(owner.object().to_owned()).lock_name(&self.space),
            _ => self.naming.lock_name(&self.space),
        }
    }

    pub(crate) fn verb(&self) -> &'static str {
        match (&self.origin, self.importer) {
            (Some(_), _) => "clone",
            (None, Some(_)) => "import",
            (None, None) => "create",
        }
    }

    fn claimed(&self) -> Result<&Owner> {
        self.owner.as_ref().ok_or_else(|| Error::new(ErrorKind::Internal, "the new volume has no name yet"))
    }

    async fn make(&self, cx: &Cx, san: &San) -> Result<Volume> {
        let owner = self.claimed()?.clone();
        let name = san.encode(&owner)?;
        let Some(origin) = &self.origin else {
            let apart_from = places_of_siblings(cx, san, &owner).await;
            let spec = VolumeSpec { name, owner, claim: cx.operation(), size: self.size, apart_from };
            return Ok(san.array().ensure_volume(cx, &spec).await?.into_inner());
        };
        let bound = origin.bound.as_ref();
        let bound = bound.ok_or_else(|| Error::new(ErrorKind::Internal, "the source was not looked up"))?;
        let mark = Mark { template: origin.template(), ..Mark::disk(owner, cx.operation()) };
        let snapshot = match &origin.snapshot {
            Some(it) => it.clone(),
            None => template_state()?,
        };
        let spec = CloneSpec { name, mark, source: bound.to_volume(), snapshot };
        Ok(san.array().ensure_clone(cx, &spec).await?.into_inner())
    }

    /// Takes it from this node, where it was attached to be filled. In use it stays.
    async fn take_down(&self, cx: &Cx, san: &San, made: &Binding) -> Result<()> {
        if san.intents().of(&made.owner).await?.iter().any(|it| it.id != cx.operation()) {
            let message = "another operation on it has not ended";
            return Err(Error::new(ErrorKind::Busy, message).on(made.owner.object()));
        }
        match san.attachments().get(&made.owner).await?.filter(|it| it.volume == made.id) {
            Some(record) => TakeDown::of(record).all(cx, san).await,
            None => Ok(()),
        }
    }

    /// Removes what this operation made under the name it claimed: nothing else, whatever its name.
    async fn remove(&self, cx: &Cx, san: &San) -> Result<()> {
        let Some(owner) = &self.owner else { return Ok(()) };
        let Some(volume) = san.array().volume(cx, &VolumeKey::Name(san.encode(owner)?)).await? else {
            return Ok(());
        };
        if is_claimed_by(&volume, cx.operation()) {
            san.array().ensure_no_volume(cx, &volume, DeleteMode::Immediate).await?;
        }
        Ok(())
    }
}

pub(super) fn is_claimed_by(volume: &Volume, claim: OperationId) -> bool {
    matches!(&volume.mark, Marked::Ours(mark) if mark.claim == claim)
}

/// Where the other disks of the same set are: those whose names differ in the number at the end only. As far as the cluster
/// knows it, for this is a wish.
async fn places_of_siblings(cx: &Cx, san: &San, owner: &Owner) -> Vec<String> {
    let stem = owner.object().trim_end_matches(|it: char| it.is_ascii_digit());
    if stem.len() == owner.object().len() {
        return Vec::new();
    }
    let is_sibling = |it: &Owner| {
        let number = it.object().strip_prefix(stem);
        number.is_some_and(|it| !it.is_empty() && it.bytes().all(|it| it.is_ascii_digit()))
    };
    let found = async {
        let mut places = Vec::new();
        for sibling in
            san.cluster().bound(cx, san.realm(), san.space()).await?.iter().filter(|it| is_sibling(it))
        {
            places.extend(san.cluster().binding(cx, sibling).await?.and_then(|it| it.place));
        }
        Ok::<_, Error>(places)
    };
    found.await.unwrap_or_else(|error| {
        tracing::debug!(volume = %owner, error = %error.chain(), "where its siblings are is not known");
        Vec::new()
    })
}

#[async_trait]
impl Plan for Create {
    fn steps(&self) -> &'static [&'static str] {
        &["choose a name", "make the volume", "map it for all nodes", "tell the cluster"]
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

    /// The claim decides between nodes; a lease would only add a wait.
    fn needs_lease(&self) -> bool {
        false
    }

    async fn prepare(&mut self, cx: &Cx, san: &San) -> Result<Option<Outcome>> {
        self.naming.require_unbound(cx, san).await?;
        if self.visibility == Visibility::Shared {
            san.require_number_for_all(cx).await?;
        }
        if let Some(importer) = self.importer {
            self.importer = Some(san.recognized(cx, importer).await);
        }
        if let Some(origin) = &mut self.origin {
            let bound = san.bound(cx, &origin.source).await?;
            if origin.snapshot.is_none() && bound.kind != VolumeKind::Template {
                let message = "it is no template, so a snapshot must be named";
                return Err(Error::new(ErrorKind::InvalidInput, message).on(origin.source.object()));
            }
            origin.bound = Some(bound);
        }
        Ok(None)
    }

    async fn forward(&mut self, step: usize, cx: &Cx, san: &San) -> Result<Flow> {
        match step {
            NAME => {
                self.owner = Some(self.naming.choose(cx, san, &self.taken).await?);
            }
            VOLUME => {
                let owner = self.claimed()?.clone();
                let volume = match self.make(cx, san).await {
                    Ok(volume) => volume,
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                        let object = owner.object().to_owned();
                        if matches!(self.naming, Naming::Exact(_)) {
                            return Err(Error::wrap(error, "the name is taken on the array").on(object));
                        }
                        self.taken.push(object);
                        return Ok(Flow::Again(NAME));
                    }
                    Err(error) => return Err(error),
                };
                self.made = Some(Binding {
                    identity: volume.identity()?.clone(),
                    owner,
                    place: volume.place,
                    id: volume.id,
                    name: volume.name,
                    size: Some(volume.size),
                    kind: VolumeKind::Disk,
                    template: self.origin.as_ref().and_then(Origin::template),
                    deleted: None,
                    shared: None,
                });
            }
            SHARE => {
                if let Some(made) = self.made.as_mut().filter(|_| self.visibility == Visibility::Shared) {
                    made.shared = Some(san.share(cx, &made.to_volume(), None).await?);
                }
            }
            BIND => {
                if let Some(binding) = &self.made {
                    san.cluster().bind(cx, binding).await?;
                }
            }
            _ => {}
        }
        Ok(Flow::Next)
    }

    async fn back(&mut self, step: usize, cx: &Cx, san: &San) -> Result<()> {
        match (step, &self.made) {
            (BIND, Some(made)) => {
                if self.importer.is_some() {
                    self.take_down(cx, san, made).await?;
                }
                san.cluster().unbind(cx, &made.owner, &made.id).await
            }
            // Whatever the storage is set to by now.
            (SHARE, Some(made)) if self.visibility == Visibility::Shared => san.unshare(cx, made).await,
            (VOLUME, _) => self.remove(cx, san).await,
            _ => Ok(()),
        }
    }

    fn outcome(&self, _san: &San) -> Outcome {
        let object = self.owner.as_ref().map(|it| it.object().to_owned()).unwrap_or_default();
        let size = self.made.as_ref().and_then(|it| it.size).unwrap_or(self.size);
        Outcome::Created { object, size, template: self.origin.as_ref().and_then(Origin::template) }
    }
}
