//! Readers of snapshots as the engine sees them: which there are, who has them, and how they are closed with their disk.

use san_core::{
    ArrayId, Cx, Error, ErrorKind, NodeName, Owner, ReaderSpec, Result, SnapshotName, Volume, VolumeKey,
    VolumeQuery,
};
use serde::{Deserialize, Serialize};

use crate::disk_view::View;
use crate::plan::TakeDown;
use crate::san::San;
use crate::site::{Mappings, refuse_mapped_elsewhere};

/// A reader on the array that no record of this node accounts for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LeftOver {
    reader: ArrayId,
    /// Mappings of it for this node.
    hosts: Vec<ArrayId>,
}

impl LeftOver {
    /// # Errors
    /// `InUse` where another host sees it.
    pub(crate) async fn of(cx: &Cx, san: &San, reader: &Volume) -> Result<Self> {
        let Mappings { ours, others, .. } = san.sorted_mappings(cx, reader).await?;
        if let Some((host, _)) = others.first() {
            let message = format!("what reads a snapshot here is mapped to {}", host.name);
            return Err(Error::new(ErrorKind::InUse, message).on(&reader.name));
        }
        Ok(Self { reader: reader.id.clone(), hosts: ours.into_iter().map(|it| it.id).collect() })
    }

    pub(crate) async fn remove(&self, cx: &Cx, san: &San) -> Result<()> {
        self.unmap(cx, san).await?;
        san.array().ensure_no_reader(cx, &self.reader).await.map(drop)
    }

    async fn unmap(&self, cx: &Cx, san: &San) -> Result<()> {
        for host in &self.hosts {
            san.array().ensure_unmapped(cx, &self.reader, host).await?;
        }
        Ok(())
    }
}

/// What reads snapshots of one disk on this node: it goes when the disk goes.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct LocalReaders {
    attached: Vec<TakeDown>,
    left_over: Vec<LeftOver>,
}

impl LocalReaders {
    pub(crate) fn is_empty(&self) -> bool {
        self.attached.is_empty() && self.left_over.is_empty()
    }

    /// Whether taking them down has begun, so that it has to be ended.
    pub(crate) fn have_begun(&self) -> bool {
        self.attached.iter().any(TakeDown::has_begun)
    }

    /// One step of taking each down. Repeatable.
    pub(crate) async fn forward(&mut self, step: usize, cx: &Cx, san: &San) -> Result<()> {
        for it in &mut self.attached {
            it.forward(step, cx, san).await?;
        }
        if step == TakeDown::UNMAP { self.unmap(cx, san).await } else { Ok(()) }
    }

    /// All of it, for an operation of which it is one step.
    pub(crate) async fn all(&mut self, cx: &Cx, san: &San) -> Result<()> {
        for step in 0..TakeDown::STEPS {
            self.forward(step, cx, san).await?;
        }
        Ok(())
    }

    /// Takes away what no record accounts for.
    pub(crate) async fn unmap(&self, cx: &Cx, san: &San) -> Result<()> {
        for it in &self.left_over {
            it.unmap(cx, san).await?;
        }
        Ok(())
    }
}

impl San {
    /// How this node reads a snapshot.
    pub(crate) fn reader(&self, snapshot: &SnapshotName) -> ReaderSpec {
        ReaderSpec { node: self.node_name().clone(), snapshot: snapshot.clone() }
    }

    /// Whether the cluster knows that this node has it, and that it is still what its name means.
    pub(crate) async fn is_noted(&self, cx: &Cx, view: &View) -> Result<bool> {
        match &view.snapshot {
            Some(snapshot) => {
                Ok(self.cluster().readers(cx, &view.owner).await?.contains(&self.reader(snapshot)))
            }
            None => Ok(self.cluster().attached_on(cx, &view.owner).await?.contains(self.node_name())),
        }
    }

    /// Tells the cluster that this node has it, or is about to.
    pub(crate) async fn note_here(&self, cx: &Cx, view: &View) -> Result<()> {
        match &view.snapshot {
            Some(snapshot) => self.cluster().note_reader(cx, &view.owner, &self.reader(snapshot)).await,
            None => self.cluster().note_attached(cx, &view.owner, self.node_name()).await,
        }
    }

    /// Tells the cluster that this node has it no more.
    pub(crate) async fn note_gone(&self, cx: &Cx, view: &View) -> Result<()> {
        match &view.snapshot {
            Some(snapshot) => self.cluster().forget_reader(cx, &view.owner, &self.reader(snapshot)).await,
            None => self.cluster().note_detached(cx, &view.owner, self.node_name()).await,
        }
    }

    /// Forgets who reads a snapshot of the disk, or with `None` any: it is another one from now on, or gone. Who has it open
    /// keeps it.
    pub(crate) async fn forget_readers(
        &self,
        cx: &Cx,
        owner: &Owner,
        snapshot: Option<&SnapshotName>,
    ) -> Result<()> {
        for reader in self.cluster().readers(cx, owner).await? {
            if snapshot.is_none_or(|it| *it == reader.snapshot) {
                self.cluster().forget_reader(cx, owner, &reader).await?;
            }
        }
        Ok(())
    }

    /// What reads snapshots of the disk on this node, proved idle. `volume`: as the array shows it; `None`: it is gone.
    ///
    /// # Errors
    /// `InUse` where one is in use, or where another host reads one.
    pub(crate) async fn readers_here(
        &self,
        cx: &Cx,
        owner: &Owner,
        volume: Option<&Volume>,
    ) -> Result<LocalReaders> {
        let mut records = self.attached().await?;
        records.retain(|it| it.owner == *owner && it.reads.is_some());
        let mut found = LocalReaders::default();
        for reader in volume.map_or(Ok(&[][..]), Volume::readers)? {
            let Mappings { ours, others, .. } = self.sorted_mappings(cx, &reader.volume).await?;
            refuse_mapped_elsewhere(owner, &others)
                .map_err(|error| Error::wrap(error, "a snapshot of it is read").on(&reader.name))?;
            if !ours.is_empty() && !records.iter().any(|it| it.volume == reader.volume.id) {
                found.left_over.push(LeftOver::of(cx, self, &reader.volume).await?);
            }
        }
        for record in records {
            self.require_unused(cx, &record).await?;
            found.attached.push(TakeDown::of(record));
        }
        Ok(found)
    }

    /// Removes whatever reads snapshots for a node that is gone for ever; returns how many there were. Mappings for hosts that
    /// are not known to stand for that node stay, and what they see.
    pub async fn remove_readers_of(&self, cx: &Cx, node: &NodeName) -> Result<usize> {
        let prefix = self.shared().codec.prefix(self.realm(), self.space());
        let mut removed = 0;
        for volume in self.array().volumes(cx, &VolumeQuery { prefix }).await? {
            if !volume.readers()?.iter().any(|it| it.name.is_of(node)) {
                continue;
            }
            let Some(volume) = self.array().volume(cx, &VolumeKey::Id(volume.id)).await? else { continue };
            for reader in volume.readers()?.iter().filter(|it| it.name.is_of(node)) {
                for host in reader.volume.mapped.iter().flatten() {
                    let of =
                        self.cluster().node_of_host(cx, &self.array().profile().serial, &host.id).await?;
                    if of.as_ref() == Some(node) {
                        self.array().ensure_unmapped(cx, &reader.volume.id, &host.id).await?;
                    }
                }
                self.array().ensure_no_reader(cx, &reader.volume.id).await?;
                removed += 1;
            }
        }
        for owner in self.cluster().bound(cx, self.realm(), self.space()).await? {
            for reader in self.cluster().readers(cx, &owner).await?.iter().filter(|it| it.node == *node) {
                self.cluster().forget_reader(cx, &owner, reader).await?;
            }
        }
        Ok(removed)
    }
}
