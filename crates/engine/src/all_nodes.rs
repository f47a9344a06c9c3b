//! Volumes that are mapped once for all nodes, so that each can attach them while the array cannot be asked; and the numbers of
//! mappings, for one node and for all.

use std::time::Duration;

use san_core::{
    Cx, Deadline, Device, Error, ErrorKind, Expected, HostAccess, HostSpec, Initiator, Lun, LunChoice,
    Mapping, OperationId, Result, SharedAccess, Visibility, Volume, VolumeKey,
};

use crate::cluster::Binding;
use crate::node::Range;
use crate::record::Attachment;
use crate::san::San;
use crate::tombstone::is_tombstone;

/// How long a look at the cluster's notes may take.
const LOOK: Duration = Duration::from_secs(30);
/// How long scans may take that nobody waited for.
const SCAN: Duration = Duration::from_secs(10);

impl San {
    /// How new disks are mapped.
    pub(crate) fn visibility(&self) -> Visibility {
        self.shared().config.visibility
    }

    /// Whether they are mapped for all nodes.
    pub(crate) fn is_for_all(&self) -> bool {
        self.visibility() == Visibility::Shared
    }

    fn shared_access(&self) -> Result<&dyn SharedAccess> {
        self.array().shared_access().ok_or_else(|| {
            Error::new(ErrorKind::Unsupported, "this array maps volumes node by node only")
                .on(&self.array().profile().name)
        })
    }

    /// The host object of all nodes, made sure of once, with this one in it.
    pub(crate) async fn shared_host(&self, cx: &Cx) -> Result<HostAccess> {
        let mut host = cx
            .within("waiting for the host object of all nodes", async {
                Ok(self.shared().host_of_all.lock().await)
            })
            .await?;
        let array = &self.array().profile().serial;
        let access = if let Some(known) = &*host {
            known.clone()
        } else {
            let spec = HostSpec {
                realm: self.realm().to_owned(),
                node: self.node_name().clone(),
                initiators: self.transport().initiators(cx).await?,
            };
            self.shared_access()?.ensure_member(cx, &spec).await?.into_inner()
        };
        // Without the note other nodes would take it for a stranger's.
        if !self.cluster().is_shared_host(cx, array, &access.id).await? {
            self.cluster().note_shared_host(cx, array, &access.id).await?;
        }
        *host = Some(access.clone());
        Ok(access)
    }

    /// Makes this node one of those that see volumes mapped for all, so that it can attach them even if it has never asked the
    /// array for one. Costs nothing once it is known.
    pub async fn join_all_nodes(&self) -> Result<()> {
        if !self.is_for_all() {
            return Ok(());
        }
        let cx = self.cx(Deadline::after(LOOK), OperationId::random());
        // Its own host object too: by that it is known when it is gone for ever.
        let joined = self.announce(&cx).await;
        match &joined {
            Ok(()) => self.shared().joining.end(self.space()),
            Err(error) => {
                // Long before a guest has to start here.
                if self.shared().joining.rest(self.space(), error.chain().to_string()) {
                    tracing::warn!(storage = %self.space(), error = %error.chain(), "this node does not see yet what all nodes see");
                }
            }
        }
        joined
    }

    /// Why this node may not see what all nodes see; `None` where it does, or where nothing is mapped for all.
    pub fn outside(&self) -> Option<String> {
        self.shared().joining.of(self.space()).map(|(why, _)| why)
    }

    /// Takes initiators of a node that is gone out of them.
    pub(crate) async fn leave_all_nodes(&self, cx: &Cx, initiators: &[Initiator]) -> Result<()> {
        match self.array().shared_access() {
            Some(access) => access.ensure_no_member(cx, self.realm(), initiators).await.map(drop),
            None => Ok(()),
        }
    }

    /// What was known of the host object of all nodes may be wrong.
    pub(crate) async fn forget_shared_host(&self) {
        self.shared().host_of_all.lock().await.take();
    }

    /// Maps a volume for all nodes; `kept` is the number it had.
    pub(crate) async fn share(&self, cx: &Cx, volume: &Volume, kept: Option<Lun>) -> Result<Mapping> {
        let host = self.shared_host(cx).await?;
        let choice = self.lun_choice(cx, kept, Visibility::Shared).await?;
        let mapped = match self.array().ensure_mapped(cx, volume, &host, &choice).await {
            // Somebody removed the host object: it is made again, once.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                self.forget_shared_host().await;
                let host = self.shared_host(cx).await?;
                self.array().ensure_mapped(cx, volume, &host, &choice).await?
            }
            other => other?,
        };
        Ok(mapped.into_inner())
    }

    /// Ends the mapping for all nodes, if there is one. The caller has made sure that no node has the volume.
    pub(crate) async fn unshare(&self, cx: &Cx, bound: &Binding) -> Result<()> {
        let Some(volume) = self.array().volume(cx, &VolumeKey::Id(bound.id.clone())).await? else {
            return Ok(());
        };
        if let Some(host) = self.sorted_mappings(cx, &volume).await?.shared {
            self.array().ensure_unmapped(cx, &volume.id, &host.id).await?;
        }
        Ok(())
    }

    /// A scan that was begun for the volume, by this process or by an earlier one, may end when nobody waits for it any more. Where
    /// the mapping goes it finds nothing then; what all nodes see it would bring back behind our back. One scan of a host waits
    /// for the other, so that where legs are missing, another scan before the device is taken down leaves nothing to come.
    pub(crate) async fn await_scans(
        &self,
        cx: &Cx,
        record: &Attachment,
        expect: &Expected,
        seen: Option<Device>,
    ) -> Option<Device> {
        let is_whole = seen.as_ref().is_some_and(|it| it.missing.is_empty());
        if record.visibility == Visibility::PerNode || is_whole {
            return seen;
        }
        let scanned = async {
            let routes = self.routes(cx, &record.ports).await?;
            self.devices().attach(&cx.at_most(SCAN), expect, &routes).await
        };
        match scanned.await {
            Ok(device) => Some(device),
            Err(error) => {
                tracing::debug!(volume = %record.owner, error = %error.chain(), "nothing came of a scan before it is taken down");
                seen
            }
        }
    }

    /// Writes down how all nodes see the owner's volume by now.
    pub(crate) async fn rebind_shared(&self, cx: &Cx, of: &Binding, shared: Option<Mapping>) -> Result<()> {
        match self.cluster().binding(cx, &of.owner).await? {
            Some(now) if now.id == of.id && now.shared != shared => {
                self.cluster().bind(cx, &Binding { shared, ..now }).await
            }
            _ => Ok(()),
        }
    }

    /// The numbers a new mapping may get, best first; `kept` is the one it had.
    pub(crate) async fn lun_choice(&self, cx: &Cx, kept: Option<Lun>, of: Visibility) -> Result<LunChoice> {
        let array = &self.array().profile().serial;
        let mut used = self.shared().node.luns_on_record(array).await?;
        let routes = self.routes(cx, &self.ports(cx).await?).await?;
        used.extend(self.devices().occupied(cx, &routes).await?);
        if self.is_for_all() {
            used.extend(self.numbers_for_all(cx).await?);
        }
        let range = match of {
            Visibility::Shared => Range::AllNodes,
            Visibility::PerNode if self.is_for_all() => Range::OneNode,
            Visibility::PerNode => Range::Whole,
        };
        let mut choice: Vec<Lun> = kept.into_iter().collect();
        choice.extend(self.shared().node.lun_choice(array, &used, range));
        if choice.is_empty() { Err(self.no_number(range)) } else { Ok(LunChoice(choice)) }
    }

    /// Refuses where every number is taken by disks that all nodes see, before anything is made for one more.
    pub(crate) async fn require_number_for_all(&self, cx: &Cx) -> Result<()> {
        let used = self.numbers_for_all(cx).await?;
        let (lowest, highest) = Range::AllNodes.bounds();
        let is_free = |number| Lun::new(number).is_some_and(|it| !used.contains(&it));
        if (lowest..=highest).any(is_free) { Ok(()) } else { Err(self.no_number(Range::AllNodes)) }
    }

    fn no_number(&self, range: Range) -> Error {
        let (lowest, highest) = range.bounds();
        let (whose, remedy) = match range {
            Range::Whole | Range::OneNode => {
                ("this node", "detach disks, or snapshots, that are not needed here")
            }
            Range::AllNodes => (
                "all nodes",
                "delete disks, put some on a storage of another SVM, or set sanbridge-all-nodes to 0",
            ),
        };
        let message = format!("no LUN from {lowest} to {highest} is free for {whose} on this array");
        Error::new(ErrorKind::LimitReached, message).on(self.space()).with_remedy(remedy)
    }

    /// The numbers of this storage's disks that all nodes see, attached here or not.
    async fn numbers_for_all(&self, cx: &Cx) -> Result<Vec<Lun>> {
        let mut numbers = Vec::new();
        for owner in self.cluster().bound(cx, self.realm(), self.space()).await? {
            let bound = self.cluster().binding(cx, &owner).await?;
            numbers.extend(bound.and_then(|it| it.shared).map(|it| it.lun));
        }
        Ok(numbers)
    }

    /// Takes back the notes that this node has what was deleted under its hands, once it is gone here.
    pub async fn let_go_of_deleted(&self) -> Result<()> {
        let cx = self.cx(Deadline::after(LOOK), OperationId::random());
        let here = self.attached().await?;
        for owner in self.cluster().bound(&cx, self.realm(), self.space()).await? {
            if !is_tombstone(owner.object())
                || !self.cluster().attached_on(&cx, &owner).await?.contains(self.node_name())
            {
                continue;
            }
            let bound = self.cluster().binding(&cx, &owner).await?;
            if bound.is_none_or(|bound| here.iter().all(|it| it.volume != bound.id)) {
                self.cluster().note_detached(&cx, &owner, self.node_name()).await?;
            }
        }
        Ok(())
    }
}
