//! Checks, groups of checks, and their run: one verdict for each, whatever happens.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::verdict::{Outcome, Verdict};

/// Why a check failed, in words for people.
#[derive(Debug)]
pub struct Failure(pub String);

impl<E: std::error::Error> From<E> for Failure {
    fn from(error: E) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(cause) = source {
            text.push_str(": ");
            text.push_str(&cause.to_string());
            source = cause.source();
        }
        Self(text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a check showed.
#[derive(Debug)]
pub enum Shown {
    /// What must hold held: in words, with figures.
    Held(String, BTreeMap<String, f64>),
    /// It cannot be shown on this kind of machine, for this reason.
    Cannot(String),
}

impl Shown {
    /// It held.
    pub fn held(what: impl Into<String>) -> Self {
        Self::Held(what.into(), BTreeMap::new())
    }
}

/// The running of a check.
pub type Running = Pin<Box<dyn Future<Output = Result<Shown, Failure>> + Send>>;

/// One check over a bench `B`, the things its group has set up.
#[derive(Debug)]
pub struct Check<B> {
    /// Its name, unique in its group.
    pub name: &'static str,
    /// The failure scenarios it shows, by their numbers.
    pub scenarios: &'static [&'static str],
    /// What is done, for people.
    pub done: &'static str,
    /// Does it. A panic counts as a failure.
    pub run: fn(Arc<B>) -> Running,
    /// It takes no longer than this on an idle machine under software emulation.
    pub bound: Duration,
}

/// What a group needs to be run: called once, in a fresh machine.
pub type Play = fn(Recorder) -> Pin<Box<dyn Future<Output = Result<(), Failure>> + Send>>;

/// The machines that a group runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machines {
    /// One, with a script of ours as its init: udev, iscsid and multipathd run.
    Script,
    /// One that boots systemd with Debian's units, and keeps its disks over a reboot: see [`REBOOT`].
    Systemd,
    /// Two of the first kind, joined by four network cards each. The group runs in both at once, with the machine's
    /// number in [`Recorder::node`]; both see the same `/lab/share`.
    Pair,
}

/// The exit code by which the guest program asks to be started again after a reboot, which it has asked the machine for
/// itself or is about to: see [`Recorder::goes_on_after_a_reboot`]. Only in [`Machines::Systemd`].
pub const REBOOT: u8 = 75;

/// Checks that share a machine.
#[derive(Debug)]
pub struct Group {
    /// Its name.
    pub name: &'static str,
    /// Sets the bench up, runs the checks through the recorder, and takes everything down.
    pub play: Play,
    /// What it runs in.
    pub machines: Machines,
}

impl Group {
    /// A group that runs in one machine without systemd.
    pub fn new(name: &'static str, play: Play) -> Self {
        Self { name, play, machines: Machines::Script }
    }

    /// The same in other machines.
    #[must_use]
    pub fn on(self, machines: Machines) -> Self {
        Self { machines, ..self }
    }
}

/// Takes verdicts and passes them on at once: a machine that dies later does not take them along.
#[derive(Debug, Clone)]
pub struct Recorder {
    group: &'static str,
    only: Option<String>,
    node: u8,
    reboots: Arc<AtomicBool>,
    lines: Arc<std::fs::File>,
}

impl Recorder {
    /// Verdicts of `group` are appended to `lines`; checks whose name does not contain `only` are passed over.
    pub fn new(group: &'static str, lines: std::fs::File, only: Option<String>) -> Self {
        Self { group, only, node: 1, reboots: Arc::default(), lines: Arc::new(lines) }
    }

    /// The same in the machine with this number.
    #[must_use]
    pub fn in_node(self, node: u8) -> Self {
        Self { node, ..self }
    }

    /// The number of this machine, from 1; a group on one machine always has 1.
    pub fn node(&self) -> u8 {
        self.node
    }

    /// Notes that the machine was asked to reboot, or is about to be, and that the group goes on after that.
    pub fn goes_on_after_a_reboot(&self) {
        self.reboots.store(true, Ordering::Relaxed);
    }

    /// Whether the group goes on after a reboot.
    pub fn reboots(&self) -> bool {
        self.reboots.load(Ordering::Relaxed)
    }

    /// Whether a check is asked for.
    pub fn wants(&self, check: &str) -> bool {
        self.only.as_ref().is_none_or(|it| check.contains(it.as_str()))
    }

    /// Passes a verdict on.
    ///
    /// # Errors
    /// Where it cannot be written.
    pub fn record(&self, verdict: &Verdict) -> Result<(), Failure> {
        let mut line = serde_json::to_string(verdict)?;
        line.push('\n');
        (&*self.lines).write_all(line.as_bytes())?;
        Ok(())
    }

    fn verdict(&self, name: &str, scenarios: &[&str], done: &str) -> Verdict {
        Verdict {
            group: self.group.to_owned(),
            check: name.to_owned(),
            scenarios: scenarios.iter().map(|it| (*it).to_owned()).collect(),
            outcome: Outcome::Failed,
            done: done.to_owned(),
            found: String::new(),
            millis: 0,
            figures: BTreeMap::new(),
        }
    }
}

/// How much longer than its bound a check may take: the machine may be loaded, and emulation is slow then.
const PATIENCE: u32 = 5;

/// Runs one check to its verdict and records it.
///
/// # Errors
/// Only where the verdict cannot be recorded.
pub async fn run<B: Send + Sync + 'static>(
    recorder: &Recorder,
    bench: &Arc<B>,
    check: &Check<B>,
) -> Result<Outcome, Failure> {
    let mut verdict = recorder.verdict(check.name, check.scenarios, check.done);
    let started = Instant::now();
    let mut task = tokio::spawn((check.run)(Arc::clone(bench)));
    match tokio::time::timeout(check.bound * PATIENCE, &mut task).await {
        Err(_) => {
            task.abort();
            verdict.found = format!("it did not end within {:?}", check.bound * PATIENCE);
        }
        Ok(Err(join)) => verdict.found = panic_text(join),
        Ok(Ok(Err(failure))) => verdict.found = failure.0,
        Ok(Ok(Ok(Shown::Cannot(reason)))) => {
            verdict.outcome = Outcome::CannotBeShown;
            verdict.found = reason;
        }
        Ok(Ok(Ok(Shown::Held(what, figures)))) => {
            verdict.outcome = Outcome::Held;
            verdict.found = what;
            verdict.figures = figures;
        }
    }
    verdict.millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    recorder.record(&verdict)?;
    Ok(verdict.outcome)
}

fn panic_text(join: tokio::task::JoinError) -> String {
    if !join.is_panic() {
        return "it was cancelled".to_owned();
    }
    let panic = join.into_panic();
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()))
        .unwrap_or_else(|| "it panicked without a text".to_owned())
}
