//! The core life of a disk, through the engine, on one site.

use san_core::{ByteSize, Effects, SnapshotName};
use san_engine::{Outcome, Tie};
use san_sim::host::LogKind;
use san_sim::ontap::{Personality, Role, Scope, Version};
use sanbridge_tests::site::{SVM, SVM_ROLE, Site};

const DISK: &str = "vm-100-disk-0";
const SIZE: ByteSize = ByteSize::from_mib(8);

#[tokio::test(start_paused = true)]
async fn a_disk_lives_and_leaves_nothing_behind() {
    live(Site::started(2).await.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn a_disk_lives_on_every_release_and_personality() {
    for version in Version::ALL {
        for personality in [Personality::Unified, Personality::Asa] {
            let site = Site::with(2, version, |it| it.personality = personality).unwrap();
            live(running(site).await).await;
        }
    }
}

/// With an account of the SVM and exactly the role that is shipped for it.
#[tokio::test(start_paused = true)]
async fn a_disk_lives_with_an_account_of_the_svm() {
    // All suites have that of the cluster.
    let role: Role = SVM_ROLE.parse().unwrap();
    for version in [Version::OLDEST, Version::new(9, 12, 1), Version::NEWEST] {
        let site = Site::with(2, version, |it| {
            it.role = Some(role.clone());
            it.scope = Scope::Svm(SVM.to_owned());
        });
        live(running(site.unwrap()).await).await;
    }
}

/// Where LUNs are larger than they were asked to be.
#[tokio::test(start_paused = true)]
async fn a_disk_lives_on_an_array_that_rounds_its_size() {
    let site = Site::with(1, Version::OLDEST, |it| it.limits.lun_granule = 255 * 63 * 512).unwrap();
    let site = running(site).await;
    let before = site.audit();
    let one = site.node(0);
    let Outcome::Created { size, .. } = one.create(DISK, SIZE).await.unwrap() else { panic!("not created") };
    assert!(size > SIZE);
    let path = one.attach(DISK).await.unwrap();
    one.write(&path, size.bytes() - 4, b"tail").await.unwrap();
    let Outcome::Grown { size: grown } = one.grow(DISK, SIZE.times(3)).await.unwrap() else {
        panic!("not grown")
    };
    assert!(grown > SIZE.times(3));
    one.write(&path, grown.bytes() - 4, b"tail").await.unwrap();
    one.detach(DISK).await.unwrap();
    one.delete(DISK).await.unwrap();
    let findings = site.audit().against(&before);
    assert!(findings.is_empty(), "{findings}");
}

/// The site with all its engines.
async fn running(mut site: Site) -> Site {
    for index in 0..site.nodes() {
        site.start(index, Effects::unobserved()).await.unwrap();
    }
    site
}

async fn live(site: Site) {
    let before = site.audit();
    let (one, two) = (site.node(0), site.node(1));
    assert_eq!(
        one.create(DISK, SIZE).await.unwrap(),
        Outcome::Created { object: DISK.into(), size: SIZE, template: None }
    );
    site.guests.place(DISK, &one.name, Tie::Configured);
    let path = one.attach(DISK).await.unwrap();
    one.write(&path, 0, b"first").await.unwrap();

    let snapshot: SnapshotName = "before".parse().unwrap();
    one.snapshot(DISK, &snapshot).await.unwrap();
    one.write(&path, 0, b"other").await.unwrap();
    assert_eq!(
        one.grow(DISK, ByteSize::from_mib(16)).await.unwrap(),
        Outcome::Grown { size: ByteSize::from_mib(16) }
    );
    one.write(&path, (16 << 20) - 4, b"tail").await.unwrap();

    // Live migration: both have it for a while, then the first lets go.
    let there = two.attach(DISK).await.unwrap();
    assert_eq!(there, path);
    assert_eq!(two.read(&there, 0, 5).await.unwrap(), b"other");
    site.guests.place(DISK, &two.name, Tie::Configured);
    one.detach(DISK).await.unwrap();
    assert_eq!(two.read(&there, (16 << 20) - 4, 4).await.unwrap(), b"tail");

    two.detach(DISK).await.unwrap();
    two.roll_back(DISK, &snapshot).await.unwrap();
    let path = two.attach(DISK).await.unwrap();
    assert_eq!(two.read(&path, 0, 5).await.unwrap(), b"first");
    two.delete_snapshot(DISK, &snapshot).await.unwrap();
    two.delete(DISK).await.unwrap();
    let findings = site.audit().against(&before);
    assert!(findings.is_empty(), "{findings}");
}

/// What a stopped guest has left in the cache of its node belongs into a snapshot. A disk in use is not flushed for one: its
/// user decides what is written when, and may be in the middle of a migration.
#[tokio::test(start_paused = true)]
async fn a_snapshot_has_what_an_idle_disk_caches_and_does_not_flush_one_in_use() {
    let site = Site::started(1).await.unwrap();
    let before = site.audit();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let path = node.attach(DISK).await.unwrap();
    node.write(&path, 0, b"disk").await.unwrap();
    node.host.write_cached(&path, 0, b"idle").await.unwrap();
    node.snapshot(DISK, &"idle".parse().unwrap()).await.unwrap();
    let guest = node.host.open(&path).unwrap();
    node.host.write_cached(&path, 0, b"used").await.unwrap();
    node.host.forget_log();
    node.snapshot(DISK, &"used".parse().unwrap()).await.unwrap();
    let flushes = node.host.log().into_iter().filter(|it| it.kind == LogKind::Flush).count();
    assert_eq!(flushes, 0);
    drop(guest);
    for (name, bytes) in [("idle", b"idle"), ("used", b"idle")] {
        node.roll_back(DISK, &name.parse().unwrap()).await.unwrap();
        let path = node.attach(DISK).await.unwrap();
        assert_eq!(node.read(&path, 0, 4).await.unwrap(), bytes, "{name}");
        node.write(&path, 0, b"over").await.unwrap();
    }
    node.delete(DISK).await.unwrap();
    let findings = site.audit().against(&before);
    assert!(findings.is_empty(), "{findings}");
}
