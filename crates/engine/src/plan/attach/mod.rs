//! Attach: fence other nodes, map, scan, prove, publish. An attached healthy volume costs no request and no program.

mod planning;

use std::time::Duration;

use async_trait::async_trait;
use san_core::{
    ArrayId, Cx, Device, Error, ErrorKind, Expected, Lun, Mapping, NodeName, Result, SnapshotName,
    Visibility, Volume, VolumeKey, VolumeState,
};
use serde::{Deserialize, Serialize};

use super::detach::TakeDown;
use super::{Direction, Flow, Outcome, Plan};
use crate::cluster::Binding;
use crate::disk_view::View;
use crate::idle::Asker;
use crate::readers::LeftOver;
use crate::record::{Attachment, AttachmentState, Reading};
use crate::san::San;

const REPLACE: usize = 0;
const FENCE: usize = 1;
const RECORD: usize = 2;
const CONNECT: usize = 3;
const MAP: usize = 4;
const DEVICE: usize = 5;
const PUBLISH: usize = 6;

/// How long the array may be silent before a volume that is mapped here is attached without its word.
const SILENCE: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Attach {
    #[serde(flatten)]
    view: View,
    /// For whom.
    #[serde(skip)]
    asker: Option<Asker>,
    /// The disk, where a snapshot of it is attached.
    #[serde(default)]
    disk: Option<Binding>,
    /// What is in the way of the reader that is made: it may read an older snapshot of that name.
    #[serde(default)]
    left_over: Option<LeftOver>,
    /// What is being attached, as far as the steps have come.
    record: Option<Attachment>,
    /// The attachment that was here before and stays if this fails.
    before: Option<Attachment>,
    /// Another object of this name that this node still holds.
    replaced: TakeDown,
    /// How it is mapped, where it is not yet.
    #[serde(default)]
    visibility: Visibility,
    /// The host object of all nodes, where its mapping ends first: the storage is set otherwise by now.
    #[serde(default)]
    no_longer_shared: Option<ArrayId>,
    /// Nodes whose mapping ends before the device is handed out, with their host objects where the array has one.
    fenced: Vec<(NodeName, Option<ArrayId>)>,
    /// What the array last said of the volume; `None` while it cannot be asked.
    #[serde(skip)]
    seen: Option<Volume>,
    /// For undo.
    down: TakeDown,
    /// The device is in use, so an undo leaves it as it is.
    kept: bool,
    warnings: Vec<String>,
}

impl Attach {
    pub(crate) fn new(view: View, asker: Option<Asker>) -> Self {
        Self {
            view,
            asker,
            disk: None,
            left_over: None,
            record: None,
            before: None,
            replaced: TakeDown::default(),
            visibility: Visibility::PerNode,
            no_longer_shared: None,
            fenced: Vec::new(),
            seen: None,
            down: TakeDown::default(),
            kept: false,
            warnings: Vec::new(),
        }
    }

    /// The step that builds the device, and whose undo retires it.
    pub(crate) const DEVICE: usize = DEVICE;

    pub(crate) fn view(&self) -> &View {
        &self.view
    }

    pub(crate) fn asker(&self) -> Option<Asker> {
        self.asker
    }

    /// The attachment that is being undone, while the array still has its mapping.
    pub(crate) fn still_mapped(&self, step: usize) -> Option<&Attachment> {
        self.down.record().filter(|it| step >= MAP && it.lun.is_some())
    }

    fn record_mut(&mut self) -> Result<&mut Attachment> {
        self.record
            .as_mut()
            .ok_or_else(|| Error::new(ErrorKind::Internal, "the volume to attach was not looked up"))
    }

    fn expected(&self) -> Result<Expected> {
        let expected = self.record.as_ref().and_then(Attachment::expected);
        expected.ok_or_else(|| Error::new(ErrorKind::Internal, "the volume to attach was not mapped"))
    }

    /// Makes the reader of a snapshot.
    async fn make_reader(&mut self, cx: &Cx, san: &San, snapshot: &SnapshotName) -> Result<()> {
        if self.before.is_some() {
            return Ok(());
        }
        if let Some(left_over) = &self.left_over {
            left_over.remove(cx, san).await?;
        }
        let disk = self.disk()?;
        let reader =
            san.array().ensure_reader(cx, &disk.to_volume(), &san.reader(snapshot)).await?.into_inner();
        let reads = Reading { snapshot: snapshot.clone(), disk: disk.id.clone() };
        self.record = Some(self.new_record(san, &reader, Some(reads))?);
        self.seen = Some(reader);
        Ok(())
    }

    /// Removes the reader that was made, found by its name: its key may never have been told.
    async fn unmake_reader(&self, cx: &Cx, san: &San, snapshot: &SnapshotName) -> Result<()> {
        let Some(disk) = &self.disk else { return Ok(()) };
        let Some(volume) = san.array().volume(cx, &VolumeKey::Id(disk.id.clone())).await? else {
            return Ok(());
        };
        let name = san.reader(snapshot).name();
        match volume.readers()?.iter().find(|it| it.name == name) {
            Some(reader) => LeftOver::of(cx, san, &reader.volume).await?.remove(cx, san).await,
            None => Ok(()),
        }
    }

    fn disk(&self) -> Result<&Binding> {
        self.disk.as_ref().ok_or_else(|| Error::new(ErrorKind::Internal, "the disk was not looked up"))
    }

    async fn connect(&mut self, cx: &Cx, san: &San) -> Result<()> {
        let online = self.seen.is_some();
        let host = if online { Some(san.host_access(cx).await?) } else { None };
        let ports = if online { san.ports(cx).await? } else { self.record_mut()?.ports.clone() };
        let problems = san.connect(cx, &ports).await?;
        self.warnings.extend(problems);
        let record = self.record_mut()?;
        if let Some(host) = host {
            record.host = Some(host);
        }
        if record.ports.is_empty() {
            record.ports = ports;
        }
        Ok(())
    }

    async fn map(&mut self, cx: &Cx, san: &San) -> Result<()> {
        // Without the array's word of this moment the record has the mapping.
        let Some(volume) = self.seen.clone() else {
            self.expected()?;
            return san.note_addresses(cx, self.record_mut()?).await;
        };
        let kept = self.before.as_ref().and_then(|it| it.lun);
        let mapping = match self.visibility {
            Visibility::PerNode => self.map_here(cx, san, &volume, kept).await?,
            Visibility::Shared => self.map_for_all(cx, san, &volume, kept).await?,
        };
        let ports = san.used_ports(cx, &mapping).await?;
        let visibility = self.visibility;
        let record = self.record_mut()?;
        record.visibility = visibility;
        record.host = Some(mapping.host);
        record.lun = Some(mapping.lun);
        record.ports = ports;
        san.note_addresses(cx, record).await
    }

    async fn map_here(&mut self, cx: &Cx, san: &San, volume: &Volume, kept: Option<Lun>) -> Result<Mapping> {
        let host = san.host_access(cx).await?;
        let choice = san.lun_choice(cx, kept, Visibility::PerNode).await?;
        let mapping = match san.array().ensure_mapped(cx, volume, &host, &choice).await {
            // Somebody removed our host object: it is made again, once.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                san.forget_host().await;
                let host = san.host_access(cx).await?;
                // An undo must know the new one, whatever becomes of the mapping.
                self.record_mut()?.host = Some(host.clone());
                san.attachments().put(cx, self.record_mut()?).await?;
                san.array().ensure_mapped(cx, volume, &host, &choice).await?
            }
            other => other?,
        };
        Ok(mapping.into_inner())
    }

    /// The mapping that all nodes have of it, made where it is missing. It stays whatever becomes of this attach.
    async fn map_for_all(&self, cx: &Cx, san: &San, volume: &Volume, kept: Option<Lun>) -> Result<Mapping> {
        let host = san.shared_host(cx).await?;
        let is_seen = volume.mapped.iter().flatten().any(|it| it.id == host.id);
        let bound = san.cluster().binding(cx, &self.view.owner).await?;
        // The look that found the volume has compared the two.
        let known = bound.as_ref().and_then(|it| it.shared.as_ref()).filter(|it| is_seen && it.host == host);
        if let Some(known) = known {
            let ports = san.ports(cx).await?;
            // The array's interfaces may be others by now than when it was mapped.
            if known.ports.iter().all(|it| ports.contains(it)) {
                return Ok(known.clone());
            }
        }
        let seen = if is_seen { san.array().mapping(cx, volume, &host).await? } else { None };
        let mapping = match seen {
            Some(mapping) => mapping,
            None => san.share(cx, volume, kept).await?,
        };
        if let Some(bound) = bound {
            san.rebind_shared(cx, &bound, Some(mapping.clone())).await?;
        }
        Ok(mapping)
    }

    async fn attach_device(&mut self, cx: &Cx, san: &San) -> Result<Device> {
        let expect = self.expected()?;
        let ports = self.record_mut()?.ports.clone();
        let routes = san.routes(cx, &ports).await?;
        let known = self.seen.as_ref().zip(self.record.as_ref().and_then(|it| it.host.as_ref()));
        match (san.devices().attach(cx, &expect, &routes).await, known) {
            // Perhaps it moved, and other ports serve it now than the ones the mapping came with.
            (Err(error), Some((volume, host))) if error.kind() == ErrorKind::NotFound => {
                san.forget_shared_host().await;
                let Some(mapping) = san.array().mapping(cx, volume, host).await? else { return Err(error) };
                if self.visibility == Visibility::Shared
                    && let Some(bound) = san.cluster().binding(cx, &self.view.owner).await?
                {
                    san.rebind_shared(cx, &bound, Some(mapping.clone())).await?;
                }
                let used = san.used_ports(cx, &mapping).await?;
                if used == ports && mapping.lun == expect.lun {
                    return Err(error);
                }
                let record = self.record_mut()?;
                record.ports = used;
                record.lun = Some(mapping.lun);
                san.note_addresses(cx, record).await?;
                let routes = san.routes(cx, &self.record_mut()?.ports).await?;
                san.devices().attach(cx, &self.expected()?, &routes).await
            }
            (other, _) => other,
        }
    }

    fn warn_of(&mut self, device: &Device) {
        let missing =
            device.missing.iter().map(|it| format!("no path through {}: {}", it.route.port(), it.error));
        self.warnings.extend(missing);
    }

    fn attached(&self, san: &San, record: &Attachment) -> Outcome {
        Outcome::Attached {
            path: san.device_path(&self.view),
            size: record.size,
            warnings: self.warnings.clone(),
        }
    }

    /// Completes the paths and the size of what is attached already; the array is not asked.
    async fn refresh(
        &mut self,
        cx: &Cx,
        san: &San,
        mut record: Attachment,
        bound: &Binding,
    ) -> Result<Option<Outcome>> {
        let Some(mut expect) = record.expected() else { return Ok(None) };
        let routes = san.routes(cx, &record.ports).await?;
        let Some(mut device) = san.devices().inspect(cx, &expect, &routes).await? else { return Ok(None) };
        let grown = bound.size.filter(|it| record.reads.is_none() && *it > record.size);
        // A port without a session is a path that was never made, or was lost with its session.
        if !device.missing.is_empty() || !san.are_led_to(&record.ports, &routes) {
            let problems = san.connect(cx, &record.ports).await?;
            self.warnings.extend(problems);
            device = san.complete_legs(cx, &mut record, &expect).await?;
            self.warn_of(&device);
        }
        if let Some(size) = grown {
            expect.size = size;
            let routes = san.routes(cx, &record.ports).await?;
            device = san.devices().grow(cx, &expect, &routes).await?;
            record.size = size;
            san.attachments().put(cx, &record).await?;
        }
        san.publish(cx, &self.view, &device).await?;
        Ok(Some(self.attached(san, &record)))
    }
}

const STEPS: [&str; 7] = [
    "take down the previous device",
    "end other nodes' mappings",
    "write the attachment record",
    "connect to the array's ports",
    "map it on the array",
    "build the device",
    "publish the device",
];
const READER_STEPS: [&str; 7] = {
    let mut steps = STEPS;
    steps[FENCE] = "make the snapshot readable on the array";
    steps
};

fn require_serving(volume: &Volume) -> Result<()> {
    let VolumeState::Offline(why) = &volume.state else { return Ok(()) };
    let message = format!("the array does not serve it: {why}");
    Err(Error::new(ErrorKind::Unavailable, message).on(&volume.name).with_retries_spent())
}

/// Whether a record says that the volume is mapped to this node.
fn is_mapped(record: &Attachment) -> bool {
    record.lun.is_some() && record.host.is_some() && record.state == AttachmentState::Attached
}

#[async_trait]
impl Plan for Attach {
    fn steps(&self) -> &'static [&'static str] {
        if self.view.snapshot.is_some() { &READER_STEPS } else { &STEPS }
    }

    fn direction(&self) -> Direction {
        Direction::Undo
    }

    fn is_committed(&self, _step: usize) -> bool {
        false
    }

    fn needs_lease(&self) -> bool {
        true
    }

    async fn shortcut(&mut self, cx: &Cx, san: &San) -> Result<Option<Outcome>> {
        let Some(record) = san.attachments().of(&self.view).await? else { return Ok(None) };
        let Some(bound) = san.cluster().binding(cx, &self.view.owner).await? else { return Ok(None) };
        let same = record.state == AttachmentState::Attached
            && record.array == san.array().profile().serial
            && record.is_of(&bound)
            && (record.reads.is_some() || bound.size.is_some_and(|it| it >= record.size));
        // Without a note another node has ended our mapping, where it can, or the snapshot of this name is another one by now, whatever
        // this node's devices look like.
        if !same || !san.is_noted(cx, &self.view).await? {
            return Ok(None);
        }
        if self.view.snapshot.is_none()
            && !san.attached_elsewhere(cx, &self.view.owner).await?.is_empty()
            && self.is_home(cx, san).await?
        {
            return Ok(None);
        }
        match self.refresh(cx, san, record, &bound).await {
            Err(error) if error.kind() != ErrorKind::InUse => {
                tracing::warn!(volume = %self.view.owner, error = %error.chain(), "what is attached is not whole; the array is asked");
                *self = Self::new(self.view.clone(), self.asker);
                Ok(None)
            }
            other => other,
        }
    }

    async fn prepare(&mut self, cx: &Cx, san: &San) -> Result<Option<Outcome>> {
        let here = san.attachments().of(&self.view).await?;
        let bound = san.cluster().binding(cx, &self.view.owner).await?;
        // Where what is known would do without the array, its silence must not use up the caller's time.
        let is_seen_by_all =
            self.view.snapshot.is_none() && bound.as_ref().is_some_and(|it| it.shared.is_some());
        let may_do_without = is_seen_by_all || here.as_ref().is_some_and(is_mapped);
        let look = if may_do_without { &cx.at_most(SILENCE) } else { cx };
        match san.find(look, &self.view.owner, bound.as_ref()).await {
            Ok(Some(volume)) => {
                require_serving(&volume)?;
                match self.view.snapshot.clone() {
                    None => self.plan_from(cx, san, volume, here).await?,
                    Some(snapshot) => self.plan_reader(cx, san, &volume, &snapshot, here).await?,
                }
            }
            Ok(None) => return Err(san.no_such(&self.view.owner)),
            Err(error) if error.is_passing() => {
                self.plan_offline(cx, san, bound.as_ref(), here, error).await?;
            }
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    async fn forward(&mut self, step: usize, cx: &Cx, san: &San) -> Result<Flow> {
        match step {
            REPLACE => self.replaced.all(cx, san).await?,
            FENCE if let Some(snapshot) = self.view.snapshot.clone() => {
                self.make_reader(cx, san, &snapshot).await?;
            }
            FENCE => {
                let volume = self.record_mut()?.volume.clone();
                if let Some(host) = &self.no_longer_shared {
                    if let Some(bound) = san.cluster().binding(cx, &self.view.owner).await? {
                        san.rebind_shared(cx, &bound, None).await?;
                    }
                    san.array().ensure_unmapped(cx, &volume, host).await?;
                }
                for (node, host) in &self.fenced {
                    if let Some(host) = host {
                        tracing::warn!(volume = %self.view.owner, %node, "ending the mapping of another node: the guest is here");
                        san.array().ensure_unmapped(cx, &volume, host).await?;
                    }
                    san.cluster().note_detached(cx, &self.view.owner, node).await?;
                }
            }
            RECORD => {
                san.note_here(cx, &self.view).await?;
                san.attachments().put(cx, self.record_mut()?).await?;
                san.mask(cx, self.record_mut()?).await?;
            }
            CONNECT => self.connect(cx, san).await?,
            MAP => self.map(cx, san).await?,
            DEVICE => {
                let device = self.attach_device(cx, san).await?;
                self.warn_of(&device);
                san.publish(cx, &self.view, &device).await?;
            }
            PUBLISH => {
                let record = self.record_mut()?;
                record.state = AttachmentState::Attached;
                san.attachments().put(cx, record).await?;
            }
            _ => {}
        }
        Ok(Flow::Next)
    }

    async fn back(&mut self, step: usize, cx: &Cx, san: &San) -> Result<()> {
        if step == REPLACE && self.replaced.has_begun() {
            // A device of another object is of no use to anybody: it goes all the same.
            return self.replaced.all(cx, san).await;
        }
        if self.kept || self.before.is_some() {
            return Ok(());
        }
        match step {
            DEVICE => {
                self.down = self.record.clone().map(TakeDown::of).unwrap_or_default();
                match self.down.retire(cx, san).await {
                    Err(error) if error.kind() == ErrorKind::InUse => {
                        // Somebody uses it although nobody confirmed it: it stays, and is on record as what it is.
                        self.kept = true;
                        let record = self.record_mut()?;
                        record.state = AttachmentState::Attached;
                        san.attachments().put(cx, record).await
                    }
                    other => other,
                }
            }
            MAP => {
                if self.down.record().is_none() {
                    self.down = self.record.clone().map(TakeDown::of).unwrap_or_default();
                }
                self.down.unmap(cx, san).await?;
                self.down.bury(cx, san).await
            }
            RECORD => {
                self.down = self.record.clone().map(TakeDown::of).unwrap_or_default();
                self.down.forget(cx, san).await
            }
            FENCE => match &self.view.snapshot {
                Some(snapshot) => self.unmake_reader(cx, san, snapshot).await,
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    fn outcome(&self, san: &San) -> Outcome {
        match &self.record {
            Some(record) => self.attached(san, record),
            None => Outcome::Detached { pending: None },
        }
    }
}
