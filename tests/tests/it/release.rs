//! Release requests: a disk that lies idle on another node is released there for whoever needs it to be nowhere, and what
//! is in use stays, with its node and its user named in time.

use std::sync::Arc;
use std::time::Duration;

use san_core::{Effects, ErrorKind, Result};
use san_engine::{Naming, Outcome, Request};
use sanbridge_tests::crash::{Side, Stopper};
use sanbridge_tests::site::Site;
use tokio::time::Instant;

use crate::support::{DISK, SIZE, assert_unchanged, snapshot};

const RENAMED: &str = "vm-101-disk-0";
const TEMPLATE: &str = "base-100-disk-0";
/// The others are waited for so long, and the array's part takes no time here.
const IN_TIME: Duration = Duration::from_secs(6);

/// A disk with a snapshot; the first node does not have it attached.
async fn disk(site: &Site) {
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let path = node.attach(DISK).await.unwrap();
    node.write(&path, 0, b"first").await.unwrap();
    node.snapshot(DISK, &snapshot()).await.unwrap();
    node.detach(DISK).await.unwrap();
}

/// What needs the disk to be nowhere else.
fn requests() -> [Request; 3] {
    let object = || DISK.to_owned();
    [
        Request::Rollback { object: object(), snapshot: snapshot() },
        Request::Rename { object: object(), naming: Naming::Exact(RENAMED.to_owned()) },
        Request::Delete { object: object() },
    ]
}

async fn in_time(site: &Site, request: Request) -> Result<Outcome> {
    let start = Instant::now();
    let done = site.node(0).call(request.clone()).await;
    assert!(start.elapsed() < IN_TIME, "{request:?} took {:?}", start.elapsed());
    done
}

#[tokio::test(start_paused = true)]
async fn what_lies_idle_elsewhere_is_released() {
    for request in requests() {
        let site = Site::started(3).await.unwrap();
        let before = site.audit();
        disk(&site).await;
        for index in 1..3 {
            site.node(index).attach(DISK).await.unwrap();
        }
        in_time(&site, request).await.unwrap();
        for index in 1..3 {
            assert!(site.node(index).san().attached().await.unwrap().is_empty());
        }
        for object in [DISK, RENAMED] {
            site.node(0).delete(object).await.unwrap();
        }
        assert_unchanged(&site, &before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_idle_elsewhere_becomes_a_template() {
    let site = Site::started(2).await.unwrap();
    let before = site.audit();
    site.node(0).create(DISK, SIZE).await.unwrap();
    site.node(1).attach(DISK).await.unwrap();
    let naming = Naming::Exact(TEMPLATE.to_owned());
    in_time(&site, Request::Template { object: DISK.to_owned(), naming }).await.unwrap();
    // Whoever copied from it never said that he was done.
    site.node(1).attach(TEMPLATE).await.unwrap();
    in_time(&site, Request::Delete { object: TEMPLATE.to_owned() }).await.unwrap();
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn what_is_in_use_elsewhere_stays_and_its_user_is_named() {
    let site = Site::started(3).await.unwrap();
    disk(&site).await;
    let (two, three) = (site.node(1), site.node(2));
    let path = two.attach(DISK).await.unwrap();
    three.attach(DISK).await.unwrap();
    let guest = two.host.open(&path).unwrap();
    let refused = async |words: &[&str]| {
        for request in requests() {
            let error = in_time(&site, request.clone()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InUse, "{request:?}: {error:?}");
            let text = error.chain().to_string();
            assert!(words.iter().all(|it| text.contains(it)), "{words:?}: {request:?}: {text}");
            assert!(error.remedy().is_some(), "{error:?}");
            assert_eq!(two.read(&path, 0, 5).await.unwrap(), b"first");
        }
    };
    refused(&["node node2", "opened 1 times"]).await;
    drop(guest);
    // Whoever has just attached it has not opened it yet.
    site.guests.busy(DISK, &two.name, Some("VM 100 runs there (QEMU pid 4711)"));
    refused(&["node node2", "QEMU pid 4711"]).await;
    site.guests.busy(DISK, &two.name, None);
    in_time(&site, Request::Delete { object: DISK.to_owned() }).await.unwrap();
}

/// Of what is used here nobody elsewhere has to let go first.
#[tokio::test(start_paused = true)]
async fn nobody_is_asked_where_it_is_refused_anyway() {
    let site = Site::started(2).await.unwrap();
    disk(&site).await;
    let path = site.node(0).attach(DISK).await.unwrap();
    site.node(1).attach(DISK).await.unwrap();
    let _guest = site.node(0).host.open(&path).unwrap();
    let held = site.audit();
    for request in requests() {
        assert_eq!(site.node(0).call(request).await.unwrap_err().kind(), ErrorKind::InUse);
    }
    assert_unchanged(&site, &held);
}

#[tokio::test(start_paused = true)]
async fn a_node_without_a_daemon_is_named_with_what_helps() {
    let mut site = Site::started(2).await.unwrap();
    let before = site.audit();
    disk(&site).await;
    site.node(1).attach(DISK).await.unwrap();
    site.kill(1);
    let held = site.audit();
    let [roll_back, rename, delete] = requests();
    for request in [roll_back, rename] {
        let error = in_time(&site, request.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse, "{request:?}: {error:?}");
        assert!(error.to_string().contains("node2"), "{error:?}");
        assert!(error.remedy().is_some_and(|it| it.contains("node remove node2")), "{error:?}");
        assert_unchanged(&site, &held);
    }
    site.start(1, Effects::unobserved()).await.unwrap();
    in_time(&site, delete).await.unwrap();
    assert_unchanged(&site, &before);
}

/// Either side is killed at every boundary: no request stays, and the operation can be repeated.
#[tokio::test(start_paused = true)]
async fn nothing_stays_of_a_request_whose_end_nobody_saw() {
    for killed in [0, 1] {
        for side in [Side::Before, Side::After] {
            let mut boundaries = 0;
            while stopped_at(killed, boundaries, side).await {
                boundaries += 1;
            }
            assert!(boundaries > 5, "node {killed}: only {boundaries} boundaries");
        }
    }
}

/// `false`: there is no such boundary.
async fn stopped_at(killed: usize, number: usize, which: Side) -> bool {
    let mut site = Site::started(2).await.unwrap();
    let before = site.audit();
    disk(&site).await;
    site.node(1).attach(DISK).await.unwrap();
    let stopper = Stopper::new(Some((number, which)));
    let array = Arc::new(site.connect(stopper.effects()).await.unwrap());
    site.kill(killed);
    site.start_with(killed, stopper.effects(), array).await.unwrap();
    let reached = {
        let ended = site.node(0).delete(DISK);
        tokio::pin!(ended);
        tokio::select! {
            biased;
            () = stopper.reached() => true,
            done = &mut ended => { done.unwrap(); false }
        }
    };
    site.kill(killed);
    // An asker that lives waits for no answer that does not come.
    tokio::time::sleep(Duration::from_secs(60)).await;
    site.expire_leases().unwrap();
    assert_eq!(site.start(killed, Effects::unobserved()).await.unwrap(), 0);
    site.node(1).san().drop_stale_attachments().await.unwrap();
    site.node(0).delete(DISK).await.unwrap();
    site.node(0).san().finish_deletions().await.unwrap();
    let findings = site.audit().against(&before);
    assert!(
        findings.is_empty(),
        "node {killed}, {which:?} {number} {:?}:\n{findings}",
        stopper.passed().last()
    );
    reached
}
