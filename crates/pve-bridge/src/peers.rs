//! The daemons of a cluster: which version of the package each node has, in a small file of the cluster file system for each.

use std::collections::BTreeMap;

use san_core::{Cx, NodeName, Result};
use san_engine::Folder;
use serde::{Deserialize, Serialize};

/// What this daemon is.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Note {
    version: String,
}

/// The notes of all nodes.
#[derive(Debug)]
pub(crate) struct Peers(Folder);

impl Peers {
    /// In the cluster's folder.
    pub(crate) fn below(folder: &Folder) -> Self {
        Self(folder.below("nodes"))
    }

    /// Tells the others what runs on this node. Written only where it changed.
    pub(crate) async fn note(&self, cx: &Cx, node: &NodeName) -> Result<()> {
        let here = Note { version: VERSION.to_owned() };
        if self.0.read::<Note>(node.as_str()).await.is_ok_and(|it| it.as_ref() == Some(&here)) {
            return Ok(());
        }
        self.0.write(cx, node.as_str(), &here).await
    }

    /// A node is gone for ever.
    pub(crate) async fn forget(&self, cx: &Cx, node: &NodeName) -> Result<()> {
        self.0.remove(cx, node.as_str()).await.map(drop)
    }

    /// The version of each node whose daemon has run with one that tells it.
    pub(crate) async fn versions(&self) -> Result<BTreeMap<String, String>> {
        let mut versions = BTreeMap::new();
        for node in self.0.names().await? {
            if let Some(note) = self.0.read::<Note>(&node).await? {
                versions.insert(node, note.version);
            }
        }
        Ok(versions)
    }
}
