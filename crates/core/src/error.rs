//! The one error type: what kind, whether anything may have happened, where, why, and what cures it.

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The result of everything that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What callers branch on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A command was aimed at something that does not exist.
    NotFound,
    /// The name is taken by something that is not ours to use.
    AlreadyExists,
    /// Something else is working on the object; waiting may help.
    Busy,
    /// The object is opened, mounted, held or attached elsewhere.
    InUse,
    /// What exists contradicts what was asked for.
    Conflict,
    /// A count limit of the array or the host is reached.
    LimitReached,
    /// The array has no room.
    OutOfSpace,
    /// The account may not do this.
    PermissionDenied,
    /// The credentials are wrong.
    Unauthenticated,
    /// The far side asks for patience.
    Throttled,
    /// The far side cannot be reached or does not serve.
    Unavailable,
    /// The deadline passed.
    Timeout,
    /// A device or an array is not the one it must be.
    IdentityMismatch,
    /// This array, release or build cannot do it.
    Unsupported,
    /// The request itself is wrong.
    InvalidInput,
    /// The far side answered something that cannot be understood.
    Protocol,
    /// An earlier operation could be neither finished nor undone; people have to look.
    Stuck,
    /// The caller gave up.
    Cancelled,
    /// A defect, or an answer no table knows.
    Internal,
}

/// Whether the far side may have acted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EffectState {
    /// Certainly nothing happened.
    None,
    /// It may have happened: look before repeating.
    Unknown,
}

impl ErrorKind {
    /// Whether waiting and trying again may help, by kind alone.
    fn is_passing(self) -> bool {
        matches!(self, Self::Busy | Self::Throttled | Self::Unavailable | Self::Timeout)
    }

    /// A refusal proves that nothing happened; silence, a cut or a garbled answer proves nothing.
    fn usual_effect(self) -> EffectState {
        match self {
            Self::Throttled
            | Self::Unavailable
            | Self::Timeout
            | Self::Protocol
            | Self::Cancelled
            | Self::Stuck
            | Self::Internal => EffectState::Unknown,
            _ => EffectState::None,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

type Source = Arc<dyn StdError + Send + Sync>;

#[derive(Clone)]
struct Inner {
    kind: ErrorKind,
    effect: EffectState,
    message: Cow<'static, str>,
    operation: Option<Cow<'static, str>>,
    subject: Option<String>,
    remedy: Option<Cow<'static, str>>,
    retry_after: Option<Duration>,
    retries_spent: bool,
    source: Option<Source>,
}

/// An error of any layer. Cheap to clone, so that several callers waiting for one operation get the same one.
///
/// `Display` prints this layer only; [`Error::chain`] prints the causes too. Neither ever holds a secret or a URL.
#[derive(Clone)]
pub struct Error(Box<Inner>);

impl Error {
    /// An error with the effect that is usual for its kind: none for refusals, unknown for silence.
    pub fn new(kind: ErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            effect: kind.usual_effect(),
            message: message.into(),
            operation: None,
            subject: None,
            remedy: None,
            retry_after: None,
            retries_spent: false,
            source: None,
        }))
    }

    /// Wraps `source` under a message of this layer, keeping its kind, effect, remedy and patience.
    pub fn wrap(source: Error, message: impl Into<Cow<'static, str>>) -> Self {
        let mut outer = Self::new(source.kind(), message);
        outer.0.effect = source.0.effect;
        outer.0.remedy.clone_from(&source.0.remedy);
        outer.0.retry_after = source.0.retry_after;
        outer.0.retries_spent = source.0.retries_spent;
        outer.0.source = Some(Arc::new(source));
        outer
    }

    /// Says whether the far side may have acted.
    #[must_use]
    pub fn with_effect(mut self, effect: EffectState) -> Self {
        self.0.effect = effect;
        self
    }

    /// Names the operation that failed, unless an inner layer already did.
    #[must_use]
    pub fn during(mut self, operation: impl Into<Cow<'static, str>>) -> Self {
        self.0.operation.get_or_insert(operation.into());
        self
    }

    /// Names what it failed on, unless an inner layer already did.
    #[must_use]
    pub fn on(mut self, subject: impl fmt::Display) -> Self {
        self.0.subject.get_or_insert_with(|| subject.to_string());
        self
    }

    /// The command or setting that cures it, unless an inner layer already named one.
    #[must_use]
    pub fn with_remedy(mut self, remedy: impl Into<Cow<'static, str>>) -> Self {
        self.0.remedy.get_or_insert(remedy.into());
        self
    }

    /// The cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl StdError + Send + Sync + 'static) -> Self {
        self.0.source = Some(Arc::new(source));
        self
    }

    /// How long the far side asked us to wait.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.0.retry_after = Some(wait);
        self
    }

    /// Marks that the layer that owns retries has given up, so that outer layers do not start over.
    #[must_use]
    pub fn with_retries_spent(mut self) -> Self {
        self.0.retries_spent = true;
        self
    }

    /// What callers branch on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the far side may have acted.
    pub fn effect(&self) -> EffectState {
        self.0.effect
    }

    /// Whether waiting may help and nobody below has already tried long enough.
    pub fn is_retryable(&self) -> bool {
        self.0.kind.is_passing() && !self.0.retries_spent
    }

    /// Whether the cause may pass by itself, however often it was tried: such an undo stays open instead of stuck.
    pub fn is_passing(&self) -> bool {
        self.0.kind.is_passing()
    }

    /// How long the far side asked us to wait.
    pub fn retry_after(&self) -> Option<Duration> {
        self.0.retry_after
    }

    /// The operation that failed.
    pub fn operation(&self) -> Option<&str> {
        self.0.operation.as_deref()
    }

    /// What it failed on.
    pub fn subject(&self) -> Option<&str> {
        self.0.subject.as_deref()
    }

    /// What failed and why, without operation, subject and causes.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The command or setting that cures it.
    pub fn remedy(&self) -> Option<&str> {
        self.0.remedy.as_deref()
    }

    /// Prints this error and its causes on one line.
    pub fn chain(&self) -> Chain<'_> {
        Chain(self)
    }

    /// The causes from the outermost inwards, each printing only itself.
    pub fn causes(&self) -> impl Iterator<Item = String> {
        let mut next: Option<&dyn StdError> = self.source();
        std::iter::from_fn(move || {
            let it = next?;
            next = it.source();
            Some(it.to_string())
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.0.operation, &self.0.subject) {
            (Some(operation), Some(subject)) => write!(f, "{operation} {subject}: ")?,
            (Some(it), None) => write!(f, "{it}: ")?,
            (None, Some(it)) => write!(f, "{it}: ")?,
            (None, None) => {}
        }
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:?}, effect {:?}] {}", self.0.kind, self.0.effect, self.chain())?;
        if let Some(remedy) = &self.0.remedy {
            write!(f, " (remedy: {remedy})")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|it| it as &(dyn StdError + 'static))
    }
}

/// Prints an error and all its causes, separated by colons.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a>(&'a Error);

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        self.0.causes().try_for_each(|cause| write!(f, ": {cause}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_layer_prints_itself_and_the_chain_prints_all() {
        let inner = Error::new(ErrorKind::OutOfSpace, "no room in aggregate aggr1").with_remedy("add disks");
        let outer = Error::wrap(inner, "cannot create the volume").during("create").on("vm-100-disk-0");
        assert_eq!(outer.to_string(), "create vm-100-disk-0: cannot create the volume");
        assert_eq!(
            outer.chain().to_string(),
            "create vm-100-disk-0: cannot create the volume: no room in aggregate aggr1"
        );
        assert_eq!(outer.remedy(), Some("add disks"));
        assert_eq!(outer.effect(), EffectState::None);
    }

    #[test]
    fn silence_is_not_a_refusal() {
        assert_eq!(Error::new(ErrorKind::Timeout, "x").effect(), EffectState::Unknown);
        assert_eq!(Error::new(ErrorKind::Busy, "x").effect(), EffectState::None);
        assert!(Error::new(ErrorKind::Busy, "x").is_retryable());
        assert!(!Error::new(ErrorKind::Busy, "x").with_retries_spent().is_retryable());
        assert!(Error::new(ErrorKind::Busy, "x").with_retries_spent().is_passing());
    }
}
