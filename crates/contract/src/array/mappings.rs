//! Clauses about hosts, mappings, ports and room.

use std::collections::BTreeSet;

use san_core::{ByteSize, ErrorKind, KnownHost, TransportKind};

use super::{ArrayFixture, REALM, assert_refused, choice, cx, host, host_spec, initiator, look, made};

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

/// It is found by realm and node alone, and stays as long as it sees a volume.
pub async fn a_host_goes_when_nothing_is_mapped_to_it(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let node = "node1".parse().unwrap();
    assert_eq!(array.host(&cx(), REALM, &node).await.unwrap(), None);
    let volume = made(array, "vm-100-disk-0").await;
    let made = host(array, "node1").await;
    let known = KnownHost { access: made.clone(), initiators: vec![initiator("node1")] };
    assert_eq!(array.host(&cx(), REALM, &node).await.unwrap(), Some(known));
    assert_eq!(array.host(&cx(), "other", &node).await.unwrap(), None);
    array.ensure_mapped(&cx(), &volume, &made, &choice([7])).await.unwrap();
    assert_refused(&array.ensure_no_host(&cx(), &made.id).await.unwrap_err(), ErrorKind::InUse);
    array.ensure_unmapped(&cx(), &volume.id, &made.id).await.unwrap();
    assert!(array.ensure_no_host(&cx(), &made.id).await.unwrap());
    assert!(!array.ensure_no_host(&cx(), &made.id).await.unwrap());
    assert_eq!(array.host(&cx(), REALM, &node).await.unwrap(), None);
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

/// One object holds the initiators of all nodes of a realm, beside their own: it sees a volume or a number where they do not, and
/// goes on for the others when one node is gone. Where the array has no such thing there is nothing to prove.
pub async fn all_nodes_see_what_is_mapped_once(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let Some(shared) = array.shared_access() else { return };
    let (one, two) = (host_spec(REALM, "node1", &["a"]), host_spec(REALM, "node2", &["b"]));
    let own = array.ensure_host(&cx(), &one).await.unwrap().into_inner();
    let first = shared.ensure_member(&cx(), &one).await.unwrap();
    assert!(first.changed());
    assert!(!shared.ensure_member(&cx(), &one).await.unwrap().changed());
    let second = shared.ensure_member(&cx(), &two).await.unwrap();
    assert!(second.changed());
    assert!(!shared.ensure_member(&cx(), &one).await.unwrap().changed(), "the other node changes nothing");
    let all = first.into_inner();
    assert_eq!(second.into_inner(), all);
    assert_ne!(all, own);
    array.ensure_host(&cx(), &two).await.unwrap();
    assert!(!array.ensure_host(&cx(), &one).await.unwrap().changed(), "a node's own object stays as it is");
    let other = shared.ensure_member(&cx(), &host_spec("other", "node1", &["c"])).await.unwrap().into_inner();
    assert_ne!(other, all);

    let (everybodys, its_own) = (made(array, "vm-100-disk-0").await, made(array, "vm-100-disk-1").await);
    let mapping = array.ensure_mapped(&cx(), &everybodys, &all, &choice([7])).await.unwrap().into_inner();
    assert_eq!(array.mapping(&cx(), &everybodys, &all).await.unwrap(), Some(mapping));
    // Nobody sees it twice, or two volumes under one number.
    let twice = array.ensure_mapped(&cx(), &everybodys, &own, &choice([8])).await.unwrap_err();
    assert_refused(&twice, ErrorKind::Conflict);
    let mapped = array.ensure_mapped(&cx(), &its_own, &own, &choice([7, 7, 8])).await.unwrap().into_inner();
    assert_eq!(mapped.lun.number(), 8);

    // One node is gone; the other sees it still.
    let gone = [initiator("a")];
    assert!(!shared.ensure_no_member(&cx(), "nobody", &gone).await.unwrap());
    assert!(shared.ensure_no_member(&cx(), REALM, &gone).await.unwrap());
    assert!(!shared.ensure_no_member(&cx(), REALM, &gone).await.unwrap());
    assert!(array.mapping(&cx(), &everybodys, &all).await.unwrap().is_some());
    assert!(array.ensure_unmapped(&cx(), &everybodys.id, &all.id).await.unwrap());
    array.ensure_mapped(&cx(), &everybodys, &own, &choice([9])).await.unwrap();
}

/// A foreign host object that holds the initiator is named here, too.
pub async fn a_strangers_initiator_does_not_join_all_nodes(fixture: &impl ArrayFixture) {
    let array = fixture.array();
    let Some(shared) = array.shared_access() else { return };
    fixture.add_foreign_host("other_cluster", &initiator("node1")).await;
    let before = fixture.bystanders().await;
    let error = shared.ensure_member(&cx(), &host_spec(REALM, "node1", &["node1"])).await.unwrap_err();
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
