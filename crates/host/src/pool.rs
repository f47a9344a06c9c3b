//! The pool of helper processes: one job at a time each, abandoned when they miss a deadline.

use std::collections::HashMap;
use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use san_core::{Deadline, EffectState, Error, ErrorKind, Result};
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::time::{Instant, timeout, timeout_at};

use crate::counts::{Counts, tick};
use crate::errno::late;
use crate::job::{self, Answer, Job};
use crate::process;

/// How long the next caller of a device waits for a killed helper to end before it is told that the device is stuck.
const GRACE: Duration = Duration::from_millis(100);
/// How many devices' turns are remembered before those that nobody holds are forgotten.
const TURNS_KEPT: usize = 256;

/// How helpers are started, and how many.
#[derive(Debug, Clone)]
pub(crate) struct PoolConfig {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) prestarted: usize,
    pub(crate) at_most: usize,
    pub(crate) abandoned_at_most: usize,
}

/// Helper processes and the jobs they do.
#[derive(Debug, Clone)]
pub(crate) struct Pool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: PoolConfig,
    counts: Arc<Counts>,
    permits: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    idle: Vec<Helper>,
    /// By job key: at most one each, since jobs of one key take turns.
    stuck: HashMap<String, Stuck>,
    turns: HashMap<String, Arc<tokio::sync::Mutex<()>>>,
}

#[derive(Debug)]
struct Helper {
    child: Child,
    channel: UnixStream,
}

/// A helper that was killed and has not ended yet.
#[derive(Debug, Clone)]
struct Stuck {
    pid: u32,
    job: &'static str,
    since: Instant,
}

/// What a running job holds.
struct Holding {
    turn: OwnedMutexGuard<()>,
    permit: OwnedSemaphorePermit,
}

impl Pool {
    /// Starts the first helpers.
    pub(crate) fn start(config: PoolConfig, counts: Arc<Counts>) -> Result<Self> {
        let permits = Arc::new(Semaphore::new(config.at_most.max(1)));
        let pool = Self(Arc::new(Shared { config, counts, permits, state: Mutex::default() }));
        for _ in 0..pool.0.config.prestarted {
            let helper = pool.spawn()?;
            pool.state().idle.push(helper);
        }
        Ok(pool)
    }

    /// How many helpers were killed and have not ended.
    pub(crate) fn abandoned(&self) -> usize {
        self.state().stuck.len()
    }

    /// Has a helper do `job`. A caller that stops waiting changes nothing: the job runs on until its deadline.
    ///
    /// # Errors
    /// `Busy` at once where an earlier job on the same device is stuck, `Timeout` at the deadline.
    pub(crate) async fn run(&self, job: Job, deadline: Deadline) -> Result<(Answer, Vec<u8>)> {
        let key = job.key();
        let frame = job::encode(&job, &[]).map_err(|error| {
            Error::new(ErrorKind::InvalidInput, "cannot be given to a helper").on(&key).caused_by(error)
        })?;
        self.refuse_stuck(&key)?;
        let waiting = async {
            // The turn first: many calls for one slow device must not take all helpers.
            let turn = self.turn(&key).lock_owned().await;
            let permit = Arc::clone(&self.0.permits).acquire_owned().await;
            permit.map(|permit| Holding { turn, permit })
        };
        let holding = match timeout_at(deadline.instant(), waiting).await {
            Ok(Ok(holding)) if !deadline.has_passed() => holding,
            Ok(Err(_)) => return Err(Error::new(ErrorKind::Cancelled, "the helper pool is closed")),
            _ => return Err(late("deadline passed while waiting for a helper's turn").on(key)),
        };
        self.refuse_stuck(&key)?;
        let helper = self.take()?;
        let (sender, answer) = oneshot::channel();
        tokio::spawn(self.clone().work(helper, (job, frame), deadline, holding, sender));
        let lost = || Error::new(ErrorKind::Internal, "the helper's task ended without an answer").on(key);
        answer.await.unwrap_or_else(|_| Err(lost()))
    }

    async fn work(
        self,
        mut helper: Helper,
        (job, frame): (Job, Vec<u8>),
        deadline: Deadline,
        holding: Holding,
        caller: oneshot::Sender<Result<(Answer, Vec<u8>)>>,
    ) {
        tick(&self.0.counts.helper_jobs);
        let outcome = timeout_at(deadline.instant(), exchange(&mut helper.channel, &frame)).await;
        // The caller may have left: then nobody wants the answer.
        match outcome {
            Ok(Ok(answer)) => {
                self.give_back(helper);
                drop(holding);
                let _ = caller.send(Ok(answer));
            }
            Ok(Err(error)) => {
                let message = format!("helper process {} ended or answered garbage", pid(&helper));
                let error = Error::new(ErrorKind::Unavailable, message).on(job.key()).caused_by(error);
                self.retire(helper, &job, holding, caller, error.with_effect(job.effect_unseen())).await;
            }
            Err(_) => {
                let message =
                    format!("no answer by the deadline; helper process {} was killed", pid(&helper));
                let error = Error::new(ErrorKind::Timeout, message).on(job.key());
                self.retire(helper, &job, holding, caller, error.with_effect(job.effect_unseen())).await;
            }
        }
    }

    /// Kills a helper, tells the caller, puts another in its place and waits until it has really ended.
    async fn retire(
        &self,
        mut helper: Helper,
        job: &Job,
        holding: Holding,
        caller: oneshot::Sender<Result<(Answer, Vec<u8>)>>,
        error: Error,
    ) {
        let (key, pid) = (job.key(), pid(&helper));
        let stuck = Stuck { pid, job: job.name(), since: Instant::now() };
        self.state().stuck.insert(key.clone(), stuck);
        // Fails only where it has already ended.
        let _ = helper.child.start_kill();
        let _ = caller.send(Err(error));
        drop(holding.permit);
        self.replace();
        // Held a little longer, so that an ordinary kill is over before anybody sees the device as stuck.
        if timeout(GRACE, helper.child.wait()).await.is_err() {
            tracing::warn!(
                pid,
                device = key,
                job = job.name(),
                "helper process is stuck in the kernel; abandoned"
            );
            drop(holding.turn);
            let ended = helper.child.wait().await;
            tracing::info!(pid, device = key, ?ended, "abandoned helper process has ended");
        }
        self.state().stuck.remove(&key);
    }

    fn refuse_stuck(&self, key: &str) -> Result<()> {
        let (stuck, total) = {
            let stuck = &self.state().stuck;
            // Those that were killed a moment ago have most likely ended before it is this caller's turn.
            let really = |it: &&Stuck| it.since.elapsed() >= GRACE;
            (stuck.get(key).filter(really).cloned(), stuck.values().filter(really).count())
        };
        if let Some(stuck) = stuck {
            let message = format!(
                "an earlier {} has been stuck in the kernel for {} s (helper process {}{})",
                stuck.job,
                stuck.since.elapsed().as_secs(),
                stuck.pid,
                whereabouts(stuck.pid)
            );
            return Err(Error::new(ErrorKind::Busy, message).on(key).with_remedy(
                "look at the paths of this device; it is free again once that process has ended",
            ));
        }
        if total >= self.0.config.abandoned_at_most {
            let message = format!("{total} helper processes are stuck in the kernel; no more are started");
            return Err(Error::new(ErrorKind::Unavailable, message)
                .on(key)
                .with_effect(EffectState::None)
                .with_remedy("restore the paths to the stuck devices, or restart this node"));
        }
        Ok(())
    }

    fn turn(&self, key: &str) -> Arc<tokio::sync::Mutex<()>> {
        let turns = &mut self.state().turns;
        if turns.len() >= TURNS_KEPT {
            turns.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        Arc::clone(turns.entry(key.to_owned()).or_default())
    }

    /// An idle helper that lives, or a new one.
    fn take(&self) -> Result<Helper> {
        loop {
            let Some(mut helper) = self.state().idle.pop() else { return self.spawn() };
            let pid = pid(&helper);
            if matches!(helper.child.try_wait(), Ok(None)) {
                return Ok(helper);
            }
            tracing::warn!(pid, "helper process ended while idle");
        }
    }

    /// Helpers beyond the prestarted number end here, by losing their channel.
    fn give_back(&self, mut helper: Helper) {
        {
            let mut state = self.state();
            if state.idle.len() < self.0.config.prestarted {
                state.idle.push(helper);
                return;
            }
        }
        tokio::spawn(async move {
            drop(helper.channel);
            helper.child.wait().await
        });
    }

    fn replace(&self) {
        if self.state().idle.len() >= self.0.config.prestarted {
            return;
        }
        match self.spawn() {
            Ok(helper) => self.give_back(helper),
            Err(error) => tracing::warn!(?error, "cannot replace a helper process; the next job tries again"),
        }
    }

    fn spawn(&self) -> Result<Helper> {
        let config = &self.0.config;
        let cannot = |error: std::io::Error| {
            Error::new(ErrorKind::Unavailable, "cannot start a helper process")
                .on(config.program.display())
                .with_effect(EffectState::None)
                .caused_by(error)
        };
        let start = || {
            let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
            ours.set_nonblocking(true)?;
            let input = OwnedFd::from(theirs.try_clone()?);
            // All our descriptors close on exec: a helper that never ends must not keep a lock or a socket of ours.
            let child = process::command(&config.program, &config.arguments)
                .stdin(Stdio::from(input))
                .stdout(Stdio::from(OwnedFd::from(theirs)))
                .stderr(Stdio::null())
                .spawn()?;
            Ok(Helper { child, channel: UnixStream::from_std(ours)? })
        };
        let helper = start().map_err(cannot)?;
        tick(&self.0.counts.processes);
        Ok(helper)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pid(helper: &Helper) -> u32 {
    helper.child.id().unwrap_or_default()
}

async fn exchange(channel: &mut UnixStream, frame: &[u8]) -> std::io::Result<(Answer, Vec<u8>)> {
    channel.write_all(frame).await?;
    job::read_async(channel).await
}

/// In what state a process is and which kernel function it waits in, as far as `/proc` says so.
fn whereabouts(pid: u32) -> String {
    let proc = PathBuf::from(format!("/proc/{pid}"));
    let stat = std::fs::read_to_string(proc.join("stat")).unwrap_or_default();
    // The state follows the name, which is in parentheses and may hold any character.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    let wchan = std::fs::read_to_string(proc.join("wchan")).unwrap_or_default();
    let state = state.map(|it| format!(", state {it}")).unwrap_or_default();
    match wchan.as_str() {
        "" | "0" => state,
        function => format!("{state}, waiting in {function}"),
    }
}
