//! What the demo plays on: an array served over HTTPS, two nodes with their daemons, and the counters.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use san_contract::audit::Audit;
use san_core::{Error, ErrorKind, Result};
use san_host::Host;
use san_sim::host::{OpenHandle, SimNode};
use san_sim::ontap::Mark;
use san_sim::server::HttpsServer;
use sanbridge::HttpsWires;
use serde_json::{Value, json};

use crate::daemons::{Client, DaemonSite, Reply};
use crate::site::Site;

/// How long a daemon may take until it is ready.
const READY: Duration = Duration::from_secs(15);
/// How often it is asked meanwhile; there is no event to wait for.
const ASK: Duration = Duration::from_millis(5);

/// What was done so far.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counts {
    pub(super) requests: usize,
    pub(super) processes: u64,
}

impl Counts {
    pub(super) fn since(self, earlier: Self) -> Self {
        Self { requests: self.requests - earlier.requests, processes: self.processes - earlier.processes }
    }
}

#[derive(Debug)]
pub(super) struct Stage {
    pub(super) daemons: DaemonSite,
    /// Where the disk appears: the same on both nodes.
    pub(super) path: PathBuf,
    /// The running guest's hold on its disk.
    pub(super) guest: Option<OpenHandle>,
    server: HttpsServer,
    begun: Audit,
}

impl Stage {
    pub(super) async fn set_up() -> Result<Self> {
        let site = Site::new(2)?;
        let api = Arc::new(site.array.clone());
        let server = HttpsServer::start(api, ([127, 0, 0, 1], 0).into(), &[]).await.map_err(|error| {
            Error::new(ErrorKind::Internal, "cannot serve the simulated array on loopback").caused_by(error)
        })?;
        let mut daemons = DaemonSite::on(site, Arc::new(HttpsWires)).await?;
        let settings = [
            ("sanbridge-address", server.address().to_string()),
            ("sanbridge-fingerprint", server.fingerprint().to_string()),
        ];
        daemons.options.extend(settings.map(|(key, value)| (key.to_owned(), Value::from(value))));
        let begun = daemons.audit();
        Ok(Self { daemons, path: PathBuf::new(), guest: None, server, begun })
    }

    pub(super) fn node(&self, index: usize) -> &SimNode {
        &self.daemons.site.node(index).host
    }

    pub(super) fn client(&self, index: usize) -> Client {
        self.daemons.client(index)
    }

    /// Calls a method of a node's daemon. Warnings are failures here: nothing is broken on this stage.
    pub(super) async fn call(&self, index: usize, method: &str, params: Value) -> Result<Value> {
        let Reply { ok, warnings } = self.client(index).call(method, params).await?;
        ensure(warnings.is_empty(), || format!("{method} warned: {}", warnings.join("; ")))?;
        Ok(ok)
    }

    /// Waits until a node's daemon knows the array's room.
    pub(super) async fn ready(&self, index: usize) -> Result<()> {
        let mut ticks = tokio::time::interval(ASK);
        let end = Instant::now() + READY;
        loop {
            ticks.tick().await;
            let status = self.call(index, "storage.status", json!({})).await?;
            if status["active"] == true {
                return Ok(());
            }
            ensure(Instant::now() < end, || format!("the daemon does not become ready: {status}"))?;
        }
    }

    /// Waits until everything is as it was `before`.
    pub(super) async fn recovered(&self, before: &Audit) -> Result<()> {
        let mut ticks = tokio::time::interval(ASK);
        let end = Instant::now() + READY;
        loop {
            ticks.tick().await;
            let left = self.daemons.audit().against(before);
            if left.is_empty() {
                return Ok(());
            }
            ensure(Instant::now() < end, || format!("the recovery left something:\n{left}"))?;
        }
    }

    pub(super) fn counts(&self) -> Counts {
        let nodes = 0..self.daemons.site.nodes();
        Counts {
            requests: self.daemons.site.array.counts(Mark::START).values().sum(),
            processes: nodes.map(|it| self.node(it).counters().processes).sum(),
        }
    }

    pub(super) fn handshakes(&self) -> u64 {
        self.server.handshakes()
    }

    /// What is left over since the beginning.
    pub(super) fn audit(&self) -> Vec<String> {
        self.daemons.audit().against(&self.begun).0
    }

    /// Writes as a guest on a node would, and reads it back past every cache.
    pub(super) async fn write(&self, index: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        self.node(index).write_at(&self.path, offset, bytes).await?;
        self.compare(index, offset, bytes).await
    }

    /// Proves that a node reads these bytes.
    pub(super) async fn compare(&self, index: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let read = self.node(index).read_at(&self.path, offset, bytes.len()).await?;
        let differing = read.iter().zip(bytes).position(|(got, wanted)| got != wanted);
        ensure(read.len() == bytes.len() && differing.is_none(), || {
            let at = differing.unwrap_or(read.len());
            format!(
                "{} reads other bytes from {} on than were written",
                self.node(index).name(),
                offset + at as u64
            )
        })
    }
}

/// A check of the demo.
pub(super) fn ensure(holds: bool, otherwise: impl FnOnce() -> String) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::new(ErrorKind::Internal, otherwise())) }
}
