//! Clauses about clones and names.

use std::time::Duration;

use san_core::{
    CloneSpec, DeleteMode, ErrorKind, Lineage, Mark, Marked, Splits, Volume, VolumeKey, VolumeKind,
};

use super::{ArrayFixture, SIZE, assert_refused, choice, cx, host, look, made, query, set, spec};

/// What a clone of `source` would be.
fn clone_spec(fixture: &impl ArrayFixture, source: &Volume, object: &str, snapshot: &str) -> CloneSpec {
    let spec = spec(fixture.array(), object, SIZE);
    let mark = Mark { template: Some("base-100-disk-0".to_owned()), ..spec.mark() };
    CloneSpec { name: spec.name, mark, source: source.clone(), snapshot: snapshot.parse().unwrap() }
}

/// A volume whose snapshot `state` holds `first` and which holds `other` now.
async fn source(fixture: &impl ArrayFixture) -> Volume {
    let volume = made(fixture.array(), "vm-100-disk-0").await;
    fixture.write(&volume, b"first").await;
    fixture.array().snapshot(&cx(), &set(&volume, "state")).await.unwrap();
    fixture.write(&volume, b"other").await;
    volume
}

/// As large as it, marked, and nobody sees it; what is written to one is not seen in the other.
pub async fn a_clone_has_the_bytes_of_its_snapshot_and_an_identity_of_its_own(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let source = source(fixture).await;
    let node = host(array, "node1").await;
    // Who sees the source does not see the clone.
    array.ensure_mapped(&cx(), &source, &node, &choice([1])).await.unwrap();
    let spec = clone_spec(fixture, &source, "vm-101-disk-0", "state");
    let made = array.ensure_clone(&cx(), &spec).await.unwrap();
    assert!(made.changed());
    let made = made.into_inner();
    assert_eq!((&made.name, made.size, &made.mapped), (&spec.name, SIZE, &Some(Vec::new())));
    assert_ne!(made.identity().unwrap(), source.identity().unwrap());
    let seen = look(array, &made).await;
    assert_eq!((&seen.mark, &seen.identity), (&Marked::Ours(spec.mark), &made.identity));
    assert_eq!(fixture.read(&made, 5).await, b"first");
    fixture.write(&made, b"third").await;
    assert_eq!(fixture.read(&source, 5).await, b"other");
    assert_eq!(array.volumes(&cx(), &query(array)).await.unwrap().len(), 2);
    // It grows like any other.
    assert_eq!(array.resize(&cx(), &made, SIZE.times(2)).await.unwrap(), SIZE.times(2));
}

/// A repetition finds it; another operation is refused.
pub async fn a_clone_belongs_to_the_operation_that_made_it(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let source = source(fixture).await;
    let spec = clone_spec(fixture, &source, "vm-101-disk-0", "state");
    let first = array.ensure_clone(&cx(), &spec).await.unwrap().into_inner();
    let again = array.ensure_clone(&cx(), &spec).await.unwrap();
    assert!(!again.changed());
    assert_eq!(again.into_inner().id, first.id);
    let other = clone_spec(fixture, &source, "vm-101-disk-0", "state");
    assert_refused(&array.ensure_clone(&cx(), &other).await.unwrap_err(), ErrorKind::AlreadyExists);
    let empty = super::spec(array, "vm-101-disk-0", SIZE);
    assert_refused(&array.ensure_volume(&cx(), &empty).await.unwrap_err(), ErrorKind::AlreadyExists);
}

/// Of a snapshot that is not there nothing is made.
pub async fn clones_of_nothing_are_refused(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let source = source(fixture).await;
    let spec = clone_spec(fixture, &source, "vm-101-disk-0", "nothing");
    assert_refused(&array.ensure_clone(&cx(), &spec).await.unwrap_err(), ErrorKind::NotFound);
    assert_eq!(array.volume(&cx(), &VolumeKey::Name(spec.name)).await.unwrap(), None);
}

/// Neither the snapshot nor the volume goes before the clone, and the refusal names it.
pub async fn what_clones_hang_on_stays(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let source = source(fixture).await;
    let spec = clone_spec(fixture, &source, "vm-101-disk-0", "state");
    let clone = array.ensure_clone(&cx(), &spec).await.unwrap().into_inner();
    let state = "state".parse().unwrap();
    assert_refused(&array.ensure_no_snapshot(&cx(), &source, &state).await.unwrap_err(), ErrorKind::Busy);
    let refused = array.ensure_no_volume(&cx(), &source, DeleteMode::Immediate).await.unwrap_err();
    assert_refused(&refused, ErrorKind::InUse);
    assert!(refused.chain().to_string().contains(spec.name.as_str()), "{}", refused.chain());
    assert!(array.ensure_no_volume(&cx(), &clone, DeleteMode::Immediate).await.unwrap());
    fixture.forget_deleted().await;
    assert!(array.ensure_no_snapshot(&cx(), &source, &state).await.unwrap());
    assert!(array.ensure_no_volume(&cx(), &source, DeleteMode::Immediate).await.unwrap());
}

/// Waits until the array has ended a split.
async fn independent(splits: &dyn Splits, volume: &Volume) {
    for _ in 0..600 {
        match splits.lineage(&cx(), volume).await.unwrap() {
            Lineage::Independent => return,
            Lineage::Splitting(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            Lineage::Clone => panic!("the array gave the split up"),
        }
    }
    panic!("the split has no end");
}

/// It keeps bytes, identity and mark, also while a host sees it; doing it twice is doing it once, and what is no clone is
/// left alone.
pub async fn a_split_clone_holds_its_parent_no_longer(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let Some(splits) = array.splits() else { return };
    let source = source(fixture).await;
    assert_eq!(splits.lineage(&cx(), &source).await.unwrap(), Lineage::Independent);
    assert_eq!(splits.ensure_splitting(&cx(), &source).await.unwrap(), Lineage::Independent);
    assert_eq!(array.snapshots(&cx(), &source).await.unwrap().len(), 1);
    let spec = clone_spec(fixture, &source, "vm-101-disk-0", "state");
    let clone = array.ensure_clone(&cx(), &spec).await.unwrap().into_inner();
    assert_eq!(splits.lineage(&cx(), &clone).await.unwrap(), Lineage::Clone);
    let node = host(array, "node1").await;
    array.ensure_mapped(&cx(), &clone, &node, &choice([1])).await.unwrap();
    let before = look(array, &clone).await;
    for _ in 0..2 {
        splits.ensure_splitting(&cx(), &clone).await.unwrap();
    }
    independent(splits, &clone).await;
    assert_eq!(look(array, &clone).await, before);
    assert_eq!(fixture.read(&clone, 5).await, b"first");
    assert!(array.ensure_no_snapshot(&cx(), &source, &"state".parse().unwrap()).await.unwrap());
    assert!(array.ensure_no_volume(&cx(), &source, DeleteMode::Immediate).await.unwrap());
    assert_eq!(fixture.read(&clone, 5).await, b"first");
}

/// Arrays may delete a clone's snapshots when they split it.
pub async fn a_clone_with_snapshots_is_not_split(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let Some(splits) = array.splits() else { return };
    let source = source(fixture).await;
    let spec = clone_spec(fixture, &source, "vm-101-disk-0", "state");
    let clone = array.ensure_clone(&cx(), &spec).await.unwrap().into_inner();
    array.snapshot(&cx(), &set(&clone, "kept")).await.unwrap();
    let refused = splits.ensure_splitting(&cx(), &clone).await.unwrap_err();
    assert_refused(&refused, ErrorKind::Conflict);
    assert!(refused.chain().to_string().contains("kept"), "{}", refused.chain());
    assert_eq!(splits.lineage(&cx(), &clone).await.unwrap(), Lineage::Clone);
    assert_eq!(array.snapshots(&cx(), &clone).await.unwrap().len(), 1);
}

/// Key, identity, mappings, bytes and snapshots stay; doing it twice is doing it once.
pub async fn renaming_changes_name_and_mark_and_nothing_else(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let volume = source(fixture).await;
    let node = host(array, "node1").await;
    array.ensure_mapped(&cx(), &volume, &node, &choice([7])).await.unwrap();
    let before = look(array, &volume).await;
    let to = spec(array, "base-100-disk-0", SIZE);
    let mark = Mark { kind: VolumeKind::Template, ..to.mark() };
    for _ in 0..2 {
        array.rename(&cx(), &volume, &to.name, &mark).await.unwrap();
    }
    assert_eq!(array.volume(&cx(), &VolumeKey::Name(volume.name.clone())).await.unwrap(), None);
    let after = array.volume(&cx(), &VolumeKey::Name(to.name.clone())).await.unwrap().unwrap();
    assert_eq!(after, Volume { name: to.name, mark: Marked::Ours(mark), ..before });
    let by_key = array.volume(&cx(), &VolumeKey::Id(volume.id.clone())).await.unwrap().unwrap();
    assert_eq!((by_key.name, by_key.identity), (after.name.clone(), after.identity.clone()));
    assert_eq!(fixture.read(&after, 5).await, b"other");
    assert_eq!(array.snapshots(&cx(), &after).await.unwrap().len(), 1);
}

/// Whoever has it keeps it.
pub async fn a_taken_name_is_not_renamed_to(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let (one, two) = (made(array, "vm-100-disk-0").await, made(array, "vm-100-disk-1").await);
    let mark = spec(array, "vm-100-disk-1", SIZE).mark();
    let refused = array.rename(&cx(), &one, &two.name, &mark).await.unwrap_err();
    assert_refused(&refused, ErrorKind::AlreadyExists);
    assert_eq!(look(array, &one).await.mark, one.mark);
    assert_eq!(look(array, &two).await.mark, two.mark);
}
