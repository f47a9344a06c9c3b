//! The context of everything that waits: a deadline, the operation it belongs to, and the effect seam.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use crate::{EffectState, Error, ErrorKind, OperationId, Result};

/// A point in monotonic time after which nobody waits any longer. Made once at the entry and passed down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Deadline(Instant);

impl Deadline {
    /// `span` from now.
    pub fn after(span: Duration) -> Self {
        Self(Instant::now() + span)
    }

    /// The earlier of this one and `span` from now: a phase may never eat more than its share.
    #[must_use]
    pub fn at_most(self, span: Duration) -> Self {
        self.min(Self::after(span))
    }

    /// What is left; zero when it has passed.
    pub fn remaining(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }

    /// Whether it has passed.
    pub fn has_passed(self) -> bool {
        self.remaining().is_zero()
    }

    /// The instant itself, for timers.
    pub fn instant(self) -> Instant {
        self.0
    }
}

/// Where an effect lands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum EffectKind {
    /// A request that may change the array.
    Array,
    /// A write, a program or an ioctl on this node.
    Host,
    /// A file of this node: intent, attachment record, profile.
    Store,
    /// A file all nodes share: binding, note, lease, secret.
    Shared,
}

/// One change of the world, as the seam sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Effect {
    /// Where it lands.
    pub kind: EffectKind,
    /// What is done, e.g. `POST`, `del map`, `save intent`.
    pub verb: &'static str,
    /// To what. Never a secret.
    pub subject: String,
}

impl fmt::Display for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.subject)
    }
}

/// Watches every effect. Tests and drills use it to stop, fail, delay or hang an operation at each boundary: a future
/// that never completes here stands for a process that died.
#[async_trait]
pub trait EffectObserver: fmt::Debug + Send + Sync {
    /// Called before the effect; an error means that it does not happen.
    async fn before(&self, effect: &Effect) -> Result<()>;

    /// Called when the effect is done and its answer not yet seen; an error replaces the answer.
    async fn after(&self, effect: &Effect) -> Result<()>;
}

/// The effect seam: nothing in production, an observer in tests.
#[derive(Debug, Clone, Default)]
pub struct Effects(Option<Arc<dyn EffectObserver>>);

impl Effects {
    /// No observer.
    pub fn unobserved() -> Self {
        Self(None)
    }

    /// All effects pass `observer`.
    pub fn observed(observer: Arc<dyn EffectObserver>) -> Self {
        Self(Some(observer))
    }
}

/// The first argument of everything that waits.
#[derive(Debug, Clone)]
pub struct Cx {
    deadline: Deadline,
    operation: OperationId,
    effects: Effects,
    fence: Option<Deadline>,
}

impl Cx {
    /// A context for one operation.
    pub fn new(deadline: Deadline, operation: OperationId, effects: Effects) -> Self {
        Self { deadline, operation, effects, fence: None }
    }

    /// When everybody stops waiting.
    pub fn deadline(&self) -> Deadline {
        self.deadline
    }

    /// The operation this work belongs to.
    pub fn operation(&self) -> OperationId {
        self.operation
    }

    /// The seam, to build a context of a longer or unrelated deadline (clean-up).
    pub fn effects(&self) -> &Effects {
        &self.effects
    }

    /// The same operation with the earlier of its deadline and `span` from now.
    #[must_use]
    pub fn at_most(&self, span: Duration) -> Self {
        Self { deadline: self.deadline.at_most(span), ..self.clone() }
    }

    /// The same operation under another deadline, e.g. the clean-up deadline.
    #[must_use]
    pub fn with_deadline(&self, deadline: Deadline) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// The same operation, in which no effect may begin after `fence`: the end of a cluster-wide lease it works under.
    #[must_use]
    pub fn fenced(&self, fence: Deadline) -> Self {
        Self { fence: Some(fence), ..self.clone() }
    }

    /// An error if the deadline has passed, so that no further step begins.
    pub fn check(&self, doing: &'static str) -> Result<()> {
        if self.deadline.has_passed() { Err(late(doing).with_effect(EffectState::None)) } else { Ok(()) }
    }

    /// Waits for `future` no longer than the deadline.
    pub async fn within<T>(&self, doing: &'static str, future: impl Future<Output = Result<T>>) -> Result<T> {
        match tokio::time::timeout_at(self.deadline.instant(), future).await {
            Ok(it) => it,
            Err(_) => Err(late(doing)),
        }
    }

    /// Runs one mutating effect. Called in three places only: the array client's send, the guard around the host,
    /// and the stores of the engine.
    pub async fn effect<T>(&self, effect: Effect, future: impl Future<Output = Result<T>>) -> Result<T> {
        // A node's own records tell the truth about what was done; they are written whatever became of the lease.
        if effect.kind != EffectKind::Store && self.fence.is_some_and(Deadline::has_passed) {
            let error =
                Error::new(ErrorKind::Timeout, "the cluster-wide lease of this operation has run out");
            return Err(error.on(&effect).with_effect(EffectState::None));
        }
        let Some(observer) = &self.effects.0 else { return future.await };
        observer.before(&effect).await?;
        let answer = future.await;
        observer.after(&effect).await?;
        answer
    }
}

fn late(doing: &'static str) -> Error {
    Error::new(ErrorKind::Timeout, format!("deadline passed while {doing}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[derive(Debug, Default)]
    struct Log(Mutex<Vec<String>>);

    #[async_trait]
    impl EffectObserver for Log {
        async fn before(&self, effect: &Effect) -> Result<()> {
            self.0.lock().unwrap().push(format!("before {effect}"));
            Ok(())
        }
        async fn after(&self, effect: &Effect) -> Result<()> {
            self.0.lock().unwrap().push(format!("after {effect}"));
            Err(Error::new(ErrorKind::Timeout, "answer lost"))
        }
    }

    fn cx(effects: Effects) -> Cx {
        Cx::new(Deadline::after(Duration::from_secs(5)), OperationId::random(), effects)
    }

    #[tokio::test(start_paused = true)]
    async fn a_deadline_ends_a_wait() {
        let cx = cx(Effects::unobserved());
        let start = Instant::now();
        let error = cx.within("waiting", std::future::pending::<Result<()>>()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout);
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        assert!(cx.check("another step").is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn no_effect_begins_behind_the_fence() {
        let cx = cx(Effects::unobserved()).fenced(Deadline::after(Duration::from_secs(1)));
        let effect = Effect { kind: EffectKind::Array, verb: "POST", subject: "/x".into() };
        assert!(cx.effect(effect.clone(), async { Ok(()) }).await.is_ok());
        tokio::time::advance(Duration::from_secs(1)).await;
        let error = cx.effect(effect, async { Ok(()) }).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, EffectState::None));
    }

    #[tokio::test]
    async fn the_observer_sees_both_boundaries_and_may_swallow_the_answer() {
        let log = Arc::new(Log::default());
        let cx = cx(Effects::observed(log.clone()));
        let effect = Effect { kind: EffectKind::Host, verb: "del map", subject: "36..".into() };
        let error = cx.effect(effect, async { Ok(1) }).await.unwrap_err();
        assert_eq!(error.effect(), EffectState::Unknown);
        assert_eq!(*log.0.lock().unwrap(), ["before del map 36..", "after del map 36.."]);
    }
}
