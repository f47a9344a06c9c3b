//! The group `roads`: by which roads, and with which proof, the program reaches the array: a storage's options for CHAP, for
//! portals and for interfaces of open-iscsi, with real sessions. Each check adds a storage of its own and removes it, while
//! a bystander works on the same networks through sessions that an admin made.

mod bench;
mod chap;
mod interfaces;
mod portals;

use std::sync::Arc;

use bench::{Bench, NETWORKS};

use super::network::Network;
use super::node::Form;
use super::site::Site;
use super::{Check, Failure, Group, Recorder, run};
use crate::verdict::Outcome;

/// The group.
pub(super) fn group() -> Group {
    Group::new("roads", |recorder| Box::pin(play(recorder)))
}

async fn play(recorder: Recorder) -> Result<(), Failure> {
    let network = Network::start(NETWORKS).await?;
    network.double(interfaces::NETWORK).await?;
    network.count_connections().await?;
    let site = Site::over(network, std::net::Ipv4Addr::LOCALHOST).await?;
    let bystander = site.bystander().await?;
    site.node.start(Form::Program).await?;
    let bench = Arc::new(Bench::new(site, bystander));
    let checks: Vec<Check<Bench>> =
        chap::checks().into_iter().chain(portals::checks()).chain(interfaces::checks()).collect();
    for check in checks.iter().filter(|it| recorder.wants(it.name)) {
        if run(&recorder, &bench, check).await? != Outcome::Held {
            bench.clear().await?;
        }
    }
    match Arc::into_inner(bench) {
        Some(bench) => {
            bench.bystander.end().await?;
            bench.site.end().await
        }
        // A check that did not end in time still has it; the machine goes with it.
        None => Ok(()),
    }
}
