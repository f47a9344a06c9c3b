//! The handle of a simulated array: takes requests, waits, applies faults, keeps the log.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::answer::ListFault;
use super::auth;
use super::config::OntapConfig;
use super::dispatch::{self, Answer, Begun, Raw, below_api};
use super::error::{ApiError, Code};
use super::faults::{Fault, Faults, Rule, RuleId, Seen};
use super::jobs::JobFate;
use super::log::{Counts, Entry, Log, Mark, Outcome};
use super::model::State;
use super::{build, route};
use crate::server::{Api, ApiState, Cut};

/// A simulated ONTAP array. Clones are the same array.
#[derive(Clone)]
pub struct OntapSim {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) config: OntapConfig,
    origin: Instant,
    state: Mutex<State>,
    pub(crate) faults: Mutex<Faults>,
    log: Mutex<Log>,
    /// The number of the last request, for those who wait for the next.
    last: watch::Sender<Mark>,
    api: watch::Sender<ApiState>,
    /// The `Authorization` header that is accepted.
    credential: Mutex<SecretString>,
}

impl std::fmt::Debug for OntapSim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let config = &self.shared.config;
        f.debug_struct("OntapSim")
            .field("cluster", &config.cluster)
            .field("version", &config.version)
            .finish()
    }
}

/// What faults leave of a request on its way in.
#[derive(Debug, Default)]
struct Effects {
    instead: Option<Instead>,
    delay: Duration,
    lose: bool,
    list: Option<ListFault>,
    job: Option<JobFate>,
    lag: u32,
    alter: Option<(String, Value)>,
    body: Option<BodyFault>,
}

#[derive(Debug)]
enum Instead {
    Error(ApiError, Option<u64>),
    Cut(Cut),
    Silence,
    Unauthorized,
}

#[derive(Debug)]
enum BodyFault {
    Garbage,
    Truncated,
    Huge(usize),
}

impl OntapSim {
    /// Builds the array. Fails when the configuration does not fit together or the data folder cannot be made.
    pub fn new(config: OntapConfig) -> io::Result<Self> {
        let state = build::state(&config)?;
        let credential = auth::basic(&config.user, config.password.expose_secret());
        let shared = Shared {
            origin: Instant::now(),
            state: Mutex::new(state),
            faults: Mutex::default(),
            log: Mutex::default(),
            last: watch::Sender::new(Mark::START),
            api: watch::Sender::new(ApiState::Up),
            credential: Mutex::new(SecretString::from(credential)),
            config,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// What the array was built from.
    pub fn config(&self) -> &OntapConfig {
        &self.shared.config
    }

    /// Answers one request of the management API, in its own time. [`Cut`] is a connection that broke; a request that
    /// is never answered does not return.
    pub async fn handle(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Cut> {
        let (seq, effects) = self.arrive(&request);
        let result = self.carry_out(seq, &request, effects).await;
        let outcome = match &result {
            Ok(response) => Outcome::Answered(response.status().as_u16()),
            Err(Cut::Refused) => Outcome::Refused,
            Err(Cut::Reset) => Outcome::Reset,
            Err(Cut::Lost) => Outcome::Lost,
        };
        lock(&self.shared.log).end(seq, outcome);
        self.shared.last.send_if_modified(|last| last.advance(seq));
        result
    }

    /// Notes the request and finds the faults that strike it.
    fn arrive(&self, request: &Request<Bytes>) -> (u64, Effects) {
        let uri = request.uri();
        let below = below_api(uri.path());
        let found = below.and_then(|path| route::find(&path, self.shared.config.version).ok());
        let template = found.map(|(route, _)| route.template).unwrap_or_default();
        let query = uri.query().unwrap_or_default();
        let agent = agent(request.headers());
        let seen = Seen { method: request.method().as_str(), template, query, agent };
        let mut effects = Effects::of(lock(&self.shared.faults).strike(&seen));
        match *self.shared.api.borrow() {
            ApiState::Up => {}
            ApiState::Refusing => effects.instead = Some(Instead::Cut(Cut::Refused)),
            ApiState::BlackHole => effects.instead = Some(Instead::Silence),
        }
        let entry = Entry {
            seq: 0,
            at: self.elapsed(),
            method: request.method().to_string(),
            path: uri.path().to_owned(),
            query: query.to_owned(),
            template,
            agent: agent.to_owned(),
            job: false,
            outcome: Outcome::Pending,
        };
        let seq = lock(&self.shared.log).add(entry);
        (seq, effects)
    }

    async fn carry_out(
        &self,
        seq: u64,
        request: &Request<Bytes>,
        effects: Effects,
    ) -> Result<Response<Bytes>, Cut> {
        if let Some(Instead::Cut(Cut::Refused)) = effects.instead {
            return Err(Cut::Refused);
        }
        let half = self.shared.config.pace.latency / 2;
        pause(half + effects.delay).await;
        let mut answer = match &effects.instead {
            Some(Instead::Cut(cut)) => return Err(*cut),
            Some(Instead::Silence) => std::future::pending().await,
            Some(Instead::Error(error, retry)) => {
                let mut response = Self::respond(&Answer::error(error));
                if let Some(seconds) = retry {
                    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(*seconds));
                }
                spoil(&mut response, effects.body.as_ref());
                pause(half).await;
                return Ok(response);
            }
            Some(Instead::Unauthorized) => self.unauthorized(),
            None if !self.is_authorized(request.headers()) => self.unauthorized(),
            None => self.work(seq, request, &effects).await,
        };
        pause(half + answer.cost).await;
        if effects.lose {
            return Err(Cut::Lost);
        }
        if let Some((member, value)) = &effects.alter {
            alter(&mut answer.body, member, value);
        }
        let mut response = Self::respond(&answer);
        if answer.status == StatusCode::UNAUTHORIZED {
            let realm = HeaderValue::from_static("Basic realm=\"Default\"");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, realm);
        }
        spoil(&mut response, effects.body.as_ref());
        Ok(response)
    }

    /// Carries out the request and waits for its jobs as long as it asked to.
    async fn work(&self, seq: u64, request: &Request<Bytes>, effects: &Effects) -> Answer {
        let raw = Raw {
            method: request.method(),
            path: request.uri().path(),
            query: request.uri().query().unwrap_or_default(),
            headers: request.headers(),
            body: request.body(),
        };
        let begun = {
            let mut state = self.state();
            state.jobs.fate.clone_from(&effects.job);
            let begun = dispatch::begin(&mut state, &raw, effects.list);
            state.jobs.fate = None;
            if let Ok(begun) = &begun {
                let created = match begun {
                    Begun::Answered(answer) => answer.location.as_deref(),
                    Begun::Waiting(waiting) => waiting.created(),
                };
                if let Some(path) = created.filter(|_| effects.lag > 0) {
                    state.overrides.hide(path, effects.lag);
                }
            }
            begun
        };
        let waiting = match begun {
            Err(error) => return Answer::error(&error),
            Ok(Begun::Answered(answer)) => return answer,
            Ok(Begun::Waiting(waiting)) => waiting,
        };
        lock(&self.shared.log).became_job(seq);
        loop {
            let next = {
                let state = self.state();
                if let Some(answer) = waiting.answer(&state) {
                    return answer;
                }
                waiting.next_look(&state)
            };
            sleep_until(self.shared.origin + next).await;
        }
    }

    fn respond(answer: &Answer) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(answer.body.to_string()));
        *response.status_mut() = answer.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/hal+json"));
        let location = answer.location.as_deref().and_then(|path| HeaderValue::from_str(path).ok());
        if let Some(location) = location {
            headers.insert(header::LOCATION, location);
        }
        response
    }

    fn is_authorized(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(header::AUTHORIZATION).map(HeaderValue::as_bytes);
        given == Some(lock(&self.shared.credential).expose_secret().as_bytes())
    }

    fn unauthorized(&self) -> Answer {
        let code = Code(self.shared.config.unverified.unauthorized_code, 401);
        Answer::error(&code.error("not authorized for that command"))
    }

    /// Changes the account's password at once.
    pub fn set_password(&self, password: &SecretString) {
        let credential = auth::basic(&self.shared.config.user, password.expose_secret());
        *lock(&self.shared.credential) = SecretString::from(credential);
    }

    /// Sets a fault; later rules add to earlier ones.
    pub fn inject(&self, rule: Rule) -> RuleId {
        lock(&self.shared.faults).add(rule)
    }

    /// Takes a fault back.
    pub fn clear_fault(&self, id: RuleId) {
        lock(&self.shared.faults).remove(id);
    }

    /// Takes all faults back and brings the API up. Portals and objects stay as they are.
    pub fn clear_faults(&self) {
        lock(&self.shared.faults).clear();
        self.set_api(ApiState::Up);
    }

    /// How often a fault has struck since it was set.
    pub fn strikes(&self, id: RuleId) -> u32 {
        lock(&self.shared.faults).struck(id)
    }

    /// Lets the whole management API answer, refuse connections, or fall silent.
    pub fn set_api(&self, state: ApiState) {
        self.shared.api.send_replace(state);
    }

    /// How the management API is, now and later.
    pub fn api(&self) -> watch::Receiver<ApiState> {
        self.shared.api.subscribe()
    }

    /// A place in the request log to count from.
    pub fn mark(&self) -> Mark {
        lock(&self.shared.log).mark()
    }

    /// The requests since `mark`.
    pub fn requests(&self, since: Mark) -> Vec<Entry> {
        lock(&self.shared.log).since(since)
    }

    /// The requests since `mark`, counted by method and path template.
    pub fn counts(&self, since: Mark) -> Counts {
        lock(&self.shared.log).counts(since)
    }

    /// Waits until a request after `mark` has been answered.
    pub async fn next_request(&self, mark: Mark) {
        let mut last = self.shared.last.subscribe();
        // The sender lives as long as this array: waiting cannot fail.
        drop(last.wait_for(|last| *last > mark).await);
    }

    /// Time since the array was built, on tokio's clock.
    pub fn elapsed(&self) -> Duration {
        Instant::now().saturating_duration_since(self.shared.origin)
    }

    /// The array as it is now: what was due has happened.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        let mut state = lock(&self.shared.state);
        state.settle(self.elapsed());
        state
    }
}

#[async_trait]
impl Api for OntapSim {
    async fn handle(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Cut> {
        Self::handle(self, request).await
    }

    fn state(&self) -> watch::Receiver<ApiState> {
        self.api()
    }
}

impl Effects {
    fn of(faults: Vec<Fault>) -> Self {
        let mut effects = Self::default();
        for fault in faults {
            effects.add(fault);
        }
        effects
    }

    fn add(&mut self, fault: Fault) {
        match fault {
            Fault::Answer { status, code, message, retry_after } => {
                let error = ApiError { status, code, message, target: None };
                self.instead = Some(Instead::Error(error, retry_after));
            }
            Fault::Delay(delay) => self.delay += delay,
            Fault::Hang => self.instead = Some(Instead::Silence),
            Fault::Refuse => self.instead = Some(Instead::Cut(Cut::Refused)),
            Fault::ResetBefore => self.instead = Some(Instead::Cut(Cut::Reset)),
            Fault::LoseAnswer => self.lose = true,
            Fault::Unauthorized => self.instead = Some(Instead::Unauthorized),
            Fault::JobFails { code, message } => self.job = Some(JobFate::Fails(code, message)),
            Fault::JobNeverEnds => self.job = Some(JobFate::NeverEnds),
            Fault::JobVanishes => self.job = Some(JobFate::Vanishes),
            Fault::Lag { reads } => self.lag = reads,
            Fault::ShortPage { records } => self.list = Some(ListFault::Short(records)),
            Fault::BrokenNext => self.list = Some(ListFault::BrokenNext),
            Fault::PartialPage { records } => self.list = Some(ListFault::Partial(records)),
            Fault::Alter { member, value } => self.alter = Some((member, value)),
            Fault::Garbage => self.body = Some(BodyFault::Garbage),
            Fault::Truncated => self.body = Some(BodyFault::Truncated),
            Fault::Huge { bytes } => self.body = Some(BodyFault::Huge(bytes)),
        }
    }
}

/// Lets every member of this name have this value.
fn alter(body: &mut Value, member: &str, value: &Value) {
    match body {
        Value::Object(members) => {
            for (name, of) in members {
                if name == member {
                    *of = value.clone();
                } else {
                    alter(of, member, value);
                }
            }
        }
        Value::Array(elements) => elements.iter_mut().for_each(|it| alter(it, member, value)),
        _ => {}
    }
}

/// Puts a fault into the body of an answer.
fn spoil(response: &mut Response<Bytes>, fault: Option<&BodyFault>) {
    let body = response.body_mut();
    match fault {
        None => {}
        Some(BodyFault::Garbage) => *body = Bytes::from_static(b"<html><body>gateway</body></html>"),
        Some(BodyFault::Truncated) => *body = body.slice(..body.len() / 2),
        Some(BodyFault::Huge(bytes)) => *body = Bytes::from(vec![b' '; *bytes]),
    }
}

async fn pause(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

/// Who sent a request.
fn agent(headers: &HeaderMap) -> &str {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    text("x-dot-client-app").or_else(|| text(header::USER_AGENT.as_str())).unwrap_or_default()
}

/// A lock whose holder panicked is taken all the same: tests that fail should fail once.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
