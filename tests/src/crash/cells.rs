//! One cell: an operation disturbed at one boundary, what ends it, and the stock that is taken.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use san_contract::audit::{Audit, Findings};
use san_core::{Effects, OperationId, Result};

use super::Boundary;
use super::stopper::Stopper;
use crate::operation::Row;
use crate::site::{Site, call};

/// How long what a caller left behind may go on by itself: the longest deadline, the clean-up and the pauses in it.
const AFTERWARDS: Duration = Duration::from_secs(300);
/// What udev needs to look at a disk that has changed; it has it open meanwhile.
const REST: Duration = Duration::from_secs(30);

/// What was found at one boundary.
type Report = Vec<String>;

/// What an undisturbed run does and leaves.
#[derive(Debug)]
pub struct Undisturbed {
    /// Its effects, in order.
    pub effects: Vec<String>,
    /// The world after it.
    pub after: Audit,
}

/// Runs the operation without disturbance.
pub async fn undisturbed(row: Row) -> Result<Undisturbed> {
    let mut site = Site::started_with(2, row.visibility).await?;
    row.operation.prepare(&site).await?;
    let stopper = Stopper::new(None);
    site.kill(0);
    site.start(0, stopper.effects()).await?;
    let skip = stopper.passed().len();
    call(site.node(0).san(), OperationId::random(), row.operation.request()?).await?;
    tokio::time::sleep(REST).await;
    Ok(Undisturbed { effects: stopper.passed().split_off(skip), after: site.audit() })
}

/// A site in which the operation came to a boundary.
struct Reached {
    site: Site,
    /// The world without the operation and what it needs.
    empty: Audit,
    /// The world before the operation.
    before: Audit,
}

/// Runs the operation until `stopper` stops it, and takes its caller away. `None` where the boundary was never reached.
async fn run_to(row: Row, stopper: &Arc<Stopper>) -> Result<Option<Reached>> {
    let mut site = Site::started_with(2, row.visibility).await?;
    let empty = site.audit();
    row.operation.prepare(&site).await?;
    let before = site.audit();
    // The engine starts unobserved: what start itself does is not the operation.
    let array = Arc::new(site.connect(stopper.effects()).await?);
    site.kill(0);
    site.start_with(0, stopper.effects(), array).await?;
    {
        let ran = pin!(call(site.node(0).san(), OperationId::random(), row.operation.request()?));
        tokio::select! {
            biased;
            () = stopper.reached() => {}
            _ = ran => return Ok(None),
        }
    }
    Ok(Some(Reached { site, empty, before }))
}

/// The same with the engine of the first node killed there.
async fn killed_at(row: Row, at: Boundary) -> Result<Option<Reached>> {
    let mut reached = run_to(row, &Stopper::new(Some((at.number, at.side)))).await?;
    if let Some(it) = &mut reached {
        it.site.kill(0);
    }
    Ok(reached)
}

fn never_reached() -> Report {
    vec!["the boundary was never reached".to_owned()]
}

/// Stops the operation at one boundary, lets the next run of the node end it, and takes stock.
pub(super) async fn stop_at(row: Row, at: Boundary, plain: &Undisturbed) -> Result<Report> {
    let Some(reached) = killed_at(row, at).await? else { return Ok(never_reached()) };
    recover(row, reached, Some(plain)).await
}

/// Stops the operation at one boundary by a loss of power: what the kernel knew is lost, what lay on disk is not.
pub(super) async fn lose_power_at(row: Row, at: Boundary) -> Result<Report> {
    let Some(reached) = killed_at(row, at).await? else { return Ok(never_reached()) };
    reached.site.node(0).host.crash();
    reached.site.node(0).host.boot();
    // The devices are gone whichever way the operation went, so that the world is neither of the two.
    recover(row, reached, None).await
}

/// Stops the operation at one boundary and its recovery at one of its own. `None` where the recovery ended before that.
pub(super) async fn stop_twice_at(
    row: Row,
    at: Boundary,
    again: Boundary,
    plain: &Undisturbed,
) -> Result<Option<Report>> {
    let Some(mut reached) = killed_at(row, at).await? else { return Ok(Some(never_reached())) };
    let stopper = Stopper::new(Some((again.number, again.side)));
    let array = Arc::new(reached.site.connect(Effects::unobserved()).await?);
    let is_stopped = {
        let start = reached.site.start_with(0, stopper.effects(), array);
        tokio::select! {
            biased;
            () = stopper.reached() => true,
            started = start => { started?; false }
        }
    };
    if !is_stopped {
        return Ok(None);
    }
    reached.site.kill(0);
    recover(row, reached, Some(plain)).await.map(Some)
}

/// Takes the caller away at one boundary. The daemon lives on, and ends the operation by itself.
pub(super) async fn leave_at(row: Row, at: Boundary, plain: &Undisturbed) -> Result<Report> {
    let stopper = Stopper::holding(at.number, at.side);
    let Some(reached) = run_to(row, &stopper).await? else { return Ok(never_reached()) };
    stopper.release();
    tokio::time::sleep(AFTERWARDS).await;
    let open = reached.site.node(0).san().open_operations().await?.len();
    take_stock(row, reached, open, Some(plain)).await
}

/// Stops the operation at one boundary for ever: the node never comes back. The operation's `take_over` says what must be
/// possible on the other node.
pub(super) async fn lose_node_at(row: Row, at: Boundary) -> Result<Report> {
    let Some(reached) = killed_at(row, at).await? else { return Ok(never_reached()) };
    reached.site.node(0).host.crash();
    // A dead holder's lease runs out by the wall clock, which does not wait for a test.
    reached.site.expire_leases()?;
    Ok(match row.operation.take_over(&reached.site).await {
        Ok(()) => Report::new(),
        Err(error) => vec![format!("taking over: {error:?}")],
    })
}

/// Lets the next run of the node end what was stopped, and takes stock.
async fn recover(row: Row, mut reached: Reached, plain: Option<&Undisturbed>) -> Result<Report> {
    let open = reached.site.start(0, Effects::unobserved()).await?;
    take_stock(row, reached, open, plain).await
}

/// The operation is finished or undone, the disk is usable, and after it is taken away nothing is left.
async fn take_stock(row: Row, reached: Reached, open: usize, plain: Option<&Undisturbed>) -> Result<Report> {
    let Reached { site, empty, before } = reached;
    let mut report = Report::new();
    if open > 0 {
        let operations = site.node(0).san().open_operations().await?;
        report.push(format!("{open} operations stayed open: {operations:?}"));
    }
    tokio::time::sleep(REST).await;
    if let Some(plain) = plain {
        finished_or_undone(&site.audit(), &before, &plain.after, &mut report);
    }
    // Where the world is exactly as it was there is nothing else to find, and looking costs most of the suite's time.
    if (plain.is_none() || row.operation.changes_content())
        && let Err(error) = row.operation.verify(&site).await
    {
        report.push(format!("after the recovery: {error:?}"));
    }
    if let Err(error) = row.operation.clean_up(&site).await {
        report.push(format!("cleaning up: {error:?}"));
    }
    let Findings(findings) = site.audit().against(&empty);
    report.extend(findings);
    Ok(report)
}

/// The world must look as before the operation, or as after an undisturbed one.
pub(crate) fn finished_or_undone(now: &Audit, before: &Audit, after: &Audit, report: &mut Report) {
    let (undone, finished) = (now.against(before), now.against(after));
    if !undone.is_empty() && !finished.is_empty() {
        report.push(format!("neither undone:\n{undone}nor finished:\n{finished}"));
    }
}
