//! Detach, in the order that alone beats both known races: map gone, legs offline, array's mapping gone, legs deleted.

use async_trait::async_trait;
use san_core::{Cx, Result, Retired, Visibility};
use serde::{Deserialize, Serialize};

use super::{Direction, Flow, Outcome, Plan};
use crate::disk_view::View;
use crate::idle::Asker;
use crate::record::Attachment;
use crate::san::San;

/// Takes one attachment down. The same steps serve detach, the undo of attach, and delete and roll back of a volume
/// that is still here.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct TakeDown {
    record: Option<Attachment>,
    retired: Option<Retired>,
}

impl TakeDown {
    pub(crate) fn of(record: Attachment) -> Self {
        Self { record: Some(record), retired: None }
    }

    pub(crate) fn record(&self) -> Option<&Attachment> {
        self.record.as_ref()
    }

    /// Proves the device unused, takes the link away, removes the map, puts the legs offline.
    pub(crate) async fn retire(&mut self, cx: &Cx, san: &San) -> Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        let Some(known) = record.known_legs() else { return Ok(()) };
        let device = match record.expected() {
            // One that cannot be inspected is judged by the device manager itself, leg by leg.
            Some(expect) => {
                let seen = san.inspect(cx, &expect, &record.ports).await.ok().flatten();
                san.await_scans(cx, record, &expect, seen).await
            }
            None => None,
        };
        if let Some(device) = &device {
            san.require_idle(cx, &record.view(), device).await?;
        }
        // Nobody may find it any more before it goes.
        san.unpublish(cx, &record.view()).await?;
        match san.devices().retire(cx, &known).await {
            Ok(retired) => {
                self.retired = Some(retired);
                Ok(())
            }
            Err(error) => {
                // It is still a whole device, as far as anybody knows: it stays where people look for it.
                if let Some(device) = &device {
                    san.publish(cx, &record.view(), device).await?;
                }
                Err(error)
            }
        }
    }

    /// Takes the array's mapping away, and what was made only to be read here.
    pub(crate) async fn unmap(&self, cx: &Cx, san: &San) -> Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        // What all nodes see goes with the volume only.
        if let Some(host) = record.host.as_ref().filter(|_| record.visibility == Visibility::PerNode) {
            san.array().ensure_unmapped(cx, &record.volume, &host.id).await?;
        }
        if record.reads.is_some() {
            san.array().ensure_no_reader(cx, &record.volume).await?;
        }
        Ok(())
    }

    /// Deletes the legs and proves them gone.
    pub(crate) async fn bury(&self, cx: &Cx, san: &San) -> Result<()> {
        match &self.retired {
            Some(retired) => san.devices().bury(cx, retired).await,
            None => Ok(()),
        }
    }

    /// Forgets the attachment here and in the cluster.
    pub(crate) async fn forget(&self, cx: &Cx, san: &San) -> Result<()> {
        let Some(record) = &self.record else { return Ok(()) };
        san.unmask(cx, record).await?;
        san.note_gone(cx, &record.view()).await?;
        san.attachments().remove(cx, &record.view()).await
    }

    /// One of the four steps. Repeatable.
    pub(crate) async fn forward(&mut self, step: usize, cx: &Cx, san: &San) -> Result<()> {
        match step {
            RETIRE => self.retire(cx, san).await,
            UNMAP => self.unmap(cx, san).await,
            BURY => self.bury(cx, san).await,
            FORGET => self.forget(cx, san).await,
            _ => Ok(()),
        }
    }

    /// All of it, for an operation of which it is one step.
    pub(crate) async fn all(&mut self, cx: &Cx, san: &San) -> Result<()> {
        for step in 0..Self::STEPS {
            self.forward(step, cx, san).await?;
        }
        Ok(())
    }

    /// Whether it has begun, so that it has to be ended.
    pub(crate) fn has_begun(&self) -> bool {
        self.retired.is_some()
    }

    /// Whether there was something to take down, and `step` comes after the first of it.
    pub(crate) fn had_to_begin(&self, step: usize) -> bool {
        self.record.is_some() && step > RETIRE
    }

    /// How many steps it has.
    pub(crate) const STEPS: usize = 4;

    /// The one that takes the array's mapping away.
    pub(crate) const UNMAP: usize = UNMAP;

    /// Whether it has begun and not ended when `step` is to be done.
    pub(crate) fn is_committed(step: usize) -> bool {
        step > RETIRE && step < Self::STEPS
    }
}

const RETIRE: usize = 0;
const UNMAP: usize = 1;
const BURY: usize = 2;
const FORGET: usize = 3;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Detach {
    #[serde(flatten)]
    view: View,
    #[serde(default)]
    on: Condition,
    /// Who needs it no longer.
    #[serde(skip)]
    asker: Option<Asker>,
    down: TakeDown,
}

/// When a volume is taken from this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Condition {
    /// In any case.
    #[default]
    Always,
    /// Unless somebody else for whom it was attached lives.
    Unwanted,
    /// Unless somebody has asked for it lately.
    Rested,
    /// Unless somebody may need it here, whom the refusal names.
    Unneeded,
}

impl Detach {
    pub(crate) fn new(view: View, on: Condition) -> Self {
        Self { view, on, asker: None, down: TakeDown::default() }
    }

    /// By one for whom it was attached, perhaps among others.
    pub(crate) fn by(view: View, asker: Option<Asker>) -> Self {
        let on = if asker.is_some() { Condition::Unwanted } else { Condition::Always };
        Self { asker, ..Self::new(view, on) }
    }

    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    /// The attachment that is being taken down, while the array still has its mapping.
    pub(crate) fn still_mapped(&self, step: usize) -> Option<&Attachment> {
        self.down.record().filter(|_| step <= UNMAP)
    }
}

#[async_trait]
impl Plan for Detach {
    fn steps(&self) -> &'static [&'static str] {
        &["retire the device", "unmap it on the array", "delete its legs", "forget it"]
    }

    fn direction(&self) -> Direction {
        Direction::Forward
    }

    fn is_committed(&self, step: usize) -> bool {
        TakeDown::is_committed(step)
    }

    /// Once the device is retired nobody here can write to it any more: a guest's stop does not wait for the array.
    fn may_end_later(&self, step: usize) -> bool {
        TakeDown::is_committed(step)
    }

    fn needs_lease(&self) -> bool {
        false
    }

    async fn prepare(&mut self, cx: &Cx, san: &San) -> Result<Option<Outcome>> {
        let stays = match self.on {
            Condition::Always | Condition::Unneeded => false,
            Condition::Unwanted => san.is_wanted(cx, &self.view, self.asker).await,
            Condition::Rested => !san.has_rested(cx, &self.view).await?,
        };
        if stays {
            return Ok(Some(Outcome::Detached { pending: None }));
        }
        let record = san.attachments().of(&self.view).await?;
        if self.on == Condition::Unneeded {
            match &record {
                // Whoever attached it a moment ago may not have opened it yet. Asked under the volume's lock, so that nobody is
                // handed the device between the question and its end.
                Some(_) => san.require_unneeded(cx, &self.view).await?,
                // A note of an attachment that this node has no record of is of an earlier life.
                None => san.cluster().note_detached(cx, &self.view.owner, san.node_name()).await?,
            }
        }
        match record {
            Some(record) => {
                self.down = TakeDown::of(record);
                Ok(None)
            }
            None => Ok(Some(Outcome::Detached { pending: None })),
        }
    }

    async fn forward(&mut self, step: usize, cx: &Cx, san: &San) -> Result<Flow> {
        self.down.forward(step, cx, san).await?;
        Ok(Flow::Next)
    }

    fn outcome(&self, _san: &San) -> Outcome {
        Outcome::Detached { pending: None }
    }
}
