//! How a scenario is played: whatever becomes of it, everything is put right again, stock is taken, and the bystander is
//! asked what it noticed.

use std::fmt::{Debug, Display};
use std::path::Path;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use san_contract::audit::{Audit, Findings};
use san_core::{ErrorKind, Wwid};
use san_host::Host as _;

use super::bench::{BYSTANDER, BYSTANDER_LUN, Bench, HELPERS};
use super::stock::{Surroundings, stacked};
use super::tools;
use crate::guest::daemons::Daemon;
use crate::guest::ledger::{NodeLedger, TargetLedger, legs, maps};
use crate::guest::{Check, Failure, Recorder, Running, Shown, run};

/// How long the machine may need to come to rest after a scenario: sessions come back, udev finishes.
const REST: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);
/// What was removed must not be back after so long.
const REAPPEARANCE: Duration = Duration::from_secs(10);

/// Plays the checks of one group, one after the other, on one bench.
pub(super) async fn play(recorder: Recorder, checks: &[Check<Bench>]) -> Result<(), Failure> {
    play_with_blocks(recorder, checks, 512).await
}

/// The same with volumes of another logical block size, in bytes.
pub(super) async fn play_with_blocks(
    recorder: Recorder,
    checks: &[Check<Bench>],
    block: u32,
) -> Result<(), Failure> {
    let bench = Arc::new(Bench::new(block).await?);
    for check in checks.iter().filter(|it| recorder.wants(it.name)) {
        let outcome = run(&recorder, &bench, check).await?;
        tracing::info!(check = check.name, ?outcome, "done");
    }
    // Whatever an earlier scenario removed would be found by the audits since; this is for the last one.
    tokio::time::sleep(REAPPEARANCE).await;
    let findings = bench.stock().against(&bench.before);
    if !findings.is_empty() {
        return wrong(format!("{REAPPEARANCE:?} after the last scenario: {findings}"));
    }
    match Arc::try_unwrap(bench) {
        Ok(bench) => bench.end().await,
        Err(_) => Err(Failure("a scenario is still running after the last one".to_owned())),
    }
}

/// Plays one scenario.
pub(super) fn scenario<P, F>(bench: Arc<Bench>, scene: P) -> Running
where
    P: FnOnce(Arc<Bench>) -> F + Send + 'static,
    F: Future<Output = Result<Shown, Failure>> + Send + 'static,
{
    Box::pin(async move {
        // In a task of its own: where it panics, everything is put right all the same.
        let played = match tokio::spawn(scene(Arc::clone(&bench))).await {
            Ok(outcome) => outcome,
            Err(join) => Err(Failure(panic_text(join))),
        };
        let rest = bench.come_to_rest().await;
        match (played, rest) {
            (Ok(shown), Ok(())) => Ok(shown),
            (Err(failure), Ok(())) | (Ok(_), Err(failure)) => Err(failure),
            (Err(failure), Err(rest)) => Err(Failure(format!("{failure}; afterwards {rest}"))),
        }
    })
}

fn panic_text(join: tokio::task::JoinError) -> String {
    let Ok(panic) = join.try_into_panic() else { return "it was cancelled".to_owned() };
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned())).unwrap_or_default()
}

impl Bench {
    /// Everything there is, ours and others'.
    pub(super) fn stock(&self) -> Audit {
        let Wwid::Naa6(bystander) = self.array.identity(BYSTANDER).wwid else { unreachable!("it has one") };
        let targets = [&self.array, &self.second].map(|it| it.target());
        let node = NodeLedger {
            foreign: [self.bystander_map.clone()].into(),
            targets: targets.into(),
            devices: "/dev/sanbridge".into(),
        };
        let array = TargetLedger { foreign: [String::from_utf8_lossy(&bystander[4..]).into_owned()].into() };
        let surroundings = Surroundings {
            bystander: &self.bystander_map,
            helpers: HELPERS,
            abandoned: self.system.counters().abandoned,
        };
        Audit::of(&[&node, &array, &surroundings])
    }

    /// Puts networks and daemons right, waits until nothing differs from the beginning, and asks the bystander.
    async fn come_to_rest(&self) -> Result<(), Failure> {
        let mut complaints = Vec::new();
        let mut complain = |of: &str, result: Result<(), Failure>| {
            if let Err(failure) = result {
                complaints.push(format!("{of}: {failure}"));
            }
        };
        for network in 1..=self.network.networks() {
            complain("the networks", self.network.mend(network).await);
            complain("the networks", self.network.unblock(network).await);
        }
        for daemon in [Daemon::Udevd, Daemon::Iscsid, Daemon::Multipathd] {
            complain("a daemon", daemon.start().await);
        }
        complain("the bystander", self.ask_bystander(REST).await);
        let findings = self.await_rest().await;
        if !findings.is_empty() {
            complain("left over", Err(Failure(findings.to_string())));
            complain("the clearing up", self.sweep().await);
        }
        let late = std::mem::take(&mut *self.late.lock().unwrap_or_else(PoisonError::into_inner));
        complaints.extend(late);
        if complaints.is_empty() { Ok(()) } else { Err(Failure(complaints.join("; "))) }
    }

    async fn await_rest(&self) -> Findings {
        let started = Instant::now();
        loop {
            let findings = self.stock().against(&self.before);
            if findings.is_empty() || started.elapsed() > REST {
                return findings;
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Takes everything away that is not the bystander's, by other means than ours, so that the next scenario begins
    /// where this one should have ended.
    async fn sweep(&self) -> Result<(), Failure> {
        for device in stacked() {
            match device.split_whitespace().nth(1) {
                Some(md) if md.starts_with("md") => tools::attempt("mdadm", &["--stop", md]).await,
                Some(name) => tools::attempt("dmsetup", &["remove", "--force", "--retry", name]).await,
                None => {}
            }
        }
        for map in maps().into_iter().filter(|it| it.wwid != self.bystander_map) {
            tools::attempt("multipathd", &["disablequeueing", "map", &map.wwid]).await;
            tools::attempt("multipath", &["-f", &map.wwid]).await;
        }
        for leg in legs().into_iter().filter(|it| it.wwid != self.bystander_map) {
            let delete = Path::new("/sys/class/scsi_device").join(leg.address).join("device/delete");
            let deleting = tokio::task::spawn_blocking(move || std::fs::write(delete, "1"));
            if tokio::time::timeout(REST, deleting).await.is_err() {
                return Err(Failure("a leg cannot be deleted".to_owned()));
            }
        }
        let others = self.second.target();
        tools::attempt("iscsiadm", &["-m", "node", "-T", &others, "--logout"]).await;
        tools::attempt("iscsiadm", &["-m", "node", "-T", &others, "-o", "delete"]).await;
        self.array.hide_everything();
        self.second.hide_everything();
        self.array.show(BYSTANDER, BYSTANDER_LUN, self.array.addresses())?;
        self.sync().await?;
        let findings = self.await_rest().await;
        if findings.is_empty() { Ok(()) } else { Err(Failure(findings.to_string())) }
    }
}

/// A failure of a scenario's own.
pub(super) fn wrong<T>(what: impl Display) -> Result<T, Failure> {
    Err(Failure(what.to_string()))
}

/// The error an answer had to be, in words.
pub(super) fn refused<T: Debug>(answer: san_core::Result<T>, kinds: &[ErrorKind]) -> Result<String, Failure> {
    match answer {
        Err(error) if kinds.contains(&error.kind()) => Ok(error.chain().to_string()),
        other => wrong(format!("{kinds:?} was due and {other:?} came")),
    }
}
