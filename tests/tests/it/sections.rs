//! Sections of storage.cfg that a node without the package has dropped: noticed, told, and added again with what is kept of them.

use std::time::{Duration, SystemTime};

use san_core::ErrorKind;
use sanbridge::cli::Screen;
use sanbridge_tests::daemons::DaemonSite;
use sanbridge_tests::site::PASSWORD;
use serde_json::{Value, json};

use crate::cli::{Ran, run_on};
use crate::support::DISK;

async fn run(site: &DaemonSite, arguments: &[&str]) -> Ran {
    run_on(site.socket(0), Screen::Pipe, arguments).await
}

/// A site with a disk, whose storage was added a while ago.
async fn added() -> DaemonSite {
    let site = DaemonSite::started(2).await.unwrap();
    let client = site.client(0);
    client.add().await.unwrap();
    client.call("volume.create", json!({ "vmid": 100, "name": DISK, "size_bytes": 8 << 20 })).await.unwrap();
    let copy = site.pve().join("priv/sanbridge/sections/san1");
    let text = std::fs::read_to_string(&copy).unwrap();
    assert!(text.contains("svm1") && !text.contains(PASSWORD), "{text}");
    let file = std::fs::File::options().write(true).open(copy).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(600)).unwrap();
    site
}

async fn section_findings(site: &DaemonSite) -> Vec<Value> {
    let ran = run(site, &["check", "--json"]).await;
    let answer: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"));
    let all = answer["findings"].as_array().unwrap().clone();
    all.into_iter()
        .filter(|it| ["section-missing", "cluster-file-system"].map(Value::from).contains(&it["check"]))
        .collect()
}

async fn configured(site: &DaemonSite) -> Value {
    let ran = run(site, &["status", "--json"]).await;
    let answer: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{ran:?}"));
    answer["storages"][0]["configured"].clone()
}

#[tokio::test]
async fn a_section_that_was_dropped_is_told_and_added_again_without_its_secrets() {
    let mut site = added().await;
    assert_eq!((section_findings(&site).await, configured(&site).await), (Vec::new(), json!(true)));
    assert_eq!(run(&site, &["storage", "restore", "san1"]).await.code, 4, "there is nothing to restore");
    let before = site.audit();
    site.configure(&[].into()).unwrap();
    let found = section_findings(&site).await;
    assert_eq!(
        (found.len(), &found[0]["severity"], &found[0]["subject"]),
        (1, &json!("failure"), &json!("san1"))
    );
    assert!(found[0]["fix"].as_str().unwrap().contains("sanbridge storage restore san1"), "{found:?}");
    assert_eq!(configured(&site).await, json!(false));
    let shown = run(&site, &["status"]).await.out;
    assert!(
        shown.contains("san1: Proxmox VE has lost its section -- sanbridge storage restore san1"),
        "{shown}"
    );
    // Also on a node whose daemon has served nothing since it was started.
    site.kill(1);
    std::fs::remove_dir_all(&site.site.node(1).state).unwrap();
    site.start(1, san_core::Effects::unobserved()).await.unwrap();
    let restored = run_on(site.socket(1), Screen::Pipe, &["storage", "restore", "san1"]).await;
    assert_eq!(restored.code, 0, "{restored:?}");
    assert_eq!(
        restored.out,
        "pvesm add sanbridge san1 --sanbridge-address array.example --sanbridge-aggregate aggr1 --sanbridge-array ontap \
         --sanbridge-svm svm1 --sanbridge-username admin\n"
    );
    let status = run_on(site.socket(1), Screen::Pipe, &["status"]).await.out;
    assert!(status.contains("storage restore san1"), "{status}");
    // As PVE does with that command. Elsewhere the secrets are not sent.
    let one = site.client(0);
    let no_secrets = || json!({ "secrets": {} });
    let mut stranger = one.clone();
    stranger.options.insert("sanbridge-address".to_owned(), "stranger.example".into());
    let refused = stranger.call("storage.add", no_secrets()).await.unwrap_err();
    assert!(refused.to_string().contains("password is missing"), "{refused:?}");
    one.call("storage.add", no_secrets()).await.unwrap();
    site.configure(&site.options).unwrap();
    assert_eq!((section_findings(&site).await, configured(&site).await), (Vec::new(), json!(true)));
    let listed = one.call("volume.list", json!({ "vmid": null, "names": null })).await.unwrap();
    assert_eq!(listed.ok["volumes"][0]["name"], DISK);
    let left = site.audit().against(&before);
    assert!(left.is_empty(), "{left}");
}

#[tokio::test]
async fn a_storage_that_was_removed_is_not_missed() {
    let site = added().await;
    let client = site.client(0);
    client.call("volume.delete", json!({ "name": DISK })).await.unwrap();
    client.call("storage.remove", json!({})).await.unwrap();
    site.configure(&[].into()).unwrap();
    // A poll of before may come after it.
    client.call("storage.check", json!({})).await.unwrap_err();
    assert_eq!(section_findings(&site).await, Vec::<Value>::new());
    assert_eq!(run(&site, &["storage", "restore", "san1"]).await.code, 3);
    let refused = client.call("storage.add", json!({ "secrets": {} })).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{refused:?}");
}

#[tokio::test]
async fn without_the_cluster_file_system_nothing_is_taken_for_lost() {
    let site = added().await;
    std::fs::rename(site.pve().join("nodes"), site.pve().join("away")).unwrap();
    std::fs::remove_file(site.pve().join("storage.cfg")).unwrap();
    let found = section_findings(&site).await;
    assert_eq!((found.len(), &found[0]["check"]), (1, &json!("cluster-file-system")), "{found:?}");
    assert_eq!(configured(&site).await, Value::Null);
    assert_eq!(run(&site, &["storage", "restore", "san1"]).await.code, 8);
}

/// Changed options are kept, too, whoever changed them.
#[tokio::test]
async fn the_copy_follows_the_section() {
    let site = added().await;
    let one = site.client(0);
    one.call(
        "storage.update",
        json!({ "changes": { "sanbridge-max-paths": "4" }, "delete": [], "secrets": {} }),
    )
    .await
    .unwrap();
    let copy = || std::fs::read_to_string(site.pve().join("priv/sanbridge/sections/san1")).unwrap();
    assert!(copy().contains("\"sanbridge-max-paths\":\"4\""), "{}", copy());
    let mut two = site.client(1);
    two.options.insert("sanbridge-max-paths".to_owned(), "6".into());
    two.options.insert("nodes".to_owned(), json!(["node1", "node2"]));
    two.call("storage.activate", json!({})).await.unwrap();
    let kept = async {
        while !copy().contains("node2") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), kept).await.unwrap();
    assert!(copy().contains("\"sanbridge-max-paths\":\"6\""), "{}", copy());
}
