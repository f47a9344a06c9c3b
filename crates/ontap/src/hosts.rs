//! One igroup per node and realm, with exactly the node's initiators; and one per realm with those of all its nodes, for volumes
//! that all of them see.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use async_trait::async_trait;
use san_core::{
    ArrayId, Cx, Ensured, Error, ErrorKind, HostAccess, HostSpec, Initiator, KnownHost, NodeName, Result,
    SharedAccess,
};
use san_rest::Request;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::array::Ontap;
use crate::client::Settled;
use crate::convert::{inconsistent, is_uuid};
use crate::error::{code, is, is_one_of};
use crate::look::both;
use crate::release::Feature;
use crate::wire;

const COLLECTION: &str = "/api/protocols/san/igroups";
const FIELDS: &str = "uuid,name,svm.uuid,os_type,protocol,initiators.name";
const FIELDS_AND_COMMENT: &str = "uuid,name,svm.uuid,os_type,protocol,comment,initiators.name";
pub(crate) const OS_TYPE: &str = "linux";
const PROTOCOL: &str = "iscsi";
/// Longest realm that stands in a name as it is: with a node of 63 characters the name has 96, ONTAP's limit.
const PLAIN_REALM: usize = 29;
/// How much of a realm's hash is written, two digits each: 4 + 28 + 1 + 63 is 96.
const HASH_BYTES: usize = 14;
/// Longest comment of an igroup.
const COMMENT: usize = 254;

/// How a realm stands in a name: as it is, or where it is long or holds more than lower-case letters, digits and `-`, as its
/// hash behind a `_`, which no realm written plainly begins with.
fn realm_part(realm: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if realm.len() <= PLAIN_REALM && realm.bytes().all(plain) {
        return realm.to_owned();
    }
    let mut part = "_".to_owned();
    for byte in Sha256::digest(realm).iter().take(HASH_BYTES) {
        // Writing into a String cannot fail.
        let _ = write!(part, "{byte:02x}");
    }
    part
}

/// The igroup of a node: `sb_<realm>_<node>`.
pub(crate) fn igroup_name(spec: &HostSpec) -> String {
    format!("sb_{}_{}", realm_part(&spec.realm), spec.node)
}

/// The igroup of all nodes of a realm: `sb-all_<realm>`, which no igroup of a node is called.
pub(crate) fn shared_igroup_name(realm: &str) -> String {
    format!("sb-all_{}", realm_part(realm))
}

/// What tells our igroup from one that somebody else gave its name.
fn comment(whose: &str) -> String {
    format!("sanbridge: {whose}").chars().take(COMMENT).collect()
}

/// Whether an igroup of ours may hold initiators besides the ones that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Others {
    Refused,
    Kept,
}

/// An igroup of ours as it is to be.
#[derive(Debug)]
struct Ours {
    name: String,
    /// In words for people.
    whose: String,
    others: Others,
}

impl Ours {
    fn of_node(spec: &HostSpec) -> Self {
        let whose = format!("node {} of {}", spec.node, spec.realm);
        Self { name: igroup_name(spec), whose, others: Others::Refused }
    }

    fn of_realm(realm: &str) -> Self {
        Self { name: shared_igroup_name(realm), whose: format!("all nodes of {realm}"), others: Others::Kept }
    }
}

fn iscsi_name(of: &Initiator) -> Option<&str> {
    match of {
        Initiator::Iscsi(iqn) => Some(iqn.as_str()),
        _ => None,
    }
}

fn names(initiators: &[Initiator]) -> Result<BTreeSet<String>> {
    let names: BTreeSet<String> = initiators.iter().filter_map(iscsi_name).map(str::to_owned).collect();
    if names.is_empty() {
        return Err(Error::new(ErrorKind::InvalidInput, "the node has no iSCSI initiator name"));
    }
    Ok(names)
}

fn members(igroup: &wire::Igroup) -> BTreeSet<String> {
    igroup.initiators.iter().map(|it| it.name.to_ascii_lowercase()).collect()
}

fn listed(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

impl Ontap {
    pub(crate) async fn prepare_host(&self, cx: &Cx, spec: &HostSpec) -> Result<Ensured<HostAccess>> {
        self.ensure_igroup(cx, spec, &Ours::of_node(spec)).await
    }

    /// Makes sure that one of our igroups holds the initiators of `spec`.
    async fn ensure_igroup(&self, cx: &Cx, spec: &HostSpec, ours: &Ours) -> Result<Ensured<HostAccess>> {
        let wanted = names(&spec.initiators)?;
        let ((), found) =
            both(self.refuse_foreign_igroups(cx, spec, &wanted), self.igroup_named(cx, &ours.name)).await?;
        if let Some(found) = found {
            return self.complete(cx, ours, &wanted, &found).await;
        }
        let mut body = json!({
            "svm": { "uuid": self.svm },
            "name": ours.name,
            "os_type": OS_TYPE,
            "protocol": PROTOCOL,
            "initiators": wanted.iter().map(|it| json!({ "name": it })).collect::<Vec<_>>(),
        });
        if self.has(Feature::IgroupComment) {
            body["comment"] = comment(&ours.whose).into();
        }
        let request = Request::post(COLLECTION, &[]).query("return_records", true).json(&body)?;
        let outcome = self.api.settle(cx, &request, || self.igroup_named(cx, &ours.name)).await;
        let found = match outcome {
            Ok(Settled::Answered(done)) => match done.records.into_iter().next() {
                Some(it) => it,
                None => self.igroup_named(cx, &ours.name).await?.ok_or_else(not_shown)?,
            },
            Ok(Settled::Seen(it)) => it,
            // Another storage of this node, or another node, was faster.
            Err(error) if is(&error, code::IGROUP_EXISTS) => match self.igroup_named(cx, &ours.name).await? {
                Some(it) => return self.complete(cx, ours, &wanted, &it).await,
                None => return Err(error),
            },
            Err(error) => return Err(error),
        };
        if found.name != ours.name {
            return Err(inconsistent("the array answered about another igroup"));
        }
        Ok(Ensured::Created(access(&found)?))
    }

    /// An initiator in two igroups is allowed by ONTAP as long as no LUN is mapped through both, but then LUNs appear on
    /// this node under numbers that we do not choose.
    async fn refuse_foreign_igroups(
        &self,
        cx: &Cx,
        spec: &HostSpec,
        wanted: &BTreeSet<String>,
    ) -> Result<()> {
        let own = [igroup_name(spec), shared_igroup_name(&spec.realm)];
        let mut holders = self.holders_of(cx, wanted).await?;
        holders.retain(|it| !own.contains(&it.name));
        if holders.is_empty() {
            return Ok(());
        }
        let foreign: BTreeSet<String> = holders.iter().map(|it| it.name.clone()).collect();
        let held: BTreeSet<String> =
            holders.iter().flat_map(members).filter(|it| wanted.contains(it)).collect();
        let message = format!("initiator {} is in the igroup {} already", listed(&held), listed(&foreign));
        Err(Error::new(ErrorKind::Conflict, message)
            .with_remedy("remove the initiator from that igroup, or give this node another initiator name"))
    }

    /// The igroups that hold any of these initiators.
    async fn holders_of(&self, cx: &Cx, initiators: &BTreeSet<String>) -> Result<Vec<wire::Igroup>> {
        let names: Vec<&str> = initiators.iter().map(String::as_str).collect();
        let request = Request::get(COLLECTION, &[])
            .query("initiators.name", names.join("|"))
            .query("svm.uuid", &self.svm)
            .query("fields", FIELDS);
        let holders: Vec<wire::Igroup> = self.api.list(cx, request).await?;
        for it in &holders {
            self.check_svm(&it.svm)?;
        }
        Ok(holders)
    }

    /// The igroups through which initiators of this one see LUNs, itself among them.
    pub(crate) async fn igroups_beside(&self, cx: &Cx, host: &HostAccess) -> Result<Vec<String>> {
        let found = self.igroup_named(cx, &host.name).await?.filter(|it| it.uuid == host.id.as_str());
        let initiators = found.as_ref().map(members).unwrap_or_default();
        let mut beside = vec![host.id.to_string()];
        if !initiators.is_empty() {
            beside.extend(self.holders_of(cx, &initiators).await?.into_iter().map(|it| it.uuid));
        }
        beside.sort_unstable();
        beside.dedup();
        Ok(beside)
    }

    async fn igroup_named(&self, cx: &Cx, name: &str) -> Result<Option<wire::Igroup>> {
        let request = Request::get(COLLECTION, &[])
            .query("name", name)
            .query("svm.uuid", &self.svm)
            .query("fields", if self.has(Feature::IgroupComment) { FIELDS_AND_COMMENT } else { FIELDS });
        let found: Option<wire::Igroup> = self.api.find_one(cx, request).await?;
        if let Some(it) = &found {
            self.check_svm(&it.svm)?;
            if it.name != name {
                return Err(inconsistent("the array answered about another igroup"));
            }
        }
        Ok(found)
    }

    pub(crate) async fn host_of(&self, cx: &Cx, realm: &str, node: &NodeName) -> Result<Option<KnownHost>> {
        let spec = HostSpec { realm: realm.to_owned(), node: node.clone(), initiators: Vec::new() };
        let Some(found) = self.igroup_named(cx, &igroup_name(&spec)).await? else {
            self.prove_svm(cx).await?;
            return Ok(None);
        };
        self.require_as_made(&Ours::of_node(&spec), &found)?;
        let iscsi = |it: &String| it.parse().map(Initiator::Iscsi);
        let initiators = members(&found).iter().map(iscsi).collect::<Result<_>>()?;
        Ok(Some(KnownHost { access: access(&found)?, initiators }))
    }

    /// One request: that nothing is mapped to it is the array's own condition.
    pub(crate) async fn delete_host(&self, cx: &Cx, host: &ArrayId) -> Result<bool> {
        if !is_uuid(host.as_str()) {
            return Err(Error::new(ErrorKind::InvalidInput, "it is not a key this backend made").on(host));
        }
        let request = Request::delete("/api/protocols/san/igroups/{}", &[host.as_str()]);
        let gone = || async {
            let look = Request::get(COLLECTION, &[])
                .query("uuid", host.as_str())
                .query("svm.uuid", &self.svm)
                .query("fields", FIELDS);
            Ok(self.api.find_one::<wire::Igroup>(cx, look).await?.is_none().then_some(()))
        };
        match self.api.settle::<serde_json::Value, _, _>(cx, &request, gone).await {
            Ok(_) => Ok(true),
            Err(error) if is(&error, code::NO_IGROUP) => {
                self.prove_svm(cx).await?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Refuses an igroup of our name that somebody else made.
    fn require_as_made(&self, ours: &Ours, found: &wire::Igroup) -> Result<()> {
        let as_made = found.os_type.as_deref() == Some(OS_TYPE)
            && found.protocol.as_deref() == Some(PROTOCOL)
            && (!self.has(Feature::IgroupComment) || found.comment.as_deref() == Some(&comment(&ours.whose)));
        if as_made {
            return Ok(());
        }
        let message = format!("the igroup {} exists and was not made for {}", found.name, ours.whose);
        Err(Error::new(ErrorKind::Conflict, message).with_remedy("rename or delete that igroup"))
    }

    /// Brings an igroup that exists to what is wanted, or says what contradicts it.
    async fn complete(
        &self,
        cx: &Cx,
        ours: &Ours,
        wanted: &BTreeSet<String>,
        found: &wire::Igroup,
    ) -> Result<Ensured<HostAccess>> {
        self.require_as_made(ours, found)?;
        let present = members(found);
        let extra: BTreeSet<String> = present.difference(wanted).cloned().collect();
        if !extra.is_empty() && ours.others == Others::Refused {
            let message =
                format!("the igroup {} also holds {}, which is not this node's", found.name, listed(&extra));
            return Err(Error::new(ErrorKind::Conflict, message)
                .with_remedy("remove that initiator from the igroup, if nothing uses it any more"));
        }
        let missing: Vec<_> = wanted.difference(&present).map(|it| json!({ "name": it })).collect();
        if missing.is_empty() {
            return Ok(Ensured::Already(access(found)?));
        }
        let request = Request::post("/api/protocols/san/igroups/{}/initiators", &[&found.uuid])
            .json(&json!({ "records": missing }))?;
        match self.api.insist(cx, request).await {
            Ok(()) => Ok(Ensured::Created(access(found)?)),
            Err(error) if is(&error, code::INITIATOR_PRESENT) => Ok(Ensured::Already(access(found)?)),
            Err(error) if is_one_of(&error, code::SEEN_TWICE) => Err(error
                .with_remedy("detach the disks that this node sees through its own igroup, and try again")),
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl SharedAccess for Ontap {
    async fn ensure_member(&self, cx: &Cx, spec: &HostSpec) -> Result<Ensured<HostAccess>> {
        let ours = Ours::of_realm(&spec.realm);
        let joined = Box::pin(self.proved(cx, self.ensure_igroup(cx, spec, &ours))).await;
        joined.map_err(|error| Error::wrap(error, "cannot prepare the igroup of all nodes").on(&spec.node))
    }

    async fn ensure_no_member(&self, cx: &Cx, realm: &str, initiators: &[Initiator]) -> Result<bool> {
        let left = self.proved(cx, self.leave(cx, realm, initiators)).await;
        left.map_err(|error| {
            Error::wrap(error, "cannot take a node out of the igroup of all nodes").on(realm)
        })
    }
}

impl Ontap {
    async fn leave(&self, cx: &Cx, realm: &str, initiators: &[Initiator]) -> Result<bool> {
        let ours = Ours::of_realm(realm);
        let Some(found) = self.igroup_named(cx, &ours.name).await? else {
            self.prove_svm(cx).await?;
            return Ok(false);
        };
        self.require_as_made(&ours, &found)?;
        let members = members(&found);
        let mut was_there = false;
        for name in initiators.iter().filter_map(iscsi_name).filter(|it| members.contains(*it)) {
            // The LUNs stay mapped, for the others: without this the array refuses.
            let request =
                Request::delete("/api/protocols/san/igroups/{}/initiators/{}", &[&found.uuid, name])
                    .query("allow_delete_while_mapped", true);
            match self.api.insist(cx, request).await {
                Ok(()) => was_there = true,
                Err(error) if is_one_of(&error, code::NO_INITIATOR) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(was_there)
    }
}

fn not_shown() -> Error {
    inconsistent("the array does not show the igroup it has just created")
}

fn access(igroup: &wire::Igroup) -> Result<HostAccess> {
    Ok(HostAccess { id: igroup.uuid.parse()?, name: igroup.name.clone() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn spec(realm: &str, node: &str) -> HostSpec {
        HostSpec { realm: realm.into(), node: node.parse().unwrap(), initiators: Vec::new() }
    }

    #[test]
    fn usual_names_are_readable() {
        assert_eq!(igroup_name(&spec("cluster-a", "pve1")), "sb_cluster-a_pve1");
    }

    proptest! {
        #[test]
        fn names_are_bounded_and_injective(
            a in ("[a-z0-9-]{1,40}|[!-~]{1,200}", "[a-z0-9]{1,63}"),
            b in ("[a-z0-9-]{1,40}|[!-~]{1,200}", "[a-z0-9]{1,63}"),
        ) {
            let (name_a, name_b) = (igroup_name(&spec(&a.0, &a.1)), igroup_name(&spec(&b.0, &b.1)));
            prop_assert!(name_a.len() <= 96);
            prop_assert!(comment(&Ours::of_node(&spec(&a.0, &a.1)).whose).len() <= COMMENT);
            let (all_a, all_b) = (shared_igroup_name(&a.0), shared_igroup_name(&b.0));
            prop_assert!(all_a.len() <= 96);
            prop_assert_eq!(a.0 == b.0, all_a == all_b);
            prop_assert!(name_a != all_a && name_a != all_b);
            prop_assert_eq!(a == b, name_a == name_b);
        }
    }
}
