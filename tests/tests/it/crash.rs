//! The crash matrix: every operation stopped at every boundary of every effect, ended by the next run, audited.

use async_trait::async_trait;
use san_core::{ByteSize, ErrorKind, Result, SnapshotName};
use san_engine::{Naming, Request};
use sanbridge_tests::crash::{Boundary, Scenario, Side, effects_of, stop_at};
use sanbridge_tests::site::Site;

const DISK: &str = "vm-100-disk-0";
const SIZE: ByteSize = ByteSize::from_mib(8);
const GROWN: ByteSize = ByteSize::from_mib(16);

fn snapshot() -> SnapshotName {
    "before".parse().unwrap()
}

/// The operations, each with what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Create,
    CreateNumbered,
    Attach,
    Detach,
    Delete,
    DeleteAttached,
    Grow,
    Snapshot,
    DeleteSnapshot,
    Rollback,
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
            Self::Grow => "grow",
            Self::Snapshot => "snapshot",
            Self::DeleteSnapshot => "delete snapshot",
            Self::Rollback => "roll back",
        }
    }

    async fn prepare(&self, site: &Site) -> Result<()> {
        let node = site.node(0);
        if matches!(self, Self::Create | Self::CreateNumbered) {
            return Ok(());
        }
        node.create(DISK, SIZE).await?;
        match self {
            Self::Detach | Self::DeleteAttached | Self::Grow => drop(node.attach(DISK).await?),
            Self::DeleteSnapshot | Self::Rollback => {
                let path = node.attach(DISK).await?;
                node.write(&path, 0, b"snapshotted").await?;
                node.snapshot(DISK, &snapshot()).await?;
                node.write(&path, 0, b"overwritten").await?;
                node.detach(DISK).await?;
            }
            _ => {}
        }
        Ok(())
    }

    fn request(&self) -> Request {
        let object = DISK.to_owned();
        match self {
            Self::Create => Request::Create { naming: Naming::Exact(object), size: SIZE },
            Self::CreateNumbered => {
                Request::Create { naming: Naming::Numbered { stem: "vm-100-disk-".to_owned() }, size: SIZE }
            }
            Self::Attach => Request::Attach { object },
            Self::Detach => Request::Detach { object },
            Self::Delete | Self::DeleteAttached => Request::Delete { object },
            Self::Grow => Request::Grow { object, size: GROWN },
            Self::Snapshot => Request::Snapshot { object, snapshot: snapshot() },
            Self::DeleteSnapshot => Request::DeleteSnapshot { object, snapshot: snapshot() },
            Self::Rollback => Request::Rollback { object, snapshot: snapshot() },
        }
    }

    async fn verify(&self, site: &Site) -> Result<()> {
        let node = site.node(0);
        if *self != Self::Rollback {
            return Ok(());
        }
        // Whichever way it went, the bytes are one of the two and the snapshot is still there.
        let path = node.attach(DISK).await?;
        let bytes = node.read(&path, 0, 11).await?;
        assert!(bytes == b"snapshotted" || bytes == b"overwritten", "{bytes:?}");
        node.roll_back(DISK, &snapshot()).await?;
        let path = node.attach(DISK).await?;
        assert_eq!(node.read(&path, 0, 11).await?, b"snapshotted");
        Ok(())
    }

    async fn clean_up(&self, site: &Site) -> Result<()> {
        let node = site.node(0);
        match node.delete(DISK).await {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}

async fn stopped_everywhere(op: Op) {
    let effects = effects_of(&op).await.unwrap();
    assert!(effects.len() >= 3, "{}: {effects:?}", op.name());
    let mut failures = Vec::new();
    for (number, effect) in effects.iter().enumerate() {
        for side in [Side::Before, Side::After] {
            let boundary = Boundary { number, side, effect: effect.clone() };
            match stop_at(&op, &boundary).await {
                Ok(report) if report.is_empty() => {}
                Ok(report) => failures.push(format!("{boundary}:\n{}", report.join("\n"))),
                Err(error) => failures.push(format!("{boundary}: {error:?}")),
            }
        }
    }
    assert!(
        failures.is_empty(),
        "{}: {} of {}\n{}",
        op.name(),
        failures.len(),
        effects.len() * 2,
        failures.join("\n")
    );
}

macro_rules! matrix {
    ($($name:ident: $op:ident,)+) => {
        $(
            #[tokio::test(start_paused = true)]
            async fn $name() {
                stopped_everywhere(Op::$op).await;
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
    grow: Grow,
    snapshot_: Snapshot,
    delete_snapshot: DeleteSnapshot,
    roll_back: Rollback,
}
