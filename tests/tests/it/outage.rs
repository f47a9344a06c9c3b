//! The management plane is down: guests stop and start, and what the array still owes is done when it is back.

use std::path::Path;

use san_core::{Effects, ErrorKind};
use san_sim::ontap::SvmSubtype;
use san_sim::server::ApiState;
use sanbridge_tests::daemons::DaemonSite;
use sanbridge_tests::log::Log;
use sanbridge_tests::site::SVM;
use serde_json::json;
use tokio::time::{Duration, Instant, sleep};

const DISK: &str = "vm-100-disk-0";

async fn attached(nodes: usize) -> DaemonSite {
    let site = DaemonSite::started(nodes).await.unwrap();
    let one = site.client(0);
    one.add().await.unwrap();
    one.call("volume.create", json!({ "vmid": 100, "name": DISK, "size_bytes": 8 << 20 })).await.unwrap();
    site.place_guest(100, 0, &[DISK]).unwrap();
    one.call("volume.attach", json!({ "name": DISK, "hints": {} })).await.unwrap();
    site
}

/// The maps of our volumes.
fn maps(site: &DaemonSite) -> usize {
    site.site.array.maps().iter().filter(|it| !it.lun.contains("foreign")).count()
}

/// A MetroCluster that switches over keeps guests running; management waits for the switchback, and everybody is told why.
#[tokio::test(start_paused = true)]
async fn a_switchover_leaves_attached_disks_alone_and_is_named() {
    let mut site = DaemonSite::started(1).await.unwrap();
    let client = site.client(0);
    client.add().await.unwrap();
    let create = json!({ "vmid": 100, "name": null, "size_bytes": 8 << 20 });
    client.call("volume.create", create.clone()).await.unwrap();
    let attach = json!({ "name": DISK });
    let path = client.call("volume.attach", attach.clone()).await.unwrap().ok["path"].clone();
    let path = Path::new(path.as_str().unwrap()).to_owned();
    site.site.array.set_svm_subtype(SVM, SvmSubtype::SyncSource).unwrap();
    let before = site.audit();
    let over = site.site.array.switch_over(SVM).unwrap();
    for restarts in [false, true] {
        if restarts {
            site.kill(0);
            site.start(0, Effects::unobserved()).await.unwrap();
        }
        client.call("volume.attach", attach.clone()).await.unwrap();
        site.site.node(0).write(&path, 0, b"goes on").await.unwrap();
        let error = client.call("volume.create", create.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(format!("{error:?}").contains("has switched over"), "{error:?}");
        assert!(error.remedy().is_some_and(|it| it.contains("do not remove the storage")), "{error:?}");
    }
    tokio::time::sleep(Duration::from_secs(120)).await;
    let status = client.call("admin.status", json!({})).await.unwrap().ok;
    let problem = status["storages"][0]["problem"].as_str().unwrap_or_default().to_owned();
    assert!(problem.contains("has switched over"), "{status}");
    let checked = client.call("admin.check", json!({})).await.unwrap().ok.to_string();
    assert!(checked.contains("has switched over"), "{checked}");
    site.site.array.switch_back(&over);
    tokio::time::sleep(Duration::from_secs(120)).await;
    let findings = site.audit().against(&before);
    assert!(findings.is_empty(), "{findings}");
    client.call("volume.detach", attach.clone()).await.unwrap();
    client.call("volume.delete", attach).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_guest_stops_and_starts_at_once_while_the_array_is_down() {
    let site = attached(1).await;
    let one = site.client(0);
    site.site.array.set_api(ApiState::Refusing);
    for _ in 0..3 {
        let stopped = one.call("volume.detach", json!({ "name": DISK })).await.unwrap();
        assert_eq!(stopped.warnings.len(), 1, "{stopped:?}");
        let began = Instant::now();
        let started = one.call("volume.attach", json!({ "name": DISK, "hints": {} })).await.unwrap();
        assert_eq!(started.ok["path"], format!("/dev/sanbridge/san1/{DISK}"));
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    assert_eq!(maps(&site), 1);
}

#[tokio::test(start_paused = true)]
async fn a_mapping_the_array_kept_goes_when_the_array_is_back() {
    let (log, _capturing) = Log::capture();
    let site = attached(1).await;
    let before = maps(&site);
    site.site.array.set_api(ApiState::Refusing);
    let stopped = site.client(0).call("volume.detach", json!({ "name": DISK })).await.unwrap();
    assert_eq!(stopped.warnings.len(), 1, "{stopped:?}");
    // Longer than any attempt of the operation itself.
    sleep(Duration::from_secs(300)).await;
    assert_eq!((before, maps(&site)), (1, 1));
    // It is tried again all the time, and told once.
    let told = log.text().matches("operations stay open until the array answers").count();
    assert_eq!(told, 1);
    site.site.array.set_api(ApiState::Up);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(maps(&site), 0);
    let status = site.client(0).call("storage.status", json!({})).await.unwrap();
    assert_eq!(status.ok["open_operations"], 0, "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn the_first_poll_of_a_daemon_knows_the_room() {
    let mut site = attached(2).await;
    let known = site.client(0).call("storage.status", json!({})).await.unwrap();
    site.kill(0);
    site.start(0, Effects::unobserved()).await.unwrap();
    for index in [0, 1] {
        let first = site.client(index).call("storage.status", json!({})).await.unwrap();
        assert_eq!(
            (&first.ok["active"], &first.ok["total"]),
            (&json!(true), &known.ok["total"]),
            "{first:?}"
        );
    }
    // With the array down there is nothing to know, and nobody waits for it twice.
    site.site.array.set_api(ApiState::BlackHole);
    site.kill(0);
    site.start(0, Effects::unobserved()).await.unwrap();
    let one = site.client(0);
    one.call("storage.status", json!({})).await.unwrap();
    let began = Instant::now();
    for _ in 0..10 {
        let unknown = one.call("storage.status", json!({})).await.unwrap();
        assert_eq!(unknown.ok["active"], false, "{unknown:?}");
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}
