//! /network/ip/interfaces and /protocols/san/iscsi/services: where hosts find the data.

use serde_json::{Value, json};

use super::answer::Row;
use super::call::Call;
use super::cluster::node_ref;
use super::error::ApiError;
use super::model::{Interface, State, Svm};
use crate::target::Reachability;

/// GET /protocols/san/iscsi/services[/{svm.uuid}].
#[expect(clippy::unnecessary_wraps, reason = "one signature for all collections")]
pub(crate) fn iscsi_services(state: &State, call: &Call) -> Result<Vec<Row>, ApiError> {
    let row = |svm: &Svm| {
        let service = svm.iscsi.as_ref()?;
        let value = json!({
            "svm": { "name": svm.name, "uuid": svm.uuid },
            "enabled": service.enabled,
            "target": { "name": service.target, "alias": svm.name },
        });
        Some(Row::new("/protocols/san/iscsi/services", vec![svm.uuid.to_string()], value))
    };
    let asked = |svm: &&Svm| call.keys.first().is_none_or(|key| *key == svm.uuid.to_string());
    Ok(state.svms.iter().filter(asked).filter_map(row).collect())
}

/// GET /network/ip/interfaces[/{uuid}].
#[expect(clippy::unnecessary_wraps, reason = "one signature for all collections")]
pub(crate) fn interfaces(state: &State, call: &Call) -> Result<Vec<Row>, ApiError> {
    let asked = |it: &&Interface| call.keys.first().is_none_or(|key| *key == it.uuid.to_string());
    Ok(state.interfaces.iter().filter(asked).map(|it| interface(state, it)).collect())
}

fn interface(state: &State, it: &Interface) -> Row {
    let svm = it.svm.map(|at| &state.svms[at]);
    let running = svm.is_none_or(|svm| svm.running);
    let up = running && it.reachability == Reachability::Up;
    let node = node_ref(&state.nodes[it.node]);
    let services: &[&str] =
        if svm.is_some() { &["data_core", "data_iscsi"] } else { &["management_core", "management_https"] };
    let value: Value = json!({
        "uuid": it.uuid,
        "name": it.name,
        "svm": svm.map(|svm| json!({ "name": svm.name, "uuid": svm.uuid })),
        "scope": if svm.is_some() { "svm" } else { "cluster" },
        "ip": {
            "address": it.address.ip().to_string(),
            "netmask": if it.address.is_ipv4() { "24" } else { "64" },
            "family": if it.address.is_ipv4() { "ipv4" } else { "ipv6" },
        },
        "enabled": true,
        "state": if up { "up" } else { "down" },
        "services": services,
        "service_policy": { "name": if svm.is_some() { "default-data-blocks" } else { "default-management" } },
        "ipspace": { "name": "Default" },
        "vip": false,
        "location": {
            "node": node,
            "home_node": node,
            "port": { "name": "e0c" },
            "home_port": { "name": "e0c" },
            "is_home": true,
            "auto_revert": false,
            "failover": if svm.is_some() { "disabled" } else { "broadcast_domain_only" },
        },
    });
    Row::new("/network/ip/interfaces", vec![it.uuid.to_string()], value)
}
