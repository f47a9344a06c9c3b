//! Stops operations at effect boundaries, exactly as a killed process would, and lets the next run end them.

use std::fmt;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use san_contract::audit::{Audit, Findings};
use san_core::{Effect, EffectObserver, Effects, OperationId, Result};
use san_engine::Request;
use tokio::sync::Notify;

use crate::site::{Site, call};

/// Which side of an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// It has not happened.
    Before,
    /// It is done and nobody has seen the answer.
    After,
}

/// Which effect.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Which {
    /// By its number, counted from 0.
    Number(usize),
    /// The first one whose words begin so.
    Named(String),
}

/// Lets effects pass and counts them; at the chosen boundary nothing goes on any more.
#[derive(Debug)]
pub struct Stopper {
    at: Option<(Which, Side)>,
    passed: Mutex<Vec<String>>,
    is_dead: AtomicBool,
    stopped: Notify,
}

impl Stopper {
    /// Stops at the effect number `at`, counted from 0; `None` only counts.
    pub fn new(at: Option<(usize, Side)>) -> Arc<Self> {
        Self::at(at.map(|(number, side)| (Which::Number(number), side)))
    }

    /// Stops at the first effect whose words (verb and subject) begin with `words`.
    pub fn named(words: impl Into<String>, side: Side) -> Arc<Self> {
        Self::at(Some((Which::Named(words.into()), side)))
    }

    fn at(at: Option<(Which, Side)>) -> Arc<Self> {
        Arc::new(Self {
            at,
            passed: Mutex::default(),
            is_dead: AtomicBool::new(false),
            stopped: Notify::new(),
        })
    }

    /// The seam with this observer.
    pub fn effects(self: &Arc<Self>) -> Effects {
        Effects::observed(Arc::clone(self) as Arc<dyn EffectObserver>)
    }

    /// The effects that have begun, in words.
    pub fn passed(&self) -> Vec<String> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits until the boundary is reached.
    pub async fn reached(&self) {
        self.stopped.notified().await;
    }

    /// Whether the effect `number`, or any one in these words, is the chosen one on this side.
    fn is_chosen(&self, number: Option<usize>, words: &str, side: Side) -> bool {
        match &self.at {
            Some((which, of)) if *of == side => match which {
                // Effects run side by side, so that one that ends is known by what it is.
                Which::Number(at) => number.map_or_else(
                    || self.passed().get(*at).map(String::as_str) == Some(words),
                    |number| number == *at,
                ),
                Which::Named(beginning) => words.starts_with(beginning.as_str()),
            },
            _ => false,
        }
    }

    /// Nothing goes on where the process died here, or has died meanwhile in another task.
    async fn die_if(&self, here: bool) -> Result<()> {
        if here {
            self.is_dead.store(true, Ordering::SeqCst);
            self.stopped.notify_one();
        }
        if self.is_dead.load(Ordering::SeqCst) { pending().await } else { Ok(()) }
    }
}

#[async_trait]
impl EffectObserver for Stopper {
    async fn before(&self, effect: &Effect) -> Result<()> {
        let words = effect.to_string();
        let number = {
            let mut passed = self.passed.lock().unwrap_or_else(PoisonError::into_inner);
            passed.push(words.clone());
            passed.len() - 1
        };
        self.die_if(self.is_chosen(Some(number), &words, Side::Before)).await
    }

    async fn after(&self, effect: &Effect) -> Result<()> {
        self.die_if(self.is_chosen(None, &effect.to_string(), Side::After)).await
    }
}

/// One boundary of one operation, for messages.
#[derive(Debug, Clone)]
pub struct Boundary {
    /// The number of the effect.
    pub number: usize,
    /// Which side of it.
    pub side: Side,
    /// The effect in words.
    pub effect: String,
}

impl fmt::Display for Boundary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} effect {} ({})", self.side, self.number, self.effect)
    }
}

/// An operation to be stopped everywhere, on the first node of a fresh site.
#[async_trait]
pub trait Scenario: fmt::Debug + Sync {
    /// A word for it.
    fn name(&self) -> &'static str;

    /// What is there before it begins; the engine of every node runs.
    async fn prepare(&self, site: &Site) -> Result<()>;

    /// The operation.
    fn request(&self) -> Request;

    /// Whether it may change bytes or sizes, which the audit does not see.
    fn changes_content(&self) -> bool;

    /// What must hold after the recovery, beyond "finished or undone": the disk can be used and has its bytes.
    async fn verify(&self, site: &Site) -> Result<()>;

    /// Takes everything away again, as a user would. Runs against the recovered world.
    async fn clean_up(&self, site: &Site) -> Result<()>;

    /// What the second node must be able to do, and to see, once the first is lost for ever in the middle of it.
    async fn take_over(&self, site: &Site) -> Result<()>;
}

/// Everything that went wrong at one boundary.
pub type Report = Vec<String>;

/// What an undisturbed run does and leaves.
#[derive(Debug)]
pub struct Undisturbed {
    /// Its effects, in order.
    pub effects: Vec<String>,
    /// The world after it.
    pub after: Audit,
}

/// Runs the operation without disturbance.
pub async fn undisturbed(scenario: &dyn Scenario) -> Result<Undisturbed> {
    let mut site = Site::started(2).await?;
    scenario.prepare(&site).await?;
    let stopper = Stopper::new(None);
    site.kill(0);
    site.start(0, stopper.effects()).await?;
    let skip = stopper.passed().len();
    call(site.node(0).san(), OperationId::random(), scenario.request()).await?;
    Ok(Undisturbed { effects: stopper.passed().split_off(skip), after: site.audit() })
}

/// A site in which the operation stopped at a boundary; the engine of the first node is dead.
struct Stopped {
    site: Site,
    /// The world without the scenario.
    empty: Audit,
    /// The world before the operation.
    before: Audit,
}

/// `None` where the boundary was never reached.
async fn run_to(scenario: &dyn Scenario, boundary: &Boundary) -> Result<Option<Stopped>> {
    let mut site = Site::started(2).await?;
    let empty = site.audit();
    scenario.prepare(&site).await?;
    let before = site.audit();
    let stopper = Stopper::new(Some((boundary.number, boundary.side)));
    // The engine starts unobserved: what start itself does is not the operation.
    let array = Arc::new(site.connect(stopper.effects()).await?);
    site.kill(0);
    site.start_with(0, stopper.effects(), array).await?;
    let ran = call(site.node(0).san(), OperationId::random(), scenario.request());
    tokio::select! {
        biased;
        () = stopper.reached() => {}
        _ = ran => return Ok(None),
    }
    site.kill(0);
    Ok(Some(Stopped { site, empty, before }))
}

fn never_reached() -> Report {
    vec!["the boundary was never reached".to_owned()]
}

/// Stops the operation at one boundary, lets the next run of the node end it, and takes stock.
pub async fn stop_at(scenario: &dyn Scenario, boundary: &Boundary, plain: &Undisturbed) -> Result<Report> {
    let Some(stopped) = run_to(scenario, boundary).await? else { return Ok(never_reached()) };
    recover(scenario, stopped, Some(plain)).await
}

/// Stops the operation at one boundary by a loss of power: what the kernel knew is lost, what lay on disk is not.
pub async fn lose_power_at(scenario: &dyn Scenario, boundary: &Boundary) -> Result<Report> {
    let Some(stopped) = run_to(scenario, boundary).await? else { return Ok(never_reached()) };
    stopped.site.node(0).host.crash();
    stopped.site.node(0).host.boot();
    // The devices are gone whichever way the operation went, so that the world is neither of the two.
    recover(scenario, stopped, None).await
}

/// Stops the operation at one boundary and its recovery at every `stride`-th boundary of its own. Returns what went
/// wrong, and how many pairs there were.
pub async fn stop_twice_at(
    scenario: &dyn Scenario,
    boundary: &Boundary,
    plain: &Undisturbed,
    stride: usize,
) -> Result<(Report, usize)> {
    let (mut report, mut pairs) = (Report::new(), 0);
    for second in (boundary.number % stride.min(2)..).step_by(stride) {
        let side = if (boundary.number + second).is_multiple_of(2) { Side::Before } else { Side::After };
        let Some(mut first) = run_to(scenario, boundary).await? else {
            return Ok((never_reached(), pairs));
        };
        let stopper = Stopper::new(Some((second, side)));
        let array = Arc::new(first.site.connect(Effects::unobserved()).await?);
        let reached = {
            let start = first.site.start_with(0, stopper.effects(), array);
            tokio::select! {
                biased;
                () = stopper.reached() => true,
                started = start => { started?; false }
            }
        };
        if !reached {
            return Ok((report, pairs));
        }
        pairs += 1;
        first.site.kill(0);
        let found = recover(scenario, first, Some(plain)).await?;
        report.extend(
            found.into_iter().map(|it| format!("stopped again {side:?} {second} of the recovery: {it}")),
        );
    }
    Ok((report, pairs))
}

/// Stops the operation at one boundary for ever: the node never comes back. The scenario's `take_over` says what must be
/// possible on the other node.
pub async fn lose_node_at(scenario: &dyn Scenario, boundary: &Boundary) -> Result<Report> {
    let Some(stopped) = run_to(scenario, boundary).await? else { return Ok(never_reached()) };
    stopped.site.node(0).host.crash();
    // A dead holder's lease runs out by the wall clock, which does not wait for a test.
    stopped.site.expire_leases()?;
    Ok(match scenario.take_over(&stopped.site).await {
        Ok(()) => Report::new(),
        Err(error) => vec![format!("taking over: {error:?}")],
    })
}

/// Lets the next run of the node end what was stopped, and takes stock.
async fn recover(scenario: &dyn Scenario, stopped: Stopped, plain: Option<&Undisturbed>) -> Result<Report> {
    let Stopped { mut site, empty, before } = stopped;
    let mut report = Report::new();
    let open = site.start(0, Effects::unobserved()).await?;
    if open > 0 {
        let operations = site.node(0).san().open_operations().await?;
        report.push(format!("the next run left {open} operations open: {operations:?}"));
    }
    if let Some(plain) = plain {
        finished_or_undone(&site.audit(), &before, &plain.after, &mut report);
    }
    // Where the world is exactly as it was there is nothing else to find, and looking costs most of the suite's time.
    if (plain.is_none() || scenario.changes_content())
        && let Err(error) = scenario.verify(&site).await
    {
        report.push(format!("after the recovery: {error:?}"));
    }
    if let Err(error) = scenario.clean_up(&site).await {
        report.push(format!("cleaning up: {error:?}"));
    }
    let Findings(findings) = site.audit().against(&empty);
    report.extend(findings);
    Ok(report)
}

/// The world must look as before the operation, or as after an undisturbed one.
fn finished_or_undone(now: &Audit, before: &Audit, after: &Audit, report: &mut Report) {
    let (undone, finished) = (now.against(before), now.against(after));
    if !undone.is_empty() && !finished.is_empty() {
        report.push(format!("neither undone:\n{undone}nor finished:\n{finished}"));
    }
}
