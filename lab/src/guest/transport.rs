//! The transport contract on the kernel's own sessions: every clause as it stands, with open-iscsi's own tools.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use san_contract::transport::TransportFixture;
use san_core::{TargetPort, Transport};
use san_sim::kernel::{KernelPlane, LivePlane};
use san_transport_iscsi::{Iscsi, IscsiConfig};

use super::array::TestArray;
use super::daemons::{Daemon, until};
use super::hung::group_of;
use super::machine::{self, Machine, now};
use super::network::{NAMESPACE_PATH, Network};
use super::{Check, Failure, Group, Recorder, Shown, daemons, run, scratch, tools};

/// As many ports as the contract asks for.
const NETWORKS: u8 = 3;
const PATIENCE: Duration = Duration::from_secs(60);
/// The unit that a clause brings up.
const LUN: u16 = 7;

/// The machine, the networks and the array.
#[derive(Debug)]
struct Bench {
    network: Network,
    array: Arc<TestArray>,
    plane: Arc<LivePlane>,
    machine: Machine,
    config: IscsiConfig,
}

/// The bench with a transport that has no memory of what was before.
#[derive(Debug)]
struct Fixture {
    bench: Arc<Bench>,
    transport: Iscsi,
}

fn portal(port: &TargetPort) -> Result<SocketAddr, Failure> {
    match port {
        TargetPort::Iscsi { portal, .. } => Ok(*portal),
        other => Err(Failure(format!("{other} is not of this fixture"))),
    }
}

/// The number of the network a port is in.
fn network_of(port: &TargetPort) -> Result<u8, Failure> {
    match portal(port)?.ip() {
        std::net::IpAddr::V4(address) => Ok(address.octets()[2]),
        std::net::IpAddr::V6(address) => Err(Failure(format!("{address} is in none of the networks"))),
    }
}

impl Bench {
    async fn new() -> Result<Self, Failure> {
        let folder = scratch::mount().await?;
        let network = Network::start(NETWORKS).await?;
        let machine = Machine::prepare().await?;
        let array = Arc::new(TestArray::new("transport", network.portals(), folder));
        let plane =
            LivePlane::new(KernelPlane::new(Path::new(NAMESPACE_PATH))?, vec![machine.initiator.clone()]);
        plane.add(array.clone());
        plane.sync().await?;
        Ok(Self { network, array, plane, machine, config: machine::iscsi() })
    }

    /// The clause begins on a node without a session and without a record.
    fn fixture(bench: &Arc<Self>) -> Result<Fixture, Failure> {
        let sessions = machine::sessions();
        if sessions != 0 || !machine::legs().is_empty() {
            return Err(Failure(format!("{sessions} sessions are left over from before")));
        }
        bench.machine.host.forget();
        let transport = Iscsi::new(bench.machine.guard(), bench.config.clone());
        Ok(Fixture { bench: Arc::clone(bench), transport })
    }

    /// Whether this node's logins behind a port fail.
    fn refuse(&self, port: &TargetPort, word: &str) -> Result<(), Failure> {
        let acl = group_of(&self.array, portal(port)?)?.join("acls").join(&self.machine.initiator);
        // Authentication is asked for, and this node has no secret.
        Ok(fs::write(acl.join("attrib/authentication"), word)?)
    }

    async fn iscsiadm(&self, port: &TargetPort, tail: &[&str]) -> Result<(), Failure> {
        let (target, portal) = (self.array.target(), portal(port)?.to_string());
        let head = ["-m", "node", "-T", &target, "-p", &portal, "-I", "default"];
        tools::run("iscsiadm", &[&head[..], tail].concat(), PATIENCE).await.map(drop)
    }

    async fn add_device(&self) -> Result<(), Failure> {
        self.array.show(1, LUN, self.array.addresses())?;
        self.plane.sync().await?;
        for host in machine::hosts() {
            let scan = format!("/sys/class/scsi_host/host{host}/scan");
            fs::write(scan, format!("0 0 {LUN}\n"))?;
        }
        let sessions = machine::sessions();
        until("the unit does not appear", || Ok(machine::legs().len() == sessions)).await?;
        daemons::udev_rests().await
    }

    async fn remove_device(&self) -> Result<(), Failure> {
        machine::sweep().await?;
        self.array.hide_everything();
        Ok(self.plane.sync().await?)
    }

    /// Puts everything right, however the clause left it.
    async fn end(&self) -> Result<(), Failure> {
        Daemon::Iscsid.start().await?;
        for port in self.array.ports()? {
            self.network.mend(network_of(&port)?).await?;
            self.refuse(&port, "0")?;
        }
        let are_up = || machine::hosts().into_iter().all(machine::is_up);
        until("a session stays down", || Ok(are_up())).await?;
        self.remove_device().await?;
        for arguments in [&["--logout"][..], &["-o", "delete"]] {
            let target = self.array.target();
            let arguments = [&["-m", "node", "-T", &target], arguments].concat();
            let ran = tools::output("iscsiadm", &arguments, PATIENCE).await?;
            // 21: there is none.
            if !matches!(ran.code, Some(0 | 21)) {
                ran.success()?;
            }
        }
        until("a session stays", || Ok(machine::sessions() == 0)).await
    }
}

impl Fixture {
    /// What the clause has shown: nothing panicked, and every program was aimed at one port.
    fn seen(&self) -> Shown {
        san_contract::transport::assert_modest(self);
        let programs = self.programs().len();
        Shown::held(format!(
            "all of it; {programs} programs, each aimed at one port; nothing written to the kernel"
        ))
    }
}

impl TransportFixture for Fixture {
    fn slowness(&self) -> u32 {
        self.bench.machine.slowness()
    }

    fn transport(&self) -> &dyn Transport {
        &self.transport
    }

    fn ports(&self) -> Vec<TargetPort> {
        now(async { self.bench.array.ports() })
    }

    fn kill(&self, port: &TargetPort) {
        now(async { self.bench.network.cut(network_of(port)?).await });
    }

    fn mend(&self, port: &TargetPort) {
        now(async { self.bench.network.mend(network_of(port)?).await });
    }

    fn refuse_logins(&self, port: &TargetPort) {
        now(async { self.bench.refuse(port, "1") });
    }

    fn accept_logins(&self, port: &TargetPort) {
        now(async { self.bench.refuse(port, "0") });
    }

    fn stop_daemon(&self) {
        now(Daemon::Iscsid.stop());
    }

    fn start_daemon(&self) {
        now(Daemon::Iscsid.start());
    }

    fn join_by_other_means(&self, port: &TargetPort) {
        now(async {
            self.bench.iscsiadm(port, &["-o", "new"]).await?;
            self.bench.iscsiadm(port, &["--login"]).await
        });
    }

    async fn add_device(&self) {
        now(self.bench.add_device());
    }

    async fn remove_device(&self) {
        now(self.bench.remove_device());
    }

    fn sessions(&self) -> usize {
        machine::sessions()
    }

    fn programs(&self) -> Vec<String> {
        self.bench.machine.host.programs()
    }

    fn writes(&self) -> Vec<String> {
        self.bench.machine.host.writes()
    }

    fn probe_bound(&self) -> Duration {
        self.bench.config.probe_timeout + Duration::from_millis(100)
    }

    fn login_hold(&self) -> Duration {
        self.bench.config.login_hold
    }
}

macro_rules! checks {
    (() $($clause:ident [$($scenario:literal),*],)+) => {
        vec![$(Check {
            name: stringify!($clause),
            scenarios: &[$($scenario),*],
            done: "this clause of the transport contract, on sessions of the kernel and of open-iscsi",
            bound: Duration::from_secs(60),
            run: |bench| Box::pin(async move {
                let fixture = Bench::fixture(&bench)?;
                san_contract::transport::$clause(&fixture).await;
                Ok(fixture.seen())
            }),
        }),+]
    };
}

/// The group.
pub(super) fn group() -> Group {
    Group::new("transport", |recorder| Box::pin(play(recorder)))
}

async fn play(recorder: Recorder) -> Result<(), Failure> {
    let bench = Arc::new(Bench::new().await?);
    let checks: Vec<Check<Bench>> = san_contract::transport_clauses!([checks]());
    let mut messes = Vec::new();
    for check in checks.iter().filter(|it| recorder.wants(it.name)) {
        run(&recorder, &bench, check).await?;
        if let Err(mess) = bench.end().await {
            tracing::error!(check = check.name, %mess, "the node does not come to rest");
            messes.push(format!("after {}: {mess}", check.name));
        }
    }
    let plane = Arc::clone(&bench.plane);
    tokio::task::spawn_blocking(move || plane.plane().clear()).await??;
    if messes.is_empty() { Ok(()) } else { Err(Failure(messes.join("; "))) }
}
