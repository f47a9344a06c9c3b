//! The contract of [`Array`]: one function per clause, and [`array_contract!`](crate::array_contract), which turns them
//! into tests of one implementation.

#![expect(clippy::unwrap_used, reason = "a clause that is not met panics; that is how it says so")]

use std::collections::BTreeSet;
use std::time::Duration;

use san_core::{
    Array, ByteSize, Cx, Deadline, DeleteMode, EffectState, Effects, Ensured, Error, ErrorKind, HostAccess,
    HostSpec, Initiator, Lun, LunChoice, Marked, NameCodec, OperationId, Owner, SnapshotName, SnapshotSet,
    TransportKind, Volume, VolumeKey, VolumeQuery, VolumeSpec, VolumeState,
};

/// One array to be tested, fresh for each clause, and what lies beside its management interface.
pub trait ArrayFixture: Send + Sync {
    /// The implementation.
    fn array(&self) -> &dyn Array;

    /// Writes `bytes` at the start of the volume, as a host would.
    fn write(&self, volume: &Volume, bytes: &[u8]) -> impl Future<Output = ()> + Send;

    /// Reads the first `length` bytes of the volume, as a host would.
    fn read(&self, volume: &Volume, length: usize) -> impl Future<Output = Vec<u8>> + Send;

    /// Makes a volume on the array that carries no mark of ours.
    fn add_foreign_volume(&self, name: &str) -> impl Future<Output = ()> + Send;

    /// Leaves what a creation leaves that was interrupted between its steps. `None` where creation is one step.
    fn add_half_made(&self, spec: &VolumeSpec) -> impl Future<Output = Option<()>> + Send;

    /// Makes a snapshot of the volume by other means, under the given name of the array.
    fn add_foreign_snapshot(&self, volume: &Volume, name: &str) -> impl Future<Output = ()> + Send;

    /// Makes a host object by other means, with this initiator.
    fn add_foreign_host(&self, name: &str, initiator: &Initiator) -> impl Future<Output = ()> + Send;

    /// From now on no answer holds more than so many records.
    fn shorten_pages(&self, records: usize) -> impl Future<Output = ()> + Send;

    /// Everything on the array that is not ours, in a form that can be compared.
    fn bystanders(&self) -> impl Future<Output = String> + Send;
}

/// Makes one test of each clause. `$fixture` is an expression that gives a future of an [`ArrayFixture`].
#[macro_export]
macro_rules! array_contract {
    ($fixture:expr) => {
        $crate::array_contract!(@each $fixture;
            creating_says_what_was_made,
            creating_again_by_the_same_operation_changes_nothing,
            a_taken_name_is_refused_and_left_alone,
            a_half_made_volume_is_seen_finished_and_deleted,
            odd_sizes_are_kept,
            requests_out_of_range_are_refused_before_anything,
            absence_is_none,
            deleting_is_repeatable,
            a_mapped_volume_is_not_deleted,
            lists_are_complete_over_pages,
            growing_is_repeatable_and_shrinking_refused,
            snapshots_belong_to_the_operation_that_took_them,
            snapshots_of_others_are_neither_listed_nor_deleted,
            rolling_back_restores_bytes_and_size_and_keeps_the_rest,
            rolling_back_to_nothing_is_refused,
            a_set_is_snapshotted_at_one_instant_or_not_at_all,
            a_host_is_prepared_once,
            an_initiator_of_a_foreign_host_is_refused_by_name,
            equal_nodes_of_two_realms_are_two_hosts,
            mapping_takes_the_first_free_number_of_the_choice,
            mapping_again_keeps_the_number,
            mapping_ends_when_the_choice_is_used_up,
            unmapping_takes_one_host_only,
            capacity_and_ports_are_told,
            parallel_creations_do_not_disturb_each_other,
            two_operations_cannot_both_have_a_name,
        );
    };
    (@each $fixture:expr; $($clause:ident,)+) => {
        $(
            #[::tokio::test]
            async fn $clause() {
                let fixture = $fixture.await;
                let before = $crate::array::ArrayFixture::bystanders(&fixture).await;
                $crate::array::$clause(&fixture).await;
                // A foreign object that a clause adds begins with its own word.
                $crate::array::assert_untouched(&before, &fixture).await;
            }
        )+
    };
}

const REALM: &str = "contract";
const SPACE: &str = "space1";
const SIZE: ByteSize = ByteSize::from_mib(8);

/// Fails where something that was there before is gone or different.
pub async fn assert_untouched(before: &str, fixture: &impl ArrayFixture) {
    let after = fixture.bystanders().await;
    let lines: BTreeSet<&str> = after.lines().collect();
    for line in before.lines() {
        assert!(lines.contains(line), "a bystander was touched: {line}\nnow there is:\n{after}");
    }
}

fn cx() -> Cx {
    Cx::new(Deadline::after(Duration::from_secs(60)), OperationId::random(), Effects::unobserved())
}

fn codec(array: &dyn Array) -> NameCodec {
    NameCodec::new(array.profile().limits.name).unwrap()
}

fn spec(array: &dyn Array, object: &str, size: ByteSize) -> VolumeSpec {
    let owner = Owner::new(REALM, SPACE, object).unwrap();
    VolumeSpec { name: codec(array).encode(&owner).unwrap(), owner, claim: OperationId::random(), size }
}

async fn made(array: &dyn Array, object: &str) -> Volume {
    array.ensure_volume(&cx(), &spec(array, object, SIZE)).await.unwrap().into_inner()
}

async fn look(array: &dyn Array, volume: &Volume) -> Volume {
    array.volume(&cx(), &VolumeKey::Name(volume.name.clone())).await.unwrap().unwrap()
}

fn host_spec(realm: &str, node: &str, initiators: &[&str]) -> HostSpec {
    let initiators = initiators.iter().map(|it| initiator(it)).collect();
    HostSpec { realm: realm.into(), node: node.parse().unwrap(), initiators }
}

fn initiator(name: &str) -> Initiator {
    Initiator::Iscsi(format!("iqn.2010-10.org.example:{name}").parse().unwrap())
}

async fn host(array: &dyn Array, node: &str) -> HostAccess {
    array.ensure_host(&cx(), &host_spec(REALM, node, &[node])).await.unwrap().into_inner()
}

fn choice(numbers: impl IntoIterator<Item = u16>) -> LunChoice {
    LunChoice(numbers.into_iter().map(|it| Lun::new(it).unwrap()).collect())
}

fn snapshot_name(name: &str) -> SnapshotName {
    name.parse().unwrap()
}

fn set(volume: &Volume, name: &str) -> SnapshotSet {
    SnapshotSet { volumes: vec![volume.clone()], name: snapshot_name(name) }
}

fn query(array: &dyn Array) -> VolumeQuery {
    VolumeQuery { prefix: codec(array).prefix(REALM, SPACE) }
}

#[track_caller]
fn assert_refused(error: &Error, kind: ErrorKind) {
    assert_eq!(error.kind(), kind, "{error:?}");
    assert_eq!(error.effect(), EffectState::None, "{error:?}");
}

/// A new volume has an identity, the size asked for, our mark and no mappings; looks by name and by key agree with it.
pub async fn creating_says_what_was_made(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let spec = spec(array, "vm-100-disk-0", SIZE);
    let volume = match array.ensure_volume(&cx(), &spec).await.unwrap() {
        Ensured::Created(it) => it,
        Ensured::Already(it) => panic!("{it:?} was not there before"),
    };
    assert_eq!((&volume.name, volume.size, &volume.state), (&spec.name, SIZE, &VolumeState::Online));
    assert_eq!(volume.mark, Marked::Ours(spec.mark()));
    assert_eq!(volume.mapped, Some(Vec::new()));
    let by_name = look(array, &volume).await;
    assert_eq!((&by_name.id, &by_name.mark), (&volume.id, &volume.mark));
    let by_key = array.volume(&cx(), &VolumeKey::Id(volume.id.clone())).await.unwrap().unwrap();
    assert_eq!((&by_key.name, by_key.size), (&volume.name, SIZE));
    for it in [&by_name, &by_key] {
        assert_eq!(it.identity().unwrap(), volume.identity().unwrap());
        assert_eq!(it.mapped, Some(Vec::new()));
    }
}

/// The same claim gets the same volume.
pub async fn creating_again_by_the_same_operation_changes_nothing(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let spec = spec(array, "vm-100-disk-0", SIZE);
    let first = array.ensure_volume(&cx(), &spec).await.unwrap().into_inner();
    for _ in 0..2 {
        let again = array.ensure_volume(&cx(), &spec).await.unwrap();
        assert!(!again.changed());
        let again = again.into_inner();
        assert_eq!((&again.id, &again.identity), (&first.id, &first.identity));
    }
    let larger = VolumeSpec { size: SIZE.times(8), ..spec };
    assert_refused(&array.ensure_volume(&cx(), &larger).await.unwrap_err(), ErrorKind::Conflict);
}

/// Neither another operation's volume nor an unmarked one is taken over or changed.
pub async fn a_taken_name_is_refused_and_left_alone(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let first = made(array, "vm-100-disk-0").await;
    let other = spec(array, "vm-100-disk-0", SIZE);
    assert_refused(&array.ensure_volume(&cx(), &other).await.unwrap_err(), ErrorKind::AlreadyExists);
    assert_eq!(look(array, &first).await.mark, first.mark);

    let foreign = spec(array, "vm-100-disk-1", SIZE);
    fixture.add_foreign_volume(foreign.name.as_str()).await;
    let before = fixture.bystanders().await;
    assert_refused(&array.ensure_volume(&cx(), &foreign).await.unwrap_err(), ErrorKind::AlreadyExists);
    assert_eq!(fixture.bystanders().await, before);
}

/// What an interrupted creation left is neither absent nor usable; its own operation finishes it, others delete it.
pub async fn a_half_made_volume_is_seen_finished_and_deleted(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let (first, second) = (spec(array, "vm-100-disk-0", SIZE), spec(array, "vm-100-disk-1", SIZE));
    if fixture.add_half_made(&first).await.is_none() {
        return;
    }
    fixture.add_half_made(&second).await;
    let seen = array.volume(&cx(), &VolumeKey::Name(first.name.clone())).await.unwrap().unwrap();
    assert_eq!((&seen.identity, &seen.mark), (&None, &Marked::Ours(first.mark())));
    assert_eq!(array.volumes(&cx(), &query(array)).await.unwrap().len(), 2);
    let node = host(array, "node1").await;
    let refused = array.ensure_mapped(&cx(), &seen, &node, &choice([1])).await.unwrap_err();
    assert_refused(&refused, ErrorKind::Conflict);

    let whole = array.ensure_volume(&cx(), &first).await.unwrap();
    assert!(whole.changed());
    let whole = whole.into_inner();
    assert!(whole.identity.is_some() && whole.size == SIZE, "{whole:?}");

    let half = array.volume(&cx(), &VolumeKey::Name(second.name.clone())).await.unwrap().unwrap();
    let by_key = array.volume(&cx(), &VolumeKey::Id(half.id.clone())).await.unwrap().unwrap();
    assert_eq!((&by_key.name, &by_key.identity), (&half.name, &None));
    assert!(array.ensure_no_volume(&cx(), &half, DeleteMode::Immediate).await.unwrap());
    assert_eq!(array.volume(&cx(), &VolumeKey::Id(half.id)).await.unwrap(), None);
}

/// Sizes that are no round number of megabytes come out as they went in.
pub async fn odd_sizes_are_kept(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let limits = &array.profile().limits;
    let sizes = [ByteSize::from_kib(528), ByteSize::from_mib(4), SIZE.plus(limits.volume_granule)];
    for (index, size) in sizes.into_iter().enumerate() {
        let size = size.round_up_to(limits.volume_granule).unwrap().max(limits.volume_min);
        let spec = spec(array, &format!("vm-100-disk-{index}"), size);
        assert_eq!(array.ensure_volume(&cx(), &spec).await.unwrap().into_inner().size, size);
    }
}

/// Sizes and names the array could not keep never reach it.
pub async fn requests_out_of_range_are_refused_before_anything(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let limits = array.profile().limits.clone();
    let good = spec(array, "vm-100-disk-0", SIZE);
    let mut bad = vec![
        VolumeSpec { size: limits.volume_max.plus(limits.volume_granule), ..good.clone() },
        VolumeSpec { size: ByteSize::ZERO, ..good.clone() },
        VolumeSpec { name: "x".repeat(limits.name.max + 1).parse().unwrap(), ..good.clone() },
    ];
    if limits.volume_granule > ByteSize::from_bytes(1) {
        bad.push(VolumeSpec { size: SIZE.plus(ByteSize::from_bytes(1)), ..good.clone() });
    }
    for spec in bad {
        assert_refused(&array.ensure_volume(&cx(), &spec).await.unwrap_err(), ErrorKind::InvalidInput);
    }
    assert_eq!(array.volumes(&cx(), &query(array)).await.unwrap(), Vec::new());
}

/// What was never there, and what is gone, is `None` by name and by key.
pub async fn absence_is_none(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let name = spec(array, "vm-100-disk-0", SIZE).name;
    assert_eq!(array.volume(&cx(), &VolumeKey::Name(name.clone())).await.unwrap(), None);
    let volume = made(array, "vm-100-disk-0").await;
    array.ensure_no_volume(&cx(), &volume, DeleteMode::Immediate).await.unwrap();
    assert_eq!(array.volume(&cx(), &VolumeKey::Name(name)).await.unwrap(), None);
    assert_eq!(array.volume(&cx(), &VolumeKey::Id(volume.id)).await.unwrap(), None);
}

/// The first deletion does it, the second finds it done; the name is free again and gets a new identity.
pub async fn deleting_is_repeatable(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    for mode in [DeleteMode::Recoverable, DeleteMode::Immediate] {
        let volume = made(array, "vm-100-disk-0").await;
        array.snapshot(&cx(), &set(&volume, "one")).await.unwrap();
        assert!(array.ensure_no_volume(&cx(), &volume, mode).await.unwrap());
        assert!(!array.ensure_no_volume(&cx(), &volume, mode).await.unwrap());
        let unread = Volume { mapped: None, ..volume.clone() };
        assert!(!array.ensure_no_volume(&cx(), &unread, mode).await.unwrap());
        let next = made(array, "vm-100-disk-0").await;
        assert_ne!(next.identity, volume.identity);
        assert!(array.ensure_no_volume(&cx(), &next, DeleteMode::Immediate).await.unwrap());
    }
}

/// A mapping protects a volume, whether the caller knows of it or not.
pub async fn a_mapped_volume_is_not_deleted(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let volume = made(array, "vm-100-disk-0").await;
    let node = host(array, "node1").await;
    array.ensure_mapped(&cx(), &volume, &node, &choice([1])).await.unwrap();
    let known = look(array, &volume).await;
    for volume in [&known, &Volume { mapped: None, ..known.clone() }] {
        let error = array.ensure_no_volume(&cx(), volume, DeleteMode::Immediate).await.unwrap_err();
        assert_refused(&error, ErrorKind::InUse);
        assert!(error.chain().to_string().contains(&node.name), "{}", error.chain());
    }
    assert!(array.ensure_unmapped(&cx(), &volume.id, &node.id).await.unwrap());
    let known = look(array, &volume).await;
    assert!(array.ensure_no_volume(&cx(), &known, DeleteMode::Immediate).await.unwrap());
}

/// A list holds all of its space, page by page, and nothing else; what carries no mark is shown as such.
pub async fn lists_are_complete_over_pages(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let mut names = BTreeSet::new();
    for index in 0..7 {
        names.insert(made(array, &format!("vm-100-disk-{index}")).await.name);
    }
    let beside = Owner::new(REALM, &format!("{SPACE}-b"), "vm-100-disk-0").unwrap();
    let name = codec(array).encode(&beside).unwrap();
    let claim = OperationId::random();
    array.ensure_volume(&cx(), &VolumeSpec { name, owner: beside, claim, size: SIZE }).await.unwrap();
    let foreign = spec(array, "vm-100-disk-9", SIZE).name;
    fixture.add_foreign_volume(foreign.as_str()).await;
    for page in [1000, 3, 1] {
        fixture.shorten_pages(page).await;
        let all = array.volumes(&cx(), &query(array)).await.unwrap();
        assert_eq!(all.len(), 8);
        for it in &all {
            if it.name == foreign {
                assert_eq!(it.mark, Marked::Unmarked);
            } else {
                assert!(names.contains(&it.name) && it.identity.is_some() && it.size == SIZE, "{it:?}");
                assert!(matches!(it.mark, Marked::Ours(_)), "{it:?}");
            }
        }
    }
}

/// A volume grows, keeps its identity, may be told to grow again to the same size, and never shrinks.
pub async fn growing_is_repeatable_and_shrinking_refused(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let volume = made(array, "vm-100-disk-0").await;
    for factor in [2, 2, 40] {
        let wanted = SIZE.times(factor);
        assert_eq!(array.resize(&cx(), &volume, wanted).await.unwrap(), wanted);
        let now = look(array, &volume).await;
        assert_eq!((now.size, &now.identity), (wanted, &volume.identity));
    }
    let now = look(array, &volume).await;
    // Also where the caller does not know how large it is by now.
    for known in [&now, &volume] {
        let error = array.resize(&cx(), known, SIZE.times(3)).await.unwrap_err();
        assert_refused(&error, ErrorKind::InvalidInput);
    }
    assert_eq!(look(array, &volume).await.size, SIZE.times(40));
}

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
    let names =
        |all: &[san_core::Snapshot]| all.iter().map(|it| it.name.to_string()).collect::<BTreeSet<_>>();
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
    let node = host(array, "node1").await;
    array.ensure_mapped(&cx(), &volume, &node, &choice([5])).await.unwrap();
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
        assert_eq!(now.mapped.unwrap().len(), 1);
        assert_eq!(array.snapshots(&cx(), &volume).await.unwrap().len(), 2);
    }
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

/// A host object is made once, completed where an initiator is missing, and refused where it holds a stranger.
pub async fn a_host_is_prepared_once(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let one = host_spec(REALM, "node1", &["a"]);
    let first = array.ensure_host(&cx(), &one).await.unwrap();
    assert!(first.changed());
    let again = array.ensure_host(&cx(), &one).await.unwrap();
    assert!(!again.changed());
    assert_eq!(again.into_inner(), first.into_inner());
    let two = host_spec(REALM, "node1", &["a", "b"]);
    assert!(array.ensure_host(&cx(), &two).await.unwrap().changed());
    assert!(!array.ensure_host(&cx(), &two).await.unwrap().changed());
    assert_refused(&array.ensure_host(&cx(), &one).await.unwrap_err(), ErrorKind::Conflict);
}

/// The error names the foreign host object; nothing is made.
pub async fn an_initiator_of_a_foreign_host_is_refused_by_name(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    fixture.add_foreign_host("other_cluster", &initiator("node1")).await;
    let before = fixture.bystanders().await;
    let error = array.ensure_host(&cx(), &host_spec(REALM, "node1", &["node1", "b"])).await.unwrap_err();
    assert_refused(&error, ErrorKind::Conflict);
    assert!(error.chain().to_string().contains("other_cluster"), "{}", error.chain());
    assert_eq!(fixture.bystanders().await, before);
}

/// The realm is part of a host's name.
pub async fn equal_nodes_of_two_realms_are_two_hosts(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let long = "r".repeat(200);
    let mut ids = BTreeSet::new();
    for (index, realm) in [REALM, "other", "Other", &long].into_iter().enumerate() {
        let spec = host_spec(realm, &format!("node{}", "1".repeat(59)), &[&index.to_string()]);
        ids.insert(array.ensure_host(&cx(), &spec).await.unwrap().into_inner().id);
    }
    assert_eq!(ids.len(), 4);
}

/// Numbers are ours: the first of the choice that is free on this host, and the same number on another host.
pub async fn mapping_takes_the_first_free_number_of_the_choice(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let (first, second) = (made(array, "vm-100-disk-0").await, made(array, "vm-100-disk-1").await);
    let (one, two) = (host(array, "node1").await, host(array, "node2").await);
    let all_ports = array.target_ports(&cx(), TransportKind::Iscsi).await.unwrap();
    let mapped = array.ensure_mapped(&cx(), &first, &one, &choice([7, 8])).await.unwrap();
    assert!(mapped.changed());
    let mapped = mapped.into_inner();
    assert_eq!((mapped.lun.number(), &mapped.host), (7, &one));
    assert!(!mapped.ports.is_empty() && mapped.ports.iter().all(|it| all_ports.contains(it)), "{mapped:?}");
    let next = array.ensure_mapped(&cx(), &second, &one, &choice([7, 8, 9])).await.unwrap().into_inner();
    assert_eq!(next.lun.number(), 8);
    let elsewhere = array.ensure_mapped(&cx(), &second, &two, &choice([7])).await.unwrap().into_inner();
    assert_eq!(elsewhere.lun.number(), 7);
    assert_eq!(array.mapping(&cx(), &first, &one).await.unwrap(), Some(mapped));
    assert_eq!(array.mapping(&cx(), &first, &two).await.unwrap(), None);
    let shown: BTreeSet<(String, u16)> =
        look(array, &second).await.mapped.unwrap().into_iter().map(|it| (it.name, it.lun.number())).collect();
    assert_eq!(shown, BTreeSet::from([(one.name, 8), (two.name, 7)]));
}

/// A mapping that is there keeps its number whatever is offered.
pub async fn mapping_again_keeps_the_number(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let volume = made(array, "vm-100-disk-0").await;
    let node = host(array, "node1").await;
    let first = array.ensure_mapped(&cx(), &volume, &node, &choice([7])).await.unwrap().into_inner();
    for numbers in [[7], [9]] {
        let again = array.ensure_mapped(&cx(), &volume, &node, &choice(numbers)).await.unwrap();
        assert!(!again.changed());
        assert_eq!(again.into_inner(), first);
    }
}

/// Taken numbers are not taken again, and the refusal says what it is.
pub async fn mapping_ends_when_the_choice_is_used_up(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let node = host(array, "node1").await;
    for index in 0..2 {
        let volume = made(array, &format!("vm-100-disk-{index}")).await;
        array.ensure_mapped(&cx(), &volume, &node, &choice([1, 2])).await.unwrap();
    }
    let third = made(array, "vm-100-disk-2").await;
    let error = array.ensure_mapped(&cx(), &third, &node, &choice([1, 2])).await.unwrap_err();
    assert_refused(&error, ErrorKind::LimitReached);
    assert_eq!(look(array, &third).await.mapped, Some(Vec::new()));
    let beyond = choice([array.profile().limits.lun_max.number() + 1]);
    assert_refused(
        &array.ensure_mapped(&cx(), &third, &node, &beyond).await.unwrap_err(),
        ErrorKind::InvalidInput,
    );
}

/// One host loses the volume, the other keeps it, and a repeat finds it done.
pub async fn unmapping_takes_one_host_only(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let volume = made(array, "vm-100-disk-0").await;
    let (one, two) = (host(array, "node1").await, host(array, "node2").await);
    for node in [&one, &two] {
        array.ensure_mapped(&cx(), &volume, node, &choice([1])).await.unwrap();
    }
    assert!(array.ensure_unmapped(&cx(), &volume.id, &one.id).await.unwrap());
    assert!(!array.ensure_unmapped(&cx(), &volume.id, &one.id).await.unwrap());
    assert_eq!(array.mapping(&cx(), &volume, &one).await.unwrap(), None);
    assert!(array.mapping(&cx(), &volume, &two).await.unwrap().is_some());
}

/// There is room, and there are ports, each told once.
pub async fn capacity_and_ports_are_told(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let capacity = array.capacity(&cx()).await.unwrap();
    assert!(ByteSize::ZERO < capacity.available && capacity.available <= capacity.total, "{capacity:?}");
    let ports = array.target_ports(&cx(), TransportKind::Iscsi).await.unwrap();
    assert!(!ports.is_empty());
    assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len());
}

/// Many nodes create at once: each gets its own.
pub async fn parallel_creations_do_not_disturb_each_other(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let specs: Vec<VolumeSpec> = (0..20).map(|it| spec(array, &format!("vm-100-disk-{it}"), SIZE)).collect();
    let contexts: Vec<Cx> = specs.iter().map(|_| cx()).collect();
    let made = join(specs.iter().zip(&contexts).map(|(spec, cx)| array.ensure_volume(cx, spec))).await;
    let identities: BTreeSet<String> = made
        .into_iter()
        .map(|it| it.unwrap())
        .inspect(|it| assert!(it.changed()))
        .map(|it| it.into_inner().identity.unwrap().serial)
        .collect();
    assert_eq!(identities.len(), specs.len());
}

/// Of two operations that want one name, one gets it and the other is told.
pub async fn two_operations_cannot_both_have_a_name(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let specs: Vec<VolumeSpec> = (0..2).map(|_| spec(array, "vm-100-disk-0", SIZE)).collect();
    let contexts = [cx(), cx()];
    let outcomes = join(specs.iter().zip(&contexts).map(|(spec, cx)| array.ensure_volume(cx, spec))).await;
    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!((won.len(), lost.len()), (1, 1));
    assert_refused(lost[0].as_ref().unwrap_err(), ErrorKind::AlreadyExists);
}

/// Runs futures side by side in one task, in whatever order they become ready.
async fn join<T>(futures: impl IntoIterator<Item: Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = futures.into_iter().map(|it| (Box::pin(it), None)).collect();
    std::future::poll_fn(move |context| {
        for (future, result) in &mut pending {
            if result.is_none()
                && let std::task::Poll::Ready(it) = future.as_mut().poll(context)
            {
                *result = Some(it);
            }
        }
        if pending.iter().all(|(_, result)| result.is_some()) {
            let all = std::mem::take(&mut pending);
            std::task::Poll::Ready(all.into_iter().filter_map(|(_, result)| result).collect())
        } else {
            std::task::Poll::Pending
        }
    })
    .await
}
