//! Clauses about readers of snapshots.

use san_core::{CloneSpec, Cx, DeleteMode, ErrorKind, MappedHost, Mark, ReaderSpec, Volume, VolumeKey};

use super::{
    ArrayFixture, SIZE, assert_refused, choice, cx, host, look, made, query, set, snapshot_name, spec,
};

/// A volume whose snapshot `state` holds `first` and which holds `other` now.
async fn source(fixture: &impl ArrayFixture) -> Volume {
    let volume = made(fixture.array(), "vm-100-disk-0").await;
    fixture.write(&volume, b"first").await;
    fixture.array().snapshot(&cx(), &set(&volume, "state")).await.unwrap();
    fixture.write(&volume, b"other").await;
    volume
}

fn of(node: &str) -> ReaderSpec {
    ReaderSpec { node: node.parse().unwrap(), snapshot: snapshot_name("state") }
}

async fn reader(fixture: &impl ArrayFixture, volume: &Volume, node: &str) -> Volume {
    fixture.array().ensure_reader(&cx(), volume, &of(node)).await.unwrap().into_inner()
}

/// Two nodes read it at a time, each by an identity of its own, and nothing that is said or done about the disk means them.
pub async fn a_reader_has_the_bytes_of_its_snapshot_and_is_not_the_disk(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let volume = source(fixture).await;
    let node = host(array, "node1").await;
    let (one, two) = (reader(fixture, &volume, "node1").await, reader(fixture, &volume, "node2").await);
    assert_eq!((one.size, &one.mapped), (SIZE, &Some(Vec::new())));
    assert!(one.id != two.id && one.id != volume.id && one.identity != volume.identity);
    let mapping = array.ensure_mapped(&cx(), &one, &node, &choice([3])).await.unwrap().into_inner();
    assert_eq!(array.mapping(&cx(), &one, &node).await.unwrap(), Some(mapping));
    assert_eq!(fixture.read(&one, 5).await, b"first");
    assert_eq!(fixture.read(&two, 5).await, b"first");
    assert_eq!(array.resize(&cx(), &volume, SIZE.times(2)).await.unwrap(), SIZE.times(2));
    let key = VolumeKey::Id(volume.id.clone());
    for seen in [look(array, &volume).await, array.volume(&cx(), &key).await.unwrap().unwrap()] {
        assert_eq!((&seen.id, &seen.identity, seen.size), (&volume.id, &volume.identity, SIZE.times(2)));
        assert_eq!(seen.mapped, Some(Vec::new()), "nobody sees the disk");
    }
    array.rollback(&cx(), &volume, &snapshot_name("state")).await.unwrap();
    assert_eq!(fixture.read(&volume, 5).await, b"first");
    let listed = array.volumes(&cx(), &query(array)).await.unwrap();
    assert_eq!(listed.iter().map(|it| &it.id).collect::<Vec<_>>(), [&volume.id]);
}

/// Which node reads which snapshot, and whom the array shows it.
pub async fn a_look_tells_who_reads_what(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let volume = source(fixture).await;
    assert_eq!(look(array, &volume).await.readers, Some(Vec::new()));
    let node = host(array, "node1").await;
    let made = reader(fixture, &volume, "node1").await;
    array.ensure_mapped(&cx(), &made, &node, &choice([3])).await.unwrap();
    let key = VolumeKey::Id(volume.id.clone());
    for seen in [look(array, &volume).await, array.volume(&cx(), &key).await.unwrap().unwrap()] {
        let [seen] = seen.readers().unwrap() else { panic!("{:?}", seen.readers) };
        assert_eq!((&seen.name, &seen.volume.id), (&of("node1").name(), &made.id));
        assert_eq!((&seen.volume.identity, seen.volume.size), (&made.identity, SIZE));
        let hosts: Vec<&MappedHost> = seen.volume.mapped.iter().flatten().collect();
        assert!(matches!(hosts.as_slice(), [it] if it.id == node.id), "{hosts:?}");
    }
    let listed = array.volumes(&cx(), &query(array)).await.unwrap();
    let names: Vec<_> = listed[0].readers().unwrap().iter().map(|it| it.name.clone()).collect();
    assert_eq!(names, [of("node1").name()]);
}

/// A repetition finds it; what another one left may be of an older snapshot of that name.
pub async fn a_reader_belongs_to_the_operation_that_made_it(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let volume = source(fixture).await;
    let first: Cx = cx();
    let made = array.ensure_reader(&first, &volume, &of("node1")).await.unwrap();
    assert!(made.changed());
    let again = array.ensure_reader(&first, &volume, &of("node1")).await.unwrap();
    assert!(!again.changed());
    assert_eq!(again.into_inner().id, made.into_inner().id);
    let refused = array.ensure_reader(&cx(), &volume, &of("node1")).await.unwrap_err();
    assert_refused(&refused, ErrorKind::AlreadyExists);
}

/// The snapshot goes, the volume is rolled back and written to: what is read stays.
pub async fn a_reader_keeps_nothing_busy_and_keeps_what_it_reads(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let volume = source(fixture).await;
    let made = reader(fixture, &volume, "node1").await;
    array.snapshot(&cx(), &set(&volume, "later")).await.unwrap();
    array.rollback(&cx(), &volume, &snapshot_name("later")).await.unwrap();
    assert!(array.ensure_no_snapshot(&cx(), &volume, &snapshot_name("state")).await.unwrap());
    fixture.write(&volume, b"third").await;
    assert_eq!(fixture.read(&made, 5).await, b"first");
    assert!(array.ensure_no_reader(&cx(), &made.id).await.unwrap());
    assert_eq!(fixture.read(&volume, 5).await, b"third");
}

/// Of a snapshot that is not there nothing is made.
pub async fn readers_of_nothing_are_refused(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let volume = source(fixture).await;
    let of = ReaderSpec { snapshot: snapshot_name("nothing"), ..of("node1") };
    assert_refused(&array.ensure_reader(&cx(), &volume, &of).await.unwrap_err(), ErrorKind::NotFound);
    assert_eq!(look(array, &volume).await.readers, Some(Vec::new()));
}

/// Not while it is mapped, not twice, and never a disk.
pub async fn a_reader_goes_alone_and_repeatably(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let volume = source(fixture).await;
    let node = host(array, "node1").await;
    let (one, two) = (reader(fixture, &volume, "node1").await, reader(fixture, &volume, "node2").await);
    array.ensure_mapped(&cx(), &one, &node, &choice([3])).await.unwrap();
    assert_refused(&array.ensure_no_reader(&cx(), &one.id).await.unwrap_err(), ErrorKind::InUse);
    assert!(array.ensure_unmapped(&cx(), &one.id, &node.id).await.unwrap());
    assert!(array.ensure_no_reader(&cx(), &one.id).await.unwrap());
    assert!(!array.ensure_no_reader(&cx(), &one.id).await.unwrap());
    assert_eq!(fixture.read(&two, 5).await, b"first");
    let error = array.ensure_no_reader(&cx(), &volume.id).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error:?}");
    let seen = look(array, &volume).await;
    assert_eq!((&seen.id, seen.readers().unwrap().len()), (&volume.id, 1));
}

/// What nobody sees goes with the volume.
pub async fn a_volume_with_a_mapped_reader_is_not_deleted(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let volume = source(fixture).await;
    let node = host(array, "node1").await;
    let made = reader(fixture, &volume, "node1").await;
    reader(fixture, &volume, "node2").await;
    array.ensure_mapped(&cx(), &made, &node, &choice([3])).await.unwrap();
    let known = look(array, &volume).await;
    for volume in [&known, &Volume { readers: None, ..known.clone() }] {
        let refused = array.ensure_no_volume(&cx(), volume, DeleteMode::Immediate).await.unwrap_err();
        assert_refused(&refused, ErrorKind::InUse);
    }
    array.ensure_unmapped(&cx(), &made.id, &node.id).await.unwrap();
    let volume = look(array, &volume).await;
    assert!(array.ensure_no_volume(&cx(), &volume, DeleteMode::Immediate).await.unwrap());
    assert_eq!(array.volume(&cx(), &VolumeKey::Name(volume.name)).await.unwrap(), None);
}

/// Not even where they were in the snapshot it is made of.
pub async fn a_clone_has_no_readers_of_its_source(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let volume = source(fixture).await;
    let reads = reader(fixture, &volume, "node1").await;
    array.snapshot(&cx(), &set(&volume, "later")).await.unwrap();
    let wanted = spec(array, "vm-101-disk-0", SIZE);
    let clone = CloneSpec {
        name: wanted.name.clone(),
        mark: Mark { template: None, ..wanted.mark() },
        source: volume.clone(),
        snapshot: snapshot_name("later"),
    };
    let clone = array.ensure_clone(&cx(), &clone).await.unwrap().into_inner();
    assert_eq!(look(array, &clone).await.readers, Some(Vec::new()));
    assert_eq!(fixture.read(&clone, 5).await, b"other");
    let seen = look(array, &volume).await;
    let [kept] = seen.readers().unwrap() else { panic!("{:?}", seen.readers) };
    assert_eq!(kept.volume.id, reads.id);
}
