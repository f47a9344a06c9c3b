//! The HTTPS wire: connections, certificates, bounds.

use std::convert::Infallible;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use san_core::Deadline;
use san_rest::{Endpoint, Fingerprint, HttpsWire, Trust, Wire, WireError};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

struct Server {
    address: SocketAddr,
    handshakes: Arc<AtomicUsize>,
    requests: Arc<AtomicUsize>,
    fingerprint: Fingerprint,
    authority: tempfile::NamedTempFile,
}

impl Server {
    async fn start() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(params, key);
        let leaf_key = rcgen::KeyPair::generate().unwrap();
        let leaf = rcgen::CertificateParams::new(["127.0.0.1".to_owned()])
            .unwrap()
            .signed_by(&leaf_key, &issuer)
            .unwrap();
        let config =
            rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_single_cert(
                    vec![leaf.der().clone()],
                    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(leaf_key.serialize_der())),
                )
                .unwrap();
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(authority.pem().as_bytes()).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = Self {
            address: listener.local_addr().unwrap(),
            handshakes: Arc::default(),
            requests: Arc::default(),
            fingerprint: Fingerprint::of(leaf.der()),
            authority: file,
        };
        let (handshakes, requests) = (Arc::clone(&server.handshakes), Arc::clone(&server.requests));
        let acceptor = TlsAcceptor::from(Arc::new(config));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, handshakes, requests) =
                    (acceptor.clone(), Arc::clone(&handshakes), Arc::clone(&requests));
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    handshakes.fetch_add(1, Ordering::SeqCst);
                    let service = service_fn(|request| {
                        requests.fetch_add(1, Ordering::SeqCst);
                        answer(request)
                    });
                    // A client that goes away ends the connection with an error, which is no concern of ours.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        server
    }

    fn wire(&self, trust: Trust) -> HttpsWire {
        wire(&[self.address.to_string()], trust)
    }

    fn pinned(&self) -> HttpsWire {
        self.wire(Trust::Fingerprint(self.fingerprint))
    }
}

async fn answer(request: Request<hyper::body::Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let builder = Response::builder();
    let response = match request.uri().path() {
        "/moved" => builder.status(302).header("location", "/elsewhere").body(Full::default()),
        "/huge" => builder.body(Full::from(vec![b' '; 3 << 20])),
        "/never" => std::future::pending().await,
        other => builder.body(Full::from(other.to_owned())),
    };
    Ok(response.unwrap())
}

fn wire(addresses: &[String], trust: Trust) -> HttpsWire {
    let addresses = addresses.iter().map(|it| it.parse().unwrap()).collect();
    HttpsWire::new(&Endpoint { addresses, trust }).unwrap()
}

async fn get(wire: &HttpsWire, path: &str) -> Result<Response<Bytes>, WireError> {
    let request = Request::get(path).body(Bytes::new()).unwrap();
    wire.send(request, Deadline::after(Duration::from_secs(20))).await
}

#[tokio::test]
async fn many_requests_use_one_connection() {
    let server = Server::start().await;
    let wire = server.wire(Trust::AuthorityFile(server.authority.path().into()));
    for _ in 0..5 {
        assert_eq!(get(&wire, "/a?b=c").await.unwrap().body().as_ref(), b"/a");
    }
    assert_eq!(server.handshakes.load(Ordering::SeqCst), 1);
    assert_eq!(server.requests.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn a_redirect_is_an_answer_and_is_not_followed() {
    let server = Server::start().await;
    let response = get(&server.pinned(), "/moved").await.unwrap();
    assert_eq!(response.status(), 302);
    assert_eq!(server.requests.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn an_untrusted_certificate_is_named_so_that_it_can_be_pinned() {
    let server = Server::start().await;
    let other = Server::start().await;
    let wrong = Trust::Fingerprint(other.fingerprint);
    for trust in [Trust::AuthorityFile(other.authority.path().into()), wrong] {
        let outcome = get(&server.wire(trust), "/").await;
        let Err(WireError::Untrusted(why)) = outcome else { panic!("not refused: {outcome:?}") };
        assert!(why.contains(&server.fingerprint.to_string()), "{why}");
    }
    assert_eq!(server.requests.load(Ordering::SeqCst), 0);
    get(&server.pinned(), "/").await.unwrap();
}

#[tokio::test]
async fn the_certificate_must_name_the_address_unless_it_is_pinned() {
    let server = Server::start().await;
    let local = [format!("localhost:{}", server.address.port())];
    let by_chain = wire(&local, Trust::AuthorityFile(server.authority.path().into()));
    assert!(matches!(get(&by_chain, "/").await, Err(WireError::Untrusted(_))));
    get(&wire(&local, Trust::Fingerprint(server.fingerprint)), "/").await.unwrap();
}

#[tokio::test]
async fn an_oversize_answer_is_cut_off() {
    let server = Server::start().await;
    assert!(matches!(get(&server.pinned(), "/huge").await, Err(WireError::TooLarge(_))));
}

#[tokio::test]
async fn silence_ends_at_the_deadline() {
    let server = Server::start().await;
    let start = Instant::now();
    let request = Request::get("/never").body(Bytes::new()).unwrap();
    let outcome = server.pinned().send(request, Deadline::after(Duration::from_millis(300))).await;
    assert!(matches!(outcome, Err(WireError::TimedOut)));
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_listener_that_never_speaks_ends_in_time() {
    // It takes the TCP connection and never answers the TLS greeting.
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = mute.local_addr().unwrap().to_string();
    let start = Instant::now();
    let request = Request::get("/").body(Bytes::new()).unwrap();
    let wire = wire(&[address], Trust::Fingerprint(Fingerprint::of(b"")));
    let outcome = wire.send(request, Deadline::after(Duration::from_millis(300))).await;
    assert!(matches!(outcome, Err(WireError::TimedOut)));
    assert!(start.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_closed_port_is_not_sent_and_the_next_address_serves() {
    let server = Server::start().await;
    let closed = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let trust = Trust::Fingerprint(server.fingerprint);
    let Err(WireError::NotSent(why)) =
        get(&wire(std::slice::from_ref(&closed), trust.clone()), "/canary").await
    else {
        panic!("sent")
    };
    assert!(!why.contains("canary") && !why.contains("https"), "{why}");
    let both = wire(&[closed, server.address.to_string()], trust);
    for _ in 0..2 {
        get(&both, "/").await.unwrap();
    }
}

#[tokio::test]
async fn what_does_not_speak_tls_is_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        use tokio::io::AsyncWriteExt as _;
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    });
    let outcome = get(&wire(&[address], Trust::Fingerprint(Fingerprint::of(b""))), "/").await;
    assert!(matches!(outcome, Err(WireError::NotSent(_))), "{outcome:?}");
}
