//! /protocols/san/iscsi/sessions: who is logged in at this moment.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde_json::json;

use super::answer::Row;
use super::call::Call;
use super::error::ApiError;
use super::model::State;

/// How many sessions each initiator has with each portal.
pub(crate) type Sessions = BTreeMap<(String, SocketAddr), u32>;

/// GET /protocols/san/iscsi/sessions.
#[expect(clippy::unnecessary_wraps, reason = "one signature for all collections")]
pub(crate) fn rows(state: &State, _: &Call) -> Result<Vec<Row>, ApiError> {
    let mut found = Vec::new();
    for ((initiator, portal), count) in &state.sessions {
        let Some(interface) = state.interfaces.iter().find(|it| it.address == *portal) else { continue };
        let Some(svm) = interface.svm.map(|at| &state.svms[at]) else { continue };
        for _ in 0..*count {
            let tsih = found.len() + 1;
            let value = json!({
                "svm": { "name": svm.name, "uuid": svm.uuid },
                "target_portal_group": interface.name,
                "target_portal_group_tag": interface.group,
                "tsih": tsih,
                "isid": format!("00:02:3d:00:00:{tsih:02x}"),
                "initiator": { "name": initiator, "alias": "" },
                "connections": [{
                    "cid": 0,
                    "authentication_type": "none",
                    "initiator_address": { "address": neighbour(portal.ip()), "port": 50_000 + tsih },
                    "interface": {
                        "name": interface.name,
                        "uuid": interface.uuid,
                        "ip": { "address": portal.ip(), "port": portal.port() },
                    },
                }],
            });
            let keys = vec![svm.uuid.to_string(), interface.name.clone(), tsih.to_string()];
            found.push(Row::new("/protocols/san/iscsi/sessions", keys, value));
        }
    }
    Ok(found)
}

/// Hosts have no addresses of their own here: one in the portal's network stands for all of them.
fn neighbour(portal: IpAddr) -> IpAddr {
    match portal {
        IpAddr::V4(it) => {
            let [a, b, c, _] = it.octets();
            IpAddr::from([a, b, c, 200])
        }
        IpAddr::V6(it) => {
            let mut octets = it.octets();
            octets[15] = 200;
            IpAddr::from(octets)
        }
    }
}
