//! Runs plans: each step on disk before it is done, failures undone or gone on with.

use std::sync::Arc;
use std::time::Duration;

use san_core::{Cx, Deadline, EffectState, Error, ErrorKind, OperationId, Result};

use crate::cluster::Tie;
use crate::intent::{Cursor, Intent, Stuck};
use crate::plan::{Direction, Flow, Outcome, Request, Work};
use crate::registry::{Entry, Ticket};
use crate::san::San;

/// How long clean-up may take after the caller's deadline.
pub(crate) const CLEAN_UP: Duration = Duration::from_secs(120);
/// What may follow an answer that is already certain waits no longer than this for the array.
const AFTERWARDS: Duration = Duration::from_secs(10);
/// Pauses between attempts to go on with what cannot be undone any more. Then it stays open for the next round.
pub(crate) const PAUSES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(4), Duration::from_secs(15)];

/// Pauses of operations that outlast outages. Together they are longer than the circuit breaker holds an array that is back.
const AGAIN: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(3), Duration::from_secs(6)];
/// What must be left of the caller's time after such a pause.
const SPARE: Duration = Duration::from_secs(10);

/// Patience with failures that may pass, while the caller still waits, where failing costs him more than waiting. What a step
/// may have done already it finds done: steps are repeatable.
#[derive(Debug, Default)]
struct Again(usize);

impl Again {
    /// Pauses before another attempt, or says that there is none.
    async fn is_tried(&mut self, cx: &Cx, work: &Work, error: &Error) -> bool {
        let Some(pause) = AGAIN.get(self.0).filter(|_| work.plan().outlasts_outages() && error.is_passing())
        else {
            return false;
        };
        if cx.deadline().remaining() < *pause + SPARE {
            return false;
        }
        self.0 += 1;
        tracing::warn!(operation = %cx.operation(), error = %error.chain(), "it failed and is tried again");
        tokio::time::sleep(*pause).await;
        true
    }
}

/// How patiently an intent is driven once its caller's deadline does not count any more.
pub(crate) struct Pace {
    /// For what has to be ended or undone.
    pub(crate) clean_up: Cx,
    /// Between attempts.
    pub(crate) pauses: &'static [Duration],
}

/// What became of an intent.
#[derive(Debug)]
pub(crate) enum End {
    /// Done; with what.
    Finished(Outcome),
    /// Everything it did was taken back.
    Undone(Error),
    /// It stays open; why, and what the caller may be told.
    Open(Error),
}

impl San {
    /// Starts an operation under `id`, or joins it if it is known. The operation's own deadline is `deadline`; callers
    /// wait through the ticket.
    pub fn submit(&self, id: OperationId, request: Request, deadline: Deadline) -> Ticket {
        let (ticket, is_new) = self.node().registry.join(id);
        if is_new {
            let entry = Arc::clone(ticket.entry());
            match Work::new(self, request) {
                Err(error) => {
                    entry.answer(Err(error));
                    entry.end();
                }
                Ok(work) => {
                    let san = self.clone();
                    self.node().spawn(async move { san.run(id, work, deadline, &entry).await });
                }
            }
        }
        ticket
    }

    async fn run(&self, id: OperationId, work: Work, deadline: Deadline, entry: &Entry) {
        let cx = self.node().cx(deadline, id);
        let (verb, lock_name, is_filled) = (work.verb(), work.lock_name(), work.importer().is_some());
        let result = self.run_locked(&cx, work, &lock_name, entry).await;
        // A disk that has no number yet is shown without one.
        let object = lock_name.split_once('/').map_or("", |(_, object)| object).replace('#', "N");
        let result = result.map_err(|error| error.during(verb).on(object));
        if let Err(error) = &result {
            tracing::warn!(operation = %id, error = %error.chain(), "operation failed");
        }
        // An answer already given stays.
        entry.answer(result.clone());
        if is_filled && result.is_ok() {
            // Whoever looks for open operations next tries again.
            if let Err(error) = self.watch_import(id).await {
                tracing::warn!(operation = %id, error = %error.chain(), "whether it gets filled is not seen yet");
            }
            return;
        }
        entry.settle(result.is_ok());
        entry.end();
    }

    async fn run_locked(&self, cx: &Cx, mut work: Work, lock_name: &str, entry: &Entry) -> Result<Outcome> {
        let _lock = self.node().locks.lock(cx, lock_name).await?;
        if let Work::Attach(attach) = &work {
            self.note_use(cx, attach.view(), attach.asker()).await;
        }
        if let Some(outcome) = self.take_up_own(cx, entry).await? {
            return Ok(outcome);
        }
        if let Some(owner) = work.owner().cloned()
            && let Some(outcome) = self.settle_open(cx, &owner, &work).await?
        {
            return Ok(outcome);
        }
        if let Some(outcome) = work.plan_mut().shortcut(cx, self).await? {
            return Ok(outcome);
        }
        self.leased(cx, work, async |cx, mut work| {
            let mut again = Again::default();
            let prepared = loop {
                match work.plan_mut().prepare(cx, self).await {
                    Err(error) if again.is_tried(cx, &work, &error).await => {}
                    other => break other?,
                }
            };
            if let Some(outcome) = prepared {
                return Ok(outcome);
            }
            let mut intent = Intent::new(cx.operation(), work);
            let _running = self.mark_running(intent.id);
            self.intents().save(cx, &intent).await?;
            let pace = Pace {
                clean_up: cx.with_deadline(Deadline::after(cx.deadline().remaining() + CLEAN_UP)),
                pauses: &PAUSES,
            };
            match self.drive(cx, &pace, &mut intent, Some(entry)).await? {
                End::Finished(outcome) => Ok(outcome),
                End::Undone(error) | End::Open(error) => Err(error),
            }
        })
        .await
    }

    /// Runs `inside` under the cluster-wide lease where the plan needs one.
    async fn leased<T>(
        &self,
        cx: &Cx,
        work: Work,
        inside: impl AsyncFnOnce(&Cx, Work) -> Result<T>,
    ) -> Result<T> {
        let owner = work.owner().filter(|_| work.plan().needs_lease()).cloned();
        let Some(owner) = owner else { return inside(cx, work).await };
        let lease = self.cluster().lease(cx, &owner).await?;
        let reads = work.view().is_some_and(|it| it.snapshot.is_some());
        if !reads && self.cluster().overwriting(cx, &owner).await?.is_some_and(|it| it != cx.operation()) {
            // An earlier operation may still mean to overwrite the volume. It must not, once this one has begun.
            self.cluster().note_overwriting(cx, &owner, None).await?;
        }
        let result = inside(&cx.fenced(lease.until), work).await;
        let after = cx.with_deadline(Deadline::after(AFTERWARDS));
        if let Err(error) = self.cluster().give_back(&after, &lease).await {
            tracing::warn!(error = %error.chain(), "a lease could not be given back; it runs out by itself");
        }
        result
    }

    /// Drives an intent until it is finished, undone, or has to wait. Errors are those of the intent store before
    /// anything was done.
    pub(crate) async fn drive(
        &self,
        cx: &Cx,
        pace: &Pace,
        intent: &mut Intent,
        entry: Option<&Entry>,
    ) -> Result<End> {
        let clean_up = &pace.clean_up;
        let mut failure: Option<Error> = None;
        let mut pauses = pace.pauses.iter();
        let mut again = Again::default();
        loop {
            let steps = intent.work.plan().steps().len();
            match intent.cursor.clone() {
                Cursor::Forward(step) if step >= steps => match self.finish(clean_up, intent).await {
                    Ok(Some(end)) => return Ok(end),
                    Ok(None) => {}
                    Err(error) => failure = Some(error),
                },
                Cursor::Unacknowledged(outcome) => {
                    match self.hand_over(clean_up, intent, outcome, entry).await {
                        Ok(end) => return Ok(end),
                        Err(error) => failure = Some(error),
                    }
                }
                Cursor::Forward(step) => {
                    let undoes = intent.work.plan().direction() == Direction::Undo;
                    if undoes && entry.is_some_and(Entry::is_refused) {
                        failure =
                            Some(Error::new(ErrorKind::Cancelled, "the caller went away, so it was undone"));
                        intent.cursor = Cursor::Back(step, "the caller went away".to_owned());
                        self.keep(clean_up, intent).await;
                        continue;
                    }
                    let Err(error) = self.step(cx, clean_up, intent, step).await else { continue };
                    if again.is_tried(cx, &intent.work, &error).await {
                        // Not where the cursor stands after a save that failed.
                        intent.cursor = Cursor::Forward(step);
                        continue;
                    }
                    if undoes {
                        intent.cursor = Cursor::Back(step, error.chain().to_string());
                        failure = Some(error);
                        self.keep(clean_up, intent).await;
                        continue;
                    }
                    if let Some(end) = self.after_failure(clean_up, intent, step, error, entry).await {
                        return Ok(end);
                    }
                    // Its caller has an answer. Whoever wants the volume next must not wait for the array.
                    let later = intent.work.plan().may_end_later(step);
                    let Some(pause) = pauses.next().filter(|_| !later) else {
                        return Ok(End::Open(Error::new(
                            ErrorKind::Timeout,
                            "it goes on as soon as the array answers",
                        )));
                    };
                    tokio::time::sleep(*pause).await;
                }
                Cursor::Back(step, why) => {
                    let failed = failure
                        .get_or_insert_with(|| Error::new(ErrorKind::Cancelled, format!("undone: {why}")))
                        .clone();
                    if let Some(end) = self.undo(clean_up, intent, step, why, failed).await {
                        return Ok(end);
                    }
                }
                Cursor::Stuck(stuck) => return Ok(End::Open(intent.stuck_error(&stuck))),
            }
        }
    }

    /// All steps are done. `None`: the answer is to be handed over, and confirmed. An error: it could not be recorded that it is, so
    /// that everything is undone.
    async fn finish(&self, clean_up: &Cx, intent: &mut Intent) -> Result<Option<End>> {
        let outcome = intent.work.plan().outcome(self);
        if !outcome.needs_acknowledgement() {
            self.close(clean_up, intent).await;
            return Ok(Some(End::Finished(outcome)));
        }
        intent.cursor = Cursor::Unacknowledged(outcome.clone());
        // Nobody gets an answer of which a crash would know nothing.
        let saved = self.intents().save(clean_up, intent).await;
        // Filling a disk may take hours, in which others need the lock: `import.rs` goes on with it.
        let filled = intent.work.importer().and(Some(outcome));
        saved
            .map(|()| filled.map(End::Finished))
            .inspect_err(|error| intent.turn_back(error.chain().to_string()))
    }

    /// Gives the answer to the caller. An error: nobody took it, so that everything is undone.
    async fn hand_over(
        &self,
        clean_up: &Cx,
        intent: &mut Intent,
        outcome: Outcome,
        entry: Option<&Entry>,
    ) -> Result<End> {
        let taken = match self.is_taken(clean_up, intent, &outcome, entry).await {
            Ok(taken) => taken,
            Err(error) => return Ok(End::Open(error)),
        };
        if taken {
            // Only what is recorded is confirmed.
            return Ok(match self.intents().remove(clean_up, intent.id).await {
                Ok(()) => End::Finished(outcome),
                Err(error) => End::Open(error),
            });
        }
        let why = "nobody confirmed the answer, so it was undone";
        intent.work.note_handed_out();
        intent.turn_back(why.to_owned());
        self.keep(clean_up, intent).await;
        Err(Error::new(ErrorKind::Cancelled, why))
    }

    /// Takes one step back. `Some`: that was the last one, it goes no further, or what was made stays.
    async fn undo(
        &self,
        clean_up: &Cx,
        intent: &mut Intent,
        step: usize,
        why: String,
        failed: Error,
    ) -> Option<End> {
        let undone = match intent.work.stays(clean_up, self).await {
            Ok(true) => {
                self.close(clean_up, intent).await;
                return Some(End::Finished(intent.work.plan().outcome(self)));
            }
            Ok(false) => intent.work.plan_mut().back(step, clean_up, self).await,
            Err(error) => Err(error),
        };
        match undone {
            Ok(()) if step == 0 => {
                self.close(clean_up, intent).await;
                Some(End::Undone(failed))
            }
            Ok(()) => {
                intent.cursor = Cursor::Back(step - 1, why);
                self.keep(clean_up, intent).await;
                None
            }
            Err(error) => Some(self.undo_failed(clean_up, intent, step, failed, &error).await),
        }
    }

    /// One step forward, saved.
    async fn step(&self, cx: &Cx, clean_up: &Cx, intent: &mut Intent, step: usize) -> Result<()> {
        let later = intent.work.plan().may_end_later(step);
        let committed = intent.work.plan().is_committed(step) || intent.uncertain == Some(step);
        // What cannot be undone any more is finished under the clean-up deadline, but without keeping a caller waiting.
        let cx = if later {
            &clean_up.at_most(AFTERWARDS)
        } else if committed {
            clean_up
        } else {
            cx
        };
        cx.check("waiting for the next step")?;
        let flow = intent.work.plan_mut().forward(step, cx, self).await?;
        intent.cursor = Cursor::Forward(match flow {
            Flow::Next => step + 1,
            Flow::Again(step) => step,
        });
        intent.uncertain = None;
        self.intents().save(cx, intent).await
    }

    /// A step of an operation that only goes forward has failed. `None`: try again.
    async fn after_failure(
        &self,
        clean_up: &Cx,
        intent: &mut Intent,
        step: usize,
        error: Error,
        entry: Option<&Entry>,
    ) -> Option<End> {
        // The step that failed decides, not where the cursor stands after a save that failed.
        intent.cursor = Cursor::Forward(step);
        let committed = intent.work.plan().is_committed(step);
        // An attempt without an answer may have done it: a later one that could not even be made changes nothing about
        // that, but a definite refusal comes from a fresh look.
        let is_refused =
            is_definite(&error) || error.kind() == ErrorKind::Busy && intent.work.plan().may_end_unseen();
        let may_be_done = intent.uncertain == Some(step) && !is_refused;
        if !committed && !may_be_done && error.effect() == EffectState::None {
            if let Err(error) = intent.work.plan_mut().give_up(clean_up, self).await {
                tracing::warn!(operation = %intent.id, error = %error.chain(), "what it noted in the cluster stays");
            }
            self.close(clean_up, intent).await;
            let has_begun = intent.work.plan().has_begun(step) || intent.uncertain == Some(step);
            return Some(End::Undone(if has_begun {
                error.with_effect(EffectState::Unknown)
            } else {
                error
            }));
        }
        if committed && !may_pass(&error) {
            self.stick(clean_up, intent, step, None, &error).await;
            return Some(End::Open(error.with_effect(EffectState::Unknown)));
        }
        tracing::warn!(operation = %intent.id, error = %error.chain(), "a step failed and is tried again");
        if error.effect() == EffectState::Unknown {
            intent.uncertain = Some(step);
        }
        self.keep(clean_up, intent).await;
        if let Some(entry) = entry {
            let pending = intent.work.plan().may_end_later(step).then(|| {
                let object = intent.work.owner().map(|it| it.object().to_owned()).unwrap_or_default();
                format!("{object}: {}", error.causes().last().unwrap_or_else(|| error.message().to_owned()))
            });
            entry.answer(match pending {
                Some(pending) => Ok(Outcome::Detached { pending: Some(pending) }),
                None => Err(error.with_effect(EffectState::Unknown)),
            });
        }
        None
    }

    async fn undo_failed(
        &self,
        cx: &Cx,
        intent: &mut Intent,
        step: usize,
        failed: Error,
        error: &Error,
    ) -> End {
        tracing::error!(operation = %intent.id, error = %error.chain(), "an undo failed");
        let mut message = if may_pass(error) {
            "it failed, and what it had begun is taken back as soon as that is possible".to_owned()
        } else {
            self.stick(cx, intent, step, Some(failed.to_string()), error).await;
            "it failed, and what it had begun could not be taken back".to_owned()
        };
        if error.message() != failed.message() {
            message = format!("{message} ({})", error.chain());
        }
        End::Open(Error::wrap(failed, message).with_effect(EffectState::Unknown))
    }

    async fn stick(&self, cx: &Cx, intent: &mut Intent, step: usize, undoing: Option<String>, error: &Error) {
        intent.cursor = Cursor::Stuck(Stuck { step, undoing, reason: error.chain().to_string() });
        self.keep(cx, intent).await;
    }

    /// Whether the answer was taken: confirmed by the caller, or, where the caller cannot be asked, visibly used. An error: that
    /// is not known, and has to be asked again.
    async fn is_taken(
        &self,
        cx: &Cx,
        intent: &Intent,
        outcome: &Outcome,
        entry: Option<&Entry>,
    ) -> Result<bool> {
        if let Some(entry) = entry {
            entry.answer(Ok(outcome.clone()));
            if entry.acknowledged().await {
                return Ok(true);
            }
        }
        // A guest's configuration that names the volume is as good as a confirmation, and what a guest may hold is never
        // undone because a question about it failed.
        let Some(owner) = intent.work.handed_out() else { return Ok(false) };
        match self.cluster().guests_using(cx, owner).await {
            Ok(guests) => Ok(guests.iter().any(|it| it.tie == Tie::Configured)),
            // Half a disk must not look whole for ever.
            Err(error) if intent.is_filled_by().is_some() => Err(error),
            Err(error) => {
                tracing::warn!(%owner, error = %error.chain(), "who uses it is not known; it stays");
                Ok(true)
            }
        }
    }

    /// Saves progress that must not stop an operation: the file of the step before repeats it at worst.
    async fn keep(&self, cx: &Cx, intent: &Intent) {
        if let Err(error) = self.intents().save(cx, intent).await {
            tracing::error!(operation = %intent.id, error = %error.chain(), "an intent could not be saved");
        }
    }

    async fn close(&self, cx: &Cx, intent: &Intent) {
        if let Err(error) = self.intents().remove(cx, intent.id).await {
            tracing::error!(operation = %intent.id, error = %error.chain(), "an intent could not be removed");
        }
    }
}

/// Whether the far side has looked and said no. An answer nobody understands, or a failure of its own, is no such word.
fn is_definite(error: &Error) -> bool {
    !may_pass(error) && !matches!(error.kind(), ErrorKind::Protocol | ErrorKind::Internal)
}

/// Whether a step that has to be ended is worth another try: only a definite refusal is not. A refused password says
/// nothing about the step, and somebody will mend it.
fn may_pass(error: &Error) -> bool {
    error.is_passing() || error.effect() == EffectState::Unknown || error.kind() == ErrorKind::Unauthenticated
}
