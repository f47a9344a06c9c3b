//! /storage/luns: read, change, delete. Creation is in `lun_create.rs`.

use std::fmt::Write as _;

use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) use super::lun_create::create;

use super::answer::{Reply, Row};
use super::body::Body;
use super::call::Call;
use super::cluster::node_ref;
use super::disk;
use super::draft::{Draft, Wants};
use super::error::{
    ApiError, LUN_CLONE_ELSEWHERE, LUN_DUPLICATE, LUN_IN_SNAPSHOT, LUN_MAPPED, LUN_MISSING, LUN_NAME_BAD,
    LUN_NAME_CHAR, LUN_NAME_LONG, LUN_NO_VOLUME, LUN_SAME_SIZE, LUN_SHRINK, LUN_SNAPSHOT_BY_NAME,
    LUN_TOO_LARGE, LUN_TOO_SMALL, VOLUME_MISSING,
};
use super::model::{Lun, State, Unit, Volume};
use super::version::Version;

/// Longest path of a LUN.
const PATH_MAX: usize = 254;
/// Longest comment of a LUN.
pub(crate) const COMMENT_MAX: usize = 254;
/// Smallest LUN.
const SIZE_MIN: u64 = 4096;

/// GET /storage/luns[/{uuid}].
#[expect(clippy::unnecessary_wraps, reason = "one signature for all collections")]
pub(crate) fn rows(state: &State, call: &Call) -> Result<Vec<Row>, ApiError> {
    let wants = call.wants();
    let show = |(lun, volume): (&Lun, &Volume)| row(state, lun, volume, &wants);
    let by_uuid = |uuid: &str| Uuid::parse_str(uuid).ok().and_then(|uuid| state.live_lun(uuid));
    if let Some(key) = call.keys.first() {
        return Ok(by_uuid(key).map(show).into_iter().collect());
    }
    if let Some(uuids) = call.params.exact("uuid") {
        return Ok(uuids.into_iter().filter_map(by_uuid).map(show).collect());
    }
    if let Some(paths) = call.params.exact("name") {
        let at = |svm: usize| paths.iter().filter_map(move |path| state.lun_at(svm, path));
        let found = (0..state.svms.len()).flat_map(at).filter_map(|lun| state.live_lun(lun.uuid));
        return Ok(found.map(show).collect());
    }
    if let Some(names) = call.params.exact("location.volume.name") {
        let luns = state.volumes_named(&names).flat_map(|volume| &volume.luns);
        return Ok(luns.filter_map(|uuid| state.live_lun(*uuid)).map(show).collect());
    }
    if let Some(uuids) = call.params.exact("location.volume.uuid") {
        let volumes = uuids.into_iter().filter_map(|it| Uuid::parse_str(it).ok());
        let luns = volumes.filter_map(|it| state.live_volume(it)).flat_map(|volume| &volume.luns);
        return Ok(luns.filter_map(|uuid| state.live_lun(*uuid)).map(show).collect());
    }
    Ok(state.live_luns().map(show).collect())
}

fn row(state: &State, lun: &Lun, volume: &Volume, wants: &Wants) -> Row {
    let svm = &state.svms[volume.svm];
    let unit = &lun.unit;
    let value = Draft::new(wants)
        .set("uuid", || lun.uuid.to_string())
        .set("name", || volume.path_of(&unit.name))
        .set("svm", || json!({ "name": svm.name, "uuid": svm.uuid }))
        .set("serial_number", || lun.serial.clone())
        .set("serial_number_hex", || hex(lun.serial.as_bytes()))
        .set("create_time", || state.stamp(lun.created))
        .set("comment", || unit.comment.clone())
        .set("enabled", || unit.enabled)
        .set("os_type", || unit.os_type)
        .set("class", || unit.class)
        .set("auto_delete", || unit.auto_delete)
        .set("status", || status_object(state, lun, volume))
        .set("space", || {
            json!({
                "size": unit.size,
                "used": State::unit_used(unit),
                "guarantee": { "requested": unit.reserved, "reserved": unit.reserved && volume.thick },
                "scsi_thin_provisioning_support_enabled": unit.unmap,
            })
        })
        .set("location", || {
            json!({
                "logical_unit": unit.name,
                "volume": { "name": volume.name, "uuid": volume.uuid },
                "node": node_ref(&state.nodes[state.node_of(volume)]),
            })
        })
        .set("lun_maps", || maps(state, lun))
        .finish();
    Row::new("/storage/luns", vec![lun.uuid.to_string()], value)
}

/// `lun_maps` of a LUN; not set when it has none.
fn maps(state: &State, lun: &Lun) -> Option<Vec<Value>> {
    let map = |(igroup, number): (Uuid, u16)| {
        let igroup = state.igroups.get(&igroup)?;
        let igroup = json!({ "name": igroup.name, "uuid": igroup.uuid });
        Some(json!({ "logical_unit_number": number, "igroup": igroup }))
    };
    let maps: Vec<Value> = state.maps_of(lun.uuid).filter_map(map).collect();
    (!maps.is_empty()).then_some(maps)
}

fn status_object(state: &State, lun: &Lun, volume: &Volume) -> Value {
    json!({
        "state": status(state, lun, volume),
        "container_state": if volume.online { "online" } else { "volume_offline" },
        "read_only": false,
        "mapped": state.maps_of(lun.uuid).next().is_some(),
    })
}

/// The state of a LUN; a volume filled to the brim shows as a space error.
fn status(state: &State, lun: &Lun, volume: &Volume) -> &'static str {
    match () {
        () if lun.failed || !lun.unit.enabled || !volume.online => "offline",
        () if lun.unit.file.is_some() && state.volume_used(volume) > volume.size => "space_error",
        () => "online",
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// PATCH /storage/luns/{uuid}: always synchronous.
pub(crate) fn modify(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let (lun, volume) = find(state, call)?;
    let (uuid, svm) = (lun.uuid, volume.svm);
    state.check_running(svm)?;
    let body = &call.body;
    let source = source(state, svm, body)?;
    let mut unit = lun.unit.clone();
    if let Some(path) = body.text("name")? {
        unit.name = renamed(state, lun, volume, &path)?;
    }
    let mut grown = None;
    if let Some(size) = body.size("space.size")? {
        grown = Some(new_size(state, lun, size)?);
    }
    unit.comment = body.short_text("comment", COMMENT_MAX)?.unwrap_or(unit.comment);
    unit.enabled = body.flag("enabled")?.unwrap_or(unit.enabled);
    unit.auto_delete = body.flag("auto_delete")?.unwrap_or(unit.auto_delete);
    unit.reserved = body.flag("space.guarantee.requested")?.unwrap_or(unit.reserved);
    unit.unmap = body.flag("space.scsi_thin_provisioning_support_enabled")?.unwrap_or(unit.unmap);
    if unit.reserved && !lun.unit.reserved {
        let (of, more) = (volume.uuid, unit.size.saturating_sub(State::unit_used(&lun.unit)));
        state.make_room(of, more)?;
    }
    if let Some(source) = source {
        overwrite(state, uuid, unit, &source)?;
    } else {
        state.lun_mut(uuid)?.unit = unit;
    }
    if let Some(size) = grown {
        grow(state, uuid, size)?;
    }
    Ok(Reply::Done)
}

/// Grow only; the size it already has is an error of its own.
fn new_size(state: &State, lun: &Lun, size: u64) -> Result<u64, ApiError> {
    let size = state.lun_size(size)?;
    if size < lun.unit.size {
        return Err(LUN_SHRINK.error("reducing the size of a LUN is not supported").target("space.size"));
    }
    if size == lun.unit.size {
        return Err(LUN_SAME_SIZE.error("the new size equals the current size").target("space.size"));
    }
    Ok(size)
}

fn grow(state: &mut State, uuid: Uuid, size: u64) -> Result<(), ApiError> {
    let lun = state.lun_mut(uuid)?;
    let (volume, reserved, more) = (lun.volume, lun.unit.reserved, size.saturating_sub(lun.unit.size));
    if reserved {
        state.make_room(volume, more)?;
    }
    let lun = state.lun_mut(uuid)?;
    if let Some(file) = &lun.unit.file {
        disk::resize(file, size).map_err(|error| ApiError::data(&error))?;
    }
    lun.unit.size = size;
    Ok(())
}

fn renamed(state: &State, lun: &Lun, volume: &Volume, path: &str) -> Result<String, ApiError> {
    let (target, name) = split_path(path)?;
    if target != volume.name {
        return Err(ApiError::not_simulated("moving a LUN to another volume"));
    }
    let taken = state.lun_at(volume.svm, path).is_some_and(|other| other.uuid != lun.uuid);
    if taken {
        return Err(LUN_DUPLICATE.error(format!("a LUN already exists at \"{path}\"")).target("name"));
    }
    Ok(name.to_owned())
}

/// The data and size of a source, and the volume it is in.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) volume: Uuid,
    pub(crate) unit: Unit,
    /// Set when the source is in a snapshot.
    pub(crate) snapshot: Option<Uuid>,
}

/// `clone.source` of a body: a LUN by name or uuid, or a LUN in a snapshot by its path below `.snapshot`.
pub(crate) fn source(state: &State, svm: usize, body: &Body) -> Result<Option<Source>, ApiError> {
    let (name, uuid) = (body.text("clone.source.name")?, body.text("clone.source.uuid")?);
    let missing =
        |what: &str| LUN_MISSING.error(format!("LUN \"{what}\" does not exist")).target("clone.source");
    if let Some(uuid) = uuid {
        if name.as_ref().is_some_and(|name| name.contains("/.snapshot/")) {
            return Err(LUN_SNAPSHOT_BY_NAME.error("a LUN in a snapshot is named, it has no uuid"));
        }
        let found = Uuid::parse_str(&uuid).ok().and_then(|uuid| state.live_lun(uuid));
        let (lun, volume) = found.ok_or_else(|| missing(&uuid))?;
        return Ok(Some(Source { volume: volume.uuid, unit: lun.unit.clone(), snapshot: None }));
    }
    let Some(name) = name else { return Ok(None) };
    let (volume, rest) = split_source(&name).ok_or_else(|| missing(&name))?;
    let volume = state.volume_named(svm, volume).ok_or_else(|| missing(&name))?;
    let Some((snapshot, unit)) = rest.strip_prefix(".snapshot/").and_then(|rest| rest.split_once('/')) else {
        let lun = state.lun_at(svm, &name).ok_or_else(|| missing(&name))?;
        return Ok(Some(Source { volume: volume.uuid, unit: lun.unit.clone(), snapshot: None }));
    };
    let snapshot = volume.snapshots.iter().find(|it| it.name == snapshot).ok_or_else(|| missing(&name))?;
    let image = snapshot.images.iter().find(|image| image.unit.name == unit).ok_or_else(|| missing(&name))?;
    Ok(Some(Source { volume: volume.uuid, unit: image.unit.clone(), snapshot: Some(snapshot.uuid) }))
}

fn split_source(path: &str) -> Option<(&str, &str)> {
    path.strip_prefix("/vol/")?.split_once('/')
}

/// Overwrites a LUN from a source in its own volume. Size, comment and operating system come from the source; uuid,
/// serial number, name, class, state and maps stay.
fn overwrite(state: &mut State, lun: Uuid, kept: Unit, source: &Source) -> Result<(), ApiError> {
    let place = state.lun_mut(lun)?;
    if place.volume != source.volume {
        return Err(LUN_CLONE_ELSEWHERE.error("source and target of a LUN clone must be in one volume"));
    }
    place.unit = Unit {
        name: kept.name,
        class: kept.class,
        enabled: kept.enabled,
        auto_delete: kept.auto_delete,
        file: kept.file,
        ..source.unit.clone()
    };
    state.pin(source.volume, source.snapshot);
    state.write_unit(lun, source.unit.file.as_deref())
}

/// DELETE /storage/luns/{uuid}: always synchronous.
pub(crate) fn delete(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let unmap = call.params.flag("allow_delete_while_mapped")?;
    let (lun, volume) = find(state, call)?;
    state.check_running(volume.svm)?;
    if !unmap && state.maps_of(lun.uuid).next().is_some() {
        let path = volume.path_of(&lun.unit.name);
        return Err(LUN_MAPPED.error(format!("LUN \"{path}\" is mapped and cannot be deleted")));
    }
    let uuid = lun.uuid;
    state.remove_lun(uuid)?;
    Ok(Reply::Done)
}

fn find<'a>(state: &'a State, call: &Call) -> Result<(&'a Lun, &'a Volume), ApiError> {
    let key = call.keys.first().and_then(|key| Uuid::parse_str(key).ok());
    key.and_then(|uuid| state.live_lun(uuid)).ok_or_else(ApiError::no_entry)
}

impl State {
    /// A size as this array makes it: in bounds, rounded up.
    pub(crate) fn lun_size(&self, size: u64) -> Result<u64, ApiError> {
        let by_release = if self.version >= Version::new(9, 12, 1) { 128 } else { 16 };
        let most = self.limits.lun_max.unwrap_or(by_release * super::config::TIB);
        if size < SIZE_MIN {
            return Err(LUN_TOO_SMALL
                .error(format!("a LUN has at least {SIZE_MIN} bytes"))
                .target("space.size"));
        }
        if size > most {
            return Err(LUN_TOO_LARGE.error(format!("a LUN has at most {most} bytes")).target("space.size"));
        }
        Ok(size.next_multiple_of(self.limits.lun_granule))
    }

    /// Removes a LUN with its maps and its file.
    pub(crate) fn remove_lun(&mut self, uuid: Uuid) -> Result<(), ApiError> {
        let Some(lun) = self.luns.remove(&uuid) else { return Ok(()) };
        if let Some(volume) = self.volumes.get_mut(&lun.volume) {
            volume.luns.remove(&uuid);
        }
        self.unmap_all(uuid);
        lun.unit.file.map_or(Ok(()), |file| disk::remove(&file)).map_err(|error| ApiError::data(&error))
    }

    /// A serial number that no LUN has or ever had.
    pub(crate) fn new_serial(&mut self) -> String {
        loop {
            let serial = self.ids.lun_serial();
            if self.serials.insert(serial.clone()) {
                return serial;
            }
        }
    }

    /// Keeps a snapshot busy for as long as a LUN clone of it does.
    pub(crate) fn pin(&mut self, volume: Uuid, snapshot: Option<Uuid>) {
        let until = self.now + self.unverified.lun_clone_pins_snapshot;
        let Some(volume) = self.volumes.get_mut(&volume) else { return };
        for it in volume.snapshots.iter_mut().filter(|it| Some(it.uuid) == snapshot) {
            it.busy_until = it.busy_until.max(until);
        }
    }
}

/// `/vol/<volume>/<unit>` taken apart, with the checks on its form.
pub(crate) fn split_path(path: &str) -> Result<(&str, &str), ApiError> {
    let bad =
        || LUN_NAME_BAD.error(format!("\"{path}\" is not a LUN path /vol/<volume>/<lun>")).target("name");
    if path.len() > PATH_MAX {
        return Err(LUN_NAME_LONG
            .error(format!("LUN path is longer than {PATH_MAX} characters"))
            .target("name"));
    }
    let (volume, unit) = split_source(path).ok_or_else(bad)?;
    if volume.is_empty() || unit.is_empty() {
        return Err(bad());
    }
    if unit.starts_with(".snapshot/") {
        return Err(LUN_IN_SNAPSHOT.error("a LUN in a snapshot cannot be changed").target("name"));
    }
    if unit.contains('/') {
        return Err(ApiError::not_simulated("a LUN in a qtree"));
    }
    if !unit.chars().all(|c| c.is_ascii_alphanumeric() || "-._{}".contains(c)) {
        return Err(LUN_NAME_CHAR
            .error(format!("LUN name \"{unit}\" has an invalid character"))
            .target("name"));
    }
    Ok((volume, unit))
}

/// The volume a LUN shall be in.
pub(crate) fn volume_for(state: &State, svm: usize, name: &str) -> Result<Uuid, ApiError> {
    if name.is_empty() {
        return Err(LUN_NO_VOLUME.error("no volume was given"));
    }
    let volume = state.volume_named(svm, name).map(|volume| volume.uuid);
    volume.ok_or_else(|| VOLUME_MISSING.error(format!("volume \"{name}\" does not exist")).target("name"))
}
