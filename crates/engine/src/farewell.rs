//! What remains of a node that is gone for ever: its mappings, notes, leases and host object end here. One that was reinstalled
//! under its name is such a node, and a new one.

use std::collections::BTreeSet;

use san_core::{Cx, Error, ErrorKind, HostAccess, Initiator, KnownHost, NodeName, Owner, Result};
use serde::{Deserialize, Serialize};

use crate::san::San;
use crate::tombstone::is_tombstone;

/// What is done while the array says that the machine that is to be forgotten is logged in to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LoggedIn {
    /// It may be running guests, and keeps what it has.
    #[default]
    Refuse,
    /// Somebody knows better.
    Ignore,
}

/// Of which disks the array is told that a node has them no longer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Disks {
    /// Those that the cluster notes.
    Noted,
    /// All, as long as the array has a host object of the node: what the new installation has tried and taken back has taken
    /// the notes of the former one away.
    All,
}

impl San {
    /// Ends what a node that is gone for ever has of this storage: its leases, its mappings, the readers of snapshots it had,
    /// the notes of them. Returns how many mappings and readers there were. The caller has made sure that nothing runs there. Repeatable.
    ///
    /// # Errors
    /// `InUse` while the node is logged in to the array, unless that is ignored.
    pub async fn forget_node(&self, cx: &Cx, node: &NodeName, logged_in: LoggedIn) -> Result<usize> {
        if node == self.node_name() {
            return Err(Error::new(ErrorKind::InvalidInput, "a node cannot end itself").on(node));
        }
        if logged_in == LoggedIn::Refuse
            && let Some(host) = self.array().host(cx, self.realm(), node).await?
        {
            self.require_logged_out(cx, node, &host.initiators).await?;
        }
        self.end_traces(cx, node, Disks::Noted).await
    }

    async fn end_traces(&self, cx: &Cx, node: &NodeName, which: Disks) -> Result<usize> {
        self.cluster().give_back_leftovers(cx, self.realm(), self.space(), node).await?;
        let host = self.array().host(cx, self.realm(), node).await?.map(|it| it.access);
        let mut ended = self.remove_readers_of(cx, node).await?;
        for owner in self.cluster().bound(cx, self.realm(), self.space()).await? {
            // Of a disk that was deleted under its hands nothing is noted any more.
            let may_have = (which == Disks::All && host.is_some())
                || is_tombstone(owner.object())
                || self.cluster().attached_on(cx, &owner).await?.contains(node);
            if may_have {
                ended += usize::from(self.end_presence(cx, &owner, node, host.as_ref()).await?);
            }
        }
        Ok(ended)
    }

    /// Ends one mapping and its note; whether there was a mapping.
    async fn end_presence(
        &self,
        cx: &Cx,
        owner: &Owner,
        node: &NodeName,
        host: Option<&HostAccess>,
    ) -> Result<bool> {
        let lease = self.cluster().lease(cx, owner).await?;
        let fenced = cx.fenced(lease.until);
        let ended = async {
            let bound = self.cluster().binding(&fenced, owner).await?;
            let was_mapped = match (host, bound) {
                (Some(host), Some(bound)) => {
                    let unmapped = self.array().ensure_unmapped(&fenced, &bound.id, &host.id).await;
                    unmapped.map_err(|error| error.on(owner.object()))?
                }
                _ => false,
            };
            self.cluster().note_detached(&fenced, owner, node).await?;
            Ok(was_mapped)
        };
        let ended = ended.await;
        self.cluster().give_back(cx, &lease).await?;
        ended
    }

    /// Removes the host object of such a node, once no storage of the array maps anything to it; whether there was one.
    ///
    /// # Errors
    /// `InUse` while something is mapped to it, `Conflict` where it is not one that was made for that node.
    pub async fn forget_host_of(&self, cx: &Cx, node: &NodeName) -> Result<bool> {
        let was_there = match self.array().host(cx, self.realm(), node).await? {
            Some(host) => {
                self.leave_all_nodes(cx, &host.initiators).await?;
                self.array().ensure_no_host(cx, &host.access.id).await?
            }
            None => false,
        };
        self.cluster().forget_hosts(cx, &self.array().profile().serial, node).await?;
        Ok(was_there)
    }

    /// Ends what an earlier installation of this node has of this storage; returns how many mappings and readers there were.
    /// The host object goes with [`San::renew_host`], once all storages of the array have let go of it. Repeatable.
    ///
    /// # Errors
    /// `Conflict` where the array knows this node by the names it has now, so that it is no other than before. `InUse` or
    /// `Busy` where this one has disks already, or is about to; `InUse` while the former one is logged in to the array, unless
    /// that is ignored.
    pub async fn forget_former(&self, cx: &Cx, logged_in: LoggedIn) -> Result<usize> {
        if let Some(record) = self.attached().await?.first() {
            return Err(Error::new(ErrorKind::InUse, "it is attached on this node")
                .on(record.view().file_name())
                .with_remedy("stop what uses it: what is here is not of an earlier installation"));
        }
        if let Some(open) = self.open_operations().await?.first() {
            let subject = open.object.clone().unwrap_or_default();
            return Err(Error::new(ErrorKind::Busy, "an operation of this node has not ended").on(subject));
        }
        let routes = self.routes(cx, &self.ports(cx).await?).await?;
        if let Some(lun) = self.devices().occupied(cx, &routes).await?.first() {
            let message =
                format!("LUN {lun} of this array is a device here, and this daemon knows nothing of it");
            return Err(Error::new(ErrorKind::InUse, message)
                .on(self.node_name())
                .with_remedy("start the node anew if nothing uses that device"));
        }
        match self.known_host(cx).await? {
            Some((host, true)) => {
                let message =
                    format!("the array knows this node by the initiator it has ({})", host.access.name);
                Err(Error::new(ErrorKind::Conflict, message).on(self.node_name()).with_remedy(
                    "nothing is to be replaced; a node that is gone for ever is ended with `sanbridge node remove`",
                ))
            }
            Some((host, false)) if logged_in == LoggedIn::Refuse => {
                let present = self.transport().initiators(cx).await?;
                let former: Vec<_> = host.initiators.into_iter().filter(|it| !present.contains(it)).collect();
                self.require_logged_out(cx, self.node_name(), &former).await?;
                self.end_traces(cx, &self.node_name().clone(), Disks::All).await
            }
            _ => self.end_traces(cx, &self.node_name().clone(), Disks::All).await,
        }
    }

    /// Makes sure that the machine with these initiators does not use the array. An array that cannot tell does not stop it.
    async fn require_logged_out(&self, cx: &Cx, node: &NodeName, initiators: &[Initiator]) -> Result<()> {
        let Some(role) = self.array().sessions() else { return Ok(()) };
        let Some(session) = role.sessions_of(cx, initiators).await?.into_iter().next() else { return Ok(()) };
        let from = match session.from.as_slice() {
            [] => String::new(),
            some => format!(" from {}", some.join(", ")),
        };
        let message =
            format!("the machine that had this name is logged in to the array ({}{from})", session.initiator);
        Err(Error::new(ErrorKind::InUse, message).on(node).with_remedy(
            "switch it off; where it is off, the array notices within minutes; where you know better, use --logged-in",
        ))
    }

    /// Makes the array know this node by the initiators it has now, and by no others; whether it knew it by others.
    ///
    /// # Errors
    /// `InUse` while something is mapped to the former ones.
    pub async fn renew_host(&self, cx: &Cx) -> Result<bool> {
        let former = match self.known_host(cx).await? {
            Some((host, false)) => {
                self.leave_all_nodes(cx, &host.initiators).await?;
                self.array().ensure_no_host(cx, &host.access.id).await?;
                self.cluster().forget_hosts(cx, &self.array().profile().serial, self.node_name()).await?;
                true
            }
            _ => false,
        };
        self.forget_host().await;
        self.forget_shared_host().await;
        self.announce(cx).await?;
        Ok(former)
    }

    /// This node's host object, and whether it holds the initiators that this node has, and no others.
    async fn known_host(&self, cx: &Cx) -> Result<Option<(KnownHost, bool)>> {
        let Some(known) = self.array().host(cx, self.realm(), self.node_name()).await? else {
            return Ok(None);
        };
        let names = |of: &[_]| of.iter().map(ToString::to_string).collect::<BTreeSet<String>>();
        let present = names(&self.transport().initiators(cx).await?);
        let is_present = names(&known.initiators) == present;
        Ok(Some((known, is_present)))
    }
}
