//! Unix streams and the TCP probe.

use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use san_core::{EffectState, ErrorKind};
use san_host::{Host, Probe, SocketAddress, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Bench, millis, soon};

/// Says "ping" to a listener that answers with what it got.
async fn talk(listener: UnixListener, mut stream: Box<dyn Stream>) {
    let server = tokio::task::spawn_blocking(move || {
        let (mut peer, _) = listener.accept().unwrap();
        std::io::copy(&mut peer.try_clone().unwrap(), &mut peer).unwrap();
    });
    stream.write_all(b"ping").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"ping");
    server.await.unwrap();
}

#[tokio::test]
async fn both_name_spaces_are_reached() {
    let bench = Bench::new();
    std::fs::create_dir(bench.real("/run")).unwrap();
    let listener = UnixListener::bind(bench.real("/run/daemon.socket")).unwrap();
    let address = SocketAddress::Path("/run/daemon.socket".into());
    talk(listener, bench.host.connect(&address, soon()).await.unwrap()).await;

    let name = format!("/org/example/{}", std::process::id());
    let place = std::os::unix::net::SocketAddr::from_abstract_name(&name).unwrap();
    let listener = UnixListener::bind_addr(&place).unwrap();
    talk(listener, bench.host.connect(&SocketAddress::Abstract(name), soon()).await.unwrap()).await;
    assert_eq!(bench.host.counters().connections, 2);
}

#[tokio::test]
async fn nobody_listening_is_unavailable() {
    let bench = Bench::new();
    drop(UnixListener::bind(bench.real("/left.socket")).unwrap());
    for address in [
        SocketAddress::Path("/none.socket".into()),
        SocketAddress::Path("/left.socket".into()),
        SocketAddress::Abstract("/org/example/nobody".into()),
    ] {
        let error = bench.host.connect(&address, soon()).await.err().unwrap();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, EffectState::None), "{address}");
        assert!(error.to_string().contains(&address.to_string()));
    }
    let long = SocketAddress::Path(format!("/{}", "x".repeat(200)).into());
    assert_eq!(bench.host.connect(&long, soon()).await.err().unwrap().kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_listener_that_takes_nobody_is_left_at_the_deadline() {
    let bench = Bench::new();
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddrUnix::new(bench.real("/full.socket")).unwrap()).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let address = SocketAddress::Path("/full.socket".into());
    let mut taken = Vec::new();
    let start = Instant::now();
    let error = loop {
        match bench.host.connect(&address, millis(150)).await {
            Ok(stream) => taken.push(stream),
            Err(error) => break error,
        }
    };
    assert!(taken.len() < 4 && start.elapsed() < Duration::from_secs(5));
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Timeout, EffectState::None));
}

#[tokio::test]
async fn a_port_is_open_refused_or_silent() {
    let bench = Bench::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = listener.local_addr().unwrap();
    assert_eq!(bench.host.probe(open, soon()).await.unwrap(), Probe::Open);
    drop(listener);
    assert_eq!(bench.host.probe(open, soon()).await.unwrap(), Probe::Refused);
}

#[tokio::test]
async fn a_port_whose_queue_is_full_is_silent() {
    let bench = Bench::new();
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    rustix::net::bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    rustix::net::listen(&socket, 0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    // Connections that nobody takes stay in the queue; beyond its length the kernel drops the attempts.
    let start = Instant::now();
    let mut answers = Vec::new();
    while answers.last() != Some(&Probe::Silent) {
        answers.push(bench.host.probe(address, millis(300)).await.unwrap());
        assert!(answers.len() < 10, "{answers:?}");
    }
    assert!(start.elapsed() < Duration::from_secs(5), "{answers:?}");
}
