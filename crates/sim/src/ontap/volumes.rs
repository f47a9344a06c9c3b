//! /storage/volumes: read, change, delete. Creation is in `volume_create.rs`.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use uuid::Uuid;

pub(crate) use super::volume_create::create;

use super::answer::{Reply, Row};
use super::body::Body;
use super::call::Call;
use super::config::MappedDelete;
use super::disk;
use super::draft::{Draft, Wants};
use super::error::{
    AUTOSIZE_ABOVE_SIZE, AUTOSIZE_BELOW_SIZE, AUTOSIZE_BOUNDS, AUTOSIZE_THRESHOLDS, ApiError, FIELDS_EXCLUDE,
    NO_CLOUD_TIER, NOT_SUPPORTED, QOS_POLICY_MISSING, RESERVE_TOO_LARGE, SNAPSHOT_POLICY_MISSING,
    VOLUME_BUSY, VOLUME_DUPLICATE, VOLUME_HAS_CLONES, VOLUME_LOCKED, VOLUME_NAME_CHAR, VOLUME_NAME_FIRST,
    VOLUME_NAME_LONG, VOLUME_TOO_SMALL,
};
use super::jobs::{JobFate, accepted};
use super::model::{Autodelete, Autosize, AutosizeMode, State, Volume};

/// Longest name of a volume.
const NAME_MAX: usize = 203;
/// Longest comment of a volume.
pub(crate) const COMMENT_MAX: usize = 1023;

/// GET /storage/volumes[/{uuid}]. Volumes in the recovery queue are not shown.
#[expect(clippy::unnecessary_wraps, reason = "one signature for all collections")]
pub(crate) fn rows(state: &State, call: &Call) -> Result<Vec<Row>, ApiError> {
    let wants = call.wants();
    let clones = state.volumes.values().filter(|_| wants.has("clone")).filter_map(|volume| volume.clone);
    let parents: BTreeSet<Uuid> = clones.map(|clone| clone.volume).collect();
    let show = |volume: &Volume| row(state, volume, &parents, &wants);
    let by_uuid = |uuid: &str| Uuid::parse_str(uuid).ok().and_then(|uuid| state.live_volume(uuid));
    if let Some(key) = call.keys.first() {
        return Ok(by_uuid(key).map(show).into_iter().collect());
    }
    if let Some(uuids) = call.params.exact("uuid") {
        return Ok(uuids.into_iter().filter_map(by_uuid).map(show).collect());
    }
    if let Some(names) = call.params.exact("name") {
        return Ok(state.volumes_named(&names).map(show).collect());
    }
    Ok(state.live_volumes().map(show).collect())
}

fn row(state: &State, volume: &Volume, parents: &BTreeSet<Uuid>, wants: &Wants) -> Row {
    let svm = &state.svms[volume.svm];
    let svm = || json!({ "name": svm.name, "uuid": svm.uuid });
    let aggregate = &state.aggregates[volume.aggregate];
    let value = Draft::new(wants)
        .set("uuid", || volume.uuid.to_string())
        .set("name", || volume.name.clone())
        .set("svm", svm)
        .set("aggregates", || json!([{ "name": aggregate.name, "uuid": aggregate.uuid }]))
        .set("create_time", || state.stamp(volume.created))
        .set("comment", || volume.comment.clone())
        .set("state", || if volume.online { "online" } else { "offline" })
        .set("style", || "flexvol")
        .set("type", || "rw")
        .set("language", || "c.utf_8")
        .set("size", || volume.size)
        .set("guarantee", || json!({ "type": if volume.thick { "volume" } else { "none" }, "honored": true }))
        .set("snapshot_policy", || json!({ "name": volume.snapshot_policy }))
        .set("qos", || volume.qos_policy.as_ref().map(|name| json!({ "policy": { "name": name } })))
        .set("autosize", || autosize_object(volume))
        .set("space", || space(state, volume))
        .set("clone", || clone(state, volume, &svm(), parents))
        .set("tiering", || json!({ "policy": volume.tiering }))
        .set("encryption", || json!({ "enabled": volume.encrypted }))
        .set("access_time_enabled", || true)
        .set("error_state", || json!({ "is_inconsistent": false, "has_bad_blocks": false }))
        .set("is_svm_root", || false)
        .set("msid", || volume.uuid.as_fields().0)
        .set("snapshot_count", || volume.snapshots.len())
        .finish();
    Row::new("/storage/volumes", vec![volume.uuid.to_string()], value)
}

fn autosize_object(volume: &Volume) -> Value {
    json!({
        "mode": volume.autosize.mode.word(),
        "maximum": volume.autosize_maximum(),
        "minimum": volume.autosize.minimum.unwrap_or(volume.size),
        "grow_threshold": volume.grow_threshold(),
        "shrink_threshold": volume.shrink_threshold(),
    })
}

fn space(state: &State, volume: &Volume) -> Value {
    let used = state.volume_used(volume);
    json!({
        "size": volume.size,
        "available": state.volume_available(volume),
        "used": used,
        "percent_used": used / (volume.size / 100).max(1),
        "max_size": format!("{}TB", state.volume_max() / super::config::TIB),
        "fractional_reserve": volume.fractional_reserve,
        "snapshot": {
            "used": state.snapshots_used(volume),
            "reserve_percent": volume.reserve_percent,
            "autodelete_enabled": volume.autodelete.enabled,
            "autodelete": {
                "enabled": volume.autodelete.enabled,
                "trigger": "volume",
                "delete_order": volume.autodelete.order,
                "commitment": volume.autodelete.commitment,
                "defer_delete": volume.autodelete.defer,
                "prefix": volume.autodelete.prefix,
            },
        },
    })
}

fn clone(state: &State, volume: &Volume, svm: &Value, parents: &BTreeSet<Uuid>) -> Value {
    let has = parents.contains(&volume.uuid);
    let Some(of) = volume.clone else { return json!({ "is_flexclone": false, "has_flexclone": has }) };
    let parent = state.volumes.get(&of.volume);
    let snapshot =
        parent.and_then(|parent| parent.snapshots.iter().find(|snapshot| snapshot.uuid == of.snapshot));
    json!({
        "is_flexclone": true,
        "has_flexclone": has,
        "parent_svm": svm,
        "parent_volume": parent.map(|parent| json!({ "name": parent.name, "uuid": parent.uuid })),
        "parent_snapshot": snapshot.map(|snapshot| json!({ "name": snapshot.name, "uuid": snapshot.uuid })),
        "split_initiated": volume.splitting.is_some(),
        "split_complete_percent": volume.splitting.map_or(0, |it| split_percent(it, state.now)),
    })
}

/// How much of a clone is split; what has not ended is not all of it.
fn split_percent((from, until): (Duration, Duration), now: Duration) -> u64 {
    let (done, all) = (now.saturating_sub(from).as_millis(), until.saturating_sub(from).as_millis().max(1));
    u64::try_from(done * 100 / all).unwrap_or(99).min(99)
}

/// PATCH /storage/volumes/{uuid}: rename, size, state, settings, split, and restore of a snapshot.
pub(crate) fn modify(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let volume = find(state, call)?;
    let (uuid, svm) = (volume.uuid, volume.svm);
    state.check_running(svm)?;
    let path = format!("/api/storage/volumes/{uuid}");
    if let Some(restore) = super::restore::wanted(state, uuid, call)? {
        let work = move |state: &mut State| super::restore::restore(state, uuid, restore);
        return Ok(accepted(state.start_job(call, &path, Some(svm), Box::new(work)), None));
    }
    let splits = call.body.flag("clone.split_initiated")? == Some(true);
    if splits && volume_of(state, uuid)?.splitting.is_some() {
        return Err(VOLUME_BUSY.error("the volume is being split already"));
    }
    let mut changed = volume_of(state, uuid)?.clone();
    apply(state, &mut changed, &call.body)?;
    let body = call.body.clone();
    let work = move |state: &mut State| {
        if splits {
            drop_snapshots(state, uuid)?;
        }
        let mut changed = volume_of(state, uuid)?.clone();
        apply(state, &mut changed, &body)?;
        state.put_volume(changed);
        Ok(())
    };
    if !splits {
        return Ok(accepted(state.start_job(call, &path, Some(svm), Box::new(work)), None));
    }
    // A clone whose split fails stays what it was.
    if !matches!(state.jobs.fate, Some(JobFate::Fails(..))) {
        let until = state.now + state.pace.job + state.pace.split;
        state.volume_mut(uuid)?.splitting = Some((state.now, until));
    }
    state.jobs.queue_delay = state.pace.split;
    let job = state.start_job(call, &path, Some(svm), Box::new(work));
    state.jobs.queue_delay = Duration::ZERO;
    Ok(accepted(job, None))
}

/// A clone that is split loses its snapshots, as everywhere but on an AFF.
fn drop_snapshots(state: &mut State, uuid: Uuid) -> Result<(), ApiError> {
    let snapshots = std::mem::take(&mut state.volume_mut(uuid)?.snapshots);
    let mut files = snapshots.into_iter().flat_map(|it| it.images).filter_map(|image| image.unit.file);
    files.try_for_each(|file| disk::remove(&file)).map_err(|error| ApiError::data(&error))
}

/// The changes of a PATCH, checked against the array as it is.
fn apply(state: &State, volume: &mut Volume, body: &Body) -> Result<(), ApiError> {
    if let Some(name) = body.text("name")?
        && name != volume.name
    {
        check_name(state, volume.svm, &name)?;
        volume.name = name;
    }
    if let Some(size) = size(body)? {
        let used = state.volume_used(volume) + state.snapshots_used(volume);
        if size < used {
            let message = format!("volume \"{}\" cannot be smaller than its {used} used bytes", volume.name);
            return Err(VOLUME_TOO_SMALL.error(message).target("size"));
        }
        check_size(state, size)?;
        if volume.thick && size > volume.size {
            state.check_room(volume.aggregate, size - volume.size)?;
        }
        volume.size = size;
    }
    match body.word("state", &["online", "offline", "restricted"])? {
        Some("online") => volume.online = true,
        Some("offline") => volume.online = false,
        Some(other) => return Err(ApiError::not_simulated(&format!("volume state \"{other}\""))),
        None => {}
    }
    if let Some(kind) = body.word("guarantee.type", &["volume", "none"])? {
        let is_new = !volume.thick && kind == "volume";
        if is_new {
            let more = volume.size.saturating_sub(state.footprint(volume));
            state.check_room(volume.aggregate, more)?;
        }
        volume.thick = kind == "volume";
    }
    if body.flag("clone.split_initiated")? == Some(true) {
        if volume.clone.take().is_none() {
            return Err(NOT_SUPPORTED.error(format!("volume \"{}\" is not a clone", volume.name)));
        }
        volume.splitting = None;
    }
    settings(state, volume, body)
}

/// What POST and PATCH set in the same way.
pub(crate) fn settings(state: &State, volume: &mut Volume, body: &Body) -> Result<(), ApiError> {
    if let Some(comment) = body.short_text("comment", COMMENT_MAX)? {
        volume.comment = comment;
    }
    if let Some(policy) = body.text("snapshot_policy.name")? {
        if !state.snapshot_policies.contains(&policy) {
            let message = format!("snapshot policy \"{policy}\" does not exist");
            return Err(SNAPSHOT_POLICY_MISSING.error(message));
        }
        volume.snapshot_policy = policy;
    }
    if let Some(policy) = body.text("qos.policy.name")? {
        let is_none = policy.is_empty() || policy == "none";
        if !is_none && !state.qos_policies.contains(&policy) {
            let message = format!("QoS policy \"{policy}\" does not exist");
            return Err(QOS_POLICY_MISSING.error(message).target("qos.policy.name"));
        }
        volume.qos_policy = (!is_none).then_some(policy);
    }
    if let Some(percent) = body.size("space.snapshot.reserve_percent")? {
        let fits = u8::try_from(percent).ok().filter(|percent| *percent <= 90);
        let error = || RESERVE_TOO_LARGE.error("the snapshot reserve may be at most 90 percent");
        volume.reserve_percent = fits.ok_or_else(error)?;
    }
    for field in ["space.snapshot.autodelete_enabled", "space.snapshot.autodelete.enabled"] {
        volume.autodelete.enabled = body.flag(field)?.unwrap_or(volume.autodelete.enabled);
    }
    autodelete(&mut volume.autodelete, body)?;
    if let Some(percent) = body.small("space.fractional_reserve", 100)? {
        volume.fractional_reserve = percent;
    }
    if let Some(policy) = body.word("tiering.policy", &["none", "snapshot_only", "auto", "all"])? {
        if policy != "none" && state.aggregates[volume.aggregate].object_stores.is_empty() {
            let aggregate = &state.aggregates[volume.aggregate].name;
            return Err(
                NO_CLOUD_TIER.error(format!("aggregate \"{aggregate}\" has no object store attached"))
            );
        }
        volume.tiering = policy;
    }
    let given = body.has("autosize");
    autosize(&mut volume.autosize, body)?;
    check_autosize(state, volume, given)
}

fn autodelete(autodelete: &mut Autodelete, body: &Body) -> Result<(), ApiError> {
    const BELOW: &str = "space.snapshot.autodelete";
    let word = |field: &str, words: &[&'static str]| body.word(&format!("{BELOW}.{field}"), words);
    autodelete.order = word("delete_order", &["newest_first", "oldest_first"])?.unwrap_or(autodelete.order);
    autodelete.commitment =
        word("commitment", &["try", "disrupt", "destroy"])?.unwrap_or(autodelete.commitment);
    autodelete.defer =
        word("defer_delete", &["scheduled", "user_created", "prefix", "none"])?.unwrap_or(autodelete.defer);
    if let Some(prefix) = body.short_text(&format!("{BELOW}.prefix"), 64)? {
        autodelete.prefix = prefix;
    }
    Ok(())
}

fn autosize(autosize: &mut Autosize, body: &Body) -> Result<(), ApiError> {
    match body.word("autosize.mode", &["off", "grow", "grow_shrink"])? {
        Some("grow") => autosize.mode = AutosizeMode::Grow,
        Some("grow_shrink") => autosize.mode = AutosizeMode::GrowShrink,
        Some(_) => autosize.mode = AutosizeMode::Off,
        None => {}
    }
    autosize.maximum = body.size("autosize.maximum")?.or(autosize.maximum);
    autosize.minimum = body.size("autosize.minimum")?.or(autosize.minimum);
    autosize.grow_threshold = body.small("autosize.grow_threshold", 100)?.or(autosize.grow_threshold);
    autosize.shrink_threshold = body.small("autosize.shrink_threshold", 100)?.or(autosize.shrink_threshold);
    Ok(())
}

/// Bounds and thresholds must fit the size. A maximum that a client once set is not raised for a later, larger size.
fn check_autosize(state: &State, volume: &Volume, given: bool) -> Result<(), ApiError> {
    let autosize = &volume.autosize;
    if autosize.mode == AutosizeMode::Off && !given {
        return Ok(());
    }
    if volume.grow_threshold() <= volume.shrink_threshold() {
        return Err(AUTOSIZE_THRESHOLDS.error("the grow threshold must be above the shrink threshold"));
    }
    let bounds = autosize.minimum.zip(autosize.maximum);
    if bounds.is_some_and(|(minimum, maximum)| minimum >= maximum) {
        return Err(AUTOSIZE_BOUNDS.error("the minimum of autosize must be below its maximum"));
    }
    if autosize.maximum.is_some_and(|maximum| maximum < volume.size) {
        let message = "the size of the volume is above the maximum of autosize";
        return Err(AUTOSIZE_BELOW_SIZE.error(message).target("autosize.maximum"));
    }
    if autosize.maximum.is_some_and(|maximum| maximum > state.volume_max()) {
        return Err(ApiError::bad_value("too large", "autosize.maximum"));
    }
    if autosize.minimum.is_some_and(|minimum| minimum > volume.size) {
        let message = "the size of the volume is below the minimum of autosize";
        return Err(AUTOSIZE_ABOVE_SIZE.error(message).target("autosize.minimum"));
    }
    Ok(())
}

/// DELETE /storage/volumes/{uuid}: into the recovery queue, or away with `force`.
pub(crate) fn delete(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let force = call.params.flag("force")?;
    let volume = find(state, call)?;
    let (uuid, svm) = (volume.uuid, volume.svm);
    state.check_running(svm)?;
    check_delete(state, uuid)?;
    let work = move |state: &mut State| {
        check_delete(state, uuid)?;
        state.queue_volume(uuid)?;
        if force { state.purge_volume(uuid) } else { Ok(()) }
    };
    let path = format!("/api/storage/volumes/{uuid}");
    Ok(accepted(state.start_job(call, &path, Some(svm), Box::new(work)), None))
}

fn check_delete(state: &State, uuid: Uuid) -> Result<(), ApiError> {
    let volume = volume_of(state, uuid)?;
    let is_child = |other: &&Volume| other.clone.is_some_and(|clone| clone.volume == uuid);
    if let Some(child) = state.volumes.values().find(is_child) {
        let message = format!("volume \"{}\" has clones: \"{}\"", volume.name, child.name);
        return Err(VOLUME_HAS_CLONES.error(message));
    }
    state.check_not_replicated(volume)?;
    if let Some(locked) = volume.snapshots.iter().find(|it| super::snapshots::is_locked(state, it)) {
        let message = format!("volume \"{}\" has the locked snapshot \"{}\"", volume.name, locked.name);
        return Err(VOLUME_LOCKED.error(message));
    }
    let mapped = volume.luns.iter().any(|lun| state.maps_of(*lun).next().is_some());
    if mapped && state.unverified.delete_volume_with_maps == MappedDelete::Refused {
        return Err(VOLUME_BUSY.error(format!("volume \"{}\" has mapped LUNs", volume.name)));
    }
    Ok(())
}

impl State {
    /// Largest size of a volume.
    pub(crate) fn volume_max(&self) -> u64 {
        let large = self.version >= super::version::Version::new(9, 12, 1)
            && self.personality == super::version::Personality::Unified;
        let by_release = if large { 300 } else { 100 };
        self.limits.volume_max.unwrap_or(by_release * super::config::TIB)
    }

    /// Moves a volume to the recovery queue: its name is free at once, maps are gone, its space stays used.
    fn queue_volume(&mut self, uuid: Uuid) -> Result<(), ApiError> {
        let digits = self.ids.digits(4);
        let mut volume = volume_of(self, uuid)?.clone();
        volume.name = format!("{}_{digits}", volume.name);
        volume.deleted = Some(self.now);
        let luns = volume.luns.clone();
        self.put_volume(volume);
        self.maps.retain(|(lun, _), _| !luns.contains(lun));
        self.recovery_queue.insert((self.now + self.limits.recovery_queue, uuid));
        Ok(())
    }

    /// Removes a volume for good, its files included.
    pub(crate) fn purge_volume(&mut self, uuid: Uuid) -> Result<(), ApiError> {
        let Some(volume) = self.take_volume(uuid) else { return Ok(()) };
        self.recovery_queue.retain(|(_, queued)| *queued != uuid);
        let luns = volume.luns.iter().filter_map(|lun| self.luns.remove(lun)).map(|lun| lun.unit.file);
        let images = volume.snapshots.into_iter().flat_map(|it| it.images).map(|image| image.unit.file);
        let files: Vec<_> = luns.chain(images).flatten().collect();
        files.iter().try_for_each(|file| disk::remove(file)).map_err(|error| ApiError::data(&error))
    }

    /// Purges what has been in the recovery queue long enough.
    pub(crate) fn purge_expired(&mut self) {
        while let Some((_, uuid)) = self.recovery_queue.first().copied().filter(|(at, _)| *at <= self.now) {
            // A file that cannot be removed is left behind: the array object is gone all the same.
            drop(self.purge_volume(uuid));
            self.recovery_queue.retain(|(_, queued)| *queued != uuid);
        }
    }
}

fn find<'a>(state: &'a State, call: &Call) -> Result<&'a Volume, ApiError> {
    let key = call.keys.first().and_then(|key| Uuid::parse_str(key).ok());
    volume_of(state, key.ok_or_else(ApiError::no_entry)?)
}

pub(crate) fn volume_of(state: &State, uuid: Uuid) -> Result<&Volume, ApiError> {
    state.live_volume(uuid).ok_or_else(ApiError::no_entry)
}

/// `size` or `space.size`; both only when they agree.
pub(crate) fn size(body: &Body) -> Result<Option<u64>, ApiError> {
    match (body.size("size")?, body.size("space.size")?) {
        (Some(a), Some(b)) if a != b => Err(FIELDS_EXCLUDE.error("\"size\" and \"space.size\" differ")),
        (a, b) => Ok(a.or(b)),
    }
}

pub(crate) fn check_size(state: &State, size: u64) -> Result<(), ApiError> {
    if size < state.limits.volume_min {
        let message = format!("a volume has at least {} bytes", state.limits.volume_min);
        return Err(VOLUME_TOO_SMALL.error(message).target("size"));
    }
    if size > state.volume_max() {
        return Err(ApiError::bad_value(&size.to_string(), "size"));
    }
    Ok(())
}

/// Length, alphabet, and that the name is free.
pub(crate) fn check_name(state: &State, svm: usize, name: &str) -> Result<(), ApiError> {
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    let alphabet = name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let wrong = match () {
        () if name.len() > NAME_MAX => Some(
            VOLUME_NAME_LONG.error(format!("volume name \"{name}\" is longer than {NAME_MAX} characters")),
        ),
        () if !starts_well => {
            Some(VOLUME_NAME_FIRST.error(format!("volume name \"{name}\" must begin with a letter or \"_\"")))
        }
        () if !alphabet => Some(
            VOLUME_NAME_CHAR.error(format!("volume name \"{name}\" may hold only letters, digits and \"_\"")),
        ),
        () if state.volume_named(svm, name).is_some() => {
            let svm = &state.svms[svm].name;
            Some(VOLUME_DUPLICATE.error(format!("volume \"{name}\" in SVM \"{svm}\" already exists")))
        }
        () => None,
    };
    wrong.map_or(Ok(()), |error| Err(error.target("name")))
}
