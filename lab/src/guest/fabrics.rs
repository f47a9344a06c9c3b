//! The group `fabrics`: the kernel's targets for NVMe/TCP and for Fibre Channel work in this machine, and so do the plain
//! tools of their initiators. It is the ground for transports that are not there yet.

mod bench;
mod fc;
mod nvme;

use super::{Failure, Group, Recorder, run};
use bench::Bench;

/// The group.
pub(super) fn group() -> Group {
    Group::new("fabrics", |recorder| Box::pin(play(recorder)))
}

async fn play(recorder: Recorder) -> Result<(), Failure> {
    let bench = Bench::start().await?;
    for check in nvme::checks().into_iter().chain(fc::checks()) {
        if recorder.wants(check.name) {
            run(&recorder, &bench, &check).await?;
        }
    }
    bench.stop().await
}
