//! [`World`]: several nodes and several arrays, and proof that it is as it was.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::inventory::Inventory;
use super::machine::{Arrays, Machine};
use super::node::SimNode;
use super::plane::BlockPlane;
use super::settings::NodeSpec;
use crate::target::Target;

/// Nodes and arrays. Cheap to clone; all clones are the same world. Time is tokio's, so that a paused clock works.
#[derive(Debug, Clone)]
pub struct World(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    began: Instant,
    arrays: Arrays,
    nodes: Mutex<BTreeMap<String, SimNode>>,
    plane: Option<Arc<dyn BlockPlane>>,
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// An empty world without real block devices.
    pub fn new() -> Self {
        Self::make(None)
    }

    /// An empty world whose maps get real block devices.
    pub fn with_plane(plane: Arc<dyn BlockPlane>) -> Self {
        Self::make(Some(plane))
    }

    fn make(plane: Option<Arc<dyn BlockPlane>>) -> Self {
        Self(Arc::new(Shared {
            began: Instant::now(),
            arrays: Arrays::default(),
            nodes: Mutex::new(BTreeMap::new()),
            plane,
        }))
    }

    /// Puts an array on every node's network.
    pub fn add_array(&self, array: Arc<dyn Target>) {
        self.0.arrays.lock().unwrap_or_else(PoisonError::into_inner).push(array);
    }

    /// Makes a node; one of the same name is replaced.
    pub fn add_node(&self, spec: NodeSpec) -> SimNode {
        let mut nodes = self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let name = spec.name.clone();
        let (arrays, plane) = (Arc::clone(&self.0.arrays), self.0.plane.clone());
        let node = SimNode::new(Machine::new(spec, nodes.len(), arrays, self.0.began, plane));
        nodes.insert(name, node.clone());
        node
    }

    /// A node by name.
    pub fn node(&self, name: &str) -> Option<SimNode> {
        self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// All nodes, by name.
    pub fn nodes(&self) -> Vec<SimNode> {
        self.0.nodes.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// How long the world has been there.
    pub fn elapsed(&self) -> Duration {
        self.0.began.elapsed()
    }

    /// What every node has now.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.nodes().iter().map(|it| (it.name(), it.inventory())).collect())
    }
}

/// What every node of a world had at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<String, Inventory>);

impl Snapshot {
    /// One node's part.
    pub fn node(&self, name: &str) -> Option<&Inventory> {
        self.0.get(name)
    }

    /// What has gone (`-`) and come (`+`) since this snapshot, one line each, by node. Empty: all is as before.
    pub fn diff(&self, later: &Self) -> Vec<String> {
        let mut lines = Vec::new();
        let names: std::collections::BTreeSet<&String> = self.0.keys().chain(later.0.keys()).collect();
        for name in names {
            let before = self.0.get(name).map(Inventory::lines).unwrap_or_default();
            let after = later.0.get(name).map(Inventory::lines).unwrap_or_default();
            lines.extend(before.difference(&after).map(|it| format!("{name}: - {it}")));
            lines.extend(after.difference(&before).map(|it| format!("{name}: + {it}")));
        }
        lines
    }
}
