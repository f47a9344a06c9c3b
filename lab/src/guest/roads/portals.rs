//! The portals that a storage allows: the others are neither connected to nor expected.

use std::sync::Arc;
use std::time::Duration;

use san_core::ErrorKind;
use serde_json::json;

use super::bench::{Bench, DISK, wrong};
use crate::guest::{Check, Failure, Shown};

const OPTION: &str = "sanbridge-portals";

pub(super) fn checks() -> Vec<Check<Bench>> {
    vec![
        Check {
            name: "only portals that are allowed are connected to",
            scenarios: &[],
            done: "attached a disk over two networks of three, counting connections at the array; allowed the third alone, and \
                   attached again",
            run: |bench| Box::pin(allowed(bench)),
            bound: Duration::from_secs(60),
        },
        Check {
            name: "portals that the array does not have",
            scenarios: &[],
            done: "added a storage that allows only addresses of no portal",
            run: |bench| Box::pin(unknown(bench)),
            bound: Duration::from_secs(15),
        },
    ]
}

async fn allowed(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let before = bench.site.settled_audit().await?;
    let mut client = bench.client(&[(OPTION, "10.77.1.0/24, 10.77.3.2")]);
    client.add().await?;
    bench.site.network.count_connections().await?;
    let reply = bench.disk(&client).await?;
    let counts = bench.site.network.connections().await?;
    let is_spared = counts[0] > 0 && counts[1] == 0 && counts[2] > 0;
    if !is_spared || bench.networks() != [1, 3] || bench.legs()? != [1, 3] || !reply.warnings.is_empty() {
        let legs = bench.legs()?;
        return wrong(format!(
            "{counts:?} connections, legs {legs:?}, {:?}, {:?}",
            bench.sessions(),
            reply.warnings
        ));
    }
    let io = bench.io().await?;
    bench.require_well(&io).await?;
    io.end().await?;
    client.call("volume.detach", json!({ "name": DISK })).await?;
    // A change concerns attaches from then on; sessions that are there stay.
    client.call("storage.update", json!({ "changes": { OPTION: "10.77.2.2" } })).await?;
    client.options.insert(OPTION.to_owned(), "10.77.2.2".into());
    let reply = client.call("volume.attach", json!({ "name": DISK })).await?;
    if bench.legs()? != [2] || bench.networks() != [1, 2, 3] || !reply.warnings.is_empty() {
        return wrong(format!("legs {:?}, {:?}, {:?}", bench.legs()?, bench.sessions(), reply.warnings));
    }
    let io = bench.io().await?;
    bench.require_well(&io).await?;
    io.end().await?;
    bench.end(&client, &before).await?;
    Ok(Shown::held(format!(
        "the array counted {counts:?} connections on its three portals, and the disk had two legs without a warning; with \
         the third portal alone it had one, through that"
    )))
}

async fn unknown(bench: Arc<Bench>) -> Result<Shown, Failure> {
    let before = bench.site.settled_audit().await?;
    let client = bench.client(&[(OPTION, "10.9.0.0/16")]);
    let told = match client.add().await {
        Err(error) if error.kind() == ErrorKind::NotFound => error.chain().to_string(),
        other => return wrong(format!("{other:?}")),
    };
    if !["10.77.1.2", "10.77.2.2", "10.77.3.2"].iter().all(|it| told.contains(it)) {
        return wrong(told);
    }
    bench.site.require_as(&before).await?;
    Ok(Shown::held(format!("refused, and nothing was left: {told}")))
}
