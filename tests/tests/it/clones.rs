//! Templates, linked clones and renaming: bytes, names, guards, and what is refused.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use san_core::{Deadline, Effects, ErrorKind, Lineage, OperationId, Result};
use san_engine::{Naming, Outcome, Request, Tie};
use san_sim::ontap::Version;
use sanbridge_tests::crash::{Side, Stopper};
use sanbridge_tests::site::{PATIENCE, Site, SiteNode};

use crate::support::{DISK, GROWN, SIZE, assert_unchanged, changes, snapshot};

const TEMPLATE: &str = "base-100-disk-0";
const OTHER: &str = "vm-200-disk-0";

fn exact(name: &str) -> Naming {
    Naming::Exact(name.to_owned())
}

async fn template(node: &SiteNode) -> Result<Outcome> {
    node.call(Request::Template { object: DISK.to_owned(), naming: exact(TEMPLATE) }).await
}

async fn clone(node: &SiteNode, source: &str, vmid: u32) -> Result<Outcome> {
    let naming = Naming::Numbered { stem: format!("vm-{vmid}-disk-") };
    node.call(Request::Clone { source: source.to_owned(), snapshot: None, naming }).await
}

async fn rename(node: &SiteNode, object: &str, to: &str) -> Result<Outcome> {
    node.call(Request::Rename { object: object.to_owned(), naming: exact(to) }).await
}

async fn written(node: &SiteNode, object: &str, bytes: &[u8]) -> PathBuf {
    let path = node.attach(object).await.unwrap();
    node.write(&path, 0, bytes).await.unwrap();
    path
}

async fn bytes(node: &SiteNode, object: &str) -> Vec<u8> {
    let path = node.attach(object).await.unwrap();
    let bytes = node.read(&path, 0, 5).await.unwrap();
    node.detach(object).await.unwrap();
    bytes
}

fn kind<T: std::fmt::Debug>(answer: Result<T>) -> ErrorKind {
    answer.unwrap_err().kind()
}

#[tokio::test(start_paused = true)]
async fn clones_of_a_template_have_its_bytes_and_then_their_own() {
    let site = Site::started(2).await.unwrap();
    let before = site.audit();
    let (one, two) = (site.node(0), site.node(1));
    one.create(DISK, SIZE).await.unwrap();
    written(one, DISK, b"first").await;
    // The device is taken down on the way: the name it had leads nowhere afterwards.
    let made = template(one).await.unwrap();
    assert_eq!(made, Outcome::Renamed { object: TEMPLATE.to_owned(), template: None });
    assert_eq!(kind(one.attach(DISK).await), ErrorKind::NotFound);

    let mark = site.array.mark();
    let made = clone(two, TEMPLATE, 101).await.unwrap();
    let expected = ("vm-101-disk-0".to_owned(), SIZE, Some(TEMPLATE.to_owned()));
    assert!(
        matches!(&made, Outcome::Created { object, size, template } if (object, size, template) == (&expected.0, &expected.1, &expected.2)),
        "{made:?}"
    );
    assert_eq!(
        (site.array.requests(mark).len(), changes(&site.array, mark).len()),
        (2, 1),
        "a clone is two requests"
    );
    clone(two, TEMPLATE, 101).await.unwrap();
    let path = written(two, "vm-101-disk-0", b"other").await;
    assert_eq!(bytes(two, "vm-101-disk-1").await, b"first");
    assert_eq!(bytes(one, TEMPLATE).await, b"first");
    two.grow("vm-101-disk-0", GROWN).await.unwrap();
    two.write(&path, GROWN.bytes() - 4, b"tail").await.unwrap();
    two.detach("vm-101-disk-0").await.unwrap();

    let cx = one.san().cx(Deadline::after(Duration::from_secs(9)), OperationId::random());
    let listed = one.san().disks(&cx).await.unwrap();
    let mut listed: Vec<_> =
        listed.into_iter().map(|it| (it.owner.object().to_owned(), it.template)).collect();
    listed.sort();
    let linked = |name: &str| (name.to_owned(), Some(TEMPLATE.to_owned()));
    assert_eq!(listed, [(TEMPLATE.to_owned(), None), linked("vm-101-disk-0"), linked("vm-101-disk-1")]);

    // As long as a clone hangs on it the template stays, and says why; deleted clones keep it from the array only.
    let refused = one.delete(TEMPLATE).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InUse);
    assert!(refused.chain().to_string().contains("vm_101_disk_0"), "{}", refused.chain());
    two.delete("vm-101-disk-0").await.unwrap();
    assert_eq!(bytes(one, TEMPLATE).await, b"first");
    one.detach(TEMPLATE).await.unwrap();
    two.delete("vm-101-disk-1").await.unwrap();
    assert!(matches!(one.delete(TEMPLATE).await.unwrap(), Outcome::Deleting { .. }));
    site.array.purge_recovery_queue().unwrap();
    one.san().finish_deletions().await.unwrap();
    assert_unchanged(&site, &before);
}

/// Two nodes copy from it at the same time, and the node on which its guest lives takes it from neither.
#[tokio::test(start_paused = true)]
async fn a_template_is_read_on_several_nodes() {
    let site = Site::started(2).await.unwrap();
    let (one, two) = (site.node(0), site.node(1));
    one.create(DISK, SIZE).await.unwrap();
    written(one, DISK, b"first").await;
    template(one).await.unwrap();
    site.guests.place(TEMPLATE, &one.name, Tie::Configured);
    let there = two.attach(TEMPLATE).await.unwrap();
    let here = one.attach(TEMPLATE).await.unwrap();
    assert_eq!(one.read(&here, 0, 5).await.unwrap(), b"first");
    assert_eq!(two.read(&there, 0, 5).await.unwrap(), b"first");
    // What the cluster knew of it is lost: the mark still says what it is.
    std::fs::remove_dir_all(site.cluster_folder().join("volumes")).unwrap();
    one.detach(TEMPLATE).await.unwrap();
    let here = one.attach(TEMPLATE).await.unwrap();
    assert_eq!(one.read(&here, 0, 5).await.unwrap(), b"first");
    assert_eq!(two.read(&there, 0, 5).await.unwrap(), b"first");
}

#[tokio::test(start_paused = true)]
async fn a_disk_is_given_to_another_guest() {
    let site = Site::started(2).await.unwrap();
    let before = site.audit();
    let (one, two) = (site.node(0), site.node(1));
    one.create(DISK, SIZE).await.unwrap();
    written(one, DISK, b"first").await;
    one.snapshot(DISK, &snapshot()).await.unwrap();
    rename(one, DISK, "vm-101-disk-7").await.unwrap();
    assert_eq!(bytes(two, "vm-101-disk-7").await, b"first");
    assert_eq!(kind(one.attach(DISK).await), ErrorKind::NotFound);
    // Its old name is free, and its snapshots came along.
    one.create(DISK, SIZE).await.unwrap();
    two.roll_back("vm-101-disk-7", &snapshot()).await.unwrap();
    let naming = Naming::Numbered { stem: "vm-100-disk-".to_owned() };
    let numbered = Request::Rename { object: "vm-101-disk-7".to_owned(), naming };
    let renamed = two.call(numbered).await.unwrap();
    assert_eq!(renamed, Outcome::Renamed { object: "vm-100-disk-1".to_owned(), template: None });
    assert_eq!(bytes(one, "vm-100-disk-1").await, b"first");
    one.delete("vm-100-disk-1").await.unwrap();
    one.delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

/// A clone that is renamed keeps its template's name before its own, and can become a template itself.
#[tokio::test(start_paused = true)]
async fn a_clone_remembers_its_template_whatever_becomes_of_it() {
    let site = Site::started(1).await.unwrap();
    let before = site.audit();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    written(node, DISK, b"first").await;
    template(node).await.unwrap();
    clone(node, TEMPLATE, 101).await.unwrap();
    let of = Some(TEMPLATE.to_owned());
    let renamed = rename(node, "vm-101-disk-0", "vm-102-disk-3").await.unwrap();
    assert_eq!(renamed, Outcome::Renamed { object: "vm-102-disk-3".to_owned(), template: of.clone() });
    let naming = exact("base-102-disk-3");
    let second = node.call(Request::Template { object: "vm-102-disk-3".to_owned(), naming }).await.unwrap();
    assert_eq!(second, Outcome::Renamed { object: "base-102-disk-3".to_owned(), template: of });
    clone(node, "base-102-disk-3", 103).await.unwrap();
    assert_eq!(bytes(node, "vm-103-disk-0").await, b"first");
    for object in ["vm-103-disk-0", "base-102-disk-3", TEMPLATE] {
        node.delete(object).await.unwrap();
        site.array.purge_recovery_queue().unwrap();
    }
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_is_refused_before_anything_is_done() {
    let site = Site::started(2).await.unwrap();
    let (one, two) = (site.node(0), site.node(1));
    one.create(DISK, SIZE).await.unwrap();
    one.create("vm-100-disk-1", SIZE).await.unwrap();
    let here = written(one, DISK, b"first").await;
    let guest = one.host.open(&here).unwrap();
    let before = site.audit();
    let mark = site.array.mark();
    assert_eq!(kind(template(one).await), ErrorKind::InUse, "in use here");
    assert_eq!(kind(template(two).await), ErrorKind::InUse, "attached elsewhere");
    assert_eq!(kind(rename(two, DISK, "vm-101-disk-0").await), ErrorKind::InUse);
    assert_eq!(kind(rename(one, DISK, "vm-100-disk-1").await), ErrorKind::AlreadyExists);
    assert_eq!(kind(rename(one, DISK, DISK).await), ErrorKind::InvalidInput);
    assert_eq!(kind(rename(one, "vm-100-disk-9", "vm-101-disk-0").await), ErrorKind::NotFound);
    assert_eq!(kind(clone(one, DISK, 101).await), ErrorKind::InvalidInput, "no template");
    assert_eq!(kind(clone(one, "vm-100-disk-9", 101).await), ErrorKind::NotFound);
    let sent = changes(&site.array, mark);
    assert!(sent.is_empty(), "{sent:?}");
    let naming = exact("vm-101-disk-0");
    let gone = Request::Clone { source: DISK.to_owned(), snapshot: Some(snapshot()), naming };
    assert_eq!(kind(one.call(gone).await), ErrorKind::NotFound, "no such snapshot");
    assert_unchanged(&site, &before);
    drop(guest);
    one.snapshot(DISK, &snapshot()).await.unwrap();
    let refused = template(one).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused:?}");
    assert!(refused.chain().to_string().contains("before"), "the snapshot is named");
    assert_eq!(one.read(&here, 0, 5).await.unwrap(), b"first");
}

/// Of a snapshot of a disk in use: a disk like others, of which nobody sees where it came from.
#[tokio::test(start_paused = true)]
async fn a_snapshot_is_cloned_while_its_disk_goes_on() {
    let site = Site::started(1).await.unwrap();
    let before = site.audit();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let path = written(node, DISK, b"first").await;
    node.snapshot(DISK, &snapshot()).await.unwrap();
    node.write(&path, 0, b"other").await.unwrap();
    let naming = exact("vm-101-disk-0");
    let request = Request::Clone { source: DISK.to_owned(), snapshot: Some(snapshot()), naming };
    assert!(matches!(node.call(request).await.unwrap(), Outcome::Created { template: None, .. }));
    assert_eq!(bytes(node, "vm-101-disk-0").await, b"first");
    assert_eq!(node.read(&path, 0, 5).await.unwrap(), b"other");
    let busy = node.delete_snapshot(DISK, &snapshot()).await.unwrap_err();
    assert_eq!(busy.kind(), ErrorKind::Busy, "{busy:?}");
    node.delete("vm-101-disk-0").await.unwrap();
    site.array.purge_recovery_queue().unwrap();
    node.delete_snapshot(DISK, &snapshot()).await.unwrap();
    node.detach(DISK).await.unwrap();
    node.delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

/// What keeps the snapshot may do so for long: an operation that was cut off does not stay open for it.
#[tokio::test(start_paused = true)]
async fn a_deletion_of_a_held_snapshot_that_was_cut_off_is_given_up() {
    let mut site = Site::started(1).await.unwrap();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    node.snapshot(DISK, &snapshot()).await.unwrap();
    let naming = exact("vm-101-disk-0");
    let request = Request::Clone { source: DISK.to_owned(), snapshot: Some(snapshot()), naming };
    node.call(request).await.unwrap();
    let before = site.audit();
    let stopper = Stopper::named("DELETE /api/storage/volumes", Side::Before);
    let array = Arc::new(site.connect(stopper.effects()).await.unwrap());
    site.kill(0);
    site.start_with(0, stopper.effects(), array).await.unwrap();
    let gone = snapshot();
    tokio::select! {
        biased;
        () = stopper.reached() => {}
        done = site.node(0).delete_snapshot(DISK, &gone) => panic!("never reached: {done:?}"),
    }
    site.kill(0);
    assert_eq!(site.start(0, Effects::unobserved()).await.unwrap(), 0);
    assert_unchanged(&site, &before);
}

/// A node dies between the array and the cluster, and the guest is started on another one under the new name: it keeps it.
#[tokio::test(start_paused = true)]
async fn a_renaming_that_somebody_relies_on_is_not_taken_back() {
    let mut site = Site::started(2).await.unwrap();
    let before = site.audit();
    site.node(0).create(DISK, SIZE).await.unwrap();
    written(site.node(0), DISK, b"first").await;
    let stopper = Stopper::named("PATCH /api/storage/volumes", Side::After);
    let array = Arc::new(site.connect(stopper.effects()).await.unwrap());
    site.kill(0);
    site.start_with(0, stopper.effects(), array).await.unwrap();
    tokio::select! {
        biased;
        () = stopper.reached() => {}
        done = rename(site.node(0), DISK, "vm-101-disk-0") => panic!("never reached: {done:?} {:?}", stopper.passed()),
    }
    site.kill(0);
    site.expire_leases().unwrap();
    // Until that is decided nobody else gets the old name.
    site.node(1).create(OTHER, SIZE).await.unwrap();
    assert_eq!(kind(rename(site.node(1), OTHER, DISK).await), ErrorKind::AlreadyExists);
    assert_eq!(kind(site.node(1).create(DISK, SIZE).await), ErrorKind::AlreadyExists);
    site.node(1).delete(OTHER).await.unwrap();
    let path = site.node(1).attach("vm-101-disk-0").await.unwrap();
    assert_eq!(site.node(1).read(&path, 0, 5).await.unwrap(), b"first");
    assert_eq!(site.start(0, Effects::unobserved()).await.unwrap(), 0);
    assert_eq!(kind(site.node(0).attach(DISK).await), ErrorKind::NotFound);
    assert_eq!(site.node(1).read(&path, 0, 5).await.unwrap(), b"first");
    site.node(1).detach("vm-101-disk-0").await.unwrap();
    site.node(0).delete("vm-101-disk-0").await.unwrap();
    assert_unchanged(&site, &before);
}

/// Whoever copied from it never says that he is done.
#[tokio::test(start_paused = true)]
async fn an_idle_template_is_detached_everywhere_so_that_it_can_be_deleted() {
    let site = Site::started(2).await.unwrap();
    let before = site.audit();
    let (one, two) = (site.node(0), site.node(1));
    one.create(DISK, SIZE).await.unwrap();
    template(one).await.unwrap();
    let path = two.attach(TEMPLATE).await.unwrap();
    let reader = two.host.open(&path).unwrap();
    let minutes = |count: u64| tokio::time::sleep(Duration::from_secs(60 * count));
    let refused = one.delete(TEMPLATE).await.unwrap_err();
    assert!(refused.kind() == ErrorKind::InUse && refused.to_string().contains("node2"), "{refused:?}");
    minutes(20).await;
    two.san().drop_idle().await.unwrap();
    assert_eq!(two.read(&path, 0, 1).await.unwrap(), [0], "it is in use");
    drop(reader);
    minutes(14).await;
    two.san().drop_idle().await.unwrap();
    assert_eq!(two.read(&path, 0, 1).await.unwrap(), [0], "it was in use a moment ago");
    two.attach(TEMPLATE).await.unwrap();
    minutes(14).await;
    two.san().drop_idle().await.unwrap();
    assert_eq!(two.read(&path, 0, 1).await.unwrap(), [0], "somebody has asked for it since");
    for _ in 0..2 {
        minutes(2).await;
        two.san().drop_idle().await.unwrap();
    }
    one.delete(TEMPLATE).await.unwrap();
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn a_split_clone_lets_its_template_go_and_is_used_meanwhile() {
    let mut site =
        Site::with(2, Version::new(9, 16, 1), |it| it.pace.split = Duration::from_secs(3600)).unwrap();
    for index in 0..2 {
        site.start(index, Effects::unobserved()).await.unwrap();
    }
    let before = site.audit();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    written(node, DISK, b"first").await;
    template(node).await.unwrap();
    clone(node, TEMPLATE, 200).await.unwrap();
    let path = node.attach(OTHER).await.unwrap();
    let split = Request::Split { object: OTHER.to_owned() };
    assert_eq!(node.call(split.clone()).await.unwrap(), Outcome::Splitting);
    let lineage = async || {
        let cx = node.san().cx(Deadline::after(PATIENCE), OperationId::random());
        node.san().lineage(&cx, OTHER).await.unwrap()
    };
    tokio::time::sleep(Duration::from_secs(1800)).await;
    assert_eq!(lineage().await, Lineage::Splitting(Some(50)));
    // Asked again it is not begun again, and it goes on being used.
    assert_eq!(node.call(split).await.unwrap(), Outcome::Splitting);
    node.write(&path, 0, b"other").await.unwrap();
    tokio::time::sleep(Duration::from_secs(1900)).await;
    assert_eq!(lineage().await, Lineage::Independent);
    node.delete(TEMPLATE).await.unwrap();
    // Guests' configurations go on naming it with its template.
    let cx = node.san().cx(Deadline::after(PATIENCE), OperationId::random());
    node.san().require_template(&cx, OTHER, Some(TEMPLATE)).await.unwrap();
    assert_eq!(node.read(&path, 0, 5).await.unwrap(), b"other");
    node.detach(OTHER).await.unwrap();
    assert_eq!(bytes(site.node(1), OTHER).await, b"other");
    node.delete(OTHER).await.unwrap();
    site.array.purge_recovery_queue().unwrap();
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn a_clone_with_snapshots_is_not_split_and_what_is_no_clone_is_left_alone() {
    let site = Site::started(1).await.unwrap();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let mark = site.array.mark();
    let split = |object: &str| node.call(Request::Split { object: object.to_owned() });
    assert_eq!(split(DISK).await.unwrap(), Outcome::Splitting);
    assert_eq!(kind(split("vm-999-disk-0").await), ErrorKind::NotFound);
    assert_eq!(changes(&site.array, mark), []);
    template(node).await.unwrap();
    clone(node, TEMPLATE, 200).await.unwrap();
    node.snapshot(OTHER, &snapshot()).await.unwrap();
    let (before, mark) = (site.audit(), site.array.mark());
    let refused = split(OTHER).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused:?}");
    assert_eq!(changes(&site.array, mark), []);
    assert_unchanged(&site, &before);
}
