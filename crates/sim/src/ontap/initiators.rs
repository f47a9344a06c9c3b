//! /protocols/san/igroups/{igroup.uuid}/initiators.

use std::collections::BTreeMap;

use serde_json::json;
use uuid::Uuid;

use super::answer::{Reply, Row};
use super::body::Body;
use super::call::Call;
use super::error::{
    ApiError, FIELDS_EXCLUDE, IGROUP_MAPPED, INITIATOR_ABSENT, INITIATOR_BAD, INITIATOR_MAPPED_TWICE,
    INITIATOR_OTHER_OS, INITIATOR_PRESENT, INITIATOR_SAME_NUMBER, INITIATOR_WRONG_PROTOCOL,
};
use super::igroups::{COMMENT_MAX, igroup_of, initiator};
use super::model::{Igroup, Initiator, State};

/// Longest iSCSI name.
const IQN_MAX: usize = 223;

/// GET .../initiators[/{name}].
pub(crate) fn rows(state: &State, call: &Call) -> Result<Vec<Row>, ApiError> {
    let igroup = parent(state, call)?;
    let asked = |it: &&Initiator| call.keys.get(1).is_none_or(|key| key.eq_ignore_ascii_case(&it.name));
    let row = |it: &Initiator| {
        let value = json!({
            "name": it.name,
            "comment": (!it.comment.is_empty()).then_some(&it.comment),
            "igroup": { "uuid": igroup.uuid, "name": igroup.name },
        });
        let base = format!("/protocols/san/igroups/{}/initiators", igroup.uuid);
        let mut row = Row::new(&base, vec![it.name.clone()], value);
        row.keys.insert(0, igroup.uuid.to_string());
        row
    };
    Ok(igroup.initiators.iter().filter(asked).map(row).collect())
}

fn parent<'a>(state: &'a State, call: &Call) -> Result<&'a Igroup, ApiError> {
    igroup_of(state, call.keys.first().and_then(|key| Uuid::parse_str(key).ok()))
}

/// POST: one initiator, or several as `records`. Always synchronous.
pub(crate) fn create(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let igroup = parent(state, call)?;
    let records = call.body.items("records")?;
    if records.is_some() && (call.body.has("name") || call.body.has("comment")) {
        return Err(FIELDS_EXCLUDE.error("\"records\" excludes other fields").target("records"));
    }
    let items = records.unwrap_or_else(|| vec![call.body.clone()]);
    let new = add(state, igroup, &items)?;
    let uuid = igroup.uuid;
    let base = format!("/protocols/san/igroups/{uuid}/initiators");
    let paths = new.iter().map(|it| Row::new(&base, vec![it.name.clone()], json!(null)).path).collect();
    if let Some(place) = state.igroups.get_mut(&uuid) {
        place.initiators.extend(new);
    }
    Ok(Reply::Created(paths))
}

fn add(state: &State, igroup: &Igroup, items: &[Body]) -> Result<Vec<Initiator>, ApiError> {
    let mut new: Vec<Initiator> = Vec::new();
    for item in items {
        let it = initiator(item, igroup)?;
        if igroup.initiators.iter().chain(&new).any(|other| other.name == it.name) {
            let message = format!("initiator \"{}\" is already in igroup \"{}\"", it.name, igroup.name);
            return Err(INITIATOR_PRESENT.error(message).target("name"));
        }
        check_joins(state, igroup, &it.name)?;
        new.push(it);
    }
    Ok(new)
}

/// PATCH: the comment.
pub(crate) fn modify(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let (uuid, at) = find(state, call)?;
    let comment = call.body.short_text("comment", COMMENT_MAX)?;
    if let Some((igroup, comment)) = state.igroups.get_mut(&uuid).zip(comment) {
        igroup.initiators[at].comment = comment;
    }
    Ok(Reply::Done)
}

/// DELETE: refused while the igroup has maps.
pub(crate) fn delete(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let mapped = call.params.flag("allow_delete_while_mapped")?;
    let (uuid, at) = find(state, call)?;
    if !mapped && state.maps.keys().any(|(_, of)| *of == uuid) {
        return Err(IGROUP_MAPPED.error("the igroup of the initiator has LUN maps"));
    }
    if let Some(igroup) = state.igroups.get_mut(&uuid) {
        igroup.initiators.remove(at);
    }
    Ok(Reply::Done)
}

fn find(state: &State, call: &Call) -> Result<(Uuid, usize), ApiError> {
    let igroup = parent(state, call)?;
    let name = call.keys.get(1).map(String::as_str).unwrap_or_default();
    let at = igroup.initiators.iter().position(|it| it.name.eq_ignore_ascii_case(name));
    let missing =
        || INITIATOR_ABSENT.error(format!("initiator \"{name}\" is not in igroup \"{}\"", igroup.name));
    Ok((igroup.uuid, at.ok_or_else(missing)?))
}

/// The name in the form the array keeps it (iSCSI names in lower case).
pub(crate) fn check_name(name: &str, protocol: &str) -> Result<String, ApiError> {
    let lower = name.to_ascii_lowercase();
    let iscsi = ["iqn.", "eui.", "naa."].iter().any(|kind| lower.starts_with(kind));
    let alphabet = lower.chars().all(|c| c.is_ascii_alphanumeric() || "-.:".contains(c));
    let hex: String = lower.chars().filter(|c| *c != ':').collect();
    let wwpn = hex.len() == 16 && hex.chars().all(|c| c.is_ascii_hexdigit());
    if !iscsi && !wwpn {
        return Err(INITIATOR_BAD.error(format!("\"{name}\" is not an initiator name")).target("name"));
    }
    if (iscsi && protocol == "fcp") || (!iscsi && protocol == "iscsi") {
        let message = format!("initiator \"{name}\" does not fit protocol \"{protocol}\"");
        return Err(INITIATOR_WRONG_PROTOCOL.error(message).target("name"));
    }
    if iscsi && (!alphabet || lower.len() > IQN_MAX || lower.split('.').nth(1).is_none_or(str::is_empty)) {
        return Err(INITIATOR_BAD.error(format!("\"{name}\" is not a valid iSCSI name")).target("name"));
    }
    Ok(lower)
}

/// Whether an initiator may be in this igroup, in view of the others it is in: one operating system, no LUN twice, no
/// LUN number twice.
pub(crate) fn check_joins(state: &State, igroup: &Igroup, name: &str) -> Result<(), ApiError> {
    let others = state.igroups.values().filter(|other| {
        other.uuid != igroup.uuid
            && other.svm == igroup.svm
            && other.initiators.iter().any(|it| it.name == name)
    });
    let mine = maps_of(state, igroup.uuid);
    for other in others {
        if other.os_type != igroup.os_type {
            let message = format!(
                "initiator \"{name}\" is in igroup \"{}\" with os_type \"{}\"",
                other.name, other.os_type
            );
            return Err(INITIATOR_OTHER_OS.error(message));
        }
        for (lun, number) in maps_of(state, other.uuid) {
            check_pair(&mine, &other.name, name, lun, number)?;
        }
    }
    Ok(())
}

fn check_pair(
    mine: &BTreeMap<Uuid, u16>,
    other: &str,
    name: &str,
    lun: Uuid,
    number: u16,
) -> Result<(), ApiError> {
    if mine.contains_key(&lun) {
        let message =
            format!("LUN would be mapped twice to initiator \"{name}\", also through igroup \"{other}\"");
        return Err(INITIATOR_MAPPED_TWICE.error(message));
    }
    if mine.values().any(|taken| *taken == number) {
        let message = format!("LUN number {number} would be used twice for initiator \"{name}\"");
        return Err(INITIATOR_SAME_NUMBER.error(message));
    }
    Ok(())
}

/// The LUNs of an igroup with their numbers.
pub(crate) fn maps_of(state: &State, igroup: Uuid) -> BTreeMap<Uuid, u16> {
    let of = state.maps.iter().filter(|((_, of), _)| *of == igroup);
    of.map(|((lun, _), number)| (*lun, *number)).collect()
}
