//! LIO's storage objects: a file behind a loop device under one identity, with its two access states.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use super::configfs::{make, objects, read, remove, write};
use super::desired::Store;
use super::loops;

/// LIO's tree.
pub(super) const ROOT: &str = "/sys/kernel/config/target";

/// The storage objects of one backend, which is nobody else's.
#[derive(Debug)]
pub(super) struct Stores {
    backend: PathBuf,
    /// Loop devices by the name of their storage object.
    devices: BTreeMap<String, PathBuf>,
}

impl Stores {
    /// Makes the backend `name` (`iblock_` and a number), loading LIO where it is not there yet.
    pub(super) fn new(name: &str) -> io::Result<Self> {
        for module in ["target_core_mod", "target_core_iblock", "loop"] {
            loops::load(module)?;
        }
        let backend = Path::new(ROOT).join("core").join(name);
        make(&backend)?;
        Ok(Self { backend, devices: BTreeMap::new() })
    }

    /// The folder of a storage object.
    pub(super) fn folder(&self, name: &str) -> PathBuf {
        self.backend.join(name)
    }

    /// Makes a storage object. What an earlier try left half-made goes first.
    pub(super) fn make(&mut self, store: &Store, name: &str) -> io::Result<()> {
        let folder = self.folder(name);
        self.remove(name)?;
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
                Err(error) if !says_unsupported(&error) => return Err(error),
                _ => {}
            }
        }
        make_states(&folder)
    }

    /// Lets a storage object follow the size of its file.
    pub(super) fn resize(&self, name: &str) -> io::Result<()> {
        self.devices.get(name).map_or(Ok(()), |device| loops::resize(device))
    }

    /// Removes a storage object that nothing exports any more; one that is gone already is fine.
    pub(super) fn remove(&mut self, name: &str) -> io::Result<()> {
        remove_folder(&self.folder(name))?;
        self.devices.remove(name).map_or(Ok(()), |device| loops::detach(&device))
    }

    /// Removes every storage object of this backend, whoever made it.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        for folder in objects(&self.backend)? {
            // Its loop device is on record once it was made whole.
            let made = folder.join("udev_path").try_exists()?;
            let device = if made { read(folder.join("udev_path"))? } else { String::new() };
            remove_folder(&folder)?;
            if device.starts_with("/dev/loop") {
                loops::detach(Path::new(&device))?;
            }
        }
        self.devices.clear();
        Ok(())
    }
}

fn says_unsupported(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::Unsupported | io::ErrorKind::InvalidInput)
}

/// Its two access states, of which each group of ports picks one.
fn make_states(folder: &Path) -> io::Result<()> {
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

fn remove_folder(folder: &Path) -> io::Result<()> {
    for state in [true, false] {
        remove(folder.join("alua").join(state_name(state)))?;
    }
    remove(folder)
}

/// The name of an access state.
pub(super) fn state_name(optimized: bool) -> &'static str {
    if optimized { "ao" } else { "ano" }
}
