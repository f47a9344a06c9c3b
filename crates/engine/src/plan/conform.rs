//! Conform: a disk gets the settings that its storage has been given since it was made.

use async_trait::async_trait;
use san_core::{Cx, Deviation, Error, ErrorKind, Owner, Policies, Result};
use serde::{Deserialize, Serialize};

use super::{Direction, Flow, Outcome, Plan};
use crate::cluster::Binding;
use crate::san::San;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Conform {
    owner: Owner,
    bound: Option<Binding>,
    changed: Vec<Deviation>,
}

impl Conform {
    pub(crate) fn new(owner: Owner) -> Self {
        Self { owner, bound: None, changed: Vec::new() }
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }
}

impl San {
    /// The array's way to compare volumes with their settings.
    fn policies(&self) -> Result<&dyn Policies> {
        self.array().policies().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "volumes of this array have no settings to compare")
        })
    }

    /// What of a disk's settings on the array is not as its storage says. Changes nothing.
    ///
    /// # Errors
    /// `Unsupported` where volumes of this array have no such settings.
    pub async fn review(&self, cx: &Cx, object: &str) -> Result<Vec<Deviation>> {
        let bound = self.bound(cx, &self.owner(object)?).await?;
        self.policies()?.review(cx, &bound.to_volume()).await
    }
}

#[async_trait]
impl Plan for Conform {
    fn steps(&self) -> &'static [&'static str] {
        &["set it on the array as configured"]
    }

    fn direction(&self) -> Direction {
        Direction::Forward
    }

    fn is_committed(&self, _step: usize) -> bool {
        false
    }

    fn needs_lease(&self) -> bool {
        true
    }

    async fn prepare(&mut self, cx: &Cx, san: &San) -> Result<Option<Outcome>> {
        san.policies()?;
        self.bound = Some(san.bound(cx, &self.owner).await?);
        Ok(None)
    }

    async fn forward(&mut self, _step: usize, cx: &Cx, san: &San) -> Result<Flow> {
        if let Some(bound) = &self.bound {
            self.changed = san.policies()?.apply(cx, &bound.to_volume()).await?;
        }
        Ok(Flow::Next)
    }

    fn outcome(&self, _san: &San) -> Outcome {
        Outcome::Conformed { changed: self.changed.clone() }
    }
}
