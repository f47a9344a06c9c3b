//! The difference between what is wanted and what is there, as steps in an order the kernel takes: first what goes
//! away, from the initiators inwards, then what comes, from the storage objects outwards.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::desired::{Acl, Desired, Group, GroupId, Store};
use super::present::{GroupEntry, Present, Step};
use crate::target::Reachability;

/// The steps from `present` to `desired`.
pub(super) fn plan(present: &Present, desired: &Desired) -> Vec<Step> {
    let mut planner = Planner { now: present.clone(), desired, steps: Vec::new() };
    planner.take_away();
    planner.bring();
    planner.steps
}

struct Planner<'a> {
    now: Present,
    desired: &'a Desired,
    steps: Vec<Step>,
}

/// Whether a group is left as it is: nobody can see it, and its sessions must live on until they notice themselves.
fn is_frozen(group: Option<&Group>) -> bool {
    group.is_some_and(|it| it.reachability == Reachability::BlackHole)
}

impl Planner<'_> {
    fn step(&mut self, step: Step) {
        self.now.note(&step);
        self.steps.push(step);
    }

    fn take_away(&mut self) {
        for (id, group) in self.now.groups.clone() {
            let desired = self.desired;
            let wanted = desired.groups.get(&id);
            if !is_frozen(wanted) {
                self.close(&id, &group, wanted);
                self.unmap(&id, &group, wanted);
                self.withdraw(&id);
                if wanted.is_none() {
                    self.step(Step::RemoveGroup { group: id });
                }
            }
        }
        let used: BTreeSet<Arc<Store>> =
            self.now.groups.values().flat_map(|group| group.offers.keys().cloned()).collect();
        for (store, entry) in self.now.stores.clone() {
            if !self.desired.stores.contains_key(&store) && !used.contains(&store) {
                self.step(Step::RemoveStore { store, name: entry.name });
            }
        }
    }

    fn close(&mut self, id: &GroupId, group: &GroupEntry, wanted: Option<&Group>) {
        let stays = |it: &&Group| it.reachability == Reachability::Up && Some(it.address) == group.open;
        if let (Some(address), None) = (group.open, wanted.filter(stays)) {
            self.step(Step::Close { group: id.clone(), address });
        }
    }

    fn unmap(&mut self, id: &GroupId, group: &GroupEntry, wanted: Option<&Group>) {
        for (initiator, acl) in &group.acls {
            let keeps = wanted.and_then(|it| it.acls.get(initiator));
            for (lun, store) in &acl.maps {
                let same = keeps.and_then(|it| it.luns.get(lun)).is_some_and(|it| it.store == *store);
                if !same {
                    let (group, initiator) = (id.clone(), initiator.clone());
                    self.step(Step::Unmap { group, initiator, lun: *lun, name: self.name(store) });
                }
            }
            if keeps.is_none() {
                self.step(Step::Forget { group: id.clone(), initiator: initiator.clone() });
            }
        }
    }

    /// Takes out of a group what none of its initiators will have.
    fn withdraw(&mut self, id: &GroupId) {
        let luns = self.desired.groups.get(id).into_iter().flat_map(|it| it.acls.values());
        let wanted: BTreeSet<&Arc<Store>> =
            luns.flat_map(|it| it.luns.values().map(|lun| &lun.store)).collect();
        let offers = self.now.groups.get(id).map(|it| it.offers.clone()).unwrap_or_default();
        for (store, offer) in offers.into_iter().filter(|(store, _)| !wanted.contains(store)) {
            let name = self.name(&store);
            self.step(Step::Withdraw { group: id.clone(), store, index: offer.index, name });
        }
    }

    fn bring(&mut self) {
        let desired = self.desired;
        for (store, size) in &desired.stores {
            match self.now.stores.get(store) {
                Some(entry) if entry.size == *size => {}
                Some(entry) => {
                    let name = entry.name.clone();
                    self.step(Step::Resize { store: Arc::clone(store), name, size: *size });
                }
                None => {
                    let stem = store.file.file_stem().map(|it| it.to_string_lossy().into_owned());
                    let name = format!("{}.{}", stem.unwrap_or_default(), self.now.made + 1);
                    self.step(Step::MakeStore { store: Arc::clone(store), name, size: *size });
                }
            }
        }
        for (id, group) in &desired.groups {
            if !is_frozen(Some(group)) {
                self.bring_group(id, group);
            }
        }
    }

    fn bring_group(&mut self, id: &GroupId, wanted: &Group) {
        if !self.now.groups.contains_key(id) {
            self.step(Step::MakeGroup { group: id.clone() });
        }
        for lun in wanted.acls.values().flat_map(|it| it.luns.values()) {
            self.offer(id, &lun.store, lun.optimized);
        }
        for (initiator, acl) in &wanted.acls {
            self.admit(id, initiator, acl);
        }
        let open = self.now.groups.get(id).and_then(|it| it.open);
        if wanted.reachability == Reachability::Up && open.is_none() {
            self.step(Step::Open { group: id.clone(), address: wanted.address });
        }
    }

    fn offer(&mut self, id: &GroupId, store: &Arc<Store>, optimized: bool) {
        let Some(group) = self.now.groups.get(id) else { return };
        match group.offers.get(store) {
            Some(offer) if offer.optimized == optimized => {}
            Some(offer) => {
                let (group, store, index) = (id.clone(), Arc::clone(store), offer.index);
                self.step(Step::Prefer { group, store, index, optimized });
            }
            None => {
                let index = free_index(group);
                let (group, name) = (id.clone(), self.name(store));
                self.step(Step::Offer { group, store: Arc::clone(store), index, name, optimized });
            }
        }
    }

    fn admit(&mut self, id: &GroupId, initiator: &str, wanted: &Acl) {
        let acl = self.now.groups.get(id).and_then(|it| it.acls.get(initiator));
        if acl.is_none_or(|it| it.access != wanted.access) {
            let access = wanted.access.clone();
            self.step(Step::Admit { group: id.clone(), initiator: initiator.to_owned(), access });
        }
        for (lun, wanted) in &wanted.luns {
            let Some(group) = self.now.groups.get(id) else { return };
            let mapped = group.acls.get(initiator).is_some_and(|it| it.maps.contains_key(lun));
            let offer = group.offers.get(&wanted.store).filter(|_| !mapped);
            if let Some(index) = offer.map(|it| it.index) {
                let (store, name) = (Arc::clone(&wanted.store), self.name(&wanted.store));
                let (group, initiator) = (id.clone(), initiator.to_owned());
                self.step(Step::Map { group, initiator, lun: *lun, store, index, name });
            }
        }
    }

    fn name(&self, store: &Arc<Store>) -> String {
        self.now.stores.get(store).map(|it| it.name.clone()).unwrap_or_default()
    }
}

/// The smallest number from 1 that no storage object of the group has.
fn free_index(group: &GroupEntry) -> u32 {
    let taken: BTreeSet<u32> = group.offers.values().map(|it| it.index).collect();
    (1..u32::MAX).find(|index| !taken.contains(index)).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
