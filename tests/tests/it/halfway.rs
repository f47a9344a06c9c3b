//! Operations that the array refuses when they are half done: what is told of them, and what ends them.

use std::sync::Arc;
use std::time::Duration;

use san_core::{EffectState, Effects, Error, ErrorKind};
use san_engine::{Naming, Outcome, Request};
use san_sim::ontap::{Fault, Rule, Times, When};
use san_sim::server::ApiState;
use sanbridge_tests::crash::{Side, Stopper};
use sanbridge_tests::site::Site;

use crate::support::{DISK, SIZE, answer, assert_unchanged, inject, snapshot, when};

const VOLUMES: &str = "/storage/volumes";
const VOLUME: &str = "/storage/volumes/{uuid}";
const LUNS: &str = "/storage/luns";
const SNAPSHOTS: &str = "/storage/volumes/{volume.uuid}/snapshots";
/// Longer than whatever goes on by itself.
const AFTERWARDS: Duration = Duration::from_secs(300);

/// A site with a disk that holds other bytes than its snapshot.
async fn disk() -> Site {
    let site = Site::started(2).await.unwrap();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let path = node.attach(DISK).await.unwrap();
    node.write(&path, 0, b"before").await.unwrap();
    node.snapshot(DISK, &snapshot()).await.unwrap();
    node.write(&path, 0, b"after ").await.unwrap();
    site
}

/// A refusal that does not pass by itself.
fn forbidden() -> Fault {
    answer(403, 6)
}

/// An administrator knows disks by their names.
#[tokio::test(start_paused = true)]
async fn an_unmapping_that_fails_names_the_disk_and_no_number_of_the_array() {
    let site = disk().await;
    let lun = site.array.luns().into_iter().find(|it| it.path.starts_with("/vol/sb")).unwrap();
    inject(
        &site.array,
        "DELETE",
        "/protocols/san/lun-maps/{lun.uuid}/{igroup.uuid}",
        Times::Always,
        forbidden(),
    );
    let error = site.node(0).delete(DISK).await.unwrap_err();
    let text = error.chain().to_string();
    assert!(text.contains(DISK) && !text.contains(&lun.uuid.to_string()), "{text}");
}

#[track_caller]
fn assert_told(error: &Error, effect: EffectState, about: &str) {
    assert_eq!(error.effect(), effect, "{about}: {error:?}");
}

/// The disk is whole and nowhere attached: that is not what it was.
#[tokio::test(start_paused = true)]
async fn a_deletion_refused_after_the_disk_was_detached_does_not_say_that_nothing_happened() {
    let site = disk().await;
    let node = site.node(0);
    // The second one finds it detached.
    for effect in [EffectState::Unknown, EffectState::None] {
        inject(&site.array, "DELETE", VOLUME, Times::Count(1), forbidden());
        let error = node.delete(DISK).await.unwrap_err();
        assert_told(&error, effect, "delete");
        assert_eq!(node.san().open_operations().await.unwrap().len(), 0);
    }
    let path = node.attach(DISK).await.unwrap();
    assert_eq!(node.read(&path, 0, 6).await.unwrap(), b"after ");
}

/// The note that a disk is about to be overwritten would stop its next user.
#[tokio::test(start_paused = true)]
async fn a_roll_back_that_was_refused_leaves_no_note_and_says_that_the_disk_was_detached() {
    let site = disk().await;
    let node = site.node(0);
    let intention = site.cluster_folder().join("volumes/san1").join(DISK).join("overwrite");
    for effect in [EffectState::Unknown, EffectState::None] {
        let rule = inject(&site.array, "PATCH", LUNS, Times::Always, forbidden());
        let error = node.roll_back(DISK, &snapshot()).await.unwrap_err();
        assert_told(&error, effect, "roll back");
        assert!(site.array.strikes(rule) > 0, "it was never asked for");
        assert!(!intention.try_exists().unwrap(), "the note is there");
        assert_eq!(node.san().open_operations().await.unwrap().len(), 0);
        site.array.clear_faults();
    }
    let path = node.attach(DISK).await.unwrap();
    assert_eq!(node.read(&path, 0, 6).await.unwrap(), b"after ");
}

#[tokio::test(start_paused = true)]
async fn a_refused_deletion_of_a_snapshot_says_whether_its_reader_went() {
    let site = disk().await;
    let node = site.node(0);
    node.attach_snapshot(DISK, &snapshot()).await.unwrap();
    for effect in [EffectState::Unknown, EffectState::None] {
        inject(&site.array, "DELETE", SNAPSHOTS, Times::Count(1), forbidden());
        let error = node.delete_snapshot(DISK, &snapshot()).await.unwrap_err();
        assert_told(&error, effect, "delete a snapshot");
        site.array.clear_faults();
    }
    node.attach_snapshot(DISK, &snapshot()).await.unwrap();
}

/// A volume under our name and id with another serial number is not what is on record: it is renamed for nobody.
#[tokio::test(start_paused = true)]
async fn a_serial_number_that_contradicts_the_record_is_not_taken_over() {
    let site = Site::started(1).await.unwrap();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let before = site.audit();
    let naming = |it: &str| Naming::Exact(it.to_owned());
    let object = DISK.to_owned();
    for request in [
        Request::Rename { object: object.clone(), naming: naming("vm-101-disk-0") },
        Request::Template { object, naming: naming("base-100-disk-0") },
    ] {
        let other = Fault::Alter { member: "serial_number".to_owned(), value: "wOnGserial00".into() };
        inject(&site.array, "GET", LUNS, Times::Always, other);
        let error = node.call(request).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::IdentityMismatch, "{error:?}");
        site.array.clear_faults();
        assert_unchanged(&site, &before);
    }
    // Nor is it on record now.
    node.attach(DISK).await.unwrap();
}

/// The answer of a creation is lost, and so is every look for a while. The name is taken then by nobody else, and there is
/// one disk.
#[tokio::test(start_paused = true)]
async fn a_creation_in_doubt_does_not_go_on_to_the_next_number() {
    for path in [VOLUMES, LUNS] {
        let site = Site::started(1).await.unwrap();
        let before = site.audit();
        let node = site.node(0);
        inject(&site.array, "POST", path, Times::Count(1), Fault::LoseAnswer);
        inject(&site.array, "GET", path, Times::Count(2), Fault::PartialPage { records: 0 });
        let naming = Naming::Numbered { stem: "vm-100-disk-".to_owned() };
        let made = node.call(Request::Create { naming, size: SIZE }).await.unwrap();
        assert!(matches!(&made, Outcome::Created { object, .. } if object == DISK), "{path}: {made:?}");
        node.delete(DISK).await.unwrap();
        assert_unchanged(&site, &before);
    }
}

/// Brought back from the recovery queue and not renamed yet, a disk is nowhere for its owner: that is ended, not forgotten.
#[tokio::test(start_paused = true)]
async fn an_undelete_that_failed_half_way_is_ended() {
    for (method, path, skip) in
        [("GET", VOLUMES, looks_before_it_leaves_the_queue().await), ("PATCH", VOLUME, 0)]
    {
        for trouble in [answer(500, 999_999), Fault::Unauthorized, Fault::Refuse] {
            let site = deleted().await;
            let node = site.node(0);
            let when = When { skip, ..when(method, path, Times::Always) };
            let rule = site.array.inject(Rule { when, fault: trouble.clone() });
            let error = undelete(&site).await.unwrap_err();
            assert_told(&error, EffectState::Unknown, &format!("{method} {trouble:?}"));
            assert!(site.array.strikes(rule) > 0);
            // Longer than any attempt of the operation itself: it stays open meanwhile.
            tokio::time::sleep(AFTERWARDS).await;
            assert_eq!(node.san().open_operations().await.unwrap().len(), 1, "{method} {trouble:?}");
            site.array.clear_faults();
            tokio::time::sleep(AFTERWARDS).await;
            assert_eq!(node.san().take_up_open().await.unwrap(), 0);
            is_back(&site).await;
        }
    }
}

/// The daemon dies between the two halves, and when it is back the array is not.
#[tokio::test(start_paused = true)]
async fn an_undelete_cut_in_half_outlasts_the_arrays_absence() {
    for state in [ApiState::Refusing, ApiState::BlackHole] {
        let mut site = deleted().await;
        let stopper = Stopper::named("POST", Side::After);
        let array = Arc::new(site.connect(stopper.effects()).await.unwrap());
        site.kill(0);
        site.start_with(0, stopper.effects(), array).await.unwrap();
        tokio::select! {
            biased;
            () = stopper.reached() => {}
            done = undelete(&site) => panic!("never reached: {done:?} {:?}", stopper.passed()),
        }
        let array = Arc::new(site.connect(Effects::unobserved()).await.unwrap());
        site.kill(0);
        site.expire_leases().unwrap();
        site.array.set_api(state);
        assert_eq!(site.start_with(0, Effects::unobserved(), array).await.unwrap(), 1, "{state:?}");
        site.array.set_api(ApiState::Up);
        tokio::time::sleep(AFTERWARDS).await;
        assert_eq!(site.node(0).san().take_up_open().await.unwrap(), 0, "{state:?}");
        is_back(&site).await;
    }
}

/// A site whose disk was deleted and lies in the array's recovery queue.
async fn deleted() -> Site {
    let site = Site::started(1).await.unwrap();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let path = node.attach(DISK).await.unwrap();
    node.write(&path, 0, b"before").await.unwrap();
    node.delete(DISK).await.unwrap();
    site
}

async fn undelete(site: &Site) -> san_core::Result<Outcome> {
    site.node(0).call(Request::Undelete { object: DISK.to_owned(), queued: None }).await
}

async fn is_back(site: &Site) {
    let path = site.node(0).attach(DISK).await.unwrap();
    assert_eq!(site.node(0).read(&path, 0, 6).await.unwrap(), b"before");
}

/// How often volumes are looked for until it leaves the queue.
async fn looks_before_it_leaves_the_queue() -> u32 {
    let site = deleted().await;
    let mark = site.array.mark();
    undelete(&site).await.unwrap();
    let sent = site.array.requests(mark);
    let before = sent.iter().take_while(|it| it.method != "POST");
    u32::try_from(before.filter(|it| it.template == VOLUMES).count()).unwrap()
}
