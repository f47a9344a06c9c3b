//! [`Multipath`]: the trait [`DeviceManager`] over the parts of this crate.

use std::path::{Path, PathBuf};

use async_trait::async_trait;
use san_core::{
    Cx, Device, DeviceManager, Error, ErrorKind, Expected, Identity, KnownLegs, Lun, PathWatch, Paths,
    Result, Retired, Route, Usage,
};
use san_host::Guard;

use crate::MultipathConfig;
use crate::attach::Site;
use crate::client::{Change, Multipathd};
use crate::map::Map;
use crate::waiting::Watch;

/// SCSI legs of this node under dm-multipath.
///
/// A device's path is `/dev/disk/by-id/dm-uuid-mpath-WWID`: unlike `/dev/mapper/NAME` it does not depend on aliases or
/// `user_friendly_names`, and unlike `/dev/dm-N` it is the same on every node and never passes to another volume.
#[derive(Debug)]
pub struct Multipath {
    pub(crate) guard: Guard,
    pub(crate) config: MultipathConfig,
    pub(crate) daemon: Multipathd,
}

impl Multipath {
    /// The device manager of the node behind `guard`.
    pub fn new(guard: Guard, config: MultipathConfig) -> Self {
        let daemon = Multipathd::new(guard.clone(), config.clone());
        Self { guard, config, daemon }
    }

    /// The map behind `device`, as long as it is that one.
    async fn map_behind(&self, cx: &Cx, device: &Device) -> Result<Map> {
        let map = self.find_map(cx, &device.identity.wwid).await?;
        map.filter(|it| it.number == device.number).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the device is not attached any more").on(&device.identity)
        })
    }
}

#[async_trait]
impl DeviceManager for Multipath {
    async fn attach(&self, cx: &Cx, expect: &Expected, routes: &[Route]) -> Result<Device> {
        self.bring_up(cx, expect, routes).await.map_err(|it| it.during("attach").on(&expect.identity))
    }

    async fn inspect(&self, cx: &Cx, expect: &Expected, routes: &[Route]) -> Result<Option<Device>> {
        let sites = Site::all(expect, routes)?;
        self.present(cx, expect, &sites).await.map_err(|it| it.during("inspect").on(&expect.identity))
    }

    async fn usage(&self, cx: &Cx, device: &Device) -> Result<Usage> {
        let map = self.map_behind(cx, device).await?;
        let tables = self.tables(cx).await?;
        let mut users = match self.usage_of_map(cx, &map, &device.identity.wwid, &tables).await? {
            Usage::Idle => Vec::new(),
            Usage::InUse(users) => users,
        };
        for leg in &device.legs {
            if let Some(present) = self.look(cx, leg.hctl).await? {
                users.extend(self.uses_of_leg(cx, &present, &tables).await?);
            }
        }
        Ok(if users.is_empty() { Usage::Idle } else { Usage::InUse(users) })
    }

    async fn flush(&self, cx: &Cx, device: &Device) -> Result<()> {
        let map = self.map_behind(cx, device).await?;
        let node: PathBuf = Path::new("/dev").join(&map.kernel);
        let bounded = cx.at_most(self.config.flush);
        self.guard.flush(&bounded, &node).await.map_err(|it| it.during("flush").on(&device.identity))
    }

    async fn grow(&self, cx: &Cx, expect: &Expected, routes: &[Route]) -> Result<Device> {
        self.enlarge(cx, expect, routes).await.map_err(|it| it.during("grow").on(&expect.identity))
    }

    async fn retire(&self, cx: &Cx, known: &KnownLegs) -> Result<Retired> {
        self.put_away(cx, known).await.map_err(|it| it.during("retire").on(&known.identity))
    }

    async fn bury(&self, cx: &Cx, retired: &Retired) -> Result<()> {
        self.lay_down(cx, retired).await.map_err(|it| it.during("bury").on(&retired.identity))
    }

    async fn revive(&self, cx: &Cx, expect: &Expected, routes: &[Route]) -> Result<Device> {
        // An attach sets a retired leg running, asks it, and puts it back where it is not the volume any more.
        self.bring_up(cx, expect, routes).await.map_err(|it| it.during("revive").on(&expect.identity))
    }

    async fn occupied(&self, cx: &Cx, routes: &[Route]) -> Result<Vec<Lun>> {
        let names = self.guard.list(cx, Path::new("/sys/class/scsi_device")).await?.unwrap_or_default();
        let is_behind = |place: &[u32]| {
            routes.iter().any(|route| match route {
                Route::Scsi { host, channel, target, .. } => place == [*host, *channel, *target],
                _ => false,
            })
        };
        let mut luns: Vec<Lun> = names
            .iter()
            .filter_map(|name| name.split(':').map(|it| it.parse().ok()).collect::<Option<Vec<u32>>>())
            .filter(|numbers| numbers.len() == 4 && is_behind(&numbers[..3]))
            // Flat addressing (256 and above) may show as the number plus 16384.
            .filter_map(|numbers| u16::try_from(numbers[3] & 0x3fff).ok().and_then(Lun::new))
            .collect();
        luns.sort_unstable();
        luns.dedup();
        Ok(luns)
    }

    async fn paths(&self, cx: &Cx, of: &[Identity]) -> Result<Vec<Option<Paths>>> {
        self.paths_of(cx, of).await.map_err(|it| it.during("ask for paths"))
    }

    fn watch_paths(&self) -> Box<dyn PathWatch> {
        Box::new(Watch::new(self.guard.clone()))
    }

    async fn is_denied(&self, cx: &Cx, known: &KnownLegs) -> Result<bool> {
        self.are_denied(cx, known).await.map_err(|it| it.during("ask the legs").on(&known.identity))
    }

    async fn end_waiting(&self, cx: &Cx, identity: &Identity) -> Result<()> {
        self.change_waiting(cx, Change::EndWaiting, identity).await
    }

    async fn resume_waiting(&self, cx: &Cx, identity: &Identity) -> Result<()> {
        self.change_waiting(cx, Change::ResumeWaiting, identity).await
    }
}
