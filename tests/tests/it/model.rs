//! Random lives: sequences of operations on three nodes and three disks against a small reference of what must be there.

use std::collections::BTreeMap;
use std::path::PathBuf;

use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use san_core::{ByteSize, Deadline, Effects, Error, ErrorKind, OperationId, SnapshotName};
use san_engine::{Outcome, Tie};
use sanbridge_tests::site::{PATIENCE, Site};

const NODES: usize = 3;
const DISKS: usize = 3;
/// Sequences tried; each takes about a tenth of a second.
const CASES: u32 = 60;
/// Longest sequence.
const LENGTH: usize = 24;

fn disk(index: usize) -> String {
    format!("vm-{}-disk-0", 100 + index)
}

fn snapshot(index: u8) -> SnapshotName {
    format!("snap{index}").parse().unwrap()
}

/// One thing that somebody does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Create {
        node: usize,
        disk: usize,
    },
    Delete {
        node: usize,
        disk: usize,
    },
    Attach {
        node: usize,
        disk: usize,
    },
    Detach {
        node: usize,
        disk: usize,
    },
    /// Writes a new pattern where it is attached.
    Write {
        node: usize,
        disk: usize,
    },
    Grow {
        node: usize,
        disk: usize,
        mib: u64,
    },
    Snapshot {
        node: usize,
        disk: usize,
        name: u8,
    },
    DeleteSnapshot {
        node: usize,
        disk: usize,
        name: u8,
    },
    Rollback {
        node: usize,
        disk: usize,
        name: u8,
    },
    /// The guest's configuration moves.
    Move {
        node: usize,
        disk: usize,
    },
    /// The node's daemon is killed and started again.
    Restart {
        node: usize,
    },
    /// The node loses power and starts again.
    Reboot {
        node: usize,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let node = 0..NODES;
    let at = (node.clone(), 0..DISKS);
    let named = (node.clone(), 0..DISKS, 0..2u8);
    prop_oneof![
        4 => at.clone().prop_map(|(node, disk)| Act::Create { node, disk }),
        2 => at.clone().prop_map(|(node, disk)| Act::Delete { node, disk }),
        6 => at.clone().prop_map(|(node, disk)| Act::Attach { node, disk }),
        3 => at.clone().prop_map(|(node, disk)| Act::Detach { node, disk }),
        4 => at.clone().prop_map(|(node, disk)| Act::Write { node, disk }),
        2 => (node.clone(), 0..DISKS, 4..24u64).prop_map(|(node, disk, mib)| Act::Grow { node, disk, mib }),
        3 => named.clone().prop_map(|(node, disk, name)| Act::Snapshot { node, disk, name }),
        1 => named.clone().prop_map(|(node, disk, name)| Act::DeleteSnapshot { node, disk, name }),
        3 => named.prop_map(|(node, disk, name)| Act::Rollback { node, disk, name }),
        3 => at.prop_map(|(node, disk)| Act::Move { node, disk }),
        2 => node.clone().prop_map(|node| Act::Restart { node }),
        1 => node.prop_map(|node| Act::Reboot { node }),
    ]
}

/// What a disk holds: a pattern in its first bytes, and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Content {
    pattern: u64,
    size: ByteSize,
}

/// One disk as it must be.
#[derive(Debug, Clone)]
struct Disk {
    content: Content,
    snapshots: BTreeMap<u8, Content>,
    /// The nodes that have it mapped.
    attached: Vec<usize>,
}

/// What must be there.
#[derive(Debug, Default)]
struct Model {
    disks: BTreeMap<usize, Disk>,
    /// Where guests live.
    homes: BTreeMap<usize, usize>,
    patterns: u64,
}

struct World {
    site: Site,
    model: Model,
}

fn path(disk: usize) -> PathBuf {
    format!("/dev/sanbridge/san1/{}", self::disk(disk)).into()
}

impl World {
    async fn new() -> Self {
        Self { site: Site::started(NODES).await.unwrap(), model: Model::default() }
    }

    async fn act(&mut self, act: Act) {
        match act {
            Act::Create { node, disk } => self.create(node, disk).await,
            Act::Delete { node, disk } => self.delete(node, disk).await,
            Act::Attach { node, disk } => self.attach(node, disk).await,
            Act::Detach { node, disk } => self.detach(node, disk).await,
            Act::Write { node, disk } => self.write(node, disk).await,
            Act::Grow { node, disk, mib } => self.grow(node, disk, ByteSize::from_mib(mib)).await,
            Act::Snapshot { node, disk, name } => self.snapshot(node, disk, name).await,
            Act::DeleteSnapshot { node, disk, name } => self.delete_snapshot(node, disk, name).await,
            Act::Rollback { node, disk, name } => self.roll_back(node, disk, name).await,
            Act::Move { node, disk } => {
                self.site.guests.place(&self::disk(disk), &self.site.node(node).name, Tie::Configured);
                self.model.homes.insert(disk, node);
            }
            Act::Restart { node } => self.start_again(node).await,
            Act::Reboot { node } => {
                self.site.kill(node);
                self.site.node(node).host.crash();
                self.site.node(node).host.boot();
                self.start_again(node).await;
            }
        }
    }

    async fn start_again(&mut self, node: usize) {
        self.site.kill(node);
        assert_eq!(self.site.start(node, Effects::unobserved()).await.unwrap(), 0);
    }

    /// The kind of error expected, if any: none where the disk is there.
    fn refused(&self, disk: usize, done: Result<Outcome, Error>) -> Option<Outcome> {
        match (self.model.disks.contains_key(&disk), done) {
            (true, done) => Some(done.unwrap()),
            (false, done) => {
                assert_eq!(done.unwrap_err().kind(), ErrorKind::NotFound);
                None
            }
        }
    }

    async fn create(&mut self, node: usize, disk: usize) {
        let size = ByteSize::from_mib(4 + disk as u64);
        let made = self.site.node(node).create(&self::disk(disk), size).await;
        if self.model.disks.contains_key(&disk) {
            assert_eq!(made.unwrap_err().kind(), ErrorKind::AlreadyExists);
            return;
        }
        made.unwrap();
        let content = Content { pattern: 0, size };
        self.model.disks.insert(disk, Disk { content, snapshots: BTreeMap::new(), attached: Vec::new() });
    }

    async fn delete(&mut self, node: usize, disk: usize) {
        let done = self.site.node(node).delete(&self::disk(disk)).await;
        // Whoever has it elsewhere does not use it, and lets go.
        assert_eq!(done.unwrap(), Outcome::Deleted);
        self.model.disks.remove(&disk);
    }

    async fn attach(&mut self, node: usize, disk: usize) {
        let done = self.site.node(node).attach(&self::disk(disk)).await;
        let Some(known) = self.model.disks.get_mut(&disk) else {
            assert_eq!(done.unwrap_err().kind(), ErrorKind::NotFound);
            return;
        };
        assert_eq!(done.unwrap(), path(disk));
        if self.model.homes.get(&disk) == Some(&node) {
            known.attached.clear();
        }
        if !known.attached.contains(&node) {
            known.attached.push(node);
        }
        let content = known.content;
        self.check_bytes(node, disk, content).await;
    }

    async fn check_bytes(&self, node: usize, disk: usize, content: Content) {
        let node = self.site.node(node);
        assert_eq!(node.read(&path(disk), 0, 8).await.unwrap(), content.pattern.to_le_bytes(), "disk {disk}");
        // Its whole size is there, and nothing beyond.
        node.read(&path(disk), content.size.bytes() - 512, 512).await.unwrap();
        assert!(node.read(&path(disk), content.size.bytes(), 512).await.is_err(), "disk {disk} is too large");
    }

    async fn detach(&mut self, node: usize, disk: usize) {
        let done = self.site.node(node).detach(&self::disk(disk)).await.unwrap();
        assert_eq!(done, Outcome::Detached { pending: None });
        if let Some(known) = self.model.disks.get_mut(&disk) {
            known.attached.retain(|it| *it != node);
        }
        assert!(self.site.node(node).read(&path(disk), 0, 8).await.is_err(), "no device is left");
    }

    async fn write(&mut self, node: usize, disk: usize) {
        let Some(known) = self.model.disks.get_mut(&disk).filter(|it| it.attached.contains(&node)) else {
            return;
        };
        self.model.patterns += 1;
        let pattern = self.model.patterns;
        // After a reboot the disk has to be attached anew first.
        if self.site.node(node).write(&path(disk), 0, &pattern.to_le_bytes()).await.is_ok() {
            known.content.pattern = pattern;
        }
    }

    async fn grow(&mut self, node: usize, disk: usize, size: ByteSize) {
        let done = self.site.node(node).grow(&self::disk(disk), size).await;
        if self.model.disks.get(&disk).is_some_and(|it| it.content.size > size) {
            assert_eq!(done.unwrap_err().kind(), ErrorKind::InvalidInput);
            return;
        }
        if self.refused(disk, done).is_some()
            && let Some(known) = self.model.disks.get_mut(&disk)
        {
            known.content.size = size;
        }
    }

    async fn snapshot(&mut self, node: usize, disk: usize, name: u8) {
        let done = self.site.node(node).snapshot(&self::disk(disk), &snapshot(name)).await;
        if self.model.disks.get(&disk).is_some_and(|it| it.snapshots.contains_key(&name)) {
            assert_eq!(done.unwrap_err().kind(), ErrorKind::AlreadyExists);
            return;
        }
        if self.refused(disk, done).is_some()
            && let Some(known) = self.model.disks.get_mut(&disk)
        {
            known.snapshots.insert(name, known.content);
        }
    }

    async fn delete_snapshot(&mut self, node: usize, disk: usize, name: u8) {
        let done = self.site.node(node).delete_snapshot(&self::disk(disk), &snapshot(name)).await;
        assert_eq!(done.unwrap(), Outcome::SnapshotDeleted);
        if let Some(known) = self.model.disks.get_mut(&disk) {
            known.snapshots.remove(&name);
        }
    }

    async fn roll_back(&mut self, node: usize, disk: usize, name: u8) {
        let done = self.site.node(node).roll_back(&self::disk(disk), &snapshot(name)).await;
        let Some(known) = self.model.disks.get_mut(&disk) else {
            assert_eq!(done.unwrap_err().kind(), ErrorKind::NotFound);
            return;
        };
        // It is taken from all nodes first, whether or not the snapshot exists.
        known.attached.clear();
        match known.snapshots.get(&name) {
            Some(content) => {
                done.unwrap();
                known.content = *content;
            }
            None => assert_eq!(done.unwrap_err().kind(), ErrorKind::NotFound),
        }
    }

    /// All that is listed is what must be there, with these sizes and snapshots.
    async fn check_lists(&self) {
        for node in 0..NODES {
            let san = self.site.node(node).san();
            let cx = san.cx(Deadline::after(PATIENCE), OperationId::random());
            let listed = san.disks(&cx).await.unwrap();
            let listed: BTreeMap<String, ByteSize> =
                listed.into_iter().map(|it| (it.owner.object().to_owned(), it.size)).collect();
            let expected = self.model.disks.iter().map(|(at, it)| (disk(*at), it.content.size));
            assert_eq!(listed, expected.collect());
            for (at, known) in &self.model.disks {
                let found = san.snapshots(&cx, &disk(*at)).await.unwrap();
                let mut names: Vec<SnapshotName> = found.into_iter().map(|it| it.name).collect();
                names.sort();
                assert_eq!(names, known.snapshots.keys().map(|it| snapshot(*it)).collect::<Vec<_>>());
            }
        }
    }

    /// Every disk has its bytes, every snapshot has its own, and after all is deleted nothing is left.
    async fn end(mut self, empty: &san_contract::audit::Audit) {
        self.check_lists().await;
        for index in 0..DISKS {
            for node in 0..NODES {
                self.detach(node, index).await;
            }
            let node = index % NODES;
            self.site.guests.remove(&disk(index));
            self.model.homes.remove(&index);
            if let Some(known) = self.model.disks.get(&index).cloned() {
                self.attach(node, index).await;
                for name in known.snapshots.keys() {
                    self.roll_back(node, index, *name).await;
                    self.attach(node, index).await;
                }
            }
            self.delete(node, index).await;
        }
        let findings = self.site.audit().against(empty);
        assert!(findings.is_empty(), "{findings}");
    }
}

async fn live(acts: &[Act]) {
    let mut world = World::new().await;
    let empty = world.site.audit();
    for act in acts {
        world.act(*act).await;
    }
    world.end(&empty).await;
}

#[test]
fn random_lives_end_as_the_model_says() {
    let persistence = FileFailurePersistence::Off;
    let config =
        Config { cases: CASES, failure_persistence: Some(Box::new(persistence)), ..Config::default() };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let lives = proptest::collection::vec(act(), 1..LENGTH);
    let result = TestRunner::new(config).run(&lives, |acts| {
        runtime.block_on(live(&acts));
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
}
