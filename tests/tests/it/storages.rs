//! Storages of one daemon: a sick array beside a healthy one, changed passwords, changed options, removal.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use san_core::{Effects, ErrorKind, Result};
use san_rest::{Endpoint, Wire};
use san_sim::ontap::{OntapConfig, OntapSim, Version};
use san_sim::server::ApiState;
use sanbridge::Wires;
use sanbridge_tests::daemons::{Client, DaemonSite, SimWires};
use sanbridge_tests::site::{PASSWORD, SPACE, SVM, Site};
use secrecy::SecretString;
use serde_json::json;
use tokio::time::Instant;

use crate::support::DISK;

const NEW: &str = "n3w-password";

/// Each address is an array of its own.
#[derive(Debug)]
struct Addresses(HashMap<&'static str, OntapSim>);

impl Wires for Addresses {
    fn wire(&self, endpoint: &Endpoint) -> Result<Arc<dyn Wire>> {
        let address = format!("{:?}", endpoint.addresses);
        let found = self.0.iter().find(|(name, _)| address.contains(*name));
        SimWires(found.unwrap().1.clone()).wire(endpoint)
    }
}

async fn serving() -> (DaemonSite, Client) {
    let site = DaemonSite::started(1).await.unwrap();
    let client = site.client(0);
    client.add().await.unwrap();
    client.call("volume.create", json!({ "vmid": 100, "name": DISK, "size_bytes": 8 << 20 })).await.unwrap();
    (site, client)
}

/// Whoever looks at a storage between its change and PVE's next request finds it as it is from now on.
#[tokio::test(start_paused = true)]
async fn a_changed_storage_is_ready_at_once() {
    let site = DaemonSite::started(1).await.unwrap();
    let client = site.client(0);
    client.add().await.unwrap();
    let changes = json!({ "changes": { "sanbridge-max-paths": "2" }, "delete": null });
    client.call("storage.update", changes).await.unwrap();
    let status = client.call("admin.status", json!({})).await.unwrap().ok;
    assert_eq!(status["storages"][0]["ready"], true, "{status}");
    // As PVE asks from now on: nothing has to be made anew.
    let mut later = client.clone();
    later.options.insert("sanbridge-max-paths".to_owned(), "2".into());
    later.call("volume.create", json!({ "vmid": 100, "name": null, "size_bytes": 8 << 20 })).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_sick_array_slows_no_other() {
    let site = Site::new(1).unwrap();
    let mut config = OntapConfig::new(Version::new(9, 16, 1), site.folder().join("second"));
    config.seed = 2;
    let second = OntapSim::new(config).unwrap();
    let wires =
        Addresses(HashMap::from([("array.example", site.array.clone()), ("sick.example", second.clone())]));
    let mut site = DaemonSite::on(site, Arc::new(wires)).await.unwrap();
    let healthy = site.client(0);
    let mut sick = site.client(0);
    sick.storage = "sick".to_owned();
    sick.options.insert("sanbridge-address".to_owned(), "sick.example".into());
    healthy.add().await.unwrap();
    sick.add().await.unwrap();
    for is_known in [true, false] {
        second.set_api(ApiState::BlackHole);
        if !is_known {
            // This node has not served the sick one before, so that it has to ask the array who it is.
            site.kill(0);
            std::fs::remove_dir_all(site.site.node(0).state.join("storages").join("sick")).unwrap();
            site.start(0, Effects::unobserved()).await.unwrap();
        }
        let waiting = [
            sick.call("storage.activate", json!({})),
            sick.call("volume.list", json!({})),
            sick.call("volume.attach", json!({ "name": DISK })),
        ];
        let others = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let began = Instant::now();
            healthy.call("storage.activate", json!({})).await.unwrap();
            healthy.call("storage.status", json!({})).await.unwrap();
            healthy
                .call("volume.create", json!({ "vmid": 100, "name": DISK, "size_bytes": 8 << 20 }))
                .await
                .unwrap();
            healthy.call("volume.attach", json!({ "name": DISK })).await.unwrap();
            healthy.call("volume.detach", json!({ "name": DISK })).await.unwrap();
            healthy.call("volume.delete", json!({ "name": DISK })).await.unwrap();
            began.elapsed()
        };
        let [activate, list, attach] = waiting;
        let (_, list, attach, took) = tokio::join!(activate, list, attach, others);
        assert!(list.is_err() && attach.is_err());
        assert!(took < Duration::from_secs(5), "{took:?}");
        second.set_api(ApiState::Up);
        tokio::time::sleep(Duration::from_secs(60)).await;
        sick.call("storage.activate", json!({})).await.unwrap();
        sick.call("volume.list", json!({})).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn polls_are_answered_from_memory_with_their_age() {
    let (mut site, client) = serving().await;
    for state in [ApiState::Refusing, ApiState::BlackHole] {
        site.site.array.set_api(ApiState::Up);
        tokio::time::sleep(Duration::from_secs(70)).await;
        client.call("storage.status", json!({})).await.unwrap();
        site.site.array.set_api(state);
        tokio::time::sleep(Duration::from_secs(100)).await;
        let began = Instant::now();
        let status = client.call("storage.status", json!({})).await.unwrap().ok;
        assert_eq!(client.call("storage.check", json!({})).await.unwrap().ok["online"], true);
        client.call("storage.activate", json!({})).await.unwrap();
        assert!(began.elapsed() < Duration::from_millis(30), "{:?}", began.elapsed());
        assert_eq!(status["active"], true);
        assert!(
            status["age_seconds"].as_u64().unwrap() >= 30 && status["total"].as_u64().unwrap() > 0,
            "{status}"
        );
    }
    // A daemon started meanwhile knows its storages, and that it knows nothing of their room.
    site.kill(0);
    site.start(0, Effects::unobserved()).await.unwrap();
    assert_eq!(client.call("storage.check", json!({})).await.unwrap().ok["online"], true);
    client.call("storage.activate", json!({})).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_password_changed_on_disk_is_picked_up_without_a_restart() {
    let (site, client) = serving().await;
    site.site.array.set_password(&SecretString::from(NEW));
    let file = site.pve().join("priv").join("storage").join(format!("{SPACE}.sanbridge"));
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(PASSWORD, NEW)).unwrap();
    client.call("volume.attach", json!({ "name": DISK })).await.unwrap();
    client.call("volume.detach", json!({ "name": DISK })).await.unwrap();
    client.call("volume.delete", json!({ "name": DISK })).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_password_is_changed_only_to_one_that_works() {
    let (site, client) = serving().await;
    let update = |password: &str| json!({ "secrets": { "sanbridge-password": password }, "changes": {}, "delete": [] });
    let error = client.call("storage.update", update(NEW)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthenticated, "{error:?}");
    client.call("volume.attach", json!({ "name": DISK })).await.unwrap();
    site.site.array.set_password(&SecretString::from(NEW));
    client.call("storage.update", update(NEW)).await.unwrap();
    client.call("volume.detach", json!({ "name": DISK })).await.unwrap();
    client.call("volume.delete", json!({ "name": DISK })).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn options_that_lead_elsewhere_change_nothing() {
    let (site, client) = serving().await;
    for (option, value) in [
        ("sanbridge-svm", "svm_nowhere"),
        ("sanbridge-aggregate", "aggr_nowhere"),
        ("sanbridge-transport", "pigeon"),
        ("sanbridge-fingerprint", "12"),
    ] {
        let params = json!({ "changes": { (option): value }, "delete": [], "secrets": {} });
        assert!(client.call("storage.update", params).await.is_err(), "{option}");
        client.call("volume.attach", json!({ "name": DISK })).await.unwrap();
        client.call("volume.detach", json!({ "name": DISK })).await.unwrap();
    }
    // Another array behind the same words is refused as well.
    site.site.array.replace_array(99);
    let params = json!({ "changes": { "sanbridge-aggregate": "aggr2" }, "delete": [], "secrets": {} });
    let error = client.call("storage.update", params).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    assert!(site.site.array.volumes().iter().any(|it| it.svm == SVM && it.name.starts_with("sb")));
}

#[tokio::test(start_paused = true)]
async fn a_storage_in_use_is_not_removed_and_one_that_is_not_leaves_its_volumes() {
    let (site, client) = serving().await;
    let attached = client.call("volume.attach", json!({ "name": DISK })).await.unwrap();
    let path = attached.ok["path"].as_str().unwrap().to_owned();
    let host = site.site.node(0).host.clone();
    let handle = host.open(path.as_ref()).unwrap();
    let error = client.call("storage.remove", json!({})).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error:?}");
    host.write_at(path.as_ref(), 0, b"alive").await.unwrap();
    drop(handle);
    client.call("storage.remove", json!({})).await.unwrap();
    assert_eq!(site.site.array.maps(), []);
    let secret = site.pve().join("priv").join("storage").join(format!("{SPACE}.sanbridge"));
    assert!(!secret.try_exists().unwrap());
    assert!(client.call("storage.activate", json!({})).await.is_err());
    // Added again, it has its volumes.
    client.add().await.unwrap();
    let listed = client.call("volume.list", json!({})).await.unwrap();
    assert_eq!(listed.ok["volumes"][0]["name"], DISK);
    client.call("storage.remove", json!({})).await.unwrap();
    client.call("storage.remove", json!({})).await.unwrap();
}
