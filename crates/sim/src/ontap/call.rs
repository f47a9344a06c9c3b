//! One request, taken apart: path, parameters by their meaning, body.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use percent_encoding::percent_decode_str;

use super::body::Body;
use super::error::{ApiError, FIELD_TWICE, NO_EXPRESSION};
use super::filter::Filter;
use super::route::{Param, Route};
use super::version::Version;

/// Records in a page when the client does not say.
pub(crate) const DEFAULT_PAGE: usize = 10_000;

/// A request that was found well-formed.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) route: &'static Route,
    pub(crate) method: Method,
    /// What stands in the path's variable places, decoded.
    pub(crate) keys: Vec<String>,
    pub(crate) params: Params,
    pub(crate) body: Body,
    pub(crate) links: Links,
    /// The SVM of the tunnelling header.
    pub(crate) svm: Option<String>,
    /// Path and query as they came, for `_links.self` and `next`.
    pub(crate) path: String,
    pub(crate) query: String,
}

/// Whether the answer carries `_links` everywhere (HAL) or only where paging needs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Links {
    Hal,
    Plain,
}

/// The query of a request.
#[derive(Debug, Default)]
pub(crate) struct Params {
    pub(crate) fields: Option<String>,
    pub(crate) ignore_unknown: bool,
    pub(crate) order_by: Vec<(String, Direction)>,
    pub(crate) max_records: Option<usize>,
    pub(crate) return_timeout: Option<Duration>,
    pub(crate) return_records: Option<bool>,
    pub(crate) continue_on_failure: bool,
    /// Where the page starts: after this record.
    pub(crate) start: Option<String>,
    pub(crate) filters: Vec<Filter>,
    /// Parameters that belong to one endpoint, for example `force`.
    pub(crate) special: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Ascending,
    Descending,
}

impl Params {
    /// A boolean parameter of one endpoint; absent is false.
    pub(crate) fn flag(&self, name: &str) -> Result<bool, ApiError> {
        self.special.get(name).map_or(Ok(false), |text| boolean(name, text))
    }

    /// The values a record's `path` must have, when the query names them exactly.
    pub(crate) fn exact(&self, path: &str) -> Option<Vec<&str>> {
        self.filters.iter().find(|filter| filter.path == path)?.exact()
    }

    /// Sorts the query's parameters by their meaning at `route`; a name without one is refused.
    pub(crate) fn parse(
        query: &str,
        route: &Route,
        method: &Method,
        version: Version,
    ) -> Result<Self, ApiError> {
        let mut params = Self::default();
        let mut seen = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (name, value) = (decode(name), decode(value));
            let name = if name == "svm" { "svm.name".to_owned() } else { name };
            if seen.contains(&name) {
                return Err(FIELD_TWICE
                    .error(format!("Field \"{name}\" was given more than once"))
                    .target(name));
            }
            params.take(&name, &value, route, method, version)?;
            seen.push(name);
        }
        Ok(params)
    }

    fn take(
        &mut self,
        name: &str,
        value: &str,
        route: &Route,
        method: &Method,
        version: Version,
    ) -> Result<(), ApiError> {
        if let Some(param) = route.param(method, name, version) {
            return self.take_param(param, name, value);
        }
        if !route.takes_filters(method) || route.resource.named(name, version).is_empty() {
            return Err(ApiError::unknown_argument(name));
        }
        if value.is_empty() {
            return Err(NO_EXPRESSION.error(format!("Field \"{name}\" has no expression")).target(name));
        }
        self.filters.push(Filter::parse(name, value));
        Ok(())
    }

    fn take_param(&mut self, param: Param, name: &str, value: &str) -> Result<(), ApiError> {
        match param {
            Param::Fields => self.fields = Some(value.to_owned()),
            Param::IgnoreUnknown => self.ignore_unknown = boolean(name, value)?,
            Param::OrderBy => self.order_by = order(value)?,
            Param::MaxRecords => {
                let count = value.parse().ok().filter(|count| *count > 0);
                self.max_records = Some(count.ok_or_else(|| ApiError::bad_value(value, name))?);
            }
            Param::ReturnTimeout => {
                let seconds = value.parse().ok().filter(|seconds| *seconds <= 120);
                let seconds = seconds.ok_or_else(|| ApiError::bad_value(value, name))?;
                self.return_timeout = Some(Duration::from_secs(seconds));
            }
            Param::ReturnRecords => self.return_records = Some(boolean(name, value)?),
            Param::ContinueOnFailure => self.continue_on_failure = boolean(name, value)?,
            Param::SerialRecords => drop(boolean(name, value)?),
            Param::Start => self.start = Some(value.to_owned()),
            Param::Special => drop(self.special.insert(name.to_owned(), value.to_owned())),
        }
        Ok(())
    }
}

/// Percent-decoding of a query: `+` is a space there.
fn decode(text: &str) -> String {
    percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned()
}

/// `true` or `false` in any case.
pub(crate) fn boolean(name: &str, text: &str) -> Result<bool, ApiError> {
    text.to_ascii_lowercase().parse().map_err(|_| ApiError::bad_value(text, name))
}

fn order(value: &str) -> Result<Vec<(String, Direction)>, ApiError> {
    let one = |part: &str| {
        let mut words = part.split_whitespace();
        let field = words.next().ok_or_else(|| ApiError::bad_value(value, "order_by"))?;
        let direction = match words.next().map(str::to_ascii_lowercase).as_deref() {
            None | Some("asc") => Direction::Ascending,
            Some("desc") => Direction::Descending,
            Some(_) => return Err(ApiError::bad_value(value, "order_by")),
        };
        Ok((field.to_owned(), direction))
    };
    value.split(',').map(one).collect()
}
