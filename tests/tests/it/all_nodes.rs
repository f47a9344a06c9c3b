//! Disks that are mapped once for all nodes: each node can attach them while the array's management is down; and what keeps them
//! safe where the array keeps nobody away.

use std::sync::Arc;
use std::time::Duration;

use san_core::{EffectState, Effects, ErrorKind, Visibility};
use san_engine::{LoggedIn, Naming, Outcome, Request, Tie};
use san_sim::ontap::{MapInfo, OntapSim, Times};
use san_sim::server::ApiState;
use sanbridge_tests::crash::{Side, Stopper};
use sanbridge_tests::site::{SVM, Site};
use tokio::time::Instant;

use crate::support::{DISK, GROWN, SIZE, answer, assert_unchanged, changes, inject, snapshot};

/// The mappings of disks of ours.
fn maps(array: &OntapSim) -> Vec<MapInfo> {
    array.maps().into_iter().filter(|it| it.lun.contains("sb__")).collect()
}

fn number(site: &Site) -> u16 {
    maps(&site.array)[0].number
}

/// One disk, written to on the first node, where its guest lives.
async fn written(site: &Site) {
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    site.guests.place(DISK, &node.name, Tie::Configured);
    let path = node.attach(DISK).await.unwrap();
    node.write(&path, 0, b"before").await.unwrap();
}

async fn warnings_of_attach(site: &Site, index: usize) -> Vec<String> {
    match site.node(index).call(Request::Attach { object: DISK.to_owned() }).await.unwrap() {
        Outcome::Attached { warnings, .. } => warnings,
        other => panic!("attach ended with {other:?}"),
    }
}

async fn release_takes_its_time() {
    tokio::time::sleep(Duration::from_secs(60)).await;
}

/// What one operation asks the array for.
async fn asked<T>(site: &Site, work: impl Future<Output = san_core::Result<T>>) -> usize {
    // Nothing of what was before goes on meanwhile.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let mark = site.array.mark();
    work.await.unwrap();
    site.array.requests(mark).len()
}

/// One mapping more when it is made and ended; none in between, on no node.
#[tokio::test(start_paused = true)]
async fn it_costs_a_request_where_it_is_made_and_spares_one_at_each_attach() {
    let site = Site::started_with(2, Visibility::Shared).await.unwrap();
    let (one, two) = (site.node(0), site.node(1));
    // Warm: sessions, ports and host objects are known.
    one.create("vm-1-disk-0", SIZE).await.unwrap();
    for node in [one, two] {
        node.attach("vm-1-disk-0").await.unwrap();
    }
    assert_eq!(asked(&site, one.create(DISK, SIZE)).await, 3);
    assert_eq!(asked(&site, one.attach(DISK)).await, 1);
    assert_eq!(asked(&site, two.attach(DISK)).await, 1);
    assert_eq!(asked(&site, two.attach(DISK)).await, 0);
    assert_eq!(asked(&site, two.detach(DISK)).await, 0);
    assert_eq!(asked(&site, one.delete(DISK)).await, 3);
}

#[tokio::test(start_paused = true)]
async fn a_disk_is_mapped_once_when_it_is_made_and_until_it_is_deleted() {
    let site = Site::started_with(3, Visibility::Shared).await.unwrap();
    let before = site.audit();
    site.node(0).create(DISK, SIZE).await.unwrap();
    assert_eq!(maps(&site.array).len(), 1);
    let (map, mark) = (maps(&site.array)[0].clone(), site.array.mark());
    assert!(map.igroup.starts_with("sb-all_"), "{map:?}");
    for index in 0..3 {
        let path = site.node(index).attach(DISK).await.unwrap();
        site.node(index).write(&path, u64::try_from(index).unwrap() * 4096, b"here").await.unwrap();
    }
    for index in 0..3 {
        let path = site.node(index).attach(DISK).await.unwrap();
        assert_eq!(site.node(index).read(&path, 8192, 4).await.unwrap(), b"here");
        site.node(index).detach(DISK).await.unwrap();
    }
    assert_eq!(maps(&site.array), [map]);
    let changed = changes(&site.array, mark);
    assert!(changed.iter().all(|it| it.path.contains("igroups")), "{changed:?}");
    site.node(2).delete(DISK).await.unwrap();
    assert_eq!(maps(&site.array), []);
    assert_unchanged(&site, &before);
}

/// The very purpose: the management is down, a node dies, and its guest starts on one that never had the disk.
#[tokio::test(start_paused = true)]
async fn a_guest_starts_on_another_node_while_the_management_is_down() {
    for state in [ApiState::Refusing, ApiState::BlackHole] {
        let mut site = Site::started_with(2, Visibility::Shared).await.unwrap();
        let before = site.audit();
        written(&site).await;
        // Its daemon was never asked for a disk, and has been started anew since.
        let array = Arc::new(site.connect(Effects::unobserved()).await.unwrap());
        site.kill(1);
        site.array.set_api(state);
        site.start_with(1, Effects::unobserved(), array).await.unwrap();
        site.kill(0);
        site.node(0).host.crash();
        site.guests.place(DISK, &site.node(1).name, Tie::Configured);
        let began = Instant::now();
        let path = site.node(1).attach(DISK).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        assert_eq!(site.node(1).read(&path, 0, 6).await.unwrap(), b"before");
        site.node(1).write(&path, 0, b"after!").await.unwrap();
        // It stops and starts again there, at once.
        let began = Instant::now();
        assert_eq!(site.node(1).detach(DISK).await.unwrap(), Outcome::Detached { pending: None });
        site.node(1).attach(DISK).await.unwrap();
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        // The management and the first node come back; what that one had is gone with its kernel, and is forgotten.
        site.array.set_api(ApiState::Up);
        release_takes_its_time().await;
        site.node(0).host.boot();
        site.start(0, Effects::unobserved()).await.unwrap();
        assert_eq!(site.node(1).read(&path, 0, 6).await.unwrap(), b"after!");
        site.node(1).detach(DISK).await.unwrap();
        site.node(1).delete(DISK).await.unwrap();
        assert_unchanged(&site, &before);
    }
}

/// A live migration: the target attaches while the source runs; then the source lets go.
#[tokio::test(start_paused = true)]
async fn a_guest_moves_while_the_management_is_down() {
    let site = Site::started_with(2, Visibility::Shared).await.unwrap();
    let before = site.audit();
    written(&site).await;
    site.array.set_api(ApiState::Refusing);
    let there = site.node(1).attach(DISK).await.unwrap();
    site.node(0).write(&there, 0, b"moving").await.unwrap();
    site.guests.place(DISK, &site.node(1).name, Tie::Configured);
    site.node(0).detach(DISK).await.unwrap();
    assert_eq!(site.node(1).read(&there, 0, 6).await.unwrap(), b"moving");
    site.array.set_api(ApiState::Up);
    release_takes_its_time().await;
    site.node(1).detach(DISK).await.unwrap();
    site.node(1).delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

/// The array keeps nobody away, so those who have it are asked.
#[tokio::test(start_paused = true)]
async fn a_disk_in_use_elsewhere_is_not_handed_out_to_its_new_home() {
    for state in [ApiState::Up, ApiState::Refusing] {
        let site = Site::started_with(2, Visibility::Shared).await.unwrap();
        written(&site).await;
        let path = site.node(0).attach(DISK).await.unwrap();
        let guest = site.node(0).host.open(&path).unwrap();
        site.array.set_api(state);
        // Somebody moved its configuration by hand while it runs.
        site.guests.place(DISK, &site.node(1).name, Tie::Configured);
        let held = site.audit();
        let error = site.node(1).attach(DISK).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse, "{error:?}");
        assert!(format!("{error:?}").contains("node1") && error.remedy().is_some(), "{error:?}");
        assert_unchanged(&site, &held);
        // It ends there: the disk comes over by itself.
        drop(guest);
        let there = site.node(1).attach(DISK).await.unwrap();
        assert_eq!(site.node(1).read(&there, 0, 6).await.unwrap(), b"before");
        assert!(site.node(0).read(&path, 0, 6).await.is_err(), "the first node has let go of it");
    }
}

/// A node that says nothing is passed over with a warning, and its number is given to nobody while it may still use it.
#[tokio::test(start_paused = true)]
async fn a_silent_node_keeps_its_note_and_its_number() {
    let mut site = Site::started_with(2, Visibility::Shared).await.unwrap();
    let before = site.audit();
    written(&site).await;
    site.kill(0);
    site.guests.place(DISK, &site.node(1).name, Tie::Configured);
    let warnings = warnings_of_attach(&site, 1).await;
    assert!(warnings.iter().any(|it| it.contains("node1")), "{warnings:?}");
    site.node(1).detach(DISK).await.unwrap();
    let error = site.node(1).roll_back(DISK, &snapshot()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error:?}");
    // Deleted for everybody, but not unmapped under the silent node's hands.
    let number = number(&site);
    let outcome = site.node(1).delete(DISK).await.unwrap();
    assert!(matches!(outcome, Outcome::Deleting { .. }), "{outcome:?}");
    site.node(1).san().finish_deletions().await.unwrap();
    assert_eq!(maps(&site.array).len(), 1, "its number still means it");
    // The name is free, and the new disk has another number.
    site.node(1).create(DISK, SIZE).await.unwrap();
    let numbers: Vec<u16> = maps(&site.array).iter().map(|it| it.number).collect();
    assert!(numbers.len() == 2 && numbers.iter().filter(|it| **it == number).count() == 1, "{numbers:?}");
    let path = site.node(1).attach(DISK).await.unwrap();
    assert_eq!(site.node(1).read(&path, 0, 6).await.unwrap(), [0; 6]);
    site.node(1).detach(DISK).await.unwrap();
    // The first node comes back and lets go: now the old one goes.
    site.start(0, Effects::unobserved()).await.unwrap();
    for index in [0, 1] {
        let san = site.node(index).san();
        san.drop_stale_attachments().await.unwrap();
        san.let_go_of_deleted().await.unwrap();
    }
    tokio::time::sleep(Duration::from_secs(3600)).await;
    site.node(1).san().finish_deletions().await.unwrap();
    assert_eq!(maps(&site.array).len(), 1);
    site.node(0).delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn what_needs_the_disk_to_be_nowhere_has_it_released() {
    let site = Site::started_with(3, Visibility::Shared).await.unwrap();
    let before = site.audit();
    written(&site).await;
    site.node(0).snapshot(DISK, &snapshot()).await.unwrap();
    site.node(0).detach(DISK).await.unwrap();
    let path = site.node(1).attach(DISK).await.unwrap();
    site.node(1).write(&path, 0, b"newer!").await.unwrap();
    // In use there: nothing happens. Idle: it is released, and nobody sees it while its bytes change.
    let guest = site.node(1).host.open(&path).unwrap();
    let held = site.audit();
    assert_eq!(site.node(2).roll_back(DISK, &snapshot()).await.unwrap_err().kind(), ErrorKind::InUse);
    assert_eq!(site.node(2).delete(DISK).await.unwrap_err().kind(), ErrorKind::InUse);
    assert_unchanged(&site, &held);
    drop(guest);
    site.node(2).roll_back(DISK, &snapshot()).await.unwrap();
    let path = site.node(2).attach(DISK).await.unwrap();
    assert_eq!(site.node(2).read(&path, 0, 6).await.unwrap(), b"before");
    assert_eq!(maps(&site.array).len(), 1);
    // Grown here, seen there.
    site.node(2).grow(DISK, GROWN).await.unwrap();
    let there = site.node(0).attach(DISK).await.unwrap();
    site.node(0).read(&there, GROWN.bytes() - 512, 512).await.unwrap();
    // Renamed from a third node.
    let naming = Naming::Exact("vm-101-disk-7".to_owned());
    site.node(1).call(Request::Rename { object: DISK.to_owned(), naming }).await.unwrap();
    let path = site.node(1).attach("vm-101-disk-7").await.unwrap();
    assert_eq!(site.node(1).read(&path, 0, 6).await.unwrap(), b"before");
    let there = site.node(0).attach("vm-101-disk-7").await.unwrap();
    assert_eq!(site.node(0).read(&there, 0, 6).await.unwrap(), b"before");
    site.node(2).delete("vm-101-disk-7").await.unwrap();
    assert_unchanged(&site, &before);
}

/// A snapshot is read by one node alone, through its own host object, beside what it sees with all others.
#[tokio::test(start_paused = true)]
async fn clones_are_seen_by_all_and_snapshots_by_whoever_reads_them() {
    let site = Site::started_with(2, Visibility::Shared).await.unwrap();
    let before = site.audit();
    written(&site).await;
    site.node(0).snapshot(DISK, &snapshot()).await.unwrap();
    let read = site.node(1).attach_snapshot(DISK, &snapshot()).await.unwrap();
    assert_eq!(site.node(1).read(&read, 0, 6).await.unwrap(), b"before");
    let naming = Naming::Exact("vm-102-disk-0".to_owned());
    let clone = Request::Clone { source: DISK.to_owned(), snapshot: Some(snapshot()), naming };
    site.node(0).call(clone).await.unwrap();
    site.array.set_api(ApiState::Refusing);
    let path = site.node(1).attach("vm-102-disk-0").await.unwrap();
    assert_eq!(site.node(1).read(&path, 0, 6).await.unwrap(), b"before");
    site.array.set_api(ApiState::Up);
    release_takes_its_time().await;
    let numbers: std::collections::BTreeSet<u16> = maps(&site.array).iter().map(|it| it.number).collect();
    assert_eq!((numbers.len(), maps(&site.array).len()), (3, 3));
    site.node(1).detach_snapshot(DISK, &snapshot()).await.unwrap();
    site.node(0).delete("vm-102-disk-0").await.unwrap();
    // Deleted as it is, it holds the snapshot it was made of.
    site.array.purge_recovery_queue().unwrap();
    site.node(0).delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

/// The option changes while disks are there: each follows when it is attached next and nobody else has it.
#[tokio::test(start_paused = true)]
async fn a_disk_follows_the_option_once_nobody_else_has_it() {
    let mut site = Site::started(2).await.unwrap();
    written(&site).await;
    let own = maps(&site.array)[0].igroup.clone();
    let turn = async |site: &mut Site, visibility| {
        site.visibility = visibility;
        for index in 0..2 {
            site.kill(index);
            site.start(index, Effects::unobserved()).await.unwrap();
        }
    };
    turn(&mut site, Visibility::Shared).await;
    // A migration: the source has it for itself still, so the target gets it for itself, too.
    let path = site.node(1).attach(DISK).await.unwrap();
    let igroups = |site: &Site| maps(&site.array).into_iter().map(|it| it.igroup).collect::<Vec<_>>();
    assert_eq!(igroups(&site).len(), 2);
    site.node(0).detach(DISK).await.unwrap();
    assert_eq!(site.node(1).read(&path, 0, 6).await.unwrap(), b"before");
    site.node(1).detach(DISK).await.unwrap();
    site.node(1).attach(DISK).await.unwrap();
    assert!(igroups(&site).len() == 1 && igroups(&site)[0].starts_with("sb-all_"), "{:?}", igroups(&site));
    // And back.
    turn(&mut site, Visibility::PerNode).await;
    site.node(0).attach(DISK).await.unwrap();
    assert!(igroups(&site).len() == 1 && igroups(&site)[0].starts_with("sb-all_"), "{:?}", igroups(&site));
    for index in 0..2 {
        site.node(index).detach(DISK).await.unwrap();
    }
    let path = site.node(0).attach(DISK).await.unwrap();
    assert_eq!(igroups(&site), [own]);
    assert_eq!(site.node(0).read(&path, 0, 6).await.unwrap(), b"before");
    site.node(0).delete(DISK).await.unwrap();
    assert_eq!(maps(&site.array), []);
}

/// What the cluster knew is lost: whoever may have it is asked.
#[tokio::test(start_paused = true)]
async fn without_notes_every_node_is_asked() {
    let site = Site::started_with(2, Visibility::Shared).await.unwrap();
    written(&site).await;
    let path = site.node(0).attach(DISK).await.unwrap();
    let guest = site.node(0).host.open(&path).unwrap();
    std::fs::remove_dir_all(site.cluster_folder().join("volumes")).unwrap();
    let error = site.node(1).delete(DISK).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error:?}");
    assert!(format!("{error:?}").contains("node1"), "{error:?}");
    assert_eq!(site.node(0).read(&path, 0, 6).await.unwrap(), b"before");
    drop(guest);
    assert_eq!(site.node(1).delete(DISK).await.unwrap(), Outcome::Deleted);
    assert_eq!(maps(&site.array), []);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_gone_for_ever_leaves_the_igroup_of_all() {
    let mut site = Site::started_with(2, Visibility::Shared).await.unwrap();
    written(&site).await;
    site.kill(0);
    site.node(0).host.crash();
    let members = |site: &Site| {
        let all = site.array.igroups().into_iter().find(|it| it.name.starts_with("sb-all_")).unwrap();
        all.initiators
    };
    assert_eq!(members(&site).len(), 2);
    let (san, gone) = (site.node(1).san().clone(), site.node(0).name.clone());
    let cx = san.cx(san_core::Deadline::after(Duration::from_secs(60)), san_core::OperationId::random());
    san.forget_node(&cx, &gone, LoggedIn::Refuse).await.unwrap();
    san.forget_host_of(&cx, &gone).await.unwrap();
    let left = members(&site);
    assert!(left.len() == 1 && left[0].contains("node2"), "{left:?}");
    site.guests.place(DISK, &site.node(1).name, Tie::Configured);
    assert_eq!(warnings_of_attach(&site, 1).await, Vec::<String>::new());
    site.node(1).delete(DISK).await.unwrap();
    assert_eq!(maps(&site.array), []);
}

/// Every number is taken: that is said before anything is made.
#[tokio::test(start_paused = true)]
async fn the_last_number_is_named_before_anything_is_made() {
    let site = Site::started_with(1, Visibility::Shared).await.unwrap();
    for number in 0..128 {
        site.node(0).create(&format!("vm-{}-disk-0", 1000 + number), SIZE).await.unwrap();
    }
    let mark = site.array.mark();
    let error = site.node(0).create(DISK, SIZE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error:?}");
    assert!(error.remedy().is_some(), "{error:?}");
    assert_eq!(changes(&site.array, mark), []);
}

/// It is not seen by anybody while its bytes change; where that is refused, the next attach maps it again.
#[tokio::test(start_paused = true)]
async fn a_roll_back_refused_late_says_what_it_did_and_the_next_attach_mends_it() {
    let site = Site::started_with(2, Visibility::Shared).await.unwrap();
    let before = site.audit();
    written(&site).await;
    site.node(0).snapshot(DISK, &snapshot()).await.unwrap();
    site.node(0).detach(DISK).await.unwrap();
    inject(&site.array, "PATCH", "/storage/luns", Times::Always, answer(409, 1_638_461));
    let error = site.node(0).roll_back(DISK, &snapshot()).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Conflict, EffectState::Unknown), "{error:?}");
    assert_eq!(maps(&site.array), []);
    // Nobody goes by a mapping that is not there.
    site.array.clear_faults();
    site.array.set_api(ApiState::Refusing);
    assert!(site.node(1).attach(DISK).await.unwrap_err().is_passing());
    site.array.set_api(ApiState::Up);
    release_takes_its_time().await;
    let path = site.node(1).attach(DISK).await.unwrap();
    assert_eq!(site.node(1).read(&path, 0, 6).await.unwrap(), b"before");
    assert_eq!(maps(&site.array).len(), 1);
    site.node(1).delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

/// A roll back that was cut off goes on only where nobody has begun to use the disk since, and takes nothing from him.
#[tokio::test(start_paused = true)]
async fn a_roll_back_that_was_cut_off_takes_nothing_from_whoever_came_since() {
    for visibility in [Visibility::Shared, Visibility::PerNode] {
        for at in (0..14).step_by(2) {
            let mut site = Site::started_with(2, visibility).await.unwrap();
            written(&site).await;
            site.node(0).snapshot(DISK, &snapshot()).await.unwrap();
            site.kill(0);
            let array = Arc::new(site.connect(Effects::unobserved()).await.unwrap());
            let start = Stopper::new(None);
            site.start_with(0, start.effects(), Arc::clone(&array)).await.unwrap();
            site.kill(0);
            let stopper = Stopper::new(Some((start.passed().len() + at, Side::After)));
            site.start_with(0, stopper.effects(), array).await.unwrap();
            let name = snapshot();
            let cut = {
                let rolling = std::pin::pin!(site.node(0).roll_back(DISK, &name));
                tokio::select! {
                    biased;
                    () = stopper.reached() => true,
                    _ = rolling => false,
                }
            };
            site.kill(0);
            if !cut {
                continue;
            }
            site.expire_leases().unwrap();
            site.guests.place(DISK, &site.node(1).name, Tie::Configured);
            let path = site.node(1).attach(DISK).await.unwrap();
            site.node(1).write(&path, 0, b"since!").await.unwrap();
            let guest = site.node(1).host.open(&path).unwrap();
            site.start(0, Effects::unobserved()).await.unwrap();
            site.node(0).san().take_up_open().await.ok();
            assert_eq!(site.node(1).read(&path, 0, 6).await.unwrap(), b"since!", "{visibility:?} {at}");
            assert_eq!(
                maps(&site.array)
                    .iter()
                    .filter(|it| it.igroup.contains("all") == (visibility == Visibility::Shared))
                    .count(),
                1
            );
            // Nor where he has gone again.
            drop(guest);
            site.node(1).detach(DISK).await.unwrap();
            site.node(0).san().take_up_open().await.ok();
            let path = site.node(1).attach(DISK).await.unwrap();
            assert_eq!(site.node(1).read(&path, 0, 6).await.unwrap(), b"since!", "{visibility:?} {at}");
        }
    }
}

/// Another node is home now: whoever has it already is asked as well, also where its own record says that all is well.
#[tokio::test(start_paused = true)]
async fn a_record_of_ones_own_does_not_spare_the_question() {
    let mut site = Site::started_with(2, Visibility::Shared).await.unwrap();
    written(&site).await;
    let path = site.node(0).attach(DISK).await.unwrap();
    site.kill(0);
    site.guests.place(DISK, &site.node(1).name, Tie::Configured);
    let warnings = warnings_of_attach(&site, 1).await;
    assert!(warnings.iter().any(|it| it.contains("node1")), "{warnings:?}");
    let guest = site.node(1).host.open(&path).unwrap();
    // Its configuration is moved back by hand while it runs there.
    site.start(0, Effects::unobserved()).await.unwrap();
    site.guests.place(DISK, &site.node(0).name, Tie::Configured);
    let error = site.node(0).attach(DISK).await.unwrap_err();
    assert!(error.kind() == ErrorKind::InUse && format!("{error:?}").contains("node2"), "{error:?}");
    drop(guest);
    site.node(0).attach(DISK).await.unwrap();
}

/// The mapping was ended on the array by somebody: those that had it are asked before it is made again.
#[tokio::test(start_paused = true)]
async fn a_mapping_that_is_gone_is_not_made_again_under_others_hands() {
    let site = Site::started_with(2, Visibility::Shared).await.unwrap();
    written(&site).await;
    let path = site.node(0).attach(DISK).await.unwrap();
    let guest = site.node(0).host.open(&path).unwrap();
    let map = maps(&site.array)[0].clone();
    site.array.remove_map(SVM, &map.lun, &map.igroup).unwrap();
    site.guests.place(DISK, &site.node(1).name, Tie::Configured);
    let error = site.node(1).attach(DISK).await.unwrap_err();
    assert!(error.kind() == ErrorKind::InUse && format!("{error:?}").contains("node1"), "{error:?}");
    drop(guest);
    site.node(1).attach(DISK).await.unwrap();
    assert_eq!(maps(&site.array).len(), 1);
}

/// Nobody knows what a node that says nothing has under its own numbers.
#[tokio::test(start_paused = true)]
async fn no_number_of_one_node_is_one_of_all() {
    let site = Site::started_with(2, Visibility::Shared).await.unwrap();
    written(&site).await;
    site.node(0).snapshot(DISK, &snapshot()).await.unwrap();
    site.node(1).attach_snapshot(DISK, &snapshot()).await.unwrap();
    for map in maps(&site.array) {
        assert_eq!(map.number > 127, map.igroup.starts_with("sb-all_"), "{map:?}");
    }
}

/// What was known of it is lost, and the node that has it says nothing: it keeps what it has.
#[tokio::test(start_paused = true)]
async fn without_notes_a_silent_node_keeps_its_disk() {
    let mut site = Site::started_with(2, Visibility::Shared).await.unwrap();
    written(&site).await;
    let path = site.node(0).attach(DISK).await.unwrap();
    site.kill(0);
    std::fs::remove_dir_all(site.cluster_folder().join("volumes")).unwrap();
    let naming = Naming::Exact("vm-101-disk-7".to_owned());
    let error = site.node(1).call(Request::Rename { object: DISK.to_owned(), naming }).await.unwrap_err();
    assert!(error.kind() == ErrorKind::InUse && format!("{error:?}").contains("node1"), "{error:?}");
    site.guests.remove(DISK);
    let outcome = site.node(1).delete(DISK).await.unwrap();
    assert!(matches!(outcome, Outcome::Deleting { .. }), "{outcome:?}");
    tokio::time::sleep(Duration::from_secs(3600)).await;
    site.node(1).san().finish_deletions().await.unwrap();
    assert_eq!(maps(&site.array).len(), 1, "its number still means it");
    assert_eq!(site.node(0).read(&path, 0, 6).await.unwrap(), b"before");
}
