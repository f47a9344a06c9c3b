//! Dead portals, stopped daemons: what still works says what is missing, what does not ends in time and leaves nothing.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use san_core::{Effects, ErrorKind, Result};
use san_engine::{Outcome, Repair, Request, Tie};
use san_sim::target::{Reachability, Target};
use sanbridge_tests::crash::{Side, Stopper};
use sanbridge_tests::daemons::DaemonSite;
use sanbridge_tests::site::Site;
use serde_json::json;
use tokio::time::Instant;

use crate::support::{DISK, GROWN, SIZE, assert_unchanged, snapshot};

const REACHABILITIES: [Reachability; 2] = [Reachability::Refusing, Reachability::BlackHole];

fn portals(site: &Site) -> Vec<SocketAddr> {
    site.array.portals().into_iter().map(|it| it.address).collect()
}

/// Attaches and tells the warnings.
async fn attach(site: &Site, index: usize) -> Result<(PathBuf, Vec<String>)> {
    match site.node(index).call(Request::Attach { object: DISK.to_owned() }).await? {
        Outcome::Attached { path, warnings, .. } => Ok((path, warnings)),
        other => panic!("attach ended with {other:?}"),
    }
}

fn paths(site: &Site, index: usize) -> usize {
    site.node(index)
        .host
        .inventory()
        .maps
        .iter()
        .map(|it| it.paths.iter().filter(|it| !it.has_failed).count())
        .sum()
}

#[tokio::test(start_paused = true)]
async fn one_dead_portal_costs_a_probe_and_a_warning() {
    for reachability in REACHABILITIES {
        let site = Site::started(2).await.unwrap();
        let before = site.audit();
        site.node(0).create(DISK, SIZE).await.unwrap();
        // What the same costs while all portals live.
        let began = Instant::now();
        let (_, warnings) = attach(&site, 1).await.unwrap();
        let usual = began.elapsed();
        assert_eq!(warnings, [] as [String; 0]);
        assert_eq!(paths(&site, 1), 4);
        site.node(1).detach(DISK).await.unwrap();

        let dead = portals(&site)[1];
        site.array.set_portal(dead, reachability).unwrap();
        let began = Instant::now();
        let (path, warnings) = attach(&site, 0).await.unwrap();
        let took = began.elapsed();
        assert!(took <= usual + Duration::from_millis(1100), "{reachability:?}: {took:?}, usually {usual:?}");
        assert!(warnings.iter().any(|it| it.contains(&dead.ip().to_string())), "{warnings:?}");
        assert_eq!(paths(&site, 0), 3);
        site.node(0).write(&path, 0, b"works").await.unwrap();
        // Attached is attached: the next call completes the paths once the portal is back.
        site.array.set_portal(dead, Reachability::Up).unwrap();
        tokio::time::sleep(Duration::from_secs(10)).await;
        let (_, warnings) = attach(&site, 0).await.unwrap();
        assert_eq!(warnings, [] as [String; 0]);
        assert_eq!(paths(&site, 0), 4, "{reachability:?}");
        site.node(0).detach(DISK).await.unwrap();
        site.node(0).delete(DISK).await.unwrap();
        assert_unchanged(&site, &before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_road_that_only_this_node_lacks_is_its_own_affair() {
    let site = Site::started(2).await.unwrap();
    site.node(0).create(DISK, SIZE).await.unwrap();
    let dead = portals(&site)[0];
    site.node(0).host.partition(dead);
    let (_, warnings) = attach(&site, 0).await.unwrap();
    assert!(warnings.iter().any(|it| it.contains(&dead.ip().to_string())), "{warnings:?}");
    let (_, warnings) = attach(&site, 1).await.unwrap();
    assert_eq!(warnings, [] as [String; 0]);
    site.node(0).host.heal(dead);
    // A portal that refuses logins is a warning as well.
    site.node(1).detach(DISK).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn all_dead_portals_are_an_error_in_time_and_nothing_is_left() {
    for reachability in REACHABILITIES {
        let site = Site::started(1).await.unwrap();
        let empty = site.audit();
        site.node(0).create(DISK, SIZE).await.unwrap();
        let before = site.audit();
        for portal in portals(&site) {
            site.array.set_portal(portal, reachability).unwrap();
        }
        let began = Instant::now();
        let error = attach(&site, 0).await.unwrap_err();
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
        assert!(error.remedy().is_some(), "{error:?}");
        assert_unchanged(&site, &before);
        assert_eq!(site.array.maps(), []);
        for portal in portals(&site) {
            site.array.set_portal(portal, Reachability::Up).unwrap();
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        attach(&site, 0).await.unwrap();
        site.node(0).detach(DISK).await.unwrap();
        site.node(0).delete(DISK).await.unwrap();
        assert_unchanged(&site, &empty);
    }
}

/// All paths die under a running guest; it can be stopped, and everything is as before when they come back.
#[tokio::test(start_paused = true)]
async fn a_disk_that_lost_all_its_paths_can_be_detached() {
    let site = Site::started(2).await.unwrap();
    let before = site.audit();
    site.node(0).create(DISK, SIZE).await.unwrap();
    let (path, _) = attach(&site, 0).await.unwrap();
    site.node(0).write(&path, 0, b"first").await.unwrap();
    for portal in portals(&site) {
        site.node(0).host.partition(portal);
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    let began = Instant::now();
    let detached = site.node(0).detach(DISK).await;
    assert!(began.elapsed() < Duration::from_secs(60), "{:?}", began.elapsed());
    for portal in portals(&site) {
        site.node(0).host.heal(portal);
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    if detached.is_err() {
        site.node(0).san().take_up_open().await.unwrap();
        site.node(0).detach(DISK).await.unwrap();
    }
    let (path, _) = attach(&site, 1).await.unwrap();
    assert_eq!(site.node(1).read(&path, 0, 5).await.unwrap(), b"first");
    site.node(1).detach(DISK).await.unwrap();
    site.node(1).delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_multipathd_is_named_and_everything_recovers() {
    let site = Site::started(1).await.unwrap();
    let before = site.audit();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let made = site.audit();
    node.host.stop_multipathd();
    let error = attach(&site, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(format!("{error:?}").contains("multipathd"), "{error:?}");
    assert!(error.remedy().is_some_and(|it| it.contains("systemctl start multipathd")), "{error:?}");
    node.host.start_multipathd();
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(node.san().take_up_open().await.unwrap(), 0);
    assert_unchanged(&site, &made);

    // While a disk is attached: nothing is lost, and what could not be done is done later.
    let (path, _) = attach(&site, 0).await.unwrap();
    node.write(&path, 0, b"bytes").await.unwrap();
    node.host.stop_multipathd();
    assert_eq!(node.read(&path, 0, 5).await.unwrap(), b"bytes");
    let grown = node.grow(DISK, GROWN).await;
    let error = match node.detach(DISK).await {
        Err(error) => format!("{error:?}"),
        Ok(Outcome::Detached { pending }) => format!("{pending:?}"),
        Ok(other) => panic!("{other:?}"),
    };
    assert!(error.contains("multipathd") || error.contains("earlier operation"), "{error}");
    node.host.start_multipathd();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(
        node.san().take_up_open().await.unwrap(),
        0,
        "{:?} {grown:?}",
        node.san().open_operations().await
    );
    let (path, _) = attach(&site, 0).await.unwrap();
    assert_eq!(node.read(&path, 0, 5).await.unwrap(), b"bytes");
    node.grow(DISK, GROWN).await.unwrap();
    node.write(&path, GROWN.bytes() - 4, b"tail").await.unwrap();
    node.detach(DISK).await.unwrap();
    node.delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn a_multipathd_that_hangs_is_named_in_time() {
    let site = Site::started(1).await.unwrap();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let made = site.audit();
    node.host.hang_multipathd();
    let began = Instant::now();
    let error = attach(&site, 0).await.unwrap_err();
    assert!(began.elapsed() <= Duration::from_secs(56), "{:?}", began.elapsed());
    assert!(format!("{error:?}").contains("multipathd"), "{error:?}");
    node.host.start_multipathd();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(node.san().take_up_open().await.unwrap(), 0);
    assert_unchanged(&site, &made);
    attach(&site, 0).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_stopped_iscsid_is_named_and_everything_recovers() {
    let site = Site::started(1).await.unwrap();
    let before = site.audit();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let made = site.audit();
    node.host.stop_iscsid();
    let error = attach(&site, 0).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
    assert!(format!("{error:?}").contains("iscsid"), "{error:?}");
    assert_unchanged(&site, &made);
    node.host.start_iscsid();
    tokio::time::sleep(Duration::from_secs(10)).await;
    attach(&site, 0).await.unwrap();
    // With its sessions there, iscsid is needed for nothing.
    node.host.stop_iscsid();
    node.detach(DISK).await.unwrap();
    attach(&site, 0).await.unwrap();
    node.snapshot(DISK, &snapshot()).await.unwrap();
    node.delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

/// A map that is used by something is never taken down, and its user is named.
#[tokio::test(start_paused = true)]
async fn whatever_is_in_use_stays_and_its_user_is_named() {
    let site = Site::started(1).await.unwrap();
    let before = site.audit();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    node.snapshot(DISK, &snapshot()).await.unwrap();
    let (path, _) = attach(&site, 0).await.unwrap();
    let held = site.audit();
    let refused = async |word: &str| {
        for request in [
            Request::Detach { object: DISK.to_owned() },
            Request::Rollback { object: DISK.to_owned(), snapshot: snapshot() },
            Request::Delete { object: DISK.to_owned() },
        ] {
            let error = node.call(request.clone()).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InUse, "{request:?}: {error:?}");
            assert!(format!("{error:?}").contains(word), "{word}: {request:?}: {error:?}");
            node.write(&path, 0, b"alive").await.unwrap();
        }
    };
    let handle = node.host.open(&path).unwrap();
    refused("open").await;
    drop(handle);
    node.host.mount(&path, std::path::Path::new("/mnt/x")).unwrap();
    refused("mounted").await;
    node.host.unmount(std::path::Path::new("/mnt/x"));
    node.host.swap_on(&path).unwrap();
    refused("swap").await;
    node.host.swap_off();
    let map = node.host.inventory().maps[0].name.clone();
    node.host.stack_device(&map, "vg-lv", "LVM-0123456789").unwrap();
    refused("dm-").await;
    node.host.unstack_device("vg-lv");
    assert_unchanged(&site, &held);
    node.detach(DISK).await.unwrap();
    node.delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

/// The first node has the disk, with one path less than it could have.
async fn attached_with_a_dead_portal(site: &Site) -> (PathBuf, SocketAddr) {
    let dead = portals(site)[1];
    site.array.set_portal(dead, Reachability::Refusing).unwrap();
    site.node(0).create(DISK, SIZE).await.unwrap();
    let (path, _) = attach(site, 0).await.unwrap();
    assert_eq!(paths(site, 0), 3);
    (path, dead)
}

fn completed(site: &Site, index: usize) -> u64 {
    let repairs = site.node(index).san().repairs();
    repairs.get(&Repair::PathsCompleted).map_or(0, |it| it.count)
}

#[tokio::test(start_paused = true)]
async fn paths_that_were_missing_are_made_when_their_portal_is_back() {
    let site = Site::started(1).await.unwrap();
    let before = site.audit();
    let node = site.node(0);
    let (path, dead) = attached_with_a_dead_portal(&site).await;
    let guest = node.host.open(&path).unwrap();
    let mark = site.array.mark();
    for _ in 0..3 {
        node.san().complete_paths().await.unwrap();
        tokio::time::sleep(Duration::from_secs(30)).await;
    }
    assert_eq!((paths(&site, 0), completed(&site, 0)), (3, 0), "the portal is still dead");
    site.array.set_portal(dead, Reachability::Up).unwrap();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_secs(30)).await;
        node.san().complete_paths().await.unwrap();
    }
    assert_eq!((paths(&site, 0), completed(&site, 0)), (4, 1));
    assert_eq!(site.array.requests(mark), [], "the array is asked nothing");
    node.write(&path, 0, b"works").await.unwrap();
    drop(guest);
    node.detach(DISK).await.unwrap();
    node.delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

/// The guest has moved, and this node only has not noticed yet.
#[tokio::test(start_paused = true)]
async fn no_paths_are_made_to_what_belongs_here_no_longer() {
    let site = Site::started(2).await.unwrap();
    let before = site.audit();
    let (_, dead) = attached_with_a_dead_portal(&site).await;
    let held = site.node(0).host.inventory().legs.len();
    site.guests.place(DISK, &site.node(1).name, Tie::Configured);
    site.array.set_portal(dead, Reachability::Up).unwrap();
    attach(&site, 1).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    site.node(0).san().complete_paths().await.unwrap();
    assert_eq!((site.node(0).host.inventory().legs.len(), completed(&site, 0)), (held, 0));
    site.node(0).san().drop_stale_attachments().await.unwrap();
    site.node(1).delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

/// Whatever was begun when the daemon was killed is on record, and ended by the next look or with the disk.
#[tokio::test(start_paused = true)]
async fn making_paths_can_be_interrupted_anywhere() {
    for side in [Side::Before, Side::After] {
        let mut boundaries = 0;
        while stopped_at(boundaries, side).await {
            boundaries += 1;
        }
        assert!(boundaries > 3, "only {boundaries} boundaries");
    }
}

/// `false`: there is no such boundary.
async fn stopped_at(number: usize, which: Side) -> bool {
    let mut site = Site::started(1).await.unwrap();
    let before = site.audit();
    let (_, dead) = attached_with_a_dead_portal(&site).await;
    site.kill(0);
    site.array.set_portal(dead, Reachability::Up).unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let stopper = Stopper::new(Some((number, which)));
    let array = Arc::new(site.connect(stopper.effects()).await.unwrap());
    site.start_with(0, stopper.effects(), array).await.unwrap();
    let reached = {
        let made = site.node(0).san().complete_paths();
        tokio::pin!(made);
        tokio::select! {
            biased;
            () = stopper.reached() => true,
            done = &mut made => { done.unwrap(); false }
        }
    };
    site.kill(0);
    site.start(0, Effects::unobserved()).await.unwrap();
    if number.is_multiple_of(2) {
        site.node(0).san().complete_paths().await.unwrap();
        assert_eq!(paths(&site, 0), 4, "{which:?} {number}");
    }
    site.node(0).detach(DISK).await.unwrap();
    site.node(0).delete(DISK).await.unwrap();
    let findings = site.audit().against(&before);
    assert!(findings.is_empty(), "{which:?} {number} {:?}:\n{findings}", stopper.passed().last());
    reached
}

/// The daemon looks by itself, and its status tells what is missing until then.
#[tokio::test(start_paused = true)]
async fn a_daemon_makes_missing_paths_within_a_minute() {
    let site = DaemonSite::started(1).await.unwrap();
    let client = site.client(0);
    client.add().await.unwrap();
    client.call("volume.create", json!({ "vmid": 100, "name": DISK, "size_bytes": 8 << 20 })).await.unwrap();
    let dead = portals(&site.site)[1];
    site.site.array.set_portal(dead, Reachability::BlackHole).unwrap();
    client.call("volume.attach", json!({ "name": DISK })).await.unwrap();
    let status = async || {
        let status = client.call("admin.status", json!({ "storage": null })).await.unwrap();
        let storage = &status.ok["storages"][0];
        let disk = &storage["disks"][0];
        (disk["paths_usable"].clone(), disk["paths_expected"].clone(), storage["repairs"].clone())
    };
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(status().await, (json!(3), json!(4), json!([])));
    site.site.array.set_portal(dead, Reachability::Up).unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (usable, expected, repairs) = status().await;
    assert_eq!((&usable, &expected), (&json!(4), &json!(4)));
    assert_eq!((&repairs[0]["kind"], &repairs[0]["last"]), (&json!("paths-completed"), &json!(DISK)));
}
