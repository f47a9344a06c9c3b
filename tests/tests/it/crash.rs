//! The crash matrix: every operation stopped at every boundary of every effect, ended by the next run, audited.

use std::cell::Cell;
use std::sync::Arc;

use async_trait::async_trait;
use san_core::{Effects, Error, ErrorKind, Result};
use san_engine::{Naming, Outcome, Request, Tie};
use san_sim::ontap::VolumeInfo;
use sanbridge_tests::crash::{
    Boundary, Report, Scenario, Side, Stopper, Undisturbed, lose_node_at, lose_power_at, stop_at,
    stop_twice_at, undisturbed,
};
use sanbridge_tests::site::{Site, SiteNode};

use crate::support::{DISK, GROWN, SIZE, snapshot};

const STEM: &str = "vm-100-disk-";
/// What a template is made of, and the template.
const SOURCE: &str = "vm-9000-disk-0";
const TEMPLATE: &str = "base-9000-disk-0";
const RENAMED: &str = "vm-101-disk-7";
const SNAPSHOTTED: &[u8] = b"snapshotted";
const OVERWRITTEN: &[u8] = b"overwritten";

/// The operations, each with what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Create,
    CreateNumbered,
    Attach,
    Detach,
    Delete,
    DeleteAttached,
    DeleteHeld,
    Grow,
    Snapshot,
    DeleteSnapshot,
    Rollback,
    Clone,
    Template,
    Rename,
    Split,
    Undelete,
    AttachSnapshot,
    DetachSnapshot,
    DeleteSnapshotRead,
}

#[async_trait]
impl Scenario for Op {
    fn name(&self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::CreateNumbered => "create numbered",
            Self::Attach => "attach",
            Self::Detach => "detach",
            Self::Delete => "delete",
            Self::DeleteAttached => "delete attached",
            Self::DeleteHeld => "delete held by a deleted clone",
            Self::Grow => "grow",
            Self::Snapshot => "snapshot",
            Self::DeleteSnapshot => "delete snapshot",
            Self::Rollback => "roll back",
            Self::Clone => "clone",
            Self::Template => "make a template of",
            Self::Rename => "rename",
            Self::Split => "split",
            Self::Undelete => "undelete",
            Self::AttachSnapshot => "attach snapshot",
            Self::DetachSnapshot => "detach snapshot",
            Self::DeleteSnapshotRead => "delete snapshot that is read",
        }
    }

    async fn prepare(&self, site: &Site) -> Result<()> {
        let node = site.node(0);
        if matches!(self, Self::Create | Self::CreateNumbered) {
            return Ok(());
        }
        if matches!(self, Self::Clone | Self::DeleteHeld | Self::Split) {
            node.create(SOURCE, SIZE).await?;
            let path = node.attach(SOURCE).await?;
            node.write(&path, 0, SNAPSHOTTED).await?;
            node.detach(SOURCE).await?;
            let naming = Naming::Exact(TEMPLATE.to_owned());
            node.call(Request::Template { object: SOURCE.to_owned(), naming }).await?;
            if matches!(self, Self::DeleteHeld) {
                node.call(Self::Clone.request()).await?;
                node.delete(DISK).await?;
            }
            if matches!(self, Self::Split) {
                node.call(Self::Clone.request()).await?;
            }
            return Ok(());
        }
        node.create(DISK, SIZE).await?;
        if !self.is_written() {
            return Ok(());
        }
        let path = node.attach(DISK).await?;
        node.write(&path, 0, SNAPSHOTTED).await?;
        if self.is_overwritten() {
            node.snapshot(DISK, &snapshot()).await?;
            node.write(&path, 0, OVERWRITTEN).await?;
        }
        if matches!(self, Self::DetachSnapshot | Self::DeleteSnapshotRead) {
            node.attach_snapshot(DISK, &snapshot()).await?;
        }
        if !matches!(self, Self::Detach | Self::DeleteAttached | Self::Grow) {
            node.detach(DISK).await?;
        }
        if matches!(self, Self::Undelete) {
            node.delete(DISK).await?;
        }
        Ok(())
    }

    fn request(&self) -> Request {
        let object = DISK.to_owned();
        match self {
            Self::Create => Request::Create { naming: Naming::Exact(object), size: SIZE },
            Self::CreateNumbered => {
                Request::Create { naming: Naming::Numbered { stem: STEM.to_owned() }, size: SIZE }
            }
            Self::Attach => Request::Attach { object },
            Self::Detach => Request::Detach { object },
            Self::Delete | Self::DeleteAttached => Request::Delete { object },
            Self::DeleteHeld => Request::Delete { object: TEMPLATE.to_owned() },
            Self::Grow => Request::Grow { object, size: GROWN },
            Self::Snapshot => Request::Snapshot { object, snapshot: snapshot() },
            Self::DeleteSnapshot | Self::DeleteSnapshotRead => {
                Request::DeleteSnapshot { object, snapshot: snapshot() }
            }
            Self::AttachSnapshot => Request::AttachSnapshot { object, snapshot: snapshot(), asker: None },
            Self::DetachSnapshot => Request::DetachSnapshot { object, snapshot: snapshot(), asker: None },
            Self::Rollback => Request::Rollback { object, snapshot: snapshot() },
            Self::Clone => {
                Request::Clone { source: TEMPLATE.to_owned(), snapshot: None, naming: Naming::Exact(object) }
            }
            Self::Template => Request::Template { object, naming: Naming::Exact(TEMPLATE.to_owned()) },
            Self::Rename => Request::Rename { object, naming: Naming::Exact(RENAMED.to_owned()) },
            Self::Split => Request::Split { object },
            Self::Undelete => Request::Undelete { object, queued: None },
        }
    }

    fn changes_content(&self) -> bool {
        matches!(
            self,
            Self::Grow
                | Self::Rollback
                | Self::Clone
                | Self::Template
                | Self::Rename
                | Self::Split
                | Self::Undelete
        ) || self.reads()
    }

    async fn verify(&self, site: &Site) -> Result<()> {
        self.verify_on(site.node(0)).await
    }

    async fn clean_up(&self, site: &Site) -> Result<()> {
        let node = site.node(0);
        for object in [DISK, RENAMED, TEMPLATE] {
            match node.delete(object).await {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // A clone in the recovery queue holds its template.
            site.array.purge_recovery_queue().map_err(|error| {
                Error::new(ErrorKind::Internal, "the queue cannot be purged").caused_by(error)
            })?;
        }
        node.san().finish_deletions().await
    }

    async fn take_over(&self, site: &Site) -> Result<()> {
        let node = site.node(1);
        site.guests.place(DISK, &node.name, Tie::Configured);
        match self.verify_on(node).await {
            // A creation that was cut between its two halves is seen for what it is, and can be deleted.
            Err(error) if error.kind() == ErrorKind::Conflict && self.creates() => {
                assert!(error.remedy().is_some_and(|it| it.contains("delete it")), "{error:?}");
                node.delete(DISK).await?;
            }
            // One that has its new name already is told by it, and whole.
            Err(error) if error.kind() == ErrorKind::Conflict && self.new_name().is_some() => {
                let name = self.new_name().unwrap_or_default();
                assert!(error.remedy().is_some_and(|it| it.contains(name)), "{error:?}");
                let path = node.attach(name).await?;
                assert_eq!(node.read(&path, 0, SNAPSHOTTED.len()).await?, SNAPSHOTTED);
            }
            other => other?,
        }
        // What remains of a creation is seen, or its name is free.
        match node.create(DISK, SIZE).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                let ours = |it: &VolumeInfo| it.name.starts_with("sb") && !it.deleted;
                assert!(site.array.volumes().iter().any(ours), "{error:?}");
            }
            other => drop(other?),
        }
        let numbered = Request::Create { naming: Naming::Numbered { stem: STEM.to_owned() }, size: SIZE };
        assert!(matches!(node.call(numbered).await?, Outcome::Created { .. }));
        Ok(())
    }
}

impl Op {
    fn creates(self) -> bool {
        matches!(self, Self::Create | Self::CreateNumbered | Self::Clone)
    }

    /// What the disk is called afterwards, where that changes.
    fn new_name(self) -> Option<&'static str> {
        match self {
            Self::Rename => Some(RENAMED),
            Self::Template => Some(TEMPLATE),
            _ => None,
        }
    }

    /// Whether it is about a snapshot that is read.
    fn reads(self) -> bool {
        matches!(self, Self::AttachSnapshot | Self::DetachSnapshot | Self::DeleteSnapshotRead)
    }

    /// Whether the disk has other bytes than its snapshot.
    fn is_overwritten(self) -> bool {
        matches!(self, Self::DeleteSnapshot | Self::Rollback) || self.reads()
    }

    /// Whether something was written to the disk before.
    fn is_written(self) -> bool {
        !matches!(self, Self::Create | Self::CreateNumbered | Self::Delete | Self::Snapshot)
    }

    /// Whichever way it went: the disk is gone where that was asked for, or has its bytes.
    async fn verify_on(self, node: &SiteNode) -> Result<()> {
        let mut attached = node.attach(if self == Self::DeleteHeld { TEMPLATE } else { DISK }).await;
        if let (Err(error), Some(name)) = (&attached, self.new_name())
            && error.kind() == ErrorKind::NotFound
        {
            attached = node.attach(name).await;
        }
        let path = match attached {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let may_be_gone = self.creates()
                    || matches!(
                        self,
                        Self::Delete | Self::DeleteAttached | Self::DeleteHeld | Self::Undelete
                    );
                return if may_be_gone { Ok(()) } else { Err(error) };
            }
            other => other?,
        };
        let bytes = node.read(&path, 0, SNAPSHOTTED.len()).await?;
        match self {
            _ if !self.is_written() => assert_eq!(bytes, [0; SNAPSHOTTED.len()]),
            Self::DeleteSnapshot => assert_eq!(bytes, OVERWRITTEN),
            _ if self.reads() => {
                assert_eq!(bytes, OVERWRITTEN);
                match node.attach_snapshot(DISK, &snapshot()).await {
                    Err(error) if error.kind() == ErrorKind::NotFound && self == Self::DeleteSnapshotRead => {
                    }
                    attached => {
                        assert_eq!(node.read(&attached?, 0, SNAPSHOTTED.len()).await?, SNAPSHOTTED);
                    }
                }
            }
            Self::Rollback => {
                assert!(bytes == SNAPSHOTTED || bytes == OVERWRITTEN, "{bytes:?}");
                node.roll_back(DISK, &snapshot()).await?;
                let path = node.attach(DISK).await?;
                assert_eq!(node.read(&path, 0, SNAPSHOTTED.len()).await?, SNAPSHOTTED);
            }
            _ => assert_eq!(bytes, SNAPSHOTTED),
        }
        Ok(())
    }
}

/// Both sides of every `stride`-th effect, the sides taking turns where some are left out.
fn boundaries(plain: &Undisturbed, stride: usize) -> Vec<Boundary> {
    let both = |(number, effect): (usize, &String)| {
        [Side::Before, Side::After].map(|side| Boundary { number, side, effect: effect.clone() })
    };
    plain.effects.iter().enumerate().flat_map(both).step_by(stride).collect()
}

fn assert_none(op: Op, what: &str, failures: &[String]) {
    assert!(failures.is_empty(), "{} {what}: {}\n{}", op.name(), failures.len(), failures.join("\n"));
}

/// Runs `cell` at each boundary and collects what went wrong.
async fn at_each(
    op: Op,
    what: &str,
    stride: usize,
    cell: impl AsyncFn(&Boundary, &Undisturbed) -> Result<Report>,
) {
    let plain = undisturbed(&op).await.unwrap();
    assert!(plain.effects.len() >= 3, "{}: {:?}", op.name(), plain.effects);
    let mut failures = Vec::new();
    // Short operations have few boundaries: all of those are tried.
    for boundary in boundaries(&plain, stride.min(plain.effects.len().div_ceil(4))) {
        match cell(&boundary, &plain).await {
            Ok(report) if report.is_empty() => {}
            Ok(report) => failures.push(format!("{boundary}:\n{}", report.join("\n"))),
            Err(error) => failures.push(format!("{boundary}: {error:?}")),
        }
    }
    assert_none(op, what, &failures);
}

/// Of the pairs (boundary of the operation, boundary of its recovery) every so many-th of each is tried, so that the
/// suite stays short. 1 and 1 try all of them, which takes about half an hour.
const FIRST_STRIDE: usize = 9;
const SECOND_STRIDE: usize = 7;

async fn stopped_twice(op: Op) {
    let tried = Cell::new(0);
    at_each(op, "stopped twice", FIRST_STRIDE, async |boundary, plain| {
        let (report, pairs) = stop_twice_at(&op, boundary, plain, SECOND_STRIDE).await?;
        tried.set(tried.get() + pairs);
        Ok(report)
    })
    .await;
    assert!(tried.get() > 0, "{}: no recovery was ever stopped", op.name());
}

macro_rules! matrix {
    ($($name:ident: $op:ident,)+) => {
        $(
            mod $name {
                use super::*;

                #[tokio::test(start_paused = true)]
                async fn stopped_everywhere() {
                    at_each(Op::$op, "stopped", 1, async |boundary, plain| {
                        stop_at(&Op::$op, boundary, plain).await
                    })
                    .await;
                }

                #[tokio::test(start_paused = true)]
                async fn stopped_again_in_its_recovery() {
                    stopped_twice(Op::$op).await;
                }

                #[tokio::test(start_paused = true)]
                async fn on_a_node_lost_for_ever() {
                    at_each(Op::$op, "node lost", 6, async |boundary, _| {
                        lose_node_at(&Op::$op, boundary).await
                    })
                    .await;
                }
            }
        )+
    };
}

matrix! {
    create: Create,
    create_numbered: CreateNumbered,
    attach: Attach,
    detach: Detach,
    delete: Delete,
    delete_attached: DeleteAttached,
    delete_held: DeleteHeld,
    grow: Grow,
    snapshot_: Snapshot,
    delete_snapshot: DeleteSnapshot,
    roll_back: Rollback,
    clone: Clone,
    template: Template,
    rename: Rename,
    split: Split,
    undelete: Undelete,
    attach_snapshot: AttachSnapshot,
    detach_snapshot: DetachSnapshot,
    delete_snapshot_read: DeleteSnapshotRead,
}

/// Those that touch the kernel's devices, with the power gone instead of the process.
mod power {
    use super::*;

    async fn lost_everywhere(op: Op) {
        at_each(op, "power lost", 4, async |boundary, _| lose_power_at(&op, boundary).await).await;
    }

    #[tokio::test(start_paused = true)]
    async fn lost_in_attach() {
        lost_everywhere(Op::Attach).await;
    }

    #[tokio::test(start_paused = true)]
    async fn lost_in_detach() {
        lost_everywhere(Op::Detach).await;
    }

    #[tokio::test(start_paused = true)]
    async fn lost_in_attach_of_a_snapshot() {
        lost_everywhere(Op::AttachSnapshot).await;
    }

    #[tokio::test(start_paused = true)]
    async fn lost_in_detach_of_a_snapshot() {
        lost_everywhere(Op::DetachSnapshot).await;
    }

    #[tokio::test(start_paused = true)]
    async fn lost_in_delete() {
        lost_everywhere(Op::DeleteAttached).await;
    }

    #[tokio::test(start_paused = true)]
    async fn lost_in_grow() {
        lost_everywhere(Op::Grow).await;
    }
}

/// A delete stops when the array has removed the disk. Its name is made anew elsewhere, with and without what the cluster
/// knew of the old one; the recovery must not take the new disk for it.
#[tokio::test(start_paused = true)]
async fn a_delete_taken_up_late_spares_the_next_disk_of_that_name() {
    for forget in [false, true] {
        let mut site = Site::started(2).await.unwrap();
        site.node(0).create(DISK, SIZE).await.unwrap();
        if forget {
            std::fs::remove_dir_all(site.cluster_folder().join("volumes")).unwrap();
        }
        let plain = undisturbed(&Op::Delete).await.unwrap();
        let at = plain.effects.iter().position(|it| it.starts_with("DELETE")).unwrap();
        let offset = usize::from(forget);
        let stopper = Stopper::new(Some((at + offset, Side::After)));
        let array = Arc::new(site.connect(stopper.effects()).await.unwrap());
        site.kill(0);
        site.start_with(0, stopper.effects(), array).await.unwrap();
        tokio::select! {
            biased;
            () = stopper.reached() => {}
            done = site.node(0).delete(DISK) => panic!("never reached: {done:?} {:?}", stopper.passed()),
        }
        assert!(stopper.passed().last().unwrap().starts_with("DELETE"), "{:?}", stopper.passed());
        site.kill(0);
        site.expire_leases().unwrap();
        site.node(1).create(DISK, SIZE).await.unwrap();
        let path = site.node(1).attach(DISK).await.unwrap();
        site.node(1).write(&path, 0, b"newer").await.unwrap();
        site.node(1).detach(DISK).await.unwrap();
        assert_eq!(site.start(0, Effects::unobserved()).await.unwrap(), 0);
        let path = site.node(0).attach(DISK).await.unwrap();
        assert_eq!(site.node(0).read(&path, 0, 5).await.unwrap(), b"newer");
    }
}
