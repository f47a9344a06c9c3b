//! Sanbridge under a real Proxmox VE without a SAN: a simulated array behind real HTTPS, simulated nodes whose maps are loop
//! devices, and for each node the real daemon on a socket of its own.
//!
//! A node of Proxmox VE (a container, a chroot, a namespace) takes part by two bind mounts, its socket folder at
//! `/run/sanbridge` and its device folder at `/dev/sanbridge`, and by sharing the folder that stands for `/etc/pve`. It
//! must also see the machine's `/dev/loop*`.

mod control;
mod folders;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use san_core::{Deadline, Error, ErrorKind, NodeName, Result};
use san_sim::host::{LoopPlane, NodeSpec, SimNode, World};
use san_sim::ontap::{OntapConfig, OntapSim, Version};
use san_sim::server::{ControlServer, HttpsServer};
use sanbridge::{Config, Daemon, HttpsWires};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use control::{Order, Wish};
use folders::Folders;

/// What a running daemon gets to end its operations.
const LAST_WORDS: Duration = Duration::from_secs(30);

/// What is to be simulated, and where.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The nodes, by their names in the cluster.
    pub nodes: Vec<NodeName>,
    /// What the nodes have at `/etc/pve`; new to Sanbridge.
    pub pve: PathBuf,
    /// Gets a socket folder and a device folder for each node.
    pub run: PathBuf,
    /// Gets the volumes' bytes, the daemons' records and the password. New, empty, or of an earlier run.
    pub data: PathBuf,
    /// The array's release.
    pub version: Version,
    /// Where the array's management API listens; port 0 takes a free one.
    pub listen: SocketAddr,
}

/// One node: its simulated operating system and its daemon.
#[derive(Debug)]
pub(crate) struct Member {
    name: NodeName,
    host: SimNode,
    config: Config,
    daemon: Mutex<Option<Daemon>>,
}

/// Everything that runs.
#[derive(Debug)]
pub struct SimNodes {
    folders: Folders,
    array: OntapSim,
    members: Arc<Vec<Member>>,
    orders: mpsc::Receiver<Order>,
    api: HttpsServer,
    control: ControlServer,
}

pub(crate) fn failed(doing: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::new(ErrorKind::Internal, doing).caused_by(error)
}

impl SimNodes {
    /// Starts the array and the daemons. The array is new and empty; loop devices an earlier run left are detached.
    ///
    /// # Errors
    /// `PermissionDenied` for others than root, `InvalidInput` for a data folder with other things in it, `Conflict` where
    /// the cluster has records of another array's volumes, and what [`Daemon::start`] says.
    pub async fn start(settings: Settings) -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Err(Error::new(ErrorKind::PermissionDenied, "loop devices need root"));
        }
        let folders = Folders::prepare(&settings).await?;
        let mut config = OntapConfig::new(settings.version, folders.units());
        config.password = folders.new_password()?;
        // Not the array of an earlier run: its serial number and those of its volumes are others.
        config.seed = uuid::Uuid::new_v4().as_u64_pair().0;
        let array = OntapSim::new(config).map_err(failed("cannot make the array"))?;
        let plane = LoopPlane::new(folders.devices()).map_err(failed("cannot make loop devices"))?;
        let world = World::with_plane(Arc::new(plane));
        world.add_array(Arc::new(array.clone()));
        let members: Vec<Member> =
            settings.nodes.iter().map(|it| Member::new(&world, &folders, it, &settings.pve)).collect();
        let api = HttpsServer::start(Arc::new(array.clone()), settings.listen, &[])
            .await
            .map_err(failed("the array's management API cannot listen"))?;
        for member in &members {
            member.start().await?;
        }
        let members = Arc::new(members);
        let (sender, orders) = mpsc::channel(16);
        let desk = control::Desk::new(array.clone(), Arc::clone(&members), &settings.pve, sender);
        let control = ControlServer::start(move |request| desk.answer(request))
            .await
            .map_err(failed("the control port cannot listen"))?;
        Ok(Self { folders, array, members, orders, api, control })
    }

    /// How to reach everything, for people and programs.
    pub fn announcement(&self) -> Value {
        let config = self.array.config();
        let nodes: Vec<Value> = self.members.iter().map(|it| it.announcement(&self.folders)).collect();
        json!({
            "nodes": nodes,
            "array": {
                "address": self.api.address(),
                "fingerprint": self.api.fingerprint().to_string(),
                "username": config.user,
                "password_file": self.folders.password(),
                "svm": config.svms.first().map(|it| &it.name),
                "aggregates": config.aggregates.iter().map(|it| &it.name).collect::<Vec<_>>(),
                "version": config.version.to_string(),
            },
            "control": self.control.address(),
        })
    }

    /// Carries out what the control port is told; returns only when that port is gone.
    pub async fn serve(&mut self) {
        while let Some(Order { node, wish, done }) = self.orders.recv().await {
            let member = &self.members[node];
            let result = match wish {
                Wish::Killed => {
                    member.kill();
                    Ok(())
                }
                Wish::Running => member.start().await,
            };
            // Whoever asked may have gone.
            drop(done.send(result));
        }
    }

    /// Ends the daemons as systemd would, takes every node off the array, and detaches every loop device.
    ///
    /// # Errors
    /// `InUse` where a program still uses a loop device; it goes when that program ends.
    pub async fn end(self) -> Result<()> {
        for member in self.members.iter() {
            let daemon = member.daemon.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(daemon) = daemon
                && let Err(error) = daemon.stop(Deadline::after(LAST_WORDS)).await
            {
                tracing::warn!(node = %member.name, error = %error.chain(), "the daemon did not end its work");
            }
            member.host.crash();
        }
        self.folders.release().await
    }
}

impl Member {
    fn new(world: &World, folders: &Folders, name: &NodeName, pve: &std::path::Path) -> Self {
        let initiator = format!("iqn.1993-08.org.debian:01:{name}");
        let config = Config {
            socket: folders.socket(name),
            state: folders.state(name),
            pve: pve.to_owned(),
            ..Config::new(name.clone())
        };
        let host = world.add_node(NodeSpec::new(name.as_str(), initiator));
        Self { name: name.clone(), host, config, daemon: Mutex::new(None) }
    }

    /// Starts the daemon, if it does not run.
    async fn start(&self) -> Result<()> {
        if self.is_running() {
            return Ok(());
        }
        let host = Arc::new(self.host.clone());
        let daemon = Daemon::start(self.config.clone(), host, Arc::new(HttpsWires)).await?;
        *self.daemon.lock().unwrap_or_else(PoisonError::into_inner) = Some(daemon);
        Ok(())
    }

    /// Ends the daemon as SIGKILL would: its work stops where it stands. The node's kernel and the array go on.
    fn kill(&self) {
        *self.daemon.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn is_running(&self) -> bool {
        self.daemon.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn announcement(&self, folders: &Folders) -> Value {
        json!({
            "name": self.name,
            "socket": self.config.socket,
            "socket_folder": self.config.socket.parent(),
            "device_folder": folders.devices().join(self.name.as_str()),
        })
    }
}

/// The default of [`Settings::listen`].
pub const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
