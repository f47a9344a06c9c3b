//! Mapping a LUN to an igroup under a number of our choice, and taking the mapping away.

use std::collections::BTreeSet;

use san_core::{
    ArrayId, Cx, Ensured, Error, ErrorKind, HostAccess, Lun, LunChoice, Mapping, Result, TargetPort, Volume,
};
use san_rest::Request;
use serde_json::json;

use crate::array::Ontap;
use crate::client::Settled;
use crate::convert::{Key, inconsistent, is_uuid, lun_number};
use crate::error::{code, is, is_lun_number_taken, is_one_of};
use crate::release::Feature;
use crate::wire;

const COLLECTION: &str = "/api/protocols/san/lun-maps";
const ITEM: &str = "/api/protocols/san/lun-maps/{}/{}";
/// The reporting nodes are costly and only returned when named.
const FIELDS: &str = "lun.uuid,igroup.uuid,logical_unit_number,reporting_nodes";
/// The same where mappings do not know them: the LUN's node.
const FIELDS_WITH_NODE: &str = "lun.uuid,lun.node.name,igroup.uuid,logical_unit_number";

/// What one try with one number came to.
enum Attempt {
    Mapped(Lun),
    AlreadyMapped,
    NumberTaken,
}

impl Ontap {
    pub(crate) async fn map(
        &self,
        cx: &Cx,
        volume: &Volume,
        host: &HostAccess,
        choice: &LunChoice,
    ) -> Result<Ensured<Mapping>> {
        let key = Key::parse(&volume.id)?;
        let lun = key.lun()?;
        let highest = self.profile.limits.lun_max;
        if choice.0.iter().any(|it| *it > highest) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("LUN numbers end at {highest}")));
        }
        let (mut taken, mut collisions) = (BTreeSet::new(), 0);
        for &number in &choice.0 {
            if taken.contains(&number.number()) {
                continue;
            }
            match self.try_number(cx, lun, host, number).await? {
                Attempt::NumberTaken => {
                    collisions += 1;
                    match collisions {
                        // One collision may be a race; the whole list spares the others.
                        1 => taken = self.taken_numbers(cx, &[host.id.to_string()]).await?,
                        // A number that is not in it is taken in another igroup of the same initiators.
                        2 => {
                            let beside = self.igroups_beside(cx, host).await?;
                            taken = self.taken_numbers(cx, &beside).await?;
                        }
                        _ => {}
                    }
                }
                Attempt::Mapped(number) => {
                    let told = match self.lun_node(lun) {
                        Some(node) => self.ports_serving(cx, &node).await?,
                        None => None,
                    };
                    let ports = match told {
                        Some(ports) => ports,
                        None => {
                            self.read_mapping_of(cx, lun, host).await?.map(|it| it.ports).unwrap_or_default()
                        }
                    };
                    return Ok(Ensured::Created(Mapping { host: host.clone(), lun: number, ports }));
                }
                Attempt::AlreadyMapped => {
                    let mapping = self.read_mapping_of(cx, lun, host).await?;
                    return mapping
                        .map(Ensured::Already)
                        .ok_or_else(|| Error::new(ErrorKind::Busy, "its mapping has just been taken away"));
                }
            }
        }
        Err(Error::new(
            ErrorKind::LimitReached,
            format!("all offered LUN numbers are taken in igroup {}", host.name),
        )
        .with_remedy("detach disks that are not used; where the igroup is the one of all nodes, delete some"))
    }

    async fn try_number(&self, cx: &Cx, lun: &str, host: &HostAccess, number: Lun) -> Result<Attempt> {
        let request = Request::post(COLLECTION, &[]).query("return_records", true).json(&json!({
            "svm": { "uuid": self.svm },
            "lun": { "uuid": lun },
            "igroup": { "uuid": host.id },
            "logical_unit_number": number,
        }))?;
        match self.api.settle(cx, &request, || self.lun_map(cx, lun, &host.id)).await {
            Ok(Settled::Answered(done)) => mapped_as_asked(done.records.first(), lun, host, number),
            Ok(Settled::Seen(it)) => Ok(Attempt::Mapped(lun_number(it.logical_unit_number)?)),
            Err(error) if is(&error, code::ALREADY_MAPPED) => Ok(Attempt::AlreadyMapped),
            Err(error) if is_lun_number_taken(&error) => Ok(Attempt::NumberTaken),
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn unmap(&self, cx: &Cx, volume: &ArrayId, host: &ArrayId) -> Result<bool> {
        // A half-made volume has no LUN, so no mapping.
        let Some(lun) = Key::parse(volume)?.lun else { return Ok(false) };
        if !is_uuid(host.as_str()) {
            return Err(Error::new(ErrorKind::InvalidInput, "it is not a key this backend made").on(host));
        }
        let request = Request::delete(ITEM, &[&lun, host.as_str()]);
        let gone = || async { Ok(self.lun_map(cx, &lun, host).await?.is_none().then_some(())) };
        match self.api.settle::<serde_json::Value, _, _>(cx, &request, gone).await {
            Ok(_) => Ok(true),
            Err(error) if is_one_of(&error, code::NO_MAP) => {
                self.prove_svm(cx).await?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    pub(crate) async fn read_mapping(
        &self,
        cx: &Cx,
        volume: &Volume,
        host: &HostAccess,
    ) -> Result<Option<Mapping>> {
        match Key::parse(&volume.id)?.lun {
            Some(lun) => self.read_mapping_of(cx, &lun, host).await,
            None => Ok(None),
        }
    }

    async fn read_mapping_of(&self, cx: &Cx, lun: &str, host: &HostAccess) -> Result<Option<Mapping>> {
        let Some(found) = self.lun_map(cx, lun, &host.id).await? else { return Ok(None) };
        let number = lun_number(found.logical_unit_number)?;
        let ports = self.ports_of(cx, found).await?;
        Ok(Some(Mapping { host: host.clone(), lun: number, ports }))
    }

    /// The portals that serve a mapping now.
    async fn ports_of(&self, cx: &Cx, map: wire::LunMap) -> Result<Vec<TargetPort>> {
        let nodes: Vec<String> = map.reporting_nodes.into_iter().filter_map(|it| it.name).collect();
        if !nodes.is_empty() {
            return self.ports_on(cx, &nodes).await;
        }
        // A release that does not know reporting nodes tells the LUN's own.
        match map.lun.node.name {
            Some(node) if !self.has(Feature::LunNode) => match self.ports_serving(cx, &node).await? {
                Some(ports) => Ok(ports),
                None => self.ports_of_pair(cx).await,
            },
            _ => self.ports_of_pair(cx).await,
        }
    }

    async fn lun_map(&self, cx: &Cx, lun: &str, host: &ArrayId) -> Result<Option<wire::LunMap>> {
        let request = Request::get(COLLECTION, &[])
            .query("lun.uuid", lun)
            .query("igroup.uuid", host)
            .query("fields", if self.has(Feature::LunNode) { FIELDS } else { FIELDS_WITH_NODE });
        let Some(it) = self.api.find_one::<wire::LunMap>(cx, request).await? else {
            self.prove_svm(cx).await?;
            return Ok(None);
        };
        if is_about(&it, lun, host) {
            Ok(Some(it))
        } else {
            Err(inconsistent("the array answered about another mapping"))
        }
    }

    /// The numbers that LUNs have in igroups now.
    async fn taken_numbers(&self, cx: &Cx, igroups: &[String]) -> Result<BTreeSet<u16>> {
        let request = Request::get(COLLECTION, &[])
            .query("igroup.uuid", igroups.join("|"))
            .query("fields", "lun.uuid,igroup.uuid,logical_unit_number");
        let all: Vec<wire::LunMap> = self.api.list(cx, request).await?;
        Ok(all.into_iter().map(|it| it.logical_unit_number).collect())
    }
}

fn is_about(map: &wire::LunMap, lun: &str, host: &ArrayId) -> bool {
    map.lun.uuid.as_deref() == Some(lun) && map.igroup.uuid.as_deref() == Some(host.as_str())
}

fn mapped_as_asked(
    record: Option<&wire::LunMap>,
    lun: &str,
    host: &HostAccess,
    number: Lun,
) -> Result<Attempt> {
    match record {
        // Created without a record: the request itself named the number.
        None => Ok(Attempt::Mapped(number)),
        Some(it) if is_about(it, lun, &host.id) => Ok(Attempt::Mapped(lun_number(it.logical_unit_number)?)),
        Some(_) => Err(inconsistent("the array answered about another mapping")),
    }
}
