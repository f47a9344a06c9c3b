//! What an attach is going to do: which nodes lose the volume first, what is taken down, and how it is mapped.

use san_core::{Cx, Error, ErrorKind, MappedHost, Result, SnapshotName, Visibility, Volume, VolumeKind};

use super::super::detach::TakeDown;
use super::{Attach, is_mapped};
use crate::cluster::Binding;
use crate::readers::LeftOver;
use crate::record::{Attachment, AttachmentState, Reading};
use crate::release::Held;
use crate::san::San;
use crate::site::Mappings;

impl Attach {
    /// Whether other nodes must lose their mappings: only where the guest lives here. On the target of a migration the
    /// guest still lives elsewhere, and both nodes have the volume for a while. A template is read by whoever copies it.
    pub(super) async fn is_home(&self, cx: &Cx, san: &San) -> Result<bool> {
        let bound = san.cluster().binding(cx, &self.view.owner).await?;
        if bound.is_some_and(|it| it.kind == VolumeKind::Template) {
            return Ok(false);
        }
        let guests = san.cluster().guests_using(cx, &self.view.owner).await?;
        Ok(guests.iter().any(|it| it.node == *san.node_name()))
    }

    /// Plans from what the array says.
    pub(super) async fn plan_from(
        &mut self,
        cx: &Cx,
        san: &San,
        volume: Volume,
        here: Option<Attachment>,
    ) -> Result<()> {
        let identity = volume.identity()?.clone();
        let same =
            |it: &Attachment| it.volume == volume.id && it.identity == identity && it.size == volume.size;
        let before = self.keep_or_replace(cx, san, here, same).await?;
        let mappings = san.sorted_mappings(cx, &volume).await?;
        self.visibility = match (&before, &mappings.shared) {
            (Some(_), Some(_)) => Visibility::Shared,
            (Some(record), None) => record.visibility,
            // Mapped for all before the storage was set otherwise: for this node alone only once nobody else has it.
            (None, Some(_)) if !san.attached_elsewhere(cx, &self.view.owner).await?.is_empty() => {
                Visibility::Shared
            }
            (None, _) if san.is_for_all() => Visibility::Shared,
            (None, _) => Visibility::PerNode,
        };
        if self.visibility == Visibility::PerNode {
            self.no_longer_shared = mappings.shared.as_ref().map(|it| it.id.clone());
        }
        if mappings.shared.is_some() && self.visibility == Visibility::Shared {
            self.warn_of_strangers(mappings.others.into_iter().map(|(host, _)| host));
        } else {
            self.plan_fence(cx, san, &mappings).await?;
            let is_seen_here = !mappings.ours.is_empty();
            let is_seen_elsewhere = mappings.others.len() > self.fenced_hosts();
            if before.is_none() && (is_seen_here || is_seen_elsewhere) {
                // No node may see it twice.
                self.visibility = Visibility::PerNode;
            }
        }
        if self.visibility == Visibility::Shared {
            // Those that have it without a mapping of their own may have it through the one of all.
            self.fenced.retain(|(_, host)| host.is_some());
            self.require_released(cx, san).await?;
        }
        self.record = Some(match &before {
            Some(record) => record.clone(),
            None => self.new_record(san, &volume, None)?,
        });
        self.before = before;
        self.seen = Some(volume);
        Ok(())
    }

    /// What is attached here and is what is asked for. Another object of that name, or the same one with another size, is to be
    /// taken down: the old device never serves it.
    async fn keep_or_replace(
        &mut self,
        cx: &Cx,
        san: &San,
        here: Option<Attachment>,
        same: impl Fn(&Attachment) -> bool,
    ) -> Result<Option<Attachment>> {
        match here {
            Some(record) if same(&record) => Ok(Some(record)),
            Some(record) => {
                san.require_unused(cx, &record).await?;
                self.replaced = TakeDown::of(record);
                Ok(None)
            }
            None => Ok(None),
        }
    }

    /// Which other nodes lose their mappings before the device is handed out.
    async fn plan_fence(&mut self, cx: &Cx, san: &San, mappings: &Mappings) -> Result<()> {
        let mut noted = san.attached_elsewhere(cx, &self.view.owner).await?;
        if (mappings.others.is_empty() && noted.is_empty()) || !self.is_home(cx, san).await? {
            return Ok(());
        }
        let mut unexplained = Vec::new();
        for (host, node) in &mappings.others {
            match node {
                Some(node) => {
                    noted.retain(|it| it != node);
                    self.fenced.push((node.clone(), Some(host.id.clone())));
                }
                None => unexplained.push(host.clone()),
            }
        }
        if let (Some(host), Some(node)) = (unexplained.first(), noted.first()) {
            let message =
                format!("it is mapped to {}, which may be node {node} as far as anybody knows", host.name);
            return Err(Error::new(ErrorKind::Conflict, message).on(self.view.owner.object()).with_remedy(
                "start sanbridge on that node, or unmap the volume from that host on the array",
            ));
        }
        self.warn_of_strangers(unexplained);
        self.fenced.extend(noted.into_iter().map(|node| (node, None)));
        Ok(())
    }

    fn warn_of_strangers(&mut self, hosts: impl IntoIterator<Item = MappedHost>) {
        self.warnings.extend(hosts.into_iter().map(|host| {
            let name = host.name;
            format!("host object {name} is mapped to it and belongs to no node of this cluster: it may write to it")
        }));
    }

    /// How many mappings of other hosts end.
    fn fenced_hosts(&self) -> usize {
        self.fenced.iter().filter(|(_, host)| host.is_some()).count()
    }

    /// Where all nodes see the volume, the array cannot end what one of them sees: those that are noted to have it are asked to
    /// let go of it. One that does not answer keeps nobody from starting a guest that lives here now, since its node may be
    /// gone; its note stays, so that its number is not given to another volume under its hands.
    ///
    /// # Errors
    /// `InUse` where one says that it is in use there.
    async fn require_released(&mut self, cx: &Cx, san: &San) -> Result<()> {
        let mut elsewhere = san.attached_elsewhere(cx, &self.view.owner).await?;
        elsewhere.retain(|it| self.fenced.iter().all(|(fenced, _)| fenced != it));
        if elsewhere.is_empty() || !self.is_home(cx, san).await? {
            return Ok(());
        }
        for held in san.ask_release(cx, &self.view.owner, &elsewhere).await? {
            match held {
                Held::Silent(node) => self.warnings.push(format!(
                    "node {node} has it attached, and its daemon does not answer: make sure that its guest does not run there"
                )),
                held @ Held::Kept(..) => return Err(held.refusal(&self.view.owner)),
            }
        }
        Ok(())
    }

    /// The same for a snapshot. What is there and is not on record as read here now may read an older snapshot of that name: it
    /// is made anew.
    pub(super) async fn plan_reader(
        &mut self,
        cx: &Cx,
        san: &San,
        volume: &Volume,
        snapshot: &SnapshotName,
        here: Option<Attachment>,
    ) -> Result<()> {
        volume.identity()?;
        let disk = san.bound(cx, &self.view.owner).await?;
        let name = san.reader(snapshot).name();
        let there = volume.readers()?.iter().find(|it| it.name == name).map(|it| it.volume.clone());
        let is_noted = san.is_noted(cx, &self.view).await?;
        match (here, there) {
            (Some(record), Some(reader)) if is_noted && record.volume == reader.id && record.is_of(&disk) => {
                self.record = Some(record.clone());
                self.before = Some(record);
                self.seen = Some(reader);
            }
            (here, there) => {
                let replaced = here.as_ref().map(|it| it.volume.clone());
                self.keep_or_replace(cx, san, here, |_| false).await?;
                if let Some(reader) = there.filter(|it| replaced.as_ref() != Some(&it.id)) {
                    self.left_over = Some(LeftOver::of(cx, san, &reader).await?);
                }
            }
        }
        self.disk = Some(disk);
        Ok(())
    }

    pub(super) fn new_record(
        &self,
        san: &San,
        volume: &Volume,
        reads: Option<Reading>,
    ) -> Result<Attachment> {
        Ok(Attachment {
            owner: self.view.owner.clone(),
            reads,
            array: san.array().profile().serial.clone(),
            volume: volume.id.clone(),
            identity: volume.identity()?.clone(),
            size: volume.size,
            host: None,
            visibility: Visibility::PerNode,
            lun: None,
            ports: Vec::new(),
            addresses: Vec::new(),
            state: AttachmentState::Attaching,
        })
    }

    /// Plans while the array cannot be asked: from this node's record, where it is mapped here and nowhere else, or from what
    /// the cluster knows of a mapping for all nodes.
    pub(super) async fn plan_offline(
        &mut self,
        cx: &Cx,
        san: &San,
        bound: Option<&Binding>,
        here: Option<Attachment>,
        why: Error,
    ) -> Result<()> {
        let Some(bound) = bound else { return Err(why) };
        let shared = bound.shared.clone().zip(bound.size).filter(|_| self.view.snapshot.is_none());
        let is_shared_so = |it: &Attachment| shared.as_ref().is_none_or(|(now, _)| it.lun == Some(now.lun));
        let is_here = here.as_ref().is_some_and(|it| it.is_of(bound) && is_mapped(it) && is_shared_so(it));
        let source = if is_here && (shared.is_some() || san.is_noted(cx, &self.view).await?) {
            self.before = here;
            self.record.clone_from(&self.before);
            "this node's record"
        } else if let Some((mapping, size)) = shared.clone() {
            self.keep_or_replace(cx, san, here, |_| false).await?;
            self.record = Some(Attachment {
                size,
                ports: san.used_ports(cx, &mapping).await?,
                host: Some(mapping.host),
                lun: Some(mapping.lun),
                visibility: Visibility::Shared,
                ..self.new_record(san, &bound.to_volume(), None)?
            });
            "what the nodes know of it"
        } else {
            return Err(why);
        };
        if shared.is_some() {
            self.visibility = Visibility::Shared;
            self.require_released(cx, san).await?;
        } else if self.view.snapshot.is_none()
            && let Some(node) = san.attached_elsewhere(cx, &self.view.owner).await?.first()
            && self.is_home(cx, san).await?
        {
            let message = format!(
                "node {node} may still write to it, and the array that could stop it does not answer"
            );
            return Err(Error::wrap(why, message).on(self.view.owner.object()));
        }
        self.warnings.push(format!("the array does not answer ({}): attached from {source}", why.chain()));
        Ok(())
    }
}
