//! A site on which the node daemons themselves run, spoken to over their sockets as the Perl plugin does.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use san_contract::audit::Audit;
use san_core::{Effects, Error, ErrorKind, OperationId, Result};
use san_rest::{Endpoint, Wire};
use san_sim::ontap::OntapSim;
use sanbridge::{Config, Daemon, Wires};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::ledger::FolderLedger;
use crate::site::{PASSWORD, SPACE, SVM, Site};

/// Every endpoint is the simulated array, in process.
#[derive(Debug, Clone)]
pub struct SimWires(pub OntapSim);

impl Wires for SimWires {
    fn wire(&self, _endpoint: &Endpoint) -> Result<Arc<dyn Wire>> {
        Ok(Arc::new(self.0.clone()))
    }
}

/// One daemon's place.
#[derive(Debug)]
struct Place {
    config: Config,
    daemon: Option<Daemon>,
}

/// A site with a daemon on each node.
#[derive(Debug)]
pub struct DaemonSite {
    /// The world, the array and the folders.
    pub site: Site,
    /// The storage's section as clients send it.
    pub options: BTreeMap<String, Value>,
    wires: Arc<dyn Wires>,
    places: Vec<Place>,
}

fn io(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, "the simulation could not be set up").caused_by(error)
}

impl DaemonSite {
    /// Daemons on `nodes` nodes, over the array in process.
    pub async fn started(nodes: usize) -> Result<Self> {
        let site = Site::new(nodes)?;
        let wires = Arc::new(SimWires(site.array.clone()));
        Self::on(site, wires).await
    }

    /// Daemons on the nodes of `site`, with other connections to the array.
    pub async fn on(site: Site, wires: Arc<dyn Wires>) -> Result<Self> {
        let mut this = Self { site, options: options(), wires, places: Vec::new() };
        for index in 0..this.site.nodes() {
            let node = this.site.node(index);
            let config = Config {
                socket: this.site.folder().join(format!("run-{}", node.name)).join("sanbridge.sock"),
                state: node.state.clone(),
                pve: this.pve(),
                ..Config::new(node.name.clone())
            };
            std::fs::create_dir_all(config.pve.join("nodes").join(node.name.as_str())).map_err(io)?;
            this.places.push(Place { config, daemon: None });
        }
        this.configure(&this.options)?;
        for index in 0..this.places.len() {
            this.start(index, Effects::unobserved()).await?;
        }
        Ok(this)
    }

    /// Writes storage.cfg as PVE does, with a section of these options; without any there is none.
    pub fn configure(&self, options: &BTreeMap<String, Value>) -> Result<()> {
        let mut lines = vec!["dir: local".to_owned(), "\tpath /var/lib/vz".into(), "\tcontent iso".into()];
        if !options.is_empty() {
            lines.extend([String::new(), format!("sanbridge: {SPACE}")]);
        }
        let line =
            |(name, value): (&String, &Value)| format!("\t{name} {}", value.as_str().unwrap_or_default());
        lines.extend(options.iter().map(line));
        std::fs::write(self.pve().join("storage.cfg"), lines.join("\n") + "\n").map_err(io)
    }

    /// What stands for `/etc/pve`.
    pub fn pve(&self) -> PathBuf {
        self.site.folder().join("pve")
    }

    /// Everything of ours, and everything beside it, at this moment; what the daemons keep in the cluster included.
    pub fn audit(&self) -> Audit {
        let shared = self.pve().join("priv");
        let records = FolderLedger::new("cluster file system", &shared.join("sanbridge"));
        let secrets = FolderLedger::new("secrets", &shared.join("storage"));
        self.site.audit_with(&[&records, &secrets])
    }

    /// Starts a node's daemon.
    pub async fn start(&mut self, index: usize, effects: Effects) -> Result<()> {
        let place = &mut self.places[index];
        let config = Config { effects, ..place.config.clone() };
        let host = Arc::new(self.site.node(index).host.clone());
        place.daemon = Some(Daemon::start(config, host, Arc::clone(&self.wires)).await?);
        Ok(())
    }

    /// Ends a node's daemon as a kill would.
    pub fn kill(&mut self, index: usize) {
        self.places[index].daemon = None;
    }

    /// Where a node's daemon listens.
    pub fn socket(&self, index: usize) -> &Path {
        &self.places[index].config.socket
    }

    /// A client of a node's daemon.
    pub fn client(&self, index: usize) -> Client {
        Client {
            socket: self.socket(index).to_owned(),
            storage: SPACE.to_owned(),
            options: self.options.clone(),
        }
    }

    /// Says where a guest lives and which of its volumes its configuration names.
    pub fn place_guest(&self, vmid: u32, index: usize, volumes: &[&str]) -> Result<()> {
        self.remove_guest(vmid)?;
        let folder = self.pve().join("nodes").join(self.site.node(index).name.as_str()).join("qemu-server");
        std::fs::create_dir_all(&folder).map_err(io)?;
        let lines: Vec<String> = volumes
            .iter()
            .enumerate()
            .map(|(bus, it)| format!("scsi{bus}: {SPACE}:{it},size=1G\n"))
            .collect();
        std::fs::write(folder.join(format!("{vmid}.conf")), lines.concat()).map_err(io)
    }

    /// The guest is gone.
    pub fn remove_guest(&self, vmid: u32) -> Result<()> {
        for index in 0..self.places.len() {
            let node = self.site.node(index).name.as_str();
            let file = self.pve().join("nodes").join(node).join("qemu-server").join(format!("{vmid}.conf"));
            match std::fs::remove_file(file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
                _ => {}
            }
        }
        Ok(())
    }
}

/// The options of the storage every site has.
pub fn options() -> BTreeMap<String, Value> {
    let pairs = [
        ("sanbridge-array", "ontap"),
        ("sanbridge-address", "array.example"),
        ("sanbridge-username", "admin"),
        ("sanbridge-svm", SVM),
        ("sanbridge-aggregate", "aggr1"),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), Value::from(value))).collect()
}

/// What an answer carried.
#[derive(Debug, Clone)]
pub struct Reply {
    /// Its `ok`.
    pub ok: Value,
    /// Its warnings.
    pub warnings: Vec<String>,
}

/// Speaks to a daemon as the plugin does.
#[derive(Debug, Clone)]
pub struct Client {
    /// Where the daemon listens.
    pub socket: PathBuf,
    /// The storage's id.
    pub storage: String,
    /// The storage's section.
    pub options: BTreeMap<String, Value>,
}

impl Client {
    /// Calls a method, confirms the answer where that is asked for, and returns it.
    pub async fn call(&self, method: &str, params: Value) -> Result<Reply> {
        let id = OperationId::random();
        let mut stream = self.send(id, method, params).await?;
        let answer = read(&mut stream).await?;
        if let Some(failure) = answer.get("error").filter(|it| !it.is_null()) {
            return Err(error_of(failure));
        }
        if answer.get("ack").and_then(Value::as_bool) == Some(true) {
            write(&mut stream, &json!({ "v": 1, "id": id, "ack": true })).await?;
            let confirmed = read(&mut stream).await?;
            if confirmed.get("acked").and_then(Value::as_bool) != Some(true) {
                return Err(Error::new(ErrorKind::Cancelled, format!("not confirmed: {confirmed}")));
            }
        }
        let warnings = answer.get("warnings").and_then(Value::as_array).cloned().unwrap_or_default();
        Ok(Reply {
            ok: answer.get("ok").cloned().unwrap_or_default(),
            warnings: warnings.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        })
    }

    /// Sends a request and leaves it to the caller what becomes of the connection.
    pub async fn send(&self, id: OperationId, method: &str, params: Value) -> Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.socket).await.map_err(gone)?;
        let request = json!({
            "v": 1, "id": id, "timeout_ms": 55_000, "method": method,
            "storage": { "id": self.storage, "options": self.options },
            "caller": { "pid": std::process::id(), "task": null },
            "params": params,
        });
        write(&mut stream, &request).await?;
        Ok(stream)
    }

    /// Adds the storage with the simulated array's password.
    pub async fn add(&self) -> Result<Reply> {
        self.call("storage.add", json!({ "secrets": { "sanbridge-password": PASSWORD } })).await
    }
}

fn gone(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the daemon is gone").caused_by(error)
}

/// Writes one frame.
pub async fn write(stream: &mut UnixStream, value: &Value) -> Result<()> {
    let bytes = value.to_string().into_bytes();
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    stream.write_all(&length.to_be_bytes()).await.map_err(gone)?;
    stream.write_all(&bytes).await.map_err(gone)
}

/// Reads one frame.
pub async fn read(stream: &mut UnixStream) -> Result<Value> {
    let mut length = [0; 4];
    let frame = async {
        stream.read_exact(&mut length).await?;
        let mut bytes = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut bytes).await?;
        Ok(bytes)
    };
    let bytes = tokio::time::timeout(Duration::from_secs(700), frame).await;
    let bytes =
        bytes.map_err(|_| Error::new(ErrorKind::Timeout, "the daemon says nothing"))?.map_err(gone)?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::new(ErrorKind::Protocol, "no JSON").caused_by(error))
}

fn error_of(failure: &Value) -> Error {
    let text = |key: &str| failure.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = serde_json::from_value(failure["kind"].clone()).unwrap_or(ErrorKind::Internal);
    let causes = failure["causes"].as_array().cloned().unwrap_or_default();
    let message = text("message");
    let chain: Vec<&str> =
        std::iter::once(message.as_str()).chain(causes.iter().filter_map(Value::as_str)).collect();
    let error = Error::new(kind, chain.join(": "));
    match text("remedy") {
        remedy if remedy.is_empty() => error,
        remedy => error.with_remedy(remedy),
    }
}
