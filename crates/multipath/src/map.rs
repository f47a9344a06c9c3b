//! Device-mapper maps, found by what they are and never by their name.

use std::path::Path;
use std::time::Duration;

use san_core::{ByteSize, Cx, DeviceNumber, Hctl, Result, Wwid};

use crate::Multipath;
use crate::leg::{Present, parse_hctl};

pub(crate) const BLOCK: &str = "/sys/block";
/// Between two looks at state of which the kernel sends no event.
pub(crate) const PAUSE: Duration = Duration::from_millis(20);

/// A multipath map.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Map {
    /// The kernel's name of the moment, `dm-N`.
    pub(crate) kernel: String,
    pub(crate) number: DeviceNumber,
    pub(crate) size: ByteSize,
    pub(crate) is_suspended: bool,
    /// Kernel names of the legs in it.
    pub(crate) slaves: Vec<String>,
}

/// The uuid device-mapper multipath gives the map of `wwid`.
pub(crate) fn uuid_of(wwid: &Wwid) -> String {
    format!("mpath-{}", wwid.multipath_name())
}

/// The link udev makes to it: whatever the map is called, and the same on every node.
pub(crate) fn link_of(wwid: &Wwid) -> std::path::PathBuf {
    Path::new("/dev/disk/by-id").join(format!("dm-uuid-{}", uuid_of(wwid)))
}

impl Multipath {
    /// The map of `wwid` if `kernel` is it.
    pub(crate) async fn read_map(&self, cx: &Cx, kernel: &str, wwid: &Wwid) -> Result<Option<Map>> {
        if !kernel.starts_with("dm-") {
            return Ok(None);
        }
        let block = Path::new(BLOCK).join(kernel);
        let uuid = uuid_of(wwid);
        if self.text(cx, &block, "dm/uuid").await? != Some(uuid.clone()) {
            return Ok(None);
        }
        let Some((number, size)) = self.measure(cx, &block).await? else { return Ok(None) };
        let is_suspended = self.text(cx, &block, "dm/suspended").await?.as_deref() == Some("1");
        let slaves = self.guard.list(cx, &block.join("slaves")).await?.unwrap_or_default();
        // The name may have passed to another map meanwhile.
        if self.text(cx, &block, "dm/uuid").await? != Some(uuid) {
            return Ok(None);
        }
        Ok(Some(Map { kernel: kernel.to_owned(), number, size, is_suspended, slaves }))
    }

    /// The map of `wwid` as its legs and udev's link show it: a few reads, however many devices there are. `None` does
    /// not prove that there is none.
    pub(crate) async fn nearby_map(&self, cx: &Cx, wwid: &Wwid, legs: &[&Present]) -> Result<Option<Map>> {
        for holder in legs.iter().flat_map(|it| &it.holders) {
            if let Some(map) = self.read_map(cx, holder, wwid).await? {
                return Ok(Some(map));
            }
        }
        let link = self.guard.read_link(cx, &link_of(wwid)).await?;
        match link.as_deref().and_then(Path::file_name).and_then(|it| it.to_str()) {
            Some(kernel) => self.read_map(cx, kernel, wwid).await,
            None => Ok(None),
        }
    }

    /// The map of `wwid`; `None` where every map of this node is proved to be another one.
    pub(crate) async fn find_map(&self, cx: &Cx, wwid: &Wwid) -> Result<Option<Map>> {
        if let Some(map) = self.nearby_map(cx, wwid, &[]).await? {
            return Ok(Some(map));
        }
        let names = self.guard.list(cx, Path::new(BLOCK)).await?.unwrap_or_default();
        for name in names.iter().filter(|it| it.starts_with("dm-")) {
            if let Some(map) = self.read_map(cx, name, wwid).await? {
                return Ok(Some(map));
            }
        }
        Ok(None)
    }

    /// The SCSI address of a leg by its kernel name; `None` where it vanished.
    pub(crate) async fn address_of(&self, cx: &Cx, disk: &str) -> Result<Option<Hctl>> {
        let link = self.guard.read_link(cx, &Path::new(BLOCK).join(disk).join("device")).await?;
        Ok(link.as_deref().and_then(Path::file_name).and_then(|it| it.to_str()).and_then(parse_hctl))
    }
}
