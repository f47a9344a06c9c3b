//! Serving a simulated array over HTTPS, and its control interface over plain HTTP on loopback.

use std::convert::Infallible;
use std::fmt::Debug;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair};
use rustls::ServerConfig;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use san_rest::Fingerprint;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

/// Largest request body that is read.
const BODY_MAX: usize = 16 << 20;

/// How the management API of a simulated array is as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiState {
    /// It answers.
    Up,
    /// It refuses connections.
    Refusing,
    /// It takes connections at most and never answers.
    BlackHole,
}

/// A connection that broke instead of carrying an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cut {
    /// Refused: the request was never sent.
    #[error("connection refused")]
    Refused,
    /// Broken before the request was carried out. The client cannot tell this from [`Cut::Lost`].
    #[error("connection reset before the request was carried out")]
    Reset,
    /// Broken after the request was carried out.
    #[error("connection reset after the request was carried out")]
    Lost,
}

/// A management API that can be served.
#[async_trait]
pub trait Api: Debug + Send + Sync + 'static {
    /// Answers one request.
    async fn handle(&self, request: Request<Bytes>) -> Result<Response<Bytes>, Cut>;

    /// How the API is, now and later.
    fn state(&self) -> watch::Receiver<ApiState>;
}

/// A running HTTPS server. It ends when this is dropped.
#[derive(Debug)]
pub struct HttpsServer {
    address: SocketAddr,
    certificate_pem: String,
    fingerprint: Fingerprint,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Shared {
    connections: AtomicU64,
    handshakes: AtomicU64,
    cut: Notify,
}

impl HttpsServer {
    /// Serves `api` at `listen` with a new self-signed certificate for that address, `localhost` and `names`.
    pub async fn start(api: Arc<dyn Api>, listen: SocketAddr, names: &[String]) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let mut all = vec!["localhost".to_owned(), address.ip().to_string()];
        all.extend(names.iter().filter(|name| !all.contains(name)).cloned().collect::<Vec<_>>());
        let (config, certificate_pem, fingerprint) = tls(all).map_err(io::Error::other)?;
        let shared = Arc::new(Shared::default());
        let accept =
            Accept { api, address, tls: TlsAcceptor::from(Arc::new(config)), shared: Arc::clone(&shared) };
        let task = tokio::spawn(accept.run(listener));
        Ok(Self { address, certificate_pem, fingerprint, shared, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate, which is its own authority, in PEM.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// The certificate's SHA-256.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }

    /// TCP connections taken so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// TLS handshakes finished so far.
    pub fn handshakes(&self) -> u64 {
        self.shared.handshakes.load(Ordering::Relaxed)
    }

    /// Breaks every open connection.
    pub fn cut_connections(&self) {
        self.shared.cut.notify_one();
    }
}

impl Drop for HttpsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A certificate for these names and the TLS settings to serve it.
fn tls(
    names: Vec<String>,
) -> Result<(ServerConfig, String, Fingerprint), Box<dyn std::error::Error + Send + Sync>> {
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "simulated array");
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    let der = certificate.der().clone();
    let fingerprint = Fingerprint::of(&der);
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![der], key)?;
    Ok((config, certificate.pem(), fingerprint))
}

struct Accept {
    api: Arc<dyn Api>,
    address: SocketAddr,
    tls: TlsAcceptor,
    shared: Arc<Shared>,
}

impl Accept {
    /// Takes connections while the API is up; closes the socket while it refuses.
    async fn run(self, first: TcpListener) {
        let mut state = self.api.state();
        let mut listener = Some(first);
        let mut open = JoinSet::new();
        loop {
            let now = *state.borrow_and_update();
            if now == ApiState::Refusing {
                listener = None;
                open.abort_all();
            } else if listener.is_none() {
                // The port was ours a moment ago. While another program has it, the API stays refused.
                match TcpListener::bind(self.address).await {
                    Ok(bound) => listener = Some(bound),
                    Err(error) => tracing::warn!(address = %self.address, %error, "cannot listen again"),
                }
            }
            let is_shut = listener.is_none() && now != ApiState::Refusing;
            tokio::select! {
                taken = accept(listener.as_ref()), if now == ApiState::Up => {
                    self.shared.connections.fetch_add(1, Ordering::Relaxed);
                    open.spawn(serve_tls(
                        Arc::clone(&self.api), self.tls.clone(), taken, Arc::clone(&self.shared),
                    ));
                }
                changed = state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = self.shared.cut.notified() => open.abort_all(),
                () = tokio::time::sleep(LISTEN_AGAIN), if is_shut => {}
                Some(_) = open.join_next(), if !open.is_empty() => {}
            }
        }
    }
}

/// How soon a port that is taken is tried again.
const LISTEN_AGAIN: Duration = Duration::from_millis(200);

/// The next connection; waits for ever without a listener. A connection that failed at once is skipped.
async fn accept(listener: Option<&TcpListener>) -> TcpStream {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            return stream;
        }
        tokio::task::yield_now().await;
    }
}

async fn serve_tls(api: Arc<dyn Api>, tls: TlsAcceptor, stream: TcpStream, shared: Arc<Shared>) {
    // Small answers must not wait for the acknowledgement of earlier ones.
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let Ok(stream) = tls.accept(stream).await else { return };
    shared.handshakes.fetch_add(1, Ordering::Relaxed);
    let service = service_fn(move |request: Request<Incoming>| answer(Arc::clone(&api), request));
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "connection ended");
    }
}

/// An error of the service makes hyper drop the connection without an answer, which is what a cut is.
async fn answer(api: Arc<dyn Api>, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Cut> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, BODY_MAX).collect().await.map_err(|_| Cut::Reset)?.to_bytes();
    let response = api.handle(Request::from_parts(parts, body)).await?;
    Ok(response.map(Full::new))
}

/// A plain HTTP server on loopback for the control interface. It ends when this is dropped.
#[derive(Debug)]
pub struct ControlServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl ControlServer {
    /// Serves `control` at a free port of 127.0.0.1. Nothing but loopback is possible: there is no authentication.
    pub async fn start<F>(control: F) -> io::Result<Self>
    where
        F: Fn(&Request<Bytes>) -> Response<Bytes> + Clone + Send + Sync + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let stream = accept(Some(&listener)).await;
                open.spawn(serve_plain(stream, control.clone()));
                while open.try_join_next().is_some() {}
            }
        });
        Ok(Self { address, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve_plain<F>(stream: TcpStream, control: F)
where
    F: Fn(&Request<Bytes>) -> Response<Bytes> + Clone + Send + Sync + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let control = control.clone();
        async move {
            let (parts, body) = request.into_parts();
            let body = Limited::new(body, BODY_MAX).collect().await;
            let response = if let Ok(body) = body {
                control(&Request::from_parts(parts, body.to_bytes()))
            } else {
                let mut response = Response::new(Bytes::new());
                *response.status_mut() = http::StatusCode::PAYLOAD_TOO_LARGE;
                response
            };
            Ok::<_, Infallible>(response.map(Full::new))
        }
    });
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        tracing::debug!(%error, "control connection ended");
    }
}
