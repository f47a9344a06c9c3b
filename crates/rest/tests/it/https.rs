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
use san_rest::{CONNECT, Endpoint, Fingerprint, HttpsWire, Trust, ValidUntil, Wire, WireError};
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
        Self::start_at("127.0.0.1").await
    }

    async fn start_at(ip: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let authority = params.self_signed(&key).unwrap();
        let issuer = rcgen::Issuer::new(params, key);
        let leaf_key = rcgen::KeyPair::generate().unwrap();
        let leaf =
            rcgen::CertificateParams::new([ip.to_owned()]).unwrap().signed_by(&leaf_key, &issuer).unwrap();
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
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
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
        self.wire(Trust::Pinned(vec![self.fingerprint]))
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
    HttpsWire::new(&Endpoint { addresses, trust, connect: CONNECT }).unwrap()
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
async fn answers_tell_when_the_certificate_ends() {
    let server = Server::start().await;
    for wire in [server.pinned(), server.wire(Trust::AuthorityFile(server.authority.path().into()))] {
        let answer = get(&wire, "/").await.unwrap();
        // What rcgen sets, the first of January 4096.
        assert_eq!(answer.extensions().get(), Some(&ValidUntil(67_090_118_400)));
    }
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
    let wrong = Trust::Pinned(vec![other.fingerprint]);
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
    get(&wire(&local, Trust::Pinned(vec![server.fingerprint])), "/").await.unwrap();
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
    let wire = wire(&[address], Trust::Pinned(vec![Fingerprint::of(b"")]));
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
    let trust = Trust::Pinned(vec![server.fingerprint]);
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
    let outcome = get(&wire(&[address], Trust::Pinned(vec![Fingerprint::of(b"")])), "/").await;
    assert!(matches!(outcome, Err(WireError::NotSent(_))), "{outcome:?}");
}

/// A listener that takes connections and says nothing, and how many it has taken.
async fn mute() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.3:0").await.unwrap();
    let (address, taken) = (listener.local_addr().unwrap().to_string(), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&taken);
    tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            held.push(stream);
        }
    });
    (address, taken)
}

#[tokio::test]
async fn a_dead_first_address_costs_its_wait_once() {
    let (mute, taken) = mute().await;
    let server = Server::start_at("127.0.0.2").await;
    let endpoint = Endpoint {
        addresses: [mute, server.address.to_string()].iter().map(|it| it.parse().unwrap()).collect(),
        trust: Trust::Pinned(vec![server.fingerprint]),
        connect: Duration::from_millis(300),
    };
    let wire = HttpsWire::new(&endpoint).unwrap();
    for _ in 0..3 {
        get(&wire, "/").await.unwrap();
    }
    assert_eq!(taken.load(Ordering::SeqCst), 1);
    assert_eq!(server.requests.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn requests_side_by_side_stay_with_the_address_that_serves() {
    let server = Server::start().await;
    let (mute, taken) = mute().await;
    let wire = wire(&[server.address.to_string(), mute], Trust::Pinned(vec![server.fingerprint]));
    futures_util::future::join_all((0..8).map(|_| async { get(&wire, "/").await.unwrap() })).await;
    assert_eq!(taken.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_may_have_reached_one_address_is_not_sent_to_the_next_but_what_follows_is() {
    let (first, second) = (Server::start().await, Server::start_at("127.0.0.2").await);
    let addresses = [first.address.to_string(), second.address.to_string()];
    let wire = wire(&addresses, Trust::Pinned(vec![first.fingerprint, second.fingerprint]));
    let request = Request::get("/never").body(Bytes::new()).unwrap();
    let outcome = wire.send(request, Deadline::after(Duration::from_millis(300))).await;
    assert!(matches!(outcome, Err(WireError::TimedOut)), "{outcome:?}");
    assert_eq!(second.requests.load(Ordering::SeqCst), 0);
    get(&wire, "/").await.unwrap();
    assert_eq!((first.requests.load(Ordering::SeqCst), second.requests.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn an_address_with_a_strange_certificate_is_passed_over_and_named_where_no_other_serves() {
    let (strange, server) = (Server::start().await, Server::start_at("127.0.0.2").await);
    let addresses = [strange.address.to_string(), server.address.to_string()];
    let trust = Trust::Pinned(vec![server.fingerprint]);
    get(&wire(&addresses, trust.clone()), "/").await.unwrap();
    assert_eq!(strange.requests.load(Ordering::SeqCst), 0);
    let (mute, _) = mute().await;
    let endpoint = Endpoint {
        addresses: [addresses[0].clone(), mute].iter().map(|it| it.parse().unwrap()).collect(),
        trust,
        connect: Duration::from_millis(300),
    };
    let outcome = get(&HttpsWire::new(&endpoint).unwrap(), "/").await;
    let Err(WireError::Untrusted(why)) = outcome else { panic!("not refused: {outcome:?}") };
    assert!(why.contains(&addresses[0]), "{why}");
}

#[tokio::test]
async fn addresses_of_version_6_are_spoken_to_and_named_in_brackets() {
    let server = Server::start_at("::1").await;
    let address = server.address.to_string();
    assert!(address.starts_with("[::1]:"));
    let by_chain = Trust::AuthorityFile(server.authority.path().into());
    get(&wire(std::slice::from_ref(&address), by_chain), "/").await.unwrap();
    let strange = wire(std::slice::from_ref(&address), Trust::Pinned(vec![Fingerprint::of(b"")]));
    let Err(WireError::Untrusted(why)) = get(&strange, "/").await else { panic!("not refused") };
    assert!(why.contains(&address), "{why}");
}
