//! Operations that run or have just ended, by id: callers join them, confirm their answers, or go away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use san_core::{Deadline, Error, ErrorKind, OperationId, Result};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::plan::Outcome;

/// How long results are kept for a caller that lost its connection.
const KEPT: Duration = Duration::from_secs(600);
/// How long a caller may be away before its absence is taken for a refusal.
const GRACE: Duration = Duration::from_secs(5);

/// What the caller said about the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Open,
    Acknowledged,
    Refused,
}

/// How an acknowledgement ended.
#[derive(Debug, Clone)]
enum Settlement {
    Pending,
    /// It is recorded; the outcome stays.
    Kept,
    /// It came too late; the operation was undone.
    Undone,
}

/// One operation as its task and its callers see it.
#[derive(Debug)]
pub(crate) struct Entry {
    result: watch::Sender<Option<Result<Outcome>>>,
    verdict: watch::Sender<Verdict>,
    settlement: watch::Sender<Settlement>,
    waiting: watch::Sender<usize>,
    ended: Mutex<Option<Instant>>,
}

impl Entry {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            result: watch::Sender::new(None),
            verdict: watch::Sender::new(Verdict::Open),
            settlement: watch::Sender::new(Settlement::Pending),
            waiting: watch::Sender::new(0),
            ended: Mutex::new(None),
        })
    }

    /// Publishes the answer, once.
    pub(crate) fn answer(&self, result: Result<Outcome>) {
        self.result.send_if_modified(|it| {
            let first = it.is_none();
            if first {
                *it = Some(result);
            }
            first
        });
    }

    /// The task is over: from now on the entry only serves late callers.
    pub(crate) fn end(&self) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    /// Whether the caller has refused, without waiting.
    pub(crate) fn is_refused(&self) -> bool {
        *self.verdict.borrow() == Verdict::Refused
    }

    /// Waits until the caller has acknowledged (`true`), refused, or been away too long (`false`).
    pub(crate) async fn acknowledged(&self) -> bool {
        self.acknowledged_unless(|| tokio::time::sleep(GRACE)).await
    }

    /// The same for a caller that may be away longer: until `gone` ends, which begins anew with each absence.
    pub(crate) async fn acknowledged_unless<F: Future<Output = ()>>(&self, gone: impl Fn() -> F) -> bool {
        let (mut verdict, mut waiting) = (self.verdict.subscribe(), self.waiting.subscribe());
        loop {
            match *verdict.borrow_and_update() {
                Verdict::Acknowledged => return true,
                Verdict::Refused => return false,
                Verdict::Open => {}
            }
            let alone = *waiting.borrow_and_update() == 0;
            let gone = async {
                if alone {
                    gone().await;
                } else {
                    std::future::pending::<()>().await;
                }
            };
            // The senders live in `self`, so that neither channel can be closed here.
            tokio::select! {
                biased;
                _ = verdict.changed() => {}
                _ = waiting.changed() => {}
                () = gone => {
                    self.verdict.send_if_modified(|it| {
                        let open = *it == Verdict::Open;
                        if open {
                            *it = Verdict::Refused;
                        }
                        open
                    });
                }
            }
        }
    }

    pub(crate) fn settle(&self, kept: bool) {
        self.settlement.send_replace(if kept { Settlement::Kept } else { Settlement::Undone });
    }

    fn is_stale(&self, now: Instant) -> bool {
        let ended = *self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        ended.is_some_and(|it| now.duration_since(it) > KEPT)
    }
}

/// A caller's hold on an operation. Dropping it does nothing to the world; a caller that stays away for five seconds
/// without having acknowledged is taken to have refused.
#[derive(Debug)]
pub struct Ticket {
    id: OperationId,
    entry: Arc<Entry>,
}

impl Ticket {
    pub(crate) fn new(id: OperationId, entry: Arc<Entry>) -> Self {
        entry.waiting.send_modify(|it| *it += 1);
        Self { id, entry }
    }

    /// The operation.
    pub fn id(&self) -> OperationId {
        self.id
    }

    /// Waits for the answer until `deadline`. The operation itself is not touched by this deadline.
    ///
    /// # Errors
    /// Whatever the operation ended with, or `Timeout` with unknown effect while it goes on.
    pub async fn wait(&self, deadline: Deadline) -> Result<Outcome> {
        let mut result = self.entry.result.subscribe();
        let answer = result.wait_for(Option::is_some);
        match tokio::time::timeout_at(deadline.instant(), answer).await {
            Ok(Ok(answer)) => answer.clone().unwrap_or_else(|| Err(vanished(self.id))),
            Ok(Err(_)) => Err(vanished(self.id)),
            Err(_) => {
                let message = format!(
                    "operation {} has not ended in time; it is finished or taken back without its caller",
                    self.id
                );
                Err(Error::new(ErrorKind::Timeout, message))
            }
        }
    }

    /// Confirms that the caller has the answer. Returns when that is recorded.
    ///
    /// # Errors
    /// `Cancelled` where the operation had already been undone.
    pub async fn acknowledge(&self, deadline: Deadline) -> Result<()> {
        self.entry.verdict.send_if_modified(|it| {
            let open = *it == Verdict::Open;
            if open {
                *it = Verdict::Acknowledged;
            }
            open
        });
        let mut settlement = self.entry.settlement.subscribe();
        let settled = settlement.wait_for(|it| !matches!(it, Settlement::Pending));
        match tokio::time::timeout_at(deadline.instant(), settled).await {
            Ok(Ok(it)) if matches!(*it, Settlement::Kept) => Ok(()),
            Ok(_) => Err(Error::new(ErrorKind::Cancelled, format!("operation {} was undone", self.id))),
            Err(_) => {
                Err(Error::new(ErrorKind::Timeout, "the acknowledgement could not be recorded in time"))
            }
        }
    }

    /// Says that the answer is not wanted: the operation is undone where it can be.
    pub fn refuse(&self) {
        self.entry.verdict.send_if_modified(|it| {
            let open = *it == Verdict::Open;
            if open {
                *it = Verdict::Refused;
            }
            open
        });
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.entry.waiting.send_modify(|it| *it = it.saturating_sub(1));
    }
}

fn vanished(id: OperationId) -> Error {
    Error::new(
        ErrorKind::Cancelled,
        format!("operation {id} was abandoned; the next start finishes or undoes it"),
    )
}

/// All operations of one node.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<HashMap<OperationId, Arc<Entry>>>);

impl Registry {
    /// Joins the operation, or makes an entry for it (`true`).
    pub(crate) fn join(&self, id: OperationId) -> (Ticket, bool) {
        let mut entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        entries.retain(|_, it| !it.is_stale(now));
        let mut made = false;
        let entry = entries.entry(id).or_insert_with(|| {
            made = true;
            Entry::new()
        });
        (Ticket::new(id, Arc::clone(entry)), made)
    }

    /// Joins the operation if it is known.
    pub(crate) fn find(&self, id: OperationId) -> Option<Ticket> {
        let entries = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        entries.get(&id).map(|it| Ticket::new(id, Arc::clone(it)))
    }

    /// Forgets an operation whose recovery undid it, so that the same request can run anew.
    pub(crate) fn forget(&self, id: OperationId) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }
}

impl Ticket {
    pub(crate) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DONE: Outcome = Outcome::SnapshotTaken;

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_stays_away_has_refused_after_the_grace() {
        let registry = Registry::default();
        let (ticket, _) = registry.join(OperationId::random());
        let entry = Arc::clone(ticket.entry());
        drop(ticket);
        let start = Instant::now();
        assert!(!entry.acknowledged().await);
        assert_eq!(start.elapsed(), GRACE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_comes_back_in_time_can_acknowledge() {
        let registry = Registry::default();
        let id = OperationId::random();
        let (ticket, made) = registry.join(id);
        assert!(made);
        let entry = Arc::clone(ticket.entry());
        entry.answer(Ok(DONE));
        drop(ticket);
        let waiting = tokio::spawn({
            let entry = Arc::clone(&entry);
            async move {
                let taken = entry.acknowledged().await;
                entry.settle(taken);
                taken
            }
        });
        tokio::time::sleep(GRACE / 2).await;
        let (again, made) = registry.join(id);
        assert!(!made);
        tokio::time::sleep(GRACE * 2).await;
        let deadline = Deadline::after(Duration::from_secs(1));
        assert_eq!(again.wait(deadline).await.unwrap(), DONE);
        again.acknowledge(deadline).await.unwrap();
        assert!(waiting.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn results_are_kept_ten_minutes() {
        let registry = Registry::default();
        let id = OperationId::random();
        let (ticket, _) = registry.join(id);
        ticket.entry().answer(Ok(DONE));
        ticket.entry().end();
        tokio::time::advance(KEPT).await;
        assert!(!registry.join(id).1);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(registry.join(id).1);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_with_the_callers_deadline() {
        let (ticket, _) = Registry::default().join(OperationId::random());
        let error = ticket.wait(Deadline::after(Duration::from_secs(3))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
    }
}
