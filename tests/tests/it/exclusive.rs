//! One writer at a time: a dead node loses its mapping before the disk is handed out, a migration keeps both, strangers
//! are named and left alone.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use san_core::{Effect, EffectObserver, Effects, ErrorKind, Result};
use san_engine::{Outcome, Request, Tie};
use san_sim::server::ApiState;
use sanbridge_tests::site::{SVM, Site};

use crate::support::{DISK, GROWN, SIZE, assert_unchanged, snapshot};

/// Node 1 has the disk attached and written to, its guest configured there.
async fn attached_on_one(site: &Site) -> PathBuf {
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    node.snapshot(DISK, &snapshot()).await.unwrap();
    site.guests.place(DISK, &node.name, Tie::Configured);
    let path = node.attach(DISK).await.unwrap();
    node.write(&path, 0, b"first").await.unwrap();
    path
}

async fn attach_with_warnings(site: &Site, index: usize) -> Result<(PathBuf, Vec<String>)> {
    match site.node(index).call(Request::Attach { object: DISK.to_owned() }).await? {
        Outcome::Attached { path, warnings, .. } => Ok((path, warnings)),
        other => panic!("attach ended with {other:?}"),
    }
}

/// Whether the host can still change the disk: what it writes does not have to end in time.
async fn can_write(site: &Site, index: usize, path: &std::path::Path) -> bool {
    let write = site.node(index).host.write_at(path, 4096, b"stale");
    matches!(tokio::time::timeout(Duration::from_secs(30), write).await, Ok(Ok(())))
}

fn mapped_hosts(site: &Site) -> usize {
    site.array.maps().iter().filter(|it| it.lun.contains("sb__")).count()
}

/// Notes how many hosts could see the disk whenever the node's links change: when it is handed out.
#[derive(Debug)]
struct AtHandOut {
    array: san_sim::ontap::OntapSim,
    seen: Mutex<Vec<usize>>,
}

#[async_trait]
impl EffectObserver for AtHandOut {
    async fn before(&self, effect: &Effect) -> Result<()> {
        if effect.subject.contains("/dev/sanbridge") || effect.verb.contains("map") {
            let mapped = self.array.maps().iter().filter(|it| it.lun.contains("sb__")).count();
            self.seen.lock().unwrap().push(mapped);
        }
        Ok(())
    }

    async fn after(&self, _: &Effect) -> Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_nodes_mapping_is_gone_before_the_disk_is_handed_out() {
    let mut site = Site::started(2).await.unwrap();
    let before = site.audit();
    let stale = attached_on_one(&site).await;
    // Its daemon is dead, its guest runs on: fencing failed, or somebody started the guest by hand.
    site.kill(0);
    assert!(can_write(&site, 0, &stale).await);
    let watcher = Arc::new(AtHandOut { array: site.array.clone(), seen: Mutex::default() });
    site.kill(1);
    site.start(1, Effects::observed(Arc::clone(&watcher) as _)).await.unwrap();
    site.guests.place(DISK, &site.node(1).name, Tie::Configured);
    let path = site.node(1).attach(DISK).await.unwrap();
    let seen = watcher.seen.lock().unwrap().clone();
    assert!(!seen.is_empty() && seen.iter().all(|it| *it <= 1), "hosts that saw it: {seen:?}");
    assert_eq!(mapped_hosts(&site), 1);
    site.node(1).write(&path, 4096, b"fresh").await.unwrap();
    assert!(!can_write(&site, 0, &stale).await, "the dead node's writes no longer arrive");
    assert_eq!(site.node(1).read(&path, 4096, 5).await.unwrap(), b"fresh");
    // It comes back, its guest is gone by then, and takes away what is left there.
    assert_eq!(site.start(0, Effects::unobserved()).await.unwrap(), 0);
    site.node(0).detach(DISK).await.unwrap();
    assert_eq!(site.node(1).read(&path, 4096, 5).await.unwrap(), b"fresh");
    site.node(1).write(&path, 4096, b"still").await.unwrap();
    site.node(1).detach(DISK).await.unwrap();
    site.node(1).delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn the_target_of_a_migration_takes_nothing_from_its_source() {
    let site = Site::started(2).await.unwrap();
    let before = site.audit();
    let path = attached_on_one(&site).await;
    // The guest's configuration still lies on the source.
    site.node(1).attach(DISK).await.unwrap();
    assert_eq!(mapped_hosts(&site), 2);
    assert!(can_write(&site, 0, &path).await, "the source goes on");
    // It fails, and the target is cleaned up.
    site.node(1).detach(DISK).await.unwrap();
    assert!(can_write(&site, 0, &path).await);
    // It succeeds: the configuration moves, then the source lets go.
    site.node(1).attach(DISK).await.unwrap();
    site.guests.place(DISK, &site.node(1).name, Tie::Configured);
    site.node(0).detach(DISK).await.unwrap();
    assert_eq!(site.node(1).read(&path, 0, 5).await.unwrap(), b"first");
    assert_eq!(mapped_hosts(&site), 1);
    site.node(1).detach(DISK).await.unwrap();
    site.node(1).delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

/// The source died after the configuration had moved: activating again on the target ends its mapping.
#[tokio::test(start_paused = true)]
async fn a_source_that_died_in_a_migration_loses_its_mapping_at_the_next_activation() {
    let mut site = Site::started(2).await.unwrap();
    let stale = attached_on_one(&site).await;
    site.node(1).attach(DISK).await.unwrap();
    site.kill(0);
    site.guests.place(DISK, &site.node(1).name, Tie::Configured);
    let path = site.node(1).attach(DISK).await.unwrap();
    assert_eq!(mapped_hosts(&site), 1);
    assert!(!can_write(&site, 0, &stale).await);
    site.node(1).write(&path, 4096, b"fresh").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_guest_nobody_knows_takes_nothing_from_anybody() {
    let site = Site::started(2).await.unwrap();
    let path = attached_on_one(&site).await;
    site.guests.remove(DISK);
    site.node(1).attach(DISK).await.unwrap();
    assert_eq!(mapped_hosts(&site), 2);
    assert!(can_write(&site, 0, &path).await);
}

#[tokio::test(start_paused = true)]
async fn a_strangers_mapping_is_named_and_left_alone() {
    let site = Site::started(2).await.unwrap();
    let path = attached_on_one(&site).await;
    site.node(0).detach(DISK).await.unwrap();
    let lun = site.array.luns().into_iter().find(|it| it.path.contains("sb__")).unwrap().path;
    site.array.add_map(SVM, &lun, "foreign_hosts", Some(7)).unwrap();
    let held = site.audit();
    let (again, warnings) = attach_with_warnings(&site, 0).await.unwrap();
    assert_eq!(again, path);
    assert!(warnings.iter().any(|it| it.contains("foreign_hosts")), "{warnings:?}");
    assert_eq!(mapped_hosts(&site), 2);
    site.node(0).detach(DISK).await.unwrap();
    assert_unchanged(&site, &held);
    // Nor is a disk deleted that somebody else may be using.
    let error = site.node(0).delete(DISK).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error:?}");
    assert!(format!("{error:?}").contains("foreign_hosts") && error.remedy().is_some(), "{error:?}");
    assert_unchanged(&site, &held);
}

/// What would pull the disk from under another node is refused with that node's name, from every other node.
#[tokio::test(start_paused = true)]
async fn deletion_and_rollback_are_refused_while_another_node_has_it() {
    let mut site = Site::started(3).await.unwrap();
    let path = attached_on_one(&site).await;
    let _guest = site.node(0).host.open(&path).unwrap();
    for alive in [true, false] {
        if !alive {
            site.kill(0);
        }
        for index in 1..3 {
            let held = site.audit();
            let node = site.node(index);
            for error in [node.delete(DISK).await, node.roll_back(DISK, &snapshot()).await] {
                let error = error.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::InUse, "{error:?}");
                assert!(format!("{error:?}").contains("node1") && error.remedy().is_some(), "{error:?}");
            }
            assert_unchanged(&site, &held);
            assert_eq!(site.node(0).read(&path, 0, 5).await.unwrap(), b"first");
        }
    }
    // Growing and snapshots harm nobody.
    site.node(1).grow(DISK, GROWN).await.unwrap();
    site.node(2).snapshot(DISK, &"second".parse().unwrap()).await.unwrap();
    site.node(2).delete_snapshot(DISK, &"second".parse().unwrap()).await.unwrap();
}

/// A mapping that no record tells of, as after a restored cluster file system, still protects the bytes under it.
#[tokio::test(start_paused = true)]
async fn a_mapping_nobody_noted_counts_as_well() {
    let mut site = Site::started(2).await.unwrap();
    let path = attached_on_one(&site).await;
    let guest = site.node(0).host.open(&path).unwrap();
    std::fs::remove_dir_all(site.cluster_folder().join("volumes")).unwrap();
    for error in [site.node(1).delete(DISK).await, site.node(1).roll_back(DISK, &snapshot()).await] {
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse, "{error:?}");
        assert!(format!("{error:?}").contains("node1"), "{error:?}");
    }
    assert_eq!(site.node(0).read(&path, 0, 5).await.unwrap(), b"first");
    drop(guest);
    site.kill(0);
    site.guests.place(DISK, &site.node(1).name, Tie::Configured);
    site.node(1).attach(DISK).await.unwrap();
    assert_eq!(mapped_hosts(&site), 1, "exclusive attach asks the array, not only its notes");
    assert!(!can_write(&site, 0, &path).await);
}

/// What a node still holds after it lost its mapping disturbs none of its later operations.
#[tokio::test(start_paused = true)]
async fn a_node_that_lost_its_mapping_works_on_without_its_old_device() {
    let site = Site::started(2).await.unwrap();
    let before = site.audit();
    let path = attached_on_one(&site).await;
    site.guests.place(DISK, &site.node(1).name, Tie::Configured);
    site.node(1).attach(DISK).await.unwrap();
    let second = "second".parse().unwrap();
    let began = tokio::time::Instant::now();
    site.node(0).snapshot(DISK, &second).await.unwrap();
    site.node(0).grow(DISK, GROWN).await.unwrap();
    site.node(0).delete_snapshot(DISK, &second).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    site.node(1).write(&path, 0, b"right").await.unwrap();
    // The guest comes back here: the old device gives way to the disk as it is now.
    site.guests.place(DISK, &site.node(0).name, Tie::Configured);
    let path = site.node(0).attach(DISK).await.unwrap();
    assert_eq!(site.node(0).read(&path, 0, 5).await.unwrap(), b"right");
    site.node(0).read(&path, GROWN.bytes() - 512, 512).await.unwrap();
    for index in 0..2 {
        site.node(index).detach(DISK).await.unwrap();
    }
    site.node(0).delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

/// While the array cannot be asked nobody takes a disk over that another node may write to.
#[tokio::test(start_paused = true)]
async fn without_the_array_nothing_is_taken_over() {
    let mut site = Site::started(2).await.unwrap();
    let path = attached_on_one(&site).await;
    // Both have it, as in a migration; then the source dies, the guest is here, and the array is silent.
    site.node(1).attach(DISK).await.unwrap();
    site.kill(0);
    site.guests.place(DISK, &site.node(1).name, Tie::Configured);
    for state in [ApiState::Refusing, ApiState::BlackHole] {
        site.array.set_api(state);
        let error = site.node(1).attach(DISK).await.unwrap_err();
        assert!(error.is_passing(), "{error:?}");
        assert!(can_write(&site, 0, &path).await);
    }
    site.array.set_api(ApiState::Up);
    tokio::time::sleep(Duration::from_secs(30)).await;
    site.node(1).attach(DISK).await.unwrap();
    assert!(!can_write(&site, 0, &path).await);
}

/// Two nodes that both believe the guest is theirs, at the same moment, end with one mapping or an error, never two.
#[tokio::test(start_paused = true)]
async fn of_two_starts_at_once_one_has_the_disk() {
    let site = Site::started(2).await.unwrap();
    site.node(0).create(DISK, SIZE).await.unwrap();
    site.guests.place(DISK, &site.node(0).name, Tie::Configured);
    let (one, _) = tokio::join!(site.node(0).attach(DISK), async {
        // The configuration moves while the first start is under way.
        tokio::time::sleep(Duration::from_millis(20)).await;
        site.guests.place(DISK, &site.node(1).name, Tie::Configured);
        site.node(1).attach(DISK).await.unwrap()
    });
    assert_eq!(mapped_hosts(&site), 1);
    if let Ok(path) = one {
        assert!(!can_write(&site, 0, &path).await, "node 1 has lost it");
    }
}
