//! This machine as a node of a cluster: its name, and its daemon, in this process or as the real program.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use san_core::{Deadline, NodeName};
use san_host::{Counters, Host, System, SystemConfig};
use san_multipath::{MultipathConfig, UnitSerial};
use sanbridge::{Config, Daemon, HttpsWires};
use sanbridge_tests::program::program;
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::sync::Mutex;

use super::check::Failure;
use super::machine::{self, Machine};

/// What stands for the cluster file system. The program takes it from nowhere else.
pub const PVE: &str = "/etc/pve";
/// Where attached volumes appear.
pub const DEVICES: &str = "/dev/sanbridge";
/// Until the daemon listens, and until it has ended its work.
const START: Duration = Duration::from_secs(60);

/// This node.
#[derive(Debug)]
pub struct Node {
    /// Its name in the cluster: the machine's.
    pub name: NodeName,
    /// Its initiator's name.
    pub initiator: String,
    config: Config,
    running: Mutex<Running>,
}

#[derive(Debug)]
enum Running {
    No,
    Inside { daemon: Daemon, host: Arc<System> },
    Program(Child),
}

/// How the daemon is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// In this process, over this process's helper processes.
    Inside,
    /// As the program `sanbridge`.
    Program,
}

impl Node {
    /// This machine's node; its daemon does not run. What it keeps lies below `folder`.
    ///
    /// # Errors
    /// Where the machine lacks something.
    pub async fn of_this_machine(folder: &Path) -> Result<Self, Failure> {
        let initiator = Machine::prepare().await?.initiator;
        let machine = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let name: NodeName = machine.split('.').next().unwrap_or_default().parse()?;
        std::fs::create_dir_all(Path::new(PVE).join("nodes").join(name.as_str()))?;
        std::fs::create_dir_all(folder)?;
        let config = Config {
            socket: folder.join("run/sanbridge.sock"),
            state: folder.join("state"),
            pve: PVE.into(),
            devices: DEVICES.into(),
            // The kernel's target makes VPD page 0x80 from the identifier; the array has another number there.
            multipath: MultipathConfig { unit_serial: UnitSerial::Ignored, ..machine::multipath() },
            iscsi: machine::iscsi(),
            ..Config::new(name.clone())
        };
        Ok(Self { name, initiator, config, running: Mutex::new(Running::No) })
    }

    /// Where the daemon listens.
    pub fn socket(&self) -> &Path {
        &self.config.socket
    }

    /// Where the daemon keeps its records.
    pub fn state(&self) -> &Path {
        &self.config.state
    }

    /// Starts the daemon.
    ///
    /// # Errors
    /// Where it runs already, or does not listen in time.
    pub async fn start(&self, form: Form) -> Result<(), Failure> {
        self.start_with(form, |_| {}).await
    }

    /// Starts the daemon, whose settings `change` may change where it runs inside.
    ///
    /// # Errors
    /// Where it runs already, or does not listen in time.
    pub async fn start_with(&self, form: Form, change: impl FnOnce(&mut Config)) -> Result<(), Failure> {
        let mut running = self.running.lock().await;
        if !matches!(*running, Running::No) {
            return Err(Failure("the daemon runs already".to_owned()));
        }
        *running = match form {
            Form::Inside => {
                let mut config = self.config.clone();
                change(&mut config);
                let host = System::start(SystemConfig::new("/proc/self/exe", ["helper"]))?;
                let wires = Arc::new(HttpsWires);
                let daemon = Daemon::start(config, Arc::clone(&host) as Arc<dyn Host>, wires).await?;
                Running::Inside { daemon, host }
            }
            Form::Program => Running::Program(self.start_program().await?),
        };
        Ok(())
    }

    async fn start_program(&self) -> Result<Child, Failure> {
        let beside = std::fs::read_link("/proc/self/exe")?;
        let path = beside.parent().unwrap_or(Path::new("/")).join("sanbridge");
        let log = std::fs::File::options().create(true).append(true).open(self.log())?;
        let child = program(&path)
            .arg("serve")
            .args(["--unit-serial", "ignored", "--node", self.name.as_str()])
            .args([Path::new("--socket"), &self.config.socket, Path::new("--state"), &self.config.state])
            .stdout(Stdio::from(log.try_clone()?))
            .stderr(Stdio::from(log))
            .spawn()
            .map_err(|it| Failure(format!("cannot start {}: {it}", path.display())))?;
        let listens = async {
            while UnixStream::connect(&self.config.socket).await.is_err() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        match tokio::time::timeout(START, listens).await {
            Ok(()) => Ok(child),
            Err(_) => Err(Failure(format!("the program does not listen: {}", self.said()))),
        }
    }

    fn log(&self) -> PathBuf {
        self.config.state.with_extension("log")
    }

    /// Everything the program has said so far.
    pub fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    /// Ends the daemon as SIGKILL does: its work stops where it stands.
    ///
    /// # Errors
    /// Where the program does not end.
    pub async fn kill(&self) -> Result<(), Failure> {
        let mut running = self.running.lock().await;
        if let Running::Program(child) = &mut *running {
            child.kill().await?;
        }
        *running = Running::No;
        Ok(())
    }

    /// Ends the daemon as systemd does: it may end its work first.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn stop(&self) -> Result<(), Failure> {
        let mut running = self.running.lock().await;
        match std::mem::replace(&mut *running, Running::No) {
            Running::No => Ok(()),
            Running::Inside { daemon, .. } => Ok(daemon.stop(Deadline::after(START)).await?),
            Running::Program(mut child) => {
                let pid = child.id().and_then(|it| rustix::process::Pid::from_raw(it.cast_signed()));
                if let Some(pid) = pid {
                    rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
                }
                let ended = tokio::time::timeout(START, child.wait()).await;
                let status = ended.map_err(|_| Failure("the program does not end".to_owned()))??;
                if status.success() {
                    Ok(())
                } else {
                    Err(Failure(format!("the program ended with {status}")))
                }
            }
        }
    }

    /// What the daemon in this process asked of the operating system so far.
    ///
    /// # Errors
    /// Where no daemon runs in this process.
    pub async fn counters(&self) -> Result<Counters, Failure> {
        match &*self.running.lock().await {
            Running::Inside { host, .. } => Ok(host.counters()),
            Running::No | Running::Program(_) => Err(Failure("no daemon runs in this process".to_owned())),
        }
    }
}
