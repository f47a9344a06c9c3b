//! Take and delete snapshots.

use async_trait::async_trait;
use san_core::{Cx, Error, ErrorKind, Owner, Result, SnapshotName, SnapshotSet, Usage};
use serde::{Deserialize, Serialize};

use super::detach::TakeDown;
use super::{Direction, Flow, Outcome, Plan};
use crate::cluster::Binding;
use crate::disk_view::View;
use crate::san::San;

const FLUSH: usize = 0;
const SNAPSHOT: usize = 1;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct TakeSnapshot {
    owner: Owner,
    snapshot: SnapshotName,
    bound: Option<Binding>,
}

impl TakeSnapshot {
    pub(crate) fn new(owner: Owner, snapshot: SnapshotName) -> Self {
        Self { owner, snapshot, bound: None }
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// What a stopped guest left in this node's cache belongs into the snapshot. A device in use is left alone: its user
    /// decides what is written when, and a flush would stall it.
    async fn flush(&self, cx: &Cx, san: &San) -> Result<()> {
        let Some(record) = san.attachments().get(&self.owner).await? else { return Ok(()) };
        let Some(expect) = record.expected() else { return Ok(()) };
        if !san.cluster().attached_on(cx, &self.owner).await?.contains(san.node_name()) {
            // Another node has ended our mapping: what is left here leads nowhere, and a flush of it would not end.
            return Ok(());
        }
        if let Some(device) = san.inspect(cx, &expect, &record.ports).await?
            && san.devices().usage(cx, &device).await? == Usage::Idle
        {
            san.devices().flush(cx, &device).await?;
        }
        Ok(())
    }
}

fn missing() -> Error {
    Error::new(ErrorKind::Internal, "the volume was not looked up")
}

#[async_trait]
impl Plan for TakeSnapshot {
    fn steps(&self) -> &'static [&'static str] {
        &["flush the device here", "take the snapshot"]
    }

    fn direction(&self) -> Direction {
        Direction::Undo
    }

    fn is_committed(&self, _step: usize) -> bool {
        false
    }

    /// The array orders it against everything else; the guest is paused and must not wait for a lease.
    fn needs_lease(&self) -> bool {
        false
    }

    async fn prepare(&mut self, cx: &Cx, san: &San) -> Result<Option<Outcome>> {
        self.bound = Some(san.bound(cx, &self.owner).await?);
        Ok(None)
    }

    async fn forward(&mut self, step: usize, cx: &Cx, san: &San) -> Result<Flow> {
        match step {
            FLUSH => self.flush(cx, san).await?,
            SNAPSHOT => {
                let volume = self.bound.as_ref().ok_or_else(missing)?.to_volume();
                let set = SnapshotSet { volumes: vec![volume], name: self.snapshot.clone() };
                san.array().snapshot(cx, &set).await?;
                // Who still reads an older one of that name must not be found to read this one.
                san.forget_readers(cx, &self.owner, Some(&self.snapshot)).await?;
            }
            _ => {}
        }
        Ok(Flow::Next)
    }

    async fn back(&mut self, step: usize, cx: &Cx, san: &San) -> Result<()> {
        if step != SNAPSHOT {
            return Ok(());
        }
        let volume = self.bound.as_ref().ok_or_else(missing)?.to_volume();
        let taken = match san.array().snapshots(cx, &volume).await {
            Ok(it) => it,
            // The volume itself is gone, and the snapshot with it.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        if taken.iter().any(|it| it.name == self.snapshot && it.claim == Some(cx.operation())) {
            san.array().ensure_no_snapshot(cx, &volume, &self.snapshot).await?;
        }
        Ok(())
    }

    fn outcome(&self, _san: &San) -> Outcome {
        Outcome::SnapshotTaken
    }
}

const DELETE: usize = TakeDown::STEPS;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DeleteSnapshot {
    owner: Owner,
    snapshot: SnapshotName,
    bound: Option<Binding>,
    /// What reads it on this node. On other nodes it stays: it does not need the snapshot, and goes when it is idle.
    #[serde(default)]
    down: TakeDown,
}

impl DeleteSnapshot {
    pub(crate) fn new(owner: Owner, snapshot: SnapshotName) -> Self {
        Self { owner, snapshot, bound: None, down: TakeDown::default() }
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    pub(crate) fn snapshot(&self) -> &SnapshotName {
        &self.snapshot
    }
}

#[async_trait]
impl Plan for DeleteSnapshot {
    fn steps(&self) -> &'static [&'static str] {
        &[
            "retire the device that reads it",
            "remove its reader on the array",
            "delete the legs of that",
            "forget that it is read",
            "delete the snapshot",
        ]
    }

    fn direction(&self) -> Direction {
        Direction::Forward
    }

    fn is_committed(&self, step: usize) -> bool {
        TakeDown::is_committed(step)
    }

    fn has_begun(&self, step: usize) -> bool {
        self.down.had_to_begin(step)
    }

    // A clone, a lock or a replication may keep the snapshot for months, and nothing else waits for its end.
    fn may_end_unseen(&self) -> bool {
        true
    }

    fn needs_lease(&self) -> bool {
        false
    }

    async fn prepare(&mut self, cx: &Cx, san: &San) -> Result<Option<Outcome>> {
        match san.bound(cx, &self.owner).await {
            Ok(bound) => self.bound = Some(bound),
            // Its snapshots went with it.
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Some(Outcome::SnapshotDeleted)),
            Err(error) => return Err(error),
        }
        let view = View::snapshot(self.owner.clone(), self.snapshot.clone());
        if let Some(record) = san.attachments().of(&view).await? {
            san.require_unused(cx, &record).await?;
            self.down = TakeDown::of(record);
        }
        Ok(None)
    }

    async fn forward(&mut self, step: usize, cx: &Cx, san: &San) -> Result<Flow> {
        if step < DELETE {
            self.down.forward(step, cx, san).await?;
            return Ok(Flow::Next);
        }
        let volume = self.bound.as_ref().ok_or_else(missing)?.to_volume();
        san.array().ensure_no_snapshot(cx, &volume, &self.snapshot).await?;
        san.forget_readers(cx, &self.owner, Some(&self.snapshot)).await?;
        Ok(Flow::Next)
    }

    fn outcome(&self, _san: &San) -> Outcome {
        Outcome::SnapshotDeleted
    }
}
