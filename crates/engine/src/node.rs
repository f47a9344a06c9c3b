//! This machine: its device manager, its folder, and the tasks its operations run in.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use san_core::{Cx, Deadline, DeviceManager, Effects, Error, ErrorKind, Lun, NodeName, OperationId, Result};
use san_host::Guard;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::locks::Locks;
use crate::masks::Masks;
use crate::reconciled::Repairs;
use crate::record::Attachments;
use crate::registry::Registry;
use crate::store::Folder;

/// What a node is made of.
#[derive(Debug)]
pub struct NodeConfig {
    /// The cluster it is in.
    pub realm: String,
    /// Its name in the cluster.
    pub name: NodeName,
    /// Where intents and attachment records lie. One process at a time may use it; the caller holds a lock on it.
    pub state: PathBuf,
    /// Where attached volumes appear as `<space>/<object>`.
    pub devices_folder: PathBuf,
    /// Where the rules of udev look for the disks that this host must not look into: `/etc/sanbridge/masked`.
    pub masks_folder: PathBuf,
    /// The operating system.
    pub host: Guard,
    /// Devices.
    pub devices: Arc<dyn DeviceManager>,
    /// The effect seam.
    pub effects: Effects,
}

/// Highest LUN given out: beyond 255 some initiators stop looking.
const HIGHEST_LUN: u16 = 255;

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) realm: String,
    pub(crate) name: NodeName,
    pub(crate) state: Folder,
    pub(crate) devices_folder: PathBuf,
    pub(crate) masks: Masks,
    pub(crate) host: Guard,
    pub(crate) devices: Arc<dyn DeviceManager>,
    effects: Effects,
    pub(crate) locks: Locks,
    pub(crate) registry: Registry,
    /// Operations that run now: node-wide, since a storage may be made anew while its operations run.
    pub(crate) active: Mutex<HashSet<OperationId>>,
    /// Storages whose leftovers of earlier processes were given back.
    pub(crate) started: Mutex<HashSet<String>>,
    /// What was put right by itself, by storage.
    pub(crate) repairs: Mutex<HashMap<String, Repairs>>,
    /// The last number given out, per array and range.
    last_lun: Mutex<HashMap<(String, Range), u16>>,
    tasks: Mutex<JoinSet<()>>,
    running: watch::Sender<usize>,
    halted: AtomicBool,
}

/// Counts one running task for as long as it lives.
#[derive(Debug)]
struct Running(Arc<Inner>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.send_modify(|it| *it = it.saturating_sub(1));
    }
}

/// This machine. Dropping it abandons what runs, exactly as if the process had been killed.
#[derive(Debug)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
}

impl Node {
    /// A node with no storage yet.
    pub fn new(config: NodeConfig) -> Self {
        Self {
            inner: Arc::new(Inner {
                realm: config.realm,
                name: config.name,
                state: Folder::at(config.state),
                devices_folder: config.devices_folder,
                masks: Masks::at(config.host.clone(), config.masks_folder),
                host: config.host,
                devices: config.devices,
                effects: config.effects,
                locks: Locks::default(),
                registry: Registry::default(),
                active: Mutex::default(),
                started: Mutex::default(),
                repairs: Mutex::default(),
                last_lun: Mutex::default(),
                tasks: Mutex::default(),
                running: watch::Sender::new(0),
                halted: AtomicBool::new(false),
            }),
        }
    }

    /// Its name.
    pub fn name(&self) -> &NodeName {
        &self.inner.name
    }

    /// The operating system, for whoever looks how it is set up.
    pub fn host(&self) -> &Guard {
        &self.inner.host
    }

    /// A context for reading, or for an operation of this node.
    pub fn cx(&self, deadline: Deadline, operation: OperationId) -> Cx {
        self.inner.cx(deadline, operation)
    }

    /// The operation's caller joins it again, if it is known.
    pub fn find(&self, id: OperationId) -> Option<crate::Ticket> {
        self.inner.registry.find(id)
    }

    /// Runs `task` beside the operations: it ends with the node.
    pub fn run(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.inner.spawn(task);
    }

    /// Waits until nothing runs any more, or the deadline. What still runs then goes on.
    pub async fn idle(&self, deadline: Deadline) -> Result<()> {
        let mut running = self.inner.running.subscribe();
        let idle = running.wait_for(|it| *it == 0);
        match tokio::time::timeout_at(deadline.instant(), idle).await {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(
                ErrorKind::Timeout,
                "operations still run; the next start finishes or undoes them",
            )),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.inner.halted.store(true, Ordering::SeqCst);
        self.inner.tasks.lock().unwrap_or_else(PoisonError::into_inner).abort_all();
    }
}

impl Inner {
    pub(crate) fn cx(&self, deadline: Deadline, operation: OperationId) -> Cx {
        Cx::new(deadline, operation, self.effects.clone())
    }

    /// Runs a task of this node. After the node was dropped nothing begins any more.
    pub(crate) fn spawn(self: &Arc<Self>, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        if !self.halted.load(Ordering::SeqCst) {
            self.running.send_modify(|it| *it += 1);
            let running = Running(Arc::clone(self));
            tasks.spawn(async move {
                task.await;
                drop(running);
            });
        }
    }

    /// Runs a task that has no end of its own: nobody waits for it.
    pub(crate) fn spawn_endless(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.halted.load(Ordering::SeqCst) {
            tasks.spawn(task);
        }
    }

    /// The numbers that attachments of this node have on `array`, whatever storage they belong to.
    pub(crate) async fn luns_on_record(&self, array: &str) -> Result<Vec<Lun>> {
        let mut luns = Vec::new();
        for space in self.state.names().await? {
            let records = Attachments::at(self.state.below(&space).below("attachments")).all().await?;
            luns.extend(records.into_iter().filter(|it| it.array == array).filter_map(|it| it.lun));
        }
        Ok(luns)
    }

    /// The free numbers of `array`, beginning behind the one given out last, so that a number rests as long as possible
    /// before it means another volume. What all nodes see and what one of them sees have ranges of their own: no other node knows
    /// what one that says nothing has under its own numbers. Only where nothing is mapped for all, the rest is given out as well.
    pub(crate) fn lun_choice(&self, array: &str, used: &[Lun], range: Range) -> Vec<Lun> {
        let (lowest, highest) = range.bounds();
        let inside = |it: &Lun| (lowest..=highest).contains(&it.number());
        let mut pointers = self.last_lun.lock().unwrap_or_else(PoisonError::into_inner);
        let newest = used.iter().filter(|it| inside(it)).map(|it| it.number()).max().unwrap_or(lowest - 1);
        let last = pointers.entry((array.to_owned(), range)).or_insert(newest);
        let free = free_luns(*last, range, used);
        if let Some(first) = free.first() {
            *last = first.number();
        }
        free
    }
}

/// Which numbers are given out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Range {
    /// To one node, where nothing is mapped for all of them.
    Whole,
    /// To one node beside what all of them see.
    OneNode,
    /// For all nodes.
    AllNodes,
}

impl Range {
    /// The lowest and the highest. Number 0 is left alone: hosts ask it for the list of all others.
    pub(crate) fn bounds(self) -> (u16, u16) {
        match self {
            Self::Whole => (1, HIGHEST_LUN),
            Self::OneNode => (1, HIGHEST_LUN / 2),
            Self::AllNodes => (HIGHEST_LUN / 2 + 1, HIGHEST_LUN),
        }
    }
}

/// The numbers of a range that are not used, in a circle that begins behind `last`.
fn free_luns(last: u16, range: Range, used: &[Lun]) -> Vec<Lun> {
    let (lowest, highest) = range.bounds();
    let behind = (last + 1).max(lowest);
    (behind..=highest)
        .chain(lowest..behind.min(highest + 1))
        .filter_map(Lun::new)
        .filter(|it| !used.contains(it))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(luns: &[Lun]) -> Vec<u16> {
        luns.iter().map(|it| it.number()).collect()
    }

    #[test]
    fn numbers_for_all_and_for_one_node_never_meet() {
        let (own, all) = (free_luns(0, Range::OneNode, &[]), free_luns(0, Range::AllNodes, &[]));
        assert_eq!((own.len(), all.len()), (127, 128));
        assert!(own.iter().all(|it| !all.contains(it)));
        assert_eq!(numbers(&free_luns(254, Range::AllNodes, &all[..1]))[..2], [255, 129]);
    }

    #[test]
    fn the_number_that_rested_longest_comes_first() {
        let used: Vec<Lun> = [1, 3, 4].into_iter().filter_map(Lun::new).collect();
        assert_eq!(numbers(&free_luns(1, Range::Whole, &used))[..3], [2, 5, 6]);
        assert_eq!(numbers(&free_luns(254, Range::Whole, &used))[..3], [255, 2, 5]);
        assert_eq!(numbers(&free_luns(255, Range::Whole, &[]))[..2], [1, 2]);
        assert_eq!(free_luns(0, Range::Whole, &[]).len(), 255);
        let all: Vec<Lun> = (0..=255).filter_map(Lun::new).collect();
        assert!(free_luns(7, Range::Whole, &all).is_empty());
    }
}
