//! The production [`Wire`]: HTTPS with keep-alive, verified TLS, no redirects, no proxies, bounded answers.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use reqwest::tls::TlsInfo;
use san_core::{Deadline, Error, ErrorKind, Result};

use crate::failover::{Failover, Standing};
use crate::peer::{ValidUntil, end_of};
use crate::tls::{Refused, client_config};
use crate::{Address, BodyLimit, Endpoint, Wire, WireError};

/// Longest wait for a TCP connection to an address that was dead when it was last tried.
const PROBE: Duration = Duration::from_millis(500);
/// ONTAP and others close idle connections after minutes; ours go first, so that a reuse does not meet a closed one.
const IDLE: Duration = Duration::from_secs(60);

/// Carries requests over HTTPS with one connection pool. Build one per endpoint and share it.
pub struct HttpsWire {
    http: reqwest::Client,
    addresses: Vec<Address>,
    failover: Failover,
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
            .tls_info(true)
            .retry(reqwest::retry::never())
            .connect_timeout(endpoint.connect)
            .pool_idle_timeout(IDLE)
            .tcp_keepalive(Duration::from_secs(30))
            .build()
            .map_err(|error| {
                Error::new(ErrorKind::Internal, "cannot set up the HTTPS client")
                    .caused_by(error.without_url())
            })?;
        Ok(Self {
            http,
            addresses: endpoint.addresses.clone(),
            failover: Failover::of(endpoint.addresses.len()),
        })
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
        let certificate = answer.extensions().get::<TlsInfo>().and_then(TlsInfo::peer_certificate);
        if let Some(end) = certificate.and_then(end_of) {
            response.extensions_mut().insert(ValidUntil(end));
        }
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        Ok(response)
    }

    /// Sends it to the best address that takes a connection. What may have reached one address is never sent to another:
    /// whether it may be repeated is for the caller to know.
    async fn send_to_any(
        &self,
        request: Request<Bytes>,
        deadline: Deadline,
    ) -> Result<Response<Bytes>, WireError> {
        let mut queue = self.failover.order();
        let (mut silent, mut untrusted) = (Vec::new(), None);
        while let Some((index, standing)) = queue.pop_front() {
            let Some(address) = self.addresses.get(index) else { continue };
            if standing == Standing::Due && !queue.is_empty() && !answers(address).await {
                self.failover.failed(index);
                queue.push_back((index, Standing::Down));
                continue;
            }
            let sent = tokio::time::timeout_at(deadline.instant(), self.send_to(address, request.clone()));
            let outcome = sent.await.unwrap_or(Err(WireError::TimedOut));
            match outcome {
                Err(WireError::NotSent(why)) => silent.push(why),
                Err(error @ WireError::Untrusted(_)) => {
                    tracing::warn!(%address, %error, "a management address is passed over");
                    untrusted.get_or_insert(error);
                }
                Err(WireError::Lost(_) | WireError::TimedOut) => {
                    // The next request goes to another address.
                    self.failover.failed(index);
                    return outcome;
                }
                Ok(_) | Err(WireError::TooLarge(_)) => {
                    self.failover.answered(index);
                    return outcome;
                }
            }
            self.failover.failed(index);
        }
        // Waiting mends a silent address, but not a certificate.
        Err(untrusted.unwrap_or_else(|| WireError::NotSent(silent.join("; "))))
    }
}

/// Whether an address that was dead takes a TCP connection again.
async fn answers(address: &Address) -> bool {
    let connection = tokio::net::TcpStream::connect(address.with_port());
    matches!(tokio::time::timeout(PROBE, connection).await, Ok(Ok(_)))
}

impl fmt::Debug for HttpsWire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpsWire").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

#[async_trait]
impl Wire for HttpsWire {
    async fn send(&self, request: Request<Bytes>, deadline: Deadline) -> Result<Response<Bytes>, WireError> {
        self.send_to_any(request, deadline).await
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
