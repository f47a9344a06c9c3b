//! One request as a backend describes it, and the answer it gets.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use san_core::{Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// What RFC 3986 leaves as it is, so that names stay readable in the array's own log.
const ENCODED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// In a query these too stand for themselves.
const ENCODED_IN_QUERY: &AsciiSet = &ENCODED.remove(b',').remove(b'*').remove(b'/').remove(b':');

/// Largest answer that is read, unless a request says otherwise.
const USUAL_ANSWER: usize = 1 << 20;
/// Largest answer of a list.
const LIST_ANSWER: usize = 64 << 20;
/// Longest wait for one answer, unless a request says otherwise.
const USUAL_PATIENCE: Duration = Duration::from_secs(30);

/// Whether a request may be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replay {
    /// Any number of times: it changes nothing, or a repetition changes nothing more.
    Safe,
    /// Only where the earlier one certainly did not reach the array or was refused before anything was done.
    OnlyIfUnsent,
}

/// Largest answer body a [`crate::Wire`] should read: an extension of the request.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimit(pub usize);

impl BodyLimit {
    /// The limit a request carries, or the usual one.
    pub fn of<T>(request: &http::Request<T>) -> usize {
        request.extensions().get::<Self>().map_or(USUAL_ANSWER, |it| it.0)
    }
}

/// One request. Its template, with `{}` for each variable segment, is what it is counted under.
#[derive(Clone)]
pub struct Request {
    pub(crate) method: Method,
    pub(crate) template: &'static str,
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) body: Option<Bytes>,
    pub(crate) replay: Replay,
    pub(crate) limit: usize,
    pub(crate) patience: Duration,
}

impl Request {
    /// A request to `template`, each `{}` of which becomes one of `segments`, percent-encoded.
    fn new(method: Method, template: &'static str, segments: &[&str], replay: Replay) -> Self {
        debug_assert_eq!(template.matches("{}").count(), segments.len(), "{template}");
        let mut path = String::with_capacity(template.len() + 40 * segments.len());
        let mut values = segments.iter();
        for (index, fixed) in template.split("{}").enumerate() {
            if index > 0 {
                path.extend(values.next().into_iter().flat_map(|it| utf8_percent_encode(it, ENCODED)));
            }
            path.push_str(fixed);
        }
        Self {
            method,
            template,
            path,
            query: String::new(),
            body: None,
            replay,
            limit: USUAL_ANSWER,
            patience: USUAL_PATIENCE,
        }
    }

    /// Reads; may be repeated.
    pub fn get(template: &'static str, segments: &[&str]) -> Self {
        Self::new(Method::GET, template, segments, Replay::Safe)
    }

    /// Creates or acts; not repeated once it was sent.
    pub fn post(template: &'static str, segments: &[&str]) -> Self {
        Self::new(Method::POST, template, segments, Replay::OnlyIfUnsent)
    }

    /// Changes; not repeated once it was sent, unless [`Request::replay`] says that it may be.
    pub fn patch(template: &'static str, segments: &[&str]) -> Self {
        Self::new(Method::PATCH, template, segments, Replay::OnlyIfUnsent)
    }

    /// Removes; not repeated once it was sent, unless [`Request::replay`] says that it may be.
    pub fn delete(template: &'static str, segments: &[&str]) -> Self {
        Self::new(Method::DELETE, template, segments, Replay::OnlyIfUnsent)
    }

    /// Adds a query parameter.
    #[must_use]
    pub fn query(mut self, key: &str, value: impl fmt::Display) -> Self {
        if !self.query.is_empty() {
            self.query.push('&');
        }
        self.query.extend(utf8_percent_encode(key, ENCODED));
        self.query.push('=');
        self.query.extend(utf8_percent_encode(&value.to_string(), ENCODED_IN_QUERY));
        self
    }

    /// Sets a JSON body.
    ///
    /// # Errors
    /// `Internal` where `body` cannot be written as JSON.
    pub fn json(mut self, body: &impl Serialize) -> Result<Self> {
        let text = serde_json::to_vec(body).map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot write a request body").caused_by(error)
        })?;
        self.body = Some(text.into());
        Ok(self)
    }

    /// Says whether it may be sent again.
    #[must_use]
    pub fn replay(mut self, replay: Replay) -> Self {
        self.replay = replay;
        self
    }

    /// Expects a list, so a large answer.
    #[must_use]
    pub fn expect_list(mut self) -> Self {
        self.limit = LIST_ANSWER;
        self
    }

    /// Waits up to `patience` for one answer, deadline permitting.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// The same request to the place an answer named as its continuation: an absolute path with a query.
    ///
    /// # Errors
    /// `Protocol` where it would lead elsewhere than below `root` of the same server.
    pub fn continued_at(&self, href: &str, root: &str) -> Result<Self> {
        let stray =
            || Error::new(ErrorKind::Protocol, "the array continues a list at a place that is not its own");
        let target: http::uri::PathAndQuery = href.parse().map_err(|_| stray())?;
        let path = target.path();
        if !path.starts_with(root) || path.contains("//") || path.split('/').any(|it| it == "..") {
            return Err(stray());
        }
        let mut next = self.clone();
        path.clone_into(&mut next.path);
        target.query().unwrap_or_default().clone_into(&mut next.query);
        Ok(next)
    }

    pub(crate) fn is_mutating(&self) -> bool {
        !self.method.is_safe()
    }

    pub(crate) fn verb(&self) -> &'static str {
        match self.method {
            Method::GET => "GET",
            Method::POST => "POST",
            Method::PATCH => "PATCH",
            _ => "DELETE",
        }
    }

    pub(crate) fn target(&self) -> String {
        if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) }
    }
}

impl fmt::Debug for Request {
    /// Neither query nor body: either may hold what does not belong in a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.path)
    }
}

/// What the array said: any status that is not about authentication, overload or redirection.
#[derive(Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// The whole body.
    pub body: Bytes,
    /// Whether an earlier attempt of the same request may have been carried out without an answer.
    pub after_silence: bool,
}

impl Answer {
    /// Reads the body as JSON. An empty body reads as `{}`.
    ///
    /// # Errors
    /// `Protocol` where it is not what was expected.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T> {
        let body: &[u8] = if self.body.is_empty() { b"{}" } else { &self.body };
        serde_json::from_slice(body).map_err(|error| {
            Error::new(ErrorKind::Protocol, "the array's answer cannot be understood")
                // The category and place only: the text of serde_json may quote the answer.
                .caused_by(Garbled { category: error.classify(), line: error.line(), column: error.column() })
        })
    }
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {} bytes", self.status, self.body.len())
    }
}

#[derive(Debug)]
struct Garbled {
    category: serde_json::error::Category,
    line: usize,
    column: usize,
}

impl fmt::Display for Garbled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.category {
            serde_json::error::Category::Data => "a field is missing or of another type",
            serde_json::error::Category::Eof => "it ends early",
            _ => "it is not JSON",
        };
        write!(f, "{what} (line {}, column {})", self.line, self.column)
    }
}

impl std::error::Error for Garbled {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_and_queries_are_encoded() {
        let it = Request::get("/api/storage/luns/{}/attributes/{}", &["a/b?c", "ü"])
            .query("name", "/vol/a b/lun0&x=1")
            .query("fields", "uuid,space.size");
        assert_eq!(
            it.target(),
            "/api/storage/luns/a%2Fb%3Fc/attributes/%C3%BC?name=/vol/a%20b/lun0%26x%3D1&fields=uuid,space.size"
        );
    }

    #[test]
    fn a_list_continues_only_on_the_same_server_and_below_the_root() {
        let it = Request::get("/api/storage/luns", &[]).query("a", 1);
        let next = it.continued_at("/api/storage/luns?start.uuid=7&a=1", "/api/").unwrap();
        assert_eq!(next.target(), "/api/storage/luns?start.uuid=7&a=1");
        for href in [
            "https://evil.example/api/x",
            "//evil.example/api/x",
            "/other",
            "/api/../x",
            "/api//x",
            "",
            "api/x",
        ] {
            assert!(it.continued_at(href, "/api/").is_err(), "{href}");
        }
    }

    #[test]
    fn a_garbled_answer_is_not_quoted() {
        let answer =
            Answer { status: StatusCode::OK, body: Bytes::from_static(br#""canary""#), after_silence: false };
        let error = answer.json::<u32>().unwrap_err();
        assert!(!format!("{error:?} {answer:?}").contains("canary"));
        assert_eq!(error.kind(), ErrorKind::Protocol);
    }
}
