//! The node daemon: the one process of a node that changes anything. A library, so that several run in one process in tests.

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use san_core::{Cx, Deadline, Effects, Error, ErrorKind, NodeName, OperationId, Result};
use san_engine::{Cluster, Folder, FolderCluster, Node, NodeConfig};
use san_host::{Guard, Host};
use san_multipath::{Multipath, MultipathConfig};
use san_transport_iscsi::{Iscsi, IscsiConfig};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinSet;

use crate::guests::PveGuests;
use crate::members::Members;
use crate::peers::Peers;
use crate::prefetch::Prefetch;
use crate::realm::realm;
use crate::secrets::SecretFiles;
use crate::sections::Sections;
use crate::server::{Service, serve};
use crate::storage::Storages;
use crate::wires::Wires;

/// How often the daemon looks whether something has to be done by itself.
const TICK: Duration = Duration::from_secs(5);
/// The array is asked for its room at most so often.
const STATUS_AGE: Duration = Duration::from_secs(60);
/// What was left here, or elsewhere for this node, is looked for so often: with the time a look takes, less than a minute
/// passes.
const LOOK_AFTER: Duration = Duration::from_secs(30);
/// Connections served at once; PVE has a few dozen workers.
const CONNECTIONS: usize = 512;

/// Where the daemon finds and keeps its things.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node's name in the cluster.
    pub node: NodeName,
    /// Where it listens.
    pub socket: PathBuf,
    /// Intents, attachment records, profiles: on a disk of this node that survives a reboot.
    pub state: PathBuf,
    /// The cluster file system, `/etc/pve`.
    pub pve: PathBuf,
    /// Where attached volumes appear: `/dev/sanbridge`. The plugin's paths begin with it.
    pub devices: PathBuf,
    /// Where udev is told which disks are guests': `/etc/sanbridge/masked`. The rules of udev name it.
    pub masks: PathBuf,
    /// How devices are built and taken down.
    pub multipath: MultipathConfig,
    /// How iSCSI sessions are made.
    pub iscsi: IscsiConfig,
    /// The effect seam.
    pub effects: Effects,
}

impl Config {
    /// The production settings for a node.
    pub fn new(node: NodeName) -> Self {
        Self {
            node,
            socket: "/run/sanbridge/sanbridge.sock".into(),
            state: "/var/lib/sanbridge".into(),
            pve: "/etc/pve".into(),
            devices: "/dev/sanbridge".into(),
            masks: "/etc/sanbridge/masked".into(),
            multipath: MultipathConfig::default(),
            iscsi: IscsiConfig::default(),
            effects: Effects::unobserved(),
        }
    }
}

/// A running daemon. Dropping it ends everything at once, as a kill would: what was interrupted is ended by the next start.
#[derive(Debug)]
pub struct Daemon {
    service: Arc<Service>,
    // Aborts its tasks when dropped.
    tasks: JoinSet<()>,
    // Held as long as this daemon runs: one daemon per state folder.
    _lock: File,
}

impl Daemon {
    /// Starts serving. Returns when the socket listens.
    ///
    /// # Errors
    /// `Conflict` where another daemon holds the state folder, `Unavailable` where the cluster file system is missing.
    pub async fn start(config: Config, host: Arc<dyn Host>, wires: Arc<dyn Wires>) -> Result<Self> {
        let lock = lock_state(&config.state)?;
        let guard = Guard::new(host);
        let cx =
            Cx::new(Deadline::after(Duration::from_secs(30)), OperationId::random(), config.effects.clone());
        require_cluster_file_system(&config.pve)?;
        // pmxcfs shows this folder exactly while it is mounted.
        let witness = config.pve.join("nodes");
        let shared = Folder::shared(config.pve.join("priv").join("sanbridge"), &witness);
        let realm = realm(&cx, &config.pve, &shared, config.node.as_str()).await?;
        let sections = Sections::new(&shared, &config.pve);
        let peers = Peers::below(&shared);
        let guests = Arc::new(PveGuests::new(&config.pve, guard.clone()));
        let cluster: Arc<dyn Cluster> =
            Arc::new(FolderCluster::new(shared, config.node.clone(), Arc::clone(&guests) as _));
        let sessions = Iscsi::new(guard.clone(), config.iscsi);
        let state = Folder::at(config.state.join("storages"));
        let node = Arc::new(Node::new(NodeConfig {
            realm,
            name: config.node.clone(),
            state: state.path().to_owned(),
            devices_folder: config.devices.clone(),
            masks_folder: config.masks.clone(),
            host: guard.clone(),
            devices: Arc::new(Multipath::new(guard, config.multipath)),
            effects: config.effects.clone(),
        }));
        let secrets = SecretFiles::at(Folder::shared(config.pve.join("priv").join("storage"), &witness));
        let storages =
            Storages::new(Arc::clone(&node), Arc::clone(&cluster), wires, secrets, sections, state, sessions);
        let introduced = peers.note(&cx, &config.node).await;
        let members = Members::below(&config.pve);
        let prefetch = Prefetch::new(guests);
        let service =
            Arc::new(Service { node, storages, prefetch, members, peers, state: config.state.clone() });
        // Callers of an earlier process may come back at once: what they wait for is known before anybody is heard.
        // By itself on the heap: every state a storage can be in while it is made ready would be part of this one.
        Box::pin(service.storages.restore(&cx)).await?;
        let listener = listen(&config.socket)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, Arc::clone(&service)));
        tasks.spawn(tend(Arc::clone(&service)));
        if let Err(error) = introduced {
            tracing::warn!(error = %error.chain(), "the other nodes do not know yet which version runs here");
            tasks.spawn(introduce(Arc::clone(&service)));
        }
        let serving = Arc::downgrade(&service);
        service.node.serve_releases(cluster, move |space| {
            let storages = serving.upgrade()?.storages.ready();
            storages.iter().find(|it| it.san.space() == space).map(|it| it.san.clone())
        });
        tracing::info!(node = %config.node, socket = %config.socket.display(), "serving");
        Ok(Self { service, tasks, _lock: lock })
    }

    /// Takes no further requests, waits for running operations until `deadline`, and ends.
    pub async fn stop(mut self, deadline: Deadline) -> Result<()> {
        self.tasks.abort_all();
        while self.tasks.join_next().await.is_some() {}
        self.service.node.idle(deadline).await
    }

    /// The node, for programs that embed the daemon.
    pub fn node(&self) -> &Arc<Node> {
        &self.service.node
    }
}

fn lock_state(state: &Path) -> Result<File> {
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::Internal, "cannot use the state folder").on(state.display()).caused_by(error)
    };
    std::fs::create_dir_all(state).map_err(failed)?;
    std::fs::set_permissions(state, std::fs::Permissions::from_mode(0o700)).map_err(failed)?;
    let lock = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(state.join("lock"))
        .map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(std::fs::TryLockError::WouldBlock) => {
            Err(Error::new(ErrorKind::Conflict, "another sanbridge daemon of this node is running")
                .on(state.display())
                .with_remedy("systemctl status sanbridge"))
        }
        Err(std::fs::TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Writing below an unmounted `/etc/pve` would hide everything from the cluster.
fn require_cluster_file_system(pve: &Path) -> Result<()> {
    match std::fs::metadata(pve.join("nodes")) {
        Ok(it) if it.is_dir() => Ok(()),
        _ => Err(Error::new(ErrorKind::Unavailable, "the cluster file system is not there")
            .on(pve.display())
            .with_remedy("systemctl status pve-cluster")),
    }
}

/// Listens on a socket that only root (or the user the daemon runs as) can open.
fn listen(socket: &Path) -> Result<UnixListener> {
    let failed = |error: std::io::Error| {
        Error::new(ErrorKind::Internal, "cannot listen").on(socket.display()).caused_by(error)
    };
    let folder = socket.parent().unwrap_or(Path::new("/"));
    // An existing folder keeps its mode: it may be somebody else's.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(failed)?;
    // The state folder's lock proves that nobody listens on an old one.
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(socket).map_err(failed)?;
    std::fs::set_permissions(socket, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

async fn accept(listener: UnixListener, service: Arc<Service>) {
    // Connections end with this task, and so with the daemon.
    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, _)) if is_allowed(&stream) => {
                while connections.try_join_next().is_some() {}
                if connections.len() >= CONNECTIONS {
                    tracing::warn!("too many connections; one is turned away");
                    continue;
                }
                let service = Arc::clone(&service);
                connections.spawn(async move { serve(&service, stream).await });
            }
            Ok(_) => tracing::warn!("a connection of another user was refused"),
            Err(error) => {
                // Out of file descriptors, most likely: some are freed when connections end.
                tracing::error!(%error, "cannot take a connection");
                if connections.join_next().await.is_none() {
                    tokio::time::sleep(TICK).await;
                }
            }
        }
    }
}

/// Root, or the user the daemon runs as.
fn is_allowed(stream: &UnixStream) -> bool {
    let us = rustix::process::geteuid().as_raw();
    stream.peer_cred().is_ok_and(|it| it.uid() == 0 || it.uid() == us)
}

/// Tells the other nodes which version runs here as soon as the cluster file system takes it: without a quorum it does not.
async fn introduce(service: Arc<Service>) {
    loop {
        tokio::time::sleep(LOOK_AFTER).await;
        let cx = service.node.cx(Deadline::after(LOOK_AFTER), OperationId::random());
        if service.peers.note(&cx, service.node.name()).await.is_ok() {
            return;
        }
    }
}

/// What is done without being asked: open operations ended, room asked for, what is left of volumes and storages that are gone
/// dropped, what nobody uses taken down, missing paths made.
async fn tend(service: Arc<Service>) {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut rounds = JoinSet::new();
    loop {
        ticks.tick().await;
        while rounds.try_join_next().is_some() {}
        for storage in service.storages.ready() {
            // One sick array must not slow another: each storage has its own rounds, one at a time.
            let Some(turn) = storage.turn() else { continue };
            let service = Arc::clone(&service);
            rounds.spawn(async move {
                // Not only what an earlier run left: what this one could not end has no caller any more either.
                let open_before = storage.open.load(Ordering::Relaxed) > 0;
                storage.take_up().await;
                let still_open = storage.open.load(Ordering::Relaxed) > 0;
                // An array that let the last one end answers again; otherwise it is asked once a minute.
                let is_asked = (open_before && !still_open) || storage.san.status_is_older_than(STATUS_AGE);
                if is_asked {
                    storage.refresh().await;
                }
                if storage.is_due(LOOK_AFTER) {
                    storage.look_after().await;
                }
                if is_asked {
                    service.storages.drop_if_removed(&storage).await;
                }
                drop(turn);
            });
        }
    }
}
