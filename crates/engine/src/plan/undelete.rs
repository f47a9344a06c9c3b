//! Undelete: a deleted volume is brought back under its name, and the cluster told. It only goes forward: what is half back is
//! nobody's loss, and the next attempt ends it.

use async_trait::async_trait;
use san_core::{ByteSize, Cx, Deleted, Error, ErrorKind, Owner, RecoveryQueue, Result, VolumeKey};
use serde::{Deserialize, Serialize};

use super::naming::taken;
use super::{Direction, Flow, Naming, Outcome, Plan};
use crate::san::San;

const RECOVER: usize = 0;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Undelete {
    owner: Owner,
    /// Which of several that had the name, as the array calls it.
    chosen: Option<String>,
    deleted: Option<Deleted>,
    size: ByteSize,
    template: Option<String>,
}

impl Undelete {
    pub(crate) fn new(owner: Owner, chosen: Option<String>) -> Self {
        Self { owner, chosen, deleted: None, size: ByteSize::ZERO, template: None }
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The one that is meant.
    async fn find(&self, cx: &Cx, san: &San) -> Result<Deleted> {
        let name = san.encode(&self.owner)?;
        let mut kept = san.recovery_queue()?.deleted(cx, &san.query()).await?;
        kept.retain(|it| it.name == name && self.chosen.as_ref().is_none_or(|chosen| *chosen == it.queued));
        match kept.len() {
            0 => Err(Error::new(ErrorKind::NotFound, "the array keeps no deleted volume of this name")
                .on(self.owner.object())
                .with_remedy("sanbridge undelete lists those it keeps")),
            1 => Ok(kept.remove(0)),
            _ => {
                let names: Vec<&str> = kept.iter().map(|it| it.queued.as_str()).collect();
                let message = format!("several deleted volumes had this name: {}", names.join(", "));
                Err(Error::new(ErrorKind::Conflict, message)
                    .on(self.owner.object())
                    .with_remedy("say with --queued which one; the one deleted last is usually meant"))
            }
        }
    }
}

impl San {
    pub(crate) fn recovery_queue(&self) -> Result<&dyn RecoveryQueue> {
        self.array()
            .recovery_queue()
            .ok_or_else(|| Error::new(ErrorKind::Unsupported, "this array does not keep what was deleted"))
    }

    /// The deleted volumes of this storage that the array keeps, with their owners where the names still tell them.
    pub async fn deleted(&self, cx: &Cx) -> Result<Vec<(Option<Owner>, Deleted)>> {
        let kept = self.recovery_queue()?.deleted(cx, &self.query()).await?;
        Ok(kept.into_iter().map(|it| (self.shared().codec.decode(it.name.as_str()), it)).collect())
    }
}

#[async_trait]
impl Plan for Undelete {
    fn steps(&self) -> &'static [&'static str] {
        &["bring it back from the recovery queue", "tell the cluster"]
    }

    fn direction(&self) -> Direction {
        Direction::Forward
    }

    fn is_committed(&self, step: usize) -> bool {
        step > RECOVER
    }

    fn needs_lease(&self) -> bool {
        true
    }

    async fn prepare(&mut self, cx: &Cx, san: &San) -> Result<Option<Outcome>> {
        let exact = Naming::Exact(self.owner.object().to_owned());
        exact.require_unbound(cx, san).await?;
        if san.array().volume(cx, &VolumeKey::Name(san.encode(&self.owner)?)).await?.is_some() {
            return Err(taken(self.owner.object()).with_remedy("rename or delete the one that is there"));
        }
        self.deleted = Some(self.find(cx, san).await?);
        Ok(None)
    }

    async fn forward(&mut self, step: usize, cx: &Cx, san: &San) -> Result<Flow> {
        if step == RECOVER {
            let deleted = self
                .deleted
                .as_ref()
                .ok_or_else(|| Error::new(ErrorKind::Internal, "the deleted volume was not looked up"))?;
            san.recovery_queue()?.ensure_recovered(cx, deleted, &self.owner).await?;
        } else if let Some(volume) = san.find(cx, &self.owner, None).await? {
            // The look has written the binding.
            self.size = volume.size;
            self.template = san.cluster().binding(cx, &self.owner).await?.and_then(|it| it.template);
        }
        Ok(Flow::Next)
    }

    fn outcome(&self, _san: &San) -> Outcome {
        Outcome::Undeleted {
            object: self.owner.object().to_owned(),
            size: self.size,
            template: self.template.clone(),
        }
    }
}
