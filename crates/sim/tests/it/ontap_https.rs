//! The same array over real HTTPS.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use san_sim::ontap::{Fault, Rule, When};
use san_sim::server::{ApiState, ControlServer, HttpsServer};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::ontap_rig::{NEW, Rig, volume};

async fn serve(rig: &Rig) -> HttpsServer {
    HttpsServer::start(Arc::new(rig.sim.clone()), ([127, 0, 0, 1], 0).into(), &[]).await.unwrap()
}

async fn connect(server: &HttpsServer) -> std::io::Result<SendRequest<Full<Bytes>>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(server.certificate_pem().as_bytes()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(server.address()).await?;
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    Ok(sender)
}

async fn send(
    sender: &mut SendRequest<Full<Bytes>>,
    method: &str,
    target: &str,
    body: &Value,
) -> hyper::Result<Response<Value>> {
    let request = Request::builder()
        .method(method)
        .uri(target)
        .header("host", "array")
        .header("authorization", "Basic YWRtaW46bmV0YXBwMSE=")
        .body(Full::new(Bytes::from(body.to_string())))
        .unwrap();
    sender.ready().await?;
    let (parts, body) = sender.send_request(request).await?.into_parts();
    let body = body.collect().await?.to_bytes();
    Ok(Response::from_parts(parts, serde_json::from_slice(&body).unwrap()))
}

#[tokio::test]
async fn one_connection_carries_many_requests() {
    let rig = Rig::new(NEW);
    let server = serve(&rig).await;
    let mut sender = connect(&server).await.unwrap();
    for at in 0..5 {
        let target = "/api/storage/volumes?return_timeout=15";
        let said = send(&mut sender, "POST", target, &volume(&format!("v{at}"), "20MB")).await.unwrap();
        assert_eq!(said.status(), 201);
    }
    let said = send(&mut sender, "GET", "/api/storage/volumes", &json!({})).await.unwrap();
    assert_eq!(said.body()["num_records"], json!(5));
    assert_eq!((server.connections(), server.handshakes()), (1, 1));
    assert_eq!(server.fingerprint().to_string().len(), 95);
}

#[tokio::test]
async fn lost_answers_and_cut_connections() {
    let rig = Rig::new(NEW);
    let server = serve(&rig).await;
    let mut sender = connect(&server).await.unwrap();
    rig.sim.inject(Rule { when: When::default(), fault: Fault::LoseAnswer });
    let said =
        send(&mut sender, "POST", "/api/storage/volumes?return_timeout=15", &volume("v", "20MB")).await;
    assert!(said.is_err());
    assert_eq!(rig.sim.volumes().len(), 1);

    let mut sender = connect(&server).await.unwrap();
    assert!(send(&mut sender, "GET", "/api/cluster", &json!({})).await.is_ok());
    server.cut_connections();
    let broken = async {
        while send(&mut sender, "GET", "/api/cluster", &json!({})).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), broken).await.unwrap();
    assert_eq!(server.connections(), 2);
}

/// It serves again, within a bound.
async fn require_back(server: &HttpsServer) {
    let back = async {
        loop {
            if let Ok(sender) = connect(server).await {
                return sender;
            }
            tokio::task::yield_now().await;
        }
    };
    let mut sender = tokio::time::timeout(Duration::from_secs(10), back).await.unwrap();
    let said = send(&mut sender, "GET", "/api/cluster", &json!({})).await.unwrap();
    assert_eq!(said.status(), 200);
}

#[tokio::test]
async fn an_api_that_is_down_refuses_connections_until_it_is_back() {
    let rig = Rig::new(NEW);
    let server = serve(&rig).await;
    rig.sim.set_api(ApiState::Refusing);
    let refused = async { while connect(&server).await.is_ok() {} };
    tokio::time::timeout(Duration::from_secs(10), refused).await.unwrap();
    rig.sim.set_api(ApiState::Up);
    require_back(&server).await;
}

#[tokio::test]
async fn a_port_that_is_taken_when_the_api_comes_back_is_tried_again() {
    let rig = Rig::new(NEW);
    let server = serve(&rig).await;
    rig.sim.set_api(ApiState::Refusing);
    let taken = async {
        loop {
            match std::net::TcpListener::bind(server.address()) {
                Ok(listener) => return listener,
                Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let taken = tokio::time::timeout(Duration::from_secs(10), taken).await.unwrap();
    rig.sim.set_api(ApiState::Up);
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(taken);
    require_back(&server).await;
}

#[tokio::test]
async fn the_control_port_bends_and_tells() {
    let rig = Rig::new(NEW);
    rig.sim.populate("svm1", "v", 1, 20 << 20).unwrap();
    let sim = rig.sim.clone();
    let control = ControlServer::start(move |request| sim.control(request)).await.unwrap();
    let stream = TcpStream::connect(control.address()).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let said = send(&mut sender, "GET", "/sim/state", &json!({})).await.unwrap();
    assert_eq!(said.body()["volumes"][0]["name"], json!("v1"));
    let rule = json!({"when": {"path": "/cluster"}, "fault": {"answer": {"status": 503, "code": 1, "message": "x"}}});
    let said = send(&mut sender, "POST", "/sim/faults", &rule).await.unwrap();
    assert_eq!(said.body()["id"], json!(1));
    assert_eq!(rig.get("/cluster").await.status, 503);
    let said = send(&mut sender, "GET", "/sim/faults", &json!({})).await.unwrap();
    assert_eq!(said.body()[0]["struck"], json!(1));
    let said = send(&mut sender, "GET", "/sim/log?since=0", &json!({})).await.unwrap();
    assert_eq!(said.body()[0]["outcome"], json!({"answered": 503}));
    let body = json!({"address": "10.0.0.1:3260", "state": "refusing"});
    assert_eq!(send(&mut sender, "PUT", "/sim/portals", &body).await.unwrap().status(), 200);
    let said = send(&mut sender, "GET", "/sim/portals", &json!({})).await.unwrap();
    assert_eq!(said.body()[0]["state"], json!("refusing"));
    assert_eq!(send(&mut sender, "PUT", "/sim/nothing", &json!({})).await.unwrap().status(), 404);
    assert_eq!(rig.get("/sim/state").await.status, 404);
}
