//! Roll back: prove it unused everywhere, take it down here, put the snapshot's bytes back.

use async_trait::async_trait;
use san_core::{Cx, EffectState, Error, ErrorKind, Owner, Result, SnapshotName};
use serde::{Deserialize, Serialize};

use super::detach::TakeDown;
use super::{Direction, Flow, Outcome, Plan};
use crate::cluster::Binding;
use crate::release::Held;
use crate::san::San;

const FIRST: usize = 0;
const UNSIZE: usize = TakeDown::STEPS;
const ROLL_BACK: usize = UNSIZE + 1;
const DONE: usize = ROLL_BACK + 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Rollback {
    owner: Owner,
    snapshot: SnapshotName,
    bound: Option<Binding>,
    down: TakeDown,
    /// Whether this process, under this lease, has just proved that nobody uses it.
    #[serde(skip)]
    is_proved: bool,
}

impl Rollback {
    pub(crate) fn new(owner: Owner, snapshot: SnapshotName) -> Self {
        Self { owner, snapshot, bound: None, down: TakeDown::default(), is_proved: false }
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    fn disturbed(&self, what: &str) -> Error {
        Error::new(ErrorKind::Cancelled, format!("it was not rolled back any more: {what}"))
            .with_effect(EffectState::None)
            .on(self.owner.object())
            .with_remedy("look at its bytes, and roll it back again if that is still wanted")
    }

    /// Whoever attached or changed it since has taken our note away; whoever has it is noted.
    async fn require_unattached(&self, cx: &Cx, san: &San) -> Result<()> {
        if san.cluster().overwriting(cx, &self.owner).await? != Some(cx.operation()) {
            return Err(self.disturbed("another operation came in between"));
        }
        match san.cluster().attached_on(cx, &self.owner).await?.first() {
            Some(node) => Err(self.disturbed(&format!("it is attached on node {node}"))),
            None => Ok(()),
        }
    }

    /// Repeats all proofs for a roll back that goes on later: nothing may have happened to the volume since.
    async fn require_undisturbed(&self, cx: &Cx, san: &San) -> Result<()> {
        let bound = self.bound()?;
        self.require_unattached(cx, san).await?;
        let volume = match san.find(cx, &self.owner, Some(bound)).await? {
            Some(volume) if volume.id == bound.id => volume,
            _ => return Err(self.disturbed("it is another volume by now")),
        };
        match volume.mapped.iter().flatten().next() {
            Some(host) => Err(self.disturbed(&format!("it is mapped to {}", host.name))),
            None => Ok(()),
        }
    }

    /// Takes our note away, where nobody has done so.
    async fn forget_intention(&self, cx: &Cx, san: &San) -> Result<()> {
        if san.cluster().overwriting(cx, &self.owner).await? == Some(cx.operation()) {
            san.cluster().note_overwriting(cx, &self.owner, None).await?;
        }
        Ok(())
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
            "forget its size and how all nodes see it",
            "put the snapshot's bytes back",
            "tell the cluster",
        ]
    }

    fn direction(&self) -> Direction {
        Direction::Forward
    }

    fn is_committed(&self, step: usize) -> bool {
        TakeDown::is_committed(step) || step == DONE
    }

    fn has_begun(&self, step: usize) -> bool {
        let was_shared = self.bound.as_ref().is_some_and(|it| it.shared.is_some());
        self.down.had_to_begin(step) || (was_shared && step > UNSIZE)
    }

    async fn give_up(&mut self, cx: &Cx, san: &San) -> Result<()> {
        self.forget_intention(cx, san).await
    }

    fn needs_lease(&self) -> bool {
        true
    }

    async fn prepare(&mut self, cx: &Cx, san: &San) -> Result<Option<Outcome>> {
        let bound = san.bound(cx, &self.owner).await?;
        if let Some(record) = san.attachments().get(&self.owner).await? {
            san.require_unused(cx, &record).await?;
            self.down = TakeDown::of(record);
        }
        let elsewhere = san.attached_elsewhere(cx, &self.owner).await?;
        if !elsewhere.is_empty() {
            let held = san.ask_release(cx, &self.owner, &elsewhere).await?;
            if let Some(held) = held.first() {
                return Err(held.refusal(&self.owner));
            }
            if let Some(node) = san.attached_elsewhere(cx, &self.owner).await?.into_iter().next() {
                return Err(Held::Kept(node, "it was attached again".to_owned()).refusal(&self.owner));
            }
        }
        self.bound = Some(bound);
        self.is_proved = true;
        Ok(None)
    }

    async fn forward(&mut self, step: usize, cx: &Cx, san: &San) -> Result<Flow> {
        match step {
            UNSIZE => {
                let bound = self.bound()?;
                if !self.is_proved {
                    // Somebody may have begun to use it since, and it must not be pulled from under him.
                    self.require_unattached(cx, san).await?;
                }
                // The snapshot may be of a smaller disk: until somebody asks the array, nobody knows its size.
                san.rebind_size(cx, bound, None).await?;
                // Nobody may begin to look at it in the middle; the next attach maps it for all nodes again.
                san.rebind_shared(cx, bound, None).await?;
                if bound.shared.is_some() || san.is_for_all() {
                    san.unshare(cx, bound).await?;
                }
            }
            ROLL_BACK => {
                if !std::mem::take(&mut self.is_proved) {
                    self.require_undisturbed(cx, san).await?;
                }
                san.array().rollback(cx, &self.bound()?.to_volume(), &self.snapshot).await?;
            }
            DONE => self.forget_intention(cx, san).await?,
            // What the node's cache holds of the old bytes goes with the device.
            _ => {
                if step == FIRST && self.is_proved {
                    // Before anything is done: whoever comes in between takes it away, and is never overwritten.
                    san.cluster().note_overwriting(cx, &self.owner, Some(cx.operation())).await?;
                }
                self.down.forward(step, cx, san).await?;
            }
        }
        Ok(Flow::Next)
    }

    fn outcome(&self, _san: &San) -> Outcome {
        Outcome::RolledBack
    }
}
