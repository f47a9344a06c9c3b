//! What becomes of a guest's input and output when its disk has lost every path: it waits, but not for ever, and not for a
//! volume that this node has no longer.
//!
//! The host's settings know neither for single disks (`host/README.md`). A write that waits while the array gives the disk's
//! number to another volume can end up on that one, so it has to fail before. The kernel tells when the last path goes; the
//! legs are asked at once, and where they deny the volume, the array. Only both together count: an array that takes over
//! may deny for a moment what it serves.
//!
//! Whether a map waits is read from multipathd each time and kept nowhere: another process, or a multipathd that was started
//! anew, finds the same state.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;

use san_core::{
    Cx, Deadline, Identity, OperationId, PathNews, PathWatch, Paths, Result, VolumeKey, VolumeState, Waiting,
    Wwid,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::reconciled::Repair;
use crate::record::Attachment;
use crate::san::{San, Shared};

/// Between two looks at disks that have no path.
const LOOK: Duration = Duration::from_secs(5);
/// Between two looks while all have one, should the kernel's news not reach us.
const SELDOM: Duration = Duration::from_secs(60);
/// What multipathd is asked for or told together.
const BOUND: Duration = Duration::from_secs(20);
/// The legs and the array are asked about one disk.
const QUESTION: Duration = Duration::from_secs(10);
/// Disks that are asked about, or told of, side by side.
const TOGETHER: usize = 16;

impl San {
    /// Watches over the paths of this storage's disks as long as it lives.
    pub(crate) fn watch_paths(&self) {
        let watch = Watch {
            san: Arc::downgrade(&self.0),
            news: self.devices().watch_paths(),
            limit: self.0.config.outage,
            heard: HashMap::new(),
            lost: HashMap::new(),
            given_back: HashSet::new(),
            questions: JoinSet::new(),
            // What an earlier process left behind is seen at once.
            next_look: Instant::now(),
            is_blind: false,
        };
        self.node().spawn_endless(watch.run());
    }

    /// Whether the array has taken the volume from this node: the legs deny it, before and after the array has said so.
    async fn is_taken_away(&self, record: &Attachment) -> Result<bool> {
        let (Some(known), Some(host)) = (record.known_legs(), &record.host) else { return Ok(false) };
        let cx = self.cx(Deadline::after(QUESTION), OperationId::random());
        if !self.devices().is_denied(&cx, &known).await? {
            return Ok(false);
        }
        // A LUN that is not shown, or not online, while its volume moves is no answer.
        let is_gone = match self.array().volume(&cx, &VolumeKey::Id(record.volume.clone())).await? {
            None => true,
            Some(it) => {
                it.identity.as_ref() == Some(&record.identity)
                    && it.state == VolumeState::Online
                    && it.mapped.is_some_and(|it| it.iter().all(|mapped| mapped.id != host.id))
            }
        };
        Ok(is_gone && self.devices().is_denied(&cx, &known).await?)
    }
}

/// One disk without a path.
#[derive(Debug)]
struct Outage {
    since: Instant,
    /// When the kernel last said so: until multipathd has noticed too, its word does not count.
    told: Instant,
    /// Whether its input and output fails already.
    has_ended: bool,
    /// When it may be asked next whether it was taken away.
    next_question: Instant,
    /// Whether the array has taken it away.
    is_taken: bool,
}

/// The paths of one storage's disks.
#[derive(Debug)]
struct Watch {
    san: Weak<Shared>,
    news: Box<dyn PathWatch>,
    limit: Duration,
    /// How many paths the kernel said that devices have, and what has not come of it yet.
    heard: HashMap<Wwid, u32>,
    lost: HashMap<Wwid, Outage>,
    /// Those whose waiting was given back: where multipathd goes on saying that they do not wait, that is the host's setting.
    given_back: HashSet<Wwid>,
    /// Questions whether a disk was taken away.
    questions: JoinSet<Answer>,
    /// When multipathd is asked next.
    next_look: Instant,
    /// Whether the last round failed.
    is_blind: bool,
}

/// Of which outage of a disk, and whether the array had taken the disk away.
type Answer = (Wwid, Instant, bool);

impl Watch {
    async fn run(mut self) {
        // A storage nobody holds any more needs no watch; its successor has one of its own.
        while let Some(san) = self.san.upgrade().map(San) {
            match self.round(&san).await {
                Ok(()) => self.is_blind = false,
                Err(error) => {
                    // Said once, not with every look.
                    if !std::mem::replace(&mut self.is_blind, true) {
                        tracing::warn!(storage = san.space(), error = %error.chain(), "the paths of its disks are not known");
                    }
                    self.next_look = Instant::now() + LOOK;
                }
            }
            san.keep_outages(self.lost.iter().map(|(wwid, it)| (*wwid, it.since)).collect());
            drop(san);
            self.gather().await;
        }
    }

    /// Waits for news or answers, or until it is time to look. Whatever comes together is one round.
    async fn gather(&mut self) {
        tokio::select! {
            news = self.news.next() => self.hear(news),
            Some(Ok(answer)) = self.questions.join_next(), if !self.questions.is_empty() => self.learn(answer),
            () = tokio::time::sleep_until(self.next_look) => {}
        }
        while let Ok(news) = timeout(Duration::ZERO, self.news.next()).await {
            self.hear(news);
        }
        while let Some(answer) = self.questions.try_join_next() {
            if let Ok(answer) = answer {
                self.learn(answer);
            }
        }
    }

    fn hear(&mut self, news: Option<PathNews>) {
        match news {
            Some(PathNews { wwid, usable }) => {
                self.heard.insert(wwid, usable);
            }
            // Some were missed: what multipathd says has to do.
            None => self.next_look = Instant::now(),
        }
    }

    fn learn(&mut self, (wwid, since, is_taken): Answer) {
        // Of an outage that is over it says nothing any more.
        if let Some(outage) = self.lost.get_mut(&wwid).filter(|it| it.since == since) {
            outage.is_taken = is_taken;
        }
    }

    async fn round(&mut self, san: &San) -> Result<()> {
        let mut is_due = self.next_look <= Instant::now();
        if !is_due && self.heard.is_empty() && self.lost.is_empty() {
            return Ok(());
        }
        let records: Vec<Attachment> =
            san.attached().await?.into_iter().filter(|it| it.lun.is_some()).collect();
        let is_here = |wwid: &Wwid| records.iter().any(|it| it.identity.wwid == *wwid);
        self.lost.retain(|wwid, _| is_here(wwid));
        self.given_back.retain(is_here);
        for record in &records {
            match self.heard.get(&record.identity.wwid) {
                Some(0) => self.note_lost(record),
                // Whether it still waits is multipathd's to say.
                Some(_) => {
                    self.note_back(record);
                    is_due = true;
                }
                None => {}
            }
        }
        self.heard.clear();
        let looked = if is_due && !records.is_empty() { self.look(san, &records).await } else { Ok(()) };
        self.end(san, &records).await;
        self.ask(san, &records);
        let is_calm = self.lost.is_empty() && looked.is_ok();
        let latest = Instant::now() + if is_calm { SELDOM } else { LOOK };
        self.next_look = if is_due { latest } else { self.next_look.min(latest) };
        looked
    }

    fn note_lost(&mut self, record: &Attachment) {
        let now = Instant::now();
        let outage = self.lost.entry(record.identity.wwid).or_insert_with(|| {
            tracing::warn!(volume = %record.owner, "it has lost every path: its guest waits");
            Outage { since: now, told: now, has_ended: false, next_question: now, is_taken: false }
        });
        outage.told = now;
    }

    fn note_back(&mut self, record: &Attachment) {
        if let Some(outage) = self.lost.remove(&record.identity.wwid) {
            let seconds = outage.since.elapsed().as_secs();
            tracing::info!(volume = %record.owner, seconds, "it has a path again");
        }
    }

    /// What multipathd says of all of them. Whoever has a path and would not wait for the next one gets that back.
    async fn look(&mut self, san: &San, records: &[Attachment]) -> Result<()> {
        let cx = san.cx(Deadline::after(BOUND), OperationId::random());
        let mut resumed = Vec::new();
        for (record, paths) in records.iter().zip(san.devices().paths(&cx, &identities(records)).await?) {
            let wwid = record.identity.wwid;
            match paths {
                // No map, nothing that waits.
                None => drop(self.lost.remove(&wwid)),
                Some(Paths { usable: 0, waiting }) => {
                    if !self.lost.contains_key(&wwid) {
                        self.note_lost(record);
                    }
                    if let Some(outage) = self.lost.get_mut(&wwid) {
                        outage.has_ended = waiting == Waiting::Fails;
                    }
                }
                Some(Paths { waiting, .. }) => {
                    if self.lost.get(&wwid).is_some_and(|it| it.told.elapsed() < LOOK) {
                        continue;
                    }
                    self.note_back(record);
                    if waiting == Waiting::Fails && !self.given_back.contains(&wwid) {
                        resumed.push(record.clone());
                    }
                }
            }
        }
        let resume = |san: San, cx: Cx, record: Attachment| async move {
            san.devices().resume_waiting(&cx, &record.identity).await
        };
        let mut failed = Ok(());
        for (record, result) in side_by_side(san, resumed, resume).await {
            match result {
                Ok(()) => drop(self.given_back.insert(record.identity.wwid)),
                // The next look, which comes soon then, tries again.
                Err(error) => {
                    tracing::warn!(volume = %record.owner, error = %error.chain(), "its next outage would not be waited for");
                    failed = Err(error);
                }
            }
        }
        failed
    }

    /// Ends the waiting of those that were taken away, and of those that have waited long enough.
    async fn end(&mut self, san: &San, records: &[Attachment]) {
        let mut due: Vec<Attachment> = Vec::new();
        for record in records {
            let Some(outage) = self.lost.get(&record.identity.wwid).filter(|it| !it.has_ended) else {
                continue;
            };
            if outage.is_taken || outage.since.elapsed() >= self.limit {
                due.push(record.clone());
            }
        }
        if due.is_empty() {
            return;
        }
        // A path may have come back while others were seen to. Without multipathd nothing can be ended.
        let cx = san.cx(Deadline::after(BOUND), OperationId::random());
        let Ok(paths) = san.devices().paths(&cx, &identities(&due)).await else { return };
        let mut fresh = paths.into_iter();
        due.retain(|record| {
            let has_none = fresh.next().flatten().is_some_and(|it| it.usable == 0);
            has_none || self.lost.get(&record.identity.wwid).is_some_and(|it| it.is_taken)
        });
        let end = |san: San, cx: Cx, record: Attachment| async move {
            san.devices().end_waiting(&cx, &record.identity).await
        };
        for (record, result) in side_by_side(san, due, end).await {
            let Some(outage) = self.lost.get_mut(&record.identity.wwid) else { continue };
            let why = if outage.is_taken {
                "the array does not give it to this node any more"
            } else {
                "no path has come back in time"
            };
            // Even where the answer was lost it may be so: the next look tells.
            self.given_back.remove(&record.identity.wwid);
            match result {
                Ok(()) => {
                    outage.has_ended = true;
                    san.count(Repair::WaitingEnded, &record.view().file_name());
                    tracing::error!(volume = %record.owner, why, "its guest waits no longer: reads and writes fail until a path comes back");
                }
                Err(error) => {
                    tracing::error!(volume = %record.owner, why, error = %error.chain(), "the waiting of its guest could not be ended");
                }
            }
        }
    }

    /// Asks whether those that wait were taken away: at once, and then again and again.
    fn ask(&mut self, san: &San, records: &[Attachment]) {
        let now = Instant::now();
        for record in records {
            let Some(outage) = self.lost.get_mut(&record.identity.wwid) else { continue };
            let is_open = !outage.has_ended && !outage.is_taken;
            if !is_open || outage.next_question > now || self.questions.len() >= TOGETHER {
                continue;
            }
            // The one before has an answer by then.
            outage.next_question = now + QUESTION;
            let (san, record, since) = (san.clone(), record.clone(), outage.since);
            self.questions.spawn(async move {
                let answer = san.is_taken_away(&record).await.unwrap_or_else(|error| {
                    tracing::debug!(volume = %record.owner, error = %error.chain(), "whether it was taken away is not known");
                    false
                });
                (record.identity.wwid, since, answer)
            });
        }
    }
}

fn identities(records: &[Attachment]) -> Vec<Identity> {
    records.iter().map(|it| it.identity.clone()).collect()
}

/// Does `work` for each of `records`, some at a time, all within one bound.
async fn side_by_side<Work, Done>(
    san: &San,
    records: Vec<Attachment>,
    work: Work,
) -> Vec<(Attachment, Result<()>)>
where
    Work: Fn(San, Cx, Attachment) -> Done,
    Done: Future<Output = Result<()>> + Send + 'static,
{
    let cx = san.cx(Deadline::after(BOUND), OperationId::random());
    let mut waiting = records.into_iter();
    let (mut under_way, mut done) = (JoinSet::new(), Vec::new());
    loop {
        while under_way.len() < TOGETHER
            && let Some(record) = waiting.next()
        {
            let one = work(san.clone(), cx.clone(), record.clone());
            under_way.spawn(async move { (record, one.await) });
        }
        let Some(one) = under_way.join_next().await else { return done };
        done.extend(one.ok());
    }
}
