//! Grow: every leg first, then the map, and never smaller.

use san_core::{Cx, Device, EffectState, Error, ErrorKind, Expected, Hctl, Result, Route};

use crate::Multipath;
use crate::client::Change;
use crate::map::{Map, PAUSE};
use crate::verify::Slave;
use futures_util::future::join_all;

/// How often multipathd is asked: it refuses while it is still noticing the legs' new sizes.
const TRIES: usize = 3;

impl Multipath {
    pub(crate) async fn enlarge(&self, cx: &Cx, expect: &Expected, routes: &[Route]) -> Result<Device> {
        let wwid = &expect.identity.wwid;
        let missing =
            || Error::new(ErrorKind::NotFound, "the volume is not attached here").on(&expect.identity);
        let map = self.find_map(cx, wwid).await?.ok_or_else(missing)?;
        if map.size > expect.size {
            let message = format!("the device measures {} and cannot become {}", map.size, expect.size);
            return Err(Error::new(ErrorKind::InvalidInput, message).on(&expect.identity));
        }
        let mut legs = Vec::new();
        let mut asleep = Vec::new();
        for slave in self.slaves(cx, expect, &map, &[]).await? {
            match slave {
                Slave::Proved(leg) => legs.push(leg.hctl),
                Slave::Asleep(_, name, _) => asleep.push(name),
                Slave::Foreign(error) | Slave::Silent(_, _, error) => {
                    return Err(error.with_effect(EffectState::None));
                }
            }
        }
        if legs.is_empty() {
            let message = "no leg of the volume answers";
            return Err(Error::new(ErrorKind::Unavailable, message)
                .with_effect(EffectState::None)
                .on(&expect.identity));
        }
        let grown = join_all(legs.iter().map(|it| self.grow_leg(cx, expect, &map, *it))).await;
        grown.into_iter().collect::<Result<Vec<()>>>()?;
        if map.size < expect.size {
            for name in asleep {
                // The kernel takes no table with a leg that is smaller than it. The next attach brings it back.
                tracing::warn!(leg = %name, "a leg that is not running leaves the map to let it grow");
                self.daemon.change(cx, Change::DelPath, &name).await?;
            }
            self.resize_map(cx, expect, &map).await?;
        }
        self.bring_up(cx, expect, routes).await
    }

    async fn grow_leg(&self, cx: &Cx, expect: &Expected, map: &Map, hctl: Hctl) -> Result<()> {
        self.rescan(cx, hctl).await?;
        let bounded = cx.at_most(self.config.map);
        let waiting = self.guard.wait_for(&bounded, "waiting for a leg to grow", PAUSE, || async {
            let size = self.look(&bounded, hctl).await?.and_then(|it| it.disk).map(|it| it.size);
            match size {
                Some(size) if size == expect.size => Ok(Some(())),
                Some(size) if size < map.size => {
                    let message =
                        format!("a leg measures {size}, less than the device: was the volume shrunk?");
                    Err(Error::new(ErrorKind::Conflict, message))
                }
                Some(_) => Ok(None),
                None => Err(Error::new(ErrorKind::Unavailable, "a leg vanished")),
            }
        });
        waiting.await.map_err(|error| {
            if error.kind() == ErrorKind::Timeout {
                let message = format!("a leg does not show {} yet; the map is unchanged", expect.size);
                Error::new(ErrorKind::Busy, message).with_effect(EffectState::None).on(hctl)
            } else {
                error.on(hctl)
            }
        })
    }

    /// The map at its new size, whatever multipathd answers.
    pub(crate) async fn resize_map(&self, cx: &Cx, expect: &Expected, map: &Map) -> Result<Map> {
        let wwid = &expect.identity.wwid;
        let bounded = cx.at_most(self.config.map);
        let mut said = String::new();
        for _ in 0..TRIES {
            let reply = self.daemon.change(&bounded, Change::ResizeMap, &wwid.multipath_name()).await?;
            said = reply.describe();
            let phase = bounded.at_most(std::time::Duration::from_secs(1));
            let waiting = self.guard.wait_for(&phase, "waiting for the map to grow", PAUSE, || async {
                let found = self.read_map(&phase, &map.kernel, wwid).await?;
                Ok(found.filter(|it| it.size == expect.size))
            });
            match waiting.await {
                Ok(map) => return Ok(map),
                Err(error) if error.kind() == ErrorKind::Timeout => {}
                Err(error) => return Err(error),
            }
        }
        let message =
            format!("the legs measure {} and the map does not; multipathd answered: {said}", expect.size);
        Err(Error::new(ErrorKind::Busy, message).with_effect(EffectState::Unknown).on(&expect.identity))
    }
}
