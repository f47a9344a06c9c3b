//! The proof that a map carries one volume: every leg in it is asked, and none may be somebody else.

use san_core::{Cx, Device, Error, ErrorKind, Expected, Hctl, Leg, LegProblem, Result};

use crate::Multipath;
use crate::attach::Site;
use crate::leg::{Present, Proof, State};
use crate::map::{Map, link_of};
use futures_util::future::join_all;

/// What one leg under a map turned out to be.
#[derive(Debug, Clone)]
pub(crate) enum Slave {
    /// Asked just now, and ours.
    Proved(Leg),
    /// Ours by what the kernel remembers; the kernel sends it nothing now.
    Asleep(Hctl, String, Error),
    /// Ours by what the kernel remembers, and in use without an answer.
    Silent(Hctl, String, Error),
    /// Another volume, or nothing that can be recognised.
    Foreign(Error),
}

impl Multipath {
    /// Every leg under `map`. `proved`: legs that were asked just now.
    pub(crate) async fn slaves(
        &self,
        cx: &Cx,
        expect: &Expected,
        map: &Map,
        proved: &[Leg],
    ) -> Result<Vec<Slave>> {
        let found = join_all(map.slaves.iter().map(|disk| async move {
            let Some(hctl) = self.address_of(cx, disk).await? else { return Ok(None) };
            if let Some(leg) = proved.iter().find(|it| it.hctl == hctl && it.name == *disk) {
                return Ok(Some(Slave::Proved(leg.clone())));
            }
            let Some(present) = self.look(cx, hctl).await? else { return Ok(None) };
            self.recognise(cx, expect, &present).await.map(Some)
        }))
        .await;
        Ok(found.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    async fn recognise(&self, cx: &Cx, expect: &Expected, leg: &Present) -> Result<Slave> {
        let foreign = |what: &str| {
            let message = format!("{what} is under the map of {}", expect.identity);
            Slave::Foreign(Error::new(ErrorKind::IdentityMismatch, message).on(leg.name()))
        };
        let silence = if leg.state == State::Running {
            match self.prove(cx, leg, &expect.identity).await {
                Proof::Ours => {
                    return Ok(leg.leg().map_or_else(|| foreign("a device without a disk"), Slave::Proved));
                }
                Proof::Other(what) => return Ok(foreign(&what)),
                Proof::Unknown(error) => error,
            }
        } else {
            Error::new(ErrorKind::Unavailable, "the leg is not running").on(leg.name())
        };
        let name = leg.disk.as_ref().map(|it| it.name.clone()).unwrap_or_default();
        Ok(match self.remembered(cx, leg.hctl, &expect.identity).await? {
            Proof::Ours if leg.state == State::Running => Slave::Silent(leg.hctl, name, silence),
            Proof::Ours => Slave::Asleep(leg.hctl, name, silence),
            Proof::Other(what) => foreign(&what),
            Proof::Unknown(_) => foreign("a device that cannot be recognised"),
        })
    }

    /// The attached device, each leg of its map asked now; `None` where this node has no map of it.
    pub(crate) async fn present(&self, cx: &Cx, expect: &Expected, sites: &[Site]) -> Result<Option<Device>> {
        let Some(map) = self.find_map(cx, &expect.identity.wwid).await? else { return Ok(None) };
        let slaves = self.slaves(cx, expect, &map, &[]).await?;
        device_of(expect, &map, sites, &slaves, Vec::new()).map(Some)
    }
}

/// The device of a map all of whose legs are proved or asleep, or the refusal.
///
/// # Errors
/// `IdentityMismatch` where another volume is under the map.
pub(crate) fn device_of(
    expect: &Expected,
    map: &Map,
    sites: &[Site],
    slaves: &[Slave],
    problems: Vec<LegProblem>,
) -> Result<Device> {
    refuse_foreign(slaves)?;
    let mut legs: Vec<Leg> = Vec::new();
    for slave in slaves {
        if let Slave::Proved(leg) = slave {
            legs.push(leg.clone());
        }
    }
    let mut missing = problems;
    for site in sites {
        let is_told = missing.iter().any(|it| it.route == site.route);
        if is_told || legs.iter().any(|it| it.hctl == site.hctl) {
            continue;
        }
        let silent = slaves.iter().find_map(|it| match it {
            Slave::Asleep(hctl, _, error) | Slave::Silent(hctl, _, error) if *hctl == site.hctl => {
                Some(error.clone())
            }
            _ => None,
        });
        let error = silent
            .unwrap_or_else(|| Error::new(ErrorKind::NotFound, "no leg of it is in the map").on(site.hctl));
        missing.push(site.problem(error));
    }
    legs.sort_by_key(|it| it.hctl);
    Ok(Device {
        identity: expect.identity.clone(),
        path: link_of(&expect.identity.wwid),
        number: map.number,
        size: map.size,
        legs,
        missing,
    })
}

/// Refuses a map with another volume under it.
pub(crate) fn refuse_foreign(slaves: &[Slave]) -> Result<()> {
    for slave in slaves {
        if let Slave::Foreign(error) = slave {
            tracing::error!(error = %error.chain(), "another volume under a map");
            return Err(error.clone());
        }
    }
    Ok(())
}
