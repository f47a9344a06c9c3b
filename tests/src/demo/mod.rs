//! The demo: the life of a guest's disk, told through the daemons of two simulated nodes and checked at every step.

mod progress;
mod report;
mod stage;
mod story;

use std::time::{Duration, Instant};

use san_contract::audit::said;
use san_core::{Error, ErrorKind, Result};

pub use progress::Progress;
pub use report::{Report, StepReport};

use crate::findings::Findings;
use crate::site::PASSWORD;
use stage::Stage;
use story::Step;

/// The whole show takes a few seconds; whatever takes longer hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// What of the demo is only played.
pub const SIMULATED: [&str; 2] = [
    "one NetApp ONTAP 9.16.1 array: its REST API and the bytes behind it, in this process",
    "two Linux nodes: open-iscsi, SCSI, udev and multipathd, answering as recorded on real ones",
];
/// What of it is the product.
pub const REAL: [&str; 2] = [
    "the node daemons with everything they do: plans, intents, recovery, REST client, iSCSI, multipath",
    "HTTPS to the array on loopback (certificate pinned) and the daemons' sockets, spoken to as the PVE plugin does",
];

/// Plays everything. What failed is in the report.
///
/// # Errors
/// Where the stage itself could not be set up.
pub async fn run(progress: &Progress) -> Result<Report> {
    let begun = Instant::now();
    let mut stage = Stage::set_up().await?;
    let mut steps = Vec::new();
    for step in Step::ALL {
        progress.begin(step.title());
        let before = stage.counts();
        let started = Instant::now();
        let played = tokio::time::timeout(PATIENCE, step.play(&mut stage)).await;
        let result = played.unwrap_or_else(|_| Err(Error::new(ErrorKind::Timeout, "it does not end")));
        let report = StepReport::new(step, stage.counts().since(before), started.elapsed(), result);
        progress.end(&report);
        let has_failed = report.error.is_some();
        steps.push(report);
        if has_failed {
            // Whatever follows stands on what has just failed.
            break;
        }
    }
    let mut audit = stage.audit();
    let mut report = Report::new(steps, Vec::new(), &stage, begun.elapsed());
    audit.extend(said(PASSWORD, &[("this report", &report.to_json().to_string())]).0);
    report.conclude(audit);
    Ok(report)
}
