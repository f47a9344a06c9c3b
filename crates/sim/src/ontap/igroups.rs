//! /protocols/san/igroups.

use serde_json::{Value, json};
use uuid::Uuid;

use super::answer::{Reply, Row};
use super::body::Body;
use super::call::Call;
use super::error::{
    ApiError, IGROUP_DUPLICATE, IGROUP_MAPPED, IGROUP_MISSING, IGROUP_NAME_BAD, INITIATOR_CONFLICT,
    LUN_REQUIRED,
};
use super::initiators::{check_joins, check_name as check_initiator};
use super::model::{Igroup, Initiator, State};
use super::volume_create::svm_of;

/// Longest name of an igroup.
const NAME_MAX: usize = 96;
/// Longest comment of an igroup or initiator.
pub(crate) const COMMENT_MAX: usize = 254;
const OS_TYPES: &[&str] =
    &["aix", "hpux", "hyper_v", "linux", "netware", "openvms", "solaris", "vmware", "windows", "xen"];

/// GET /protocols/san/igroups[/{uuid}].
#[expect(clippy::unnecessary_wraps, reason = "one signature for all collections")]
pub(crate) fn rows(state: &State, call: &Call) -> Result<Vec<Row>, ApiError> {
    let asked = |igroup: &&Igroup| call.keys.first().is_none_or(|key| *key == igroup.uuid.to_string());
    let names = call.params.exact("name");
    let wanted = |it: &&Igroup| names.as_ref().is_none_or(|names| names.contains(&it.name.as_str()));
    Ok(state.igroups.values().filter(asked).filter(wanted).map(|igroup| row(state, igroup)).collect())
}

fn row(state: &State, igroup: &Igroup) -> Row {
    let svm = &state.svms[igroup.svm];
    let mut maps: Vec<(u16, Value)> = state
        .maps
        .iter()
        .filter(|((_, of), _)| *of == igroup.uuid)
        .filter_map(|((lun, _), number)| {
            let (lun, volume) = state.live_lun(*lun)?;
            let lun = json!({ "name": volume.path_of(&lun.unit.name), "uuid": lun.uuid });
            Some((*number, json!({ "logical_unit_number": number, "lun": lun })))
        })
        .collect();
    maps.sort_by_key(|(number, _)| *number);
    let maps: Vec<Value> = maps.into_iter().map(|(_, map)| map).collect();
    let initiators: Vec<Value> = igroup
        .initiators
        .iter()
        .map(|it| json!({ "name": it.name, "comment": (!it.comment.is_empty()).then_some(&it.comment) }))
        .collect();
    let value = json!({
        "uuid": igroup.uuid,
        "name": igroup.name,
        "svm": { "name": svm.name, "uuid": svm.uuid },
        "os_type": igroup.os_type,
        "protocol": igroup.protocol,
        "comment": (!igroup.comment.is_empty()).then_some(&igroup.comment),
        "delete_on_unmap": igroup.delete_on_unmap,
        "initiators": (!initiators.is_empty()).then_some(initiators),
        "supports_igroups": true,
        "target": {
            "vendor_id": "NETAPP",
            "product_id": "LUN C-Mode",
            "firmware_revision": state.revision(),
        },
        "lun_maps": (!maps.is_empty()).then_some(maps),
    });
    Row::new("/protocols/san/igroups", vec![igroup.uuid.to_string()], value)
}

/// POST /protocols/san/igroups.
pub(crate) fn create(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let body = &call.body;
    let svm = svm_of(state, call)?;
    state.check_running(svm)?;
    let required = |field: &str| LUN_REQUIRED.error(format!("field \"{field}\" is required")).target(field);
    let name = body.text("name")?.ok_or_else(|| required("name"))?;
    check_name(state, svm, &name)?;
    let os_type = body.word("os_type", OS_TYPES)?.ok_or_else(|| required("os_type"))?;
    let protocol = body.word("protocol", &["fcp", "iscsi", "mixed"])?.unwrap_or("mixed");
    let mut igroup = Igroup {
        uuid: state.ids.uuid(),
        name,
        svm,
        os_type,
        protocol,
        comment: body.short_text("comment", COMMENT_MAX)?.unwrap_or_default(),
        delete_on_unmap: body.flag("delete_on_unmap")?.unwrap_or(false),
        initiators: Vec::new(),
    };
    for item in body.items("initiators")?.unwrap_or_default() {
        let initiator = initiator(&item, &igroup)?;
        if igroup.initiators.iter().any(|it| it.name == initiator.name) {
            return Err(INITIATOR_CONFLICT.error(format!("initiator \"{}\" is given twice", initiator.name)));
        }
        check_joins(state, &igroup, &initiator.name)?;
        igroup.initiators.push(initiator);
    }
    let uuid = igroup.uuid;
    state.igroups.insert(uuid, igroup);
    Ok(Reply::Created(vec![format!("/api/protocols/san/igroups/{uuid}")]))
}

/// One initiator of a body.
pub(crate) fn initiator(body: &Body, igroup: &Igroup) -> Result<Initiator, ApiError> {
    let name = body.text("name")?;
    let name =
        name.ok_or_else(|| LUN_REQUIRED.error("field \"name\" is required").target("initiators.name"))?;
    let name = check_initiator(&name, igroup.protocol)?;
    Ok(Initiator { name, comment: body.short_text("comment", COMMENT_MAX)?.unwrap_or_default() })
}

/// PATCH /protocols/san/igroups/{uuid}: everything but the protocol.
pub(crate) fn modify(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let mut changed = find(state, call)?.clone();
    let body = &call.body;
    if let Some(name) = body.text("name")?
        && name != changed.name
    {
        check_name(state, changed.svm, &name)?;
        changed.name = name;
    }
    changed.os_type = body.word("os_type", OS_TYPES)?.unwrap_or(changed.os_type);
    changed.comment = body.short_text("comment", COMMENT_MAX)?.unwrap_or(changed.comment);
    changed.delete_on_unmap = body.flag("delete_on_unmap")?.unwrap_or(changed.delete_on_unmap);
    let names: Vec<&str> = changed.initiators.iter().map(|it| it.name.as_str()).collect();
    names.iter().try_for_each(|name| check_joins(state, &changed, name))?;
    state.igroups.insert(changed.uuid, changed);
    Ok(Reply::Done)
}

/// DELETE /protocols/san/igroups/{uuid}.
pub(crate) fn delete(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let unmap = call.params.flag("allow_delete_while_mapped")?;
    let igroup = find(state, call)?;
    let uuid = igroup.uuid;
    if !unmap && state.maps.keys().any(|(_, of)| *of == uuid) {
        return Err(IGROUP_MAPPED.error(format!("igroup \"{}\" has LUN maps", igroup.name)));
    }
    state.maps.retain(|(_, of), _| *of != uuid);
    state.igroups.remove(&uuid);
    Ok(Reply::Done)
}

fn find<'a>(state: &'a State, call: &Call) -> Result<&'a Igroup, ApiError> {
    let key = call.keys.first().and_then(|key| Uuid::parse_str(key).ok());
    igroup_of(state, key)
}

/// The igroup of this uuid.
pub(crate) fn igroup_of(state: &State, uuid: Option<Uuid>) -> Result<&Igroup, ApiError> {
    let found = uuid.and_then(|uuid| state.igroups.get(&uuid));
    found.ok_or_else(|| IGROUP_MISSING.error("the igroup does not exist"))
}

fn check_name(state: &State, svm: usize, name: &str) -> Result<(), ApiError> {
    let alphabet = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c));
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if name.len() > NAME_MAX || !alphabet || !starts_well {
        return Err(IGROUP_NAME_BAD.error(format!("igroup name \"{name}\" is invalid")).target("name"));
    }
    if state.igroups.values().any(|it| it.svm == svm && it.name == name) {
        let svm = &state.svms[svm].name;
        let message = format!("igroup \"{name}\" in SVM \"{svm}\" already exists");
        return Err(IGROUP_DUPLICATE.error(message).target("name"));
    }
    Ok(())
}

impl State {
    /// INQUIRY revision: the release without dots.
    pub(crate) fn revision(&self) -> String {
        let version = self.version;
        format!("{}{}{}", version.generation, version.major, version.minor)
    }
}
