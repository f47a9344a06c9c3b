//! Attach: every leg scanned for, proved and measured.

use std::time::Duration;

use san_core::{
    Cx, Deadline, Device, EffectState, Error, ErrorKind, Expected, Hctl, Leg, LegProblem, Result, Route,
};

use crate::Multipath;
use crate::client::Change;
use crate::leg::{Present, Proof, State};
use crate::map::PAUSE;
use crate::scan::Race;
use crate::usage::Tables;
use futures_util::future::join_all;

/// How long a unit may give no usable answer: the array's mapping takes effect while we look.
const ANSWER: Duration = Duration::from_millis(2500);
const ANSWER_PAUSE: Duration = Duration::from_millis(100);
/// How long a leg may take to be put offline again.
const PUT_BACK: Duration = Duration::from_secs(2);
/// How long legs may take to go that came under another volume's map.
const TAKE_OUT: Duration = Duration::from_secs(10);
/// How long the kernel may take to show a size it has just read again.
const SIZE: Duration = Duration::from_secs(2);

/// The highest LUN with the same number on the array and in the kernel, however either addresses.
const LUN_MAX: u16 = 255;

/// Where a leg has to be.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    pub(crate) hctl: Hctl,
    pub(crate) route: Route,
}

impl Site {
    /// The addresses of one LUN behind `routes`.
    pub(crate) fn all(expect: &Expected, routes: &[Route]) -> Result<Vec<Self>> {
        if expect.lun.number() > LUN_MAX {
            let message = format!("LUN {} needs flat addressing; use a number up to {LUN_MAX}", expect.lun);
            return Err(Error::new(ErrorKind::Unsupported, message).on(&expect.identity));
        }
        let site = |route: &Route| match route {
            Route::Scsi { host, channel, target, .. } => {
                let hctl = Hctl { host: *host, channel: *channel, target: *target, lun: expect.lun };
                Ok(Self { hctl, route: route.clone() })
            }
            _ => Err(Error::new(ErrorKind::Unsupported, "this is not a SCSI route").on(route.port())),
        };
        routes.iter().map(site).collect()
    }

    pub(crate) fn problem(&self, error: Error) -> LegProblem {
        LegProblem { route: self.route.clone(), error }
    }
}

impl Multipath {
    pub(crate) async fn bring_up(&self, cx: &Cx, expect: &Expected, routes: &[Route]) -> Result<Device> {
        let sites = Site::all(expect, routes)?;
        if sites.is_empty() {
            let message = "no session leads to any port that serves the volume";
            return Err(Error::new(ErrorKind::Unavailable, message).with_effect(EffectState::None));
        }
        let race = Race::new();
        let tables = self.tables(cx).await?;
        let results = join_all(sites.iter().map(|it| async {
            tokio::select! {
                result = self.bring_leg(cx, expect, it.hctl, &race, &tables) => result,
                () = race.over(self.config.straggler) => {
                    let message = "it gives no answer while another leg does";
                    Err(Error::new(ErrorKind::Unavailable, message).on(it.hctl))
                }
            }
        }))
        .await;
        let mut legs = Vec::new();
        let mut made = Vec::new();
        let mut missing = Vec::new();
        for (site, result) in sites.iter().zip(results) {
            match result {
                Ok((leg, is_own)) => {
                    made.extend(is_own.then(|| leg.clone()));
                    legs.push(leg);
                }
                Err(error) => {
                    tracing::warn!(leg = %site.hctl, port = %site.route.port(), error = %error.chain(), "leg missing");
                    missing.push(site.problem(error));
                }
            }
        }
        cx.check("attaching")?;
        let held = missing.iter().find(|it| it.error.kind() == ErrorKind::InUse);
        if let Some(held) = held
            && !legs.is_empty()
        {
            // What waits in the map that holds one of them would be written to the volume beside its new user.
            self.take_out(cx, &made).await;
            return Err(Error::wrap(held.error.clone(), "somebody has a leg of the volume"));
        }
        if legs.is_empty() {
            return Err(none_usable(&missing));
        }
        let assembled = self.assemble(cx, expect, &sites, legs, missing).await;
        if assembled.as_ref().is_err_and(|it| it.kind() == ErrorKind::IdentityMismatch) {
            self.take_out(cx, &made).await;
        }
        assembled
    }

    /// Takes legs away that this call has scanned in. multipathd adds a leg to whatever map has its identifier: where that
    /// map is another volume's, its writes would go to ours.
    async fn take_out(&self, cx: &Cx, made: &[Leg]) {
        let brief = cx.with_deadline(Deadline::after(TAKE_OUT));
        join_all(made.iter().map(async |leg| {
            let taken = async {
                self.daemon.change(&brief, Change::DelPath, &leg.name).await?;
                self.guard
                    .wait_for(&brief, "waiting for a leg to leave its map", PAUSE, || async {
                        let found = self.look(&brief, leg.hctl).await?;
                        Ok(found.is_none_or(|it| it.holders.is_empty()).then_some(()))
                    })
                    .await?;
                self.delete_unheld(&brief, leg.hctl).await
            };
            if let Err(error) = taken.await {
                tracing::error!(leg = %leg.name, error = %error.chain(), "a leg stays where it does not belong");
            }
        }))
        .await;
    }

    /// One leg, proved and measured, and whether this call made it.
    async fn bring_leg(
        &self,
        cx: &Cx,
        expect: &Expected,
        hctl: Hctl,
        race: &Race,
        tables: &Tables,
    ) -> Result<(Leg, bool)> {
        let mut found = self.look(cx, hctl).await?;
        // Whether the kernel object was made by this call, so that it may be unmade by it.
        let mut is_own = false;
        for _ in 0..2 {
            let leg = match found.take() {
                Some(leg) if leg.disk.is_some() && leg.generic.is_some() => leg,
                _ => {
                    is_own = true;
                    self.scan(cx, hctl).await?
                }
            };
            self.refuse_foreign_holders(cx, expect, &leg, tables).await?;
            self.prove_here(cx, expect, &leg, is_own).await?;
            if self.is_fresh_object(cx, expect, &leg).await? {
                let leg = self.measured(cx, expect, leg).await?;
                race.won();
                return Ok((leg, is_own));
            }
            // The kernel made this object for another volume that had the LUN number before; so udev and multipathd
            // still take it for that one. Nobody holds it and the unit behind it is ours: make it anew.
            tracing::info!(leg = %leg.name(), "replacing a stale leg");
            self.delete_unheld(cx, hctl).await?;
        }
        let message = "the kernel keeps remembering another unit at this address";
        Err(Error::new(ErrorKind::IdentityMismatch, message).on(hctl))
    }

    /// Refuses a leg that anything but our own map is stacked on, or that is mounted or swapped to.
    async fn refuse_foreign_holders(
        &self,
        cx: &Cx,
        expect: &Expected,
        leg: &Present,
        tables: &Tables,
    ) -> Result<()> {
        for holder in &leg.holders {
            if self.read_map(cx, holder, &expect.identity.wwid).await?.is_none() {
                let message = format!("{holder} holds the device at this address, as another volume");
                return Err(Error::new(ErrorKind::InUse, message)
                    .on(leg.name())
                    .with_remedy(format!("release {holder}, then try again")));
            }
        }
        match self.uses_of_leg(cx, leg, tables).await?.first() {
            Some(holder) => {
                Err(Error::new(ErrorKind::InUse, format!("the device is {holder}")).on(leg.name()))
            }
            None => Ok(()),
        }
    }

    /// Deletes a leg, unless something has been stacked on it since it was looked at.
    async fn delete_unheld(&self, cx: &Cx, hctl: Hctl) -> Result<()> {
        match self.look(cx, hctl).await? {
            None => Ok(()),
            Some(leg) if leg.holders.is_empty() => self.delete(cx, hctl).await,
            Some(leg) => {
                let message = format!("{} holds it", leg.holders.join(", "));
                Err(Error::new(ErrorKind::InUse, message).on(leg.name()))
            }
        }
    }

    /// Makes sure that the unit behind the leg answers as the volume, now.
    async fn prove_here(&self, cx: &Cx, expect: &Expected, leg: &Present, is_own: bool) -> Result<()> {
        match &leg.state {
            State::Running => {}
            // Retired earlier and still mapped, or left over from another volume: the answer will tell.
            State::Offline => self.set_state(cx, leg.hctl, &State::Running).await?,
            State::Other(state) => {
                return Err(Error::new(ErrorKind::Unavailable, format!("the leg is {state}"))
                    .with_effect(EffectState::None)
                    .on(leg.name()));
            }
        }
        let error = match self.settled_proof(cx, expect, leg).await {
            Proof::Ours => return Ok(()),
            Proof::Other(what) => {
                let message = format!("{what} answers instead of {}", expect.identity);
                Error::new(ErrorKind::IdentityMismatch, message).on(leg.name())
            }
            Proof::Unknown(error) => error,
        };
        // Leave the address as it was found.
        if is_own && error.kind() == ErrorKind::IdentityMismatch {
            // Where multipathd has taken it for somebody's path meanwhile, it stays.
            if let Err(held) = self.delete_unheld(cx, leg.hctl).await {
                tracing::warn!(leg = %leg.name(), error = %held.chain(), "a wrong leg stays");
            }
        } else if leg.state == State::Offline {
            // Also where the time of the proof was all there was: a retired leg must not stay in use.
            let brief = cx.with_deadline(Deadline::after(PUT_BACK));
            self.set_state(&brief, leg.hctl, &State::Offline).await?;
        }
        Err(error)
    }

    /// The unit's answer, asked again for a while where it is not the one we want: a mapping may be taking effect.
    async fn settled_proof(&self, cx: &Cx, expect: &Expected, leg: &Present) -> Proof {
        let first = self.prove(cx, leg, &expect.identity).await;
        match &first {
            Proof::Ours => return first,
            Proof::Other(_) => {
                // The kernel reads everything again; whoever else relies on the old answer notices.
                return match self.rescan(cx, leg.hctl).await {
                    Ok(()) => self.prove(cx, leg, &expect.identity).await,
                    Err(_) => first,
                };
            }
            // A unit that hangs has cost its time already.
            Proof::Unknown(error) if error.kind() == ErrorKind::Timeout => return first,
            Proof::Unknown(_) => {}
        }
        let bounded = cx.at_most(ANSWER);
        let settled = self.guard.wait_for(&bounded, "waiting for the unit", ANSWER_PAUSE, || async {
            Ok(match self.prove(cx, leg, &expect.identity).await {
                Proof::Unknown(error) if error.kind() != ErrorKind::Timeout => None,
                other => Some(other),
            })
        });
        settled.await.unwrap_or(first)
    }

    /// Whether the kernel made its object for this volume. One under our own map may only need to read again.
    async fn is_fresh_object(&self, cx: &Cx, expect: &Expected, leg: &Present) -> Result<bool> {
        if matches!(self.remembered(cx, leg.hctl, &expect.identity).await?, Proof::Ours) {
            return Ok(true);
        }
        if leg.holders.is_empty() {
            return Ok(false);
        }
        self.rescan(cx, leg.hctl).await?;
        match self.remembered(cx, leg.hctl, &expect.identity).await? {
            Proof::Ours => Ok(true),
            Proof::Other(what) => {
                let message = format!("the kernel still takes it for {what}, and a map holds it");
                Err(Error::new(ErrorKind::InUse, message).on(leg.name()))
            }
            Proof::Unknown(error) => Err(error),
        }
    }

    /// The leg, once it measures what the array says.
    async fn measured(&self, cx: &Cx, expect: &Expected, leg: Present) -> Result<Leg> {
        let has_size = |it: &Present| it.disk.as_ref().is_some_and(|it| it.size == expect.size);
        let mut leg = leg;
        if !has_size(&leg) {
            self.rescan(cx, leg.hctl).await?;
            let bounded = cx.at_most(SIZE);
            let waiting = self.guard.wait_for(&bounded, "waiting for the size", PAUSE, || async {
                Ok(self.look(&bounded, leg.hctl).await?.filter(has_size))
            });
            match waiting.await {
                Ok(grown) => leg = grown,
                Err(error) if error.kind() == ErrorKind::Timeout && !cx.deadline().has_passed() => {
                    let size =
                        leg.disk.as_ref().map_or_else(|| "nothing".to_owned(), |it| it.size.to_string());
                    let message = format!("it measures {size} and the array says {}", expect.size);
                    return Err(Error::new(ErrorKind::Conflict, message).on(leg.name()));
                }
                Err(error) => return Err(error),
            }
        }
        leg.leg().ok_or_else(|| Error::new(ErrorKind::NotFound, "the leg vanished").on(leg.hctl))
    }
}

/// The one error of an attach without a single usable leg: the most telling of its legs' errors.
fn none_usable(missing: &[LegProblem]) -> Error {
    // What needs a person outranks what may pass, and that outranks plain absence.
    let rank = |it: &&LegProblem| match it.error.kind() {
        ErrorKind::InUse => 0,
        ErrorKind::IdentityMismatch => 1,
        ErrorKind::Conflict => 2,
        ErrorKind::NotFound => 4,
        _ => 3,
    };
    match missing.iter().min_by_key(rank) {
        Some(worst) => Error::wrap(worst.error.clone(), "no leg of the volume is usable"),
        None => Error::new(ErrorKind::NotFound, "the volume has no leg"),
    }
}
