//! What is in doubt is not done: nodes that come back late, answers that were lost, notes that are missing, a cluster file
//! system that is not there.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use san_core::{
    ByteSize, Deadline, Effect, EffectObserver, Effects, Error, ErrorKind, OperationId, Result, SnapshotName,
};
use san_engine::{Request, Tie};
use san_sim::ontap::OntapSim;
use san_sim::server::ApiState;
use sanbridge_tests::crash::{Side, Stopper};
use sanbridge_tests::site::{SPACE, Site};

const DISK: &str = "vm-100-disk-0";
const SIZE: ByteSize = ByteSize::from_mib(8);

fn snapshot() -> SnapshotName {
    "before".parse().unwrap()
}

/// A site whose disk has a snapshot and other bytes by now, detached.
async fn with_snapshot() -> Site {
    let site = Site::started(2).await.unwrap();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let path = node.attach(DISK).await.unwrap();
    node.write(&path, 0, b"snapshotted").await.unwrap();
    node.snapshot(DISK, &snapshot()).await.unwrap();
    node.write(&path, 0, b"overwritten").await.unwrap();
    node.detach(DISK).await.unwrap();
    site
}

fn in_cluster(site: &Site, file: &str) -> std::path::PathBuf {
    site.cluster_folder().join("volumes").join(SPACE).join(DISK).join(file)
}

/// A node dies on the edge of a roll back. The guest goes on elsewhere, and perhaps has let go again when the node comes
/// back: its bytes stay.
#[tokio::test(start_paused = true)]
async fn a_roll_back_of_a_dead_node_never_reaches_a_guest_that_went_on() {
    for lets_go in [false, true] {
        let mut site = with_snapshot().await;
        site.kill(0);
        let stopper = Stopper::named("PATCH /api/storage/luns", Side::Before);
        site.start(0, stopper.effects()).await.unwrap();
        let request = Request::Rollback { object: DISK.to_owned(), snapshot: snapshot() };
        let deadline = Deadline::after(Duration::from_secs(55));
        let ticket = site.node(0).san().submit(OperationId::random(), request, deadline);
        stopper.reached().await;
        drop(ticket);
        site.kill(0);
        // As after the time the dead node's lease lasts.
        std::fs::remove_file(in_cluster(&site, "lease")).unwrap();
        let two = site.node(1);
        site.guests.place(DISK, &two.name, Tie::Configured);
        let path = two.attach(DISK).await.unwrap();
        two.write(&path, 0, b"guest-on-n2").await.unwrap();
        if lets_go {
            two.detach(DISK).await.unwrap();
        }
        assert_eq!(site.start(0, Effects::unobserved()).await.unwrap(), 0);
        let two = site.node(1);
        let path = two.attach(DISK).await.unwrap();
        assert_eq!(two.read(&path, 0, 11).await.unwrap(), b"guest-on-n2", "lets go: {lets_go}");
    }
}

/// One that nobody came before is finished by the next run.
#[tokio::test(start_paused = true)]
async fn an_undisturbed_roll_back_is_finished_later() {
    let mut site = with_snapshot().await;
    site.kill(0);
    let stopper = Stopper::named("PATCH /api/storage/luns", Side::Before);
    site.start(0, stopper.effects()).await.unwrap();
    let request = Request::Rollback { object: DISK.to_owned(), snapshot: snapshot() };
    let ticket =
        site.node(0).san().submit(OperationId::random(), request, Deadline::after(Duration::from_secs(55)));
    stopper.reached().await;
    drop(ticket);
    site.kill(0);
    assert_eq!(site.start(0, Effects::unobserved()).await.unwrap(), 0);
    let path = site.node(0).attach(DISK).await.unwrap();
    assert_eq!(site.node(0).read(&path, 0, 11).await.unwrap(), b"snapshotted");
}

/// Swallows the answer to the first effect whose words begin so; from then on nothing reaches the array.
#[derive(Debug)]
struct LosesAnswer(OntapSim, &'static str);

#[async_trait]
impl EffectObserver for LosesAnswer {
    async fn before(&self, _effect: &Effect) -> Result<()> {
        Ok(())
    }

    async fn after(&self, effect: &Effect) -> Result<()> {
        if effect.to_string().starts_with(self.1) {
            self.0.set_api(ApiState::Refusing);
            return Err(Error::new(ErrorKind::Timeout, "answer lost"));
        }
        Ok(())
    }
}

/// What may have been done is not called undone because a later attempt could not even be made.
#[tokio::test(start_paused = true)]
async fn a_lost_answer_keeps_its_operation_open() {
    let delete = Request::Delete { object: DISK.to_owned() };
    let roll_back = Request::Rollback { object: DISK.to_owned(), snapshot: snapshot() };
    for (request, effect) in [(delete, "DELETE /api/storage/volumes"), (roll_back, "PATCH /api/storage/luns")]
    {
        let mut site = with_snapshot().await;
        site.kill(0);
        site.start(0, Effects::observed(Arc::new(LosesAnswer(site.array.clone(), effect)))).await.unwrap();
        let error = site.node(0).call(request).await.unwrap_err();
        assert_eq!(error.effect(), san_core::EffectState::Unknown, "{effect}: {error:?}");
        tokio::time::sleep(Duration::from_secs(300)).await;
        assert_eq!(site.node(0).san().open_operations().await.unwrap().len(), 1, "{effect}");
        site.array.set_api(ApiState::Up);
        site.kill(0);
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(site.start(0, Effects::unobserved()).await.unwrap(), 0, "{effect}");
        if effect.starts_with("DELETE") {
            assert!(!in_cluster(&site, "binding").try_exists().unwrap());
        }
    }
}

/// Without the cluster file system nobody is known to have the disk, and that is not nobody.
#[tokio::test(start_paused = true)]
async fn a_cluster_file_system_that_is_away_stops_everything_and_nothing_is_written_in_its_place() {
    let site = with_snapshot().await;
    let two = site.node(1);
    site.guests.place(DISK, &two.name, Tie::Configured);
    let path = two.attach(DISK).await.unwrap();
    let _guest = two.host.open(&path).unwrap();
    two.write(&path, 0, b"guest-on-n2").await.unwrap();
    let folder = site.cluster_folder();
    let away = folder.with_extension("away");
    std::fs::rename(&folder, &away).unwrap();
    std::fs::remove_dir(site.witness()).unwrap();
    let one = site.node(0);
    for error in [
        one.roll_back(DISK, &snapshot()).await.unwrap_err(),
        one.delete(DISK).await.unwrap_err(),
        one.create("vm-100-disk-1", SIZE).await.unwrap_err(),
        one.attach(DISK).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    }
    assert!(!folder.try_exists().unwrap());
    std::fs::rename(&away, &folder).unwrap();
    std::fs::create_dir(site.witness()).unwrap();
    assert_eq!(two.read(&path, 0, 11).await.unwrap(), b"guest-on-n2");
    assert_eq!(one.roll_back(DISK, &snapshot()).await.unwrap_err().kind(), ErrorKind::InUse);
}

/// The note that another node has the disk is lost. The array's own condition still holds.
#[tokio::test(start_paused = true)]
async fn a_mapped_disk_is_not_rolled_back_whatever_the_notes_say() {
    let site = with_snapshot().await;
    let two = site.node(1);
    let path = two.attach(DISK).await.unwrap();
    two.write(&path, 0, b"guest-on-n2").await.unwrap();
    std::fs::remove_file(in_cluster(&site, "on.node2")).unwrap();
    let error = site.node(0).roll_back(DISK, &snapshot()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse, "{error:?}");
    assert_eq!(two.read(&path, 0, 11).await.unwrap(), b"guest-on-n2");
}

/// A node that lost its disks to others drops what it still has of them.
#[tokio::test(start_paused = true)]
async fn a_node_that_comes_back_drops_what_others_took_over() {
    let mut site = Site::started(2).await.unwrap();
    let before = site.audit();
    site.guests.place(DISK, &site.node(0).name, Tie::Configured);
    site.node(0).create(DISK, SIZE).await.unwrap();
    site.node(0).attach(DISK).await.unwrap();
    site.kill(0);
    site.guests.place(DISK, &site.node(1).name, Tie::Configured);
    site.node(1).attach(DISK).await.unwrap();
    site.node(1).delete(DISK).await.unwrap();
    site.start(0, Effects::unobserved()).await.unwrap();
    site.node(0).san().drop_stale_attachments().await.unwrap();
    assert!(site.node(0).san().attached().await.unwrap().is_empty());
    let findings = site.audit().against(&before);
    assert!(findings.is_empty(), "{findings}");
}

/// Nobody knows any more which node a host object stands for, and a node is noted to have the disk: two writers are not
/// risked.
#[tokio::test(start_paused = true)]
async fn a_mapping_that_nobody_can_explain_stops_an_attach_at_home() {
    let site = Site::started(2).await.unwrap();
    site.node(0).create(DISK, SIZE).await.unwrap();
    site.node(0).attach(DISK).await.unwrap();
    std::fs::remove_dir_all(site.cluster_folder().join("hosts")).unwrap();
    site.guests.place(DISK, &site.node(1).name, Tie::Configured);
    let error = site.node(1).attach(DISK).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
    // The node it is on says so again with its next attach of anything.
    site.node(0).create("vm-101-disk-0", SIZE).await.unwrap();
    site.node(0).attach("vm-101-disk-0").await.unwrap();
    site.node(1).attach(DISK).await.unwrap();
}
