//! What remains of a node that is gone for ever: its mappings, notes, leases and host object end here.

use san_core::{Cx, Error, ErrorKind, HostAccess, NodeName, Owner, Result};

use crate::san::San;
use crate::tombstone::is_tombstone;

impl San {
    /// Ends what a node that is gone for ever has of this storage: its leases, its mappings, the readers of snapshots it had,
    /// the notes of them. Returns how many mappings and readers there were. The caller has made sure that nothing runs there. Repeatable.
    pub async fn forget_node(&self, cx: &Cx, node: &NodeName) -> Result<usize> {
        if node == self.node_name() {
            return Err(Error::new(ErrorKind::InvalidInput, "a node cannot end itself").on(node));
        }
        self.cluster().give_back_leftovers(cx, self.realm(), self.space(), node).await?;
        let host = self.array().host(cx, self.realm(), node).await?;
        let mut ended = self.remove_readers_of(cx, node).await?;
        for owner in self.cluster().bound(cx, self.realm(), self.space()).await? {
            // Of a disk that was deleted under its hands nothing is noted any more.
            let may_have =
                is_tombstone(owner.object()) || self.cluster().attached_on(cx, &owner).await?.contains(node);
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
                    self.array().ensure_unmapped(&fenced, &bound.id, &host.id).await?
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
            Some(host) => self.array().ensure_no_host(cx, &host.id).await?,
            None => false,
        };
        self.cluster().forget_hosts(cx, &self.array().profile().serial, node).await?;
        Ok(was_there)
    }
}
