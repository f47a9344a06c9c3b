//! From proved legs to a map that carries nothing else.

use std::path::Path;

use san_core::{Cx, Device, EffectState, Error, ErrorKind, Expected, Hctl, Leg, LegProblem, Result, Wwid};

use crate::Multipath;
use crate::attach::Site;
use crate::client::Change;
use crate::map::{Map, PAUSE, link_of};
use crate::verify::{Slave, device_of, refuse_foreign};
use crate::wire::{Reason, Reply};
use futures_util::future::join_all;

const RECORD_MAX: usize = 256 << 10;
/// The proof that the device serves.
const PROOF: usize = 4096;
/// How often its link may vanish again.
const PROOFS: usize = 3;
/// How long what was asked of multipathd may take to show.
const JOINING: std::time::Duration = std::time::Duration::from_secs(1);
/// How soon multipathd is asked again for the map of legs it does not know yet, and for those it left out of one: its own
/// look at udev's events comes a moment after ours.
const UNKNOWN_YET: std::time::Duration = std::time::Duration::from_millis(100);

fn has_all(map: &Map, legs: &[Leg]) -> bool {
    legs.iter().all(|leg| map.slaves.contains(&leg.name))
}

impl Multipath {
    /// The device over `legs`, all of them proved.
    pub(crate) async fn assemble(
        &self,
        cx: &Cx,
        expect: &Expected,
        sites: &[Site],
        legs: Vec<Leg>,
        problems: Vec<LegProblem>,
    ) -> Result<Device> {
        let wwid = &expect.identity.wwid;
        let before = self.map_over(cx, wwid, &legs).await?;
        // One that multipathd made by itself just now is not linked yet: it too was never handed out.
        let is_new = match &before {
            None => true,
            Some(map) => !self.is_linked(cx, wwid, map).await?,
        };
        let was_complete = before.as_ref().is_some_and(|it| has_all(it, &legs));
        if let Some(map) = &before
            && !was_complete
        {
            // Nothing is added to a map that holds another volume, whatever its name says.
            refuse_foreign(&self.slaves(cx, expect, map, &legs).await?)?;
        }
        let (legs, late, mut map) = match before {
            Some(map) if was_complete => (legs, Vec::new(), map),
            _ => {
                let (legs, late) = self.recorded(cx, wwid, legs).await?;
                let map = self.build(cx, wwid, &legs).await?;
                (legs, late, map)
            }
        };
        let mut slaves = self.slaves(cx, expect, &map, &legs).await?;
        if is_new {
            self.refuse_in_new_map(cx, wwid, &slaves).await?;
        }
        refuse_foreign(&slaves)?;
        if map.size < expect.size {
            map = self.resize_map(cx, expect, &map).await?;
        }
        map = self.usable(cx, expect, &map).await?;
        if is_new || !was_complete {
            let proof = self.proof_of(cx, wwid, &map).await?;
            if proof.len() != PROOF {
                return Err(Error::new(ErrorKind::Protocol, "the new map serves short reads").on(wwid));
            }
            // What came into the map meanwhile is asked too.
            slaves = self.slaves(cx, expect, &map, &legs).await?;
        }
        if is_new && slaves.iter().any(|it| matches!(it, Slave::Silent(..))) {
            let message = "a leg that does not answer cannot be kept out of the map";
            return Err(Error::new(ErrorKind::Unavailable, message).on(wwid));
        }
        let mut problems = problems;
        for (hctl, error) in late {
            let is_in = slaves.iter().any(|it| matches!(it, Slave::Proved(leg) if leg.hctl == hctl));
            let site = sites.iter().find(|it| it.hctl == hctl && !is_in);
            problems.extend(site.map(|it| it.problem(error)));
        }
        device_of(expect, &map, sites, &slaves, problems)
    }

    /// What the new map reads. A link that is there may be the last one of the map before, and go.
    async fn proof_of(&self, cx: &Cx, wwid: &Wwid, map: &Map) -> Result<Vec<u8>> {
        for _ in 0..PROOFS {
            self.await_link(cx, wwid, map).await?;
            match self.guard.read_block(cx, &link_of(wwid), 0, PROOF, self.config.map).await {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    tracing::debug!(%wwid, error = %error.chain(), "the link is gone again");
                }
                other => return other.map_err(|it| Error::wrap(it, "the new map does not serve").on(wwid)),
            }
        }
        let message = "the new map's link comes and goes";
        Err(Error::new(ErrorKind::Unavailable, message)
            .on(wwid)
            .with_remedy("check `journalctl -u multipathd`"))
    }

    /// A map that begins its life may hold neither another volume nor a leg that gives no answer.
    async fn refuse_in_new_map(&self, cx: &Cx, wwid: &Wwid, slaves: &[Slave]) -> Result<()> {
        if refuse_foreign(slaves).is_err() {
            // Never handed out; in use all the same, multipathd keeps it.
            self.daemon.change(cx, Change::DelMap, &wwid.multipath_name()).await?;
        }
        for slave in slaves {
            if let Slave::Silent(_, name, _) = slave {
                self.daemon.change(cx, Change::DelPath, name).await?;
            }
        }
        Ok(())
    }

    /// The map that the legs' own holders name, or udev's link.
    async fn map_over(&self, cx: &Cx, wwid: &Wwid, legs: &[Leg]) -> Result<Option<Map>> {
        let mut present = Vec::new();
        for leg in legs {
            present.extend(self.look(cx, leg.hctl).await?);
        }
        self.nearby_map(cx, wwid, &present.iter().collect::<Vec<_>>()).await
    }

    /// The legs that udev has recorded; multipathd knows no others. One leg that answers no reads holds up udev's worker,
    /// and must not hold up the volume: such ones are `late`.
    ///
    /// # Errors
    /// Where udev records none.
    async fn recorded(&self, cx: &Cx, wwid: &Wwid, legs: Vec<Leg>) -> Result<(Vec<Leg>, Vec<(Hctl, Error)>)> {
        // All of the time: where many disks appear at once, their records are far apart.
        let results = join_all(legs.iter().map(|it| self.await_record(cx, wwid, it))).await;
        let (mut known, mut late) = (Vec::new(), Vec::new());
        for (leg, result) in legs.into_iter().zip(results) {
            match result {
                Ok(()) => known.push(leg),
                Err(error) => {
                    tracing::warn!(leg = %leg.name, error = %error.chain(), "leg left out");
                    late.push((leg.hctl, error));
                }
            }
        }
        if known.is_empty()
            && let Some((_, error)) = late.pop()
        {
            return Err(error);
        }
        let told = "udev gets done with other legs, not with it: does it answer reads?";
        let late = late.into_iter().map(|(hctl, error)| match error.kind() {
            ErrorKind::Timeout => (hctl, Error::wrap(error, told)),
            _ => (hctl, error),
        });
        Ok((known, late.collect()))
    }

    /// Makes or completes the map of `wwid`.
    async fn build(&self, cx: &Cx, wwid: &Wwid, legs: &[Leg]) -> Result<Map> {
        // A map that multipathd makes of all of them is made once. Those it hears of from udev afterwards it would add one by
        // one, and each time udev goes through the map again.
        self.tell_of(cx, wwid, legs).await?;
        let map = self.ask_for_map(cx, wwid, legs).await?;
        let bounded = cx.at_most(self.config.map);
        if has_all(&map, legs) {
            return Ok(map);
        }
        match self.await_map(&bounded.at_most(UNKNOWN_YET), wwid, legs, |it| has_all(it, legs)).await {
            Ok(map) => Ok(map),
            Err(error) if error.kind() == ErrorKind::Timeout => {
                self.add_paths(&bounded, wwid, legs, map).await
            }
            Err(error) => Err(error),
        }
    }

    /// Asks for the map until it is there with any of the legs: multipathd may learn of a leg a little after udev does.
    async fn ask_for_map(&self, cx: &Cx, wwid: &Wwid, legs: &[Leg]) -> Result<Map> {
        let is_anywhere = |it: &Map| legs.iter().any(|leg| it.slaves.contains(&leg.name));
        let mut end = None;
        loop {
            let reply = self.daemon.change(cx, Change::AddMap, &wwid.multipath_name()).await?;
            // The time until the daemon answers at all is not the map's.
            let end = *end.get_or_insert_with(|| cx.deadline().at_most(self.config.map));
            if matches!(&reply, Reply::Text(text) if text.starts_with("blacklisted")) {
                let message = "multipathd's configuration excludes the volume";
                return Err(Error::new(ErrorKind::Conflict, message).on(wwid).with_remedy(
                    "allow the WWID in a blacklist_exceptions section of /etc/multipath/conf.d",
                ));
            }
            // What refused does nothing more; the next time it may know the legs.
            let patience = match &reply {
                // It may be doing it yet.
                Reply::Fail(Reason::Timeout) | Reply::Ok | Reply::Text(_) => JOINING,
                Reply::Fail(_) => UNKNOWN_YET,
            };
            tracing::debug!(%wwid, reply = %reply.describe(), "asked for the map");
            match self.await_map(&cx.at_most(patience), wwid, legs, is_anywhere).await {
                Err(error) if error.kind() == ErrorKind::Timeout => {}
                other => return other,
            }
            if end.has_passed() || cx.deadline().has_passed() {
                let message =
                    format!("multipathd makes no map of the legs and answers: {}", reply.describe());
                return Err(Error::new(ErrorKind::Unavailable, message)
                    .with_effect(EffectState::Unknown)
                    .with_remedy("check `journalctl -u multipathd`")
                    .on(wwid));
            }
        }
    }

    /// Adds the legs that multipathd left out. One that stays out is reported as missing, not as a failure.
    async fn add_paths(&self, cx: &Cx, wwid: &Wwid, legs: &[Leg], map: Map) -> Result<Map> {
        let left_out: Vec<Leg> = legs.iter().filter(|leg| !map.slaves.contains(&leg.name)).cloned().collect();
        self.tell_of(cx, wwid, &left_out).await?;
        match self.await_map(&cx.at_most(JOINING), wwid, legs, |it| has_all(it, legs)).await {
            Ok(map) => Ok(map),
            Err(_) => self.await_map(cx, wwid, legs, |_| true).await,
        }
    }

    /// Has multipathd know legs; where their map is there they come into it. What it refuses shows in the map.
    async fn tell_of(&self, cx: &Cx, wwid: &Wwid, legs: &[Leg]) -> Result<()> {
        for leg in legs {
            let reply = self.daemon.change(cx, Change::AddPath, &leg.name).await?;
            if reply != Reply::Ok {
                tracing::warn!(leg = %leg.name, reply = %reply.describe(), "multipathd does not take a leg");
            }
            self.refuse_elsewhere(cx, wwid, leg).await?;
        }
        Ok(())
    }

    /// Refuses to go on where multipathd has put a leg under another volume's map, and takes it out of there.
    async fn refuse_elsewhere(&self, cx: &Cx, wwid: &Wwid, leg: &Leg) -> Result<()> {
        let holders = self.look(cx, leg.hctl).await?.map_or_else(Vec::new, |it| it.holders);
        for holder in holders {
            let is_other = self.read_map(cx, &holder, wwid).await?.is_none();
            // A map that was going has no leg any more.
            let still = self.look(cx, leg.hctl).await?.is_some_and(|it| it.holders.contains(&holder));
            if is_other && still {
                self.daemon.change(cx, Change::DelPath, &leg.name).await?;
                let message = format!("multipathd takes it for a path of {holder}, which is another volume");
                return Err(Error::new(ErrorKind::IdentityMismatch, message).on(&leg.name).with_remedy(
                    "`multipathd show paths format \"%d %w\"`, then `udevadm test /sys/block/` and its name",
                ));
            }
        }
        Ok(())
    }

    async fn await_map(
        &self,
        cx: &Cx,
        wwid: &Wwid,
        legs: &[Leg],
        is_enough: impl Fn(&Map) -> bool + Send + Sync,
    ) -> Result<Map> {
        let is_enough = &is_enough;
        self.guard
            .wait_for(cx, "waiting for the map", PAUSE, || async move {
                Ok(self.map_over(cx, wwid, legs).await?.filter(|it| is_enough(it)))
            })
            .await
    }

    /// Waits until udev has recorded a leg as the volume: multipathd takes a leg's WWID from there.
    async fn await_record(&self, cx: &Cx, wwid: &Wwid, leg: &Leg) -> Result<()> {
        let bounded = cx.at_most(self.config.udev);
        let recorded = async |is_enough: fn(&Recorded, &Wwid) -> bool| {
            let look = || async {
                let found = self.recorded_as(&bounded, leg).await?;
                Ok(is_enough(&found, wwid).then_some(found))
            };
            let found = self.guard.wait_for(&bounded, "waiting for udev", PAUSE, look).await;
            found.map_err(|it| blame_udev(it).on(&leg.name))
        };
        if recorded(|it, _| *it != Recorded::Not).await?.may_be(wwid) {
            return Ok(());
        }
        // As the volume before: the kernel has read the unit's pages again, and udev has had no reason to look.
        tracing::info!(leg = %leg.name, "udev takes a leg for another volume and is to look again");
        let disk = Path::new("/sys/block").join(&leg.name);
        self.guard.write_attr(&bounded, &disk.join("uevent"), "change\n").await?;
        let Err(error) = recorded(Recorded::may_be).await else {
            // It knows the leg by the identifier before, and would go by that.
            return self.daemon.change(cx, Change::DelPath, &leg.name).await.map(drop);
        };
        match self.recorded_as(cx, leg).await? {
            Recorded::Wwid(other) => Err(Error::new(
                ErrorKind::Conflict,
                format!("udev has it on record as {other}, not as {wwid}"),
            )
            .on(&leg.name)
            .with_remedy(format!("`udevadm test {}` shows which rule sets ID_SERIAL", disk.display()))),
            Recorded::Not | Recorded::Otherwise => Err(error),
        }
    }

    /// What udev has recorded a leg as.
    async fn recorded_as(&self, cx: &Cx, leg: &Leg) -> Result<Recorded> {
        let path = format!("/run/udev/data/b{}", leg.number);
        let Some(record) = self.guard.read(cx, Path::new(&path), RECORD_MAX).await? else {
            return Ok(Recorded::Not);
        };
        let record = String::from_utf8_lossy(&record);
        let serial = record.lines().find_map(|it| it.strip_prefix("E:ID_SERIAL="));
        Ok(serial.and_then(|it| it.parse().ok()).map_or(Recorded::Otherwise, Recorded::Wwid))
    }

    /// Waits until udev has linked the map under its name for people and for us.
    async fn await_link(&self, cx: &Cx, wwid: &Wwid, map: &Map) -> Result<()> {
        let bounded = cx.at_most(self.config.udev);
        let waiting = self.guard.wait_for(&bounded, "waiting for udev", PAUSE, || async {
            Ok(self.is_linked(&bounded, wwid, map).await?.then_some(()))
        });
        waiting.await.map_err(|it| blame_udev(it).on(wwid))
    }

    async fn is_linked(&self, cx: &Cx, wwid: &Wwid, map: &Map) -> Result<bool> {
        let target = self.guard.read_link(cx, &link_of(wwid)).await?;
        Ok(target.as_deref().and_then(Path::file_name).is_some_and(|it| it == map.kernel.as_str()))
    }

    /// The map once it has the right size and serves. One left suspended by a failed change is resumed.
    async fn usable(&self, cx: &Cx, expect: &Expected, map: &Map) -> Result<Map> {
        let wwid = &expect.identity.wwid;
        let look = async |cx: &Cx| {
            let found = self.read_map(cx, &map.kernel, wwid).await?;
            let gone = || Error::new(ErrorKind::Conflict, "the map vanished").on(wwid);
            found.ok_or_else(gone)
        };
        let mut now = look(cx).await?;
        if now.is_suspended {
            // A table being loaded suspends it for a moment.
            let bounded = cx.at_most(JOINING);
            let waiting = self.guard.wait_for(&bounded, "waiting for the map", PAUSE, || async {
                let found = self.read_map(&bounded, &map.kernel, wwid).await?;
                Ok(found.filter(|it| !it.is_suspended))
            });
            if waiting.await.is_err() {
                self.daemon.change(cx, Change::ResumeMap, &wwid.multipath_name()).await?;
            }
            now = look(cx).await?;
        }
        if now.is_suspended {
            let error = Error::new(ErrorKind::Unavailable, "the map stays suspended").on(wwid);
            return Err(error.with_remedy(format!("dmsetup resume {}", wwid.multipath_name())));
        }
        if now.size != expect.size {
            let message = format!("the map measures {} and the array says {}", now.size, expect.size);
            return Err(Error::new(ErrorKind::Conflict, message).on(wwid));
        }
        Ok(now)
    }
}

/// What udev's record of a leg says.
#[derive(Debug, PartialEq, Eq)]
enum Recorded {
    /// There is none yet.
    Not,
    Wwid(Wwid),
    /// A site's own rules may put anything there.
    Otherwise,
}

impl Recorded {
    fn may_be(&self, wwid: &Wwid) -> bool {
        match self {
            Self::Not => false,
            Self::Wwid(it) => it == wwid,
            Self::Otherwise => true,
        }
    }
}

fn blame_udev(error: Error) -> Error {
    if error.kind() == ErrorKind::Timeout {
        Error::wrap(error, "systemd-udevd does not process devices")
            .with_remedy("check `systemctl status systemd-udevd` and `udevadm settle`")
    } else {
        error
    }
}

/// Whether multipathd said that it knows no such map.
pub(crate) fn is_unknown(reply: &Reply) -> bool {
    matches!(reply, Reply::Fail(Reason::NotFound))
}
