//! Adding a storage: every problem in one answer, nothing made, nothing stored, no password said.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use san_contract::audit::said;
use san_core::{Deadline, Effects, Error, ErrorKind, OperationId, Result};
use san_rest::{Endpoint, Wire, WireError};
use san_sim::ontap::{IscsiConfig, OntapConfig, Running, Version};
use san_sim::server::{ApiState, HttpsServer};
use sanbridge::{HttpsWires, Wires};
use sanbridge_tests::daemons::{Client, DaemonSite, SimWires, read};
use sanbridge_tests::site::{PASSWORD, SPACE, SVM, Site};
use serde_json::{Value, json};

use crate::support::{Log, changes};

const WRONG: &str = "wr0ng-secret";

async fn site_with(change: impl FnOnce(&mut OntapConfig)) -> DaemonSite {
    let site = Site::with(1, Version::new(9, 16, 1), change).unwrap();
    let wires = Arc::new(SimWires(site.array.clone()));
    DaemonSite::on(site, wires).await.unwrap()
}

fn add_params(password: &str) -> Value {
    json!({ "secrets": { "sanbridge-password": password } })
}

fn files_below(folder: &Path) -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}

/// The add is refused, and neither the array, nor a node, nor a folder shows that it was tried.
async fn refused(site: &DaemonSite, client: &Client, password: &str) -> Error {
    let (log, capturing) = Log::capture();
    let before = site.site.audit();
    let files = (files_below(&site.pve()), files_below(&site.site.node(0).state));
    let mark = site.site.array.mark();
    let error = client.call("storage.add", add_params(password)).await.unwrap_err();
    drop(capturing);
    assert_eq!(changes(&site.site.array, mark), [], "nothing may be changed on the array");
    let findings = site.site.audit().against(&before);
    assert!(findings.is_empty(), "{findings}");
    assert_eq!((files_below(&site.pve()), files_below(&site.site.node(0).state)), files);
    let answer = format!("{error:?}");
    let log = log.text();
    let secret = said(password, &[("the answer", &answer), ("the log", &log)]);
    assert!(secret.is_empty(), "{secret}");
    assert!(error.remedy().is_some(), "{error:?}");
    // What was refused is not there afterwards either.
    let unknown = client.call("storage.activate", json!({})).await.unwrap_err();
    assert_ne!(unknown.kind(), ErrorKind::Internal, "{unknown:?}");
    error
}

fn assert_names(error: &Error, words: &[&str]) {
    let text = format!("{error:?}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_is_refused() {
    let site = site_with(|_| {}).await;
    let error = refused(&site, &site.client(0), WRONG).await;
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    // And after it the right one is taken.
    site.client(0).add().await.unwrap();
    site.client(0).call("storage.activate", json!({})).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unknown_svm_and_an_unknown_aggregate_are_named_together() {
    let site = site_with(|_| {}).await;
    let with = |changes: &[(&str, &str)]| {
        let mut client = site.client(0);
        for (key, value) in changes {
            client.options.insert((*key).to_owned(), Value::from(*value));
        }
        client
    };
    let svm = ("sanbridge-svm", "svm_nowhere");
    let aggregate = ("sanbridge-aggregate", "aggr_nowhere");
    let error = refused(&site, &with(&[svm]), PASSWORD).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert_names(&error, &["svm_nowhere"]);
    let error = refused(&site, &with(&[aggregate]), PASSWORD).await;
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    assert_names(&error, &["aggr_nowhere"]);
    let error = refused(&site, &with(&[svm, aggregate]), PASSWORD).await;
    assert_names(&error, &["svm_nowhere", "aggr_nowhere"]);
}

#[tokio::test(start_paused = true)]
async fn an_svm_without_iscsi_is_refused_and_says_what_is_missing() {
    let site = site_with(|it| it.svms[0].iscsi = IscsiConfig::Absent).await;
    assert_names(&refused(&site, &site.client(0), PASSWORD).await, &[SVM, "no iSCSI service"]);

    let site = site_with(|it| it.svms[0].iscsi = IscsiConfig::Disabled).await;
    assert_names(&refused(&site, &site.client(0), PASSWORD).await, &[SVM, "switched off"]);

    let site = site_with(|it| it.svms[0].portals.clear()).await;
    assert_names(&refused(&site, &site.client(0), PASSWORD).await, &[SVM, "no iSCSI interface"]);

    let site = site_with(|_| {}).await;
    site.site.array.set_svm_running(SVM, Running::No).unwrap();
    assert_names(&refused(&site, &site.client(0), PASSWORD).await, &[SVM, "stopped"]);
}

#[tokio::test(start_paused = true)]
async fn problems_of_the_array_and_of_the_node_are_named_together() {
    let site = site_with(|it| it.svms[0].iscsi = IscsiConfig::Disabled).await;
    assert!(site.site.node(0).host.remove_file(Path::new("/etc/iscsi/initiatorname.iscsi")));
    let mut client = site.client(0);
    client.options.insert("sanbridge-aggregate".to_owned(), Value::from("aggr_nowhere"));
    let error = refused(&site, &client, PASSWORD).await;
    assert_names(&error, &["switched off", "aggr_nowhere", "initiatorname"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_without_an_initiator_name_is_refused() {
    let site = site_with(|_| {}).await;
    assert!(site.site.node(0).host.remove_file(Path::new("/etc/iscsi/initiatorname.iscsi")));
    assert_names(&refused(&site, &site.client(0), PASSWORD).await, &["initiatorname"]);
}

#[tokio::test(start_paused = true)]
async fn wrong_options_are_named_together_and_the_array_is_not_asked() {
    let site = site_with(|_| {}).await;
    let mut client = site.client(0);
    client.options = BTreeMap::from([("sanbridge-array".to_owned(), Value::from("tape"))]);
    let mark = site.site.array.mark();
    let error = client.call("storage.add", add_params(PASSWORD)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert_names(&error, &["sanbridge-array", "sanbridge-address", "sanbridge-username", "sanbridge-svm"]);
    assert_eq!(site.site.array.requests(mark), []);
}

#[tokio::test(start_paused = true)]
async fn an_array_that_is_not_there_is_refused_in_time() {
    for state in [ApiState::Refusing, ApiState::BlackHole] {
        let site = site_with(|_| {}).await;
        site.site.array.set_api(state);
        let began = tokio::time::Instant::now();
        let error = site.client(0).call("storage.add", add_params(PASSWORD)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout), "{error:?}");
        assert!(began.elapsed().as_secs() < 56, "{:?}", began.elapsed());
        assert_eq!(files_below(&site.pve().join("priv").join("storage")), [] as [String; 0]);
    }
}

/// Something that answers HTTP and is no ONTAP.
#[derive(Debug, Clone, Copy)]
struct Stranger(u16, &'static str);

#[async_trait]
impl Wire for Stranger {
    async fn send(&self, _: Request<Bytes>, _: Deadline) -> Result<Response<Bytes>, WireError> {
        let answer = Response::builder().status(self.0).header("Location", "https://elsewhere.example/");
        Ok(answer.body(Bytes::from_static(self.1.as_bytes())).unwrap())
    }
}

#[async_trait]
impl Wires for Stranger {
    fn wire(&self, _: &Endpoint) -> Result<Arc<dyn Wire>> {
        Ok(Arc::new(*self))
    }
}

#[tokio::test(start_paused = true)]
async fn whatever_is_no_ontap_is_refused() {
    for stranger in [
        Stranger(200, "<html><title>Printer</title></html>"),
        Stranger(200, "{\"hello\":1}"),
        Stranger(200, "{}"),
        Stranger(404, "not here"),
        Stranger(302, ""),
    ] {
        let site = DaemonSite::on(Site::new(1).unwrap(), Arc::new(stranger)).await.unwrap();
        let error = refused(&site, &site.client(0), PASSWORD).await;
        assert!(
            matches!(error.kind(), ErrorKind::Protocol | ErrorKind::NotFound | ErrorKind::Unsupported),
            "{stranger:?}: {error:?}"
        );
        assert_names(&error, &["address"]);
    }
}

#[tokio::test]
async fn an_untrusted_certificate_is_refused_and_its_fingerprint_is_accepted() {
    let site = Site::new(1).unwrap();
    let listen = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = HttpsServer::start(Arc::new(site.array.clone()), listen, &[]).await.unwrap();
    let site = DaemonSite::on(site, Arc::new(HttpsWires)).await.unwrap();
    let mut client = site.client(0);
    client.options.insert("sanbridge-address".to_owned(), server.address().to_string().into());
    let error = refused(&site, &client, PASSWORD).await;
    assert_names(&error, &["certificate"]);
    assert_eq!(site.site.array.requests(san_sim::ontap::Mark::START), [], "no password leaves before trust");
    client.options.insert("sanbridge-fingerprint".to_owned(), "ab".repeat(32).into());
    let error = refused(&site, &client, PASSWORD).await;
    assert_names(&error, &["certificate"]);
    client.options.insert("sanbridge-fingerprint".to_owned(), server.fingerprint().to_string().into());
    client.add().await.unwrap();
    client.call("storage.activate", json!({})).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_add_nobody_confirmed_leaves_nothing() {
    let site = site_with(|_| {}).await;
    let client = site.client(0);
    let before = files_below(&site.pve());
    let id = OperationId::random();
    let mut stream = client.send(id, "storage.add", add_params(PASSWORD)).await.unwrap();
    let answered = read(&mut stream).await.unwrap();
    assert_eq!(answered["ack"], true, "{answered}");
    drop(stream);
    // The secret goes as soon as the daemon sees that the caller is gone.
    for _ in 0..100 {
        if files_below(&site.pve()) == before {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert_eq!(files_below(&site.pve()), before);
    assert!(client.call("storage.activate", json!({})).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_repeated_add_nobody_confirmed_takes_nothing_away() {
    let site = site_with(|_| {}).await;
    let client = site.client(0);
    client.add().await.unwrap();
    client.call("volume.create", json!({ "vmid": 100, "name": null, "size_bytes": 8 << 20 })).await.unwrap();
    client.call("volume.attach", json!({ "name": "vm-100-disk-0" })).await.unwrap();
    let mut stream = client.send(OperationId::random(), "storage.add", add_params(PASSWORD)).await.unwrap();
    assert_eq!(read(&mut stream).await.unwrap()["ack"], true);
    drop(stream);
    tokio::time::sleep(std::time::Duration::from_secs(30)).await;
    let there = client.call("volume.attach", json!({ "name": "vm-100-disk-0" })).await.unwrap();
    assert_eq!(there.ok["size_bytes"], 8 << 20);
    assert_eq!(
        client.call("volume.list", json!({})).await.unwrap().ok["volumes"].as_array().unwrap().len(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn the_password_is_nowhere_but_in_its_file() {
    let (log, capturing) = Log::capture();
    let mut site = site_with(|_| {}).await;
    let client = site.client(0);
    client.add().await.unwrap();
    client.call("volume.create", json!({ "vmid": 100, "name": null, "size_bytes": 8 << 20 })).await.unwrap();
    client.call("volume.attach", json!({ "name": "vm-100-disk-0" })).await.unwrap();
    site.kill(0);
    site.start(0, Effects::unobserved()).await.unwrap();
    client.call("storage.status", json!({})).await.unwrap();
    drop(capturing);
    let secret = site.pve().join("priv").join("storage").join(format!("{SPACE}.sanbridge"));
    let mode = std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(&secret).unwrap().permissions());
    assert_eq!(mode & 0o777, 0o600);
    let mut texts = vec![("the log".to_owned(), log.text())];
    assert!(!texts[0].1.is_empty(), "the log is captured");
    let files = [files_below(&site.pve()), files_below(&site.site.node(0).state)].concat();
    for file in files.into_iter().filter(|it| *it != secret.display().to_string()) {
        texts.push((file.clone(), String::from_utf8_lossy(&std::fs::read(&file).unwrap()).into_owned()));
    }
    for entry in site.site.node(0).host.log() {
        texts.push(("the node's programs".to_owned(), entry.to_string()));
    }
    let texts: Vec<(&str, &str)> = texts.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    let findings = said(PASSWORD, &texts);
    assert!(findings.is_empty(), "{findings}");
}
