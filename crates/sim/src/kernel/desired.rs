//! What the arrays want the kernel to show.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::identity::Shown;
use crate::target::{Access, Reachability, Target, Unit};

/// What one storage object of the kernel stands for: a file under one identity. The same file under two identities
/// needs two, since LIO does not change the identity of an exported one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Store {
    pub(super) file: PathBuf,
    /// Device and inode: a file that was replaced is another.
    pub(super) inode: (u64, u64),
    pub(super) shown: Shown,
    /// Bytes of a logical block.
    pub(super) block: u32,
}

/// A target portal group: target name and tag. Each has one portal.
pub(super) type GroupId = (String, u16);

/// A unit as one initiator has it on one portal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lun {
    pub(super) store: Arc<Store>,
    pub(super) optimized: bool,
}

/// What one initiator has on one portal.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Acl {
    pub(super) access: Access,
    pub(super) luns: BTreeMap<u16, Lun>,
}

/// One portal with its group.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Group {
    pub(super) address: SocketAddr,
    pub(super) reachability: Reachability,
    pub(super) acls: BTreeMap<String, Acl>,
}

/// Everything.
#[derive(Debug, Default)]
pub(super) struct Desired {
    pub(super) groups: BTreeMap<GroupId, Group>,
    /// Sizes in bytes.
    pub(super) stores: BTreeMap<Arc<Store>, u64>,
}

/// What is not in the arrays' hands.
#[derive(Debug, Clone)]
pub(super) struct Rules {
    /// By initiator, instead of what the arrays say.
    pub(super) access: BTreeMap<String, Access>,
    pub(super) block: u32,
}

impl Default for Rules {
    fn default() -> Self {
        Self { access: BTreeMap::new(), block: 512 }
    }
}

impl Desired {
    /// Asks the arrays what they show to these initiators.
    ///
    /// # Errors
    /// `InvalidInput` for what the kernel's target cannot express.
    pub(super) fn of(targets: &[&dyn Target], initiators: &[String], rules: &Rules) -> io::Result<Self> {
        let mut wanted = Self::default();
        let mut inodes = BTreeMap::new();
        for target in targets {
            for portal in target.portals() {
                let id = (portal.target, portal.group);
                let mut group = Group {
                    address: portal.address,
                    reachability: portal.reachability,
                    acls: BTreeMap::new(),
                };
                for initiator in initiators {
                    let given = || target.access(initiator, portal.address);
                    let access = rules.access.get(initiator).cloned().unwrap_or_else(given);
                    if access == Access::Refused {
                        continue;
                    }
                    let mut luns = BTreeMap::new();
                    for (number, unit) in target.units(initiator, portal.address) {
                        luns.insert(number, wanted.lun(number, &unit, rules, &mut inodes)?);
                    }
                    group.acls.insert(initiator.clone(), Acl { access, luns });
                }
                if let Some(other) = wanted.groups.insert(id, group) {
                    return refused(format!("portal {} shares its group with another", other.address));
                }
            }
        }
        Ok(wanted)
    }

    fn lun(
        &mut self,
        number: u16,
        unit: &Unit,
        rules: &Rules,
        inodes: &mut BTreeMap<PathBuf, (u64, u64)>,
    ) -> io::Result<Lun> {
        if number == 0 {
            return refused(format!(
                "{}: LIO keeps a stand-in disk at LUN 0; map it at another",
                unit.file.display()
            ));
        }
        let inode = match inodes.get(&unit.file) {
            Some(known) => *known,
            None => *inodes.entry(unit.file.clone()).or_insert(inode(&unit.file)?),
        };
        let shown = Shown::of(unit)?;
        let store = Arc::new(Store { file: unit.file.clone(), inode, shown, block: rules.block });
        self.stores.insert(Arc::clone(&store), unit.size);
        Ok(Lun { store, optimized: unit.optimized })
    }
}

pub(super) fn inode(file: &Path) -> io::Result<(u64, u64)> {
    let meta = std::fs::metadata(file)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", file.display())))?;
    Ok((meta.dev(), meta.ino()))
}

fn refused<T>(what: String) -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::InvalidInput, what))
}
