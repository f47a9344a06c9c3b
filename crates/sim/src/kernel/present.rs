//! What the plane has made in the kernel, and the steps that change it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::desired::{GroupId, Store};
use crate::target::Access;

/// A storage object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StoreEntry {
    /// Its name in configfs.
    pub(super) name: String,
    /// Bytes.
    pub(super) size: u64,
}

/// A storage object in a target portal group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Offer {
    /// Its number in the group, which no initiator sees.
    pub(super) index: u32,
    pub(super) optimized: bool,
}

/// What an initiator has in a group.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct AclEntry {
    pub(super) access: Access,
    pub(super) maps: BTreeMap<u16, Arc<Store>>,
}

/// A target portal group.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct GroupEntry {
    /// Where it listens, if it does.
    pub(super) open: Option<SocketAddr>,
    pub(super) offers: BTreeMap<Arc<Store>, Offer>,
    pub(super) acls: BTreeMap<String, AclEntry>,
}

/// Everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Present {
    pub(super) stores: BTreeMap<Arc<Store>, StoreEntry>,
    pub(super) groups: BTreeMap<GroupId, GroupEntry>,
    /// How many storage objects were made so far: their names are never used again.
    pub(super) made: u64,
}

/// One change.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Step {
    /// Ends a group's sessions and stops listening.
    Close { group: GroupId, address: SocketAddr },
    /// Takes a unit away from an initiator.
    Unmap { group: GroupId, initiator: String, lun: u16, name: String },
    /// Forgets an initiator, ending its sessions.
    Forget { group: GroupId, initiator: String },
    /// Takes a storage object out of a group.
    Withdraw { group: GroupId, store: Arc<Store>, index: u32, name: String },
    /// Removes an empty group.
    RemoveGroup { group: GroupId },
    /// Removes a storage object that no group has.
    RemoveStore { store: Arc<Store>, name: String },
    /// Lets a storage object follow the size of its file.
    Resize { store: Arc<Store>, name: String, size: u64 },
    /// Makes a storage object.
    MakeStore { store: Arc<Store>, name: String, size: u64 },
    /// Makes a group that does not listen yet.
    MakeGroup { group: GroupId },
    /// Puts a storage object into a group.
    Offer { group: GroupId, store: Arc<Store>, index: u32, name: String, optimized: bool },
    /// Changes the access state of a storage object in a group.
    Prefer { group: GroupId, store: Arc<Store>, index: u32, optimized: bool },
    /// Lets an initiator log in.
    Admit { group: GroupId, initiator: String, access: Access },
    /// Gives an initiator a unit.
    Map { group: GroupId, initiator: String, lun: u16, store: Arc<Store>, index: u32, name: String },
    /// Listens and takes logins.
    Open { group: GroupId, address: SocketAddr },
}

impl Present {
    /// The state after a step.
    pub(super) fn note(&mut self, step: &Step) {
        match step {
            Step::RemoveStore { store, .. } => drop(self.stores.remove(store)),
            Step::Resize { store, size, .. } => {
                if let Some(entry) = self.stores.get_mut(store) {
                    entry.size = *size;
                }
            }
            Step::MakeStore { store, name, size } => {
                self.made += 1;
                self.stores.insert(Arc::clone(store), StoreEntry { name: name.clone(), size: *size });
            }
            Step::RemoveGroup { group } => drop(self.groups.remove(group)),
            Step::MakeGroup { group } => drop(self.groups.insert(group.clone(), GroupEntry::default())),
            Step::Close { group, .. }
            | Step::Unmap { group, .. }
            | Step::Forget { group, .. }
            | Step::Withdraw { group, .. }
            | Step::Offer { group, .. }
            | Step::Prefer { group, .. }
            | Step::Admit { group, .. }
            | Step::Map { group, .. }
            | Step::Open { group, .. } => {
                if let Some(entry) = self.groups.get_mut(group) {
                    entry.note(step);
                }
            }
        }
    }
}

impl GroupEntry {
    fn note(&mut self, step: &Step) {
        match step {
            Step::Close { .. } => self.open = None,
            Step::Open { address, .. } => self.open = Some(*address),
            Step::Forget { initiator, .. } => drop(self.acls.remove(initiator)),
            Step::Withdraw { store, .. } => drop(self.offers.remove(store)),
            Step::Offer { store, index, optimized, .. } | Step::Prefer { store, index, optimized, .. } => {
                self.offers.insert(Arc::clone(store), Offer { index: *index, optimized: *optimized });
            }
            Step::Admit { initiator, access, .. } => {
                self.acls.entry(initiator.clone()).or_default().access = access.clone();
            }
            Step::Map { initiator, lun, store, .. } => {
                if let Some(acl) = self.acls.get_mut(initiator) {
                    acl.maps.insert(*lun, Arc::clone(store));
                }
            }
            Step::Unmap { initiator, lun, .. } => {
                if let Some(acl) = self.acls.get_mut(initiator) {
                    acl.maps.remove(lun);
                }
            }
            Step::RemoveGroup { .. }
            | Step::RemoveStore { .. }
            | Step::Resize { .. }
            | Step::MakeStore { .. }
            | Step::MakeGroup { .. } => {}
        }
    }
}
