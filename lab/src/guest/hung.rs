//! A logical unit that takes commands and answers none, behind one portal: a storage object of the kernel's target whose
//! commands go to a program in user space that is not there.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use san_sim::target::Target as _;

use super::Failure;
use super::array::TestArray;

const TARGET: &str = "/sys/kernel/config/target";
/// The number of the unit within its portal group, where the plane has its own.
const INDEX: u16 = 9000;

/// The folder of a portal's group in the kernel's target.
///
/// # Errors
/// Where the array has no such portal.
pub(super) fn group_of(array: &TestArray, portal: SocketAddr) -> Result<PathBuf, Failure> {
    let group = array.portals().into_iter().find(|it| it.address == portal);
    let group = group.ok_or_else(|| Failure(format!("the array has no portal {portal}")))?;
    Ok(Path::new(TARGET).join("iscsi").join(&group.target).join(format!("tpgt_{}", group.group)))
}

/// The unit, as long as this is there.
#[derive(Debug)]
pub(super) struct Hung {
    object: PathBuf,
    offer: PathBuf,
    map: PathBuf,
}

impl Hung {
    /// Shows it to `initiator` as `lun` behind `portal`, for `seconds` after each command; then the target gives the
    /// command up. The array must show nothing there.
    ///
    /// # Errors
    /// Where the kernel's target refuses.
    pub(super) fn show(
        array: &TestArray,
        portal: SocketAddr,
        lun: u16,
        initiator: &str,
        seconds: u32,
    ) -> Result<Self, Failure> {
        let folder = group_of(array, portal)?;
        let this = Self {
            object: Path::new(TARGET).join("core/user_77").join(format!("{}-{lun}", portal.ip())),
            offer: folder.join(format!("lun/lun_{INDEX}")),
            map: folder.join("acls").join(initiator).join(format!("lun_{lun}")),
        };
        fs::create_dir_all(&this.object)?;
        fs::write(this.object.join("control"), "dev_size=67108864,dev_config=nobody")?;
        fs::write(this.object.join("attrib/cmd_time_out"), seconds.to_string())?;
        fs::write(this.object.join("enable"), "1")?;
        fs::create_dir(&this.offer)?;
        symlink(&this.object, this.offer.join("unit"))?;
        fs::create_dir(&this.map)?;
        symlink(&this.offer, this.map.join("unit"))?;
        Ok(this)
    }

    /// Takes it away. Waits for the commands it has.
    ///
    /// # Errors
    /// Where the kernel's target refuses.
    pub(super) fn remove(self) -> Result<(), Failure> {
        for link in [&self.map, &self.offer] {
            fs::remove_file(link.join("unit"))?;
            fs::remove_dir(link)?;
        }
        Ok(fs::remove_dir(&self.object)?)
    }
}
