//! What PVE's polls cost the array and PVE, asked over a daemon's socket on the real clock.

use std::time::{Duration, Instant};

use san_core::{Error, ErrorKind, Result};
use san_sim::server::ApiState;
use serde_json::{Value, json};

use super::budgets::Budget;
use super::report::Row;
use super::{processes, requests};
use crate::daemons::{Client, DaemonSite};

/// How often each poll is made.
const POLLS: usize = 200;
/// Of these the slowest ones are left out: other programs of this machine run as well.
const COUNTED: usize = POLLS * 95 / 100;
/// How long one may take.
const QUICK: Duration = Duration::from_millis(10);
/// How long a daemon may take until it is ready.
const READY: Duration = Duration::from_secs(15);

pub(super) async fn measure() -> Result<Vec<Row>> {
    let site = DaemonSite::started(3).await?;
    let client = site.client(0);
    client.add().await?;
    ready(&client).await?;
    let mut rows = vec![
        poll(&site, "status poll", &["storage.status"]).await?,
        poll(&site, "check and activate, warm", &["storage.check", "storage.activate"]).await?,
    ];
    site.site.array.set_api(ApiState::Refusing);
    rows.push(poll(&site, "status poll, array API down", &["storage.status"]).await?);
    rows.push(
        poll(&site, "check and activate, array API down", &["storage.check", "storage.activate"]).await?,
    );
    Ok(rows)
}

/// Waits until the array's room is known.
async fn ready(client: &Client) -> Result<()> {
    let end = Instant::now() + READY;
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    while Instant::now() < end {
        ticks.tick().await;
        if client.call("storage.status", json!({})).await?.ok["active"] == true {
            return Ok(());
        }
    }
    Err(Error::new(ErrorKind::Timeout, "the daemon does not become ready"))
}

async fn poll(site: &DaemonSite, title: &str, methods: &[&str]) -> Result<Row> {
    let client = site.client(0);
    let (mark, started) = (site.site.array.mark(), processes(&site.site));
    let mut times = Vec::new();
    for _ in 0..POLLS {
        for method in methods {
            let begun = Instant::now();
            let reply = client.call(method, json!({})).await?;
            times.push(begun.elapsed());
            if reply.ok.get("active").is_some_and(|it| *it == Value::Bool(false)) {
                return Err(Error::new(ErrorKind::Internal, "the storage is not active"));
            }
        }
    }
    times.sort_unstable();
    let slow = times[times.len() * COUNTED / POLLS - 1];
    let mut row = Row::counted(title, requests(&site.site, mark), processes(&site.site) - started);
    row.require(Budget::of(0));
    row.limit("95 of 100 calls within", slow, QUICK);
    Ok(row)
}
