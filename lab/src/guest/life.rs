//! Group `life`: the whole life of a storage and its disks through the real Perl plugin and the real program, on the
//! real kernel: the walk of the simulated sites, unchanged.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use san_contract::audit::Audit;
use san_sim::host::{NodeSpec, SimNode, World};
use san_sim::ontap::OntapSim;
use sanbridge::{Config, Daemon, HttpsWires};
use sanbridge_tests::walk::{DISK, PATH, Presence, WalkSite, Walking, walk};
use serde_json::Value;

use super::bystander::VerifiedIo;
use super::check::{Check, Failure, Group, Recorder, Running, Shown, run};
use super::direct::{self, Device};
use super::figures::count;
use super::ledger::{legs, links, maps};
use super::node::{DEVICES, Form, PVE};
use super::site::{Site, place_guest};

/// The walk, by its place in this repository.
const WALK: (&str, &str) = ("tests/perl/walk.pl", include_str!("../../../tests/perl/walk.pl"));
/// The plugin's files, by their places in this repository.
const PLUGIN: [(&str, &str); 3] = [
    (
        "crates/pve-bridge/perl/t/lib/PVE/Storage/Plugin.pm",
        include_str!("../../../crates/pve-bridge/perl/t/lib/PVE/Storage/Plugin.pm"),
    ),
    (
        "crates/pve-bridge/perl/PVE/Storage/Custom/SanbridgePlugin.pm",
        include_str!("../../../crates/pve-bridge/perl/PVE/Storage/Custom/SanbridgePlugin.pm"),
    ),
    (
        "crates/pve-bridge/perl/PVE/Storage/Sanbridge/Client.pm",
        include_str!("../../../crates/pve-bridge/perl/PVE/Storage/Sanbridge/Client.pm"),
    ),
];

/// The group.
pub(super) fn group() -> Group {
    Group::new("life", |recorder| Box::pin(play(recorder)))
}

const CHECKS: [Check<Site>; 1] = [Check {
    name: "a storage lives through the plugin and the program",
    scenarios: &["69"],
    done: "added a storage, made eight disks, attached one, wrote to it, handed it to another node and back, grew it under \
           input and output, took a snapshot, overwrote it, rolled it back, lost the array and the daemon, freed and \
           removed everything, with a bystander on the same target",
    run: |site| -> Running { Box::pin(lives(site)) },
    bound: Duration::from_secs(150),
}];

async fn play(recorder: Recorder) -> Result<(), Failure> {
    let site = Arc::new(Site::new().await?);
    for check in CHECKS.iter().filter(|it| recorder.wants(it.name)) {
        run(&recorder, &site, check).await?;
    }
    match Arc::into_inner(site) {
        Some(site) => site.end().await,
        // A check that did not end in time still has it; the machine goes with it.
        None => Ok(()),
    }
}

async fn lives(site: Arc<Site>) -> Result<Shown, Failure> {
    let bystander = site.bystander().await?;
    site.node.start(Form::Program).await?;
    let folder = tempfile::tempdir()?;
    let script = lay_out(folder.path(), WALK)?;
    let other = Neighbour::start(&site, folder.path()).await?;
    let mut walked_on = Real { site: Arc::clone(&site), other, io: None };
    let walked = walk(&mut walked_on, &script).await;
    let walked = walked.map_err(|it| Failure(format!("{it}\nthe program said:\n{}", site.node.said())))?;
    site.node.stop().await?;
    let seen = bystander.end().await?;
    let figures = BTreeMap::from([
        ("plugin_checks".to_owned(), count(walked.checks as u64)),
        ("rounds_while_growing".to_owned(), count(walked.rounds_while_growing)),
        ("bystander_rounds".to_owned(), count(seen.rounds)),
        ("bystander_longest_gap_ms".to_owned(), seen.longest_gap.as_secs_f64() * 1000.0),
    ]);
    let held = "every check of the plugin passed, the data was as written at every look, the audit is empty, and the \
                bystander met no error";
    Ok(Shown::Held(held.to_owned(), figures))
}

/// Lays the plugin out below `folder` as it lies in this repository, with one script beside it; where that is.
///
/// # Errors
/// Where a file cannot be written.
pub(super) fn lay_out(folder: &Path, script: (&str, &str)) -> Result<PathBuf, Failure> {
    for (path, text) in PLUGIN.into_iter().chain([script]) {
        let path = folder.join(path);
        std::fs::create_dir_all(path.parent().unwrap_or(Path::new("/")))?;
        std::fs::write(path, text)?;
    }
    Ok(folder.join(script.0))
}

/// The cluster's other node. There is one kernel and so one real node; the other is simulated, on the same array.
#[derive(Debug)]
struct Neighbour {
    host: SimNode,
    socket: PathBuf,
    // Ends with this.
    _daemon: Daemon,
}

impl Neighbour {
    async fn start(site: &Site, folder: &Path) -> Result<Self, Failure> {
        let world = World::new();
        world.add_array(Arc::new(site.array().clone()));
        let host = world.add_node(NodeSpec::new("node2", "iqn.1993-08.org.debian:01:node2"));
        std::fs::create_dir_all(Path::new(PVE).join("nodes/node2"))?;
        let socket = folder.join("node2/sanbridge.sock");
        let config = Config {
            socket: socket.clone(),
            state: folder.join("state-node2"),
            pve: PVE.into(),
            ..Config::new("node2".parse()?)
        };
        let daemon = Daemon::start(config, Arc::new(host.clone()), Arc::new(HttpsWires)).await?;
        Ok(Self { host, socket, _daemon: daemon })
    }
}

/// Node 0 of the walk is this machine, node 1 the neighbour.
#[derive(Debug)]
struct Real {
    site: Arc<Site>,
    other: Neighbour,
    io: Option<VerifiedIo>,
}

impl Real {
    fn own_presence(&self) -> Presence {
        // Before the disk is there nothing of it can be.
        let Ok(wwid) = self.site.wwid(DISK) else { return Presence::default() };
        let links = links(Path::new(DEVICES));
        Presence {
            legs: legs().into_iter().filter(|it| it.wwid == wwid).count(),
            maps: maps().into_iter().filter(|it| it.wwid == wwid).map(|it| it.size).collect(),
            links: links.len(),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn said(failure: impl ToString) -> String {
    failure.to_string()
}

#[async_trait]
impl WalkSite for Real {
    fn array(&self) -> &OntapSim {
        self.site.array()
    }

    fn options(&self) -> BTreeMap<String, Value> {
        self.site.options()
    }

    fn socket(&self, node: usize) -> PathBuf {
        if node == 0 { self.site.node.socket().to_owned() } else { self.other.socket.clone() }
    }

    fn pve(&self) -> PathBuf {
        PVE.into()
    }

    fn place_guest(&self, node: usize) -> Walking<()> {
        let node = if node == 0 { self.site.node.name.as_str() } else { "node2" };
        place_guest(100, &[DISK], node).map_err(said)
    }

    async fn presence(&self, node: usize) -> Walking<Presence> {
        if node == 0 {
            return Ok(self.own_presence());
        }
        let inventory = self.other.host.inventory();
        let maps = inventory.maps.iter().map(|it| it.size).collect();
        Ok(Presence { legs: inventory.legs.len(), maps, links: inventory.links.len() })
    }

    async fn write(&self, node: usize, offset: u64, bytes: &[u8]) -> Walking<()> {
        if node == 1 {
            return self.other.host.write_at(Path::new(PATH), offset, bytes).await.map_err(said);
        }
        let bytes = bytes.to_vec();
        let written =
            tokio::task::spawn_blocking(move || Device::open(Path::new(PATH))?.write(offset, &bytes));
        written.await.map_err(said)?.map_err(said)
    }

    async fn read(&self, node: usize, offset: u64, length: usize) -> Walking<Vec<u8>> {
        if node == 1 {
            return self.other.host.read_at(Path::new(PATH), offset, length).await.map_err(said);
        }
        let read = tokio::task::spawn_blocking(move || {
            direct::drop_caches()?;
            Device::open(Path::new(PATH))?.read(offset, length)
        });
        read.await.map_err(said)?.map_err(said)
    }

    async fn begin_io(&mut self, _: usize) -> Walking<()> {
        let io = VerifiedIo::start(Path::new(PATH), Duration::from_millis(20)).map_err(said)?;
        io.another_round(Duration::from_secs(60)).await.map_err(said)?;
        self.io = Some(io);
        Ok(())
    }

    async fn end_io(&mut self) -> Walking<u64> {
        let io = self.io.take().ok_or("no input and output was begun")?;
        io.another_round(Duration::from_secs(60)).await.map_err(said)?;
        Ok(io.end().await.map_err(said)?.rounds)
    }

    async fn kill(&mut self, node: usize) -> Walking<()> {
        if node == 0 {
            self.site.node.kill().await.map_err(said)
        } else {
            Err("only node 1 is killed".to_owned())
        }
    }

    async fn start(&mut self, node: usize) -> Walking<()> {
        if node == 0 {
            self.site.node.start(Form::Program).await.map_err(said)
        } else {
            Err("only node 1 is started again".to_owned())
        }
    }

    async fn audit(&self) -> Walking<Audit> {
        // What udev and the kernel still do ends on its own.
        self.site.settled_audit().await.map_err(said)
    }
}
