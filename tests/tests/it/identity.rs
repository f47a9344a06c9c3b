//! Right disk or no disk: whatever the array, the kernel or other nodes do meanwhile, nobody gets another's bytes.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use san_core::{ByteSize, Effects, ErrorKind, Result};
use san_engine::Tie;
use san_sim::ontap::{Identity, MapInfo, OntapConfig, Version};
use san_sim::target::Target;
use sanbridge_tests::site::{SVM, Site};

use crate::support::{DISK, GROWN, SIZE, assert_unchanged, snapshot};

/// A disk of another guest on the same node, which must never notice anything.
const OTHER: &str = "vm-200-disk-0";

fn path_of(site: &Site, object: &str) -> String {
    let end = format!("{}/", object.replace('-', "_"));
    let luns = site.array.luns();
    luns.into_iter()
        .map(|it| it.path)
        .find(|it| it.contains(&end))
        .unwrap_or_else(|| panic!("no LUN of {object}"))
}

fn map_of(site: &Site, object: &str) -> MapInfo {
    let path = path_of(site, object);
    site.array.maps().into_iter().find(|it| it.lun == path).unwrap()
}

fn portals(site: &Site) -> Vec<SocketAddr> {
    site.array.portals().into_iter().map(|it| it.address).collect()
}

async fn write(site: &Site, index: usize, path: &Path, bytes: &[u8]) {
    site.node(index).write(path, 0, bytes).await.unwrap();
}

async fn read(site: &Site, index: usize, path: &Path) -> Vec<u8> {
    site.node(index).read(path, 0, 5).await.unwrap()
}

/// Two guests' disks, attached on node 1, with bytes of their own.
async fn two_disks(site: &Site) {
    for (object, bytes) in [(DISK, b"mine1"), (OTHER, b"other")] {
        site.node(0).create(object, SIZE).await.unwrap();
        let path = site.node(0).attach(object).await.unwrap();
        write(site, 0, &path, bytes).await;
    }
}

/// The number of an attached disk leads to another volume from one moment to the next.
#[tokio::test(start_paused = true)]
async fn a_number_that_leads_to_another_volume_is_refused() {
    let site = Site::started(2).await.unwrap();
    two_disks(&site).await;
    site.array.add_volume(SVM, "victim", 1 << 30, "").unwrap();
    site.array.add_lun(SVM, "/vol/victim/lun0", SIZE.bytes(), "").unwrap();
    let mine = map_of(&site, DISK);
    let bystander = site.node(0).attach(OTHER).await.unwrap();
    site.array.reuse_number(SVM, &mine.igroup, mine.number, "/vol/victim/lun0").unwrap();
    // Attaching again heals it under another number, or refuses; the victim is never handed out.
    let attached = site.node(0).attach(DISK).await;
    match attached {
        Ok(path) => assert_eq!(read(&site, 0, &path).await, b"mine1"),
        Err(error) => assert!(
            matches!(error.kind(), ErrorKind::IdentityMismatch | ErrorKind::Unavailable | ErrorKind::InUse),
            "{error:?}"
        ),
    }
    assert_eq!(read(&site, 0, &bystander).await, b"other");
    // Growing, rolling back and detaching do not take the stranger for ours either.
    let _ = site.node(0).grow(DISK, GROWN).await;
    let _ = site.node(0).detach(DISK).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let victim = site.array.lun(SVM, "/vol/victim/lun0").unwrap();
    assert_eq!(victim.size, SIZE.bytes());
    let file = site.array.lun_file(SVM, "/vol/victim/lun0").unwrap();
    assert!(std::fs::read(file).unwrap().iter().all(|it| *it == 0), "nothing was written to the victim");
    let foreign = site.array.maps().into_iter().any(|it| it.lun == "/vol/victim/lun0");
    assert!(foreign, "the admin's own mapping stays");
    assert_eq!(read(&site, 0, &bystander).await, b"other");
}

/// A detached disk's number was given to another volume before the disk comes back: with a gap, or at once.
#[tokio::test(start_paused = true)]
async fn a_number_used_again_after_a_detach_leads_to_the_new_volume_only() {
    for gap in [Duration::ZERO, Duration::from_secs(120)] {
        let site = Site::started(1).await.unwrap();
        let before = site.audit();
        let node = site.node(0);
        node.create(DISK, SIZE).await.unwrap();
        let path = node.attach(DISK).await.unwrap();
        write(&site, 0, &path, b"mine1").await;
        node.detach(DISK).await.unwrap();
        tokio::time::sleep(gap).await;
        node.create(OTHER, SIZE).await.unwrap();
        let other = node.attach(OTHER).await.unwrap();
        write(&site, 0, &other, b"other").await;
        let path = node.attach(DISK).await.unwrap();
        assert_eq!(read(&site, 0, &path).await, b"mine1");
        assert_eq!(read(&site, 0, &other).await, b"other");
        assert_ne!(map_of(&site, DISK).number, map_of(&site, OTHER).number);
        for object in [DISK, OTHER] {
            node.detach(object).await.unwrap();
            node.delete(object).await.unwrap();
        }
        assert_unchanged(&site, &before);
    }
}

/// All 255 numbers go round: none is in use twice at a time, and the bytes are always the disk's own.
#[tokio::test(start_paused = true)]
async fn numbers_that_went_round_lead_to_the_right_disks() {
    // One path is enough for this, and four take four times as long.
    let one_path = |it: &mut OntapConfig| it.svms[0].portals.truncate(1);
    let mut site = Site::with(1, Version::new(9, 16, 1), one_path).unwrap();
    site.start(0, Effects::unobserved()).await.unwrap();
    let before = site.audit();
    let node = site.node(0);
    node.create(OTHER, SIZE).await.unwrap();
    let other = node.attach(OTHER).await.unwrap();
    write(&site, 0, &other, b"other").await;
    node.create(DISK, SIZE).await.unwrap();
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..260 {
        let path = node.attach(DISK).await.unwrap();
        if round == 0 {
            write(&site, 0, &path, b"mine1").await;
        }
        assert_eq!(read(&site, 0, &path).await, b"mine1");
        seen.insert(map_of(&site, DISK).number);
        node.detach(DISK).await.unwrap();
    }
    assert_eq!(seen.len(), 254, "every number but the other disk's, each resting as long as possible");
    assert_eq!(read(&site, 0, &other).await, b"other");
    for object in [DISK, OTHER] {
        node.detach(object).await.unwrap();
        node.delete(object).await.unwrap();
    }
    assert_unchanged(&site, &before);
}

/// Attach refuses, takes everything back, and works once the array shows the right identity again.
async fn refused_while(site: &Site, portal: Option<SocketAddr>, identity: Identity) {
    let node = site.node(0);
    let lun = path_of(site, DISK);
    let before = site.audit();
    site.array.override_identity(SVM, &lun, portal, Some(identity.clone())).unwrap();
    match node.attach(DISK).await {
        Ok(path) => {
            // The wrong leg is left out; the bytes come through the right ones.
            assert!(portal.is_some(), "{identity:?} on every leg");
            assert_eq!(read(site, 0, &path).await, b"mine1");
            let maps = node.host.inventory().maps;
            let map = maps.iter().find(|it| it.paths.len() == 3);
            assert!(map.is_some(), "the wrong leg is no path: {maps:?}");
            site.array.override_identity(SVM, &lun, portal, None).unwrap();
            node.detach(DISK).await.unwrap();
        }
        Err(error) => {
            assert!(
                matches!(
                    error.kind(),
                    ErrorKind::IdentityMismatch | ErrorKind::Protocol | ErrorKind::NotFound
                ),
                "{identity:?}: {error:?}"
            );
            site.array.override_identity(SVM, &lun, portal, None).unwrap();
        }
    }
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(node.san().take_up_open().await.unwrap(), 0);
    assert_unchanged(site, &before);
    let path = node.attach(DISK).await.unwrap();
    assert_eq!(read(site, 0, &path).await, b"mine1");
    node.detach(DISK).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn wrong_equal_and_empty_identities_are_never_handed_out() {
    let site = Site::started(1).await.unwrap();
    two_disks(&site).await;
    site.node(0).detach(DISK).await.unwrap();
    let other = site.array.lun(SVM, &path_of(&site, OTHER)).unwrap().serial.into_bytes();
    let bystander = site.node(0).attach(OTHER).await.unwrap();
    for identity in [Identity::Serial(b"wrong-serial".to_vec()), Identity::Serial(other), Identity::Empty] {
        for portal in [None, Some(portals(&site)[2])] {
            refused_while(&site, portal, identity.clone()).await;
            assert_eq!(read(&site, 0, &bystander).await, b"other");
        }
    }
}

/// Under an attached disk an identity changes: the next attach, grow and detach notice, and touch nothing wrong.
#[tokio::test(start_paused = true)]
async fn an_identity_that_changes_under_an_attached_disk_is_noticed() {
    let site = Site::started(1).await.unwrap();
    two_disks(&site).await;
    let lun = path_of(&site, DISK);
    let wrong = Identity::Serial(b"wrong-serial".to_vec());
    site.array.override_identity(SVM, &lun, None, Some(wrong)).unwrap();
    let node = site.node(0);
    assert!(node.attach(DISK).await.is_err(), "it is not the disk any more");
    assert!(node.grow(DISK, GROWN).await.is_err());
    site.array.override_identity(SVM, &lun, None, None).unwrap();
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!(node.san().take_up_open().await.unwrap(), 0);
    let path = node.attach(DISK).await.unwrap();
    assert_eq!(read(&site, 0, &path).await, b"mine1");
    node.detach(DISK).await.unwrap();
    node.delete(DISK).await.unwrap();
}

/// What a node that was away still holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Away {
    /// Its engine was killed; the devices are there.
    Daemon,
    /// It was reset.
    Machine,
}

/// Node 1 holds the disk and is away; node 2 takes it over, and what `change` does happens there. Then node 1 attaches.
async fn away_while(away: Away, change: impl AsyncFnOnce(&Site)) -> (Site, Result<std::path::PathBuf>) {
    let mut site = Site::started(2).await.unwrap();
    two_disks(&site).await;
    site.kill(0);
    if away == Away::Machine {
        site.node(0).host.crash();
    }
    site.guests.place(DISK, &site.node(1).name, Tie::Configured);
    let path = site.node(1).attach(DISK).await.unwrap();
    assert_eq!(read(&site, 1, &path).await, b"mine1");
    change(&site).await;
    if away == Away::Machine {
        site.node(0).host.boot();
    }
    assert_eq!(site.start(0, Effects::unobserved()).await.unwrap(), 0);
    site.guests.place(DISK, &site.node(0).name, Tie::Configured);
    let attached = site.node(0).attach(DISK).await;
    (site, attached)
}

async fn ends_clean(mut site: Site) {
    for index in 0..2 {
        for object in [DISK, OTHER] {
            site.node(index).detach(object).await.unwrap();
        }
    }
    for object in [DISK, OTHER] {
        site.node(0).delete(object).await.unwrap();
    }
    let left = site.audit().against(&Site::started(2).await.unwrap().audit());
    assert!(left.is_empty(), "{left}");
    site.kill(0);
}

#[tokio::test(start_paused = true)]
async fn a_name_made_anew_elsewhere_is_the_new_disk() {
    for away in [Away::Daemon, Away::Machine] {
        let (site, attached) = away_while(away, async |site| {
            let node = site.node(1);
            node.detach(DISK).await.unwrap();
            node.delete(DISK).await.unwrap();
            node.create(DISK, SIZE).await.unwrap();
            let path = node.attach(DISK).await.unwrap();
            write(site, 1, &path, b"newer").await;
            node.detach(DISK).await.unwrap();
        })
        .await;
        let path = attached.unwrap_or_else(|error| panic!("{away:?}: {error:?}"));
        assert_eq!(read(&site, 0, &path).await, b"newer", "{away:?}");
        ends_clean(site).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_made_anew_with_another_size_is_the_new_disk() {
    for away in [Away::Daemon, Away::Machine] {
        let (site, attached) = away_while(away, async |site| {
            let node = site.node(1);
            node.delete(DISK).await.unwrap();
            node.create(DISK, ByteSize::from_mib(4)).await.unwrap();
        })
        .await;
        let path = attached.unwrap_or_else(|error| panic!("{away:?}: {error:?}"));
        assert_eq!(read(&site, 0, &path).await, [0; 5], "{away:?}");
        assert!(site.node(0).read(&path, 4 << 20, 512).await.is_err(), "the new one is smaller");
        ends_clean(site).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_grown_elsewhere_has_its_new_size() {
    for away in [Away::Daemon, Away::Machine] {
        let (site, attached) = away_while(away, async |site| {
            site.node(1).grow(DISK, GROWN).await.unwrap();
            let path = site.node(1).attach(DISK).await.unwrap();
            site.node(1).write(&path, GROWN.bytes() - 4, b"tail").await.unwrap();
            site.node(1).detach(DISK).await.unwrap();
        })
        .await;
        let path = attached.unwrap_or_else(|error| panic!("{away:?}: {error:?}"));
        assert_eq!(site.node(0).read(&path, GROWN.bytes() - 4, 4).await.unwrap(), b"tail", "{away:?}");
        ends_clean(site).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_disk_rolled_back_elsewhere_has_the_old_bytes() {
    for away in [Away::Daemon, Away::Machine] {
        let (site, attached) = away_while(away, async |site| {
            let node = site.node(1);
            node.snapshot(DISK, &snapshot()).await.unwrap();
            let path = node.attach(DISK).await.unwrap();
            write(site, 1, &path, b"wrong").await;
            node.grow(DISK, GROWN).await.unwrap();
            node.roll_back(DISK, &snapshot()).await.unwrap();
        })
        .await;
        let path = attached.unwrap_or_else(|error| panic!("{away:?}: {error:?}"));
        // The page cache of before is gone with the old device.
        assert_eq!(site.node(0).host.read_cached(&path, 0, 5).await.unwrap(), b"mine1", "{away:?}");
        assert!(site.node(0).read(&path, SIZE.bytes(), 512).await.is_err(), "it has its old size");
        ends_clean(site).await;
    }
}

/// Both nodes have the disk, as in a migration; one grows it; the other follows when it is asked, with a path missing.
#[tokio::test(start_paused = true)]
async fn a_disk_grown_by_the_other_side_of_a_migration_follows() {
    for missing in [false, true] {
        let site = Site::started(2).await.unwrap();
        two_disks(&site).await;
        site.guests.place(DISK, &site.node(0).name, Tie::Configured);
        let dead = portals(&site)[0];
        if missing {
            site.node(1).host.partition(dead);
        }
        let path = site.node(1).attach(DISK).await.unwrap();
        site.node(0).grow(DISK, GROWN).await.unwrap();
        site.node(1).host.heal(dead);
        tokio::time::sleep(Duration::from_secs(10)).await;
        site.node(1).attach(DISK).await.unwrap();
        site.node(1).write(&path, GROWN.bytes() - 4, b"tail").await.unwrap();
        assert_eq!(site.node(0).read(&path, GROWN.bytes() - 4, 4).await.unwrap(), b"tail");
        ends_clean(site).await;
    }
}

/// The disk goes while nobody of ours looks: its name is absent, and this node's leftovers go with the next call.
#[tokio::test(start_paused = true)]
async fn a_disk_deleted_on_the_array_is_not_handed_out() {
    let site = Site::started(1).await.unwrap();
    let before = site.audit();
    two_disks(&site).await;
    let volume = path_of(&site, DISK).split('/').nth(2).unwrap().to_owned();
    site.array.destroy_volume(SVM, &volume).unwrap();
    let node = site.node(0);
    assert!(node.attach(DISK).await.is_err(), "its device answers nobody any more");
    node.detach(DISK).await.unwrap();
    assert_eq!(node.attach(DISK).await.unwrap_err().kind(), ErrorKind::NotFound);
    node.delete(DISK).await.unwrap();
    // The name is free again, and the new disk is a new one.
    node.create(DISK, SIZE).await.unwrap();
    let path = node.attach(DISK).await.unwrap();
    assert_eq!(read(&site, 0, &path).await, [0; 5]);
    for object in [DISK, OTHER] {
        node.detach(object).await.unwrap();
        node.delete(object).await.unwrap();
    }
    assert_unchanged(&site, &before);
}

/// Without the cluster's bindings the array's marks decide, and deletion leaves no binding behind.
#[tokio::test(start_paused = true)]
async fn lost_bindings_are_found_again_on_the_array() {
    let site = Site::started(2).await.unwrap();
    let before = site.audit();
    site.node(0).create(DISK, SIZE).await.unwrap();
    std::fs::remove_dir_all(site.cluster_folder().join("volumes")).unwrap();
    let path = site.node(1).attach(DISK).await.unwrap();
    write(&site, 1, &path, b"mine1").await;
    site.node(1).detach(DISK).await.unwrap();
    std::fs::remove_dir_all(site.cluster_folder().join("volumes")).unwrap();
    site.node(0).delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}
