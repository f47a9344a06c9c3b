//! Retire: the map away and the legs offline, so that no scan and no event brings them back before the array's unmap.

use std::path::Path;
use std::time::Duration;

use san_core::{
    Cx, EffectState, Error, ErrorKind, Hctl, Holder, Identity, KnownLegs, Result, Retired, Usage,
};
use tokio::time::Instant;

use crate::Multipath;
use crate::assemble::is_unknown;
use crate::client::Change;
use crate::leg::{Present, Proof, State};
use crate::map::Map;
use crate::usage::phrase;
use futures_util::future::join_all;

/// The first pause before a map that is in use for a moment (a udev worker) is tried again; doubled each time.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(800);
/// Exists while udev has events to process.
const UDEV_QUEUE: &str = "/run/udev/queue";
/// How long openers are waited for where udev is at work, and where it is not known to be.
const UDEV: Duration = Duration::from_secs(3);
const OPENERS: Duration = Duration::from_millis(500);
/// How often legs that came back by themselves are put offline again before the answer.
const ROUNDS: usize = 3;

/// One present leg of the volume, or one under its map that is somebody else's.
#[derive(Debug, Clone)]
struct Candidate {
    leg: Present,
    is_ours: bool,
    /// Whether the unit itself said so just now.
    answers: bool,
}

impl Candidate {
    fn is_under(&self, map: &Map) -> bool {
        self.leg.disk.as_ref().is_some_and(|it| map.slaves.contains(&it.name))
    }
}

impl Multipath {
    pub(crate) async fn put_away(&self, cx: &Cx, known: &KnownLegs) -> Result<Retired> {
        let map = self.find_map(cx, &known.identity.wwid).await?;
        let candidates = self.candidates(cx, known, map.as_ref()).await?;
        self.await_idle(cx, &known.identity, map.as_ref(), &candidates).await?;
        cx.check("detaching")?;
        if let Some(map) = &map {
            self.write_out(cx, map, &candidates).await?;
            for candidate in &candidates {
                // It came under our map when the array gave its LUN number away. Only our map is changed by this.
                if !candidate.is_ours
                    && candidate.is_under(map)
                    && let Some(disk) = &candidate.leg.disk
                {
                    self.daemon.change(cx, Change::DelPath, &disk.name).await?;
                }
            }
            self.remove_map(cx, &known.identity).await?;
        }
        let legs: Vec<_> = candidates.iter().filter(|it| it.is_ours).map(|it| it.leg.hctl).collect();
        self.silence(cx, &legs).await?;
        Ok(Retired { identity: known.identity.clone(), legs })
    }

    /// The legs at the recorded addresses and under the map, each with whose it is.
    async fn candidates(&self, cx: &Cx, known: &KnownLegs, map: Option<&Map>) -> Result<Vec<Candidate>> {
        let mut addresses = known.addresses.clone();
        for disk in map.iter().flat_map(|it| &it.slaves) {
            addresses.extend(self.address_of(cx, disk).await?);
        }
        addresses.sort_unstable();
        addresses.dedup();
        let found =
            join_all(addresses.into_iter().map(|it| self.candidate(cx, &known.identity, map, it))).await;
        Ok(found.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    async fn candidate(
        &self,
        cx: &Cx,
        identity: &Identity,
        map: Option<&Map>,
        hctl: Hctl,
    ) -> Result<Option<Candidate>> {
        let Some(leg) = self.look(cx, hctl).await? else { return Ok(None) };
        let candidate = |is_ours, answers| Ok(Some(Candidate { leg: leg.clone(), is_ours, answers }));
        if leg.state == State::Running {
            match self.prove(cx, &leg, identity).await {
                Proof::Ours => return candidate(true, true),
                Proof::Other(what) => {
                    tracing::warn!(leg = %leg.name(), what, "another volume is at a recorded address");
                    return candidate(false, true);
                }
                // It hangs, or the array has taken its mapping away already: what the kernel made it for counts.
                Proof::Unknown(_) => {}
            }
        }
        match self.remembered(cx, hctl, identity).await? {
            Proof::Ours => candidate(true, false),
            Proof::Other(_) => candidate(false, false),
            // A unit without an identity under our own map: it came there as ours.
            Proof::Unknown(_)
                if !leg.holders.is_empty()
                    && leg.holders.iter().all(|it| map.is_some_and(|map| map.kernel == *it)) =>
            {
                candidate(true, false)
            }
            // Nothing says that it is ours, and the address may have passed to another target since it was recorded.
            Proof::Unknown(error) if leg.holders.is_empty() => {
                tracing::warn!(leg = %leg.name(), %error, "a device at a recorded address is left alone");
                candidate(false, false)
            }
            Proof::Unknown(error) => {
                Err(Error::wrap(error, "a leg at a recorded address cannot be recognised")
                    .with_effect(EffectState::None)
                    .on(leg.name()))
            }
        }
    }

    /// Refuses a volume that is used. Mere openers are given a moment: udev opens every map after each of its events.
    async fn await_idle(
        &self,
        cx: &Cx,
        identity: &Identity,
        map: Option<&Map>,
        candidates: &[Candidate],
    ) -> Result<()> {
        let started = Instant::now();
        loop {
            let users = self.users(cx, identity, map, candidates).await?;
            if users.is_empty() {
                return Ok(());
            }
            let udev_is_busy =
                self.guard.read(cx, Path::new(UDEV_QUEUE), 1).await.is_ok_and(|it| it.is_some());
            let patience = if udev_is_busy { UDEV } else { OPENERS };
            let are_openers = users.iter().all(|it| matches!(it, Holder::Openers(_)));
            if !are_openers || started.elapsed() >= patience || cx.deadline().remaining() <= PAUSE {
                return Err(in_use(identity, &users));
            }
            // Nobody announces that a device was closed.
            tokio::time::sleep(PAUSE).await;
        }
    }

    async fn users(
        &self,
        cx: &Cx,
        identity: &Identity,
        map: Option<&Map>,
        candidates: &[Candidate],
    ) -> Result<Vec<Holder>> {
        let mut users = Vec::new();
        let tables = self.tables(cx).await?;
        if let Some(map) = map
            && let Usage::InUse(found) = self.usage_of_map(cx, map, &identity.wwid, &tables).await?
        {
            users.extend(found);
        }
        for candidate in candidates {
            if !candidate.is_ours {
                continue;
            }
            let others = candidate.leg.holders.iter().filter(|it| map.is_none_or(|map| map.kernel != **it));
            users.extend(others.cloned().map(Holder::Device));
            users.extend(self.uses_of_leg(cx, &candidate.leg, &tables).await?);
        }
        Ok(users)
    }

    /// Writes out what the node holds of an unused map. Where no leg answers it is enough that nobody has it open.
    async fn write_out(&self, cx: &Cx, map: &Map, candidates: &[Candidate]) -> Result<()> {
        let unflushed = |cause: Error| {
            Error::wrap(cause, "the volume stays attached: data may be unflushed")
                .with_remedy("bring a path of the volume back, then detach again")
                .on(&map.kernel)
        };
        let under = || candidates.iter().filter(|it| it.is_under(map));
        let has_answer = under().any(|it| it.is_ours && it.answers);
        let has_foreign = under().any(|it| !it.is_ours);
        if has_answer && !has_foreign && !map.is_suspended {
            let node = Path::new("/dev").join(&map.kernel);
            let bounded = cx.at_most(self.config.flush);
            return self.guard.flush(&bounded, &node).await.map_err(unflushed);
        }
        // No leg answers, and nothing is left to be written out: a block device's cache is written out while its last
        // user closes it, and whoever waits in the map, that user included, has it open. It was seen closed, and
        // multipathd refuses to remove it when that changes. `inflight` tells nothing: of a map that queues it stays 0
        // whatever waits (Linux 6.12).
        Ok(())
    }

    /// Removes the map of an identity, waiting for those who hold it only for a moment.
    pub(crate) async fn remove_map(&self, cx: &Cx, identity: &Identity) -> Result<()> {
        let name = identity.wwid.multipath_name();
        let bounded = cx.at_most(self.config.map);
        let mut pause = PAUSE;
        loop {
            let reply = self.daemon.change(&bounded, Change::DelMap, &name).await?;
            // Whatever was answered: is it gone?
            let Some(map) = self.find_map(&bounded, &identity.wwid).await? else { return Ok(()) };
            if map.is_suspended {
                // Releases before 0.9.8 can leave it so, and everything that touches it would hang.
                tracing::warn!(map = %map.kernel, "a failed removal left the map suspended: resuming");
                self.daemon.change(&bounded, Change::ResumeMap, &name).await?;
            }
            if bounded.deadline().remaining() <= pause {
                let tables = self.tables(cx).await?;
                return Err(match self.usage_of_map(cx, &map, &identity.wwid, &tables).await? {
                    Usage::InUse(users) => in_use(identity, &users),
                    Usage::Idle if is_unknown(&reply) => {
                        Error::new(ErrorKind::Unavailable, "multipathd does not know the map")
                            .with_remedy(format!("multipathd add map {name}"))
                            .on(identity)
                    }
                    Usage::Idle => {
                        let message = format!("multipathd does not remove the map: {}", reply.describe());
                        Error::new(ErrorKind::Busy, message).on(identity)
                    }
                });
            }
            // Nobody announces that a device was closed.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Puts running legs offline, and looks again: a session that bounces sets them running.
    pub(crate) async fn silence(&self, cx: &Cx, legs: &[Hctl]) -> Result<()> {
        for _ in 0..ROUNDS {
            let results = join_all(legs.iter().map(|it| self.silence_leg(cx, *it))).await;
            let changed = results.into_iter().collect::<Result<Vec<_>>>()?;
            if !changed.contains(&true) {
                return Ok(());
            }
        }
        Err(Error::new(ErrorKind::Busy, "retired legs keep coming back: a session is unstable"))
    }

    /// Whether the leg was running.
    async fn silence_leg(&self, cx: &Cx, hctl: Hctl) -> Result<bool> {
        let is_running = async || Ok(self.look(cx, hctl).await?.is_some_and(|it| it.state == State::Running));
        // The kernel refuses any other change of state: a blocked leg is out of use by itself.
        if !is_running().await? {
            return Ok(false);
        }
        match self.set_state(cx, hctl, &State::Offline).await {
            Ok(()) => Ok(true),
            Err(error) if is_running().await? => Err(error.on(hctl)),
            // It went or was blocked in between.
            Err(_) => Ok(false),
        }
    }
}

pub(crate) fn in_use(identity: &Identity, users: &[Holder]) -> Error {
    Error::new(ErrorKind::InUse, format!("the volume is in use: {}", phrase(users))).on(identity)
}
