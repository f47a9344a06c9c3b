//! Create: claim a name on the array, make the volume, tell the cluster.

use async_trait::async_trait;
use san_core::{
    ByteSize, Cx, DeleteMode, Error, ErrorKind, Marked, OperationId, Owner, Result, Volume, VolumeKey,
    VolumeSpec,
};
use serde::{Deserialize, Serialize};

use super::{Direction, Flow, Naming, Outcome, Plan};
use crate::cluster::Binding;
use crate::san::San;

const NAME: usize = 0;
const VOLUME: usize = 1;
const BIND: usize = 2;

/// Names that look free in the cluster's bindings and are taken on the array: after so many the array is asked for all.
const SURPRISES: usize = 3;
/// More numbered disks of one stem there are not.
const NUMBERS: u32 = 10_000;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Create {
    realm: String,
    space: String,
    naming: Naming,
    size: ByteSize,
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
        let sample = match &naming {
            Naming::Exact(object) => object.clone(),
            Naming::Numbered { stem } => format!("{stem}{NUMBERS}"),
        };
        // Bad names are refused here, before anything is begun.
        san.encode(&san.owner(&sample)?)?;
        Ok(Self {
            realm: san.realm().to_owned(),
            space: san.space().to_owned(),
            naming,
            size,
            owner: None,
            taken: Vec::new(),
            made: None,
        })
    }

    pub(crate) fn owner(&self) -> Option<&Owner> {
        self.owner.as_ref()
    }

    pub(crate) fn lock_name(&self) -> String {
        match &self.naming {
            Naming::Exact(object) => format!("{}/{object}", self.space),
            Naming::Numbered { stem } => format!("{}/{stem}#", self.space),
        }
    }

    fn claimed(&self) -> Result<&Owner> {
        self.owner.as_ref().ok_or_else(|| Error::new(ErrorKind::Internal, "the new volume has no name yet"))
    }

    /// The lowest number that neither the cluster nor an earlier attempt knows.
    async fn choose(&mut self, cx: &Cx, san: &San) -> Result<Owner> {
        let stem = match &self.naming {
            Naming::Exact(object) => return san.owner(object),
            Naming::Numbered { stem } => stem.clone(),
        };
        let mut known: Vec<String> = Vec::new();
        for owner in san.cluster().bound(cx, &self.realm, &self.space).await? {
            if owner.object().starts_with(&stem) {
                known.push(owner.object().to_owned());
            }
        }
        if self.taken.len() >= SURPRISES {
            // The bindings do not tell the truth here; the array does.
            known.extend(san.disks(cx).await?.into_iter().map(|it| it.owner.object().to_owned()));
        }
        let free = (0..NUMBERS)
            .map(|it| format!("{stem}{it}"))
            .find(|it| !known.contains(it) && !self.taken.contains(it));
        let object = free.ok_or_else(|| {
            Error::new(
                ErrorKind::LimitReached,
                format!("all {NUMBERS} names beginning with {stem} are taken"),
            )
        })?;
        san.owner(&object)
    }

    fn spec(&self, san: &San, claim: OperationId) -> Result<VolumeSpec> {
        let owner = self.claimed()?.clone();
        Ok(VolumeSpec { name: san.encode(&owner)?, owner, claim, size: self.size })
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

fn is_claimed_by(volume: &Volume, claim: OperationId) -> bool {
    matches!(&volume.mark, Marked::Ours(mark) if mark.claim == claim)
}

#[async_trait]
impl Plan for Create {
    fn steps(&self) -> &'static [&'static str] {
        &["choose a name", "make the volume", "tell the cluster"]
    }

    fn direction(&self) -> Direction {
        Direction::Undo
    }

    fn is_committed(&self, _step: usize) -> bool {
        false
    }

    /// The claim decides between nodes; a lease would only add a wait.
    fn needs_lease(&self) -> bool {
        false
    }

    async fn prepare(&mut self, cx: &Cx, san: &San) -> Result<Option<Outcome>> {
        if let Naming::Exact(object) = &self.naming {
            let owner = san.owner(object)?;
            if let Some(binding) = san.cluster().binding(cx, &owner).await? {
                let known = san.array().volume(cx, &VolumeKey::Id(binding.id.clone())).await?;
                if known.is_some() {
                    return Err(taken(object));
                }
                san.cluster().unbind(cx, &owner, &binding.id).await?;
            }
        }
        Ok(None)
    }

    async fn forward(&mut self, step: usize, cx: &Cx, san: &San) -> Result<Flow> {
        match step {
            NAME => {
                self.owner = Some(self.choose(cx, san).await?);
            }
            VOLUME => {
                let spec = self.spec(san, cx.operation())?;
                let volume = match san.array().ensure_volume(cx, &spec).await {
                    Ok(volume) => volume.into_inner(),
                    Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                        let object = spec.owner.object().to_owned();
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
                    owner: spec.owner,
                    id: volume.id,
                    name: volume.name,
                    size: Some(volume.size),
                });
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
            (BIND, Some(made)) => san.cluster().unbind(cx, &made.owner, &made.id).await,
            (VOLUME, _) => self.remove(cx, san).await,
            _ => Ok(()),
        }
    }

    fn outcome(&self, _san: &San) -> Outcome {
        let object = self.owner.as_ref().map(|it| it.object().to_owned()).unwrap_or_default();
        let size = self.made.as_ref().and_then(|it| it.size).unwrap_or(self.size);
        Outcome::Created { object, size }
    }
}

fn taken(object: &str) -> Error {
    Error::new(ErrorKind::AlreadyExists, "a volume of this name exists").on(object)
}
