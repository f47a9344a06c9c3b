//! The production [`Wire`]: HTTPS with keep-alive, verified TLS, no redirects, no proxies, bounded answers.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use san_core::{Deadline, Error, ErrorKind, Result};

use crate::tls::{Refused, Trust, client_config};
use crate::{BodyLimit, Wire, WireError};

/// Longest wait for TCP and TLS together; a healthy management network needs milliseconds.
const CONNECT: Duration = Duration::from_secs(5);
/// ONTAP and others close idle connections after minutes; ours go first, so that a reuse does not meet a closed one.
const IDLE: Duration = Duration::from_secs(60);

/// Where a management interface listens: `host` or `host:port`, the port being 443 unless given.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address(http::uri::Authority);

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            let shown: String = text.chars().filter(|it| !it.is_control()).take(64).collect();
            // What precedes an `@` may be a password.
            let shown = shown.rsplit('@').next().unwrap_or_default().to_owned();
            Error::new(
                ErrorKind::InvalidInput,
                format!("{shown:?} is not a host name or address with an optional port"),
            )
        };
        let authority: http::uri::Authority = text.trim().parse().map_err(|_| bad())?;
        let plain = !authority.as_str().contains('@') && !authority.host().is_empty();
        // A second colon outside brackets is an IPv6 address that lacks them.
        let port_is_number = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => true,
            Some(rest) => rest.strip_prefix(':').is_some_and(|it| it.parse::<u16>().is_ok()),
            None => false,
        };
        if plain && port_is_number { Ok(Self(authority)) } else { Err(bad()) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// An array's management interface and how it proves itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// All addresses of one array. The next is tried where one cannot be connected to.
    pub addresses: Vec<Address>,
    /// How its certificate is judged.
    pub trust: Trust,
}

/// Carries requests over HTTPS with one connection pool. Build one per endpoint and share it.
pub struct HttpsWire {
    http: reqwest::Client,
    addresses: Vec<Address>,
    // The address that answered last; a hint only, so relaxed ordering is enough.
    preferred: AtomicUsize,
}

impl HttpsWire {
    /// A wire to `endpoint`. Nothing is sent yet.
    ///
    /// # Errors
    /// `InvalidInput` where there is no address or no usable certificate authority.
    pub fn new(endpoint: &Endpoint) -> Result<Self> {
        if endpoint.addresses.is_empty() {
            return Err(Error::new(ErrorKind::InvalidInput, "the array has no management address"));
        }
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(client_config(&endpoint.trust)?)
            .https_only(true)
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .referer(false)
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT)
            .pool_idle_timeout(IDLE)
            .tcp_keepalive(Duration::from_secs(30))
            .build()
            .map_err(|error| {
                Error::new(ErrorKind::Internal, "cannot set up the HTTPS client")
                    .caused_by(error.without_url())
            })?;
        Ok(Self { http, addresses: endpoint.addresses.clone(), preferred: AtomicUsize::new(0) })
    }

    async fn send_to(
        &self,
        address: &Address,
        request: Request<Bytes>,
    ) -> Result<Response<Bytes>, WireError> {
        let limit = BodyLimit::of(&request);
        let (parts, body) = request.into_parts();
        let target = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
        let request = self
            .http
            .request(parts.method, format!("https://{address}{target}"))
            .headers(parts.headers)
            .body(body);
        let mut answer = request.send().await.map_err(|error| not_answered(address, error))?;
        let mut whole = BytesMut::new();
        while let Some(chunk) =
            answer.chunk().await.map_err(|error| WireError::Lost(innermost(&error.without_url())))?
        {
            if whole.len() + chunk.len() > limit {
                return Err(WireError::TooLarge(limit));
            }
            whole.extend_from_slice(&chunk);
        }
        let mut response = Response::new(whole.freeze());
        *response.status_mut() = answer.status();
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        Ok(response)
    }

    async fn send_to_any(&self, request: Request<Bytes>) -> Result<Response<Bytes>, WireError> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut outcome = Err(WireError::NotSent("no address".into()));
        for offset in 0..self.addresses.len() {
            let index = (first + offset) % self.addresses.len();
            // Should this one never answer, the next request goes to the next address.
            self.preferred.store((index + 1) % self.addresses.len(), Ordering::Relaxed);
            outcome = self.send_to(&self.addresses[index], request.clone()).await;
            match outcome {
                Err(WireError::NotSent(_)) => {}
                Err(WireError::Lost(_) | WireError::TimedOut) => break,
                _ => {
                    self.preferred.store(index, Ordering::Relaxed);
                    break;
                }
            }
        }
        outcome
    }
}

impl fmt::Debug for HttpsWire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpsWire").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

#[async_trait]
impl Wire for HttpsWire {
    async fn send(&self, request: Request<Bytes>, deadline: Deadline) -> Result<Response<Bytes>, WireError> {
        tokio::time::timeout_at(deadline.instant(), self.send_to_any(request))
            .await
            .unwrap_or(Err(WireError::TimedOut))
    }
}

fn not_answered(address: &Address, error: reqwest::Error) -> WireError {
    let connecting = error.is_connect();
    let error = error.without_url();
    if let Some(refused) = find_refused(&error) {
        WireError::Untrusted(format!("{address}: {refused}"))
    } else if connecting {
        let why = if error.is_timeout() { "no connection in time".into() } else { innermost(&error) };
        WireError::NotSent(format!("{address}: {why}"))
    } else {
        WireError::Lost(format!("{address}: {}", innermost(&error)))
    }
}

/// The refusal of a certificate anywhere below `error`. An `io::Error` skips its content in `source`, so that is
/// opened too.
fn find_refused<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Refused> {
    if let Some(content) = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        return find_refused(content);
    }
    if let Some(rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other))) =
        error.downcast_ref()
    {
        return other.0.downcast_ref();
    }
    find_refused(error.source()?)
}

/// What the lowest layer says; the layers above only say that something failed.
fn innermost(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hosts_with_ports_and_nothing_else() {
        for text in ["filer", "filer.example.org:8443", "192.0.2.1", "[2001:db8::1]", "[2001:db8::1]:443"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in
            ["", "a b", "https://filer", "filer/api", "filer:port", "filer:70000", "2001:db8::1", "filer:"]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        let error = "admin:canary@filer".parse::<Address>().unwrap_err();
        assert!(!format!("{error:?}").contains("canary"));
    }
}
