//! From records to answers: filter, order, page, select, link.

use std::cmp::Ordering;
use std::fmt::Write as _;
use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::call::{Call, DEFAULT_PAGE, Direction, Links};
use super::error::{ApiError, BAD_VALUE};
use super::filter::collect;
use super::model::State;
use super::select::{Selection, Unknown, Whole};

/// What may stand unencoded in one segment of a path or in a query value.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b':');

/// One record of a collection: its key, where it is found, and all its fields.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) keys: Vec<String>,
    pub(crate) path: String,
    pub(crate) value: Value,
}

impl Row {
    /// `parent` is the collection's path below `/api`.
    pub(crate) fn new(parent: &str, keys: Vec<String>, value: Value) -> Self {
        let mut path = format!("/api{parent}");
        for key in &keys {
            let _ = write!(path, "/{}", utf8_percent_encode(key, SEGMENT));
        }
        Self { keys, path, value }
    }

    /// A record whose path is not simply the collection's and its key.
    pub(crate) fn at(path: &str, keys: Vec<String>, value: Value) -> Self {
        Self { keys, path: format!("/api{path}"), value }
    }

    fn order_key(&self) -> String {
        self.keys.join("/")
    }
}

/// What a handler decided.
#[derive(Debug)]
pub(crate) enum Reply {
    /// Done: PATCH or DELETE.
    Done,
    /// Done: POST. The paths (as in [`Row::path`]) of what was made.
    Created(Vec<String>),
    /// Work goes on in jobs.
    Accepted { jobs: Vec<Uuid>, created: Option<String> },
    /// A PATCH or DELETE by query.
    Query(Swept),
}

/// How far a change by query came.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    /// Records that were dealt with.
    pub(crate) count: usize,
    pub(crate) jobs: Vec<Uuid>,
    /// The last of them, when there are more.
    pub(crate) next: Option<String>,
    pub(crate) failure: Option<ApiError>,
    /// What was dealt with, if the client asked for it.
    pub(crate) records: Option<Vec<Value>>,
}

/// How far a fault changes a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ListFault {
    /// At most this many records, with a `next` link that is good.
    Short(usize),
    /// As many as asked, but the `next` link leads nowhere.
    BrokenNext,
    /// Only this many records, then an error in the same answer and no `next`.
    Partial(usize),
}

/// The records that match the request, in order.
pub(crate) fn matching(state: &State, call: &Call, rows: Vec<Row>) -> Result<Vec<Row>, ApiError> {
    for filter in &call.params.filters {
        check_filter(state, call, &filter.path)?;
    }
    let scoped = |row: &Row| call.svm.as_deref().is_none_or(|svm| in_svm(&row.value, svm));
    let wanted = |row: &Row| call.params.filters.iter().all(|filter| filter.matches(&row.value));
    let mut rows: Vec<Row> = rows.into_iter().filter(|row| scoped(row) && wanted(row)).collect();
    rows.sort_by_cached_key(Row::order_key);
    for (field, direction) in call.params.order_by.iter().rev() {
        check_filter(state, call, field).map_err(|_| ApiError::bad_value(field, "order_by"))?;
        rows.sort_by(|a, b| {
            let order = compare_at(&a.value, &b.value, field);
            if *direction == Direction::Descending { order.reverse() } else { order }
        });
    }
    Ok(rows)
}

/// Filters need a field, not an object.
fn check_filter(state: &State, call: &Call, path: &str) -> Result<(), ApiError> {
    let found = call.route.resource.named(path, state.version);
    if found.iter().any(|field| field.path == path) { Ok(()) } else { Err(ApiError::unknown_argument(path)) }
}

fn in_svm(record: &Value, svm: &str) -> bool {
    record.get("svm").is_none_or(|it| it.get("name").and_then(Value::as_str) == Some(svm))
}

fn compare_at(a: &Value, b: &Value, path: &str) -> Ordering {
    let first = |value| {
        let mut found = Vec::new();
        collect(value, path, &mut found);
        found.first().copied().cloned()
    };
    match (first(a), first(b)) {
        (Some(Value::Number(a)), Some(Value::Number(b))) => a.as_u64().cmp(&b.as_u64()),
        (a, b) => a.map(|value| value.to_string()).cmp(&b.map(|value| value.to_string())),
    }
}

/// The fields a GET returns.
pub(crate) fn selection(state: &State, call: &Call, whole: Whole) -> Result<Selection, ApiError> {
    let unknown = if call.params.ignore_unknown { Unknown::Ignore } else { Unknown::Refuse };
    let resource = call.route.resource;
    let fields = call.params.fields.as_deref();
    let mut selection = Selection::new(resource, state.version, fields, whole, unknown)?;
    for filter in &call.params.filters {
        selection.add_filter(resource, state.version, &filter.path);
    }
    Ok(selection)
}

/// The body of a collection GET, and how long building it takes.
pub(crate) fn page(
    state: &State,
    call: &Call,
    rows: Vec<Row>,
    fault: Option<ListFault>,
) -> Result<(Value, Duration), ApiError> {
    let selection = selection(state, call, Whole::Keys)?;
    let rows = after_start(call, matching(state, call, rows)?)?;
    let mut size = call.params.max_records.unwrap_or(DEFAULT_PAGE);
    if !state.pace.record.is_zero() {
        let window = call.params.return_timeout.unwrap_or(Duration::from_secs(15));
        let in_time = window.as_micros() / state.pace.record.as_micros().max(1);
        size = size.min(usize::try_from(in_time).unwrap_or(usize::MAX)).max(1);
    }
    if let Some(ListFault::Short(most)) = fault {
        size = size.min(most.max(1));
    }
    let size = size.min(rows.len());
    let cost = state.pace.record * u32::try_from(size).unwrap_or(u32::MAX);
    let next = (size < rows.len()).then(|| rows[size - 1].order_key());
    let mut body = json!({ "num_records": size });
    if call.params.return_records != Some(false) {
        let shown: Vec<Value> =
            rows.into_iter().take(size).map(|row| show(row, &selection, call.links)).collect();
        body["records"] = Value::Array(shown);
    }
    if let Some(ListFault::Partial(most)) = fault {
        cut(&mut body, most);
        return Ok((body, cost));
    }
    let next = match fault {
        Some(ListFault::BrokenNext) => Some("!gone".to_owned()),
        _ => next,
    };
    link_page(&mut body, call, next.as_deref());
    Ok((body, cost))
}

/// An answer whose collecting failed half way: some records, and an error.
fn cut(body: &mut Value, most: usize) {
    if let Some(Value::Array(records)) = body.get_mut("records") {
        records.truncate(most);
        body["num_records"] = json!(records.len());
    }
    body["error"] = super::error::Code(524_479, 500).error("collecting the records failed").object();
}

/// Drops what earlier pages had. The start key is the last record of the page before.
fn after_start(call: &Call, rows: Vec<Row>) -> Result<Vec<Row>, ApiError> {
    let Some(start) = &call.params.start else { return Ok(rows) };
    if start == "!gone" {
        return Err(BAD_VALUE.error("the start key is not valid any more").target("start.key"));
    }
    if call.params.order_by.is_empty() {
        return Ok(rows.into_iter().filter(|row| row.order_key() > *start).collect());
    }
    let at = rows.iter().position(|row| row.order_key() == *start);
    let at = at.ok_or_else(|| BAD_VALUE.error("the start key is not valid any more").target("start.key"))?;
    Ok(rows.into_iter().skip(at + 1).collect())
}

fn link_page(body: &mut Value, call: &Call, next: Option<&str>) {
    let mut links = Map::new();
    if call.links == Links::Hal {
        let query = if call.query.is_empty() { String::new() } else { format!("?{}", call.query) };
        links.insert("self".to_owned(), json!({ "href": format!("{}{query}", call.path) }));
    }
    if let Some(start) = next {
        links.insert("next".to_owned(), json!({ "href": next_href(call, start) }));
    }
    if !links.is_empty() {
        body["_links"] = Value::Object(links);
    }
}

/// The same request from `start` on: every parameter of the original and an opaque start key.
pub(crate) fn next_href(call: &Call, start: &str) -> String {
    let kept = call.query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("start.key="));
    let mut query = format!("start.key={}", utf8_percent_encode(start, SEGMENT));
    for pair in kept {
        let _ = write!(query, "&{pair}");
    }
    format!("{}?{query}", call.path)
}

/// One record as it is returned.
pub(crate) fn show(row: Row, selection: &Selection, links: Links) -> Value {
    let Row { path, value, .. } = row;
    let mut shown = selection.prune(value);
    if links == Links::Hal {
        shown["_links"] = json!({ "self": { "href": path } });
    }
    shown
}

/// The job object of a 202 answer.
pub(crate) fn job_object(job: Uuid, links: Links) -> Value {
    let mut object = json!({ "uuid": job });
    if links == Links::Hal {
        object["_links"] = json!({ "self": { "href": format!("/api/cluster/jobs/{job}") } });
    }
    object
}
