//! Takes up what earlier processes and rounds left open: before a new operation on the same volume, after a start, and
//! whenever the array may answer again.

use std::sync::Arc;
use std::time::Duration;

use san_core::{Cx, Deadline, Error, ErrorKind, OperationId, Owner, Result};
use tokio::task::JoinSet;

use crate::disk_view::View;
use crate::intent::{Cursor, Found, Intent};
use crate::plan::{Direction, Outcome, Work};
use crate::reconciled::Repair;
use crate::record::{Attachment, AttachmentState};
use crate::registry::Entry;
use crate::runner::{CLEAN_UP, End, PAUSES, Pace};
use crate::san::San;

/// How long one round of what an earlier run left open may hold its volume: a guest's start must not wait for an array
/// that says nothing.
const ROUND: Duration = Duration::from_secs(20);
impl San {
    /// The same operation as an earlier process left it, where its caller asks again before the recovery came to it. An
    /// answer nobody has confirmed is given again. A creation is undone first: what it made under the name it had chosen
    /// would be forgotten otherwise. Everything else is found by its volume.
    pub(crate) async fn take_up_own(&self, cx: &Cx, entry: &Entry) -> Result<Option<Outcome>> {
        let Some(mut intent) = self.intents().get(cx.operation()).await? else { return Ok(None) };
        if matches!(intent.cursor, Cursor::Unacknowledged(_)) {
            let Some(_running) = self.mark_running(intent.id) else { return Err(still_running()) };
            let clean_up = cx.with_deadline(Deadline::after(cx.deadline().remaining() + CLEAN_UP));
            let pace = Pace { clean_up, pauses: &PAUSES };
            return match self.drive(cx, &pace, &mut intent, Some(entry)).await? {
                End::Finished(outcome) => Ok(Some(outcome)),
                End::Undone(error) | End::Open(error) => Err(error),
            };
        }
        if matches!(intent.work, Work::Create(_)) {
            self.take_up(cx, &mut intent).await?;
        }
        Ok(None)
    }

    /// Takes up what earlier operations on this volume left open, before another one begins. `Some`: that was the answer.
    pub(crate) async fn settle_open(&self, cx: &Cx, owner: &Owner, work: &Work) -> Result<Option<Outcome>> {
        for mut intent in self.intents().of(owner).await? {
            if are_unrelated(&intent.work, work) || intent.is_filled_by().is_some() {
                continue;
            }
            if self.is_running(intent.id) {
                return Err(
                    Error::new(ErrorKind::Busy, "another operation on it has not ended").on(owner.object())
                );
            }
            if Self::is_visibly_taken(&intent, owner) {
                self.intents().remove(cx, intent.id).await?;
                self.settle_callers(intent.id, true);
                continue;
            }
            let Err(error) = self.take_up(cx, &mut intent).await else { continue };
            let presence = matches!(work, Work::Attach(_) | Work::Detach(_));
            match (&intent.work, work) {
                (Work::Detach(_), Work::Detach(_)) => {
                    return Ok(Some(Outcome::Detached { pending: Some(error.chain().to_string()) }));
                }
                // It could not be unmapped, so it is still ours to use.
                (Work::Detach(_) | Work::Attach(_), Work::Attach(_)) => {
                    let Some(record) = intent.still_mapped().cloned() else { return Err(error) };
                    // Should this process die here, the device that is back is taken down anew, not pulled away.
                    intent.rewind();
                    self.intents().save(cx, &intent).await?;
                    self.revive(cx, &record).await?;
                    self.intents().remove(cx, intent.id).await?;
                }
                (
                    Work::Grow(_)
                    | Work::Conform(_)
                    | Work::Snapshot(_)
                    | Work::DeleteSnapshot(_)
                    | Work::Split(_),
                    _,
                ) if presence => {}
                _ if matches!(intent.cursor, Cursor::Stuck(_)) => return Err(error),
                _ => {
                    return Err(
                        Error::wrap(error, "an earlier operation on it has to end first").on(owner.object())
                    );
                }
            }
        }
        Ok(None)
    }

    /// Whether somebody who asks for more of the volume has evidently seen the answer that was never confirmed.
    fn is_visibly_taken(intent: &Intent, owner: &Owner) -> bool {
        let Cursor::Unacknowledged(outcome) = &intent.cursor else { return false };
        match outcome {
            Outcome::Created { .. } | Outcome::Attached { .. } => true,
            Outcome::Renamed { .. } => intent.work.handed_out() == Some(owner),
            _ => false,
        }
    }

    /// Tells callers of an earlier process that still wait what became of their operation.
    fn settle_callers(&self, id: OperationId, kept: bool) {
        if let Some(ticket) = self.node().registry.find(id) {
            ticket.entry().settle(kept);
            ticket.entry().end();
        }
    }

    /// Brings a device back that could not be unmapped on the array.
    async fn revive(&self, cx: &Cx, record: &Attachment) -> Result<()> {
        let Some(expect) = record.expected() else { return Ok(()) };
        let routes = self.routes(cx, &record.ports).await?;
        let device = self.devices().revive(cx, &expect, &routes).await?;
        let record = Attachment { state: AttachmentState::Attached, ..record.clone() };
        self.attachments().put(cx, &record).await?;
        self.publish(cx, &record.view(), &device).await
    }

    /// Goes on with an open intent of an earlier process or round. An error: it is still open.
    async fn take_up(&self, cx: &Cx, intent: &mut Intent) -> Result<()> {
        let Some(_running) = self.mark_running(intent.id) else { return Err(still_running()) };
        let steps = intent.work.plan().steps().len();
        let had_answer = matches!(intent.cursor, Cursor::Unacknowledged(_));
        match (&intent.cursor, intent.work.plan().direction()) {
            (Cursor::Forward(step), Direction::Undo) => {
                intent.cursor = Cursor::Back((*step).min(steps - 1), "it was interrupted".to_owned());
            }
            // How far the step had come, nobody knows.
            (Cursor::Forward(step), Direction::Forward) => intent.uncertain = Some(*step),
            (Cursor::Stuck(stuck), _) => {
                intent.cursor = match &stuck.undoing {
                    Some(why) => Cursor::Back(stuck.step, why.clone()),
                    None => Cursor::Forward(stuck.step),
                };
            }
            _ => {}
        }
        let cx = self.node().cx(cx.deadline(), intent.id);
        let owner = intent.work.owner().filter(|_| intent.work.plan().needs_lease()).cloned();
        let lease = match owner {
            Some(owner) => Some(self.cluster().lease(&cx, &owner).await?),
            None => None,
        };
        let fenced = lease.as_ref().map_or_else(|| cx.clone(), |it| cx.fenced(it.until));
        // The next round tries again, so there are no pauses here.
        let pace = Pace { clean_up: fenced.clone(), pauses: &[] };
        let end = self.drive(&fenced, &pace, intent, None).await;
        if let Some(lease) = lease {
            self.cluster().give_back(&cx, &lease).await?;
        }
        let end = end?;
        match end {
            End::Finished(_) | End::Undone(_) => {
                self.note_ended(intent);
                if had_answer {
                    self.settle_callers(intent.id, matches!(end, End::Finished(_)));
                }
                Ok(())
            }
            End::Open(error) => Err(error),
        }
    }

    fn note_ended(&self, intent: &Intent) {
        let object = intent.work.owner().map_or("", |it| it.object());
        self.reconciled(Repair::OperationEnded, format!("{} {object}", intent.work.verb()).trim_end());
    }

    /// Takes up everything earlier runs left open: called after the start, and then whenever the array may answer again.
    /// Returns how many operations are still open.
    pub async fn take_up_open(&self) -> Result<usize> {
        let mut open = 0;
        // Side by side: one that waits for its caller, or for the array, must not keep the others from theirs.
        let mut under_way = JoinSet::new();
        for found in self.intents().all().await? {
            match found {
                Found::Unreadable { file, error } => {
                    tracing::debug!(%file, error = %error.chain(), "an intent cannot be understood");
                    open += 1;
                }
                Found::Readable(intent) if self.is_running(intent.id) => {}
                Found::Readable(intent) => {
                    let san = self.clone();
                    under_way.spawn(async move {
                        let ended = san.take_up_found(&intent).await;
                        if let Err(error) = &ended {
                            tracing::debug!(operation = %intent.id, error = %error.chain(), "an operation stays open");
                        }
                        ended.is_ok()
                    });
                }
            }
        }
        while let Some(ended) = under_way.join_next().await {
            open += usize::from(!matches!(ended, Ok(true)));
        }
        Ok(open)
    }

    async fn take_up_found(&self, found: &Intent) -> Result<()> {
        let cx = self.node().cx(Deadline::after(ROUND), found.id);
        let _lock = self.node().locks.lock(&cx, &found.work.lock_name()).await?;
        // Whoever had the lock may have ended it.
        match self.intents().get(found.id).await? {
            Some(now) if now.is_filled_by().is_some() => self.watch_import(now.id).await,
            Some(mut now) => self.take_up_joined(&cx, &mut now).await,
            None => Ok(()),
        }
    }

    /// Puts the answers that callers have not confirmed back where they look for them.
    pub(crate) async fn expect_callers(&self) -> Result<()> {
        for found in self.intents().all().await? {
            match found {
                Found::Readable(intent) => {
                    if let Cursor::Unacknowledged(outcome) = &intent.cursor {
                        let (ticket, _) = self.node().registry.join(intent.id);
                        ticket.entry().answer(Ok(outcome.clone()));
                    }
                }
                Found::Unreadable { file, error } => {
                    tracing::error!(%file, error = %error.chain(), "an intent cannot be understood; it is left alone");
                }
            }
        }
        Ok(())
    }

    /// Takes up one intent while its caller may come back for the answer.
    async fn take_up_joined(&self, cx: &Cx, intent: &mut Intent) -> Result<()> {
        let Cursor::Unacknowledged(outcome) = &intent.cursor else { return self.take_up(cx, intent).await };
        let outcome = outcome.clone();
        let (ticket, _) = self.node().registry.join(intent.id);
        let entry = Arc::clone(ticket.entry());
        drop(ticket);
        let Some(_running) = self.mark_running(intent.id) else { return Err(still_running()) };
        let pace = Pace { clean_up: cx.clone(), pauses: &[] };
        let end = self.drive(cx, &pace, intent, Some(&entry)).await?;
        let kept = matches!(end, End::Finished(_));
        entry.settle(kept);
        entry.end();
        if !kept {
            // The same request may be made again.
            self.node().registry.forget(intent.id);
        }
        match end {
            End::Open(error) => Err(Error::wrap(error, format!("the answer {outcome:?} was not confirmed"))),
            End::Undone(_) => {
                self.note_ended(intent);
                Ok(())
            }
            End::Finished(_) => Ok(()),
        }
    }
}

/// Whether a new operation need not wait for the end of an open one of the same disk: a snapshot that is read is another
/// device than the disk, and lies beside it on the array.
fn are_unrelated(open: &Work, new: &Work) -> bool {
    match (open.view(), new.view()) {
        (Some(open), Some(new)) => open != new,
        (Some(View { snapshot: Some(read), .. }), None) => match new {
            Work::Delete(_) | Work::Rename(_) => false,
            Work::DeleteSnapshot(it) => it.snapshot() != read,
            _ => true,
        },
        _ => false,
    }
}

fn still_running() -> Error {
    Error::new(ErrorKind::Busy, "another operation on it has not ended")
}
