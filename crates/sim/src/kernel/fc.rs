//! The kernel's target for Fibre Channel: `tcm_fc` on FCoE ports in VN2VN mode, which need no switch and no card. They
//! live in the initial network namespace, where they also show as host ports of this machine.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::configfs::{link, make, objects, remove, unlink, write};
use super::desired::{Store, inode};
use super::identity::Shown;
use super::lio::{clear_links, is_named, lun_folder};
use super::loops;
use super::stores::{ROOT, Stores, state_name};
use crate::target::Unit;

/// The storage objects of this target are below a backend of their own.
const BACKEND: &str = "iblock_78";

/// Where FCoE ports are made and ended.
const FCOE: &str = "/sys/module/libfcoe/parameters";

/// Bytes of a logical block.
const BLOCK: u32 = 512;

/// One port of the target, with the one initiator that it serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FcPort {
    /// The network device it runs over.
    pub device: String,
    /// The device's hardware address, which is most of the port's name.
    pub address: [u8; 6],
    /// The hardware address of the initiator's device.
    pub initiator: [u8; 6],
}

/// The name of the FCoE port over a device with this hardware address.
pub fn wwpn(address: [u8; 6]) -> String {
    let bytes: Vec<String> = [0x20, 0].iter().chain(&address).map(|it| format!("{it:02x}")).collect();
    bytes.join(":")
}

/// A Fibre Channel target: each unit shows on all its ports, optimised on the first.
#[derive(Debug)]
pub struct FcTarget {
    root: PathBuf,
    stores: Stores,
    ports: Vec<FcPort>,
}

impl FcTarget {
    /// Makes the target's ports over devices that are up. What an earlier one left in the kernel is removed.
    ///
    /// # Errors
    /// Without root or the kernel's modules; names the path that failed.
    pub fn new(ports: Vec<FcPort>) -> io::Result<Self> {
        for module in ["libfc", "libfcoe", "fcoe", "tcm_fc"] {
            loops::load(module)?;
        }
        let mut this = Self { root: Path::new(ROOT).join("fc"), stores: Stores::new(BACKEND)?, ports };
        make(&this.root)?;
        this.clear_tree()?;
        for port in &this.ports {
            let group = this.group(port);
            if let Some(target) = group.parent() {
                make(target)?;
            }
            make(&group)?;
            make(group.join("acls").join(wwpn(port.initiator)))?;
            Self::start_port(&port.device)?;
        }
        Ok(this)
    }

    /// Makes an FCoE port over a device: for initiators.
    ///
    /// # Errors
    /// Where the device cannot carry one, or has one.
    pub fn start_port(device: &str) -> io::Result<()> {
        write(Path::new(FCOE).join("create_vn2vn"), device)
    }

    /// Ends the FCoE port over a device.
    ///
    /// # Errors
    /// Where there is none.
    pub fn end_port(device: &str) -> io::Result<()> {
        write(Path::new(FCOE).join("destroy"), device)
    }

    /// Shows a unit as `lun` on all ports.
    ///
    /// # Errors
    /// `InvalidInput` for what LIO cannot show; names the path that failed.
    pub fn map(&mut self, unit: &Unit, lun: u16) -> io::Result<()> {
        let name = name(lun);
        let store = Store {
            file: unit.file.clone(),
            inode: inode(&unit.file)?,
            shown: Shown::of(unit)?,
            block: BLOCK,
        };
        self.stores.make(&Arc::new(store), &name)?;
        for (at, port) in self.ports.iter().enumerate() {
            let offer = self.offer(port, lun);
            make(&offer)?;
            link(self.stores.folder(&name), offer.join(&name))?;
            write(offer.join("alua_tg_pt_gp"), state_name(at == 0))?;
            let mapped = self.mapped(port, lun);
            make(&mapped)?;
            link(&offer, mapped.join(&name))?;
        }
        Ok(())
    }

    /// Lets the unit at `lun` follow the size of its file.
    ///
    /// # Errors
    /// Where its device cannot.
    pub fn resize(&self, lun: u16) -> io::Result<()> {
        self.stores.resize(&name(lun))
    }

    /// Takes the unit at `lun` away.
    ///
    /// # Errors
    /// Names the path that failed.
    pub fn unmap(&mut self, lun: u16) -> io::Result<()> {
        let name = name(lun);
        for port in &self.ports {
            for folder in [self.mapped(port, lun), self.offer(port, lun)] {
                unlink(folder.join(&name))?;
                remove(folder)?;
            }
        }
        self.stores.remove(&name)
    }

    /// Ends the ports and removes everything.
    ///
    /// # Errors
    /// Names the path that failed.
    pub fn clear(&mut self) -> io::Result<()> {
        for port in &self.ports {
            Self::end_port(&port.device)?;
        }
        self.clear_tree()
    }

    fn clear_tree(&mut self) -> io::Result<()> {
        for target in objects(&self.root)?.into_iter().filter(|it| is_named(it, "20:00:")) {
            for group in objects(&target)?.into_iter().filter(|it| is_named(it, "tpgt_")) {
                for acl in objects(group.join("acls"))? {
                    for lun in objects(&acl)?.into_iter().filter(|it| is_named(it, "lun_")) {
                        clear_links(&lun)?;
                    }
                    remove(acl)?;
                }
                for lun in objects(group.join("lun"))? {
                    clear_links(&lun)?;
                }
                remove(group)?;
            }
            remove(target)?;
        }
        self.stores.clear()
    }

    fn group(&self, port: &FcPort) -> PathBuf {
        self.root.join(wwpn(port.address)).join("tpgt_1")
    }

    fn offer(&self, port: &FcPort, lun: u16) -> PathBuf {
        self.group(port).join("lun").join(format!("lun_{lun}"))
    }

    fn mapped(&self, port: &FcPort, lun: u16) -> PathBuf {
        self.group(port).join("acls").join(wwpn(port.initiator)).join(lun_folder(lun))
    }
}

fn name(lun: u16) -> String {
    format!("fc{lun}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_named_by_its_hardware_address() {
        assert_eq!(wwpn([0, 0xa0, 0x98, 0, 0, 0x0a]), "20:00:00:a0:98:00:00:0a");
    }
}
