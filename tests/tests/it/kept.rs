//! What the array keeps from us for a while: approval that is missing, locked snapshots, replication, limits. Each is named,
//! and leaves either all or nothing.

use std::time::Duration;

use http::Method;
use san_core::{Effects, Error, ErrorKind};
use san_engine::Outcome;
use san_sim::ontap::{Fault, OntapConfig, Replicated, Times, Version};
use sanbridge_tests::site::{SVM, Site};

use crate::support::{DISK, SIZE, assert_unchanged, inject, snapshot};

const VOLUMES: &str = "/storage/volumes/{uuid}";

/// The name of the disk's volume on the array.
fn volume(site: &Site) -> String {
    site.array.volumes().into_iter().find(|it| it.name.starts_with("sb") && !it.deleted).unwrap().name
}

fn assert_names(error: &Error, kind: ErrorKind, reason: &str, remedy: &str) {
    assert_eq!(error.kind(), kind, "{error:?}");
    assert!(error.chain().to_string().contains(reason), "{error:?}");
    assert!(error.remedy().is_some_and(|it| it.contains(remedy)), "{error:?}");
}

/// The disk is gone for everybody, and goes on the array once it may.
fn assert_goes_later(done: &Outcome, reason: &str) {
    assert!(matches!(done, Outcome::Deleting { why } if why.contains(reason)), "{done:?}");
}

/// What the daemon does every few minutes.
async fn finish(site: &Site) {
    tokio::time::sleep(Duration::from_secs(400)).await;
    site.node(0).san().finish_deletions().await.unwrap();
}

async fn limited(change: impl FnOnce(&mut OntapConfig)) -> Site {
    let mut site = Site::with(1, Version::NEWEST, change).unwrap();
    site.start(0, Effects::unobserved()).await.unwrap();
    site
}

#[tokio::test(start_paused = true)]
async fn a_deletion_waits_for_approval() {
    let site = Site::started(1).await.unwrap();
    let (before, node) = (site.audit(), site.node(0));
    node.create(DISK, SIZE).await.unwrap();
    site.array.require_approval(&Method::DELETE, VOLUMES);
    let done = node.delete(DISK).await.unwrap();
    assert_goes_later(&done, "approval of another administrator");
    finish(&site).await;
    assert!(!site.audit().against(&before).is_empty(), "nobody has approved it yet");
    assert_eq!(site.array.approve(), 1);
    finish(&site).await;
    assert_unchanged(&site, &before);
}

/// A creation that fails half way, and whose undoing needs approval, is undone once it has it.
#[tokio::test(start_paused = true)]
async fn an_undo_waits_for_approval() {
    let site = Site::started(1).await.unwrap();
    let (before, node) = (site.audit(), site.node(0));
    site.array.require_approval(&Method::DELETE, VOLUMES);
    let full = Fault::Answer {
        status: 409,
        code: 99,
        message: "cannot have more LUNs".to_owned(),
        retry_after: None,
    };
    inject(&site.array, "POST", "/storage/luns", Times::Count(1), full);
    let error = node.create(DISK, SIZE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error:?}");
    assert!(error.chain().to_string().contains("taken back as soon as that is possible"), "{error:?}");
    assert_eq!(node.san().take_up_open().await.unwrap(), 1, "nobody has approved it yet");
    site.array.approve();
    assert_eq!(node.san().take_up_open().await.unwrap(), 0);
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn a_locked_snapshot_goes_when_its_time_has_come() {
    let site = Site::started(1).await.unwrap();
    let (before, node) = (site.audit(), site.node(0));
    node.create(DISK, SIZE).await.unwrap();
    node.snapshot(DISK, &snapshot()).await.unwrap();
    let made = site.audit();
    site.array.lock_snapshot(SVM, &volume(&site), "sb_before", 3600).unwrap();
    let error = node.delete_snapshot(DISK, &snapshot()).await.unwrap_err();
    assert_names(&error, ErrorKind::Busy, "1638555", "lock of the snapshot");
    // Rolling back to it takes nothing from it.
    node.roll_back(DISK, &snapshot()).await.unwrap();
    assert_unchanged(&site, &made);
    assert_goes_later(&node.delete(DISK).await.unwrap(), "locked snapshot");
    tokio::time::sleep(Duration::from_secs(3601)).await;
    finish(&site).await;
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn what_is_replicated_stays_until_the_relation_ends() {
    let site = Site::started(1).await.unwrap();
    let (before, node) = (site.audit(), site.node(0));
    node.create(DISK, SIZE).await.unwrap();
    node.snapshot(DISK, &snapshot()).await.unwrap();
    let (made, name) = (site.audit(), volume(&site));
    site.array.set_replicated(SVM, &name, Replicated::Yes).unwrap();
    let error = node.delete_snapshot(DISK, &snapshot()).await.unwrap_err();
    assert_names(&error, ErrorKind::Busy, "used by: snapmirror", "replication");
    assert_unchanged(&site, &made);
    assert_goes_later(&node.delete(DISK).await.unwrap(), "SnapMirror");
    // Its name is another one by now.
    site.array.set_replicated(SVM, &volume(&site), Replicated::No).unwrap();
    finish(&site).await;
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn limits_of_the_array_are_named_and_leave_nothing() {
    // One volume is there already.
    let volumes = limited(|it| it.limits.volumes_per_svm = 1).await;
    let luns = limited(|_| {}).await;
    let before = luns.audit();
    let no_more = Fault::Answer {
        status: 409,
        code: 917_513,
        message: "the maximum number of LUNs of this node is reached".to_owned(),
        retry_after: None,
    };
    inject(&luns.array, "POST", "/storage/luns", Times::Count(1), no_more);
    for (site, before) in [(&volumes, volumes.audit()), (&luns, before)] {
        let error = site.node(0).create(DISK, SIZE).await.unwrap_err();
        assert_names(&error, ErrorKind::LimitReached, "limit of the array", "delete what is not needed");
        assert_unchanged(site, &before);
    }
    let maps = limited(|it| it.limits.maps_per_igroup = 1).await;
    let (before, node) = (maps.audit(), maps.node(0));
    let beside = "vm-100-disk-1";
    for disk in [DISK, beside] {
        node.create(disk, SIZE).await.unwrap();
    }
    node.attach(DISK).await.unwrap();
    let attached = maps.audit();
    let error = node.attach(beside).await.unwrap_err();
    assert_names(&error, ErrorKind::LimitReached, "limit of the array", "");
    assert_unchanged(&maps, &attached);
    node.detach(DISK).await.unwrap();
    for disk in [DISK, beside] {
        node.delete(disk).await.unwrap();
    }
    assert_unchanged(&maps, &before);
}
