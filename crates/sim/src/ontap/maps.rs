//! /protocols/san/lun-maps: which igroup sees which LUN under which number. Always synchronous.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use uuid::Uuid;

use super::answer::{Reply, Row};
use super::call::Call;
use super::cluster::node_ref;
use super::error::{
    ApiError, Code, INITIATOR_MAPPED_TWICE, MAP_DUPLICATE, MAP_IGROUP_MISSING, MAP_IGROUP_NOT_GIVEN,
    MAP_LUN_MISSING, MAP_LUN_NOT_GIVEN, MAP_MISSING,
};
use super::initiators::maps_of;
use super::model::{Igroup, Lun, State, Volume};
use super::volume_create::svm_of;

/// GET /protocols/san/lun-maps[/{lun.uuid}/{igroup.uuid}].
#[expect(clippy::unnecessary_wraps, reason = "one signature for all collections")]
pub(crate) fn rows(state: &State, call: &Call) -> Result<Vec<Row>, ApiError> {
    let luns = call.params.exact("lun.uuid");
    let igroups = call.params.exact("igroup.uuid");
    let asked = |lun: &Uuid, igroup: &Uuid| match call.keys.as_slice() {
        [key, other] => *key == lun.to_string() && *other == igroup.to_string(),
        _ => {
            luns.as_ref().is_none_or(|luns| luns.contains(&lun.to_string().as_str()))
                && igroups.as_ref().is_none_or(|igroups| igroups.contains(&igroup.to_string().as_str()))
        }
    };
    let maps = state.maps.iter().filter(|((lun, igroup), _)| asked(lun, igroup));
    Ok(maps.filter_map(|((lun, igroup), number)| row(state, *lun, *igroup, *number)).collect())
}

fn row(state: &State, lun: Uuid, igroup: Uuid, number: u16) -> Option<Row> {
    let (lun, volume) = state.live_lun(lun)?;
    let igroup = state.igroups.get(&igroup)?;
    let svm = &state.svms[volume.svm];
    let node = state.node_of(volume);
    let reporting: Vec<Value> =
        state.reporting_nodes(volume).iter().map(|at| node_ref(&state.nodes[*at])).collect();
    let initiators: Vec<&str> = igroup.initiators.iter().map(|it| it.name.as_str()).collect();
    let value = json!({
        "lun": {
            "uuid": lun.uuid,
            "name": volume.path_of(&lun.unit.name),
            "node": node_ref(&state.nodes[node]),
        },
        "igroup": {
            "uuid": igroup.uuid,
            "name": igroup.name,
            "os_type": igroup.os_type,
            "protocol": igroup.protocol,
            "initiators": (!initiators.is_empty()).then_some(initiators),
        },
        "svm": { "name": svm.name, "uuid": svm.uuid },
        "logical_unit_number": number,
        "reporting_nodes": reporting,
    });
    Some(Row::new("/protocols/san/lun-maps", vec![lun.uuid.to_string(), igroup.uuid.to_string()], value))
}

/// POST /protocols/san/lun-maps. Without a number the lowest free one is taken.
pub(crate) fn create(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let svm = svm_of(state, call)?;
    state.check_running(svm)?;
    let number = call.body.small("logical_unit_number", u64::from(state.limits.lun_number_max))?;
    let (lun, _) = lun_of(state, call, svm)?;
    let igroup = igroup_of(state, call, svm)?;
    let (lun, igroup) = (lun.uuid, igroup.uuid);
    state.map(lun, igroup, number)?;
    Ok(Reply::Created(vec![format!("/api/protocols/san/lun-maps/{lun}/{igroup}")]))
}

fn lun_of<'a>(state: &'a State, call: &Call, svm: usize) -> Result<(&'a Lun, &'a Volume), ApiError> {
    let (name, uuid) = (call.body.text("lun.name")?, call.body.text("lun.uuid")?);
    let found = match (&name, &uuid) {
        (None, None) => {
            return Err(MAP_LUN_NOT_GIVEN.error("lun.name or lun.uuid is required").target("lun"));
        }
        (_, Some(uuid)) => Uuid::parse_str(uuid).ok().and_then(|uuid| state.live_lun(uuid)),
        (Some(name), None) => state.lun_at(svm, name).and_then(|lun| state.live_lun(lun.uuid)),
    };
    let fits = |(lun, volume): &(&Lun, &Volume)| {
        volume.svm == svm && name.as_ref().is_none_or(|name| *name == volume.path_of(&lun.unit.name))
    };
    found.filter(fits).ok_or_else(|| {
        let asked = name.as_ref().or(uuid.as_ref()).map(String::as_str).unwrap_or_default();
        MAP_LUN_MISSING.error(format!("LUN \"{asked}\" does not exist")).target("lun")
    })
}

fn igroup_of<'a>(state: &'a State, call: &Call, svm: usize) -> Result<&'a Igroup, ApiError> {
    let (name, uuid) = (call.body.text("igroup.name")?, call.body.text("igroup.uuid")?);
    if name.is_none() && uuid.is_none() {
        return Err(MAP_IGROUP_NOT_GIVEN.error("igroup.name or igroup.uuid is required").target("igroup"));
    }
    let fits = |it: &&Igroup| {
        it.svm == svm
            && name.as_ref().is_none_or(|name| *name == it.name)
            && uuid.as_ref().is_none_or(|uuid| *uuid == it.uuid.to_string())
    };
    let missing = || MAP_IGROUP_MISSING.error("the igroup does not exist").target("igroup");
    state.igroups.values().find(fits).ok_or_else(missing)
}

/// DELETE /protocols/san/lun-maps/{lun.uuid}/{igroup.uuid}.
pub(crate) fn delete(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let missing = || MAP_MISSING.error("the LUN map does not exist");
    let key = |at: usize| call.keys.get(at).and_then(|key| Uuid::parse_str(key).ok());
    let (lun, igroup) = key(0).zip(key(1)).ok_or_else(missing)?;
    state.maps.remove(&(lun, igroup)).ok_or_else(missing)?;
    state.delete_on_unmap(igroup);
    Ok(Reply::Done)
}

impl State {
    /// Maps a LUN; the number must be free for every initiator of the igroup.
    pub(crate) fn map(&mut self, lun: Uuid, igroup: Uuid, number: Option<u16>) -> Result<u16, ApiError> {
        let group =
            self.igroups.get(&igroup).ok_or_else(|| MAP_IGROUP_MISSING.error("the igroup does not exist"))?;
        if self.maps.contains_key(&(lun, igroup)) {
            return Err(MAP_DUPLICATE.error("LUN already mapped to this group(s)"));
        }
        let own = maps_of(self, igroup);
        if own.len() >= self.limits.maps_per_igroup {
            let message = format!("igroup \"{}\" cannot have more LUN maps", group.name);
            return Err(Code(self.unverified.volume_limit_code, 409).error(message));
        }
        let mut taken: BTreeSet<u16> = own.into_values().collect();
        for other in self.sharing(group) {
            let maps = maps_of(self, other.uuid);
            if maps.contains_key(&lun) {
                let message =
                    format!("LUN is already mapped to an initiator through igroup \"{}\"", other.name);
                return Err(INITIATOR_MAPPED_TWICE.error(message));
            }
            taken.extend(maps.into_values());
        }
        let number = match number {
            Some(number) if taken.contains(&number) => {
                let code = Code(self.unverified.lun_number_in_use_code, 409);
                let message = format!("LUN number {number} is already in use in igroup \"{}\"", group.name);
                return Err(code.error(message).target("logical_unit_number"));
            }
            Some(number) => number,
            None => {
                let free = (0..=self.limits.lun_number_max).find(|number| !taken.contains(number));
                let code = Code(self.unverified.lun_number_in_use_code, 409);
                free.ok_or_else(|| code.error(format!("igroup \"{}\" has no free LUN number", group.name)))?
            }
        };
        self.materialise(lun)?;
        self.maps.insert((lun, igroup), number);
        Ok(number)
    }

    /// Other igroups with an initiator of this one.
    fn sharing<'a>(&'a self, igroup: &'a Igroup) -> impl Iterator<Item = &'a Igroup> {
        self.igroups.values().filter(move |other| {
            let shared =
                |it: &super::model::Initiator| igroup.initiators.iter().any(|mine| mine.name == it.name);
            other.uuid != igroup.uuid && other.svm == igroup.svm && other.initiators.iter().any(shared)
        })
    }

    /// Removes every map of a LUN.
    pub(crate) fn unmap_all(&mut self, lun: Uuid) {
        let igroups: Vec<Uuid> = self.maps_of(lun).map(|(igroup, _)| igroup).collect();
        for igroup in igroups {
            self.maps.remove(&(lun, igroup));
            self.delete_on_unmap(igroup);
        }
    }

    fn delete_on_unmap(&mut self, igroup: Uuid) {
        let unused = self.maps.keys().all(|(_, of)| *of != igroup);
        if unused && self.igroups.get(&igroup).is_some_and(|it| it.delete_on_unmap) {
            self.igroups.remove(&igroup);
        }
    }

    /// The nodes whose ports show a LUN of this volume: its own and the HA partner.
    pub(crate) fn reporting_nodes(&self, volume: &Volume) -> Vec<usize> {
        let own = self.node_of(volume);
        std::iter::once(own).chain(self.nodes[own].partner).collect()
    }
}
