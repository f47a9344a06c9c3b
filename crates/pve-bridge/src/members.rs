//! The nodes of the PVE cluster, as the cluster file system shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use san_core::{Cx, Error, ErrorKind, NodeName, Result};
use serde::Deserialize;

/// Whether a node is of the cluster, and alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Membership {
    /// It answers.
    Online,
    /// It is of the cluster and does not answer.
    Offline,
    /// It is not of the cluster.
    None,
}

/// The file of `/etc/pve` that tells the members. pmxcfs makes it anew at each look.
#[derive(Debug)]
pub(crate) struct Members(PathBuf);

/// It lies in memory.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct File {
    /// Absent where the node has no cluster.
    #[serde(default)]
    nodelist: BTreeMap<String, Member>,
}

#[derive(Deserialize)]
struct Member {
    #[serde(default)]
    online: u8,
}

impl Members {
    pub(crate) fn below(pve: &Path) -> Self {
        Self(pve.join(".members"))
    }

    /// What the cluster says of a node at this moment.
    pub(crate) async fn membership(&self, cx: &Cx, node: &NodeName) -> Result<Membership> {
        self.read(cx, |bytes| membership_in(bytes, node)).await
    }

    /// The names of all nodes of the cluster, this one among them; none where the node has no cluster.
    pub(crate) async fn names(&self, cx: &Cx) -> Result<BTreeSet<String>> {
        self.read(cx, |bytes| Ok(serde_json::from_slice::<File>(bytes)?.nodelist.into_keys().collect())).await
    }

    async fn read<T>(&self, cx: &Cx, understand: impl FnOnce(&[u8]) -> serde_json::Result<T>) -> Result<T> {
        let path = self.0.clone();
        let reading = tokio::task::spawn_blocking(move || std::fs::read(path));
        let read = cx.at_most(PATIENCE);
        let bytes = read.within("reading the members of the cluster", async { Ok(reading.await) }).await?;
        let unknown = || {
            Error::new(ErrorKind::Unavailable, "the members of the cluster are not known")
                .on(self.0.display())
                .with_remedy("systemctl status pve-cluster")
        };
        let bytes = bytes.map_err(|error| unknown().caused_by(error))?;
        let bytes = bytes.map_err(|error| unknown().caused_by(error))?;
        understand(&bytes).map_err(|error| unknown().caused_by(error))
    }
}

fn membership_in(bytes: &[u8], node: &NodeName) -> serde_json::Result<Membership> {
    let file: File = serde_json::from_slice(bytes)?;
    Ok(match file.nodelist.get(node.as_str()) {
        None => Membership::None,
        Some(it) if it.online == 0 => Membership::Offline,
        Some(_) => Membership::Online,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_known_is_no_absence() {
        let text = r#"{"nodename": "a", "version": 4, "cluster": {"name": "c", "version": 2, "nodes": 2, "quorate": 1},
            "nodelist": {"a": {"id": 1, "online": 1, "ip": "10.0.0.1"}, "b": {"id": 2, "online": 0}}}"#;
        let membership = |text: &str, node: &str| membership_in(text.as_bytes(), &node.parse().unwrap()).ok();
        assert_eq!(membership(text, "a"), Some(Membership::Online));
        assert_eq!(membership(text, "b"), Some(Membership::Offline));
        assert_eq!(membership(text, "c"), Some(Membership::None));
        assert_eq!(membership(&text[1..], "c"), None);
        assert_eq!(membership(&text[..60], "c"), None);
    }
}
