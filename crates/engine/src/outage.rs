//! What becomes of a guest's input and output when its disk has lost every path: it waits, but not for ever, and not for a
//! volume that this node has no longer.
//!
//! The host's settings know neither for single disks (`host/README.md`). A write that waits while the array gives the disk's
//! number to another volume can end up on that one, so it has to fail before. The kernel tells when the last path goes; the
//! legs are asked at once, and where they deny the volume, the array. Only both together count: an array that takes over
//! may deny for a moment what it serves.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use san_core::{
    Cx, Deadline, Identity, OperationId, PathNews, PathWatch, Paths, Result, VolumeKey, Waiting, Wwid,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::record::Attachment;
use crate::san::{San, Shared};

/// Between two looks at disks that have no path.
const LOOK: Duration = Duration::from_secs(5);
/// Between two looks while all have one, should the kernel's news not reach us.
const SELDOM: Duration = Duration::from_secs(60);
/// One look, and what is done about one disk.
const BOUND: Duration = Duration::from_secs(30);
/// Disks that are looked at together.
const TOGETHER: usize = 16;

impl San {
    /// Watches over the paths of this storage's disks as long as it lives.
    pub(crate) fn watch_paths(&self) {
        let watch = Watch {
            san: Arc::downgrade(&self.0),
            news: self.devices().watch_paths(),
            limit: self.0.config.outage,
            lost: HashMap::new(),
            has_looked: false,
            // What an earlier process left behind is seen at once.
            next_look: Instant::now(),
        };
        self.node().spawn_endless(watch.run());
    }

    /// Whether neither the legs nor the array know the volume as this node's any more.
    async fn is_taken_away(&self, cx: &Cx, record: &Attachment) -> Result<bool> {
        let (Some(known), Some(host)) = (record.known_legs(), &record.host) else { return Ok(false) };
        if !self.devices().is_denied(cx, &known).await? {
            return Ok(false);
        }
        let Some(volume) = self.array().volume(cx, &VolumeKey::Id(record.volume.clone())).await? else {
            return Ok(true);
        };
        Ok(volume.mapped.is_some_and(|it| it.iter().all(|mapped| mapped.id != host.id)))
    }

    /// Ends the waiting of a disk without a path where it has to end; whether it did.
    async fn end_waiting(&self, record: &Attachment, is_due: Due) -> bool {
        let cx = self.cx(Deadline::after(BOUND), OperationId::random());
        let why = match (self.is_taken_away(&cx, record).await, is_due) {
            (Ok(true), _) => "the array does not give it to this node any more".to_owned(),
            (_, Due::After(limit)) => format!("it has had no path for {} s", limit.as_secs()),
            (Ok(false), Due::NotYet) => return false,
            (Err(error), Due::NotYet) => {
                tracing::debug!(volume = %record.owner, error = %error.chain(), "whether it was taken away is not known");
                return false;
            }
        };
        match self.devices().end_waiting(&cx, &record.identity).await {
            Ok(()) => {
                tracing::error!(volume = %record.owner, why, "its guest waits no longer: reads and writes fail until a path comes back");
                true
            }
            Err(error) => {
                tracing::error!(volume = %record.owner, why, error = %error.chain(), "the waiting of its guest could not be ended");
                false
            }
        }
    }
}

/// Whether a disk has waited long enough.
#[derive(Debug, Clone, Copy)]
enum Due {
    NotYet,
    After(Duration),
}

/// One disk without a path.
#[derive(Debug)]
struct Outage {
    since: Instant,
    /// When the kernel last said so: until multipathd has noticed too, its word does not count.
    told: Instant,
    has_ended: bool,
}

/// The paths of one storage's disks.
#[derive(Debug)]
struct Watch {
    san: Weak<Shared>,
    news: Box<dyn PathWatch>,
    limit: Duration,
    /// By the disk's object.
    lost: HashMap<String, Outage>,
    /// Whether multipathd has answered once.
    has_looked: bool,
    /// When multipathd is asked next.
    next_look: Instant,
}

/// What the kernel said of paths since the last look, newest last.
type Batch = HashMap<Wwid, u32>;

impl Watch {
    async fn run(mut self) {
        let mut batch = Batch::new();
        // A storage nobody holds any more needs no watch; its successor has one of its own.
        while let Some(san) = self.san.upgrade().map(San) {
            if let Err(error) = self.round(&san, &batch).await {
                tracing::warn!(storage = san.space(), error = %error.chain(), "the paths of its disks are not known");
            }
            drop(san);
            batch = self.gather().await;
        }
    }

    /// Waits for news, or until it is time to look. Whatever comes together is one batch.
    async fn gather(&mut self) -> Batch {
        let mut batch = Batch::new();
        let pause = self.next_look.saturating_duration_since(Instant::now());
        let mut next = timeout(pause, self.news.next()).await;
        while let Ok(news) = next {
            match news {
                Some(PathNews { wwid, usable }) => {
                    batch.insert(wwid, usable);
                }
                // Some were missed: what multipathd says has to do.
                None => self.next_look = Instant::now(),
            }
            next = timeout(Duration::ZERO, self.news.next()).await;
        }
        batch
    }

    async fn round(&mut self, san: &San, batch: &Batch) -> Result<()> {
        let is_due = self.next_look <= Instant::now();
        if !is_due && batch.is_empty() {
            return Ok(());
        }
        let records: Vec<Attachment> =
            san.attached().await?.into_iter().filter(|it| it.lun.is_some()).collect();
        self.lost.retain(|object, _| records.iter().any(|it| it.owner.object() == object));
        let looked = if is_due && !records.is_empty() { self.look(san, &records).await } else { Ok(()) };
        for record in &records {
            if let Some(usable) = batch.get(&record.identity.wwid) {
                self.hear(san, record, *usable).await;
            }
        }
        self.end_what_has_to_end(san, &records).await;
        let is_calm = self.lost.is_empty() && looked.is_ok();
        let latest = Instant::now() + if is_calm { SELDOM } else { LOOK };
        self.next_look = if is_due { latest } else { self.next_look.min(latest) };
        looked
    }

    /// What multipathd says of all of them.
    async fn look(&mut self, san: &San, records: &[Attachment]) -> Result<()> {
        let cx = san.cx(Deadline::after(BOUND), OperationId::random());
        let identities: Vec<Identity> = records.iter().map(|it| it.identity.clone()).collect();
        let found = san.devices().paths(&cx, &identities).await?;
        let is_first = !std::mem::replace(&mut self.has_looked, true);
        for (record, paths) in records.iter().zip(found) {
            let outage = self.lost.get_mut(record.owner.object());
            match (paths, outage) {
                (Some(Paths { usable: 0, .. }), None) => self.hear(san, record, 0).await,
                // multipathd was started anew and has forgotten what it was told.
                (Some(Paths { usable: 0, waiting: Waiting::Waits }), Some(outage)) => {
                    outage.has_ended = false;
                }
                (Some(Paths { usable: 0, waiting: Waiting::Fails }), Some(_)) => {}
                (Some(_), Some(outage)) if outage.told.elapsed() >= LOOK => self.hear(san, record, 1).await,
                // An earlier process ended its waiting and did not see the paths come back. Where the host's settings say the
                // same this changes nothing.
                (Some(Paths { waiting: Waiting::Fails, .. }), None) if is_first => {
                    if let Err(error) = san.devices().resume_waiting(&cx, &record.identity).await {
                        tracing::warn!(volume = %record.owner, error = %error.chain(), "its next outage will not be waited for");
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// One disk has so many usable paths now.
    async fn hear(&mut self, san: &San, record: &Attachment, usable: u32) {
        let (object, now) = (record.owner.object(), Instant::now());
        if usable == 0 {
            let outage = self.lost.entry(object.to_owned()).or_insert_with(|| {
                tracing::warn!(volume = %record.owner, "it has lost every path: its guest waits");
                Outage { since: now, told: now, has_ended: false }
            });
            outage.told = now;
            return;
        }
        let Some(outage) = self.lost.get(object) else { return };
        if outage.has_ended {
            let cx = san.cx(Deadline::after(BOUND), OperationId::random());
            if let Err(error) = san.devices().resume_waiting(&cx, &record.identity).await {
                // It stays among the lost ones, so that the next look tries again.
                tracing::warn!(volume = %record.owner, error = %error.chain(), "its next outage would not be waited for");
                return;
            }
        }
        tracing::info!(volume = %record.owner, seconds = outage.since.elapsed().as_secs(), "it has a path again");
        self.lost.remove(object);
    }

    async fn end_what_has_to_end(&mut self, san: &San, records: &[Attachment]) {
        let mut waiting = records.iter().filter_map(|record| {
            let outage = self.lost.get(record.owner.object()).filter(|it| !it.has_ended)?;
            let is_due =
                if outage.since.elapsed() >= self.limit { Due::After(self.limit) } else { Due::NotYet };
            Some((record.clone(), is_due))
        });
        let mut under_way = JoinSet::new();
        let mut ended = Vec::new();
        loop {
            while under_way.len() < TOGETHER
                && let Some((record, is_due)) = waiting.next()
            {
                let san = san.clone();
                under_way.spawn(async move {
                    let has_ended = san.end_waiting(&record, is_due).await;
                    has_ended.then(|| record.owner.object().to_owned())
                });
            }
            let Some(one) = under_way.join_next().await else { break };
            ended.extend(one.ok().flatten());
        }
        for object in ended {
            if let Some(outage) = self.lost.get_mut(&object) {
                outage.has_ended = true;
            }
        }
    }
}
