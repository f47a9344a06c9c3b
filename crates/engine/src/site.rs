//! What plans need of a storage: look-ups with their proofs, mappings, routes, and the place where devices are published.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use san_core::{
    ByteSize, Cx, Device, DeviceManager, Error, ErrorKind, Expected, Holder, HostAccess, HostLogin, HostSpec,
    MappedHost, Mapping, Marked, NodeName, OperationId, Owner, PortState, Result, Route, TargetPort,
    Transport, Usage, Volume, VolumeKey, VolumeKind, VolumeName, spread,
};

use crate::cluster::{Binding, Cluster};
use crate::disk_view::View;
use crate::intent::Intents;
use crate::node::Inner;
use crate::record::{Attachment, Attachments};
use crate::san::{RunningMark, San};

/// How long the array may take to hear what this node proves, before sessions are made without that.
const RENEWAL: Duration = Duration::from_secs(10);
/// How long a visitor of a device is waited for.
const VISIT: Duration = Duration::from_secs(5);
/// Nobody announces that a device was closed.
const VISIT_PAUSE: Duration = Duration::from_millis(50);

/// A mapping for another host, with the node of this cluster it stands for.
pub(crate) type Other = (MappedHost, Option<NodeName>);

/// Who may see a volume.
#[derive(Debug, Default)]
pub(crate) struct Mappings {
    /// For this node.
    pub(crate) ours: Vec<MappedHost>,
    /// For all nodes together: who of them has it attached, the array does not know.
    pub(crate) shared: Option<MappedHost>,
    /// For others.
    pub(crate) others: Vec<Other>,
}

impl San {
    pub(crate) fn node(&self) -> &Arc<Inner> {
        &self.shared().node
    }

    pub(crate) fn node_name(&self) -> &NodeName {
        &self.shared().node.name
    }

    pub(crate) fn realm(&self) -> &str {
        &self.shared().node.realm
    }

    pub(crate) fn cluster(&self) -> &Arc<dyn Cluster> {
        &self.shared().config.cluster
    }

    pub(crate) fn devices(&self) -> &Arc<dyn DeviceManager> {
        &self.shared().node.devices
    }

    pub(crate) fn transport(&self) -> &Arc<dyn Transport> {
        &self.shared().config.transport
    }

    pub(crate) fn intents(&self) -> &Intents {
        &self.shared().intents
    }

    pub(crate) fn attachments(&self) -> &Attachments {
        &self.shared().attachments
    }

    /// Marks an operation as running; `None` where it runs already.
    pub(crate) fn mark_running(&self, id: OperationId) -> Option<RunningMark> {
        let is_new = self.shared().node.active.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        is_new.then(|| RunningMark::new(self.clone(), id))
    }

    pub(crate) fn is_running(&self, id: OperationId) -> bool {
        self.shared().node.active.lock().unwrap_or_else(PoisonError::into_inner).contains(&id)
    }

    pub(crate) fn encode(&self, owner: &Owner) -> Result<VolumeName> {
        self.shared().codec.encode(owner)
    }

    /// The size the array can make of a request.
    pub(crate) fn checked_size(&self, size: ByteSize) -> Result<ByteSize> {
        let limits = &self.array().profile().limits;
        let too_large = || {
            let message =
                format!("{size} is more than the largest volume of this array ({})", limits.volume_max);
            Error::new(ErrorKind::InvalidInput, message)
        };
        if size == ByteSize::ZERO {
            return Err(Error::new(ErrorKind::InvalidInput, "a disk cannot be empty"));
        }
        let rounded = size.max(limits.volume_min).round_up_to(limits.volume_granule).ok_or_else(too_large)?;
        if rounded > limits.volume_max { Err(too_large()) } else { Ok(rounded) }
    }

    pub(crate) fn no_such(&self, owner: &Owner) -> Error {
        let message =
            format!("{} has no such volume in storage {}", self.array().profile().name, self.space());
        Error::new(ErrorKind::NotFound, message).on(owner.object())
    }

    /// The owner's volume with its mappings, proved to be its own; `None` where it is proved absent. The binding is
    /// brought up to date. One request where the binding is right.
    pub(crate) async fn find(
        &self,
        cx: &Cx,
        owner: &Owner,
        bound: Option<&Binding>,
    ) -> Result<Option<Volume>> {
        if let Some(bound) = bound
            && let Some(volume) = self.array().volume(cx, &VolumeKey::Id(bound.id.clone())).await?
        {
            require_ours(owner, &volume, Some(bound))?;
            if volume.name != self.encode(owner)? {
                return self.renamed(cx, bound, volume).await;
            }
            self.rebind(cx, owner, &volume, Some(bound)).await?;
            return Ok(Some(volume));
        }
        let name = self.encode(owner)?;
        let Some(volume) = self.array().volume(cx, &VolumeKey::Name(name)).await? else { return Ok(None) };
        require_ours(owner, &volume, None)?;
        if bound.is_none() && volume.mapped.is_some() {
            self.note_whoever_may_have(cx, owner, &volume).await?;
        }
        // Once it is bound nobody asks for this again.
        self.rebind(cx, owner, &volume, bound).await?;
        Ok(Some(volume))
    }

    /// What was known of it is lost, so that nothing tells who has it but the array; and where it is mapped for all nodes,
    /// nobody does: each is asked before anything is done to it.
    pub(crate) async fn note_whoever_may_have(&self, cx: &Cx, owner: &Owner, volume: &Volume) -> Result<()> {
        let mappings = self.sorted_mappings(cx, volume).await?;
        let mut nodes: Vec<NodeName> = mappings.others.into_iter().filter_map(|(_, node)| node).collect();
        if mappings.shared.is_some() {
            nodes.extend(self.known_hosts(cx).await?.into_iter().filter(|it| it != self.node_name()));
        }
        for node in nodes {
            self.cluster().note_attached(cx, owner, &node).await?;
        }
        Ok(())
    }

    /// Why the owner's volume has another name on the array; `None`: it was deleted. A renaming that has not ended is no
    /// absence: it may yet be taken back, and nobody may take the old name meanwhile.
    async fn renamed(&self, cx: &Cx, bound: &Binding, volume: Volume) -> Result<Option<Volume>> {
        let owner = &bound.owner;
        let now = self.array().volume(cx, &VolumeKey::Name(volume.name.clone())).await;
        let conflict = |message: String| Error::new(ErrorKind::Conflict, message).on(owner.object());
        let error = match now.map(|it| it.filter(|it| it.id == volume.id).map(|it| it.mark)) {
            Ok(Some(Marked::Ours(mark))) if mark.kind == VolumeKind::Deleting => {
                // Whoever deleted it came no further than the array.
                self.bind_tombstone(cx, bound, mark.owner).await?;
                return Ok(None);
            }
            Ok(Some(Marked::Ours(mark))) if mark.owner != *owner => {
                let now = mark.owner.object();
                let remedy = format!(
                    "start sanbridge on the node that renamed it; if that is lost for ever, use the volume as {now}"
                );
                conflict(format!("operation {} gave it the name {now} and has not ended", mark.claim))
                    .with_remedy(remedy)
            }
            _ => conflict(format!("its volume is called {} on the array now", volume.name))
                .with_remedy("give it its former name back on the array"),
        };
        Err(error)
    }

    pub(crate) async fn rebind(
        &self,
        cx: &Cx,
        owner: &Owner,
        volume: &Volume,
        bound: Option<&Binding>,
    ) -> Result<()> {
        let Some(identity) = volume.identity.clone() else { return Ok(()) };
        let (kind, template) = match &volume.mark {
            Marked::Ours(mark) => (mark.kind, mark.template.clone()),
            // Its mark was not read again, since the binding knows it.
            _ => bound.map(|it| (it.kind, it.template.clone())).unwrap_or_default(),
        };
        let binding = Binding {
            owner: owner.clone(),
            id: volume.id.clone(),
            name: volume.name.clone(),
            identity,
            size: Some(volume.size),
            kind,
            template,
            // A look by the array's key does not show it.
            place: volume.place.clone().or_else(|| bound.and_then(|it| it.place.clone())),
            deleted: bound.and_then(|it| it.deleted),
            shared: bound.and_then(|it| it.shared.clone()).and_then(|it| still_shared(volume, it)),
        };
        if bound == Some(&binding) { Ok(()) } else { self.cluster().bind(cx, &binding).await }
    }

    /// Writes the size into a binding as it is now, not as it was when the operation began. One of another object is left
    /// alone.
    pub(crate) async fn rebind_size(&self, cx: &Cx, of: &Binding, size: Option<ByteSize>) -> Result<()> {
        match self.cluster().binding(cx, &of.owner).await? {
            Some(now) if now.id == of.id && now.size != size => {
                self.cluster().bind(cx, &Binding { size, ..now }).await
            }
            _ => Ok(()),
        }
    }

    /// The owner's binding, from the cluster or, once, from the array.
    pub(crate) async fn bound(&self, cx: &Cx, owner: &Owner) -> Result<Binding> {
        if let Some(bound) = self.cluster().binding(cx, owner).await? {
            return Ok(bound);
        }
        let volume = self.find(cx, owner, None).await?.ok_or_else(|| self.no_such(owner))?;
        volume.identity()?;
        self.cluster().binding(cx, owner).await?.ok_or_else(|| self.no_such(owner))
    }

    /// The same with a size, asking the array where only it knows.
    pub(crate) async fn bound_with_size(&self, cx: &Cx, owner: &Owner) -> Result<Binding> {
        let bound = self.bound(cx, owner).await?;
        if bound.size.is_some() {
            return Ok(bound);
        }
        let volume = self.find(cx, owner, Some(&bound)).await?.ok_or_else(|| self.no_such(owner))?;
        volume.identity()?;
        self.bound(cx, owner).await
    }

    /// Its mappings, sorted by whom they are for.
    pub(crate) async fn sorted_mappings(&self, cx: &Cx, volume: &Volume) -> Result<Mappings> {
        let Some(mapped) = &volume.mapped else {
            return Err(
                Error::new(ErrorKind::Internal, "the array was not asked for its mappings").on(&volume.name)
            );
        };
        let array = &self.array().profile().serial;
        let mut sorted = Mappings::default();
        for host in mapped.iter().cloned() {
            match self.cluster().node_of_host(cx, array, &host.id).await? {
                Some(node) if node == *self.node_name() => sorted.ours.push(host),
                None if self.cluster().is_shared_host(cx, array, &host.id).await? => {
                    sorted.shared = Some(host);
                }
                node => sorted.others.push((host, node)),
            }
        }
        Ok(sorted)
    }

    /// The other nodes that have it, or may have it.
    pub(crate) async fn attached_elsewhere(&self, cx: &Cx, owner: &Owner) -> Result<Vec<NodeName>> {
        let mut nodes = self.cluster().attached_on(cx, owner).await?;
        nodes.retain(|it| it != self.node_name());
        Ok(nodes)
    }

    /// Proves that nobody on this node uses an attachment.
    pub(crate) async fn require_unused(&self, cx: &Cx, record: &Attachment) -> Result<()> {
        let Some(expect) = record.expected() else { return Ok(()) };
        match self.inspect(cx, &expect, &record.ports).await? {
            Some(device) => self.require_idle(cx, &record.view(), &device).await,
            None => Ok(()),
        }
    }

    /// Proves that nobody on this node uses a device. Short visits are waited for: udev opens every new device for a
    /// moment, and QEMU closes its disks some time after it said that it would end.
    pub(crate) async fn require_idle(&self, cx: &Cx, view: &View, device: &Device) -> Result<()> {
        let last = std::sync::Mutex::new(Vec::new());
        let look = || async {
            match self.devices().usage(cx, device).await? {
                Usage::Idle => Ok(Some(true)),
                Usage::InUse(holders) => {
                    // Whoever mounts it or stacks something on it stays.
                    let stays = holders.iter().any(|it| !matches!(it, Holder::Openers(_)));
                    *last.lock().unwrap_or_else(PoisonError::into_inner) = holders;
                    Ok(stays.then_some(false))
                }
            }
        };
        let visit = cx.at_most(VISIT);
        let host = &self.shared().node.host;
        let idle = host.wait_for(&visit, "waiting for its users to go", VISIT_PAUSE, look);
        let idle = idle.await;
        let last = last.into_inner().unwrap_or_else(PoisonError::into_inner);
        match idle {
            Ok(true) => Ok(()),
            Err(error) if error.kind() != ErrorKind::Timeout || last.is_empty() => Err(error),
            _ => {
                let holders: Vec<String> = last.iter().map(ToString::to_string).collect();
                let message = format!("it is in use on node {}: {}", self.node_name(), holders.join(", "));
                Err(Error::new(ErrorKind::InUse, message).on(view.file_name()))
            }
        }
    }

    pub(crate) async fn routes(&self, cx: &Cx, ports: &[TargetPort]) -> Result<Vec<Route>> {
        self.transport().routes(cx, ports).await
    }

    pub(crate) async fn inspect(
        &self,
        cx: &Cx,
        expect: &Expected,
        ports: &[TargetPort],
    ) -> Result<Option<Device>> {
        let routes = self.routes(cx, ports).await?;
        self.devices().inspect(cx, expect, &routes).await
    }

    /// Makes sure that at least one of `ports` is connected; returns what is wrong with the others.
    pub(crate) async fn connect(&self, cx: &Cx, ports: &[TargetPort]) -> Result<Vec<String>> {
        let renewed = self.renew_login(&cx.at_most(RENEWAL)).await;
        let states = self.transport().connect(cx, ports).await?;
        let problem = |it: &PortState| Some(format!("port {}: {}", it.port, it.status.failure()?.chain()));
        let mut problems: Vec<String> = states.iter().filter_map(problem).collect();
        if let Err(error) = renewed
            && !problems.is_empty()
        {
            // Sessions that are up need not prove anything; those that are missing may have been refused for this.
            problems.push(format!("what this node proves may be unknown to the array: {}", error.chain()));
        }
        if states.iter().any(|it| it.status.is_up()) {
            return Ok(problems);
        }
        self.shared().ports.lock().await.take();
        let message = match problems.as_slice() {
            [] => format!("{} has no port that serves this storage", self.array().profile().name),
            some => format!("no port of {} can be reached: {}", self.array().profile().name, some.join("; ")),
        };
        // What the ports themselves advise is nearer to the cause: a network that is well has no need to be checked.
        let advice: BTreeSet<&str> = states.iter().filter_map(|it| it.status.failure()?.remedy()).collect();
        let advice = match advice.len() {
            0 => "check the storage network of this node and the array's data interfaces".to_owned(),
            _ => advice.into_iter().collect::<Vec<_>>().join("; "),
        };
        Err(Error::new(ErrorKind::Unavailable, message).with_remedy(advice))
    }

    /// The array's ports, asked for once and again after all of them have failed.
    pub(crate) async fn ports(&self, cx: &Cx) -> Result<Vec<TargetPort>> {
        let mut ports = cx
            .within("waiting for the array's ports", async { Ok(self.shared().ports.lock().await) })
            .await?;
        if let Some(known) = &*ports {
            return Ok(known.clone());
        }
        let asked = self.array().target_ports(cx, self.transport().kind()).await?;
        *ports = Some(asked.clone());
        Ok(asked)
    }

    /// The ports of a mapping that this node uses: all of them, or where paths are limited those that are up, spread over
    /// controllers and networks, and as many others as are missing.
    pub(crate) async fn used_ports(&self, cx: &Cx, mapping: &Mapping) -> Result<Vec<TargetPort>> {
        let Some(most) = self.shared().config.max_paths else { return Ok(mapping.ports.clone()) };
        let most = (most / self.transport().sessions_per_port().max(1)).max(1);
        if mapping.ports.len() <= most {
            return Ok(mapping.ports.clone());
        }
        let routes = self.routes(cx, &mapping.ports).await?;
        let is_up = |port: &&TargetPort| routes.iter().any(|it| it.port() == *port);
        let (up, down): (Vec<_>, Vec<_>) = mapping.ports.iter().partition(is_up);
        let owned = |ports: Vec<&TargetPort>| ports.into_iter().cloned().collect::<Vec<_>>();
        let mut used = spread(&owned(up), most, mapping.lun);
        used.extend(spread(&owned(down), most - used.len(), mapping.lun));
        Ok(used)
    }

    /// This node's host object, made sure of once, and again told what this node proves when that has changed.
    pub(crate) async fn host_access(&self, cx: &Cx) -> Result<HostAccess> {
        let login = self.transport().login(cx).await?;
        let mut host = cx
            .within("waiting for this node's host object", async { Ok(self.shared().host.lock().await) })
            .await?;
        let array = &self.array().profile().serial;
        let (made, told) = if let Some((known, told)) = &*host {
            (known.clone(), Some(told))
        } else {
            let initiators = self.transport().initiators(cx).await?;
            let spec =
                HostSpec { realm: self.realm().to_owned(), node: self.node_name().clone(), initiators };
            (self.array().ensure_host(cx, &spec).await?.into_inner(), None)
        };
        if self.cluster().node_of_host(cx, array, &made.id).await?.as_ref() != Some(self.node_name()) {
            // Without it, or where it was lost, other nodes would not know whose mapping it is.
            self.cluster().note_host(cx, array, &made.id, self.node_name()).await?;
        }
        if told == Some(&login) {
            return Ok(made);
        }
        self.tell_login(cx, &login).await?;
        *host = Some((made.clone(), login));
        Ok(made)
    }

    async fn tell_login(&self, cx: &Cx, login: &HostLogin) -> Result<()> {
        let chap = match login {
            HostLogin::AsItIs => return Ok(()),
            HostLogin::Open => None,
            HostLogin::Chap(chap) => Some(chap),
        };
        let Some(logins) = self.array().host_logins() else {
            let message = "this array cannot be told what nodes prove when they log in";
            return Err(Error::new(ErrorKind::Unsupported, message).on(&self.array().profile().name));
        };
        logins.ensure_login(cx, &self.transport().initiators(cx).await?, chap).await
    }

    /// Before a session is made: what it proves is what the array was told, also where another node has changed it since.
    async fn renew_login(&self, cx: &Cx) -> Result<()> {
        if self.transport().login(cx).await? == HostLogin::AsItIs {
            return Ok(());
        }
        self.host_access(cx).await.map(drop)
    }

    pub(crate) async fn forget_host(&self) {
        self.shared().host.lock().await.take();
    }

    /// Puts the device where people look for it.
    pub(crate) async fn publish(&self, cx: &Cx, view: &View, device: &Device) -> Result<()> {
        let link = self.device_path(view);
        if self.shared().node.host.read_link(cx, &link).await?.as_ref() == Some(&device.path) {
            return Ok(());
        }
        self.shared().node.host.make_link(cx, &link, &device.path).await
    }

    /// Keeps this host from looking into the disk, from now on.
    pub(crate) async fn mask(&self, cx: &Cx, record: &Attachment) -> Result<()> {
        self.shared().node.masks.put(cx, &record.identity.wwid).await
    }

    /// The disk is not here any more.
    pub(crate) async fn unmask(&self, cx: &Cx, record: &Attachment) -> Result<()> {
        self.shared().node.masks.remove(cx, &record.identity.wwid).await
    }

    pub(crate) async fn unpublish(&self, cx: &Cx, view: &View) -> Result<()> {
        self.shared().node.host.remove_link(cx, &self.device_path(view)).await.map(|_| ())
    }
}

/// A mapping for all nodes as the array shows it now, where it was asked; `None`: it is gone.
fn still_shared(volume: &Volume, known: Mapping) -> Option<Mapping> {
    match &volume.mapped {
        None => Some(known),
        Some(mapped) => {
            mapped.iter().find(|it| it.id == known.host.id).map(|now| Mapping { lun: now.lun, ..known })
        }
    }
}

/// Refuses whatever is not proved to be the owner's: a mark that disagrees, or none.
pub(crate) fn require_ours(owner: &Owner, volume: &Volume, bound: Option<&Binding>) -> Result<()> {
    let conflict = |message: String| {
        Err(Error::new(ErrorKind::Conflict, message)
            .on(&volume.name)
            .with_remedy("it is left alone: look at the volume's comment on the array"))
    };
    match &volume.mark {
        Marked::Ours(mark) if mark.owner == *owner => Ok(()),
        Marked::Ours(mark) => conflict(format!("its mark says that it belongs to {}", mark.owner)),
        Marked::Unmarked => conflict("it carries no mark of ours, so it may be somebody else's".to_owned()),
        Marked::NotRead => match bound {
            Some(it)
                if it.id == volume.id
                    && (volume.identity.is_none() || volume.identity.as_ref() == Some(&it.identity)) =>
            {
                Ok(())
            }
            _ => {
                let message = "it does not have the identity that is on record for it";
                Err(Error::new(ErrorKind::IdentityMismatch, message).on(&volume.name))
            }
        },
    }
}

/// Refuses to touch what another host may see.
pub(crate) fn refuse_mapped_elsewhere(owner: &Owner, others: &[Other]) -> Result<()> {
    let Some((host, node)) = others.first() else { return Ok(()) };
    let (message, remedy) = match node {
        Some(node) => (format!("it is attached on node {node}"), "stop what uses it there, and try again"),
        None => (
            format!("it is mapped to {}, which is no node of this cluster", host.name),
            "unmap it on the array if that host does not need it",
        ),
    };
    Err(Error::new(ErrorKind::InUse, message).on(owner.object()).with_remedy(remedy))
}
