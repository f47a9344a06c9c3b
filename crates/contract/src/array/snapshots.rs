//! Clauses about snapshots and rolling back.

use std::collections::BTreeSet;

use san_core::{ErrorKind, Snapshot, SnapshotSet};

use super::{ArrayFixture, SIZE, assert_refused, choice, cx, host, look, made, set, snapshot_name};

/// Repeating is fine for the operation that took it and refused for every other.
pub async fn snapshots_belong_to_the_operation_that_took_them(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let volume = made(array, "vm-100-disk-0").await;
    let first = cx();
    let taken = array.snapshot(&first, &set(&volume, "one")).await.unwrap();
    assert_eq!(taken[0].claim, Some(first.operation()));
    assert_eq!(array.snapshot(&first, &set(&volume, "one")).await.unwrap(), taken);
    let error = array.snapshot(&cx(), &set(&volume, "one")).await.unwrap_err();
    assert_refused(&error, ErrorKind::AlreadyExists);
    array.snapshot(&cx(), &set(&volume, "two")).await.unwrap();
    let names = |all: &[Snapshot]| all.iter().map(|it| it.name.to_string()).collect::<BTreeSet<_>>();
    let all = array.snapshots(&cx(), &volume).await.unwrap();
    assert_eq!(names(&all), BTreeSet::from(["one".to_owned(), "two".to_owned()]));
    assert!(array.ensure_no_snapshot(&cx(), &volume, &snapshot_name("one")).await.unwrap());
    assert!(!array.ensure_no_snapshot(&cx(), &volume, &snapshot_name("one")).await.unwrap());
    let all = array.snapshots(&cx(), &volume).await.unwrap();
    assert_eq!(names(&all), BTreeSet::from(["two".to_owned()]));
}

/// A schedule's snapshots stay, even under a name like ours.
pub async fn snapshots_of_others_are_neither_listed_nor_deleted(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let volume = made(array, "vm-100-disk-0").await;
    let foreign = ["hourly.2026-01-01_0005", "one", "sb_one"];
    for name in foreign {
        fixture.add_foreign_snapshot(&volume, name).await;
    }
    let before = fixture.bystanders().await;
    assert_eq!(array.snapshots(&cx(), &volume).await.unwrap(), Vec::new());
    assert!(!array.ensure_no_snapshot(&cx(), &volume, &snapshot_name("one")).await.unwrap());
    assert_eq!(fixture.bystanders().await, before);
}

/// Bytes and size come back; identity, mappings and newer snapshots stay, and one can go forward again.
pub async fn rolling_back_restores_bytes_and_size_and_keeps_the_rest(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let volume = made(array, "vm-100-disk-0").await;
    fixture.write(&volume, b"first").await;
    array.snapshot(&cx(), &set(&volume, "one")).await.unwrap();
    fixture.write(&volume, b"second").await;
    let grown = array.resize(&cx(), &volume, SIZE.times(2)).await.unwrap();
    array.snapshot(&cx(), &set(&volume, "two")).await.unwrap();
    fixture.write(&volume, b"third!").await;
    for (name, bytes, size) in
        [("one", &b"first"[..], SIZE), ("two", b"second", grown), ("one", b"first", SIZE)]
    {
        array.rollback(&cx(), &volume, &snapshot_name(name)).await.unwrap();
        let now = look(array, &volume).await;
        assert_eq!(fixture.read(&now, bytes.len()).await, bytes);
        assert_eq!((now.size, &now.identity), (size, &volume.identity));
        assert_eq!(array.snapshots(&cx(), &volume).await.unwrap().len(), 2);
    }
}

/// What somebody may be writing to is not rolled back.
pub async fn a_mapped_volume_is_not_rolled_back(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let volume = made(array, "vm-100-disk-0").await;
    fixture.write(&volume, b"first").await;
    array.snapshot(&cx(), &set(&volume, "one")).await.unwrap();
    fixture.write(&volume, b"second").await;
    let node = host(array, "node1").await;
    array.ensure_mapped(&cx(), &volume, &node, &choice([5])).await.unwrap();
    let error = array.rollback(&cx(), &volume, &snapshot_name("one")).await.unwrap_err();
    assert_refused(&error, ErrorKind::InUse);
    assert!(error.chain().to_string().contains(&node.name), "{}", error.chain());
    assert_eq!(fixture.read(&volume, 6).await, b"second");
    array.ensure_unmapped(&cx(), &volume.id, &node.id).await.unwrap();
    array.rollback(&cx(), &volume, &snapshot_name("one")).await.unwrap();
    assert_eq!(fixture.read(&volume, 5).await, b"first");
}

/// Rolling back to a snapshot that is not there changes nothing.
pub async fn rolling_back_to_nothing_is_refused(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let volume = made(array, "vm-100-disk-0").await;
    fixture.write(&volume, b"first").await;
    let error = array.rollback(&cx(), &volume, &snapshot_name("one")).await.unwrap_err();
    assert_refused(&error, ErrorKind::NotFound);
    assert_eq!(fixture.read(&volume, 5).await, b"first");
}

/// A set of several volumes is taken as one, or refused before the first.
pub async fn a_set_is_snapshotted_at_one_instant_or_not_at_all(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let volumes = vec![made(array, "vm-100-disk-0").await, made(array, "vm-100-disk-1").await];
    let set = SnapshotSet { volumes: volumes.clone(), name: snapshot_name("one") };
    let expected = match array.snapshot(&cx(), &set).await {
        Ok(taken) => taken.len() / volumes.len(),
        Err(error) => {
            assert_refused(&error, ErrorKind::Unsupported);
            0
        }
    };
    for volume in &volumes {
        assert_eq!(array.snapshots(&cx(), volume).await.unwrap().len(), expected);
    }
}
