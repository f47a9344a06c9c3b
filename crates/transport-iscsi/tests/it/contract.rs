//! The transport contract over a simulated node.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use san_contract::transport::TransportFixture;
use san_core::{Deadline, TargetPort, Transport};
use san_host::{Guard, Host};
use san_sim::host::{LogKind, NodeSpec, Release, SimNode, World};
use san_transport_iscsi::{Iscsi, IscsiConfig};

use crate::array::{TARGET, TestArray, portals};

/// A node, the array and the transport between them.
pub(crate) struct Fixture {
    pub(crate) node: SimNode,
    pub(crate) iscsi: Iscsi,
    array: Arc<TestArray>,
    _world: World,
}

impl Fixture {
    pub(crate) fn on(release: Release) -> Self {
        let world = World::new();
        let array = Arc::new(TestArray::default());
        world.add_array(array.clone());
        let mut spec = NodeSpec::new("pve1", "iqn.1993-08.org.debian:01:pve1");
        spec.release = release;
        let node = world.add_node(spec);
        let guard = Guard::new(Arc::new(node.clone()));
        Self { iscsi: Iscsi::new(guard, IscsiConfig::default()), node, array, _world: world }
    }

    async fn write_to_devices(&self, attribute: &str, value: &str) {
        for session in self.node.inventory().sessions {
            let path = match attribute {
                "scan" => format!("/sys/class/scsi_host/host{}/scan", session.host),
                it => format!("/sys/class/scsi_device/{}:0:0:7/device/{it}", session.host),
            };
            let deadline = Deadline::after(Duration::from_secs(5));
            // Not there where a session has ended.
            let _ = self.node.write_attr(Path::new(&path), value, deadline).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

pub(crate) fn port(portal: SocketAddr) -> TargetPort {
    TargetPort::Iscsi { portal, target: TARGET.parse().unwrap(), node: None }
}

fn portal(port: &TargetPort) -> SocketAddr {
    match port {
        TargetPort::Iscsi { portal, .. } => *portal,
        _ => panic!("another protocol"),
    }
}

impl TransportFixture for Fixture {
    fn transport(&self) -> &dyn Transport {
        &self.iscsi
    }

    fn ports(&self) -> Vec<TargetPort> {
        portals().into_iter().map(port).collect()
    }

    fn kill(&self, port: &TargetPort) {
        self.node.partition(portal(port));
    }

    fn mend(&self, port: &TargetPort) {
        self.node.heal(portal(port));
    }

    fn refuse_logins(&self, port: &TargetPort) {
        self.node.refuse_logins(portal(port), Some(24));
    }

    fn accept_logins(&self, port: &TargetPort) {
        self.node.refuse_logins(portal(port), None);
    }

    fn stop_daemon(&self) {
        self.node.stop_iscsid();
    }

    fn start_daemon(&self) {
        self.node.start_iscsid();
    }

    fn join_by_other_means(&self, port: &TargetPort) {
        assert!(self.node.foreign_session(TARGET, portal(port)));
    }

    async fn add_device(&self) {
        self.array.shows_unit.store(true, Ordering::Relaxed);
        self.write_to_devices("scan", "0 0 7\n").await;
        assert_eq!(self.node.inventory().legs.len(), portals().len());
    }

    async fn remove_device(&self) {
        self.write_to_devices("delete", "1\n").await;
        assert_eq!(self.node.inventory().legs, []);
    }

    fn sessions(&self) -> usize {
        self.node.inventory().sessions.len()
    }

    fn programs(&self) -> Vec<String> {
        self.node.logged(LogKind::Program)
    }

    fn writes(&self) -> Vec<String> {
        // Without those of `write_to_devices`.
        let is_own = |it: &String| it.contains("0 0 7") || it.contains(":0:0:7");
        self.node.logged(LogKind::Write).into_iter().filter(|it| !is_own(it)).collect()
    }

    fn probe_bound(&self) -> Duration {
        IscsiConfig::default().probe_timeout + Duration::from_millis(100)
    }

    fn login_hold(&self) -> Duration {
        IscsiConfig::default().login_hold
    }
}

mod debian_13 {
    san_contract::transport_contract!(async { super::Fixture::on(super::Release::Debian13) });
}

mod debian_12 {
    san_contract::transport_contract!(async { super::Fixture::on(super::Release::Debian12) });
}
