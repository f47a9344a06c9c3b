//! Split: a linked clone is to become independent of its template. The array works on that by itself, for hours if it has to,
//! while the clone is used; the operation ends when the array has taken it on. How far it is, only the array knows.

use async_trait::async_trait;
use san_core::{Cx, Error, ErrorKind, Lineage, Owner, Result, Splits};
use serde::{Deserialize, Serialize};

use super::{Direction, Flow, Outcome, Plan};
use crate::cluster::Binding;
use crate::san::San;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Split {
    owner: Owner,
    bound: Option<Binding>,
}

impl Split {
    pub(crate) fn new(owner: Owner) -> Self {
        Self { owner, bound: None }
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }
}

impl San {
    /// What makes clones independent on this array.
    ///
    /// # Errors
    /// `Unsupported` where nothing does.
    pub(crate) fn splits(&self) -> Result<&dyn Splits> {
        self.array().splits().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "this array cannot make clones independent")
                .with_remedy("move the disk to another storage and back: the copy is independent")
        })
    }

    /// Whether a disk hangs on what it was cloned from, and how far it is on its way from there. One request.
    pub async fn lineage(&self, cx: &Cx, object: &str) -> Result<Lineage> {
        let bound = self.bound(cx, &self.owner(object)?).await?;
        self.splits()?.lineage(cx, &bound.to_volume()).await
    }
}

#[async_trait]
impl Plan for Split {
    fn steps(&self) -> &'static [&'static str] {
        &["let the array split it"]
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
        san.splits()?;
        let bound = san.bound(cx, &self.owner).await?;
        // Its mark is read, not only its binding: what is split cannot be joined again.
        san.find(cx, &self.owner, Some(&bound)).await?.ok_or_else(|| san.no_such(&self.owner))?;
        self.bound = Some(bound);
        Ok(None)
    }

    async fn forward(&mut self, _step: usize, cx: &Cx, san: &San) -> Result<Flow> {
        let bound = self
            .bound
            .as_ref()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "the clone to split was not looked up"))?;
        san.splits()?.ensure_splitting(cx, &bound.to_volume()).await?;
        Ok(Flow::Next)
    }

    fn outcome(&self, _san: &San) -> Outcome {
        Outcome::Splitting
    }
}
