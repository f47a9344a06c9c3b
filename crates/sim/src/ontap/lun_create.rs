//! POST /storage/luns: a new LUN, or a clone inside the volume. Always synchronous.

use uuid::Uuid;

use super::answer::Reply;
use super::body::Body;
use super::call::Call;
use super::config::CloneComment;
use super::error::{
    ApiError, Code, LUN_CLONE_ELSEWHERE, LUN_DUPLICATE, LUN_NOT_WITH_CLONE, LUN_REQUIRED, LUN_VOLUME_OFFLINE,
};
use super::luns::{COMMENT_MAX, Source, source, split_path, volume_for};
use super::model::{Lun, State, Unit};
use super::version::Version;
use super::volume_create::svm_of;
use super::volumes::volume_of;

/// Operating systems a LUN can be made for.
const OS_TYPES: &[&str] = &[
    "aix",
    "hpux",
    "hyper_v",
    "linux",
    "netware",
    "openvms",
    "solaris",
    "solaris_efi",
    "vmware",
    "windows",
    "windows_2008",
    "windows_gpt",
    "xen",
];

/// From this release on hosts learn of thin provisioning without asking.
const UNMAP_BY_DEFAULT: Version = Version::new(9, 15, 1);

/// POST /storage/luns.
pub(crate) fn create(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let body = &call.body;
    let svm = svm_of(state, call)?;
    state.check_running(svm)?;
    let path = path(state, body)?;
    let (volume, name) = split_path(&path)?;
    let volume = volume_for(state, svm, volume)?;
    if state.lun_at(svm, &path).is_some() {
        return Err(LUN_DUPLICATE.error(format!("a LUN already exists at \"{path}\"")).target("name"));
    }
    let unit = match source(state, svm, body)? {
        Some(source) => cloned(state, volume, name, body, &source)?,
        None => fresh(state, name, body)?,
    };
    let uuid = add(state, volume, unit)?;
    Ok(Reply::Created(vec![format!("/api/storage/luns/{uuid}")]))
}

/// `name`, or the same as `location.volume` and `location.logical_unit`.
fn path(state: &State, body: &Body) -> Result<String, ApiError> {
    if let Some(name) = body.text("name")? {
        return Ok(name);
    }
    let required = || LUN_REQUIRED.error("field \"name\" is required").target("name");
    let unit = body.text("location.logical_unit")?.ok_or_else(required)?;
    let by_uuid = body.text("location.volume.uuid")?.and_then(|uuid| Uuid::parse_str(&uuid).ok());
    let by_uuid = by_uuid.and_then(|uuid| state.live_volume(uuid)).map(|volume| volume.name.clone());
    let volume = body.text("location.volume.name")?.or(by_uuid).ok_or_else(required)?;
    Ok(format!("/vol/{volume}/{unit}"))
}

fn fresh(state: &State, name: &str, body: &Body) -> Result<Unit, ApiError> {
    let required = |field: &str| LUN_REQUIRED.error(format!("field \"{field}\" is required")).target(field);
    let os_type = body.word("os_type", OS_TYPES)?.ok_or_else(|| required("os_type"))?;
    let size = body.size("space.size")?.ok_or_else(|| required("space.size"))?;
    let unit = Unit {
        name: name.to_owned(),
        size: state.lun_size(size)?,
        os_type,
        comment: String::new(),
        class: "regular",
        enabled: true,
        auto_delete: false,
        reserved: false,
        unmap: state.version >= UNMAP_BY_DEFAULT,
        file: None,
    };
    options(unit, body)
}

/// Size and operating system come from the source and cannot be given.
fn cloned(
    state: &mut State,
    volume: Uuid,
    name: &str,
    body: &Body,
    source: &Source,
) -> Result<Unit, ApiError> {
    for field in ["os_type", "space.size"] {
        if body.has(field) {
            let message = format!("field \"{field}\" cannot be given with clone.source");
            return Err(LUN_NOT_WITH_CLONE.error(message).target(field));
        }
    }
    if source.volume != volume {
        return Err(LUN_CLONE_ELSEWHERE.error("source and target of a LUN clone must be in one volume"));
    }
    let mut unit = Unit { name: name.to_owned(), ..source.unit.clone() };
    if let Some(file) = &source.unit.file {
        unit.file = Some(state.store.copy(file).map_err(|error| ApiError::data(&error))?);
    }
    state.pin(source.volume, source.snapshot);
    let comment = unit.comment.clone();
    let unit = options(unit, body)?;
    Ok(match state.unverified.clone_comment {
        CloneComment::AsSent => unit,
        CloneComment::OfParent => Unit { comment, ..unit },
        CloneComment::Empty => Unit { comment: String::new(), ..unit },
    })
}

fn options(unit: Unit, body: &Body) -> Result<Unit, ApiError> {
    Ok(Unit {
        comment: body.short_text("comment", COMMENT_MAX)?.unwrap_or(unit.comment),
        class: body.word("class", &["regular"])?.unwrap_or(unit.class),
        auto_delete: body.flag("auto_delete")?.unwrap_or(unit.auto_delete),
        reserved: body.flag("space.guarantee.requested")?.unwrap_or(unit.reserved),
        unmap: body.flag("space.scsi_thin_provisioning_support_enabled")?.unwrap_or(unit.unmap),
        ..unit
    })
}

/// Puts a LUN into a volume: a reserved one must fit, a thin one may be larger than the volume.
pub(crate) fn add(state: &mut State, volume: Uuid, unit: Unit) -> Result<Uuid, ApiError> {
    let parent = volume_of(state, volume)?;
    if !parent.online {
        return Err(LUN_VOLUME_OFFLINE.error(format!("volume \"{}\" is offline", parent.name)));
    }
    if parent.luns.len() >= state.limits.luns_per_volume {
        let message = format!("volume \"{}\" cannot have more LUNs", parent.name);
        return Err(Code(state.unverified.volume_limit_code, 409).error(message));
    }
    let aggregate = parent.aggregate;
    if !parent.thick {
        state.check_room(aggregate, 4096)?;
    }
    if unit.reserved {
        state.make_room(volume, unit.size)?;
    }
    let (uuid, serial) = (state.ids.uuid(), state.new_serial());
    state.volume_mut(volume)?.luns.insert(uuid);
    state.luns.insert(uuid, Lun { uuid, volume, serial, created: state.now, unit, failed: false });
    Ok(uuid)
}
