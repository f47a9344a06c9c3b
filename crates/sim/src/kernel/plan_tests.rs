//! Tests of the difference: whatever is there and whatever is wanted, the steps lead from one to the other in an order
//! the kernel takes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::super::desired::Lun;
use super::super::identity::Shown;
use super::*;
use crate::target::Access;

/// A generator of small numbers, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % most
    }
}

fn store(n: u64) -> Arc<Store> {
    let (vendor, product, revision) = ("NETAPP".to_owned(), "LUN C-Mode".to_owned(), "9999".to_owned());
    let shown = Shown { vendor, product, revision, company: 0x00_a098, serial: format!("{n:025x}") };
    Arc::new(Store { file: PathBuf::from(format!("/data/unit-{n}.img")), inode: (1, n), shown, block: 512 })
}

fn wanted(dice: &mut Dice) -> Desired {
    let mut desired = Desired::default();
    for tag in 0..dice.below(4) {
        let reachability = match dice.below(6) {
            0 => Reachability::Refusing,
            1 => Reachability::BlackHole,
            _ => Reachability::Up,
        };
        let mut acls = BTreeMap::new();
        for initiator in 0..dice.below(3) {
            let mut luns = BTreeMap::new();
            // Nothing is shown where nobody can look.
            let count = if reachability == Reachability::Up { dice.below(5) } else { 0 };
            for _ in 0..count {
                let store = store(dice.below(6));
                let size = 1 << (20 + dice.below(3));
                let size = *desired.stores.entry(Arc::clone(&store)).or_insert(size);
                assert!(size > 0);
                let optimized = (store.inode.1 + tag).is_multiple_of(2);
                luns.insert(u16::try_from(1 + dice.below(4)).unwrap(), Lun { store, optimized });
            }
            acls.insert(format!("iqn.test:{initiator}"), Acl { access: Access::Open, luns });
        }
        let address = format!("10.77.{}.2:3260", tag + 1).parse().unwrap();
        let target = format!("iqn.array:{}", tag % 2);
        desired.groups.insert((target, u16::try_from(tag).unwrap()), Group { address, reachability, acls });
    }
    // What a roll of the dice overwrote is shown nowhere.
    let luns = desired.groups.values().flat_map(|it| it.acls.values()).flat_map(|it| it.luns.values());
    let used: BTreeSet<Arc<Store>> = luns.map(|it| Arc::clone(&it.store)).collect();
    desired.stores.retain(|store, _| used.contains(store));
    desired
}

/// What the kernel would say to a step.
fn is_possible(now: &Present, step: &Step) -> bool {
    let exported = |store: &Arc<Store>| now.groups.values().any(|it| it.offers.contains_key(store));
    let in_group = |id: &GroupId, it: &dyn Fn(&GroupEntry) -> bool| now.groups.get(id).is_some_and(it);
    match step {
        Step::Close { group, address } => in_group(group, &|it| it.open == Some(*address)),
        Step::Open { group, .. } => in_group(group, &|it| it.open.is_none()),
        Step::Unmap { group, initiator, lun, .. } => {
            in_group(group, &|it| it.acls.get(initiator).is_some_and(|acl| acl.maps.contains_key(lun)))
        }
        Step::Forget { group, initiator } => {
            in_group(group, &|it| it.acls.get(initiator).is_some_and(|acl| acl.maps.is_empty()))
        }
        Step::Withdraw { group, store, .. } => in_group(group, &|it| {
            it.offers.contains_key(store)
                && it.acls.values().all(|acl| acl.maps.values().all(|mapped| mapped != store))
        }),
        Step::RemoveGroup { group } => {
            in_group(group, &|it| it.open.is_none() && it.offers.is_empty() && it.acls.is_empty())
        }
        Step::RemoveStore { store, .. } => now.stores.contains_key(store) && !exported(store),
        Step::Resize { store, .. } => now.stores.contains_key(store),
        Step::MakeStore { store, .. } => !now.stores.contains_key(store),
        Step::MakeGroup { group } => !now.groups.contains_key(group),
        Step::Offer { group, store, index, .. } => {
            now.stores.contains_key(store)
                && in_group(group, &|it| it.offers.values().all(|offer| offer.index != *index))
        }
        Step::Prefer { group, store, .. } => in_group(group, &|it| it.offers.contains_key(store)),
        Step::Admit { group, .. } => now.groups.contains_key(group),
        Step::Map { group, initiator, lun, store, index, .. } => in_group(group, &|it| {
            it.offers.get(store).is_some_and(|offer| offer.index == *index)
                && it.acls.get(initiator).is_some_and(|acl| !acl.maps.contains_key(lun))
        }),
    }
}

fn assert_shows(now: &Present, before: &Present, desired: &Desired) {
    for (id, group) in &desired.groups {
        if group.reachability == Reachability::BlackHole {
            assert_eq!(now.groups.get(id), before.groups.get(id), "a portal nobody can see was changed");
            continue;
        }
        let made = &now.groups[id];
        let open = (group.reachability == Reachability::Up).then_some(group.address);
        assert_eq!(made.open, open);
        assert!(made.acls.keys().eq(group.acls.keys()));
        for (initiator, acl) in &group.acls {
            let maps: Vec<_> = made.acls[initiator].maps.iter().collect();
            assert_eq!(maps, acl.luns.iter().map(|(lun, it)| (lun, &it.store)).collect::<Vec<_>>());
            for lun in acl.luns.values() {
                assert_eq!(made.offers[&lun.store].optimized, lun.optimized);
            }
        }
    }
    assert!(now.groups.keys().all(|id| desired.groups.contains_key(id)));
    for (store, size) in &desired.stores {
        assert_eq!(now.stores[store].size, *size);
    }
}

#[test]
fn steps_lead_from_anything_to_anything_in_a_possible_order() {
    let mut dice = Dice(7);
    let mut present = Present::default();
    let mut changes = 0;
    for _ in 0..3000 {
        let desired = wanted(&mut dice);
        let before = present.clone();
        for step in plan(&present, &desired) {
            assert!(is_possible(&present, &step), "{step:?} in {present:?}");
            present.note(&step);
            changes += 1;
        }
        assert_shows(&present, &before, &desired);
        assert_eq!(plan(&present, &desired), [], "a second look finds a difference");
    }
    assert!(changes > 10_000);
    for step in plan(&present, &Desired::default()) {
        present.note(&step);
    }
    assert!(present.stores.is_empty() && present.groups.is_empty());
}

/// One portal that shows the first `luns` as numbers from 1 to one initiator.
fn one_portal(luns: &[Arc<Store>], size: u64, optimized: bool) -> Desired {
    let mut desired = Desired::default();
    let shown = luns.iter().enumerate().map(|(at, store)| {
        desired.stores.insert(Arc::clone(store), size);
        (u16::try_from(at + 1).unwrap(), Lun { store: Arc::clone(store), optimized })
    });
    let acl = Acl { access: Access::Open, luns: shown.collect() };
    let group = Group {
        address: "10.77.1.2:3260".parse().unwrap(),
        reachability: Reachability::Up,
        acls: [("iqn.test:1".to_owned(), acl)].into(),
    };
    desired.groups.insert(("iqn.array:1".to_owned(), 1028), group);
    desired
}

fn after(desired: &Desired) -> Present {
    let mut present = Present::default();
    for step in plan(&present, desired) {
        present.note(&step);
    }
    present
}

#[test]
fn growing_and_moving_leave_the_sessions_and_maps_alone() {
    let luns = [store(1), store(2)];
    let present = after(&one_portal(&luns, 1 << 20, true));
    let grown = plan(&present, &one_portal(&luns, 2 << 20, true));
    assert!(matches!(grown[..], [Step::Resize { size: 0x20_0000, .. }, Step::Resize { .. }]), "{grown:?}");
    let moved = plan(&present, &one_portal(&luns, 1 << 20, false));
    assert!(matches!(moved[..], [Step::Prefer { optimized: false, .. }, Step::Prefer { .. }]), "{moved:?}");
}

#[test]
fn a_number_used_again_is_taken_away_before_it_is_given() {
    let present = after(&one_portal(&[store(1)], 1 << 20, true));
    let swapped = plan(&present, &one_portal(&[store(2)], 1 << 20, true));
    let place = |wanted: fn(&Step) -> bool| swapped.iter().position(wanted).unwrap();
    assert!(
        place(|it| matches!(it, Step::Unmap { lun: 1, .. }))
            < place(|it| matches!(it, Step::Map { lun: 1, .. }))
    );
    assert!(!swapped.iter().any(|it| matches!(it, Step::Close { .. } | Step::Forget { .. })), "{swapped:?}");
}
