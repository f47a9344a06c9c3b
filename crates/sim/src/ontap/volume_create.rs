//! POST /storage/volumes: a new volume, or a FlexClone of one.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::answer::Reply;
use super::body::Body;
use super::call::Call;
use super::config::{CloneComment, CloneSettings, MIB, VolumeEncryption};
use super::error::{
    AGGREGATE_COUNT, AGGREGATE_DISAGREES, AGGREGATE_MISSING, AGGREGATE_NOT_GIVEN, ApiError,
    CLONE_PARENT_MISSING, Code, NO_KEY_MANAGER, PARENT_SNAPSHOT_DISAGREES, SNAPSHOT_MISSING, SVM_DISAGREES,
    SVM_NOT_GIVEN, VOLUME_IN_CREATION,
};
use super::jobs::accepted;
use super::model::{Autodelete, Autosize, CloneOf, Lun, State, Volume};
use super::snapshots;
use super::version::Version;
use super::volumes::{check_name, check_size, settings, size};

/// From this release on the array chooses an aggregate when the request says `style` instead.
const PLACES_ITSELF: Version = Version::new(9, 13, 1);

/// POST /storage/volumes. Names and references are checked at once, space when the job ends.
pub(crate) fn create(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let svm = svm_of(state, call)?;
    state.check_running(svm)?;
    let (volume, parent) = plan(state, call, svm)?;
    let uuid = volume.uuid;
    let path = format!("/api/storage/volumes/{uuid}");
    if state.jobs.is_claimed(svm, &volume.name) {
        let message = format!("a volume \"{}\" is being created", volume.name);
        return Err(VOLUME_IN_CREATION.error(message).target("name"));
    }
    let name = volume.name.clone();
    let work = move |state: &mut State| add(state, volume, parent);
    let job = state.start_job(call, "/api/storage/volumes", Some(svm), Box::new(work));
    state.jobs.claim(job, svm, name);
    Ok(accepted(job, Some(path)))
}

/// The SVM a POST is for: from the body, or from the tunnelling header.
pub(crate) fn svm_of(state: &State, call: &Call) -> Result<usize, ApiError> {
    let name = call.body.text("svm.name")?.or_else(|| call.svm.clone());
    let by_name = name.as_deref().map(|name| state.svm_index(name)).transpose()?;
    let uuid = call.body.text("svm.uuid")?;
    let by_uuid = match &uuid {
        None => None,
        Some(uuid) => {
            let found = state.svms.iter().position(|svm| svm.uuid.to_string() == *uuid);
            let missing = || super::error::SVM_MISSING.error(format!("SVM \"{uuid}\" does not exist"));
            Some(found.ok_or_else(missing)?)
        }
    };
    if let Some(own) = state.account_svm()
        && by_name.or(by_uuid).is_some_and(|at| state.svms[at].name != own)
    {
        return Err(super::error::SVM_MISSING.error("the SVM does not exist"));
    }
    match (by_name, by_uuid) {
        (None, None) => Err(SVM_NOT_GIVEN.error("svm.name or svm.uuid is required").target("svm")),
        (Some(a), Some(b)) if a != b => Err(SVM_DISAGREES.error("svm.name and svm.uuid are different SVMs")),
        (a, b) => a.or(b).ok_or_else(|| SVM_NOT_GIVEN.error("svm.name or svm.uuid is required")),
    }
}

/// The volume as the body describes it; nothing is changed yet.
fn plan(state: &mut State, call: &Call, svm: usize) -> Result<(Volume, Option<Parent>), ApiError> {
    let body = &call.body;
    let name = body.text("name")?;
    let name = name.ok_or_else(|| Code(262_254, 400).error("field \"name\" is required").target("name"))?;
    check_name(state, svm, &name)?;
    if let Some(style) = body.text("style")?
        && style != "flexvol"
    {
        return Err(ApiError::not_simulated(&format!("volume style \"{style}\"")));
    }
    body.word("type", &["rw"])?;
    body.word("state", &["online"])?;
    let parent = parent(state, svm, body)?;
    let original = parent.as_ref().and_then(|parent| state.live_volume(parent.volume));
    let (aggregate, inherited) = match original {
        Some(original) => (original.aggregate, Some((original.size, original.thick))),
        None => (aggregate(state, svm, body)?, None),
    };
    let size = size(body)?.or(inherited.map(|(size, _)| size)).unwrap_or(20 * MIB);
    check_size(state, size)?;
    let thick = match body.word("guarantee.type", &["volume", "none"])? {
        Some(kind) => kind == "volume",
        None => inherited.is_none_or(|(_, thick)| thick),
    };
    let mut volume = Volume {
        uuid: state.ids.uuid(),
        name,
        svm,
        aggregate,
        size,
        thick,
        online: true,
        comment: String::new(),
        snapshot_policy: "default".to_owned(),
        qos_policy: None,
        reserve_percent: state.unverified.snapshot_reserve,
        autodelete: Autodelete::default(),
        fractional_reserve: if thick { 100 } else { 0 },
        tiering: "none",
        encrypted: encrypted(state, aggregate, body)?,
        autosize: Autosize::default(),
        clone: None,
        splitting: None,
        created: state.now,
        luns: BTreeSet::new(),
        snapshots: Vec::new(),
        deleted: None,
        written: false,
    };
    if let Some(parent) = &parent {
        inherit(state, &mut volume, parent.volume);
    }
    settings(state, &mut volume, body)?;
    Ok((volume, parent))
}

/// By the aggregate, or because the request says so.
fn encrypted(state: &State, aggregate: usize, body: &Body) -> Result<bool, ApiError> {
    let is_asked_for = body.flag("encryption.enabled")?.unwrap_or(false);
    if state.aggregates[aggregate].encrypts || !is_asked_for {
        return Ok(state.aggregates[aggregate].encrypts);
    }
    match state.unverified.volume_encryption {
        VolumeEncryption::Works => Ok(true),
        VolumeEncryption::Ignored => Ok(false),
        VolumeEncryption::Refused => Err(NO_KEY_MANAGER.error("no key manager is configured for the SVM")),
    }
}

/// What a FlexClone has of its parent.
fn inherit(state: &State, volume: &mut Volume, parent: Uuid) {
    let Some(parent) = state.live_volume(parent) else { return };
    volume.encrypted = parent.encrypted;
    if state.unverified.clone_settings == CloneSettings::OfParent {
        volume.snapshot_policy.clone_from(&parent.snapshot_policy);
        volume.reserve_percent = parent.reserve_percent;
        volume.autodelete = parent.autodelete.clone();
        volume.fractional_reserve = parent.fractional_reserve;
        volume.tiering = parent.tiering;
        volume.autosize = parent.autosize.clone();
    }
    if state.unverified.clone_qos == CloneSettings::OfParent {
        volume.qos_policy.clone_from(&parent.qos_policy);
    }
}

/// Exactly one aggregate, by name, by uuid or by both.
fn aggregate(state: &State, svm: usize, body: &Body) -> Result<usize, ApiError> {
    // An account of the SVM knows no others.
    let usable = |at: &usize| {
        state.account_svm().is_none() || state.svms[svm].assigned.holds(&state.aggregates[*at].name)
    };
    let Some(given) = body.items("aggregates")? else {
        if body.has("style") && state.version >= PLACES_ITSELF {
            let free = |at: &usize| state.aggregates[*at].size - state.aggregate_used(*at);
            let most = (0..state.aggregates.len()).filter(usable).max_by_key(free);
            return most.ok_or_else(|| AGGREGATE_NOT_GIVEN.error("the cluster has no aggregate"));
        }
        return Err(AGGREGATE_NOT_GIVEN
            .error("aggregates.name or aggregates.uuid is required")
            .target("aggregates"));
    };
    let [one] = given.as_slice() else {
        return Err(AGGREGATE_COUNT.error("a FlexVol has exactly one aggregate").target("aggregates"));
    };
    let (name, uuid) = (one.text("name")?, one.text("uuid")?);
    let fits_name = |at: usize| name.as_ref().is_none_or(|name| *name == state.aggregates[at].name);
    let fits_uuid =
        |at: usize| uuid.as_ref().is_none_or(|uuid| *uuid == state.aggregates[at].uuid.to_string());
    if name.is_none() && uuid.is_none() {
        return Err(AGGREGATE_NOT_GIVEN
            .error("aggregates.name or aggregates.uuid is required")
            .target("aggregates"));
    }
    let all = (0..state.aggregates.len()).filter(usable);
    if let Some(found) = all.clone().find(|at| fits_name(*at) && fits_uuid(*at)) {
        return Ok(found);
    }
    if name.is_some() && uuid.is_some() && all.clone().any(|at| fits_name(at) || fits_uuid(at)) {
        return Err(AGGREGATE_DISAGREES.error("aggregates.name and aggregates.uuid are different aggregates"));
    }
    let asked = name.or(uuid).unwrap_or_default();
    Err(AGGREGATE_MISSING.error(format!("aggregate \"{asked}\" does not exist")).target("aggregates.name"))
}

/// Where a FlexClone comes from. Without a snapshot the array makes one.
#[derive(Debug)]
struct Parent {
    volume: Uuid,
    snapshot: Option<Uuid>,
}

fn parent(state: &State, svm: usize, body: &Body) -> Result<Option<Parent>, ApiError> {
    if body.flag("clone.is_flexclone")? != Some(true) {
        if body.has("clone.parent_volume") {
            return Err(ApiError::bad_value("false", "clone.is_flexclone"));
        }
        return Ok(None);
    }
    let (name, uuid) = (body.text("clone.parent_volume.name")?, body.text("clone.parent_volume.uuid")?);
    let fits = |volume: &&Volume| {
        volume.svm == svm
            && name.as_ref().is_none_or(|name| *name == volume.name)
            && uuid.as_ref().is_none_or(|uuid| *uuid == volume.uuid.to_string())
    };
    let missing = || CLONE_PARENT_MISSING.error("the parent volume of the clone does not exist");
    if name.is_none() && uuid.is_none() {
        return Err(missing());
    }
    let volume = state.live_volumes().find(fits).ok_or_else(missing)?;
    let (name, uuid) = (body.text("clone.parent_snapshot.name")?, body.text("clone.parent_snapshot.uuid")?);
    if name.is_none() && uuid.is_none() {
        return Ok(Some(Parent { volume: volume.uuid, snapshot: None }));
    }
    let by_name = volume.snapshots.iter().find(|it| name.as_ref() == Some(&it.name));
    let by_uuid = volume.snapshots.iter().find(|it| uuid.as_ref() == Some(&it.uuid.to_string()));
    let snapshot = match (by_name, by_uuid) {
        (Some(a), Some(b)) if a.uuid != b.uuid => {
            return Err(PARENT_SNAPSHOT_DISAGREES.error("name and uuid of the parent snapshot differ"));
        }
        (a, b) => a.or(b).ok_or_else(|| SNAPSHOT_MISSING.error("the parent snapshot does not exist"))?,
    };
    Ok(Some(Parent { volume: volume.uuid, snapshot: Some(snapshot.uuid) }))
}

/// The job's work.
fn add(state: &mut State, mut volume: Volume, parent: Option<Parent>) -> Result<(), ApiError> {
    check_name(state, volume.svm, &volume.name)?;
    let in_svm = state.live_volumes().filter(|other| other.svm == volume.svm).count();
    if in_svm >= state.limits.volumes_per_svm {
        let message = format!("SVM \"{}\" cannot have more volumes", state.svms[volume.svm].name);
        return Err(Code(state.unverified.volume_limit_code, 409).error(message));
    }
    let needed = if volume.thick { volume.size } else { 0 };
    state.check_room(volume.aggregate, needed.max(state.limits.volume_metadata))?;
    volume.created = state.now;
    if let Some(parent) = parent {
        add_clone(state, &mut volume, &parent)?;
    }
    state.put_volume(volume);
    Ok(())
}

/// LUNs come along with the clone: same place below the volume, new uuid and serial number, not mapped.
fn add_clone(state: &mut State, volume: &mut Volume, parent: &Parent) -> Result<(), ApiError> {
    let missing = || CLONE_PARENT_MISSING.error("the parent of the clone is gone");
    let snapshot = if let Some(snapshot) = parent.snapshot {
        snapshot
    } else {
        let name = format!("clone_{}.{}", volume.name, state.ids.digits(6));
        snapshots::take(state, parent.volume, name, &Body::default())?
    };
    let original = state.live_volume(parent.volume).ok_or_else(missing)?;
    let images = original.snapshots.iter().find(|it| it.uuid == snapshot).ok_or_else(missing)?.images.clone();
    for image in images {
        let mut unit = image.unit;
        if let Some(file) = &unit.file {
            unit.file = Some(state.store.copy(file).map_err(|error| ApiError::data(&error))?);
            volume.written = true;
        }
        let (uuid, serial) = (state.ids.uuid(), state.new_serial());
        volume.luns.insert(uuid);
        let lun = Lun { uuid, volume: volume.uuid, serial, created: state.now, unit, failed: false };
        state.luns.insert(uuid, lun);
    }
    match state.unverified.clone_comment {
        CloneComment::AsSent => {}
        CloneComment::OfParent => {
            volume.comment =
                state.live_volume(parent.volume).map_or_else(String::new, |it| it.comment.clone());
        }
        CloneComment::Empty => volume.comment.clear(),
    }
    volume.clone = Some(CloneOf { volume: parent.volume, snapshot });
    Ok(())
}
