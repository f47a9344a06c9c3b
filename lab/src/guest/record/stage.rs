//! This machine as the stage of the scenes: its real tools, and the kernel's own target as the array.

use std::any::Any;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use san_host::{Host, System, SystemConfig};
use san_sim::kernel::{KernelPlane, LivePlane};
use san_sim::recording::{Act, Admission, INITIATOR, Shelf, Stage, Trouble};
use san_sim::target::Reachability;

use crate::guest::daemons::Daemon;
use crate::guest::network::{NAMESPACE_PATH, Network};
use crate::guest::{Failure, machine, scratch, tools};

const PATIENCE: Duration = Duration::from_secs(60);
const INITIATOR_FILE: &str = "/etc/iscsi/initiatorname.iscsi";
const MULTIPATH_FILE: &str = "/etc/multipath.conf";
const WWIDS: &str = "/etc/multipath/wwids";
/// A bare multipathd that makes no map by itself and looks every second, so that scenes are short.
const MULTIPATH: &str = "defaults {\n\tuser_friendly_names no\n\tfind_multipaths strict\n\tpolling_interval 1\n\
                         \tmax_polling_interval 1\n}\nblacklist {\n\tdevnode \"^(ram|loop|dm-|vd)[0-9a-z]*\"\n}\n";

/// The stage.
#[derive(Debug)]
pub(super) struct Kernel {
    host: Arc<System>,
    shelf: Arc<Shelf>,
    plane: Arc<LivePlane>,
    network: Network,
}

impl Kernel {
    /// Prepares the machine.
    pub(super) async fn start() -> Result<Self, Failure> {
        let folder = scratch::mount().await?;
        let network = Network::start(2).await?;
        fs::write(INITIATOR_FILE, format!("InitiatorName={INITIATOR}\n"))?;
        // It reads its name when it starts.
        Daemon::Iscsid.stop().await?;
        Daemon::Iscsid.start().await?;
        fs::write(MULTIPATH_FILE, MULTIPATH)?;
        Daemon::Multipathd.start().await?;
        tools::run("multipathd", &["reconfigure"], PATIENCE).await?;
        // Devices of SCSI generic and ALUA states appear with the legs only where their modules are there already.
        tools::run("modprobe", &["-a", "sg", "scsi_dh_alua"], PATIENCE).await?;
        let shelf = Arc::new(Shelf::new(folder));
        let plane = tokio::task::spawn_blocking(|| KernelPlane::new(Path::new(NAMESPACE_PATH))).await??;
        let plane = LivePlane::new(plane, vec![INITIATOR.to_owned()]);
        plane.add(Arc::clone(&shelf) as Arc<dyn san_sim::target::Target>);
        plane.sync().await?;
        let host = System::start(SystemConfig::new("/proc/self/exe", ["helper"]))?;
        Ok(Self { host, shelf, plane, network })
    }

    /// The versions of what is recorded.
    pub(super) async fn versions(&self) -> Result<String, Failure> {
        let release = fs::read_to_string("/etc/os-release")?;
        let debian = release.lines().find_map(|it| it.strip_prefix("VERSION_ID=")).unwrap_or_default();
        let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
        // What is behind the second number are repairs.
        let kernel = kernel.split('.').take(2).collect::<Vec<_>>().join(".");
        let iscsi = tools::run("iscsiadm", &["--version"], PATIENCE).await?;
        let multipath = tools::output("multipath", &["-h"], PATIENCE).await?;
        let said = format!("{}{}", multipath.stdout, multipath.stderr);
        let multipath = said.lines().find(|it| it.starts_with("multipath-tools")).unwrap_or_default();
        let udev = tools::run("udevadm", &["--version"], PATIENCE).await?;
        Ok(format!(
            "Debian {}\nLinux {kernel}\n{}\n{multipath}\nudev {}\n",
            debian.trim_matches('"'),
            iscsi.trim(),
            udev.trim()
        ))
    }

    /// Takes down what a scene that failed has left.
    pub(super) async fn clean(&self) -> Result<(), Failure> {
        for portal in 0..2 {
            self.act(Act::Road(portal, Reachability::Up)).await?;
        }
        self.act(Act::Admit(Admission::Open)).await?;
        machine::sweep().await?;
        // There may be no session and no record.
        tools::output("iscsiadm", &["-m", "node", "-U", "all"], PATIENCE).await?;
        tools::output("iscsiadm", &["-m", "node", "-o", "delete"], PATIENCE).await?;
        self.act(Act::Unmap(300)).await?;
        Ok(self.act(Act::Unmap(1)).await?)
    }

    /// Ends the array.
    pub(super) async fn stop(&self) -> Result<(), Failure> {
        let plane = Arc::clone(&self.plane);
        Ok(tokio::task::spawn_blocking(move || plane.plane().clear()).await??)
    }

    async fn road(&self, portal: usize, reachability: Reachability) -> Result<(), Failure> {
        let network = u8::try_from(portal + 1).unwrap_or(u8::MAX);
        match reachability {
            // The array itself notices nothing.
            Reachability::BlackHole => {
                self.shelf.set_portal(portal, Reachability::Up);
                self.plane.sync().await?;
                self.network.cut(network).await
            }
            other => {
                self.network.mend(network).await?;
                self.shelf.set_portal(portal, other);
                Ok(self.plane.sync().await?)
            }
        }
    }
}

#[async_trait]
impl Stage for Kernel {
    fn host(&self) -> &dyn Host {
        &*self.host
    }

    async fn act(&self, act: Act) -> Result<(), Trouble> {
        let trouble = |it: std::io::Error| Trouble(it.to_string());
        match act {
            Act::Map { lun, volume, mebibytes } => {
                self.shelf.map(lun, volume, mebibytes << 20).map_err(trouble)?;
            }
            Act::Unmap(lun) => self.shelf.unmap(lun),
            Act::Road(portal, reachability) => {
                return self.road(portal, reachability).await.map_err(|it| Trouble(it.0));
            }
            Act::Admit(admission) => self.shelf.admit(admission),
        }
        self.plane.sync().await.map_err(trouble)
    }

    async fn forget(&self) -> Result<(), Trouble> {
        match fs::remove_file(WWIDS) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Trouble(error.to_string())),
            _ => Ok(()),
        }
    }

    async fn open(&self, device: &str) -> Result<Box<dyn Any + Send + Sync>, Trouble> {
        let path = device.to_owned();
        let opened = tokio::task::spawn_blocking(move || fs::File::open(path)).await;
        match opened {
            Ok(Ok(file)) => Ok(Box::new(file)),
            Ok(Err(error)) => Err(Trouble(format!("cannot open {device}: {error}"))),
            Err(error) => Err(Trouble(error.to_string())),
        }
    }
}
