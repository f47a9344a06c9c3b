//! Nodes that are gone for ever: what remains of them is ended by `sanbridge node remove`, and by nothing else.

use std::time::Duration;

use san_core::{Deadline, Effects, ErrorKind, OperationId};
use san_engine::{LoggedIn, Outcome, Repair};
use san_sim::ontap::Times;
use sanbridge::cli::Screen;
use sanbridge_tests::daemons::{Client, DaemonSite, Reply};
use sanbridge_tests::site::{PATIENCE, Site};
use serde_json::json;

use crate::cli::run_on;
use crate::support::{DISK, SIZE, answer, inject};

const OTHER: &str = "vm-100-disk-1";

fn members(site: &DaemonSite, second: Option<u8>) {
    let mut nodes = serde_json::Map::new();
    nodes.insert("node1".to_owned(), json!({ "id": 1, "online": 1 }));
    if let Some(online) = second {
        nodes.insert("node2".to_owned(), json!({ "id": 2, "online": online }));
    }
    let text = json!({ "nodename": "node1", "version": 7, "nodelist": nodes }).to_string();
    std::fs::write(site.pve().join(".members"), text).unwrap();
}

/// Names of all files below a folder of the cluster file system that have to do with the second node.
fn notes(site: &DaemonSite) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![site.pve().join("priv").join("sanbridge")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else if std::fs::read_to_string(entry.path()).unwrap().contains("node2") {
                found.push(entry.path().display().to_string());
            }
        }
    }
    found
}

/// A storage, and a disk that the second node has attached.
async fn disk_on_the_second(site: &DaemonSite) {
    site.client(0).add().await.unwrap();
    let params = json!({ "vmid": 100, "name": DISK, "size_bytes": 8 << 20 });
    site.client(0).call("volume.create", params).await.unwrap();
    site.client(1).call("volume.attach", json!({ "name": DISK })).await.unwrap();
}

#[tokio::test]
async fn what_remains_of_a_dead_node_is_ended_when_somebody_says_so() {
    let mut site = DaemonSite::started(2).await.unwrap();
    let (one, two) = (site.client(0), site.client(1));
    one.add().await.unwrap();
    for name in [DISK, OTHER] {
        let params = json!({ "vmid": 100, "name": name, "size_bytes": 8 << 20 });
        one.call("volume.create", params).await.unwrap();
    }
    for client in [&one, &two] {
        client.call("volume.attach", json!({ "name": DISK })).await.unwrap();
    }
    two.call("volume.attach", json!({ "name": OTHER })).await.unwrap();
    site.kill(1);
    site.site.node(1).host.crash();
    let remove = async |listed: &str| {
        one.call("admin.node.remove", json!({ "node": "node2", "listed": listed })).await
    };
    let kind = |it: san_core::Result<Reply>| it.unwrap_err().kind();
    assert_eq!(kind(remove("refuse").await), ErrorKind::Unavailable, "who is a member is not known");
    members(&site, Some(1));
    for listed in ["refuse", "remove"] {
        assert_eq!(kind(remove(listed).await), ErrorKind::InUse, "it is alive");
    }
    members(&site, Some(0));
    let refused = remove("refuse").await.unwrap_err();
    assert!(refused.remedy().is_some_and(|it| it.contains("--listed")), "{refused:?}");
    assert_eq!(site.site.array.maps().len(), 3, "nothing was done");
    let done = remove("remove").await.unwrap();
    assert_eq!(done.ok["storages"], json!([{ "storage": "san1", "mappings": 2, "host": true }]));
    assert_eq!(done.ok["problems"], json!([]));
    assert_eq!(notes(&site), Vec::<String>::new());
    assert_eq!(site.site.array.maps().len(), 1, "the mapping of the node that lives stays");
    assert!(site.site.array.igroups().iter().all(|it| !it.name.ends_with("node2")));
    members(&site, None);
    let again = remove("refuse").await.unwrap();
    assert_eq!(again.ok["storages"], json!([{ "storage": "san1", "mappings": 0, "host": false }]));
    let own = one.call("admin.node.remove", json!({ "node": "node1", "listed": "remove" })).await;
    assert_eq!(kind(own), ErrorKind::InUse);
    for name in [DISK, OTHER] {
        let gone = one.call("volume.delete", json!({ "name": name })).await.unwrap();
        assert!(gone.warnings.is_empty(), "{gone:?}");
    }
}

/// A disk that was deleted while the node was away goes with the node.
#[tokio::test(start_paused = true)]
async fn what_waited_for_a_dead_node_goes() {
    let mut site = Site::started(2).await.unwrap();
    site.node(0).create(DISK, SIZE).await.unwrap();
    site.node(1).attach(DISK).await.unwrap();
    site.kill(1);
    site.node(1).host.crash();
    assert!(matches!(site.node(0).delete(DISK).await.unwrap(), Outcome::Deleting { .. }));
    let san = site.node(0).san();
    san.finish_deletions().await.unwrap();
    assert_eq!(san.repairs().get(&Repair::DeletionFinished), None);
    let cx = san.cx(Deadline::after(PATIENCE), OperationId::random());
    assert_eq!(san.forget_node(&cx, &site.node(1).name, LoggedIn::Refuse).await.unwrap(), 1);
    assert!(san.forget_host_of(&cx, &site.node(1).name).await.unwrap());
    assert_eq!(
        san.forget_node(&cx, &site.node(0).name, LoggedIn::Refuse).await.unwrap_err().kind(),
        ErrorKind::InvalidInput,
        "no node ends itself"
    );
    tokio::time::sleep(Duration::from_secs(60)).await;
    san.finish_deletions().await.unwrap();
    assert_eq!(san.repairs().get(&Repair::DeletionFinished).map(|it| it.count), Some(1));
}

/// A node that was installed anew under its name: its disks of before are nobody's, and the array knows it by another name.
#[tokio::test]
async fn a_reinstalled_node_is_known_anew() {
    let mut site = DaemonSite::started(2).await.unwrap();
    members(&site, Some(1));
    let (one, two) = (site.client(0), site.client(1));
    one.add().await.unwrap();
    let before = site.audit();
    let params = json!({ "vmid": 100, "name": DISK, "size_bytes": 8 << 20 });
    one.call("volume.create", params).await.unwrap();
    site.place_guest(100, 1, &[DISK]).unwrap();
    let attach = json!({ "name": DISK });
    one.call("volume.attach", attach.clone()).await.unwrap();
    one.call("volume.detach", attach.clone()).await.unwrap();
    two.call("volume.attach", attach.clone()).await.unwrap();
    let kind = |it: san_core::Result<Reply>| it.unwrap_err().kind();
    let replace =
        async |client: &Client, node: &str| client.call("admin.node.replace", json!({ "node": node })).await;
    let held = site.audit();
    assert_eq!(kind(replace(&one, "node2").await), ErrorKind::InUse, "it is alive");
    // What has disks, or the name it had, is no other than before.
    let problem = |it: &Reply| it.ok["problems"][0]["why"].as_str().unwrap_or_default().to_owned();
    assert!(problem(&replace(&two, "node2").await.unwrap()).contains("attached on this node"));
    assert!(problem(&replace(&one, "node1").await.unwrap()).contains("by the initiator it has"));
    let changed = site.audit().against(&held);
    assert!(changed.is_empty(), "{changed}");

    site.kill(1);
    let host = &site.site.node(1).host;
    host.crash();
    host.boot();
    std::fs::remove_dir_all(&site.site.node(1).state).unwrap();
    host.rename_initiator("iqn.1993-08.org.debian:01:anew");
    site.start(1, Effects::unobserved()).await.unwrap();
    assert_eq!(kind(replace(&two, "node2").await), ErrorKind::NotFound, "it serves nothing yet");
    two.call("storage.status", json!({})).await.unwrap();
    let refused = two.call("volume.attach", attach.clone()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused:?}");
    assert_eq!(kind(replace(&one, "node2").await), ErrorKind::InUse, "it is alive");
    let done = replace(&two, "node2").await.unwrap();
    assert_eq!(done.ok["storages"], json!([{ "storage": "san1", "mappings": 1, "host": true }]), "{done:?}");
    assert_eq!(done.ok["problems"], json!([]));
    assert_eq!(site.site.array.maps(), []);
    let known = site.site.array.igroups().into_iter().find(|it| it.name.ends_with("node2")).unwrap();
    assert_eq!(known.initiators, ["iqn.1993-08.org.debian:01:anew"]);
    two.call("volume.attach", attach.clone()).await.unwrap();
    two.call("volume.detach", attach.clone()).await.unwrap();
    let again = replace(&two, "node2").await.unwrap();
    assert!(problem(&again).contains("by the initiator it has"), "{again:?}");
    one.call("volume.delete", attach).await.unwrap();
    let left = site.audit().against(&before);
    assert!(left.0.iter().all(|it| it.contains("node2")), "{left}");
}

/// The same from another node, while the one that is to be installed anew is switched off.
#[tokio::test]
async fn a_node_that_will_be_reinstalled_is_forgotten_from_elsewhere() {
    let mut site = DaemonSite::started(2).await.unwrap();
    let one = site.client(0);
    disk_on_the_second(&site).await;
    site.kill(1);
    site.site.node(1).host.crash();
    members(&site, Some(0));
    let done = one.call("admin.node.replace", json!({ "node": "node2" })).await.unwrap();
    assert_eq!(done.ok["storages"], json!([{ "storage": "san1", "mappings": 1, "host": true }]));
    assert_eq!(notes(&site), Vec::<String>::new());
    one.call("volume.delete", json!({ "name": DISK })).await.unwrap();
}

/// A node that PVE's cluster does not see may run guests all the same: the array knows.
#[tokio::test]
async fn a_node_that_is_logged_in_is_not_forgotten_unless_somebody_says_so() {
    let mut site = DaemonSite::started(2).await.unwrap();
    let one = site.client(0);
    disk_on_the_second(&site).await;
    let held = site.audit();
    members(&site, Some(0));
    let replace = async |params| one.call("admin.node.replace", params).await.unwrap().ok;
    let problem = |it: &serde_json::Value| it["problems"][0].clone();
    let refused = problem(&replace(json!({ "node": "node2" })).await);
    let (why, remedy) = (refused["why"].as_str().unwrap(), refused["remedy"].as_str().unwrap());
    assert!(why.contains("is logged in to the array (iqn.") && why.contains("from 10.0.0.200"), "{refused}");
    assert!(remedy.contains("--logged-in"), "{refused}");
    let changed = site.audit().against(&held);
    assert!(changed.is_empty(), "{changed}");
    // An account that may not ask is not told that nobody is there.
    inject(&site.site.array, "GET", "/protocols/san/iscsi/sessions", Times::Count(1), answer(403, 6));
    let hidden = problem(&replace(json!({ "node": "node2" })).await);
    assert!(hidden["why"].as_str().unwrap().contains("cannot tell who is logged in"), "{hidden}");
    let told = replace(json!({ "node": "node2", "logged_in": "ignore" })).await;
    assert_eq!(told["storages"], json!([{ "storage": "san1", "mappings": 1, "host": true }]), "{told}");
    site.kill(1);
    site.site.node(1).host.crash();
    one.call("volume.delete", json!({ "name": DISK })).await.unwrap();
}

/// The same where it has left PVE's cluster.
#[tokio::test]
async fn a_node_that_left_the_cluster_and_is_logged_in_is_not_removed_unless_somebody_says_so() {
    let mut site = DaemonSite::started(2).await.unwrap();
    let one = site.client(0);
    disk_on_the_second(&site).await;
    members(&site, None);
    let held = site.audit();
    let refused = run_on(site.socket(0), Screen::Pipe, &["node", "remove", "node2"]).await;
    assert_ne!(refused.code, 0, "{refused:?}");
    let said = format!("{}{}", refused.out, refused.err);
    assert!(said.contains("is logged in to the array (iqn.") && said.contains("--logged-in"), "{refused:?}");
    let changed = site.audit().against(&held);
    assert!(changed.is_empty(), "{changed}");
    let told = run_on(site.socket(0), Screen::Pipe, &["node", "remove", "node2", "--logged-in"]).await;
    assert_eq!(told.code, 0, "{told:?}");
    assert_eq!(site.site.array.maps(), []);
    assert_eq!(notes(&site), Vec::<String>::new());
    site.kill(1);
    site.site.node(1).host.crash();
    one.call("volume.delete", json!({ "name": DISK })).await.unwrap();
}

/// What is left of nodes that have left the cluster is listed, with the command that ends it.
#[tokio::test]
async fn what_is_left_of_a_node_that_has_gone_is_an_orphan() {
    let mut site = DaemonSite::started(2).await.unwrap();
    let (one, two) = (site.client(0), site.client(1));
    one.add().await.unwrap();
    let params = json!({ "vmid": 100, "name": DISK, "size_bytes": 8 << 20 });
    one.call("volume.create", params).await.unwrap();
    site.place_guest(100, 1, &[DISK]).unwrap();
    one.call("snapshot.create", json!({ "name": DISK, "snapshot": "kept" })).await.unwrap();
    two.call("volume.attach", json!({ "name": DISK })).await.unwrap();
    two.call("volume.attach", json!({ "name": DISK, "snapshot": "kept" })).await.unwrap();
    site.kill(1);
    site.site.node(1).host.crash();
    let orphans = async || {
        let listed = one.call("admin.orphans", json!({ "storage": null })).await.unwrap();
        let all = listed.ok["orphans"].as_array().unwrap().clone();
        let line = |it: &serde_json::Value| {
            assert_eq!(it["removable"], false);
            assert!(it["plan"][0].as_str().unwrap().starts_with("sanbridge node remove node2"), "{it}");
            format!("{} {}", it["kind"].as_str().unwrap(), it["name"].as_str().unwrap())
        };
        all.iter().map(line).collect::<Vec<_>>()
    };
    assert_eq!(orphans().await, [] as [String; 0], "nobody knows who is a member");
    members(&site, Some(0));
    assert_eq!(orphans().await, [] as [String; 0], "it is switched off");
    members(&site, None);
    assert_eq!(
        orphans().await,
        [format!("mapping {DISK}"), format!("reader {DISK}@kept"), "host node2".to_owned()]
    );
    one.call("admin.node.remove", json!({ "node": "node2", "listed": "refuse" })).await.unwrap();
    assert_eq!(orphans().await, [] as [String; 0]);
    assert!(!site.pve().join("priv/sanbridge/nodes/node2").try_exists().unwrap());
}
