//! Snapshots read as disks beside their disk: bytes, who has them, when they are closed, and what is refused.

use std::time::Duration;

use san_core::{Deadline, Effects, ErrorKind, OperationId, Result};
use san_engine::{Asker, Naming, Outcome, Request};
use san_sim::ontap::{Fault, Times};
use sanbridge_tests::site::{Site, SiteNode};

use crate::support::{DISK, GROWN, SIZE, answer, assert_unchanged, changes, inject, snapshot};

const LUNS: &str = "/storage/luns";

/// A disk attached on the first node, with `first` in its snapshot and `other` in it.
async fn disk(site: &Site) -> std::path::PathBuf {
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let path = node.attach(DISK).await.unwrap();
    node.write(&path, 0, b"first").await.unwrap();
    node.snapshot(DISK, &snapshot()).await.unwrap();
    node.write(&path, 0, b"other").await.unwrap();
    path
}

async fn read(node: &SiteNode) -> Vec<u8> {
    let path = node.attach_snapshot(DISK, &snapshot()).await.unwrap();
    node.read(&path, 0, 5).await.unwrap()
}

async fn remove(site: &Site) {
    site.node(0).detach(DISK).await.unwrap();
    site.node(0).delete(DISK).await.unwrap();
}

fn kind<T: std::fmt::Debug>(answer: Result<T>) -> ErrorKind {
    answer.unwrap_err().kind()
}

async fn minutes(count: u64) {
    tokio::time::sleep(Duration::from_secs(60 * count)).await;
}

fn readers(site: &Site) -> usize {
    site.array.luns().iter().filter(|it| it.path.contains("/r.")).count()
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_is_read_on_two_nodes_while_its_disk_goes_on() {
    let mut site = Site::started(2).await.unwrap();
    let before = site.audit();
    let path = disk(&site).await;
    let with_disk = site.audit();
    let (one, two) = (site.node(0), site.node(1));
    let there = one.attach_snapshot(DISK, &snapshot()).await.unwrap();
    assert_eq!(there.to_str().unwrap(), format!("/dev/sanbridge/san1/{DISK}@before"));
    assert_eq!(read(two).await, b"first");
    assert_eq!(one.read(&there, 0, 5).await.unwrap(), b"first");
    one.write(&path, 0, b"third").await.unwrap();
    one.grow(DISK, GROWN).await.unwrap();
    assert_eq!(one.read(&there, 0, 5).await.unwrap(), b"first");
    // Again it costs nothing, also for a daemon that was started anew.
    let mark = site.array.mark();
    assert_eq!(read(one).await, b"first");
    assert!(site.array.requests(mark).is_empty(), "{:?}", site.array.requests(mark));
    site.kill(0);
    site.start(0, Effects::unobserved()).await.unwrap();
    let (one, two) = (site.node(0), site.node(1));
    let mark = site.array.mark();
    assert_eq!(read(one).await, b"first");
    assert!(site.array.requests(mark).is_empty(), "{:?}", site.array.requests(mark));
    // The disk is rolled back meanwhile, and taken down for it.
    one.roll_back(DISK, &snapshot()).await.unwrap();
    let path = one.attach(DISK).await.unwrap();
    assert_eq!(one.read(&path, 0, 5).await.unwrap(), b"first");
    one.write(&path, 0, b"fifth").await.unwrap();
    assert_eq!(one.read(&there, 0, 5).await.unwrap(), b"first");
    for node in [one, two] {
        node.detach_snapshot(DISK, &snapshot()).await.unwrap();
        node.detach_snapshot(DISK, &snapshot()).await.unwrap();
    }
    assert_eq!(readers(&site), 0);
    let left = site.audit().against(&with_disk);
    assert!(left.0.iter().all(|it| !it.contains('@')), "{left}");
    remove(&site).await;
    assert_unchanged(&site, &before);
}

/// As `vzdump` does: the same name for each backup, and nobody says that he is done.
#[tokio::test(start_paused = true)]
async fn a_backup_that_was_killed_is_repeated_with_the_bytes_of_today() {
    let mut site = Site::started(2).await.unwrap();
    let before = site.audit();
    let path = disk(&site).await;
    for day in [b"day 1", b"day 2"] {
        assert_eq!(kind(site.node(0).snapshot(DISK, &snapshot()).await), ErrorKind::AlreadyExists);
        site.node(0).delete_snapshot(DISK, &snapshot()).await.unwrap();
        assert_eq!(readers(&site), 0, "it is closed with its snapshot");
        site.node(0).write(&path, 0, day).await.unwrap();
        site.node(0).snapshot(DISK, &snapshot()).await.unwrap();
        assert_eq!(read(site.node(0)).await, day);
        site.kill(0);
        site.start(0, Effects::unobserved()).await.unwrap();
    }
    remove(&site).await;
    assert_unchanged(&site, &before);
}

/// A snapshot of that name is taken anew by another node: what this one still has is not it.
#[tokio::test(start_paused = true)]
async fn what_reads_an_older_snapshot_of_that_name_is_never_taken_for_the_new_one() {
    let site = Site::started(2).await.unwrap();
    let before = site.audit();
    let path = disk(&site).await;
    let (one, two) = (site.node(0), site.node(1));
    let there = two.attach_snapshot(DISK, &snapshot()).await.unwrap();
    let backup = two.host.open(&there).unwrap();
    one.delete_snapshot(DISK, &snapshot()).await.unwrap();
    assert_eq!(two.read(&there, 0, 5).await.unwrap(), b"first", "it does not need the snapshot");
    one.write(&path, 0, b"newer").await.unwrap();
    one.snapshot(DISK, &snapshot()).await.unwrap();
    let refused = two.attach_snapshot(DISK, &snapshot()).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InUse, "{refused:?}");
    assert_eq!(two.read(&there, 0, 5).await.unwrap(), b"first");
    drop(backup);
    assert_eq!(read(two).await, b"newer");
    // What nobody knows of any more is made anew as well.
    std::fs::remove_dir_all(site.cluster_folder().join("volumes")).unwrap();
    assert_eq!(read(two).await, b"newer");
    two.detach_snapshot(DISK, &snapshot()).await.unwrap();
    remove(&site).await;
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn an_idle_snapshot_is_closed_and_one_that_is_wanted_stays() {
    let site = Site::started(1).await.unwrap();
    disk(&site).await;
    let node = site.node(0);
    let stat = std::path::Path::new("/proc/4711/stat");
    let of = |start: u64| format!("4711 (task) S{}{start} 0 0\n", " 0".repeat(18) + " ");
    let asker = Some(Asker { pid: 4711, started: Some(99) });
    node.host.put_file(stat, of(99).as_bytes());
    let path = node.attach_snapshot_for(DISK, &snapshot(), asker).await.unwrap();
    minutes(60).await;
    node.san().drop_idle().await.unwrap();
    assert_eq!(readers(&site), 1, "the task that asked lives");
    node.detach_snapshot(DISK, &snapshot()).await.unwrap();
    assert_eq!(readers(&site), 1, "so that nobody else closes it");
    // Another process of that number is not the task.
    node.host.put_file(stat, of(100).as_bytes());
    let reader = node.host.open(&path).unwrap();
    node.san().drop_idle().await.unwrap();
    assert_eq!(readers(&site), 1, "it is open");
    drop(reader);
    minutes(9).await;
    node.san().drop_idle().await.unwrap();
    assert_eq!(readers(&site), 1, "it was open a moment ago");
    node.attach_snapshot(DISK, &snapshot()).await.unwrap();
    minutes(9).await;
    node.san().drop_idle().await.unwrap();
    assert_eq!(readers(&site), 1, "somebody has asked for it since");
    for left in [1, 0] {
        minutes(2).await;
        node.san().drop_idle().await.unwrap();
        assert_eq!(readers(&site), left, "one look is no proof");
    }
    assert!(node.san().attached().await.unwrap().iter().all(|it| it.reads.is_none()), "the disk stays");
    // The task itself may end it.
    node.host.put_file(stat, of(99).as_bytes());
    node.attach_snapshot_for(DISK, &snapshot(), asker).await.unwrap();
    let ends = Request::DetachSnapshot { object: DISK.to_owned(), snapshot: snapshot(), asker };
    node.call(ends).await.unwrap();
    assert_eq!(readers(&site), 0);
}

#[tokio::test(start_paused = true)]
async fn a_disk_is_not_deleted_or_renamed_while_somebody_reads_a_snapshot_of_it() {
    let site = Site::started(2).await.unwrap();
    let before = site.audit();
    disk(&site).await;
    let (one, two) = (site.node(0), site.node(1));
    one.detach(DISK).await.unwrap();
    let path = two.attach_snapshot(DISK, &snapshot()).await.unwrap();
    let rename = || {
        let naming = Naming::Exact("vm-101-disk-7".to_owned());
        Request::Rename { object: DISK.to_owned(), naming }
    };
    for refused in [one.delete(DISK).await, one.call(rename()).await] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InUse, "{refused:?}");
        assert!(refused.chain().to_string().contains("node2"), "{}", refused.chain());
    }
    let backup = two.host.open(&path).unwrap();
    assert_eq!(kind(two.delete(DISK).await), ErrorKind::InUse);
    assert_eq!(kind(two.delete_snapshot(DISK, &snapshot()).await), ErrorKind::InUse);
    assert_eq!(kind(two.detach_snapshot(DISK, &snapshot()).await), ErrorKind::InUse);
    assert_eq!(two.read(&path, 0, 5).await.unwrap(), b"first");
    drop(backup);
    // Its own are closed with it, where they are idle.
    two.call(rename()).await.unwrap();
    assert_eq!(
        (readers(&site), kind(two.attach_snapshot(DISK, &snapshot()).await)),
        (0, ErrorKind::NotFound)
    );
    two.attach_snapshot("vm-101-disk-7", &snapshot()).await.unwrap();
    two.delete("vm-101-disk-7").await.unwrap();
    assert_unchanged(&site, &before);
}

/// The node that reads never comes back.
#[tokio::test(start_paused = true)]
async fn what_a_dead_node_read_can_be_removed_for_it() {
    let mut site = Site::started(2).await.unwrap();
    disk(&site).await;
    site.node(0).detach(DISK).await.unwrap();
    let empty = site.audit();
    site.node(1).attach_snapshot(DISK, &snapshot()).await.unwrap();
    let lost = site.node(1).name.clone();
    site.node(1).host.crash();
    site.kill(1);
    let one = site.node(0);
    assert_eq!(read(one).await, b"first");
    assert_eq!(kind(one.delete(DISK).await), ErrorKind::InUse);
    let cx = one.san().cx(Deadline::after(Duration::from_secs(9)), OperationId::random());
    assert_eq!(one.san().remove_readers_of(&cx, &lost).await.unwrap(), 1);
    assert_eq!(one.san().remove_readers_of(&cx, &lost).await.unwrap(), 0);
    assert_eq!((readers(&site), read(one).await), (1, b"first".to_vec()));
    one.detach_snapshot(DISK, &snapshot()).await.unwrap();
    let left = site.audit().against(&empty);
    assert!(left.0.iter().all(|it| it.contains("node2")), "{left}");
    one.delete(DISK).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn whatever_the_array_says_nothing_is_left_over() {
    let site = Site::started(1).await.unwrap();
    disk(&site).await;
    let node = site.node(0);
    let before = site.audit();
    assert_eq!(kind(node.attach_snapshot(DISK, &"nothing".parse().unwrap()).await), ErrorKind::NotFound);
    assert_eq!(kind(node.attach_snapshot("vm-100-disk-9", &snapshot()).await), ErrorKind::NotFound);
    let message = "not enough space".to_owned();
    let full = Fault::Answer { status: 409, code: 917_505, message, retry_after: None };
    for (method, path, fault, expected) in [
        ("POST", LUNS, full, ErrorKind::OutOfSpace),
        ("POST", "/protocols/san/lun-maps", answer(403, 6), ErrorKind::PermissionDenied),
    ] {
        inject(&site.array, method, path, Times::Always, fault);
        assert_eq!(kind(node.attach_snapshot(DISK, &snapshot()).await), expected);
        site.array.clear_faults();
        assert_unchanged(&site, &before);
    }
    inject(&site.array, "POST", LUNS, Times::Count(1), Fault::LoseAnswer);
    let mark = site.array.mark();
    assert_eq!(read(node).await, b"first");
    assert_eq!(readers(&site), 1);
    assert_eq!(changes(&site.array, mark).len(), 2, "what was made is found");
    for path in ["/storage/luns", "/protocols/san/lun-maps/{lun.uuid}/{igroup.uuid}"] {
        inject(&site.array, "DELETE", path, Times::Count(1), Fault::LoseAnswer);
    }
    node.detach_snapshot(DISK, &snapshot()).await.unwrap();
    assert_unchanged(&site, &before);
}

/// As PVE clones from a snapshot: it attaches it first, and never detaches it.
#[tokio::test(start_paused = true)]
async fn a_linked_clone_of_a_snapshot_that_is_read_is_made_and_has_no_reader() {
    let site = Site::started(1).await.unwrap();
    let before = site.audit();
    disk(&site).await;
    let node = site.node(0);
    assert_eq!(read(node).await, b"first");
    let later = "later".parse().unwrap();
    node.snapshot(DISK, &later).await.unwrap();
    for (snapshot, bytes) in [(snapshot(), b"first"), (later, b"other")] {
        let naming = Naming::Exact("vm-101-disk-0".to_owned());
        let clone = Request::Clone { source: DISK.to_owned(), snapshot: Some(snapshot), naming };
        assert!(matches!(node.call(clone).await.unwrap(), Outcome::Created { .. }));
        let path = node.attach("vm-101-disk-0").await.unwrap();
        assert_eq!(node.read(&path, 0, 5).await.unwrap(), bytes);
        assert_eq!(readers(&site), 1);
        node.detach("vm-101-disk-0").await.unwrap();
        node.delete("vm-101-disk-0").await.unwrap();
        site.array.purge_recovery_queue().unwrap();
    }
    remove(&site).await;
    assert_unchanged(&site, &before);
}
