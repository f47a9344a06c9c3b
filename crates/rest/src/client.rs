//! The client of one array: one budget, one circuit breaker and one login for everybody who talks to it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use san_core::{Cx, Deadline, Effect, EffectKind, EffectState, Error, ErrorKind, Result};
use tokio::sync::Semaphore;

use crate::auth::{CredentialSource, Credentials, Login, refusal};
use crate::breaker::Breaker;
use crate::peer::{Observed, Peer};
use crate::stats::{Answered, RequestCount, Stats};
use crate::{Answer, BodyLimit, Replay, Request, Wire, WireError};

/// Changes under way to one array at a time, and as many reads: enough to hide latency, few enough to leave room for
/// others. Changes may wait for jobs, so reads do not queue behind them.
const CONCURRENCY: usize = 8;
/// Repetitions of one request after its first failure.
const REPETITIONS: usize = 3;
/// An attempt that got at least this long and no answer counts as a failure of the array, not of the caller's hurry.
const FAIR_WAIT: Duration = Duration::from_secs(5);
/// Wait after a 429 or 503 that names none.
const USUAL_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Shared {
    wire: Arc<dyn Wire>,
    headers: HeaderMap,
    login: Login,
    changes: Semaphore,
    reads: Semaphore,
    breaker: Breaker,
    observed: Observed,
    stats: Stats,
}

/// The client of one (addresses, credential). Clones share everything.
#[derive(Clone)]
pub struct Client(Arc<Shared>);

/// What one sent request came to.
enum Outcome {
    Answer(Response<Bytes>),
    None(WireError, Duration),
}

/// What to do about it.
enum Verdict {
    Done(Answer),
    Fail(Error),
    /// Try again after this pause, or fail with this error where the deadline or the count forbids it.
    Again(Option<Duration>, Error),
    Login,
}

impl Client {
    /// A client over `wire`. `headers` go with every request.
    pub fn new(wire: Arc<dyn Wire>, credentials: Arc<dyn CredentialSource>, headers: HeaderMap) -> Self {
        Self(Arc::new(Shared {
            wire,
            headers,
            login: Login::new(credentials),
            changes: Semaphore::new(CONCURRENCY),
            reads: Semaphore::new(CONCURRENCY),
            breaker: Breaker::default(),
            observed: Observed::default(),
            stats: Stats::default(),
        }))
    }

    /// Requests sent so far, by method and path.
    pub fn stats(&self) -> Vec<RequestCount> {
        self.0.stats.all()
    }

    /// Whether the array failed to answer lately, so that requests are held back.
    pub fn is_cut_off(&self) -> bool {
        self.0.breaker.is_open()
    }

    /// What its answers have told of the array itself.
    pub fn peer(&self) -> Peer {
        self.0.observed.peer()
    }

    /// Sends `request` and returns the answer, whatever its status, except what this client settles itself: refused
    /// credentials, overload, redirects, and failures of the connection. Repeats it where that is safe, until an
    /// answer comes, the repetitions are spent or the deadline of `cx` passes.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout`, `Throttled`, `Unauthenticated`, `IdentityMismatch` (the certificate), `Protocol`;
    /// each says whether the array may have acted.
    pub async fn send(&self, cx: &Cx, request: &Request) -> Result<Answer> {
        let mut uncertain = false;
        self.send_repeatedly(cx, request, &mut uncertain).await.map_err(|error| {
            // What an earlier attempt may have done, a later one that never left does not undo.
            let error = if uncertain { error.with_effect(EffectState::Unknown) } else { error };
            // A request that only reads leaves nothing behind, whatever became of it.
            let error = if request.is_mutating() { error } else { error.with_effect(EffectState::None) };
            error.during(request.verb()).on(&request.path)
        })
    }

    async fn send_repeatedly(&self, cx: &Cx, request: &Request, uncertain: &mut bool) -> Result<Answer> {
        let mut credentials = self.0.login.current().await?;
        let mut pauses = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_delay(Duration::from_secs(2))
            .with_max_times(REPETITIONS)
            .with_jitter()
            .build();
        let mut may_log_in_again = true;
        let mut last: Option<Error> = None;
        loop {
            let outcome = match (self.send_once(cx, request, &credentials).await, &last) {
                (Ok(outcome), _) => outcome,
                // What went wrong on the wire says more than why it is not tried again just now.
                (Err(_), Some(last)) => return Err(Error::clone(last).with_retries_spent()),
                (Err(error), None) => return Err(error),
            };
            match judge(request, outcome) {
                Verdict::Done(answer) => return Ok(Answer { after_silence: *uncertain, ..answer }),
                Verdict::Fail(error) => return Err(error),
                Verdict::Login if may_log_in_again => {
                    may_log_in_again = false;
                    credentials = self.0.login.refused(&credentials).await?;
                }
                Verdict::Login => {
                    // Refused twice: what the source has now is remembered as refused as well.
                    return Err(self.0.login.refused(&credentials).await.err().unwrap_or_else(refusal));
                }
                Verdict::Again(asked, error) => {
                    *uncertain |= error.effect() == EffectState::Unknown;
                    let Some(pause) = pauses.next() else { return Err(error.with_retries_spent()) };
                    let pause = asked.unwrap_or(pause);
                    if cx.deadline().remaining() <= pause {
                        return Err(error.with_retries_spent());
                    }
                    tracing::debug!(request = ?request, %error, "repeating");
                    last = Some(error);
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// One request on the wire, counted, inside the budget, the circuit breaker and, where it may change something, the
    /// effect seam.
    async fn send_once(&self, cx: &Cx, request: &Request, credentials: &Credentials) -> Result<Outcome> {
        cx.check("waiting to send a request")?;
        let budget = if request.is_mutating() { &self.0.changes } else { &self.0.reads };
        let _permit = tokio::time::timeout_at(cx.deadline().instant(), budget.acquire())
            .await
            .map_err(|_| {
                Error::new(
                    ErrorKind::Timeout,
                    "deadline passed while other requests to this array were under way",
                )
                .with_effect(EffectState::None)
            })?
            .map_err(|_| Error::new(ErrorKind::Internal, "the request budget is closed"))?;
        self.0.breaker.admit()?;
        let message = self.message(request, credentials)?;
        let deadline = cx.deadline().at_most(request.patience);
        let exchange = self.exchange(request, message, deadline);
        if !request.is_mutating() {
            return Ok(exchange.await);
        }
        let effect = Effect { kind: EffectKind::Array, verb: request.verb(), subject: request.path.clone() };
        cx.effect(effect, async { Ok(exchange.await) }).await
    }

    async fn exchange(
        &self,
        request: &Request,
        message: http::Request<Bytes>,
        deadline: Deadline,
    ) -> Outcome {
        let allowed = deadline.remaining();
        let answer = tokio::time::timeout_at(deadline.instant(), self.0.wire.send(message, deadline))
            .await
            .unwrap_or(Err(WireError::TimedOut));
        let answer = match answer {
            Ok(it) if it.body().len() > request.limit => Err(WireError::TooLarge(request.limit)),
            other => other,
        };
        match &answer {
            Ok(_) | Err(WireError::TooLarge(_) | WireError::Untrusted(_)) => self.0.breaker.answered(),
            Err(WireError::TimedOut) if allowed < FAIR_WAIT => {}
            Err(_) => self.0.breaker.failed(),
        }
        let answered = if answer.is_ok() { Answered::Yes } else { Answered::No };
        self.0.stats.count(request.verb(), request.template, answered);
        match answer {
            Ok(it) => {
                self.0.observed.note(&it);
                Outcome::Answer(it)
            }
            Err(error) => Outcome::None(error, allowed),
        }
    }

    fn message(&self, request: &Request, credentials: &Credentials) -> Result<http::Request<Bytes>> {
        let mut message = http::Request::builder()
            .method(request.method.clone())
            .uri(request.target())
            .body(request.body.clone().unwrap_or_default())
            .map_err(|_| Error::new(ErrorKind::Internal, "cannot build the request"))?;
        *message.headers_mut() = self.0.headers.clone();
        message.headers_mut().insert(AUTHORIZATION, credentials.basic()?);
        message.headers_mut().entry(ACCEPT).or_insert(HeaderValue::from_static("application/json"));
        if request.body.is_some() {
            message.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        message.extensions_mut().insert(BodyLimit(request.limit));
        Ok(message)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("wire", &self.0.wire).finish_non_exhaustive()
    }
}

fn judge(request: &Request, outcome: Outcome) -> Verdict {
    match outcome {
        Outcome::Answer(answer) => judge_answer(request, answer),
        Outcome::None(error, allowed) => judge_silence(request, error, allowed),
    }
}

fn judge_answer(request: &Request, answer: Response<Bytes>) -> Verdict {
    let status = answer.status();
    if status.is_redirection() {
        return Verdict::Fail(
            Error::new(
                ErrorKind::Protocol,
                format!("the answer is a redirect ({status}), which is never followed"),
            )
            .with_effect(EffectState::None)
            .with_remedy("configure the address of the array's management interface itself"),
        );
    }
    let wait = retry_after(answer.headers());
    match (status, request.replay) {
        (StatusCode::UNAUTHORIZED, _) => Verdict::Login,
        (StatusCode::TOO_MANY_REQUESTS, _) => overload(ErrorKind::Throttled, status, wait, EffectState::None),
        // A server that names a time refuses before it acts; one that does not may have broken off.
        (StatusCode::SERVICE_UNAVAILABLE, _) if wait.is_some() => {
            overload(ErrorKind::Unavailable, status, wait, EffectState::None)
        }
        (
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT,
            Replay::Safe,
        ) => overload(ErrorKind::Unavailable, status, None, EffectState::Unknown),
        (StatusCode::SERVICE_UNAVAILABLE | StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT, _) => {
            Verdict::Fail(Error::new(
                ErrorKind::Unavailable,
                format!("the array cannot serve now ({status})"),
            ))
        }
        _ => Verdict::Done(Answer { status, body: answer.into_body(), after_silence: false }),
    }
}

fn overload(kind: ErrorKind, status: StatusCode, wait: Option<Duration>, effect: EffectState) -> Verdict {
    let pause = wait.unwrap_or(USUAL_PAUSE);
    let error = Error::new(kind, format!("the array is overloaded or cannot serve now ({status})"))
        .with_effect(effect)
        .with_retry_after(pause);
    Verdict::Again(Some(pause), error)
}

fn judge_silence(request: &Request, error: WireError, allowed: Duration) -> Verdict {
    let again = |error: Error| match request.replay {
        Replay::Safe => Verdict::Again(None, error),
        Replay::OnlyIfUnsent => Verdict::Fail(error),
    };
    match error {
        WireError::NotSent(_) => Verdict::Again(
            None,
            Error::new(ErrorKind::Unavailable, "the array cannot be reached")
                .with_effect(EffectState::None)
                .caused_by(error),
        ),
        WireError::Untrusted(_) => Verdict::Fail(
            Error::new(ErrorKind::IdentityMismatch, "the array's certificate is not trusted")
                .with_remedy(
                    "compare the fingerprint with the one the array shows on its console; if it is the array's, \
                     configure it as pinned or name the authority that signed it",
                )
                .caused_by(error),
        ),
        WireError::Lost(_) => again(Error::new(ErrorKind::Unavailable, "no answer came").caused_by(error)),
        WireError::TimedOut => {
            again(Error::new(ErrorKind::Timeout, format!("no answer within {:.1} s", allowed.as_secs_f32())).caused_by(error))
        }
        WireError::TooLarge(_) => {
            Verdict::Fail(Error::new(ErrorKind::Protocol, "the answer is too large to be right").caused_by(error))
        }
    }
}

/// The wait an answer asks for, in whole seconds (RFC 9110). The form with a date is not used by arrays and ignored.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}
