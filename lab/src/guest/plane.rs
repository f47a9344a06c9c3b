//! The group `plane`: what is done to an array over its REST interface shows on live LUNs of a real initiator, which is
//! driven by plain `iscsiadm`. It proves the ground that every other group stands on.

mod bench;
mod data;
mod login;
mod maps;

use super::{Check, Failure, Group, Recorder, run};
use bench::Bench;

/// The group.
pub(super) fn group() -> Group {
    Group::new("plane", |recorder| Box::pin(play(recorder)))
}

async fn play(recorder: Recorder) -> Result<(), Failure> {
    let bench = Bench::start().await?;
    for check in checks() {
        if recorder.wants(check.name) {
            run(&recorder, &bench, &check).await?;
        }
    }
    bench.stop().await
}

fn checks() -> Vec<Check<Bench>> {
    [login::checks(), data::checks(), maps::checks()].into_iter().flatten().collect()
}
