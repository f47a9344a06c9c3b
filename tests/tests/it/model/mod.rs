//! Random lives: sequences of operations on three nodes and three disks against a small reference of what must be there.
//! Some are cut off in the middle, by the end of the node's daemon at any of their effects.

mod reference;
mod world;

use std::sync::{Mutex, PoisonError};

use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use san_core::{Error, ErrorKind, Visibility};
use sanbridge_tests::crash::Side;
use sanbridge_tests::parallel;

use world::{Met, World};

const NODES: usize = 3;
const DISKS: usize = 3;
/// Sequences tried by each of [`RUNNERS`].
const CASES: u32 = 25;
/// How many sets of sequences there are, for as many processors.
const RUNNERS: u32 = 20;
/// The sequences are the same ones every time; another number here means others.
const SEED: u32 = 0;
/// Longest sequence.
const LENGTH: usize = 32;
/// What must have happened in some of them, or they prove nothing.
const RARE: [&str; 8] = [
    "a clone of a snapshot",
    "a clone of a template",
    "a cut",
    "a deletion",
    "a deletion that ends later",
    "a deletion that is refused",
    "a snapshot that a clone holds",
    "a template",
];
/// A cut comes at one of so many first effects; most operations have fewer than that.
const EFFECTS: usize = 16;

/// What is asked of a node about a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Step {
    node: usize,
    disk: usize,
    op: Op,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Create,
    Delete,
    Attach,
    Detach,
    Grow {
        mib: u64,
    },
    Snapshot(u8),
    DeleteSnapshot(u8),
    Rollback(u8),
    /// Attaches the snapshot, reads it and detaches it.
    Read(u8),
    /// A disk made of a snapshot of this one.
    Clone {
        name: u8,
        to: usize,
    },
    /// The disk becomes a template of its number.
    Template,
    /// A disk made of the template of this number.
    CloneTemplate {
        to: usize,
    },
    DeleteTemplate,
}

/// Where a step goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aim {
    /// Where it finds something to do, if it can.
    Good,
    /// Wherever chance says.
    Blind,
}

/// One thing that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Do {
        step: Step,
        aim: Aim,
    },
    /// The node's daemon ends at this effect of the operation, and is asked again when it is back.
    Cut {
        step: Step,
        aim: Aim,
        at: usize,
        side: Side,
    },
    /// Writes a new pattern where the disk is attached.
    Write {
        node: usize,
        disk: usize,
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
    /// The array forgets what was deleted.
    Purge,
}

fn op() -> impl Strategy<Value = Op> {
    let (name, to) = (0..2u8, 0..DISKS);
    prop_oneof![
        6 => Just(Op::Create),
        2 => Just(Op::Delete),
        6 => Just(Op::Attach),
        3 => Just(Op::Detach),
        2 => (4..24u64).prop_map(|mib| Op::Grow { mib }),
        5 => name.clone().prop_map(Op::Snapshot),
        4 => name.clone().prop_map(Op::DeleteSnapshot),
        3 => name.clone().prop_map(Op::Rollback),
        2 => name.clone().prop_map(Op::Read),
        6 => (name, to.clone()).prop_map(|(name, to)| Op::Clone { name, to }),
        2 => Just(Op::Template),
        5 => to.prop_map(|to| Op::CloneTemplate { to }),
        2 => Just(Op::DeleteTemplate),
    ]
}

fn act() -> impl Strategy<Value = Act> {
    let at = (0..NODES, 0..DISKS);
    let step = || (0..NODES, 0..DISKS, op()).prop_map(|(node, disk, op)| Step { node, disk, op });
    let aim = || prop_oneof![5 => Just(Aim::Good), 1 => Just(Aim::Blind)];
    let side = prop_oneof![Just(Side::Before), Just(Side::After)];
    prop_oneof![
        32 => (step(), aim()).prop_map(|(step, aim)| Act::Do { step, aim }),
        6 => (step(), aim(), 0..EFFECTS, side).prop_map(|(step, aim, at, side)| Act::Cut { step, aim, at, side }),
        5 => at.clone().prop_map(|(node, disk)| Act::Write { node, disk }),
        3 => at.prop_map(|(node, disk)| Act::Move { node, disk }),
        2 => (0..NODES).prop_map(|node| Act::Restart { node }),
        1 => (0..NODES).prop_map(|node| Act::Reboot { node }),
        1 => Just(Act::Purge),
    ]
}

async fn live(visibility: Visibility, acts: &[Act]) -> Met {
    let mut world = World::new(visibility).await;
    let empty = world.audit();
    for act in acts {
        world.act(*act).await;
    }
    world.end(&empty).await
}

#[test]
fn random_lives_end_as_the_model_says() {
    let runners: Vec<u32> = (0..RUNNERS).collect();
    let met: Mutex<Met> = Mutex::default();
    let run = |runner: &u32| {
        let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
        // Every fourth set on a storage whose disks all nodes see.
        let visibility = if runner.is_multiple_of(4) { Visibility::Shared } else { Visibility::PerNode };
        let lives = proptest::collection::vec(act(), 1..LENGTH);
        let mut seed = [0; 32];
        seed[..4].copy_from_slice(&SEED.to_le_bytes());
        seed[4..8].copy_from_slice(&runner.to_le_bytes());
        let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        let result = TestRunner::new_with_rng(config, random).run(&lives, |acts| {
            // What a killed daemon left behind ends with the runtime.
            let more = parallel::paused(async { Ok(live(visibility, &acts).await) }).unwrap();
            let mut met = met.lock().unwrap_or_else(PoisonError::into_inner);
            for (what, times) in more {
                *met.entry(what).or_default() += times;
            }
            Ok(())
        });
        result.map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))
    };
    for result in parallel::for_each(&runners, run, &|| {}) {
        result.unwrap();
    }
    let met = met.into_inner().unwrap();
    let missing: Vec<_> = RARE.iter().filter(|it| !met.contains_key(*it)).collect();
    assert!(missing.is_empty(), "{missing:?} never happened: {met:?}");
}
