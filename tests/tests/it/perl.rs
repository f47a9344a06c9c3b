//! The real Perl plugin against the real daemon, on simulated nodes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use san_contract::audit::Audit;
use san_core::{Effects, Error};
use san_sim::host::Bystander;
use san_sim::ontap::OntapSim;
use sanbridge_tests::daemons::DaemonSite;
use sanbridge_tests::walk::{DISK, PATH, Presence, WalkSite, Walking, walk};
use serde_json::Value;

/// Two simulated nodes.
#[derive(Debug)]
struct Simulated {
    site: DaemonSite,
    io: Option<Bystander>,
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn said(error: Error) -> String {
    error.chain().to_string()
}

#[async_trait]
impl WalkSite for Simulated {
    fn array(&self) -> &OntapSim {
        &self.site.site.array
    }

    fn options(&self) -> BTreeMap<String, Value> {
        self.site.options.clone()
    }

    fn socket(&self, node: usize) -> PathBuf {
        self.site.socket(node).to_owned()
    }

    fn pve(&self) -> PathBuf {
        self.site.pve()
    }

    fn place_guest(&self, node: usize) -> Walking<()> {
        self.site.place_guest(100, node, &[DISK]).map_err(said)
    }

    async fn presence(&self, node: usize) -> Walking<Presence> {
        let inventory = self.site.site.node(node).host.inventory();
        let maps = inventory.maps.iter().map(|it| it.size).collect();
        Ok(Presence { legs: inventory.legs.len(), maps, links: inventory.links.len() })
    }

    async fn write(&self, node: usize, offset: u64, bytes: &[u8]) -> Walking<()> {
        self.site.site.node(node).write(Path::new(PATH), offset, bytes).await.map_err(said)
    }

    async fn read(&self, node: usize, offset: u64, length: usize) -> Walking<Vec<u8>> {
        self.site.site.node(node).read(Path::new(PATH), offset, length).await.map_err(said)
    }

    async fn begin_io(&mut self, node: usize) -> Walking<()> {
        let host = &self.site.site.node(node).host;
        self.io = Some(Bystander::start(host, Path::new(PATH), Duration::from_millis(1)));
        Ok(())
    }

    async fn end_io(&mut self) -> Walking<u64> {
        let report = self.io.take().ok_or("no input and output was begun")?.report();
        if report.errors.is_empty() { Ok(report.rounds) } else { Err(format!("{:?}", report.errors)) }
    }

    async fn kill(&mut self, node: usize) -> Walking<()> {
        self.site.kill(node);
        Ok(())
    }

    async fn start(&mut self, node: usize) -> Walking<()> {
        self.site.start(node, Effects::unobserved()).await.map_err(said)
    }

    async fn audit(&self) -> Walking<Audit> {
        Ok(self.site.audit())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storage_lives_through_the_plugin() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("perl/walk.pl");
    let mut site = Simulated { site: DaemonSite::started(2).await.unwrap(), io: None };
    let walked = walk(&mut site, &script).await.unwrap_or_else(|it| panic!("{it}"));
    assert!(walked.checks > 100, "{walked:?}");
}
