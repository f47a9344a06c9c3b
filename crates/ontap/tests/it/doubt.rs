//! What a verb says where it cannot know: nobody may take it for "nothing happened", or for a name that is a stranger's.

use std::time::Duration;

use san_contract::array::ArrayFixture as _;
use san_core::{
    Array, DeleteMode, EffectState, Error, ErrorKind, NameCodec, NameRules, Owner, RecoveryQueue,
    SnapshotName, SnapshotSet, Volume, VolumeKey, VolumeQuery,
};
use san_sim::ontap::{Fault, Rule, Times, When};

use crate::fixture::{Fixture, NEW, cx, cx_for, spec};

const VOLUMES: &str = "/storage/volumes";
const VOLUME: &str = "/storage/volumes/{uuid}";
const LUNS: &str = "/storage/luns";
const SNAPSHOTS: &str = "/storage/volumes/{volume.uuid}/snapshots";

fn name() -> SnapshotName {
    "one".parse().unwrap()
}

fn set(volume: &Volume) -> SnapshotSet {
    SnapshotSet { volumes: vec![volume.clone()], name: name() }
}

fn answer(status: u16, code: u64) -> Fault {
    Fault::Answer { status, code, message: "simulated".into(), retry_after: None }
}

/// Everything that can keep a look from being had.
fn blindness() -> [Fault; 5] {
    [
        answer(500, 999_999),
        answer(503, 1),
        Fault::Unauthorized,
        Fault::Truncated,
        Fault::PartialPage { records: 0 },
    ]
}

/// Refused credentials are not tried again for a minute.
async fn mend(it: &Fixture) {
    it.sim.clear_faults();
    tokio::time::sleep(Duration::from_secs(61)).await;
}

#[track_caller]
fn assert_unknown(error: &Error) {
    assert_eq!(error.effect(), EffectState::Unknown, "{error:?}");
}

/// The change was carried out, its answer is lost, and nobody can look: that is not "nothing happened".
#[tokio::test(start_paused = true)]
async fn a_lost_answer_without_a_look_may_have_been_a_success() {
    for blind in blindness() {
        let it = Fixture::new(NEW).await;
        let volume = it.made("vm-100-disk-0").await;
        it.inject("POST", SNAPSHOTS, Fault::LoseAnswer);
        it.inject_times("GET", SNAPSHOTS, blind.clone(), Times::Always);
        let error = it.array.snapshot(&cx(), &set(&volume)).await.unwrap_err();
        assert_unknown(&error);
        mend(&it).await;
        let taken = it.array.snapshots(&cx(), &volume).await.unwrap();
        assert_eq!(taken.len(), 1, "{blind:?}");
    }
}

/// Something between us and the array answered with a 4xx of its own.
#[tokio::test(start_paused = true)]
async fn a_refusal_nobody_can_read_proves_nothing() {
    let it = Fixture::new(NEW).await;
    let volume = it.made("vm-100-disk-0").await;
    it.inject_times("POST", SNAPSHOTS, answer(400, 1), Times::Always);
    it.inject_times("POST", SNAPSHOTS, Fault::Garbage, Times::Always);
    let error = it.array.snapshot(&cx(), &set(&volume)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    assert_unknown(&error);
}

/// The error inside a list that was broken off is about the collecting, not about room for whoever asked.
#[tokio::test(start_paused = true)]
async fn a_list_that_was_broken_off_passes_whatever_its_code() {
    let it = Fixture::new(NEW).await;
    it.made("vm-100-disk-0").await;
    it.inject("GET", VOLUMES, Fault::PartialPage { records: 0 });
    let all = VolumeQuery { prefix: "sb__pve__san1__".into() };
    let error = it.array.volumes(&cx(), &all).await.unwrap_err();
    assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, EffectState::None), "{error:?}");
    assert!(error.chain().to_string().contains("524479"), "{}", error.chain());
}

/// A change begun anew at the last moment would come into being after whoever undoes it has looked.
#[tokio::test(start_paused = true)]
async fn no_change_is_begun_anew_shortly_before_the_deadline() {
    for (seconds, attempts) in [(20, 2), (4, 1)] {
        let it = Fixture::new(NEW).await;
        let volume = it.made("vm-100-disk-0").await;
        it.inject("POST", SNAPSHOTS, Fault::ResetBefore);
        let mark = it.sim.mark();
        let result = it.array.snapshot(&cx_for(Duration::from_secs(seconds)), &set(&volume)).await;
        let sent = it.sim.requests(mark).into_iter().filter(|it| it.method == "POST").count();
        assert_eq!(sent, attempts, "{result:?}");
        match result {
            Ok(_) => assert_eq!(attempts, 2),
            Err(error) => assert_unknown(&error),
        }
    }
}

/// The name is taken, and whose it is cannot be seen: it may be ours, of an attempt whose answer was lost.
#[tokio::test(start_paused = true)]
async fn a_name_that_may_be_ours_is_not_called_a_strangers() {
    for (path, blind) in [VOLUMES, LUNS].into_iter().flat_map(|path| blindness().map(|it| (path, it))) {
        let it = Fixture::new(NEW).await;
        let spec = spec("vm-100-disk-0");
        it.array.ensure_volume(&cx(), &spec).await.unwrap();
        it.inject_times("GET", path, blind.clone(), Times::Always);
        let error = it.array.ensure_volume(&cx(), &spec).await.unwrap_err();
        assert_ne!(error.kind(), ErrorKind::AlreadyExists, "{path} {blind:?}: {error:?}");
        assert_unknown(&error);
        mend(&it).await;
        assert!(!it.array.ensure_volume(&cx(), &spec).await.unwrap().changed());
    }
}

/// A volume that has left the recovery queue and has not got its name back is nowhere for its owner.
#[tokio::test(start_paused = true)]
async fn half_of_an_undelete_is_not_nothing_and_can_be_ended() {
    for (method, path) in [("GET", VOLUMES), ("PATCH", VOLUME)] {
        for blind in [answer(500, 999_999), Fault::Unauthorized, Fault::Refuse] {
            let it = Fixture::new(NEW).await;
            let volume = it.made("vm-100-disk-0").await;
            it.write(&volume, b"first").await;
            it.array.ensure_no_volume(&cx(), &volume, DeleteMode::Recoverable).await.unwrap();
            let all = VolumeQuery { prefix: "sb__pve__san1__".into() };
            let deleted = it.array.deleted(&cx(), &all).await.unwrap().remove(0);
            let owner = Owner::new("pve", "san1", "vm-100-disk-0").unwrap();
            // The first look is before it leaves the queue.
            let skip = u32::from(method == "GET");
            let when = When {
                method: Some(method.into()),
                path: Some(path.into()),
                skip,
                times: Times::Always,
                ..Default::default()
            };
            it.sim.inject(Rule { when, fault: blind.clone() });
            let error = it.array.ensure_recovered(&cx(), &deleted, &owner).await.unwrap_err();
            assert_unknown(&error);
            mend(&it).await;
            it.array.ensure_recovered(&cx(), &deleted, &owner).await.unwrap();
            let codec = NameCodec::new(NameRules { max: 203 }).unwrap();
            let key = VolumeKey::Name(codec.encode(&owner).unwrap());
            let back = it.array.volume(&cx(), &key).await.unwrap().unwrap();
            assert_eq!(it.read(&back, 5).await, b"first", "{method} {blind:?}");
        }
    }
}
