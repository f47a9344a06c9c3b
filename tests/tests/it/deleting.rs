//! Deletions that cannot end at once: nobody sees the disk any more, its name is free, and it goes when it can.

use std::time::Duration;

use san_core::{ByteSize, Deadline, Effects, ErrorKind, OperationId};
use san_engine::{Naming, Outcome, Repair, Request, Tie};
use sanbridge_tests::site::{PATIENCE, Site};

use crate::support::{DISK, SIZE, assert_unchanged, snapshot};

const TEMPLATE: &str = "base-100-disk-0";
const CLONE: &str = "vm-101-disk-0";

/// A template with one clone.
async fn cloned(site: &Site) {
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let naming = Naming::Exact(TEMPLATE.to_owned());
    node.call(Request::Template { object: DISK.to_owned(), naming }).await.unwrap();
    let naming = Naming::Exact(CLONE.to_owned());
    let source = TEMPLATE.to_owned();
    node.call(Request::Clone { source, snapshot: None, naming }).await.unwrap();
}

async fn listed(site: &Site, index: usize) -> Vec<String> {
    let san = site.node(index).san();
    let cx = san.cx(Deadline::after(PATIENCE), OperationId::random());
    san.disks(&cx).await.unwrap().into_iter().map(|it| it.owner.object().to_owned()).collect()
}

/// What PVE does with a template and its clones: it forgets them one after the other, and asks only once.
#[tokio::test(start_paused = true)]
async fn a_template_goes_after_its_deleted_clones() {
    let mut site = Site::started(2).await.unwrap();
    let before = site.audit();
    cloned(&site).await;
    let refused = site.node(0).delete(TEMPLATE).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InUse, "{refused:?}");
    assert_eq!(listed(&site, 1).await.len(), 2, "a clone that somebody has keeps its template");
    site.node(0).delete(CLONE).await.unwrap();
    let done = site.node(0).delete(TEMPLATE).await.unwrap();
    assert!(
        matches!(&done, Outcome::Deleting { why } if why.contains("clones that were deleted")),
        "{done:?}"
    );
    for index in 0..2 {
        assert!(listed(&site, index).await.is_empty());
        assert_eq!(site.node(index).attach(TEMPLATE).await.unwrap_err().kind(), ErrorKind::NotFound);
        assert_eq!(site.node(index).delete(TEMPLATE).await.unwrap(), Outcome::Deleted, "it is gone already");
        site.node(index).san().finish_deletions().await.unwrap();
    }
    // Its name is free.
    site.node(1).create(TEMPLATE, ByteSize::from_mib(4)).await.unwrap();
    site.node(1).delete(TEMPLATE).await.unwrap();
    // The node that deleted it need not be there for the rest.
    site.kill(0);
    site.array.purge_recovery_queue().unwrap();
    tokio::time::sleep(Duration::from_secs(400)).await;
    site.node(1).san().finish_deletions().await.unwrap();
    let finished = site.node(1).san().repairs().remove(&Repair::DeletionFinished).unwrap();
    assert_eq!((finished.count, finished.object.as_str()), (1, TEMPLATE));
    assert_unchanged(&site, &before);
}

/// A clone that waits to be deleted holds its template no longer than those in the recovery queue.
#[tokio::test(start_paused = true)]
async fn a_template_goes_after_a_clone_that_waits_itself() {
    let site = Site::started(1).await.unwrap();
    let before = site.audit();
    cloned(&site).await;
    let node = site.node(0);
    let second = "base-101-disk-0";
    node.call(Request::Template { object: CLONE.to_owned(), naming: Naming::Exact(second.to_owned()) })
        .await
        .unwrap();
    let naming = Naming::Exact(CLONE.to_owned());
    node.call(Request::Clone { source: second.to_owned(), snapshot: None, naming }).await.unwrap();
    node.delete(CLONE).await.unwrap();
    for template in [second, TEMPLATE] {
        let done = node.delete(template).await.unwrap();
        assert!(
            matches!(&done, Outcome::Deleting { why } if why.contains("clones that were deleted")),
            "{done:?}"
        );
    }
    for _ in 0..2 {
        site.array.purge_recovery_queue().unwrap();
        tokio::time::sleep(Duration::from_secs(400)).await;
        node.san().finish_deletions().await.unwrap();
    }
    assert_unchanged(&site, &before);
}

/// A node that is away does not keep a disk from being deleted, and does not lose it under its hands either.
#[tokio::test(start_paused = true)]
async fn what_a_silent_node_has_goes_when_that_comes_back() {
    let mut site = Site::started(3).await.unwrap();
    let before = site.audit();
    site.node(0).create(DISK, SIZE).await.unwrap();
    let there = site.node(1).attach(DISK).await.unwrap();
    site.node(1).write(&there, 0, b"older").await.unwrap();
    let guest = site.node(1).host.open(&there).unwrap();
    site.kill(1);
    let done = site.node(0).delete(DISK).await.unwrap();
    assert!(matches!(&done, Outcome::Deleting { why } if why.contains("node2")), "{done:?}");
    assert!(listed(&site, 2).await.is_empty());
    // The next disk of that name is another one.
    site.node(0).create(DISK, SIZE).await.unwrap();
    let path = site.node(0).attach(DISK).await.unwrap();
    site.node(0).write(&path, 0, b"newer").await.unwrap();
    let look_after = async |site: &Site| {
        tokio::time::sleep(Duration::from_secs(400)).await;
        for index in [1, 2, 0] {
            site.node(index).san().drop_stale_attachments().await.unwrap();
            site.node(index).san().finish_deletions().await.unwrap();
        }
    };
    site.start(1, Effects::unobserved()).await.unwrap();
    look_after(&site).await;
    assert_eq!(site.node(1).read(&there, 0, 5).await.unwrap(), b"older", "it is in use there");
    drop(guest);
    look_after(&site).await;
    let repairs = site.node(1).san().repairs();
    assert_eq!(repairs.get(&Repair::StaleDetached).map(|it| it.count), Some(1), "{repairs:?}");
    assert_eq!(site.node(0).read(&path, 0, 5).await.unwrap(), b"newer");
    site.node(0).delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

/// Nobody knows whether the guest of a silent node runs.
#[tokio::test(start_paused = true)]
async fn the_disk_of_a_guest_on_a_silent_node_stays() {
    let mut site = Site::started(2).await.unwrap();
    site.node(1).create(DISK, SIZE).await.unwrap();
    site.guests.place(DISK, &site.node(1).name, Tie::Configured);
    site.node(1).attach(DISK).await.unwrap();
    site.kill(1);
    let held = site.audit();
    let refused = site.node(0).delete(DISK).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InUse, "{refused:?}");
    let text = refused.chain().to_string();
    assert!(text.contains("node2") && text.contains("configuration"), "{text}");
    assert!(refused.remedy().is_some_and(|it| it.contains("node2")), "{refused:?}");
    assert_unchanged(&site, &held);
}

/// Names of deleted disks are nobody's to give or to use.
#[tokio::test(start_paused = true)]
async fn deleted_disks_are_nobodys() {
    let site = Site::started(1).await.unwrap();
    let node = site.node(0);
    cloned(&site).await;
    node.delete(CLONE).await.unwrap();
    node.delete(TEMPLATE).await.unwrap();
    let folder = site.cluster_folder().join("volumes").join(sanbridge_tests::site::SPACE);
    let entry = std::fs::read_dir(folder).unwrap().next().unwrap().unwrap();
    let tombstone = entry.file_name().into_string().unwrap();
    assert!(tombstone.starts_with("deleting-") && tombstone.ends_with(TEMPLATE), "{tombstone}");
    let kind = async |request| node.call(request).await.unwrap_err().kind();
    let object = || tombstone.clone();
    assert_eq!(kind(Request::Attach { object: object() }).await, ErrorKind::NotFound);
    assert_eq!(kind(Request::Snapshot { object: object(), snapshot: snapshot() }).await, ErrorKind::NotFound);
    let naming = Naming::Exact("vm-102-disk-0".to_owned());
    let clone = Request::Clone { source: object(), snapshot: None, naming: naming.clone() };
    assert_eq!(kind(clone).await, ErrorKind::NotFound);
    assert_eq!(kind(Request::Rename { object: object(), naming }).await, ErrorKind::NotFound);
    let naming = Naming::Exact("deleting-x".to_owned());
    assert_eq!(kind(Request::Create { naming, size: SIZE }).await, ErrorKind::InvalidInput);
}
