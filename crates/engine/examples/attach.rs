//! An embedder makes a disk and attaches it. Array and node are simulated here; with `san_rest::HttpsWire` and
//! `san_host::System` in their places the same lines drive real ones.

#![expect(clippy::print_stdout, reason = "an example shows what it did")]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use san_core::{ByteSize, Cx, Deadline, Effects, NodeName, OperationId, Owner, Result, TransportKind};
use san_engine::{
    Folder, FolderCluster, Guest, Guests, Naming, Node, NodeConfig, OUTAGE, Outcome, Request, San, SanConfig,
};
use san_host::Guard;
use san_multipath::{Multipath, MultipathConfig};
use san_ontap::{Ontap, OntapConfig};
use san_rest::Credentials;
use san_sim::{host, ontap};
use san_transport_iscsi::{Iscsi, IscsiConfig};

/// This embedder has no guests that move.
#[derive(Debug)]
struct NoGuests;

#[async_trait]
impl Guests for NoGuests {
    async fn using(&self, _cx: &Cx, _owner: &Owner) -> Result<Vec<Guest>> {
        Ok(Vec::new())
    }

    async fn activity(&self, _cx: &Cx, _owner: &Owner, _node: &NodeName) -> Result<Option<String>> {
        Ok(None)
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let folder = tempfile::tempdir()?;
    let array = ontap::OntapSim::new(ontap::OntapConfig::new(
        ontap::Version::new(9, 16, 1),
        folder.path().join("array"),
    ))?;
    let world = host::World::new();
    world.add_array(Arc::new(array.clone()));
    let machine = world.add_node(host::NodeSpec::new("node1", "iqn.1993-08.org.debian:01:node1"));

    let deadline = Deadline::after(Duration::from_secs(60));
    let credentials = Credentials { username: "admin".into(), password: "netapp1!".into() };
    let client = san_ontap::client(Arc::new(array), Arc::new(credentials));
    let config = OntapConfig::new("svm1", "aggr1", TransportKind::Iscsi);
    let cx = Cx::new(deadline, OperationId::random(), Effects::unobserved());
    let array = Ontap::connect(&cx, client, config).await?;

    let guard = Guard::new(Arc::new(machine.clone()));
    let node = Node::new(NodeConfig {
        realm: "example".into(),
        name: "node1".parse()?,
        state: folder.path().join("state"),
        devices_folder: "/dev/sanbridge".into(),
        masks_folder: "/etc/sanbridge/masked".into(),
        host: guard.clone(),
        devices: Arc::new(Multipath::new(guard.clone(), MultipathConfig::default())),
        effects: Effects::unobserved(),
    });
    let cluster =
        FolderCluster::new(Folder::at(folder.path().join("shared")), "node1".parse()?, Arc::new(NoGuests));
    let san = San::new(
        &node,
        SanConfig {
            space: "san1".into(),
            array: Arc::new(array),
            transport: Arc::new(Iscsi::new(guard, IscsiConfig::default())),
            max_paths: None,
            cluster: Arc::new(cluster),
            outage: OUTAGE,
            deletion: san_core::DeleteMode::Recoverable,
            visibility: san_core::Visibility::PerNode,
        },
    )?;
    san.start().await?;

    let naming = Naming::Numbered { stem: "disk-".into() };
    let ticket =
        san.submit(OperationId::random(), Request::Create { naming, size: ByteSize::from_gib(1) }, deadline);
    let Outcome::Created { object, .. } = ticket.wait(deadline).await? else { return Err("no disk".into()) };
    ticket.acknowledge(deadline).await?;
    let ticket = san.submit(OperationId::random(), Request::Attach { object }, deadline);
    let Outcome::Attached { path, .. } = ticket.wait(deadline).await? else { return Err("no device".into()) };
    ticket.acknowledge(deadline).await?;
    machine.write_at(&path, 0, b"hello").await?;
    assert_eq!(machine.read_at(&path, 0, 5).await?, b"hello");
    println!("{} carries what was written to it", path.display());
    Ok(())
}
