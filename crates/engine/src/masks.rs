//! Masks: what tells udev that a disk is a guest's, so that this host never looks into it.
//!
//! A mask is a small file, there from before the disk is mapped to this node until its last leg is gone. A rule of udev asks
//! for it by the names that a leg and a map have in the kernel, so each disk has two. They outlive a reboot: legs can be
//! there again before this program runs. What is in them saves udev the programs that would put the same identifiers
//! together from what the kernel has read; a mask without text hides the disk as well.

use std::path::PathBuf;

use san_core::{Cx, Result, Wwid};
use san_host::Guard;

/// More than any mask holds.
const LENGTH_MAX: usize = 4096;

/// What the masks of a disk are called and hold.
pub fn masks(wwid: &Wwid) -> [(String, String); 2] {
    let (leg, name) = (wwid.to_string(), wwid.multipath_name());
    let digits = leg.strip_prefix("naa.").unwrap_or_default();
    let short = digits.get(..16).unwrap_or_default();
    let of_leg = format!(
        "ID_SERIAL={name}\nID_SERIAL_SHORT={digits}\nID_WWN=0x{short}\nID_WWN_WITH_EXTENSION=0x{digits}\n"
    );
    let of_map = format!("DM_SERIAL={name}\nDM_WWN=0x{digits}\n");
    [(leg, of_leg), (format!("mpath-{name}"), of_map)]
}

/// The masks of this node.
#[derive(Debug)]
pub(crate) struct Masks {
    host: Guard,
    folder: PathBuf,
}

impl Masks {
    pub(crate) fn at(host: Guard, folder: PathBuf) -> Self {
        Self { host, folder }
    }

    /// Masks a disk; nothing is written where it is masked.
    pub(crate) async fn put(&self, cx: &Cx, wwid: &Wwid) -> Result<()> {
        for (path, text) in self.of(wwid) {
            // One of another kind or length is not ours to keep.
            let found = self.host.read(cx, &path, LENGTH_MAX).await.ok().flatten();
            if found.as_deref() != Some(text.as_bytes()) {
                self.host.put_file(cx, &path, &text).await?;
            }
        }
        Ok(())
    }

    /// Takes the masks of a disk away that is not on this node any more.
    pub(crate) async fn remove(&self, cx: &Cx, wwid: &Wwid) -> Result<()> {
        for (path, _) in self.of(wwid) {
            self.host.remove_file(cx, &path).await?;
        }
        Ok(())
    }

    /// By the leg's `wwid` attribute, and by the map's UUID.
    fn of(&self, wwid: &Wwid) -> [(PathBuf, String); 2] {
        masks(wwid).map(|(name, text)| (self.folder.join(name), text))
    }
}
