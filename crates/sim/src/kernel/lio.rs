//! Steps carried out on LIO's configfs tree.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::configfs::{link, links, make, objects, remove, unlink, write};
use super::desired::GroupId;
use super::present::Step;
use super::stores::{ROOT, Stores, state_name};
use super::{loops, namespace};
use crate::target::Access;

/// The storage objects of this plane are below a backend of their own.
const BACKEND: &str = "iblock_77";

/// LUN numbers from here on are shown in the flat addressing method, as arrays do.
const FLAT_FROM: u16 = 256;

/// The mark of the flat addressing method.
const FLAT: u16 = 0x4000;

/// Seconds until a silent initiator is asked for a sign of life, seconds it has for that, and for the data it owes:
/// commands of a connection that is gone hold their units until then.
const PATIENCE: [(&str, &str); 4] = [
    ("nopin_timeout", "3"),
    ("nopin_response_timeout", "5"),
    ("dataout_timeout", "2"),
    ("dataout_timeout_retries", "1"),
];

/// What takes a user or a secret away again.
const NOTHING: &str = "NULL";

/// LIO's tree and the network namespace of its portals.
#[derive(Debug)]
pub(super) struct Lio {
    root: PathBuf,
    netns: PathBuf,
    stores: Stores,
}

impl Lio {
    /// Finds LIO, loading it where it is not there yet.
    pub(super) fn new(netns: &Path) -> io::Result<Self> {
        let stores = Stores::new(BACKEND)?;
        loops::load("iscsi_target_mod")?;
        let root = PathBuf::from(ROOT);
        make(root.join("iscsi"))?;
        Ok(Self { root, netns: netns.to_owned(), stores })
    }

    /// Carries out a step. One that failed half-way may be repeated.
    pub(super) fn carry_out(&mut self, step: &Step) -> io::Result<()> {
        match step {
            Step::Close { group, address } => self.close(group, *address),
            Step::Unmap { group, initiator, lun, name } => {
                let lun = self.acl(group, initiator).join(lun_folder(*lun));
                unlink(lun.join(name))?;
                remove(lun)
            }
            Step::Forget { group, initiator } => remove(self.acl(group, initiator)),
            Step::Withdraw { group, index, name, .. } => {
                let lun = self.offer(group, *index);
                unlink(lun.join(name))?;
                remove(lun)
            }
            Step::RemoveGroup { group } => self.remove_group(group),
            Step::RemoveStore { name, .. } => self.stores.remove(name),
            Step::Resize { name, .. } => self.stores.resize(name),
            Step::MakeStore { store, name, .. } => self.stores.make(store, name),
            Step::MakeGroup { group } => self.make_group(group),
            Step::Offer { group, index, name, optimized, .. } => {
                let lun = self.offer(group, *index);
                make(&lun)?;
                link(self.stores.folder(name), lun.join(name))?;
                write(lun.join("alua_tg_pt_gp"), state_name(*optimized))
            }
            Step::Prefer { group, index, optimized, .. } => {
                write(self.offer(group, *index).join("alua_tg_pt_gp"), state_name(*optimized))
            }
            Step::Admit { group, initiator, access } => self.admit(group, initiator, access),
            Step::Map { group, initiator, lun, index, name, .. } => {
                let lun = self.acl(group, initiator).join(lun_folder(*lun));
                make(&lun)?;
                link(self.offer(group, *index), lun.join(name))
            }
            Step::Open { group, address } => self.open(group, *address),
        }
    }

    fn group(&self, (target, tag): &GroupId) -> PathBuf {
        self.root.join("iscsi").join(target).join(format!("tpgt_{tag}"))
    }

    fn acl(&self, group: &GroupId, initiator: &str) -> PathBuf {
        self.group(group).join("acls").join(initiator)
    }

    fn offer(&self, group: &GroupId, index: u32) -> PathBuf {
        self.group(group).join(format!("lun/lun_{index}"))
    }

    fn portal(&self, group: &GroupId, address: SocketAddr) -> PathBuf {
        self.group(group).join("np").join(address.to_string())
    }

    /// The sessions end first: a portal that is removed leaves them alone.
    fn close(&self, group: &GroupId, address: SocketAddr) -> io::Result<()> {
        write(self.group(group).join("enable"), "0")?;
        remove(self.portal(group, address))
    }

    /// The socket is made in the namespace of the thread that makes the portal.
    fn open(&self, group: &GroupId, address: SocketAddr) -> io::Result<()> {
        let portal = self.portal(group, address);
        namespace::within(&self.netns, || make(portal))?;
        write(self.group(group).join("enable"), "1")
    }

    fn make_group(&self, group: &GroupId) -> io::Result<()> {
        make(self.root.join("iscsi").join(&group.0))?;
        let folder = self.group(group);
        make(&folder)?;
        for attribute in
            ["authentication", "generate_node_acls", "cache_dynamic_acls", "demo_mode_write_protect"]
        {
            write(folder.join("attrib").join(attribute), "0")?;
        }
        Ok(())
    }

    /// The target goes with its last group.
    fn remove_group(&self, group: &GroupId) -> io::Result<()> {
        remove(self.group(group))?;
        let target = self.root.join("iscsi").join(&group.0);
        let left = objects(&target)?.into_iter().any(|it| is_named(&it, "tpgt_"));
        if left { Ok(()) } else { remove(target) }
    }

    fn admit(&self, group: &GroupId, initiator: &str, access: &Access) -> io::Result<()> {
        let acl = self.acl(group, initiator);
        make(&acl)?;
        for (attribute, value) in PATIENCE {
            write(acl.join("attrib").join(attribute), value)?;
        }
        let authentication = match access {
            Access::Open | Access::Refused => "0",
            Access::Chap { initiator, target } => {
                let target = target.as_ref();
                for (file, value) in [
                    ("userid", initiator.user.as_str()),
                    ("password", &initiator.secret),
                    ("userid_mutual", target.map_or(NOTHING, |it| &it.user)),
                    ("password_mutual", target.map_or(NOTHING, |it| &it.secret)),
                ] {
                    write(acl.join("auth").join(file), value)?;
                }
                "1"
            }
        };
        write(acl.join("attrib/authentication"), authentication)
    }

    /// Removes every iSCSI target and every storage object of this backend, whoever made them.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        for target in objects(self.root.join("iscsi"))?.into_iter().filter(|it| is_named(it, "iqn.")) {
            for group in objects(&target)?.into_iter().filter(|it| is_named(it, "tpgt_")) {
                clear_group(&group)?;
            }
            remove(target)?;
        }
        self.stores.clear()
    }
}

/// Removes a group with all that is in it.
fn clear_group(group: &Path) -> io::Result<()> {
    write(group.join("enable"), "0")?;
    for portal in objects(group.join("np"))? {
        remove(portal)?;
    }
    for acl in objects(group.join("acls"))? {
        for lun in objects(&acl)?.into_iter().filter(|it| is_named(it, "lun_")) {
            clear_links(&lun)?;
        }
        remove(acl)?;
    }
    for lun in objects(group.join("lun"))? {
        clear_links(&lun)?;
    }
    remove(group)
}

pub(super) fn clear_links(folder: &Path) -> io::Result<()> {
    for it in links(folder)? {
        unlink(it)?;
    }
    remove(folder)
}

pub(super) fn is_named(path: &Path, start: &str) -> bool {
    path.file_name().is_some_and(|it| it.to_string_lossy().starts_with(start))
}

/// The folder of a LUN number below an initiator's.
pub(super) fn lun_folder(lun: u16) -> String {
    let shown = if lun < FLAT_FROM { lun } else { FLAT | lun };
    format!("lun_{shown}")
}
