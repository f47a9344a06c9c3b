//! Each operation once, warm, on one node of a site of a given size.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use san_core::{
    ByteSize, Deadline, Error, ErrorKind, Mark, NameCodec, OperationId, Owner, Result, SnapshotName,
};
use san_engine::{Naming, Request, Tie, View};
use san_sim::host::OpenHandle;
use san_sim::ontap::{Fault, Rule, Times, When};
use tokio::time::Instant;

use super::budgets::{DISKS, Operation};
use super::{processes, requests};
use crate::site::{PATIENCE, REALM, SPACE, SVM, Site};

const SIZE: ByteSize = ByteSize::from_mib(8);
const GROWN: ByteSize = ByteSize::from_mib(16);

/// What lies between two operations: udev has looked at what the last one made.
const REST: Duration = Duration::from_secs(1);

/// How large a site is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cell {
    /// Nodes.
    pub nodes: usize,
    /// Our volumes on the array before anything is measured.
    pub volumes: usize,
    /// Disks attached on each node meanwhile; at most 32.
    pub attached: usize,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.nodes == 1 { "" } else { "s" };
        write!(f, "{} node{plural}, {} volumes, {} attached on each", self.nodes, self.volumes, self.attached)
    }
}

/// What one operation cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Requests to the array.
    pub requests: usize,
    /// Programs started on the nodes.
    pub processes: u64,
    /// How long it took, on the clock of the runtime.
    pub took: Duration,
}

/// Measures one piece of work.
pub(crate) async fn sample<T>(site: &Site, work: impl Future<Output = Result<T>>) -> Result<(Sample, T)> {
    let (mark, started) = (site.array.mark(), processes(site));
    let begun = Instant::now();
    let value = work.await?;
    let sample = Sample {
        took: begun.elapsed(),
        requests: requests(site, mark),
        processes: processes(site) - started,
    };
    Ok((sample, value))
}

/// A site whose array takes `latency` for each round trip and holds `volumes` volumes of ours.
pub(crate) async fn site(nodes: usize, volumes: usize, latency: Duration) -> Result<Site> {
    let site = Site::started(nodes).await?;
    fill(&site, volumes)?;
    let when = When { times: Times::Always, ..When::default() };
    site.array.inject(Rule { when, fault: Fault::Delay(latency) });
    Ok(site)
}

/// Puts volumes of ours on the array as another cluster member would have made them, without a request.
fn fill(site: &Site, volumes: usize) -> Result<()> {
    let codec = NameCodec::new(site.node(0).san().array().profile().limits.name)?;
    let failed = |error| Error::new(ErrorKind::Internal, "cannot fill the array").caused_by(error);
    for number in 0..volumes {
        let owner = Owner::new(REALM, SPACE, &format!("vm-{}-disk-{}", 10_000 + number / 10, number % 10))?;
        let name = codec.encode(&owner)?;
        let comment = Mark::disk(owner, OperationId::random()).to_text()?;
        let (volume, lun) = (SIZE.bytes() * 2, SIZE.bytes());
        site.array.add_volume(SVM, name.as_str(), volume, &comment).map_err(failed)?;
        site.array.add_lun(SVM, &format!("/vol/{name}/lun0"), lun, "").map_err(failed)?;
    }
    Ok(())
}

/// Every operation once.
pub(crate) async fn measure(cell: Cell, latency: Duration) -> Result<Vec<(Operation, Sample)>> {
    let site = site(cell.nodes, cell.volumes, latency).await?;
    let mut bench = Bench { samples: Vec::new(), site };
    bench.load(cell.attached).await?;
    bench.note(Operation::Ask, async |site| ask(site).await).await?;
    bench.one_disk().await?;
    bench.one_guest().await?;
    bench.removals().await?;
    bench.one_clone().await?;
    Ok(bench.samples)
}

/// One request and nothing else.
async fn ask(site: &Site) -> Result<()> {
    let san = site.node(0).san();
    san.refresh_status(&san.cx(Deadline::after(PATIENCE), OperationId::random())).await.map(drop)
}

#[derive(Debug)]
struct Bench {
    site: Site,
    samples: Vec<(Operation, Sample)>,
}

impl Bench {
    /// What a node in use has: disks attached, and so sessions, a host object, known ports.
    async fn load(&self, attached: usize) -> Result<()> {
        for index in 0..self.site.nodes() {
            let node = self.site.node(index);
            for number in 0..attached {
                let object = format!("vm-{}-disk-{number}", 500 + index);
                node.create(&object, SIZE).await?;
                self.site.guests.place(&object, &node.name, Tie::Configured);
                node.attach(&object).await?;
            }
        }
        Ok(())
    }

    async fn note<T>(
        &mut self,
        operation: Operation,
        work: impl AsyncFnOnce(&Site) -> Result<T>,
    ) -> Result<T> {
        tokio::time::sleep(REST).await;
        let (sample, value) = sample(&self.site, work(&self.site)).await?;
        self.samples.push((operation, sample));
        Ok(value)
    }

    async fn one_disk(&mut self) -> Result<()> {
        const DISK: &str = "vm-200-disk-0";
        self.note(Operation::Create, async |site| site.node(0).create(DISK, SIZE).await).await?;
        let naming = Naming::Numbered { stem: "vm-200-disk-".to_owned() };
        let request = Request::Create { naming, size: SIZE };
        self.note(Operation::CreateNumbered, async |site| site.node(0).call(request).await).await?;
        let home = self.site.node(0).name.clone();
        self.site.guests.place(DISK, &home, Tie::Configured);
        let path = self.note(Operation::AttachFirst, async |site| site.node(0).attach(DISK).await).await?;
        self.note(Operation::AttachAgain, async |site| site.node(0).attach(DISK).await).await?;
        let told = self
            .note(Operation::Path, async |site| {
                let san = site.node(0).san();
                Ok(san.device_path(&View::disk(san.owner(DISK)?)))
            })
            .await?;
        if told != path {
            let message = format!("path says {} and attach {}", told.display(), path.display());
            return Err(Error::new(ErrorKind::Internal, message));
        }
        self.note(Operation::Size, async |site| {
            let san = site.node(0).san();
            san.size(&san.cx(Deadline::after(PATIENCE), OperationId::random()), DISK).await
        })
        .await?;
        let guest = self.site.node(0).host.open(&path)?;
        self.note(Operation::GrowOnline, async |site| site.node(0).grow(DISK, GROWN).await).await?;
        drop(guest);
        self.note(Operation::Detach, async |site| site.node(0).detach(DISK).await).await?;
        self.note(Operation::DetachAbsent, async |site| site.node(0).detach(DISK).await).await?;
        Ok(())
    }

    /// A guest with several disks: PVE asks once for each.
    async fn one_guest(&mut self) -> Result<()> {
        let disks: Vec<String> = (0..DISKS).map(|it| format!("vm-300-disk-{it}")).collect();
        let snapshot: SnapshotName = "before".parse()?;
        let mut guest: Vec<OpenHandle> = Vec::new();
        for disk in &disks {
            let node = self.site.node(0);
            node.create(disk, SIZE).await?;
            self.site.guests.place(disk, &node.name, Tie::Configured);
            guest.push(node.host.open(&node.attach(disk).await?)?);
        }
        self.note(Operation::Snapshot, async |site| {
            for disk in &disks {
                site.node(0).snapshot(disk, &snapshot).await?;
            }
            Ok(())
        })
        .await?;
        drop(guest);
        self.one_reader(&disks[0], &snapshot).await?;
        for disk in &disks {
            self.site.node(0).detach(disk).await?;
        }
        self.note(Operation::RollBack, async |site| {
            for disk in &disks {
                site.node(0).roll_back(disk, &snapshot).await?;
            }
            Ok(())
        })
        .await?;
        self.note(Operation::DeleteSnapshot, async |site| {
            for disk in &disks {
                site.node(0).delete_snapshot(disk, &snapshot).await?;
            }
            Ok(())
        })
        .await
    }

    /// A backup reads a snapshot beside the disk.
    async fn one_reader(&mut self, disk: &str, snapshot: &SnapshotName) -> Result<()> {
        let read = async |site: &Site| site.node(0).attach_snapshot(disk, snapshot).await;
        self.note(Operation::ReadSnapshot, read).await?;
        self.note(Operation::ReadSnapshotAgain, read).await?;
        self.note(Operation::CloseSnapshot, async |site| site.node(0).detach_snapshot(disk, snapshot).await)
            .await
            .map(drop)
    }

    async fn one_clone(&mut self) -> Result<()> {
        const TEMPLATE: &str = "base-400-disk-0";
        const SOURCE: &str = "vm-400-disk-0";
        let node = self.site.node(0);
        node.create(SOURCE, SIZE).await?;
        let naming = Naming::Exact(TEMPLATE.to_owned());
        node.call(Request::Template { object: SOURCE.to_owned(), naming }).await?;
        let naming = Naming::Numbered { stem: "vm-401-disk-".to_owned() };
        let clone = Request::Clone { source: TEMPLATE.to_owned(), snapshot: None, naming };
        self.note(Operation::LinkedClone, async |site| site.node(0).call(clone).await).await.map(drop)
    }

    async fn removals(&mut self) -> Result<()> {
        self.note(Operation::Delete, async |site| site.node(0).delete("vm-200-disk-0").await).await?;
        self.site.node(0).attach("vm-200-disk-1").await?;
        self.note(Operation::DeleteAttached, async |site| site.node(0).delete("vm-200-disk-1").await).await?;
        Ok(())
    }
}
