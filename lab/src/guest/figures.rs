//! Group `figures`: what the product's operations cost on a real kernel, beside the same operations done as the plugins
//! before it do them, in the same machine.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::bystander::VerifiedIo;
use super::check::{Check, Failure, Group, Recorder, Running, Shown, run};
use super::daemons::udev_rests;
use super::node::Form;
use super::site::{FOREIGN_IGROUP, FOREIGN_SVM, Site, until};
use super::{ledger, prior, tools, udev};

/// How often each is measured.
const TIMES: usize = 5;
/// How often a network is cut.
const CUTS: usize = 4;
const MIB: u64 = 1 << 20;
const TOOL: Duration = Duration::from_secs(120);
/// A warm attach of ours may take at most this part of theirs.
const PART: f64 = 1.0 / 3.0;

/// The group.
pub(super) fn group() -> Group {
    Group::new("figures", |recorder| Box::pin(play(recorder)))
}

const CHECKS: [Check<Site>; 4] = [
    Check {
        name: "attach, detach and grow with sessions",
        scenarios: &["69"],
        done: "five times: attached a new disk with all sessions up, attached it again, grew it and detached it; then the \
               same with the tools and in the order of the plugins before this one",
        run: |site| -> Running { Box::pin(warm(site)) },
        bound: Duration::from_secs(240),
    },
    Check {
        name: "fewer programs with the rule",
        scenarios: &[],
        done: "five times: attached a new disk with the rule of udev that saves programs, and without it",
        run: |site| -> Running { Box::pin(saving(site)) },
        bound: Duration::from_secs(120),
    },
    Check {
        name: "attach without sessions",
        scenarios: &[],
        done: "five times: attached a disk with no session and no node record; then the same with the tools and in the \
               order of the plugins before this one",
        run: |site| -> Running { Box::pin(cold(site)) },
        bound: Duration::from_secs(240),
    },
    Check {
        name: "failover",
        scenarios: &["45"],
        done: "four times: cut one of two networks under verified input and output, and mended it; then the same with a \
               LUN attached as the plugins before this one do it",
        run: |site| -> Running { Box::pin(failover(site)) },
        bound: Duration::from_secs(300),
    },
];

async fn play(recorder: Recorder) -> Result<(), Failure> {
    let site = Arc::new(Site::new().await?);
    site.serve(Form::Inside).await?;
    for check in CHECKS.iter().filter(|it| recorder.wants(it.name)) {
        run(&recorder, &site, check).await?;
    }
    match Arc::into_inner(site) {
        Some(site) => site.end().await,
        // A check that did not end in time still has it; the machine goes with it.
        None => Ok(()),
    }
}

/// Measurements by name.
#[derive(Debug, Default)]
struct Series(BTreeMap<String, Vec<f64>>);

impl Series {
    fn add(&mut self, name: &str, value: f64) {
        self.0.entry(name.to_owned()).or_default().push(value);
    }

    fn median(&self, name: &str) -> Result<f64, Failure> {
        let values = self.0.get(name).filter(|it| it.len() >= TIMES.min(CUTS));
        let mut values =
            values.ok_or_else(|| Failure(format!("{name} was not measured often enough")))?.clone();
        values.sort_by(f64::total_cmp);
        Ok(values[values.len() / 2])
    }

    /// The median under each name, and the worst beside it.
    fn figures(&self) -> Result<BTreeMap<String, f64>, Failure> {
        let mut figures = BTreeMap::new();
        for (name, values) in &self.0 {
            figures.insert(name.clone(), self.median(name)?);
            let (stem, unit) = name.rsplit_once('_').unwrap_or((name, "count"));
            figures.insert(format!("{stem}_worst_{unit}"), values.iter().copied().fold(0.0, f64::max));
        }
        Ok(figures)
    }
}

/// A count as a figure.
#[expect(clippy::cast_precision_loss, reason = "nothing is counted to 2^52 here")]
pub(super) fn count(number: u64) -> f64 {
    number as f64
}

/// Processes this machine has started since its boot.
fn processes() -> Result<f64, Failure> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let count = text.lines().find_map(|it| it.strip_prefix("processes ")?.trim().parse().ok());
    count.ok_or_else(|| Failure("the kernel does not count processes".to_owned()))
}

/// Processes a second while nothing is done.
async fn idle_rate() -> Result<f64, Failure> {
    let (before, started) = (processes()?, Instant::now());
    tokio::time::sleep(Duration::from_secs(3)).await;
    Ok((processes()? - before) / started.elapsed().as_secs_f64())
}

/// Measures one operation: its time, and all processes the machine starts until it is at rest again.
async fn measured<T>(
    series: &mut Series,
    name: &str,
    idle: f64,
    operation: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let (before, started) = (processes()?, Instant::now());
    let answer = operation.await?;
    series.add(&format!("{name}_ms"), started.elapsed().as_secs_f64() * 1000.0);
    udev_rests().await?;
    let others = idle * started.elapsed().as_secs_f64();
    series.add(&format!("{name}_processes"), (processes()? - before - others).max(0.0).round());
    let last = |of: &str| series.0.get(&format!("{name}_{of}")).and_then(|it| it.last()).copied();
    tracing::info!(ms = last("ms"), processes = last("processes"), "{name}");
    Ok(answer)
}

/// The same for an operation of ours, with what it asked of the array and of the operating system.
async fn ours<T>(
    site: &Site,
    series: &mut Series,
    name: &str,
    idle: f64,
    operation: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let (mark, before, array) = (site.array().mark(), site.node.counters().await?, site.array_time());
    let answer = measured(series, name, idle, operation).await?;
    series.add(&format!("{name}_array_ms"), site.array_time().saturating_sub(array).as_secs_f64() * 1000.0);
    let after = site.node.counters().await?;
    let requests = site.array().requests(mark).len();
    series.add(&format!("{name}_requests"), count(requests as u64));
    series.add(&format!("{name}_own_processes"), count(after.processes - before.processes));
    Ok(answer)
}

/// The number of their LUN.
const THEIR_LUN: u16 = 5;

/// Theirs: a LUN on the array, mapped to this node before they begin.
async fn mapped(site: &Site, number: usize) -> Result<(String, String), Failure> {
    let (volume, path) = (format!("foreign_t{number}"), format!("/vol/foreign_t{number}/lun0"));
    site.array().add_volume(FOREIGN_SVM, &volume, 64 * MIB, "")?;
    site.array().add_lun(FOREIGN_SVM, &path, 8 * MIB, "")?;
    site.array().add_map(FOREIGN_SVM, &path, FOREIGN_IGROUP, Some(THEIR_LUN))?;
    site.sync().await?;
    let lun = site.array().lun(FOREIGN_SVM, &path).ok_or_else(|| Failure(format!("there is no {path}")))?;
    Ok((volume, format!("3{}", lun.naa)))
}

async fn unmapped(site: &Site, volume: &str) -> Result<(), Failure> {
    site.array().destroy_volume(FOREIGN_SVM, volume)?;
    site.sync().await
}

async fn whole(site: &Site, wwid: &str) -> Result<(), Failure> {
    let legs = site.legs_expected();
    let link = Path::new("/dev/mapper").join(wwid);
    let is_whole =
        || ledger::maps().iter().any(|it| it.wwid == wwid && it.slaves.len() == legs) && link.is_symlink();
    until("the map with all its legs", is_whole).await
}

async fn warm(site: Arc<Site>) -> Result<Shown, Failure> {
    let before = site.settled_audit().await?;
    let mut series = Series::default();
    // Sessions are made by the first attach.
    site.create("vm-900-disk-0", 8 * MIB).await?;
    site.attach("vm-900-disk-0").await?;
    // Both have the same sessions beside their own.
    site.foreign_login().await?;
    udev_rests().await?;
    let idle = idle_rate().await?;
    for number in 0..TIMES {
        let disk = format!("vm-{}-disk-0", 100 + number);
        site.create(&disk, 8 * MIB).await?;
        ours(&site, &mut series, "ours_attach_warm", idle, site.attach(&disk)).await?;
        ours(&site, &mut series, "ours_attach_again", idle, site.attach(&disk)).await?;
        ours(&site, &mut series, "ours_grow", idle, site.grow(&disk, 16 * MIB)).await?;
        ours(&site, &mut series, "ours_detach", idle, site.detach(&disk)).await?;
        site.delete(&disk).await?;
    }
    prior::configure().await?;
    for number in 0..TIMES {
        let (volume, wwid) = mapped(&site, number).await?;
        let sequence = async {
            let started = Instant::now();
            prior::attach(&wwid).await?;
            let returned = started.elapsed();
            // They may go on with a single leg; attached it is when the map with all legs is there, as it is with us.
            whole(&site, &wwid).await?;
            Ok(returned)
        };
        let returned = measured(&mut series, "theirs_attach_warm", idle, sequence).await?;
        series.add("theirs_attach_warm_returned_ms", returned.as_secs_f64() * 1000.0);
        measured(&mut series, "theirs_attach_again", idle, prior::attach(&wwid)).await?;
        measured(&mut series, "theirs_grow", idle, prior::grow(&wwid)).await?;
        unmapped(&site, &volume).await?;
        measured(&mut series, "theirs_detach", idle, prior::detach(&wwid)).await?;
    }
    prior::leave_configuration().await?;
    forget(&site, site.foreign_targets()).await?;
    site.detach("vm-900-disk-0").await?;
    site.delete("vm-900-disk-0").await?;
    site.require_as(&before).await?;
    // What they ask of the array is left out altogether, so ours is compared without the array's own time too.
    let array = series.median("ours_attach_warm_array_ms")?;
    let (ours, theirs) = (series.median("ours_attach_warm_ms")?, series.median("theirs_attach_warm_ms")?);
    let figures = series.figures()?;
    let text = format!(
        "a warm attach takes {ours:.0} ms, {array:.0} ms of them the array's, where theirs takes {theirs:.0} ms without an array"
    );
    if ours - array > theirs * PART {
        return Err(Failure(format!("{text}: more than a third; {figures:?}")));
    }
    for name in
        ["ours_attach_warm_own_processes", "ours_attach_again_own_processes", "ours_attach_again_requests"]
    {
        if series.median(name)? > 0.0 {
            return Err(Failure(format!("{name} is not 0: {figures:?}")));
        }
    }
    Ok(Shown::Held(text, figures))
}

async fn saving(site: Arc<Site>) -> Result<Shown, Failure> {
    let before = site.settled_audit().await?;
    let mut series = Series::default();
    attaches(&site, &mut series, "attach_with_rule").await?;
    udev::remove_saving_rule().await?;
    let without = attaches(&site, &mut series, "attach_without_rule").await;
    udev::install_rules().await?;
    without?;
    site.require_as(&before).await?;
    let with = series.median("attach_with_rule_processes")?;
    let without = series.median("attach_without_rule_processes")?;
    let text = format!(
        "an attach has the machine start {with} processes where it started {without} without the rule"
    );
    if with * 2.0 > without {
        return Err(Failure(format!("{text}: more than half; {:?}", series.figures()?)));
    }
    Ok(Shown::Held(text, series.figures()?))
}

async fn attaches(site: &Site, series: &mut Series, name: &str) -> Result<(), Failure> {
    let (disk, idle) = ("vm-100-disk-0", idle_rate().await?);
    for _ in 0..TIMES {
        site.create(disk, 8 * MIB).await?;
        measured(series, name, idle, site.attach(disk)).await?;
        site.detach(disk).await?;
        site.delete(disk).await?;
    }
    Ok(())
}

/// Ends all sessions of the array and forgets its portals.
async fn forget(site: &Site, targets: &BTreeSet<String>) -> Result<(), Failure> {
    for target in targets {
        tools::run("iscsiadm", &["-m", "node", "-T", target, "--logout"], TOOL).await?;
        tools::run("iscsiadm", &["-m", "node", "-T", target, "-o", "delete"], TOOL).await?;
    }
    until("the sessions' end", || site.hosts(targets).is_empty()).await?;
    udev_rests().await
}

async fn cold(site: Arc<Site>) -> Result<Shown, Failure> {
    let mut series = Series::default();
    if !site.hosts(site.targets()).is_empty() {
        forget(&site, site.targets()).await?;
    }
    let before = site.settled_audit().await?;
    let disk = "vm-100-disk-0";
    site.create(disk, 8 * MIB).await?;
    let idle = idle_rate().await?;
    for _ in 0..TIMES {
        ours(&site, &mut series, "ours_attach_cold", idle, site.attach(disk)).await?;
        site.detach(disk).await?;
        forget(&site, site.targets()).await?;
    }
    site.delete(disk).await?;
    prior::configure().await?;
    let portals = site.foreign_portals();
    let target =
        site.foreign_targets().first().ok_or_else(|| Failure("the array has no target".to_owned()))?;
    for number in 0..TIMES {
        let (volume, wwid) = mapped(&site, 100 + number).await?;
        let sequence = async {
            prior::login(target, &portals).await?;
            prior::attach(&wwid).await?;
            whole(&site, &wwid).await
        };
        measured(&mut series, "theirs_attach_cold", idle, sequence).await?;
        unmapped(&site, &volume).await?;
        prior::detach(&wwid).await?;
        forget(&site, site.foreign_targets()).await?;
    }
    prior::leave_configuration().await?;
    site.require_as(&before).await?;
    let (ours, theirs) = (series.median("ours_attach_cold_ms")?, series.median("theirs_attach_cold_ms")?);
    Ok(Shown::Held(
        format!("a cold attach takes {ours:.0} ms where theirs takes {theirs:.0} ms"),
        series.figures()?,
    ))
}

async fn failover(site: Arc<Site>) -> Result<Shown, Failure> {
    let before = site.settled_audit().await?;
    let disk = "vm-100-disk-0";
    site.create(disk, 8 * MIB).await?;
    let path = site.attach(disk).await?;
    let wwid = site.wwid(disk)?;
    let mut series = Series::default();
    gaps(&site, &mut series, "ours_failover_gap_ms", &wwid, &path).await?;
    site.detach(disk).await?;
    site.delete(disk).await?;
    if !site.hosts(site.targets()).is_empty() {
        forget(&site, site.targets()).await?;
    }
    prior::configure().await?;
    let target = site.foreign_targets().first();
    let target = target.ok_or_else(|| Failure("the array has no target".to_owned()))?;
    let (volume, wwid) = mapped(&site, 200).await?;
    prior::login(target, &site.foreign_portals()).await?;
    prior::attach(&wwid).await?;
    whole(&site, &wwid).await?;
    gaps(&site, &mut series, "theirs_failover_gap_ms", &wwid, &Path::new("/dev/mapper").join(&wwid)).await?;
    unmapped(&site, &volume).await?;
    prior::detach(&wwid).await?;
    forget(&site, site.foreign_targets()).await?;
    prior::leave_configuration().await?;
    site.require_as(&before).await?;
    let text = format!(
        "input and output paused {:.0} ms, with pings every second and two seconds until the other leg is tried, and {:.0} ms \
         with theirs",
        series.median("ours_failover_gap_ms")?,
        series.median("theirs_failover_gap_ms")?,
    );
    Ok(Shown::Held(text, series.figures()?))
}

/// Cuts one network after the other under verified input and output, and notes the longest pauses.
async fn gaps(
    site: &Site,
    series: &mut Series,
    name: &str,
    wwid: &str,
    device: &Path,
) -> Result<(), Failure> {
    let io = VerifiedIo::start(device, Duration::from_millis(20))?;
    io.another_round(Duration::from_secs(30)).await?;
    for number in 0..CUTS {
        // Every second time the path that is in use.
        let cut = u8::try_from(number % 2).unwrap_or_default() + 1;
        io.forget_gap();
        site.network.cut(cut).await?;
        until("the loss of a leg", || active(wwid) < site.legs_expected()).await?;
        io.another_round(Duration::from_secs(60)).await?;
        series.add(name, io.report().longest_gap.as_secs_f64() * 1000.0);
        site.network.mend(cut).await?;
        until("the leg's return", || active(wwid) == site.legs_expected()).await?;
        io.require_well()?;
    }
    io.end().await.map(drop)
}

/// How many legs of a map the kernel uses.
fn active(wwid: &str) -> usize {
    let maps = ledger::maps();
    let legs = maps.iter().filter(|it| it.wwid == wwid).flat_map(|it| &it.slaves);
    let state = |leg: &String| std::fs::read_to_string(format!("/sys/block/{leg}/device/state"));
    legs.filter(|it| state(it).is_ok_and(|it| it.trim() == "running")).count()
}
