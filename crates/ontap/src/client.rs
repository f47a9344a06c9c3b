//! Requests in ONTAP's manner: errors by code, lists by page, changes that may turn into jobs.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use san_core::{Cx, EffectState, Error, ErrorKind, Result};
use san_rest::{Client, CredentialSource, Replay, Request, Wire};
use serde::de::DeserializeOwned;

use crate::error::{is_one_of, of_answer, of_failure};
use crate::wire::{Changed, Page};

/// Below which everything of ONTAP lies.
const ROOT: &str = "/api/";
/// Records per page; ONTAP's own default, named so that it does not depend on the release.
const PAGE: u32 = 10_000;
/// No array has so many pages of volumes; more is an array that goes in circles.
const PAGES: usize = 1_000;
/// ONTAP's bound for `return_timeout` (seconds).
const RETURN_TIMEOUT: u64 = 120;
/// What one request may have of a deadline however short that is.
const SHORTEST_SHARE: Duration = Duration::from_secs(10);
/// How much later than asked for an answer may come.
const GRACE: Duration = Duration::from_secs(5);
/// A change is not begun anew with less time than this: nobody would see its end, and an undo that has looked already
/// would miss what comes of it.
const SECOND_TRY: Duration = Duration::from_secs(5);
/// What is kept back of a deadline for the answer to travel.
const MARGIN: Duration = Duration::from_secs(2);

/// A client with the headers ONTAP asks of its clients.
pub fn client(wire: Arc<dyn Wire>, credentials: Arc<dyn CredentialSource>) -> Client {
    let mut headers = HeaderMap::new();
    // Shown to the array's administrator in its usage statistics.
    headers.insert(HeaderName::from_static("x-dot-client-app"), HeaderValue::from_static("sanbridge"));
    Client::new(wire, credentials, headers)
}

/// The verbs of ONTAP's API.
#[derive(Debug, Clone)]
pub(crate) struct Api(Client);

/// What a change came to.
#[derive(Debug)]
pub(crate) struct Done<T> {
    /// The records ONTAP returned, where it was asked to and did.
    pub(crate) records: Vec<T>,
    /// How many objects a change by query touched.
    pub(crate) touched: Option<u64>,
}

impl Api {
    pub(crate) fn new(client: Client) -> Self {
        Self(client)
    }

    /// Reads one object that must exist.
    pub(crate) async fn get<T: DeserializeOwned>(&self, cx: &Cx, request: &Request) -> Result<T> {
        let answer = self.0.send(cx, request).await?;
        let read = if answer.status.is_success() { answer.json() } else { Err(of_answer(&answer)) };
        // Reading leaves nothing behind, whatever the answer was.
        read.map_err(|error| error.with_effect(EffectState::None))
    }

    /// Reads one object by its key; `None` only where ONTAP says, by one of the `absent` codes, that it does not exist.
    pub(crate) async fn find<T: DeserializeOwned>(
        &self,
        cx: &Cx,
        request: &Request,
        absent: &[u64],
    ) -> Result<Option<T>> {
        match self.get(cx, request).await {
            Ok(it) => Ok(Some(it)),
            Err(error) if is_one_of(&error, absent) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads all pages of a collection: complete, or an error.
    pub(crate) async fn list<T: DeserializeOwned>(&self, cx: &Cx, request: Request) -> Result<Vec<T>> {
        let mut request = request.query("max_records", PAGE).expect_list();
        let mut all = Vec::new();
        for _ in 0..PAGES {
            let page: Page<T> = self.get(cx, &request).await?;
            if let Some(failure) = page.error {
                // What went wrong with collecting says nothing of the objects, whatever code it has.
                return Err(Error::new(ErrorKind::Unavailable, "the array broke off a list")
                    .with_effect(EffectState::None)
                    .caused_by(of_failure(None, failure)));
            }
            if page.num_records != page.records.len() as u64 {
                return Err(Error::new(ErrorKind::Protocol, "the array miscounts a page of a list")
                    .with_effect(EffectState::None));
            }
            all.extend(page.records);
            let Some(next) = page.links.next else { return Ok(all) };
            let next =
                request.continued_at(&next.href, ROOT).map_err(|it| it.with_effect(EffectState::None))?;
            request = next;
        }
        Err(Error::new(ErrorKind::Protocol, "the array's list has no end").with_effect(EffectState::None))
    }

    /// Reads the one record of a collection that matches, if any.
    pub(crate) async fn find_one<T: DeserializeOwned>(&self, cx: &Cx, request: Request) -> Result<Option<T>> {
        let mut all = self.list(cx, request).await?;
        let first = all.pop();
        if all.is_empty() {
            Ok(first)
        } else {
            Err(Error::new(ErrorKind::Protocol, "the array gives several answers where there can be one")
                .with_effect(EffectState::None))
        }
    }

    /// Carries out a change without waiting for its job: success means that the array has taken it on.
    pub(crate) async fn begin(&self, cx: &Cx, request: &Request) -> Result<()> {
        let answer = self.0.send(cx, request).await?;
        if answer.status.is_success() { Ok(()) } else { Err(of_answer(&answer)) }
    }

    /// Carries out a change and waits for its job, if it turned into one. A success is proof.
    pub(crate) async fn change<T: DeserializeOwned>(&self, cx: &Cx, request: &Request) -> Result<Done<T>> {
        let mut done = Done { records: Vec::new(), touched: None };
        let mut request = request.clone();
        for _ in 0..PAGES {
            let answer = self.0.send(cx, &request).await?;
            if !answer.status.is_success() {
                let error = of_answer(&answer);
                // An earlier attempt, whose answer was lost, may have done it, whatever the repetition is told.
                return Err(if answer.after_silence {
                    error.with_effect(EffectState::Unknown)
                } else {
                    error
                });
            }
            let changed: Changed<T> = answer.json()?;
            if let Some(failure) = changed.error {
                return Err(of_failure(None, failure));
            }
            // Only 202 means that work goes on; jobs that have ended are mentioned in other answers too.
            if answer.status == http::StatusCode::ACCEPTED {
                let jobs: Vec<_> = changed.job.into_iter().chain(changed.jobs).collect();
                if jobs.is_empty() {
                    return Err(Error::new(
                        ErrorKind::Protocol,
                        "the array accepted a change and named no job",
                    ));
                }
                for job in jobs {
                    self.wait_for(cx, &job.uuid).await?;
                }
            }
            done.records.extend(changed.records);
            done.touched = match (done.touched, changed.num_records) {
                (Some(a), Some(b)) => Some(a + b),
                (it, None) | (None, it) => it,
            };
            // A change by query that takes long is answered in slices.
            let Some(next) = changed.links.next else { return Ok(done) };
            request = request.continued_at(&next.href, ROOT)?;
        }
        Err(Error::new(ErrorKind::Protocol, "the array's change by query has no end"))
    }
}

/// What became of a change whose answer may have been lost.
#[derive(Debug)]
pub(crate) enum Settled<T, S> {
    /// ONTAP answered.
    Answered(Done<T>),
    /// It did not, and a look shows the change done.
    Seen(S),
}

impl Api {
    /// Carries out a change. Where its answer is lost, `look` tells whether it is done: `Some` if so; if not, the
    /// change is sent once more.
    pub(crate) async fn settle<T, S, F>(
        &self,
        cx: &Cx,
        request: &Request,
        look: impl Fn() -> F,
    ) -> Result<Settled<T, S>>
    where
        T: DeserializeOwned,
        F: Future<Output = Result<Option<S>>>,
    {
        let error = match self.change(cx, request).await {
            Err(error) if error.effect() == EffectState::Unknown => error,
            other => return other.map(Settled::Answered),
        };
        match look().await {
            Ok(Some(it)) => Ok(Settled::Seen(it)),
            Ok(None) if cx.deadline().remaining() < SECOND_TRY => Err(error),
            Ok(None) => self.change(cx, request).await.map(Settled::Answered).map_err(|again| {
                // The first attempt may still be carried out: a second that never left does not change that.
                if again.is_passing() { again.with_effect(EffectState::Unknown) } else { again }
            }),
            // A look that contradicts the request says more; one that cannot be had leaves the first error standing.
            Err(looked) => Err(if contradicts(looked.kind()) { looked } else { error }),
        }
    }
}

/// Whether a look ended with what it saw, not with why it could not look.
fn contradicts(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::AlreadyExists | ErrorKind::Conflict | ErrorKind::NotFound | ErrorKind::IdentityMismatch
    )
}

impl Api {
    /// Carries out a change that comes out the same however often it is done: once more where its answer was lost or
    /// cannot be read.
    pub(crate) async fn insist(&self, cx: &Cx, request: Request) -> Result<()> {
        let request = request.replay(Replay::Safe);
        let undecided = || async { Ok(None::<()>) };
        self.settle::<serde_json::Value, _, _>(cx, &request, undecided).await.map(drop)
    }
}

/// Lets the array finish a job before it answers, as long as half of the deadline allows: no polling then. Of one that is
/// never answered there is time left to look what became of it, and to do it again or take it back.
pub(crate) fn patiently(cx: &Cx, request: Request) -> Request {
    let share = (cx.deadline().remaining() / 2).max(SHORTEST_SHARE);
    let seconds = share.saturating_sub(MARGIN).as_secs().min(RETURN_TIMEOUT);
    request.query("return_timeout", seconds).patience(Duration::from_secs(seconds) + GRACE)
}
