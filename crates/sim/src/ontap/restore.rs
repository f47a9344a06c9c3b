//! Restore of a volume to one of its snapshots (PATCH of the volume): newer snapshots are lost.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::call::Call;
use super::disk;
use super::error::{ApiError, RESTORE_FAILED, SNAPSHOT_MISSING};
use super::model::{Image, Lun, State};
use super::snapshots::holders;
use super::volumes::volume_of;

/// The snapshot that a PATCH asks to restore, in the query or in the body.
pub(crate) fn wanted(state: &State, volume: Uuid, call: &Call) -> Result<Option<Uuid>, ApiError> {
    let given = |name: &str| -> Result<Option<String>, ApiError> {
        let path = format!("restore_to.snapshot.{name}");
        Ok(call.params.special.get(&path).cloned().or(call.body.text(&path)?))
    };
    let (name, uuid) = (given("name")?, given("uuid")?);
    if name.is_none() && uuid.is_none() {
        return Ok(None);
    }
    let volume = volume_of(state, volume)?;
    let fits = |it: &&super::model::Snapshot| {
        name.as_ref().is_none_or(|name| *name == it.name)
            && uuid.as_ref().is_none_or(|uuid| *uuid == it.uuid.to_string())
    };
    let found = volume.snapshots.iter().find(fits).map(|it| Some(it.uuid));
    found.ok_or_else(|| SNAPSHOT_MISSING.error("the snapshot to restore does not exist"))
}

/// Brings the volume back. LUNs that exist on both sides keep uuid, serial number and maps; later ones vanish;
/// deleted ones come back unmapped.
pub(crate) fn restore(state: &mut State, volume: Uuid, snapshot: Uuid) -> Result<(), ApiError> {
    let parent = volume_of(state, volume)?;
    let at = parent.snapshots.iter().position(|it| it.uuid == snapshot);
    let at = at.ok_or_else(|| SNAPSHOT_MISSING.error("the snapshot to restore does not exist"))?;
    if let Some(busy) = parent.snapshots[at + 1..].iter().find(|it| !holders(state, it).is_empty()) {
        let message = format!("snapshot \"{}\" is newer and has an owner", busy.name);
        return Err(RESTORE_FAILED.error(message));
    }
    let images = parent.snapshots[at].images.clone();
    let newer: BTreeSet<Uuid> = parent.snapshots[at + 1..].iter().map(|it| it.uuid).collect();
    let kept: BTreeSet<Uuid> = images.iter().map(|image| image.lun).collect();
    let later: Vec<Uuid> = parent.luns.difference(&kept).copied().collect();
    for lun in later {
        state.remove_lun(lun)?;
    }
    for image in images {
        restore_lun(state, volume, image)?;
    }
    state.drop_snapshots(volume, |it| newer.contains(&it.uuid))
}

fn restore_lun(state: &mut State, volume: Uuid, image: Image) -> Result<(), ApiError> {
    let data = |error: std::io::Error| ApiError::data(&error);
    if let Some(lun) = state.luns.get_mut(&image.lun) {
        let file = lun.unit.file.clone();
        lun.unit = image.unit.clone();
        lun.unit.file = file;
        return state.write_unit(image.lun, image.unit.file.as_deref());
    }
    let mut unit = image.unit;
    if let Some(file) = &unit.file {
        unit.file = Some(state.store.copy(file).map_err(data)?);
    }
    let lun = Lun { uuid: image.lun, volume, serial: image.serial, created: state.now, unit, failed: false };
    state.volume_mut(volume)?.luns.insert(image.lun);
    state.luns.insert(image.lun, lun);
    Ok(())
}

impl State {
    /// Replaces a LUN's bytes in place; its size is already what it shall be.
    pub(crate) fn write_unit(&mut self, lun: Uuid, from: Option<&std::path::Path>) -> Result<(), ApiError> {
        if from.is_some() {
            self.materialise(lun)?;
        }
        let lun = self.lun_mut(lun)?;
        let Some(file) = &lun.unit.file else { return Ok(()) };
        disk::overwrite(from, file, lun.unit.size).map_err(|error| ApiError::data(&error))
    }
}
