//! An array in trouble: full, at its limits, busy, silent, slow, forgetful. Typed errors, and everything as before.

use std::path::PathBuf;
use std::time::Duration;

use san_core::{ByteSize, Effects, ErrorKind};
use san_engine::{Naming, Outcome, Request, Tie};
use san_sim::ontap::{Fault, Limits, Times, Version};
use san_sim::server::ApiState;
use sanbridge_tests::faults::{Often, Selection, Trouble, run};
use sanbridge_tests::findings::Findings;
use sanbridge_tests::matrix::Progress;
use sanbridge_tests::operation::Row;
use sanbridge_tests::site::{SVM, Site};
use tokio::time::Instant;

use crate::support::{DISK, GROWN, SIZE, answer, assert_unchanged, changes, inject, snapshot};

const VOLUMES: &str = "/storage/volumes";
const LUNS: &str = "/storage/luns";
const MAPS: &str = "/protocols/san/lun-maps";

async fn limited(change: impl FnOnce(&mut Limits)) -> Site {
    let mut site = Site::with(2, Version::new(9, 16, 1), |it| change(&mut it.limits)).unwrap();
    for index in 0..2 {
        site.start(index, Effects::unobserved()).await.unwrap();
    }
    site
}

fn numbered() -> Request {
    Request::Create { naming: Naming::Numbered { stem: "vm-100-disk-".to_owned() }, size: SIZE }
}

#[tokio::test(start_paused = true)]
async fn a_full_array_says_so_and_nothing_is_left() {
    let site = Site::started(1).await.unwrap();
    let node = site.node(0);
    let before = site.audit();
    site.array.set_aggregate_free("aggr1", 0).unwrap();
    let error = node.create(DISK, SIZE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfSpace, "{error:?}");
    assert!(error.remedy().is_some(), "{error:?}");
    assert_unchanged(&site, &before);
    site.array.set_aggregate_free("aggr1", 1 << 40).unwrap();
    // The array takes the volume and refuses the LUN in it.
    let no_room = "Not enough space to create the LUN".to_owned();
    let full = Fault::Answer { status: 409, code: 917_505, message: no_room, retry_after: None };
    inject(&site.array, "POST", LUNS, Times::Count(1), full);
    let error = node.create(DISK, SIZE).await.unwrap_err();
    assert!(!error.is_passing(), "{error:?}");
    assert_unchanged(&site, &before);
    node.create(DISK, SIZE).await.unwrap();
    node.delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn a_volume_limit_is_named_and_nothing_is_left() {
    let site = limited(|it| it.volumes_per_svm = 3).await;
    let node = site.node(0);
    let mut made = 0;
    let (before, error) = loop {
        let before = site.audit();
        match node.call(numbered()).await {
            Ok(_) => made += 1,
            Err(error) => break (before, error),
        }
        assert!(made < 4, "the limit was never reached");
    };
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error:?}");
    assert!(error.remedy().is_some(), "{error:?}");
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_mappings_is_named_and_nothing_is_left() {
    let site = limited(|it| it.maps_per_igroup = 1).await;
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    node.create("vm-100-disk-1", SIZE).await.unwrap();
    node.attach(DISK).await.unwrap();
    let before = site.audit();
    let error = node.attach("vm-100-disk-1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error:?}");
    assert_unchanged(&site, &before);
    // The other node has room.
    site.node(1).attach("vm-100-disk-1").await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_limit_of_snapshots_is_named_and_nothing_is_left() {
    let site = limited(|it| it.snapshots_per_volume = 1).await;
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    node.snapshot(DISK, &snapshot()).await.unwrap();
    let before = site.audit();
    let error = node.snapshot(DISK, &"second".parse().unwrap()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::LimitReached, "{error:?}");
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn a_name_taken_by_a_stranger_is_refused_or_passed_over() {
    let site = Site::started(1).await.unwrap();
    let node = site.node(0);
    // What our first two names are on the array.
    let mut taken = Vec::new();
    for number in 0..2 {
        node.create(&format!("vm-100-disk-{number}"), SIZE).await.unwrap();
        let ours = |it: &san_sim::ontap::VolumeInfo| it.name.starts_with("sb") && !it.deleted;
        taken.push(site.array.volumes().into_iter().find(ours).unwrap().name);
        node.delete(&format!("vm-100-disk-{number}")).await.unwrap();
    }
    for (at, name) in taken.iter().enumerate() {
        site.array.add_volume(SVM, name, 1 << 30, "made by hand").unwrap();
        if at == 0 {
            site.array.add_lun(SVM, &format!("/vol/{name}/lun0"), 1 << 20, "").unwrap();
        }
    }
    let before = site.audit();
    let mark = site.array.mark();
    let error = node.create(DISK, SIZE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{error:?}");
    assert_unchanged(&site, &before);
    let made = node.call(numbered()).await.unwrap();
    assert_eq!(made, Outcome::Created { object: "vm-100-disk-2".to_owned(), size: SIZE, template: None });
    // The strangers are not deleted, attached, grown, snapshotted or rolled back either.
    assert!(node.attach(DISK).await.is_err());
    assert!(node.grow(DISK, GROWN).await.is_err());
    assert!(node.snapshot(DISK, &snapshot()).await.is_err());
    assert!(node.roll_back(DISK, &snapshot()).await.is_err());
    assert!(node.delete(DISK).await.is_err());
    node.delete("vm-100-disk-2").await.unwrap();
    assert_unchanged(&site, &before);
    let touched = changes(&site.array, mark).into_iter().filter(|it| it.method != "POST");
    assert_eq!(touched.count(), 1, "one delete, of our own volume");
}

#[tokio::test(start_paused = true)]
async fn a_busy_snapshot_stays_and_says_why() {
    let site = Site::started(1).await.unwrap();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    node.snapshot(DISK, &snapshot()).await.unwrap();
    let before = site.audit();
    let rule = inject(&site.array, "DELETE", "", Times::Always, answer(400, 1_638_543));
    let error = node.delete_snapshot(DISK, &snapshot()).await.unwrap_err();
    assert!(site.array.strikes(rule) > 0);
    assert_eq!(error.kind(), ErrorKind::Busy, "{error:?}");
    assert!(error.remedy().is_some(), "{error:?}");
    assert_unchanged(&site, &before);
    site.array.clear_faults();
    node.delete_snapshot(DISK, &snapshot()).await.unwrap();
}

/// A guest's disk on node 1, attached and open.
async fn attached(site: &Site) -> PathBuf {
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    site.guests.place(DISK, &node.name, Tie::Configured);
    let path = node.attach(DISK).await.unwrap();
    node.write(&path, 0, b"before").await.unwrap();
    path
}

#[tokio::test(start_paused = true)]
async fn while_the_management_is_down_attached_disks_work() {
    for state in [ApiState::Refusing, ApiState::BlackHole] {
        let site = Site::started(2).await.unwrap();
        let before = site.audit();
        let node = site.node(0);
        let path = attached(&site).await;
        let held = site.audit();
        node.san().refresh_status(&node.san().cx(deadline(30), id())).await.unwrap();
        site.array.set_api(state);
        tokio::time::sleep(Duration::from_secs(90)).await;
        // The poll is answered from memory, with its age.
        let (_, age) = node.san().status().capacity.unwrap();
        assert!(age >= Duration::from_secs(90), "{age:?}");
        let refreshed = node.san().refresh_status(&node.san().cx(deadline(30), id())).await;
        assert!(refreshed.unwrap_err().is_passing());
        assert!(node.san().status().problem.is_some() && node.san().status().capacity.is_some());
        // I/O, and attaching again what is attached.
        node.write(&path, 0, b"during").await.unwrap();
        let began = Instant::now();
        assert_eq!(node.attach(DISK).await.unwrap(), path);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
        // Whatever needs the array fails in time and changes nothing.
        let began = Instant::now();
        let error = node.create("vm-100-disk-1", SIZE).await.unwrap_err();
        assert!(error.is_passing(), "{error:?}");
        let error = site.node(1).attach(DISK).await.unwrap_err();
        assert!(error.is_passing(), "{error:?}");
        assert!(began.elapsed() < Duration::from_secs(115), "{:?}", began.elapsed());
        assert_eq!(node.read(&path, 0, 6).await.unwrap(), b"during");
        // When it answers again everything comes to an end by itself.
        site.array.set_api(ApiState::Up);
        tokio::time::sleep(Duration::from_secs(300)).await;
        for index in 0..2 {
            assert_eq!(site.node(index).san().take_up_open().await.unwrap(), 0);
        }
        assert_unchanged(&site, &held);
        node.detach(DISK).await.unwrap();
        node.delete(DISK).await.unwrap();
        assert_unchanged(&site, &before);
    }
}

fn deadline(seconds: u64) -> san_core::Deadline {
    san_core::Deadline::after(Duration::from_secs(seconds))
}

fn id() -> san_core::OperationId {
    san_core::OperationId::random()
}

#[tokio::test(start_paused = true)]
async fn a_rebooted_node_starts_its_guest_without_the_management() {
    for state in [ApiState::Refusing, ApiState::BlackHole] {
        let mut site = Site::started(2).await.unwrap();
        let before = site.audit();
        let path = attached(&site).await;
        // The engine knows the array from its last profile, as the daemon does.
        let array = std::sync::Arc::new(site.connect(Effects::unobserved()).await.unwrap());
        site.kill(0);
        site.node(0).host.crash();
        site.node(0).host.boot();
        site.array.set_api(state);
        site.start_with(0, Effects::unobserved(), array).await.unwrap();
        let node = site.node(0);
        assert!(node.read(&path, 0, 6).await.is_err(), "nothing is there after a reboot");
        let again = node.attach(DISK).await.unwrap();
        assert_eq!(node.read(&again, 0, 6).await.unwrap(), b"before");
        site.array.set_api(ApiState::Up);
        node.detach(DISK).await.unwrap();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(node.san().take_up_open().await.unwrap(), 0);
        node.delete(DISK).await.unwrap();
        assert_unchanged(&site, &before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_guest_stops_without_the_management_and_starts_here_again() {
    for state in [ApiState::Refusing, ApiState::BlackHole] {
        let site = Site::started(2).await.unwrap();
        let before = site.audit();
        let node = site.node(0);
        let path = attached(&site).await;
        site.array.set_api(state);
        let began = Instant::now();
        let outcome = node.detach(DISK).await.unwrap();
        assert!(matches!(outcome, Outcome::Detached { pending: Some(_) }), "{outcome:?}");
        assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
        assert!(node.write(&path, 0, b"late").await.is_err(), "nobody here writes to it any more");
        let again = node.attach(DISK).await.unwrap();
        assert_eq!(node.read(&again, 0, 6).await.unwrap(), b"before");
        node.write(&again, 0, b"after!").await.unwrap();
        // And once more, now ended by the array's return.
        node.detach(DISK).await.unwrap();
        site.array.set_api(ApiState::Up);
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(node.san().take_up_open().await.unwrap(), 0);
        assert_eq!(site.array.maps(), [], "the mapping went by itself");
        let there = site.node(1).attach(DISK).await.unwrap();
        assert_eq!(site.node(1).read(&there, 0, 6).await.unwrap(), b"after!");
        site.node(1).detach(DISK).await.unwrap();
        site.node(1).delete(DISK).await.unwrap();
        assert_unchanged(&site, &before);
    }
}

/// The whole life of a disk.
async fn live(site: &Site) -> san_core::Result<()> {
    let node = site.node(0);
    node.create(DISK, SIZE).await?;
    let path = node.attach(DISK).await?;
    node.write(&path, 0, b"first").await?;
    node.snapshot(DISK, &snapshot()).await?;
    node.write(&path, 0, b"other").await?;
    node.grow(DISK, GROWN).await?;
    node.roll_back(DISK, &snapshot()).await?;
    let path = node.attach(DISK).await?;
    assert_eq!(node.read(&path, 0, 5).await?, b"first");
    node.delete_snapshot(DISK, &snapshot()).await?;
    node.detach(DISK).await?;
    node.delete(DISK).await?;
    Ok(())
}

#[tokio::test(start_paused = true)]
async fn passing_troubles_of_every_request_are_survived() {
    let troubles = [
        Fault::Answer { status: 503, code: 1, message: "busy".to_owned(), retry_after: Some(2) },
        Fault::Answer { status: 429, code: 1, message: "slow down".to_owned(), retry_after: Some(1) },
        Fault::Refuse,
        Fault::ResetBefore,
        Fault::LoseAnswer,
        Fault::Delay(Duration::from_secs(8)),
    ];
    for trouble in troubles {
        for skip in [0, 1, 3, 5, 8, 12] {
            let site = Site::started(1).await.unwrap();
            let before = site.audit();
            let when = san_sim::ontap::When { skip, ..Default::default() };
            let rule = site.array.inject(san_sim::ontap::Rule { when, fault: trouble.clone() });
            live(&site).await.unwrap_or_else(|error| panic!("{trouble:?} after {skip}: {error:?}"));
            assert_eq!(site.array.strikes(rule), 1, "{trouble:?} after {skip}");
            assert_unchanged(&site, &before);
        }
    }
}

/// The account is locked for a while, at whatever point: an error, nothing stuck, and everything ends when it is mended.
#[tokio::test(start_paused = true)]
async fn refused_credentials_leave_nothing_and_nothing_stuck() {
    for skip in [0, 1, 2, 4, 5, 7, 9, 11, 13] {
        let site = Site::started(1).await.unwrap();
        let before = site.audit();
        let when = san_sim::ontap::When { skip, times: Times::Always, ..Default::default() };
        site.array.inject(san_sim::ontap::Rule { when, fault: Fault::Unauthorized });
        let error = live(&site).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unauthenticated, "after {skip}: {error:?}");
        assert!(error.remedy().is_some(), "{error:?}");
        site.array.clear_faults();
        tokio::time::sleep(Duration::from_secs(300)).await;
        let node = site.node(0);
        assert_eq!(node.san().take_up_open().await.unwrap(), 0, "after {skip}");
        node.detach(DISK).await.unwrap();
        node.delete(DISK).await.unwrap();
        assert_unchanged(&site, &before);
    }
}

#[tokio::test(start_paused = true)]
async fn every_lost_answer_to_a_change_is_resolved_by_looking() {
    for method in ["POST", "PATCH", "DELETE"] {
        for skip in 0.. {
            let site = Site::started(1).await.unwrap();
            let before = site.audit();
            let when = san_sim::ontap::When { method: Some(method.to_owned()), skip, ..Default::default() };
            let rule = site.array.inject(san_sim::ontap::Rule { when, fault: Fault::LoseAnswer });
            live(&site).await.unwrap_or_else(|error| panic!("{method} {skip}: {error:?}"));
            assert_unchanged(&site, &before);
            if site.array.strikes(rule) == 0 {
                assert!(skip > 0, "{method} was never lost");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn jobs_that_fail_vanish_or_never_end_leave_nothing() {
    let failed = Fault::JobFails { code: 917_505, message: "no room".to_owned() };
    for (fault, ends_well) in [(failed, false), (Fault::JobVanishes, true), (Fault::JobNeverEnds, false)] {
        let mut site =
            Site::with(1, Version::new(9, 16, 1), |it| it.pace.job = Duration::from_secs(20)).unwrap();
        site.start(0, Effects::unobserved()).await.unwrap();
        let before = site.audit();
        let node = site.node(0);
        inject(&site.array, "POST", VOLUMES, Times::Count(1), fault.clone());
        let began = Instant::now();
        let made = node.create(DISK, SIZE).await;
        assert!(began.elapsed() < Duration::from_secs(60), "{fault:?}: {:?}", began.elapsed());
        match made {
            Ok(_) => node.delete(DISK).await.map(drop).unwrap(),
            Err(error) => assert!(!ends_well, "{fault:?}: {error:?}"),
        }
        site.array.clear_faults();
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(node.san().take_up_open().await.unwrap(), 0, "{fault:?}");
        assert_unchanged(&site, &before);
        // A job that never ends keeps its name for itself, and nothing else.
        let next = if fault == Fault::JobNeverEnds { "vm-100-disk-1" } else { DISK };
        node.create(next, SIZE).await.unwrap_or_else(|error| panic!("after {fault:?}: {error:?}"));
        node.delete(next).await.unwrap();
        assert_unchanged(&site, &before);
    }
}

#[tokio::test(start_paused = true)]
async fn lists_that_lag_behind_confuse_nobody() {
    for path in [VOLUMES, LUNS, MAPS] {
        let site = Site::started(2).await.unwrap();
        let before = site.audit();
        inject(&site.array, "POST", path, Times::Count(1), Fault::Lag { reads: 2 });
        let node = site.node(0);
        node.create(DISK, SIZE).await.unwrap();
        // The same name again is refused although the array does not show it yet.
        let error = node.create(DISK, SIZE).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AlreadyExists, "{path}: {error:?}");
        node.attach(DISK).await.unwrap();
        node.detach(DISK).await.unwrap();
        node.delete(DISK).await.unwrap();
        assert_unchanged(&site, &before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_cannot_be_read_to_its_end_is_an_error() {
    let site = Site::started(1).await.unwrap();
    let node = site.node(0);
    for number in 0..5 {
        node.create(&format!("vm-100-disk-{number}"), ByteSize::from_mib(8)).await.unwrap();
    }
    let list = || async { node.san().disks(&node.san().cx(deadline(30), id())).await };
    assert_eq!(list().await.unwrap().len(), 5);
    for fault in [Fault::PartialPage { records: 2 }, Fault::Truncated, Fault::Garbage] {
        let rule = inject(&site.array, "GET", VOLUMES, Times::Always, fault.clone());
        assert!(list().await.is_err(), "{fault:?}");
        site.array.clear_fault(rule);
    }
    let rule = inject(&site.array, "GET", VOLUMES, Times::Count(1), Fault::ShortPage { records: 2 });
    assert_eq!(list().await.unwrap().len(), 5);
    site.array.clear_fault(rule);
    inject(&site.array, "GET", VOLUMES, Times::Count(1), Fault::ShortPage { records: 2 });
    inject(&site.array, "GET", VOLUMES, Times::Count(1), Fault::BrokenNext);
    assert!(list().await.is_err(), "a broken next link");
    site.array.clear_faults();
    assert_eq!(list().await.unwrap().len(), 5);
}

/// PVE has written down that a disk is a template, and asked for a new one only once: an outage of seconds is waited out,
/// before anything is begun and in the middle of it.
#[tokio::test(start_paused = true)]
async fn an_outage_of_seconds_fails_nothing_that_cannot_be_asked_for_twice() {
    let template = "base-100-disk-0";
    let requests = || {
        let naming = Naming::Exact(template.to_owned());
        [numbered(), Request::Template { object: DISK.to_owned(), naming }]
    };
    let site = Site::started(1).await.unwrap();
    let before = site.audit();
    let node = site.node(0);
    for state in [ApiState::Refusing, ApiState::BlackHole] {
        for request in requests() {
            site.array.set_api(state);
            let up = async {
                tokio::time::sleep(Duration::from_secs(4)).await;
                site.array.set_api(ApiState::Up);
            };
            let (done, ()) = tokio::join!(node.call(request.clone()), up);
            done.unwrap_or_else(|error| panic!("{state:?} {request:?}: {error:?}"));
        }
        node.delete(template).await.unwrap();
    }
    for fault in [Fault::ResetBefore, Fault::LoseAnswer, answer(503, 0)] {
        let places = [("POST", VOLUMES), ("PATCH", "/storage/volumes/{uuid}")];
        for (request, (method, path)) in requests().into_iter().zip(places) {
            inject(&site.array, method, path, Times::Count(2), fault.clone());
            let mark = site.array.mark();
            let done = node.call(request.clone()).await;
            done.unwrap_or_else(|error| panic!("{fault:?} {request:?}: {error:?}"));
            let sent = changes(&site.array, mark).iter().filter(|it| it.method == method).count();
            // Where only the answer was lost a look shows that it is done.
            assert!(sent > 1 || fault == Fault::LoseAnswer, "{fault:?} {request:?}: it was not struck");
        }
        node.delete(template).await.unwrap();
    }
    assert_unchanged(&site, &before);
}

/// The longest part of a caller's time that one request without an answer may cost.
#[tokio::test(start_paused = true)]
async fn a_request_that_is_never_answered_leaves_time_for_another() {
    let site = Site::started(1).await.unwrap();
    let before = site.audit();
    inject(&site.array, "POST", VOLUMES, Times::Count(1), Fault::Hang);
    let start = Instant::now();
    site.node(0).create(DISK, SIZE).await.unwrap();
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
    site.node(0).delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

/// Everything that can happen to a request, at every request of every operation; `cargo xtask faults` shows it.
#[test]
fn the_fault_matrix_has_no_hole() {
    let selection = Selection {
        operations: Row::all_that_ask(),
        troubles: Trouble::all().to_vec(),
        often: Often::all().to_vec(),
        step: None,
    };
    let matrix = run(&selection, &Progress::Silent).unwrap();
    assert!(matrix.is_good(), "{}", matrix.to_text());
}
