//! Logical units that hang behind one portal while its session lives. One answers no command at all: its commands go to a
//! program in user space that is not there. One answers all but reads and writes, which the device below it holds.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use san_sim::target::Target as _;

use super::array::{TestArray, VOLUME_SIZE};
use super::{Failure, daemons, tools};

const TARGET: &str = "/sys/kernel/config/target";
/// The device below a unit that holds reads and writes.
pub(super) const BELOW: &str = "array-inside";
const PATIENCE: Duration = Duration::from_secs(60);
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
    /// Whether there is a device below it that holds reads and writes.
    is_below: bool,
}

impl Hung {
    /// Shows a unit that answers nothing to `initiator` as `lun` behind `portal`; after `seconds` the target gives a
    /// command up. The array must show nothing there.
    ///
    /// # Errors
    /// Where the kernel's target refuses.
    pub(super) fn mute(
        array: &TestArray,
        portal: SocketAddr,
        lun: u16,
        initiator: &str,
        seconds: u32,
    ) -> Result<Self, Failure> {
        let object = Path::new(TARGET).join("core/user_77").join(format!("{}-{lun}", portal.ip()));
        fs::create_dir_all(&object)?;
        fs::write(object.join("control"), "dev_size=67108864,dev_config=nobody")?;
        fs::write(object.join("attrib/cmd_time_out"), seconds.to_string())?;
        fs::write(object.join("enable"), "1")?;
        Self::offer(array, portal, lun, initiator, object, false)
    }

    /// Shows a unit that says it is volume `n`, measures as much, and answers neither reads nor writes.
    ///
    /// # Errors
    /// Where the kernel's target refuses.
    pub(super) async fn holding(
        array: &TestArray,
        portal: SocketAddr,
        lun: u16,
        initiator: &str,
        n: u8,
    ) -> Result<Self, Failure> {
        let table = format!("0 {} error", VOLUME_SIZE.bytes() / 512);
        tools::run("dmsetup", &["create", BELOW, "--table", &table], PATIENCE).await?;
        daemons::udev_rests().await?;
        tools::run("dmsetup", &["suspend", "--noflush", BELOW], PATIENCE).await?;
        let object = Path::new(TARGET).join("core/iblock_78").join(format!("{}-{lun}", portal.ip()));
        fs::create_dir_all(&object)?;
        fs::write(object.join("control"), format!("udev_path=/dev/mapper/{BELOW}"))?;
        fs::write(object.join("enable"), "1")?;
        for (name, value) in
            [("vendor_id", "NETAPP"), ("product_id", "LUN C-Mode"), ("company_id", "0x00a098")]
        {
            fs::write(object.join("wwn").join(name), value)?;
        }
        fs::write(object.join("wwn/vpd_unit_serial"), array.identity(n).serial)?;
        Self::offer(array, portal, lun, initiator, object, true)
    }

    fn offer(
        array: &TestArray,
        portal: SocketAddr,
        lun: u16,
        initiator: &str,
        object: PathBuf,
        is_below: bool,
    ) -> Result<Self, Failure> {
        let folder = group_of(array, portal)?;
        let offer = folder.join(format!("lun/lun_{INDEX}"));
        let map = folder.join("acls").join(initiator).join(format!("lun_{lun}"));
        fs::create_dir(&offer)?;
        symlink(&object, offer.join("unit"))?;
        fs::create_dir(&map)?;
        symlink(&offer, map.join("unit"))?;
        Ok(Self { object, offer, map, is_below })
    }

    /// Lets go of what it holds.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(super) async fn let_go(&self) -> Result<(), Failure> {
        if self.is_below {
            tools::run("dmsetup", &["resume", BELOW], PATIENCE).await?;
        }
        Ok(())
    }

    /// Takes it away. Waits for the commands it has.
    ///
    /// # Errors
    /// Where the kernel refuses.
    pub(super) async fn remove(self) -> Result<(), Failure> {
        self.let_go().await?;
        let Self { object, offer, map, is_below } = self;
        let removing = tokio::task::spawn_blocking(move || {
            for link in [&map, &offer] {
                fs::remove_file(link.join("unit"))?;
                fs::remove_dir(link)?;
            }
            fs::remove_dir(&object)
        });
        removing.await??;
        if is_below {
            tools::run("dmsetup", &["remove", "--retry", BELOW], PATIENCE).await?;
        }
        Ok(())
    }
}
