//! Masks: what tells udev that a disk is a guest's, so that this host never looks into it.
//!
//! A mask is a symbolic link to `/dev/null`, there from before the disk is mapped to this node until its last leg is gone.
//! A rule of udev asks for it by the names that a leg and a map have in the kernel, so each disk has two. They outlive a
//! reboot: legs can be there again before this program runs.

use std::path::{Path, PathBuf};

use san_core::{Cx, Result, Wwid};
use san_host::Guard;

/// What a mask leads to. It exists: udev asks for the end of a link.
const NOTHING: &str = "/dev/null";

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
        for link in self.of(wwid) {
            if self.host.read_link(cx, &link).await?.as_deref() != Some(Path::new(NOTHING)) {
                self.host.make_link(cx, &link, Path::new(NOTHING)).await?;
            }
        }
        Ok(())
    }

    /// Takes the masks of a disk away that is not on this node any more.
    pub(crate) async fn remove(&self, cx: &Cx, wwid: &Wwid) -> Result<()> {
        for link in self.of(wwid) {
            self.host.remove_link(cx, &link).await?;
        }
        Ok(())
    }

    /// By the leg's `wwid` attribute, and by the map's UUID.
    fn of(&self, wwid: &Wwid) -> [PathBuf; 2] {
        [wwid.to_string(), format!("mpath-{}", wwid.multipath_name())].map(|it| self.folder.join(it))
    }
}
