//! `admin.node.remove` and `admin.node.replace`: what remains of a node that is gone for ever, or that was reinstalled under its
//! name.

use san_core::{Cx, Error, ErrorKind, NodeName, Result};
use san_engine::{LoggedIn, Node};
use serde::{Deserialize, Serialize};

use super::{Problem, Ready, side_by_side};
use crate::members::{Members, Membership};
use crate::peers::Peers;
use crate::storage::Storages;

/// Which node.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Remove {
    node: NodeName,
    listed: Listed,
    #[serde(default)]
    logged_in: LoggedIn,
}

/// Which node was reinstalled.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Replace {
    node: NodeName,
    #[serde(default)]
    logged_in: LoggedIn,
}

/// What is done with a node that the cluster still has among its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Listed {
    /// It may only be switched off, and is refused.
    Refuse,
    /// Somebody knows that it never comes back as it was.
    Remove,
}

/// What was ended.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Removed {
    pub(crate) node: NodeName,
    pub(crate) storages: Vec<RemovedFrom>,
    pub(crate) problems: Vec<Problem>,
}

/// What was ended of one storage.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RemovedFrom {
    pub(crate) storage: String,
    /// How many disks were mapped to it.
    pub(crate) mappings: usize,
    /// Whether its host object on the array was there, and is gone or, where it is this node's, made anew. Storages of one array
    /// share it.
    pub(crate) host: bool,
}

/// Ends it, unless the node may be alive: by the word of PVE or of the arrays.
pub(crate) async fn remove(
    cx: &Cx,
    storages: &Storages,
    members: &Members,
    peers: &Peers,
    of: Remove,
) -> Result<Removed> {
    let Remove { node, listed, logged_in } = of;
    let refused = |message: String, remedy: &'static str| {
        Err(Error::new(ErrorKind::InUse, message).on(&node).with_remedy(remedy))
    };
    match (members.membership(cx, &node).await?, listed) {
        (Membership::Online, _) => {
            return refused("the node is alive".to_owned(), "detach its disks there, or switch it off first");
        }
        (Membership::Offline, Listed::Refuse) => {
            return refused(
                "the node is a member of the cluster and may only be switched off".to_owned(),
                "remove it from the cluster (pvecm delnode), or, where it never comes back as it was, use --listed",
            );
        }
        (Membership::Offline, Listed::Remove) | (Membership::None, _) => {}
    }
    end(cx, storages, peers, node, logged_in).await
}

/// Makes arrays know a node that was reinstalled by its new initiators. On the node itself that is all of it; on another one
/// the former installation is ended, and the new one introduces itself when it attaches its first disk.
pub(crate) async fn replace(
    cx: &Cx,
    here: &Node,
    storages: &Storages,
    members: &Members,
    peers: &Peers,
    of: Replace,
) -> Result<Removed> {
    let Replace { node, logged_in } = of;
    if node == *here.name() {
        return replace_here(cx, storages, node, logged_in).await;
    }
    if members.membership(cx, &node).await? == Membership::Online {
        return Err(Error::new(ErrorKind::InUse, "the node is alive").on(&node).with_remedy(format!(
            "where it was reinstalled already, run `sanbridge node replace {node}` on it; else switch it off first"
        )));
    }
    end(cx, storages, peers, node, logged_in).await
}

async fn replace_here(cx: &Cx, storages: &Storages, node: NodeName, logged_in: LoggedIn) -> Result<Removed> {
    tracing::warn!(%node, "ending what remains of this node's earlier installation");
    let ready = Ready::of(cx, storages, None).await?;
    if matches!(&ready, Ready::All(storages, problems) if storages.is_empty() && problems.is_empty()) {
        return Err(Error::new(ErrorKind::NotFound, "this node serves no storage yet")
            .on(&node)
            .with_remedy("pvesm status makes PVE ask for all of them"));
    }
    let (ended, mut problems) = side_by_side(ready, async |storage| {
        storage.san.forget_former(cx, logged_in).await.map(|mappings| (storage, mappings))
    })
    .await?;
    let mut done = Vec::new();
    for (storage, mappings) in ended {
        let id = storage.san.space().to_owned();
        match storage.san.renew_host(cx).await {
            Ok(host) => done.push(RemovedFrom { storage: id, mappings, host }),
            Err(error) => problems.push(Problem::new(id, &error)),
        }
    }
    Ok(Removed { node, storages: done, problems })
}

async fn end(
    cx: &Cx,
    storages: &Storages,
    peers: &Peers,
    node: NodeName,
    logged_in: LoggedIn,
) -> Result<Removed> {
    tracing::warn!(%node, "ending what remains of a node");
    let (ended, mut problems) = side_by_side(Ready::of(cx, storages, None).await?, async |storage| {
        storage.san.forget_node(cx, &node, logged_in).await.map(|mappings| (storage, mappings))
    })
    .await?;
    let mut done = Vec::new();
    // Storages of one array share the host object: it goes when all of them have let go of it.
    for (storage, mappings) in ended {
        let id = storage.san.space().to_owned();
        match storage.san.forget_host_of(cx, &node).await {
            Ok(host) => done.push(RemovedFrom { storage: id, mappings, host }),
            Err(error) => problems.push(Problem::new(id, &error)),
        }
    }
    // Where something of it was left as it is, it is not forgotten either.
    if problems.is_empty() {
        peers.forget(cx, &node).await?;
    }
    Ok(Removed { node, storages: done, problems })
}
