//! The host's configuration: each file of `host/` is proved by what happens without it.

mod bench;
mod boot;
mod chap;
mod files;
mod guests;
mod multipath;
mod parsing;

use std::sync::Arc;

use bench::Bench;

use super::{Check, Failure, Group, Recorder, run};

pub(super) use boot::group as boot_group;

/// Checks on a running machine.
pub(super) fn group() -> Group {
    Group::new("hostconfig", |recorder| Box::pin(play(recorder)))
}

async fn play(recorder: Recorder) -> Result<(), Failure> {
    let bench = Arc::new(Bench::new("hostconf").await?);
    let checks: Vec<Check<Bench>> =
        parsing::checks().into_iter().chain(multipath::checks()).chain(chap::checks()).collect();
    let mut messes = Vec::new();
    for check in checks.iter().filter(|it| recorder.wants(it.name)) {
        run(&recorder, &bench, check).await?;
        if let Err(mess) = bench.end().await {
            tracing::error!(check = check.name, %mess, "the machine does not come to rest");
            messes.push(format!("after {}: {mess}", check.name));
        }
    }
    bench.close().await?;
    if messes.is_empty() { Ok(()) } else { Err(Failure(messes.join("; "))) }
}
