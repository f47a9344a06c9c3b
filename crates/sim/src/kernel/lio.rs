//! Steps carried out on LIO's configfs tree.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use secrecy::ExposeSecret as _;

use super::configfs::{link, links, make, objects, read, remove, unlink, write};
use super::desired::{Access, GroupId, Store};
use super::present::Step;
use super::{loops, namespace};

/// The storage objects of this plane are below a backend of their own.
const BACKEND: &str = "core/iblock_77";

/// LUN numbers from here on are shown in the flat addressing method, as arrays do.
const FLAT_FROM: u16 = 256;

/// The mark of the flat addressing method.
const FLAT: u16 = 0x4000;

/// Seconds until a silent initiator is asked for a sign of life, seconds it has for that, and for the data it owes:
/// commands of a connection that is gone hold their units until then.
const PATIENCE: [(&str, &str); 4] = [
    ("nopin_timeout", "5"),
    ("nopin_response_timeout", "10"),
    ("dataout_timeout", "3"),
    ("dataout_timeout_retries", "2"),
];

/// LIO's tree and the network namespace of its portals.
#[derive(Debug)]
pub(super) struct Lio {
    root: PathBuf,
    netns: PathBuf,
    /// Loop devices by the name of their storage object.
    devices: BTreeMap<String, PathBuf>,
}

impl Lio {
    /// Finds LIO, loading it where it is not there yet.
    pub(super) fn new(netns: &Path) -> io::Result<Self> {
        let root = PathBuf::from("/sys/kernel/config/target");
        if !root.try_exists()? {
            loops::load("target_core_mod")?;
        }
        for module in ["loop", "target_core_iblock", "iscsi_target_mod"] {
            loops::load(module)?;
        }
        make(root.join(BACKEND))?;
        make(root.join("iscsi"))?;
        Ok(Self { root, netns: netns.to_owned(), devices: BTreeMap::new() })
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
            Step::RemoveStore { name, .. } => {
                self.remove_store(&self.store(name))?;
                self.devices.remove(name).map_or(Ok(()), |device| loops::detach(&device))
            }
            Step::Resize { name, .. } => {
                self.devices.get(name).map_or(Ok(()), |device| loops::resize(device))
            }
            Step::MakeStore { store, name, .. } => self.make_store(store, name),
            Step::MakeGroup { group } => self.make_group(group),
            Step::Offer { group, index, name, optimized, .. } => {
                let lun = self.offer(group, *index);
                make(&lun)?;
                link(self.store(name), lun.join(name))?;
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

    fn store(&self, name: &str) -> PathBuf {
        self.root.join(BACKEND).join(name)
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
            Access::Chap { user, secret } => {
                write(acl.join("auth/userid"), user)?;
                write(acl.join("auth/password"), secret.expose_secret())?;
                "1"
            }
        };
        write(acl.join("attrib/authentication"), authentication)
    }

    fn make_store(&mut self, store: &Store, name: &str) -> io::Result<()> {
        let folder = self.store(name);
        // What an earlier try left half-made.
        self.remove_store(&folder)?;
        if let Some(device) = self.devices.remove(name) {
            loops::detach(&device)?;
        }
        let device = loops::attach(&store.file, store.block)?;
        self.devices.insert(name.to_owned(), device.clone());
        make(&folder)?;
        write(folder.join("control"), &format!("udev_path={}", device.display()))?;
        // Only to be read: for the one who clears this away without having made it.
        write(folder.join("udev_path"), &device.to_string_lossy())?;
        write(folder.join("enable"), "1")?;
        let (wwn, shown) = (folder.join("wwn"), &store.shown);
        write(wwn.join("vendor_id"), &shown.vendor)?;
        write(wwn.join("product_id"), &shown.product)?;
        write(wwn.join("revision"), &shown.revision)?;
        write(wwn.join("company_id"), &format!("{:#08x}", shown.company))?;
        if !shown.serial.is_empty() {
            write(wwn.join("vpd_unit_serial"), &shown.serial)?;
        }
        for unmapping in ["emulate_tpu", "emulate_tpws"] {
            // A file system without holes cannot unmap, and LIO says so.
            match write(folder.join("attrib").join(unmapping), "1") {
                Err(error)
                    if error.kind() != io::ErrorKind::Unsupported
                        && error.kind() != io::ErrorKind::InvalidInput =>
                {
                    return Err(error);
                }
                _ => {}
            }
        }
        for (optimized, id) in [(true, "1"), (false, "2")] {
            let state = folder.join("alua").join(state_name(optimized));
            make(&state)?;
            write(state.join("tg_pt_gp_id"), id)?;
            // Implicit: the array decides.
            write(state.join("alua_access_type"), "1")?;
            write(state.join("alua_access_state"), if optimized { "0" } else { "1" })?;
        }
        Ok(())
    }

    #[expect(clippy::unused_self, reason = "one of the group of methods on the tree")]
    fn remove_store(&self, folder: &Path) -> io::Result<()> {
        for state in [true, false] {
            remove(folder.join("alua").join(state_name(state)))?;
        }
        remove(folder)
    }

    /// Removes every iSCSI target and every storage object of this backend, whoever made them.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        for target in objects(self.root.join("iscsi"))?.into_iter().filter(|it| is_named(it, "iqn.")) {
            for group in objects(&target)?.into_iter().filter(|it| is_named(it, "tpgt_")) {
                clear_group(&group)?;
            }
            remove(target)?;
        }
        for store in objects(self.root.join(BACKEND))? {
            if !store.join("enable").try_exists()? {
                continue;
            }
            let device = PathBuf::from(read(store.join("udev_path"))?);
            self.remove_store(&store)?;
            if is_named(&device, "loop") {
                loops::detach(&device)?;
            }
        }
        self.devices.clear();
        Ok(())
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

fn clear_links(folder: &Path) -> io::Result<()> {
    for it in links(folder)? {
        unlink(it)?;
    }
    remove(folder)
}

fn is_named(path: &Path, start: &str) -> bool {
    path.file_name().is_some_and(|it| it.to_string_lossy().starts_with(start))
}

/// The name of an access state.
fn state_name(optimized: bool) -> &'static str {
    if optimized { "ao" } else { "ano" }
}

/// The folder of a LUN number below an initiator's.
fn lun_folder(lun: u16) -> String {
    let shown = if lun < FLAT_FROM { lun } else { FLAT | lun };
    format!("lun_{shown}")
}
