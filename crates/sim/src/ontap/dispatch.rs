//! From a request to what the array does and answers.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Value, json};
use uuid::Uuid;

use super::answer::{self, ListFault, Reply, Row, Swept, job_object, show};
use super::body::Body;
use super::call::{Call, Links, Params};
use super::config::EmptyQuery;
use super::error::{ApiError, INVALID_VALUE};
use super::model::State;
use super::route::{self, Route, Shape};
use super::schema::{Resource, Setter};
use super::select::{Selection, Unknown, Whole};

/// How long a change by query works before it answers, when the client does not say.
const QUERY_WINDOW: Duration = Duration::from_secs(15);

/// A finished answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) location: Option<String>,
    pub(crate) body: Value,
    /// Time that building the answer takes on the array.
    pub(crate) cost: Duration,
}

impl Answer {
    fn new(status: StatusCode, body: Value) -> Self {
        Self { status, location: None, body, cost: Duration::ZERO }
    }

    pub(crate) fn error(error: &ApiError) -> Self {
        Self::new(error.status(), error.body())
    }
}

/// What a request led to.
#[derive(Debug)]
pub(crate) enum Begun {
    Answered(Answer),
    /// Jobs run; the answer depends on how they end until `until`.
    Waiting(Box<Waiting>),
}

#[derive(Debug)]
pub(crate) struct Waiting {
    call: Call,
    jobs: Vec<Uuid>,
    pub(crate) until: Duration,
    created: Option<String>,
    by_query: Option<Swept>,
}

/// The request line and headers as they came.
#[derive(Debug)]
pub(crate) struct Raw<'a> {
    pub(crate) method: &'a Method,
    pub(crate) path: &'a str,
    pub(crate) query: &'a str,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) body: &'a [u8],
}

/// The path below `/api`, with double and trailing slashes taken away.
pub(crate) fn below_api(path: &str) -> Option<String> {
    let mut segments = path.split('/').filter(|segment| !segment.is_empty());
    (segments.next() == Some("api")).then(|| {
        segments.fold(String::new(), |mut path, segment| {
            path.push('/');
            path.push_str(segment);
            path
        })
    })
}

/// Carries out a request up to the point where only time passes.
pub(crate) fn begin(state: &mut State, raw: &Raw<'_>, fault: Option<ListFault>) -> Result<Begun, ApiError> {
    let call = parse(state, raw)?;
    state.permit(&call)?;
    state.check_approval(&call)?;
    if call.method == Method::GET {
        return read(state, &call, fault).map(Begun::Answered);
    }
    let reply = match call.route.changer(&call.method) {
        Some(change) => change(state, &call)?,
        None => by_query(state, &call)?,
    };
    conclude(state, call, reply)
}

fn parse(state: &State, raw: &Raw<'_>) -> Result<Call, ApiError> {
    let missing = || super::error::NO_SUCH_API.error("API not found");
    let path = below_api(raw.path).ok_or_else(missing)?;
    let (route, keys) = route::find(&path, state.version)?;
    route.check_method(raw.method)?;
    let params = Params::parse(raw.query, route, raw.method, state.version)?;
    let body = Body::parse(raw.body)?;
    match *raw.method {
        Method::POST => {
            let many = body.has("records") && route.resource != Resource::Initiator;
            if many {
                return Err(ApiError::not_simulated("creating many objects in one request"));
            }
            body.check(route.resource, Setter::Post, state.version)?;
        }
        Method::PATCH => {
            body.check(route.resource, Setter::Patch, state.version)?;
            let restores = params.special.keys().any(|name| name.starts_with("restore_to."));
            if body.is_empty() && !restores {
                return Err(INVALID_VALUE.error("the request changes nothing"));
            }
        }
        _ => {}
    }
    let text = |name: &str| raw.headers.get(name).and_then(|value| value.to_str().ok());
    let links = match text(header::ACCEPT.as_str()) {
        Some(accept) if accept.trim().eq_ignore_ascii_case("application/json") => Links::Plain,
        _ => Links::Hal,
    };
    let svm = state.account_svm().or_else(|| text("x-dot-svm-name")).map(str::to_owned);
    let path = format!("/api{path}");
    let query = raw.query.to_owned();
    Ok(Call { route, method: raw.method.clone(), keys, params, body, links, svm, path, query })
}

fn read(state: &mut State, call: &Call, fault: Option<ListFault>) -> Result<Answer, ApiError> {
    if call.route.resource == Resource::Volume {
        state.autosize();
    }
    let rows = state.seen(call, (call.route.get)(state, call)?);
    if let Shape::Collection(_) = call.route.shape {
        let rows = state.overrides.lag(rows);
        let (body, cost) = answer::page(state, call, rows, fault)?;
        return Ok(Answer { cost, ..Answer::new(StatusCode::OK, body) });
    }
    let selection = answer::selection(state, call, Whole::Cheap)?;
    let row = rows.into_iter().next().ok_or_else(ApiError::no_entry)?;
    Ok(Answer::new(StatusCode::OK, show(row, &selection, call.links)))
}

/// Turns a handler's decision into an answer, or into waiting.
fn conclude(state: &State, call: Call, reply: Reply) -> Result<Begun, ApiError> {
    let (jobs, created, by_query) = match reply {
        Reply::Done => return Ok(Begun::Answered(Answer::new(StatusCode::OK, json!({})))),
        Reply::Created(paths) => return Ok(Begun::Answered(created_answer(state, &call, &paths))),
        Reply::Query(Swept { failure: Some(failure), .. }) => return Err(failure),
        Reply::Query(swept) => (swept.jobs.clone(), None, Some(swept)),
        Reply::Accepted { jobs, created } => (jobs, created, None),
    };
    let usual = if by_query.is_some() { QUERY_WINDOW } else { Duration::ZERO };
    let until = state.now + call.params.return_timeout.unwrap_or(usual);
    Ok(Begun::Waiting(Box::new(Waiting { call, jobs, until, created, by_query })))
}

impl Waiting {
    /// When to look again: the next end of a job, or the end of the window.
    pub(crate) fn next_look(&self, state: &State) -> Duration {
        let open = self.jobs.iter().filter(|job| state.jobs.result_of(**job).is_none());
        let last = open.map(|job| state.jobs.end_of(*job).unwrap_or(Duration::MAX)).max();
        last.unwrap_or(Duration::ZERO).min(self.until)
    }

    /// Whether the client waits at all. Without a window the answer is 202, however fast the job is.
    fn has_window(&self) -> bool {
        self.by_query.is_some() || self.call.params.return_timeout.is_some_and(|it| !it.is_zero())
    }

    /// The answer, if there is one at this time.
    pub(crate) fn answer(&self, state: &State) -> Option<Answer> {
        if !self.has_window() {
            return Some(self.accepted());
        }
        let results: Vec<_> = self.jobs.iter().map(|job| state.jobs.result_of(*job)).collect();
        if let Some(error) = results.iter().find_map(|result| result.and_then(|it| it.as_ref().err())) {
            return Some(Answer::error(error));
        }
        if results.iter().all(Option::is_some) {
            return Some(self.finished(state));
        }
        (state.now >= self.until).then(|| self.accepted())
    }

    fn job_objects(&self) -> Vec<Value> {
        self.jobs.iter().map(|job| job_object(*job, self.call.links)).collect()
    }

    fn accepted(&self) -> Answer {
        let mut answer = Answer::new(StatusCode::ACCEPTED, self.body());
        answer.location.clone_from(&self.created);
        answer
    }

    fn finished(&self, state: &State) -> Answer {
        let mut body = self.body();
        let Some(path) = &self.created else {
            let partly = self.by_query.as_ref().is_some_and(|swept| swept.next.is_some());
            let status = if partly { StatusCode::ACCEPTED } else { StatusCode::OK };
            return Answer::new(status, body);
        };
        if self.call.params.return_records == Some(true) {
            add_records(state, &self.call, std::slice::from_ref(path), &mut body);
        }
        Answer { location: Some(path.clone()), ..Answer::new(StatusCode::CREATED, body) }
    }

    fn body(&self) -> Value {
        let jobs = self.job_objects();
        let Some(Swept { count, next, records, .. }) = &self.by_query else {
            return json!({ "job": jobs.into_iter().next() });
        };
        let mut body = json!({ "num_records": count });
        if !jobs.is_empty() {
            body["jobs"] = Value::Array(jobs);
        }
        if let Some(records) = records {
            body["records"] = json!(records);
        }
        if let Some(next) = next {
            body["_links"] = json!({ "next": { "href": answer::next_href(&self.call, next) } });
        }
        body
    }

    /// The path of the object that will be made.
    pub(crate) fn created(&self) -> Option<&str> {
        self.created.as_deref()
    }
}

fn created_answer(state: &State, call: &Call, paths: &[String]) -> Answer {
    let mut body = json!({});
    if call.params.return_records == Some(true) {
        add_records(state, call, paths, &mut body);
    }
    Answer { location: paths.first().cloned(), ..Answer::new(StatusCode::CREATED, body) }
}

/// Adds the new objects with all their fields that are not expensive.
fn add_records(state: &State, call: &Call, paths: &[String], body: &mut Value) {
    let cheap = Selection::new(call.route.resource, state.version, None, Whole::Cheap, Unknown::Refuse);
    let records: Vec<Value> = paths
        .iter()
        .filter_map(|path| Some(show(row_at(state, call, path)?, cheap.as_ref().ok()?, call.links)))
        .collect();
    body["num_records"] = json!(records.len());
    body["records"] = Value::Array(records);
}

fn row_at(state: &State, call: &Call, path: &str) -> Option<Row> {
    let (route, keys) = route::find(path.strip_prefix("/api")?, state.version).ok()?;
    let call = item_call(call, route, keys, Method::GET);
    state.seen(&call, (route.get)(state, &call).ok()?).into_iter().next()
}

/// The call for one item of a collection, with the parameters and the body of the call for all.
fn item_call(call: &Call, route: &'static Route, keys: Vec<String>, method: Method) -> Call {
    Call {
        route,
        method,
        keys,
        params: Params { special: call.params.special.clone(), ..Params::default() },
        body: call.body.clone(),
        links: call.links,
        svm: call.svm.clone(),
        path: call.path.clone(),
        query: String::new(),
    }
}

/// PATCH or DELETE of a collection: the same as a GET and a loop over what it found, one after the other.
fn by_query(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let item = call.route.bulk_item().ok_or_else(|| super::error::NO_SUCH_API.error("API not found"))?;
    let change =
        item.changer(&call.method).ok_or_else(|| super::error::NO_SUCH_API.error("API not found"))?;
    if call.params.filters.is_empty() {
        return Err(INVALID_VALUE.error(format!("{} of a collection needs a query", call.method)));
    }
    let rows = state.seen(call, (call.route.get)(state, call)?);
    let mut rows = answer::matching(state, call, rows)?;
    if let Some(start) = &call.params.start {
        rows.retain(|row| row.keys.join("/") > *start);
    }
    if rows.is_empty() && call.params.start.is_none() && state.unverified.empty_query == EmptyQuery::NotFound
    {
        return Err(ApiError::no_entry());
    }
    let total = rows.len();
    let keys = answer::selection(state, call, Whole::Keys)?;
    let (mut swept, mut last) = (Swept::default(), String::new());
    swept.records = (call.params.return_records == Some(true)).then(Vec::new);
    let carry_on = call.params.continue_on_failure;
    for row in rows.into_iter().take(slice(state, call)) {
        last = row.keys.join("/");
        let call = item_call(call, item, row.keys.clone(), call.method.clone());
        if let Some(records) = &mut swept.records {
            records.push(show(row, &keys, call.links));
        }
        state.jobs.queue_delay = state.pace.job * u32::try_from(swept.jobs.len()).unwrap_or(u32::MAX);
        let reply = change(state, &call);
        state.jobs.queue_delay = Duration::ZERO;
        swept.count += 1;
        match reply {
            Ok(Reply::Accepted { jobs, .. }) => swept.jobs.extend(jobs),
            Ok(_) => {}
            Err(error) => {
                swept.failure.get_or_insert(error);
                if !carry_on {
                    break;
                }
            }
        }
    }
    swept.next = (swept.count < total).then_some(last);
    Ok(Reply::Query(swept))
}

/// How many records fit into the time of one request.
fn slice(state: &State, call: &Call) -> usize {
    let most = call.params.max_records.unwrap_or(usize::MAX);
    if state.pace.job.is_zero() || call.route.resource != Resource::Volume {
        return most;
    }
    let window = call.params.return_timeout.unwrap_or(QUERY_WINDOW);
    let fits = window.as_micros() / state.pace.job.as_micros().max(1);
    most.min(usize::try_from(fits).unwrap_or(usize::MAX)).max(1)
}
