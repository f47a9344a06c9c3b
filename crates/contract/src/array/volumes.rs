//! Clauses about volumes: creating, finding, growing, deleting.

use std::collections::BTreeSet;

use san_core::{
    ByteSize, Cx, DeleteMode, Ensured, ErrorKind, Marked, OperationId, Owner, Volume, VolumeKey, VolumeSpec,
    VolumeState,
};

use super::{
    ArrayFixture, REALM, SIZE, SPACE, assert_refused, choice, codec, cx, host, join, look, made, query, set,
    spec,
};

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
    array
        .ensure_volume(&cx(), &VolumeSpec { name, owner: beside, claim, size: SIZE, apart_from: Vec::new() })
        .await
        .unwrap();
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

/// With its bytes, identity and mark, seen by nobody; doing it twice is doing it once.
pub async fn a_deleted_volume_comes_back_as_it_was(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let Some(queue) = array.recovery_queue() else { return };
    let volume = made(array, "vm-100-disk-0").await;
    let owner = spec(array, "vm-100-disk-0", SIZE).owner;
    fixture.write(&volume, b"kept").await;
    let before = look(array, &volume).await;
    assert_eq!(queue.deleted(&cx(), &query(array)).await.unwrap(), []);
    array.ensure_no_volume(&cx(), &volume, DeleteMode::Recoverable).await.unwrap();
    let kept = queue.deleted(&cx(), &query(array)).await.unwrap();
    let [deleted] = kept.as_slice() else { panic!("{kept:?}") };
    assert_eq!(deleted.name, volume.name);
    for _ in 0..2 {
        queue.ensure_recovered(&cx(), deleted, &owner).await.unwrap();
    }
    assert_eq!(look(array, &volume).await, before);
    assert_eq!(fixture.read(&volume, 4).await, b"kept");
    assert_eq!(queue.deleted(&cx(), &query(array)).await.unwrap(), []);
}

/// Neither is the one that has the name touched, nor does anything come back half.
pub async fn a_deleted_volume_takes_nobodys_name(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let Some(queue) = array.recovery_queue() else { return };
    let old = made(array, "vm-100-disk-0").await;
    let owner = spec(array, "vm-100-disk-0", SIZE).owner;
    array.ensure_no_volume(&cx(), &old, DeleteMode::Recoverable).await.unwrap();
    let new = made(array, "vm-100-disk-0").await;
    let kept = queue.deleted(&cx(), &query(array)).await.unwrap();
    let refused = queue.ensure_recovered(&cx(), &kept[0], &owner).await.unwrap_err();
    assert_refused(&refused, ErrorKind::AlreadyExists);
    assert_eq!(look(array, &new).await.id, new.id);
    assert_eq!(queue.deleted(&cx(), &query(array)).await.unwrap(), kept);
}
