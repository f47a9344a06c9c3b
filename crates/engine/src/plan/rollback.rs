//! Roll back: prove it unused everywhere, take it down here, put the snapshot's bytes back.

use async_trait::async_trait;
use san_core::{Cx, Error, ErrorKind, Owner, Result, SnapshotName};
use serde::{Deserialize, Serialize};

use super::detach::TakeDown;
use super::{Direction, Flow, Outcome, Plan};
use crate::cluster::Binding;
use crate::san::San;

const UNSIZE: usize = TakeDown::STEPS;
const ROLL_BACK: usize = UNSIZE + 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rollback {
    owner: Owner,
    snapshot: SnapshotName,
    bound: Option<Binding>,
    down: TakeDown,
}

impl Rollback {
    pub(crate) fn new(owner: Owner, snapshot: SnapshotName) -> Self {
        Self { owner, snapshot, bound: None, down: TakeDown::default() }
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    fn bound(&self) -> Result<&Binding> {
        self.bound.as_ref().ok_or_else(|| Error::new(ErrorKind::Internal, "the volume was not looked up"))
    }
}

#[async_trait]
impl Plan for Rollback {
    fn steps(&self) -> &'static [&'static str] {
        &[
            "retire the device",
            "unmap it on the array",
            "delete its legs",
            "forget the attachment",
            "forget its size",
            "put the snapshot's bytes back",
        ]
    }

    fn direction(&self) -> Direction {
        Direction::Forward
    }

    fn is_committed(&self, step: usize) -> bool {
        TakeDown::is_committed(step)
    }

    fn needs_lease(&self) -> bool {
        true
    }

    async fn prepare(&mut self, cx: &Cx, san: &San) -> Result<Option<Outcome>> {
        let bound = san.bound(cx, &self.owner).await?;
        let elsewhere = san.attached_elsewhere(cx, &self.owner).await?;
        if let Some(node) = elsewhere.first() {
            let message = format!("it is attached on node {node}");
            return Err(Error::new(ErrorKind::InUse, message)
                .on(self.owner.object())
                .with_remedy("stop what uses it there; its daemon detaches it then"));
        }
        if let Some(record) = san.attachments().get(&self.owner).await? {
            san.require_unused(cx, &record).await?;
            self.down = TakeDown::of(record);
        }
        self.bound = Some(bound);
        Ok(None)
    }

    async fn forward(&mut self, step: usize, cx: &Cx, san: &San) -> Result<Flow> {
        match step {
            // The snapshot may be of a smaller disk: until somebody asks the array, nobody knows its size.
            UNSIZE => {
                let bound = Binding { size: None, ..self.bound()?.clone() };
                san.cluster().bind(cx, &bound).await?;
            }
            ROLL_BACK => san.array().rollback(cx, &self.bound()?.to_volume(), &self.snapshot).await?,
            // What the node's cache holds of the old bytes goes with the device.
            _ => self.down.forward(step, cx, san).await?,
        }
        Ok(Flow::Next)
    }

    fn outcome(&self, _san: &San) -> Outcome {
        Outcome::RolledBack
    }
}
