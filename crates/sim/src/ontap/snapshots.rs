//! /storage/volumes/{volume.uuid}/snapshots.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use uuid::Uuid;

use super::answer::{Reply, Row};
use super::body::Body;
use super::call::Call;
use super::disk;
use super::error::{
    ApiError, Code, LUN_VOLUME_OFFLINE, SNAPSHOT_BUSY, SNAPSHOT_DUPLICATE, SNAPSHOT_LIMIT, SNAPSHOT_LOCKED,
    SNAPSHOT_MISSING, SNAPSHOT_NAME_BAD, SNAPSHOT_NAME_RESERVED, SNAPSHOT_NO_SPACE, SNAPSHOT_RENAME,
    VOLUME_BUSY,
};
use super::jobs::accepted;
use super::model::{Image, Snapshot, State, Volume};
use super::version::Version;
use super::volumes::{COMMENT_MAX, volume_of};

/// Longest SnapMirror label.
const LABEL_MAX: usize = 31;
/// From this release on `*` stands for every volume.
const WILDCARD_PARENT: Version = Version::new(9, 11, 1);
/// Names that the array keeps for itself.
const RESERVED: &[&str] = &["active", "all", "filesystem"];

/// GET of the snapshots of one volume, or of all with `*` in place of the volume.
pub(crate) fn rows(state: &State, call: &Call) -> Result<Vec<Row>, ApiError> {
    let volumes: Vec<&Volume> = match call.keys.first().map(String::as_str) {
        Some("*") if state.version >= WILDCARD_PARENT => {
            let (names, uuids) = (call.params.exact("volume.name"), call.params.exact("volume.uuid"));
            let wanted = |volume: &&Volume| {
                names.as_ref().is_none_or(|names| names.contains(&volume.name.as_str()))
                    && uuids.as_ref().is_none_or(|uuids| uuids.contains(&volume.uuid.to_string().as_str()))
            };
            state.live_volumes().filter(wanted).collect()
        }
        _ => vec![parent(state, call)?],
    };
    let wanted = call.keys.get(1);
    let pinned = pinned(state);
    let mut rows = Vec::new();
    for volume in volumes {
        let asked = volume.snapshots.iter().filter(|it| wanted.is_none_or(|key| *key == it.uuid.to_string()));
        rows.extend(asked.map(|snapshot| row(state, volume, snapshot, &pinned)));
    }
    Ok(rows)
}

fn parent<'a>(state: &'a State, call: &Call) -> Result<&'a Volume, ApiError> {
    let key = call.keys.first().and_then(|key| Uuid::parse_str(key).ok());
    volume_of(state, key.ok_or_else(ApiError::no_entry)?)
}

/// Snapshots that a FlexClone hangs on, also one in the recovery queue.
fn pinned(state: &State) -> BTreeSet<Uuid> {
    state.volumes.values().filter_map(|volume| volume.clone.map(|clone| clone.snapshot)).collect()
}

fn owners(state: &State, snapshot: &Snapshot, pinned: &BTreeSet<Uuid>) -> Vec<&'static str> {
    let mut owners = Vec::new();
    if pinned.contains(&snapshot.uuid) {
        owners.push("volume clone");
    }
    if snapshot.busy_until > state.now {
        owners.push("LUN clone");
    }
    if state.is_replicated(snapshot.uuid) {
        owners.push("snapmirror");
    }
    owners
}

/// Who keeps a snapshot busy.
pub(crate) fn holders(state: &State, snapshot: &Snapshot) -> Vec<&'static str> {
    owners(state, snapshot, &pinned(state))
}

fn row(state: &State, volume: &Volume, snapshot: &Snapshot, pinned: &BTreeSet<Uuid>) -> Row {
    let svm = &state.svms[volume.svm];
    let owners = owners(state, snapshot, pinned);
    let size = state.snapshot_size(snapshot);
    let value: Value = json!({
        "uuid": snapshot.uuid,
        "name": snapshot.name,
        "volume": { "name": volume.name, "uuid": volume.uuid },
        "svm": { "name": svm.name, "uuid": svm.uuid },
        "create_time": state.stamp(snapshot.created),
        "comment": (!snapshot.comment.is_empty()).then_some(&snapshot.comment),
        "expiry_time": snapshot.expiry,
        "snapmirror_label": snapshot.label,
        "owners": (!owners.is_empty()).then_some(owners),
        "size": size,
        "logical_size": snapshot.images.iter().map(|image| image.unit.size).sum::<u64>(),
        "version_uuid": snapshot.version_uuid,
        "provenance_volume": { "uuid": volume.uuid },
        "reclaimable_space": size,
        "delta": { "size_consumed": size, "time_elapsed": format!("PT{}S", state.now.saturating_sub(snapshot.created).as_secs()) },
    });
    let keys = vec![volume.uuid.to_string(), snapshot.uuid.to_string()];
    let path = format!("/storage/volumes/{}/snapshots/{}", volume.uuid, snapshot.uuid);
    Row::at(&path, keys, value)
}

/// POST: a snapshot of one volume.
pub(crate) fn create(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    if call.keys.first().is_some_and(|key| key == "*") {
        return Err(ApiError::not_simulated("creating snapshots of many volumes in one request"));
    }
    let volume = parent(state, call)?;
    let (uuid, svm) = (volume.uuid, volume.svm);
    state.check_running(svm)?;
    let name = call.body.text("name")?;
    let name = name.ok_or_else(|| Code(262_254, 400).error("field \"name\" is required").target("name"))?;
    check_name(state, volume, &name)?;
    if volume.splitting.is_some() {
        let message = format!("volume \"{}\" is being split from its parent", volume.name);
        return Err(VOLUME_BUSY.error(message));
    }
    call.body.short_text("comment", COMMENT_MAX)?;
    call.body.short_text("snapmirror_label", LABEL_MAX)?;
    let parent = format!("/api/storage/volumes/{uuid}/snapshots");
    let body = call.body.clone();
    // The uuid is drawn now, so that the answer can name the object before it exists.
    let snapshot = state.ids.uuid();
    let work = move |state: &mut State| take_as(state, uuid, snapshot, name, &body);
    let job = state.start_job(call, &parent, Some(svm), Box::new(work));
    Ok(accepted(job, Some(format!("{parent}/{snapshot}"))))
}

fn check_name(state: &State, volume: &Volume, name: &str) -> Result<(), ApiError> {
    let alphabet = name.chars().all(|c| c.is_ascii_graphic() && !"/\\:*?\"<>|@".contains(c));
    if name.is_empty() || name.len() > state.unverified.snapshot_name_max || !alphabet {
        return Err(SNAPSHOT_NAME_BAD.error(format!("snapshot name \"{name}\" is invalid")).target("name"));
    }
    if RESERVED.contains(&name) {
        return Err(SNAPSHOT_NAME_RESERVED
            .error(format!("snapshot name \"{name}\" is reserved"))
            .target("name"));
    }
    if volume.snapshots.iter().any(|it| it.name == name) {
        let message = format!("snapshot \"{name}\" of volume \"{}\" already exists", volume.name);
        return Err(SNAPSHOT_DUPLICATE.error(message).target("name"));
    }
    Ok(())
}

/// Makes a snapshot now.
pub(crate) fn take(state: &mut State, volume: Uuid, name: String, body: &Body) -> Result<Uuid, ApiError> {
    let uuid = state.ids.uuid();
    take_as(state, volume, uuid, name, body).map(|()| uuid)
}

fn take_as(state: &mut State, volume: Uuid, uuid: Uuid, name: String, body: &Body) -> Result<(), ApiError> {
    let parent = volume_of(state, volume)?;
    check_name(state, parent, &name)?;
    if !parent.online {
        return Err(LUN_VOLUME_OFFLINE.error(format!("volume \"{}\" is offline", parent.name)));
    }
    if parent.snapshots.len() >= state.limits.snapshots_per_volume {
        let most = state.limits.snapshots_per_volume;
        return Err(
            SNAPSHOT_LIMIT.error(format!("volume \"{}\" has {most} snapshots, the most", parent.name))
        );
    }
    let no_space = |error: ApiError| SNAPSHOT_NO_SPACE.error(error.message);
    state.check_room(parent.aggregate, 4096).map_err(no_space)?;
    let luns: Vec<Uuid> = parent.luns.iter().copied().collect();
    let mut images = Vec::new();
    for lun in luns {
        images.push(image(state, lun)?);
    }
    let snapshot = Snapshot {
        uuid,
        version_uuid: state.ids.uuid(),
        name,
        comment: body.text("comment")?.unwrap_or_default(),
        label: body.text("snapmirror_label")?,
        expiry: body.text("expiry_time")?,
        created: state.now,
        images,
        busy_until: state.now,
    };
    state.volume_mut(volume)?.snapshots.push(snapshot);
    Ok(())
}

fn image(state: &mut State, lun: Uuid) -> Result<Image, ApiError> {
    let lun = state.luns.get(&lun).ok_or_else(ApiError::no_entry)?;
    let mut unit = lun.unit.clone();
    let (uuid, serial) = (lun.uuid, lun.serial.clone());
    let mut stamp = None;
    if let Some(file) = &lun.unit.file {
        let data = |error: std::io::Error| ApiError::data(&error);
        unit.file = Some(state.store.copy(file).map_err(data)?);
        stamp = Some(disk::stat(file).map_err(data)?.1);
    }
    Ok(Image { lun: uuid, serial, unit, stamp })
}

/// PATCH: name, comment, expiry, label.
pub(crate) fn modify(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let (volume, snapshot) = find(state, call)?;
    let (volume, uuid, svm) = (volume.uuid, snapshot.uuid, volume.svm);
    let body = call.body.clone();
    let work = move |state: &mut State| {
        let parent = volume_of(state, volume)?;
        let mut changed = snapshot_of(parent, uuid)?.clone();
        if let Some(name) = body.text("name")?
            && name != changed.name
        {
            check_name(state, parent, &name).map_err(|error| SNAPSHOT_RENAME.error(error.message))?;
            changed.name = name;
        }
        changed.comment = body.short_text("comment", COMMENT_MAX)?.unwrap_or(changed.comment);
        changed.expiry = body.text("expiry_time")?.or(changed.expiry);
        changed.label = body.short_text("snapmirror_label", LABEL_MAX)?.or(changed.label);
        let mut all = state.volume_mut(volume)?.snapshots.iter_mut();
        if let Some(place) = all.find(|it| it.uuid == uuid) {
            *place = changed;
        }
        Ok(())
    };
    let path = format!("/api/storage/volumes/{volume}/snapshots/{uuid}");
    Ok(accepted(state.start_job(call, &path, Some(svm), Box::new(work)), None))
}

/// DELETE: refused while the snapshot is busy or locked.
pub(crate) fn delete(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let (volume, snapshot) = find(state, call)?;
    check_free(state, snapshot)?;
    let (volume, uuid, svm) = (volume.uuid, snapshot.uuid, volume.svm);
    state.check_running(svm)?;
    let work = move |state: &mut State| {
        check_free(state, snapshot_of(volume_of(state, volume)?, uuid)?)?;
        state.drop_snapshots(volume, |it| it.uuid == uuid)
    };
    let path = format!("/api/storage/volumes/{volume}/snapshots/{uuid}");
    Ok(accepted(state.start_job(call, &path, Some(svm), Box::new(work)), None))
}

fn check_free(state: &State, snapshot: &Snapshot) -> Result<(), ApiError> {
    let holders = holders(state, snapshot);
    if !holders.is_empty() {
        let message = format!("snapshot \"{}\" has an owner: {}", snapshot.name, holders.join(", "));
        return Err(SNAPSHOT_BUSY.error(message));
    }
    if is_locked(state, snapshot) {
        return Err(SNAPSHOT_LOCKED.error(format!("snapshot \"{}\" has not expired", snapshot.name)));
    }
    Ok(())
}

/// Whether a snapshot's time has not come yet.
pub(crate) fn is_locked(state: &State, snapshot: &Snapshot) -> bool {
    snapshot.expiry.as_ref().is_some_and(|until| jiff_before(&state.stamp(state.now), until))
}

/// Whether one RFC 3339 time lies before another; what cannot be read never does.
fn jiff_before(now: &str, until: &str) -> bool {
    let (now, until) = (now.parse::<jiff::Timestamp>(), until.parse::<jiff::Timestamp>());
    now.ok().zip(until.ok()).is_some_and(|(now, until)| now < until)
}

impl State {
    /// Removes snapshots of a volume with their files.
    pub(crate) fn drop_snapshots(
        &mut self,
        volume: Uuid,
        gone: impl Fn(&Snapshot) -> bool,
    ) -> Result<(), ApiError> {
        let volume = self.volume_mut(volume)?;
        let files: Vec<_> = volume
            .snapshots
            .iter()
            .filter(|it| gone(it))
            .flat_map(|it| it.images.iter().filter_map(|image| image.unit.file.clone()))
            .collect();
        volume.snapshots.retain(|it| !gone(it));
        files.iter().try_for_each(|file| disk::remove(file)).map_err(|error| ApiError::data(&error))
    }
}

fn snapshot_of(volume: &Volume, uuid: Uuid) -> Result<&Snapshot, ApiError> {
    let found = volume.snapshots.iter().find(|it| it.uuid == uuid);
    found.ok_or_else(|| SNAPSHOT_MISSING.error("the snapshot does not exist"))
}

fn find<'a>(state: &'a State, call: &Call) -> Result<(&'a Volume, &'a Snapshot), ApiError> {
    let volume = parent(state, call)?;
    let uuid = call.keys.get(1).and_then(|key| Uuid::parse_str(key).ok());
    Ok((volume, snapshot_of(volume, uuid.ok_or_else(ApiError::no_entry)?)?))
}
