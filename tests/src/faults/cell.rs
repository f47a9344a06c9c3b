//! One cell: an operation whose request is disturbed, what it says, and what is there when the array is mended.

use std::time::Duration;

use san_contract::audit::{Audit, Findings, said};
use san_core::{EffectState, Effects, Error, ErrorKind, OperationId, Result, Visibility};
use san_engine::Outcome;
use san_sim::ontap::{Entry, Rule, Times, Version, When};
use tokio::time::Instant;

use super::rules::{allowed, fault, lies};
use super::{Often, Trouble};
use crate::log::Log;
use crate::operation::{DISK, Operation, Row, snapshot};
use crate::site::{PASSWORD, PATIENCE, SVM, Site, call};

/// How long what an operation left open may go on by itself once the array is mended.
const AFTERWARDS: Duration = Duration::from_secs(300);
/// What udev needs to look at a disk that has changed; it has it open meanwhile.
const REST: Duration = Duration::from_secs(30);
/// An answer may come so much after its deadline.
const TOLERANCE: Duration = Duration::from_secs(1);
/// So many requests are shown with a hole.
const SHOWN: usize = 40;
/// How long a job takes where jobs take their time: longer than the array lets a request wait for it.
const JOB: Duration = Duration::from_secs(20);

/// What an undisturbed run sends and leaves.
#[derive(Debug)]
pub(super) struct Undisturbed {
    pub(super) requests: Vec<Entry>,
    after: Audit,
    /// With the disk, or what reads its snapshot, taken from the node, or from all nodes, and nothing else done: where an operation that begins
    /// so may end when the array refuses the rest.
    detached: Option<Audit>,
    jobs: Duration,
}

/// A site with what the operation needs.
struct Stage {
    site: Site,
    empty: Audit,
    before: Audit,
}

impl Stage {
    async fn set(row: Row, jobs: Duration) -> Result<Self> {
        let mut site = Site::with(2, Version::new(9, 16, 1), |it| it.pace.job = jobs)?;
        site.visibility = row.visibility;
        for index in 0..site.nodes() {
            site.start(index, Effects::unobserved()).await?;
        }
        let empty = stock(&site);
        row.operation.prepare(&site).await?;
        let before = stock(&site);
        Ok(Self { site, empty, before })
    }
}

/// What is there, without the serial numbers and LUN numbers that differ from run to run.
fn stock(site: &Site) -> Audit {
    let luns = site.array.luns();
    site.audit().reworded(|line| {
        let line = luns
            .iter()
            .fold(line.to_owned(), |line, it| line.replace(&it.naa, &it.path).replace(&it.serial, &it.path));
        let mut words: Vec<&str> = line.split(' ').collect();
        match words.as_mut_slice() {
            ["array:", "map", "of", _, "to", _, "as", number] => *number = "n",
            [_, "leg", address, ..] => *address = address.rsplit_once(':').map_or(*address, |(bus, _)| bus),
            _ => {}
        }
        words.join(" ")
    })
}

pub(super) async fn undisturbed(row: Row, has_slow_jobs: bool) -> Result<Undisturbed> {
    let jobs = if has_slow_jobs { JOB } else { Duration::ZERO };
    let stage = Stage::set(row, jobs).await?;
    let mark = stage.site.array.mark();
    call(stage.site.node(0).san(), OperationId::random(), row.operation.request()?).await?;
    let requests = stage.site.array.requests(mark);
    tokio::time::sleep(AFTERWARDS).await;
    let after = stock(&stage.site);
    let detached = match (row.operation, row.visibility) {
        (Operation::Delete | Operation::DeleteAttached | Operation::Rollback, Visibility::Shared) => {
            let stage = Stage::set(row, jobs).await?;
            stage.site.node(0).detach(DISK).await?;
            for it in stage.site.array.maps().iter().filter(|it| it.lun.contains("vm_100_disk_0")) {
                stage.site.array.remove_map(SVM, &it.lun, &it.igroup).map_err(|error| {
                    Error::new(ErrorKind::Internal, "the map cannot be removed").caused_by(error)
                })?;
            }
            Some(stock(&stage.site))
        }
        (Operation::DeleteAttached, _) => {
            let stage = Stage::set(row, jobs).await?;
            stage.site.node(0).detach(DISK).await?;
            Some(stock(&stage.site))
        }
        (Operation::DeleteSnapshotRead, _) => {
            let stage = Stage::set(row, jobs).await?;
            stage.site.node(0).detach_snapshot(DISK, &snapshot()?).await?;
            Some(stock(&stage.site))
        }
        _ => None,
    };
    Ok(Undisturbed { requests, after, detached, jobs })
}

/// Disturbs the request number `step`, or all from it on, and returns everything that is not as it must be.
pub(super) async fn try_at(
    row: Row,
    trouble: Trouble,
    often: Often,
    step: usize,
    plain: &Undisturbed,
) -> Result<Vec<String>> {
    let stage = Stage::set(row, plain.jobs).await?;
    let Stage { site, before, .. } = &stage;
    let mut report = Vec::new();
    let (log, listening) = Log::capture();
    let times = if often == Often::Once { Times::Count(1) } else { Times::Always };
    let skip = u32::try_from(step).unwrap_or(u32::MAX);
    let rule = Rule { when: When { skip, times, ..When::default() }, fault: fault(trouble, often) };
    let rule = site.array.inject(rule);
    let mark = site.array.mark();
    let began = Instant::now();
    let result = call(site.node(0).san(), OperationId::random(), row.operation.request()?).await;
    judge(row, trouble, &result, began.elapsed(), &mut report);
    if site.array.strikes(rule) == 0 {
        report.push("it never happened".to_owned());
    }
    site.array.clear_faults();
    site.array.fail_stuck_jobs();
    tokio::time::sleep(AFTERWARDS).await;
    let open = site.node(0).san().take_up_open().await?;
    if open > 0 {
        let operations = site.node(0).san().open_operations().await?;
        report.push(format!("{open} operations stayed open: {operations:?}"));
    }
    let is_finished = compare(&result, &stock(site), before, plain, &mut report);
    converge(row, site, is_finished, plain, &mut report).await?;
    check_content(row, trouble, &stage, &mut report).await;
    drop(listening);
    if !report.is_empty() {
        let sent = site.array.requests(mark).into_iter();
        report.extend(
            sent.take(SHOWN).map(|it| format!("{:?} {} {}: {:?}", it.at, it.method, it.path, it.outcome)),
        );
    }
    let answer = format!("{result:?}");
    report.extend(said(PASSWORD, &[("the answer", &answer), ("the log", &log.text())]).0);
    Ok(report)
}

/// It ends in time, with success or an error it may end with, and no device is handed out on the word of a liar.
fn judge(row: Row, trouble: Trouble, result: &Result<Outcome>, took: Duration, report: &mut Vec<String>) {
    if took > PATIENCE + TOLERANCE {
        report.push(format!("it took {took:?}"));
    }
    match result {
        Err(error) if !allowed(trouble).contains(&error.kind()) => {
            report.push(format!("it may not end so: {error:?}"));
        }
        Ok(outcome) if lies(trouble) && row.operation == Operation::Attach => {
            report
                .push(format!("a device was handed out although the array contradicts itself: {outcome:?}"));
        }
        _ => {}
    }
}

/// The world is as before, or as after an undisturbed run, whichever the answer says. Returns whether it is the latter.
fn compare(
    result: &Result<Outcome>,
    now: &Audit,
    before: &Audit,
    plain: &Undisturbed,
    report: &mut Vec<String>,
) -> bool {
    let (undone, finished) = (now.against(before), now.against(&plain.after));
    let is_detached = plain.detached.as_ref().is_some_and(|it| now.against(it).is_empty());
    match result {
        Ok(_) if !finished.is_empty() => {
            report.push(format!("it said that it is done, and is not:\n{finished}"));
        }
        Err(error) if error.effect() == EffectState::None && !undone.is_empty() => {
            report.push(format!("it said that nothing happened ({error:?}), and:\n{undone}"));
        }
        Err(_) if !undone.is_empty() && !finished.is_empty() && !is_detached => {
            report.push(format!("neither undone:\n{undone}nor finished:\n{finished}"));
        }
        _ => {}
    }
    finished.is_empty()
}

/// Asked once more, it does what is left to do.
async fn converge(
    row: Row,
    site: &Site,
    is_finished: bool,
    plain: &Undisturbed,
    report: &mut Vec<String>,
) -> Result<()> {
    if is_finished && row.operation.counts_on() {
        return Ok(());
    }
    let again = call(site.node(0).san(), OperationId::random(), row.operation.request()?).await;
    let is_said_so = |error: &Error| {
        use ErrorKind::{AlreadyExists, Conflict, NotFound};
        is_finished && matches!(error.kind(), AlreadyExists | Conflict | NotFound)
    };
    match again {
        Err(error) if !is_said_so(&error) => report.push(format!("it does not succeed later: {error:?}")),
        _ => {
            tokio::time::sleep(REST).await;
            let findings = stock(site).against(&plain.after);
            if !findings.is_empty() {
                report.push(format!("repeated, it leaves something else:\n{findings}"));
            }
        }
    }
    Ok(())
}

/// The disk has its bytes, or is refused where the array had lied about it; and it can be taken away with all traces.
async fn check_content(row: Row, trouble: Trouble, stage: &Stage, report: &mut Vec<String>) {
    let Stage { site, empty, .. } = stage;
    match row.operation.verify(site).await {
        Ok(()) => {}
        Err(error)
            if lies(trouble) && matches!(error.kind(), ErrorKind::IdentityMismatch | ErrorKind::Conflict) => {
        }
        Err(error) => report.push(format!("afterwards: {error:?}")),
    }
    match row.operation.clean_up(site).await {
        Ok(()) => {}
        // What an array called by a wrong serial number when it was made is not deleted on its word either.
        Err(error) if trouble == Trouble::WrongSerial && error.kind() == ErrorKind::IdentityMismatch => {
            return;
        }
        Err(error) => report.push(format!("cleaning up: {error:?}")),
    }
    let Findings(findings) = stock(site).against(empty);
    report.extend(findings);
}
