//! What nodes leave behind: half-made volumes of those that never come back, disks that were deleted or taken elsewhere,
//! operations that a start finds open. It goes by itself, in time, and nothing else does.

use std::sync::Arc;
use std::time::Duration;

use san_core::Effects;
use san_engine::Repair;
use san_sim::ontap::{Fault, Times};
use sanbridge_tests::crash::{Side, Stopper};
use sanbridge_tests::daemons::DaemonSite;
use sanbridge_tests::site::{SVM, Site};
use serde_json::{Value, json};

use crate::support::{DISK, SIZE, assert_unchanged, inject};

const MINUTE: Duration = Duration::from_secs(60);

/// The first node dies while it makes the disk.
async fn dies_making(site: &mut Site, stopper: &Arc<Stopper>) {
    let array = Arc::new(site.connect(stopper.effects()).await.unwrap());
    site.start_with(0, stopper.effects(), array).await.unwrap();
    {
        let made = site.node(0).create(DISK, SIZE);
        tokio::pin!(made);
        tokio::select! {
            biased;
            () = stopper.reached() => {}
            done = &mut made => panic!("{done:?}"),
        }
    }
    site.kill(0);
}

/// The second node looks, as its daemon does, for so many minutes.
async fn looks(site: &Site, minutes: u32) {
    for _ in 0..minutes * 2 {
        tokio::time::sleep(MINUTE / 2).await;
        site.node(1).san().reap().await.unwrap();
    }
}

fn ours(site: &Site) -> usize {
    site.array.volumes().iter().filter(|it| it.name.starts_with("sb") && !it.deleted).count()
}

#[tokio::test(start_paused = true)]
async fn a_half_made_volume_of_a_dead_node_goes_when_nobody_can_be_making_it() {
    let mut site = Site::new(2).unwrap();
    site.start(1, Effects::unobserved()).await.unwrap();
    let before = site.audit();
    dies_making(&mut site, &Stopper::named("POST /api/storage/luns", Side::Before)).await;
    assert_eq!(ours(&site), 1);
    looks(&site, 35).await;
    assert_eq!(ours(&site), 1, "it may be being made");
    let mark = site.array.mark();
    looks(&site, 10).await;
    assert_eq!(ours(&site), 0);
    let repairs = site.node(1).san().repairs();
    assert_eq!(
        repairs.get(&Repair::HalfMadeRemoved).map(|it| (it.count, it.object.as_str())),
        Some((1, DISK))
    );
    let asked: usize = site.array.counts(mark).values().sum();
    assert!(asked < 12, "{:?}", site.array.counts(mark));
    let left = site.audit().against(&before);
    assert!(left.0.iter().all(|it| it.contains("records of node1")), "{left}");
    // Should the node come back after all, it finds that there is nothing left to undo.
    site.start(0, Effects::unobserved()).await.unwrap();
    assert_eq!(site.node(0).san().take_up_open().await.unwrap(), 0);
    assert_unchanged(&site, &before);
}

/// What holds a disk, or may hold one, is never taken for half-made.
#[tokio::test(start_paused = true)]
async fn only_what_was_never_finished_is_removed() {
    let mut site = Site::new(2).unwrap();
    site.start(1, Effects::unobserved()).await.unwrap();
    // Whole on the array, and known to nobody.
    dies_making(&mut site, &Stopper::named("POST /api/storage/luns", Side::After)).await;
    // One whose LUN is gone, or hidden: the cluster knows that it was whole.
    site.node(1).create("vm-200-disk-0", SIZE).await.unwrap();
    let lun = site.array.luns().into_iter().find(|it| it.path.contains("vm_200")).unwrap();
    let delete = http::Request::delete(format!("https://a/api/storage/luns/{}", lun.uuid))
        .header("Authorization", "Basic YWRtaW46bmV0YXBwMSE=")
        .body(bytes::Bytes::new())
        .unwrap();
    assert!(site.array.handle(delete).await.unwrap().status().is_success());
    // Somebody's own, with a name like ours.
    site.array.add_volume(SVM, "sb_lab_san1_vm_300_disk_0", 1 << 30, "made by hand").unwrap();
    let held = site.audit();
    looks(&site, 120).await;
    assert_unchanged(&site, &held);
    assert_eq!(site.node(1).san().repairs().get(&Repair::HalfMadeRemoved), None);
}

/// An operation of a node that lives, and whose array does not let it end, is that node's to end.
#[tokio::test(start_paused = true)]
async fn what_a_living_node_still_works_on_is_left_to_it() {
    let site = Site::started(2).await.unwrap();
    let before = site.audit();
    let broken =
        || Fault::Answer { status: 500, code: 1, message: "simulated".to_owned(), retry_after: None };
    inject(&site.array, "POST", "/storage/luns", Times::Always, broken());
    inject(&site.array, "DELETE", "/storage/volumes/{uuid}", Times::Always, broken());
    site.node(0).create(DISK, SIZE).await.unwrap_err();
    assert_eq!((ours(&site), site.node(0).san().open_operations().await.unwrap().len()), (1, 1));
    for _ in 0..60 {
        tokio::time::sleep(MINUTE).await;
        site.node(0).san().reap().await.unwrap();
    }
    assert_eq!((ours(&site), site.node(0).san().repairs().get(&Repair::HalfMadeRemoved)), (1, None));
    site.array.clear_faults();
    assert_eq!(site.node(0).san().take_up_open().await.unwrap(), 0);
    assert_unchanged(&site, &before);
}

async fn operations(site: &DaemonSite, index: usize) -> Value {
    let status = site.client(index).call("admin.status", json!({ "storage": null })).await.unwrap();
    status.ok["storages"][0]["operations"].clone()
}

/// `false`: the operation has no such effect.
async fn is_killed_at(method: &str, number: usize) -> bool {
    let mut site = DaemonSite::started(1).await.unwrap();
    site.client(0).add().await.unwrap();
    let before = site.audit();
    let params = json!({ "name": DISK });
    if method != "volume.create" {
        let new = json!({ "vmid": 100, "name": DISK, "size_bytes": 8 << 20 });
        site.client(0).call("volume.create", new).await.unwrap();
    }
    if ["volume.detach", "volume.delete"].contains(&method) {
        site.client(0).call("volume.attach", params.clone()).await.unwrap();
    }
    site.kill(0);
    let counting = Stopper::new(None);
    site.start(0, counting.effects()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let first = counting.passed().len();
    site.kill(0);
    let stopper = Stopper::new(Some((first + number, Side::After)));
    site.start(0, stopper.effects()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let client = site.client(0);
    let params = match method {
        "volume.create" => json!({ "vmid": 100, "name": DISK, "size_bytes": 8 << 20 }),
        _ => params,
    };
    let reached = {
        let called = client.call(method, params);
        tokio::pin!(called);
        tokio::select! {
            biased;
            () = stopper.reached() => true,
            done = &mut called => { done.unwrap(); false }
        }
    };
    site.kill(0);
    site.start(0, Effects::unobserved()).await.unwrap();
    tokio::time::sleep(MINUTE).await;
    assert_eq!(operations(&site, 0).await, json!([]), "{method} {number} {:?}", stopper.passed().last());
    site.client(0).call("volume.delete", json!({ "name": DISK })).await.unwrap();
    let left = site.audit().against(&before);
    assert!(left.is_empty(), "{method} {number}: {left}");
    reached
}

#[tokio::test(start_paused = true)]
async fn operations_that_a_start_finds_open_have_ended_a_minute_later() {
    for method in ["volume.create", "volume.attach", "volume.detach", "volume.delete"] {
        let mut number = 0;
        while is_killed_at(method, number).await {
            number += 2;
        }
        assert!(number > 2, "{method} has {number} effects");
    }
}

/// The node was away when its disk was deleted elsewhere.
#[tokio::test(start_paused = true)]
async fn what_is_left_here_of_a_disk_deleted_elsewhere_goes_within_a_minute_of_the_start() {
    let mut site = DaemonSite::started(2).await.unwrap();
    let (one, two) = (site.client(0), site.client(1));
    one.add().await.unwrap();
    two.call("storage.activate", json!({})).await.unwrap();
    let before = site.audit();
    one.call("volume.create", json!({ "vmid": 100, "name": DISK, "size_bytes": 8 << 20 })).await.unwrap();
    two.call("volume.attach", json!({ "name": DISK })).await.unwrap();
    site.kill(1);
    let deleted = one.call("volume.delete", json!({ "name": DISK })).await.unwrap();
    assert!(deleted.warnings[0].contains("node2"), "{deleted:?}");
    tokio::time::sleep(10 * MINUTE).await;
    site.start(1, Effects::unobserved()).await.unwrap();
    tokio::time::sleep(MINUTE).await;
    let left = site.audit().against(&before);
    assert!(left.is_empty(), "{left}");
}

/// A guest moved while this node's daemon runs: what is left of its disk here goes within a minute.
#[tokio::test(start_paused = true)]
async fn what_another_node_has_taken_goes_here_within_a_minute() {
    let site = DaemonSite::started(2).await.unwrap();
    let (one, two) = (site.client(0), site.client(1));
    one.add().await.unwrap();
    one.call("volume.create", json!({ "vmid": 100, "name": DISK, "size_bytes": 8 << 20 })).await.unwrap();
    site.place_guest(100, 1, &[DISK]).unwrap();
    two.call("volume.attach", json!({ "name": DISK })).await.unwrap();
    site.place_guest(100, 0, &[DISK]).unwrap();
    one.call("volume.attach", json!({ "name": DISK })).await.unwrap();
    let there = &site.site.node(1).host;
    assert_eq!(there.inventory().links.len(), 1);
    tokio::time::sleep(MINUTE).await;
    let seen = there.inventory();
    assert_eq!((seen.links.len(), seen.maps.len(), seen.legs.len()), (0, 0, 0), "{seen:?}");
    let status = two.call("admin.status", json!({ "storage": null })).await.unwrap();
    assert_eq!(status.ok["storages"][0]["repairs"][0]["kind"], "stale-detached", "{status:?}");
    one.call("volume.delete", json!({ "name": DISK })).await.unwrap();
}
