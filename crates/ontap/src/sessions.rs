//! The role [`Sessions`]: who is logged in to the SVM at this moment, by the array's word.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use san_core::{Cx, Error, HostSession, Initiator, Iqn, Result, Sessions};
use san_rest::Request;
use serde::Deserialize;

use crate::array::Ontap;

#[derive(Debug, Deserialize)]
struct Session {
    initiator: Name,
    #[serde(default)]
    connections: Vec<Connection>,
}

#[derive(Debug, Deserialize)]
struct Name {
    name: String,
}

#[derive(Debug, Deserialize)]
struct Connection {
    #[serde(default)]
    initiator_address: Address,
}

#[derive(Debug, Default, Deserialize)]
struct Address {
    address: Option<String>,
}

#[async_trait]
impl Sessions for Ontap {
    async fn sessions_of(&self, cx: &Cx, initiators: &[Initiator]) -> Result<Vec<HostSession>> {
        let found = self.proved(cx, self.read_sessions(cx, initiators)).await;
        found.map_err(|error| Error::wrap(error, "cannot tell who is logged in to").on(&self.profile.name))
    }
}

impl Ontap {
    async fn read_sessions(&self, cx: &Cx, initiators: &[Initiator]) -> Result<Vec<HostSession>> {
        let wanted: BTreeSet<&Iqn> = initiators
            .iter()
            .filter_map(|it| match it {
                Initiator::Iscsi(iqn) => Some(iqn),
                _ => None,
            })
            .collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        // All of the SVM: the array compares names letter by letter, and here their case does not matter.
        let request = Request::get("/api/protocols/san/iscsi/sessions", &[])
            .query("svm.uuid", &self.svm)
            .query("fields", "initiator.name,connections.initiator_address.address");
        let mut found: BTreeMap<Iqn, BTreeSet<String>> = BTreeMap::new();
        for it in self.api.list::<Session>(cx, request).await? {
            // One whose name is none is not one of those.
            let Ok(name) = it.initiator.name.parse::<Iqn>() else { continue };
            if wanted.contains(&name) {
                let from = it.connections.into_iter().filter_map(|it| it.initiator_address.address);
                found.entry(name).or_default().extend(from);
            }
        }
        let session = |(iqn, from): (Iqn, BTreeSet<String>)| HostSession {
            initiator: Initiator::Iscsi(iqn),
            from: from.into_iter().collect(),
        };
        Ok(found.into_iter().map(session).collect())
    }
}
