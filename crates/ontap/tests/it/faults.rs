//! What becomes of each verb when the array or the road to it misbehaves.

use std::time::Duration;

use san_contract::array::ArrayFixture as _;
use san_core::{
    Array, ByteSize, DeleteMode, EffectState, Error, ErrorKind, HostSpec, Initiator, ReaderSpec,
    SnapshotName, SnapshotSet, Volume, VolumeKey, VolumeQuery,
};
use san_sim::ontap::{EmptyQuery, Fault, MappedDelete, Rule, Times, When};
use tokio::time::Instant;

use crate::fixture::{Fixture, NEW, OLD, SIZE, SVM, cx, cx_for, host_spec, lun_choice, spec};

const VOLUMES: &str = "/storage/volumes";
const VOLUME: &str = "/storage/volumes/{uuid}";
const LUNS: &str = "/storage/luns";
const LUN: &str = "/storage/luns/{uuid}";
const SNAPSHOTS: &str = "/storage/volumes/{volume.uuid}/snapshots";
const IGROUPS: &str = "/protocols/san/igroups";
const INITIATORS: &str = "/protocols/san/igroups/{igroup.uuid}/initiators";
const MAPS: &str = "/protocols/san/lun-maps";
const MAP: &str = "/protocols/san/lun-maps/{lun.uuid}/{igroup.uuid}";

fn name() -> SnapshotName {
    "one".parse().unwrap()
}

fn set(volume: &Volume) -> SnapshotSet {
    SnapshotSet { volumes: vec![volume.clone()], name: name() }
}

fn query() -> VolumeQuery {
    VolumeQuery { prefix: "sb__pve__san1__".into() }
}

fn answer(status: u16, code: u64, message: &str) -> Fault {
    Fault::Answer { status, code, message: message.into(), retry_after: None }
}

#[track_caller]
fn assert_error(error: &Error, kind: ErrorKind, effect: EffectState) {
    assert_eq!((error.kind(), error.effect()), (kind, effect), "{error:?}");
}

/// The life of a disk, with `fault` striking every changing request once. All of it must come out as without the fault.
async fn life_with(fault: &Fault) {
    for version in [OLD, NEW] {
        life_on(&Fixture::new(version).await, fault).await;
    }
}

async fn life_on(it: &Fixture, fault: &Fault) {
    let changes = [
        ("POST", VOLUMES),
        ("POST", LUNS),
        ("POST", IGROUPS),
        ("POST", INITIATORS),
        ("POST", MAPS),
        ("PATCH", VOLUME),
        ("PATCH", LUN),
        ("POST", SNAPSHOTS),
        ("DELETE", SNAPSHOTS),
        ("DELETE", MAP),
        ("DELETE", VOLUME),
    ];
    for (method, path) in changes {
        it.inject(method, path, fault.clone());
    }
    let array = &it.array;
    let made = array.ensure_volume(&cx(), &spec("vm-100-disk-0")).await.unwrap();
    assert!(made.changed());
    let volume = made.into_inner();
    let host = array.ensure_host(&cx(), &host_spec()).await.unwrap();
    assert!(host.changed());
    let host = host.into_inner();
    let mut two = host_spec();
    two.initiators.push(Initiator::Iscsi("iqn.2010-10.org.example:node1-b".parse().unwrap()));
    array.ensure_host(&cx(), &two).await.unwrap();
    let mapping = array.ensure_mapped(&cx(), &volume, &host, &lun_choice(&[3])).await.unwrap();
    assert!(mapping.changed());
    assert_eq!(array.resize(&cx(), &volume, SIZE.times(2)).await.unwrap(), SIZE.times(2));
    it.write(&volume, b"first").await;
    assert_eq!(array.snapshot(&cx(), &set(&volume)).await.unwrap().len(), 1);
    it.write(&volume, b"after").await;
    it.inject("POST", LUNS, fault.clone());
    let of = ReaderSpec { node: "node1".parse().unwrap(), snapshot: name() };
    let reader = array.ensure_reader(&cx(), &volume, &of).await.unwrap().into_inner();
    assert_eq!(it.read(&reader, 5).await, b"first");
    it.inject("DELETE", LUNS, fault.clone());
    assert!(array.ensure_no_reader(&cx(), &reader.id).await.unwrap());
    assert!(array.ensure_unmapped(&cx(), &volume.id, &host.id).await.unwrap());
    it.inject("PATCH", LUNS, fault.clone());
    array.rollback(&cx(), &volume, &name()).await.unwrap();
    assert_eq!(it.read(&volume, 5).await, b"first");
    assert!(array.ensure_no_snapshot(&cx(), &volume, &name()).await.unwrap());
    assert!(array.ensure_no_volume(&cx(), &volume, DeleteMode::Immediate).await.unwrap());
    assert!(it.sim.volumes().iter().all(|it| !it.comment.contains("sanbridge")));
    assert!(it.sim.maps().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_resolved_by_looking() {
    life_with(&Fault::LoseAnswer).await;
}

#[tokio::test(start_paused = true)]
async fn a_request_lost_on_its_way_is_sent_again() {
    life_with(&Fault::ResetBefore).await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_is_tried_again() {
    life_with(&Fault::Refuse).await;
}

#[tokio::test]
async fn the_same_holds_over_a_real_connection() {
    for fault in [Fault::LoseAnswer, Fault::ResetBefore, Fault::Truncated] {
        life_on(&Fixture::over_https(NEW).await, &fault).await;
    }
}

#[tokio::test]
async fn an_idle_connection_that_was_closed_is_no_failure() {
    let it = Fixture::over_https(NEW).await;
    for number in 0..3 {
        it.server.as_ref().unwrap().cut_connections();
        it.made(&format!("vm-100-disk-{number}")).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_answer_is_resolved_by_looking() {
    for fault in [Fault::Garbage, Fault::Truncated, Fault::Huge { bytes: 2 << 20 }] {
        let it = Fixture::new(NEW).await;
        for (method, path) in [("POST", VOLUMES), ("POST", LUNS), ("POST", SNAPSHOTS), ("DELETE", VOLUME)] {
            it.inject(method, path, fault.clone());
        }
        let volume = it.made("vm-100-disk-0").await;
        it.array.snapshot(&cx(), &set(&volume)).await.unwrap();
        assert!(it.array.ensure_no_volume(&cx(), &volume, DeleteMode::Immediate).await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn overload_is_waited_out() {
    for status in [429, 503] {
        let fault = Fault::Answer { status, code: 8, message: "busy".into(), retry_after: Some(3) };
        let start = Instant::now();
        life_with(&fault).await;
        assert!(start.elapsed() >= Duration::from_secs(3));
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_vanishes_is_resolved_by_looking() {
    let it = Fixture::with(NEW, |it| it.pace.job = Duration::from_secs(200)).await;
    it.inject("POST", VOLUMES, Fault::JobVanishes);
    let made =
        it.array.ensure_volume(&cx_for(Duration::from_secs(600)), &spec("vm-100-disk-0")).await.unwrap();
    assert!(made.changed());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_outlasts_the_request_is_polled() {
    let it = Fixture::with(NEW, |it| it.pace.job = Duration::from_secs(200)).await;
    let mark = it.sim.mark();
    let cx = || cx_for(Duration::from_secs(600));
    let volume = it.array.ensure_volume(&cx(), &spec("vm-100-disk-0")).await.unwrap().into_inner();
    let polls = it.sim.requests(mark).iter().filter(|it| it.template == "/cluster/jobs/{uuid}").count();
    assert!((1..100).contains(&polls), "{polls}");
    it.array.snapshot(&cx(), &set(&volume)).await.unwrap();
    assert!(it.array.ensure_no_snapshot(&cx(), &volume, &name()).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_fails_is_a_typed_error() {
    let it = Fixture::with(NEW, |it| it.pace.job = Duration::from_secs(200)).await;
    let fails = |code: u64, message: &str| Fault::JobFails { code, message: message.into() };
    let cx = || cx_for(Duration::from_secs(600));
    it.inject("POST", VOLUMES, fails(99, "not enough space in aggregate \"aggr1\""));
    let error = it.array.ensure_volume(&cx(), &spec("vm-100-disk-0")).await.unwrap_err();
    assert_error(&error, ErrorKind::OutOfSpace, EffectState::None);
    let volume = it.array.ensure_volume(&cx(), &spec("vm-100-disk-0")).await.unwrap().into_inner();
    it.inject("DELETE", VOLUME, fails(524_615, "it has clones"));
    let error = it.array.ensure_no_volume(&cx(), &volume, DeleteMode::Recoverable).await.unwrap_err();
    assert_error(&error, ErrorKind::Busy, EffectState::None);
    assert!(error.remedy().unwrap().contains("clones"));
}

#[tokio::test(start_paused = true)]
async fn what_never_ends_ends_at_the_deadline() {
    for fault in [Fault::JobNeverEnds, Fault::Hang] {
        let it = Fixture::new(NEW).await;
        it.inject_times("POST", VOLUMES, fault, Times::Always);
        let start = Instant::now();
        let error =
            it.array.ensure_volume(&cx_for(Duration::from_secs(55)), &spec("vm-1-disk-0")).await.unwrap_err();
        assert_error(&error, ErrorKind::Timeout, EffectState::Unknown);
        assert!(start.elapsed() <= Duration::from_secs(55));
    }
}

#[tokio::test(start_paused = true)]
async fn a_list_that_is_cut_is_an_error_and_never_a_shorter_list() {
    let it = Fixture::new(NEW).await;
    for number in 0..5 {
        it.made(&format!("vm-100-disk-{number}")).await;
    }
    for path in [VOLUMES, LUNS] {
        for fault in [Fault::PartialPage { records: 2 }, Fault::Garbage, Fault::Truncated] {
            it.sim.clear_faults();
            it.inject_times("GET", path, fault.clone(), Times::Always);
            let error = it.array.volumes(&cx(), &query()).await.unwrap_err();
            assert_eq!(error.effect(), EffectState::None, "{fault:?}: {error:?}");
        }
        it.sim.clear_faults();
        it.inject_times("GET", path, Fault::ShortPage { records: 2 }, Times::Always);
        assert_eq!(it.array.volumes(&cx(), &query()).await.unwrap().len(), 5);
        it.inject("GET", path, Fault::BrokenNext);
        assert!(it.array.volumes(&cx(), &query()).await.is_err());
    }
    it.sim.clear_faults();
    it.inject("GET", VOLUMES, Fault::Huge { bytes: 65 << 20 });
    let error = it.array.volumes(&cx(), &query()).await.unwrap_err();
    assert_error(&error, ErrorKind::Protocol, EffectState::None);
}

#[tokio::test(start_paused = true)]
async fn lists_that_lag_are_looked_at_again() {
    let it = Fixture::new(NEW).await;
    // The FlexVol is missing from the first list, its LUN is not: the list is read again.
    it.inject("POST", VOLUMES, Fault::Lag { reads: 1 });
    it.made("vm-100-disk-0").await;
    assert_eq!(it.array.volumes(&cx(), &query()).await.unwrap().len(), 1);
    // The LUN is missing: it is asked for before its volume is called half-made.
    it.inject("POST", LUNS, Fault::Lag { reads: 1 });
    it.made("vm-100-disk-1").await;
    let all = it.array.volumes(&cx(), &query()).await.unwrap();
    assert!(all.len() == 2 && all.iter().all(|it| it.identity.is_some()), "{all:?}");
}

#[tokio::test(start_paused = true)]
async fn a_volume_that_lags_behind_its_job_is_found() {
    let it = Fixture::with(NEW, |it| it.pace.job = Duration::from_secs(200)).await;
    it.inject("POST", VOLUMES, Fault::Lag { reads: 2 });
    it.array.ensure_volume(&cx_for(Duration::from_secs(600)), &spec("vm-100-disk-0")).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_aggregate_is_told_and_leaves_nothing() {
    let it = Fixture::new(NEW).await;
    it.sim.set_aggregate_free("aggr1", 0).unwrap();
    let error = it.array.ensure_volume(&cx(), &spec("vm-100-disk-0")).await.unwrap_err();
    assert_error(&error, ErrorKind::OutOfSpace, EffectState::None);
    assert_eq!(it.array.volumes(&cx(), &query()).await.unwrap(), Vec::new());
    assert_eq!(it.array.capacity(&cx()).await.unwrap().available, ByteSize::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_failure_between_volume_and_lun_leaves_a_half_made_volume_of_ours() {
    let it = Fixture::new(NEW).await;
    let spec = spec("vm-100-disk-0");
    it.inject("POST", LUNS, answer(400, 5_374_124, "too small"));
    let error = it.array.ensure_volume(&cx(), &spec).await.unwrap_err();
    assert_error(&error, ErrorKind::InvalidInput, EffectState::None);
    let half = it.array.volume(&cx(), &VolumeKey::Name(spec.name.clone())).await.unwrap().unwrap();
    assert!(half.identity.is_none());
    assert!(it.array.ensure_no_volume(&cx(), &half, DeleteMode::Immediate).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn limits_of_the_array_are_told() {
    let it = Fixture::with(NEW, |it| it.limits.snapshots_per_volume = 1).await;
    let volume = it.made("vm-100-disk-0").await;
    it.array.snapshot(&cx(), &set(&volume)).await.unwrap();
    let more = SnapshotSet { volumes: vec![volume], name: "two".parse().unwrap() };
    let error = it.array.snapshot(&cx(), &more).await.unwrap_err();
    assert_error(&error, ErrorKind::LimitReached, EffectState::None);
    assert!(error.remedy().is_some());
    it.inject("POST", VOLUMES, answer(409, 99, "The maximum number of volumes is reached"));
    let error = it.array.ensure_volume(&cx(), &spec("vm-100-disk-1")).await.unwrap_err();
    assert_error(&error, ErrorKind::LimitReached, EffectState::None);
}

#[tokio::test(start_paused = true)]
async fn a_busy_snapshot_names_who_uses_it() {
    let it = Fixture::with(NEW, |it| it.unverified.lun_clone_pins_snapshot = Duration::from_secs(60)).await;
    let volume = it.made("vm-100-disk-0").await;
    it.array.snapshot(&cx(), &set(&volume)).await.unwrap();
    it.array.rollback(&cx(), &volume, &name()).await.unwrap();
    let error = it.array.ensure_no_snapshot(&cx(), &volume, &name()).await.unwrap_err();
    assert_error(&error, ErrorKind::Busy, EffectState::None);
    assert!(error.chain().to_string().contains("LUN clone"), "{}", error.chain());
    tokio::time::advance(Duration::from_secs(61)).await;
    assert!(it.array.ensure_no_snapshot(&cx(), &volume, &name()).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn either_reading_of_what_is_not_documented_is_served() {
    let it = Fixture::with(OLD, |it| {
        it.unverified.empty_query = EmptyQuery::NotFound;
        it.unverified.lun_number_in_use_code = 7_777_777;
        it.unverified.no_space_code = 7_777_778;
        it.unverified.delete_volume_with_maps = MappedDelete::Refused;
    })
    .await;
    let (first, second) = (it.made("vm-100-disk-0").await, it.made("vm-100-disk-1").await);
    assert!(!it.array.ensure_no_snapshot(&cx(), &first, &name()).await.unwrap());
    let host = it.host().await;
    it.array.ensure_mapped(&cx(), &first, &host, &lun_choice(&[1])).await.unwrap();
    let mapping = it.array.ensure_mapped(&cx(), &second, &host, &lun_choice(&[1, 2])).await.unwrap();
    assert_eq!(mapping.into_inner().lun.number(), 2);
    it.sim.set_aggregate_free("aggr1", 0).unwrap();
    let error = it.array.ensure_volume(&cx(), &spec("vm-100-disk-2")).await.unwrap_err();
    assert_error(&error, ErrorKind::OutOfSpace, EffectState::None);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_password_is_not_tried_again_and_again() {
    let it = Fixture::new(NEW).await;
    it.sim.set_password(&"another".into());
    let mark = it.sim.mark();
    for _ in 0..5 {
        let error = it.array.capacity(&cx()).await.unwrap_err();
        assert_error(&error, ErrorKind::Unauthenticated, EffectState::None);
    }
    assert_eq!(it.sim.requests(mark).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_missing_privilege_is_told() {
    let it = Fixture::new(NEW).await;
    it.inject("POST", VOLUMES, answer(403, 6, "not authorized for that command"));
    let error = it.array.ensure_volume(&cx(), &spec("vm-100-disk-0")).await.unwrap_err();
    assert_error(&error, ErrorKind::PermissionDenied, EffectState::None);
    assert!(error.remedy().unwrap().contains("role"));
}

#[tokio::test(start_paused = true)]
async fn an_igroup_of_our_name_that_is_not_ours_is_refused() {
    let it = Fixture::new(NEW).await;
    it.sim.add_igroup(SVM, "sb_pve_node1", &[]).unwrap();
    let error = it.array.ensure_host(&cx(), &host_spec()).await.unwrap_err();
    assert_error(&error, ErrorKind::Conflict, EffectState::None);
    let nobody = HostSpec { initiators: Vec::new(), ..host_spec() };
    assert_error(
        &it.array.ensure_host(&cx(), &nobody).await.unwrap_err(),
        ErrorKind::InvalidInput,
        EffectState::None,
    );
}

#[tokio::test(start_paused = true)]
async fn a_damaged_mark_hides_nothing_and_frees_nothing() {
    let it = Fixture::new(NEW).await;
    it.made("vm-100-disk-0").await;
    let damaged = spec("vm-100-disk-1");
    it.sim.add_volume(SVM, damaged.name.as_str(), 1 << 30, r#"{"sanbridge":{"v":9}}"#).unwrap();
    let all = it.array.volumes(&cx(), &query()).await.unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(all.iter().filter(|it| it.mark == san_core::Marked::Unmarked).count(), 1);
    let error = it.array.ensure_volume(&cx(), &damaged).await.unwrap_err();
    assert_error(&error, ErrorKind::AlreadyExists, EffectState::None);
}

#[tokio::test(start_paused = true)]
async fn an_attach_without_a_look_asks_for_the_reporting_nodes() {
    let it = Fixture::new(NEW).await;
    let volume = it.made("vm-100-disk-0").await;
    let host = it.host().await;
    // Another process: it has the profile and the volume's key, and has looked at nothing.
    let profile = it.array.profile().clone();
    let fresh = san_ontap::Ontap::from_profile(
        crate::fixture::client(&it.sim),
        crate::fixture::ontap_config(),
        profile,
    );
    let mapping =
        fresh.unwrap().ensure_mapped(&cx(), &volume, &host, &lun_choice(&[1])).await.unwrap().into_inner();
    assert_eq!(mapping.ports.len(), 4);
    assert_eq!(it.array.mapping(&cx(), &volume, &host).await.unwrap(), Some(mapping));
}

#[tokio::test(start_paused = true)]
async fn only_the_portals_of_the_reporting_nodes_serve_a_volume() {
    let it = Fixture::with(NEW, |it| {
        it.nodes = (1..=4).map(|number| format!("n{number}")).collect();
        it.svms[0].portals.iter_mut().zip([0, 1, 2, 3]).for_each(|(portal, node)| portal.node = node);
    })
    .await;
    let volume = it.made("vm-100-disk-0").await;
    let host = it.host().await;
    let mapping =
        it.array.ensure_mapped(&cx(), &volume, &host, &lun_choice(&[1])).await.unwrap().into_inner();
    let nodes: Vec<_> = mapping.ports.iter().filter_map(|it| it.node()).collect();
    assert_eq!(nodes, ["n1", "n2"]);
    let when =
        When { method: Some("GET".into()), path: Some("/network/ip/interfaces".into()), ..When::default() };
    it.sim.inject(Rule { when, fault: answer(500, 1, "broken") });
    assert_eq!(
        it.array.mapping(&cx(), &volume, &host).await.unwrap(),
        Some(mapping),
        "ports are not asked for again"
    );
}

/// A release that takes no condition, or does not say how much it changed, is asked first and told then.
#[tokio::test(start_paused = true)]
async fn a_roll_back_without_the_arrays_condition_looks_first() {
    for code in [262_179, 262_197] {
        let it = Fixture::new(NEW).await;
        let volume = it.made("vm-100-disk-0").await;
        it.write(&volume, b"first").await;
        it.array.snapshot(&cx(), &set(&volume)).await.unwrap();
        it.write(&volume, b"after").await;
        it.inject_times("PATCH", LUNS, answer(400, code, "Unexpected argument"), Times::Always);
        let host = it.host().await;
        it.array.ensure_mapped(&cx(), &volume, &host, &lun_choice(&[3])).await.unwrap();
        let error = it.array.rollback(&cx(), &volume, &name()).await.unwrap_err();
        assert_error(&error, ErrorKind::InUse, EffectState::None);
        it.array.ensure_unmapped(&cx(), &volume.id, &host.id).await.unwrap();
        it.array.rollback(&cx(), &volume, &name()).await.unwrap();
        assert_eq!(it.read(&volume, 5).await, b"first");
    }
}

/// Which code says "no such object" differs by release and operation. Each is an absence, and each is proved.
#[tokio::test(start_paused = true)]
async fn every_documented_code_for_absence_is_one() {
    for code in [4, 5_374_875, 5_374_876] {
        let it = Fixture::new(NEW).await;
        let volume = it.made("vm-100-disk-0").await;
        assert!(it.array.ensure_no_volume(&cx(), &volume, DeleteMode::Immediate).await.unwrap());
        it.inject("GET", LUN, answer(404, code, "not found"));
        assert_eq!(it.array.volume(&cx(), &VolumeKey::Id(volume.id.clone())).await.unwrap(), None, "{code}");
    }
    for code in [4, 5_374_922, 5_374_875, 5_374_878] {
        let it = Fixture::new(NEW).await;
        let volume = it.made("vm-100-disk-0").await;
        let host = it.host().await;
        it.inject("DELETE", MAP, answer(404, code, "not found"));
        assert!(!it.array.ensure_unmapped(&cx(), &volume.id, &host.id).await.unwrap(), "{code}");
    }
}

/// A code that says that a part was done is no proof that nothing happened.
#[tokio::test(start_paused = true)]
async fn half_done_is_not_nothing() {
    let it = Fixture::new(NEW).await;
    let volume = it.made("vm-100-disk-0").await;
    it.array.snapshot(&cx(), &set(&volume)).await.unwrap();
    for code in [5_374_864, 5_374_885] {
        it.inject_times(
            "PATCH",
            LUNS,
            answer(400, code, "error after successfully overwriting"),
            Times::Count(2),
        );
        let error = it.array.rollback(&cx(), &volume, &name()).await.unwrap_err();
        assert_error(&error, ErrorKind::Internal, EffectState::Unknown);
    }
}

/// An attempt whose answer was lost may have done it: what the repetition is told does not change that.
#[tokio::test(start_paused = true)]
async fn a_refused_repetition_proves_nothing_about_the_first_attempt() {
    let it = Fixture::new(NEW).await;
    let volume = it.made("vm-100-disk-0").await;
    it.write(&volume, b"first").await;
    it.array.snapshot(&cx(), &set(&volume)).await.unwrap();
    it.write(&volume, b"after").await;
    it.inject("PATCH", LUNS, Fault::LoseAnswer);
    let skipped = When {
        method: Some("PATCH".into()),
        path: Some(LUNS.into()),
        skip: 1,
        times: Times::Always,
        ..When::default()
    };
    it.sim.inject(Rule { when: skipped, fault: answer(409, 8, "busy") });
    let error = it.array.rollback(&cx(), &volume, &name()).await.unwrap_err();
    assert_eq!(error.effect(), EffectState::Unknown, "{error:?}");
    assert_eq!(it.read(&volume, 5).await, b"first");
}

/// A server that has failed says nothing about what is there, whatever code it gives.
#[tokio::test(start_paused = true)]
async fn a_failed_server_never_says_that_something_is_gone() {
    let it = Fixture::new(NEW).await;
    let volume = it.made("vm-100-disk-0").await;
    let host = it.array.ensure_host(&cx(), &host_spec()).await.unwrap().into_inner();
    it.array.ensure_mapped(&cx(), &volume, &host, &lun_choice(&[3])).await.unwrap();
    let when = |method: &str, path: &str| When {
        method: Some(method.into()),
        path: Some(path.into()),
        times: Times::Always,
        ..When::default()
    };
    for code in 1..=4 {
        it.sim.inject(Rule { when: when("DELETE", MAP), fault: answer(500, code, "entry doesn't exist") });
        let error = it.array.ensure_unmapped(&cx(), &volume.id, &host.id).await.unwrap_err();
        assert_error(&error, ErrorKind::Internal, EffectState::Unknown);
        assert!(error.chain().to_string().contains(&format!("ONTAP says {code}")), "{error:?}");
        assert_eq!(it.sim.maps().len(), 1);
        it.sim.clear_faults();
    }
    assert!(it.array.ensure_unmapped(&cx(), &volume.id, &host.id).await.unwrap());
    assert_eq!(it.sim.maps(), []);
}

/// A creation whose job fails for a reason no table knows ends with that reason, at once.
#[tokio::test(start_paused = true)]
async fn a_failed_creation_says_why() {
    let it = Fixture::new(NEW).await;
    let fault = Fault::JobFails { code: 460_770, message: "the aggregate is in an odd state".into() };
    it.inject("POST", VOLUMES, fault);
    let start = tokio::time::Instant::now();
    let error = it.array.ensure_volume(&cx(), &spec("vm-100-disk-0")).await.unwrap_err();
    assert!(error.chain().to_string().contains("odd state"), "{}", error.chain());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}
