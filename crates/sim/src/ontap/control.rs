//! The control interface `/sim/...`: faults, state and log of a running array, for people and for other processes.
//! It is served on its own loopback port, so that no client of the array can meet it.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::admin::{Online, Running};
use super::faults::{Rule, RuleId};
use super::log::Mark;
use super::luns::hex;
use super::sim::{OntapSim, lock};
use crate::server::ApiState;
use crate::target::{Portal, Reachability, Target, Unit};

/// Why a control request was refused.
struct Refusal(StatusCode, String);

type Result<T> = std::result::Result<T, Refusal>;

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        Self(StatusCode::CONFLICT, error.to_string())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Reach {
    Up,
    Refusing,
    BlackHole,
}

#[derive(Deserialize)]
struct ApiChange {
    state: Reach,
}

#[derive(Deserialize)]
struct PortalChange {
    address: SocketAddr,
    state: Reach,
}

#[derive(Deserialize)]
struct SvmChange {
    name: String,
    running: bool,
}

#[derive(Deserialize)]
struct LunChange {
    svm: String,
    path: String,
    online: bool,
}

#[derive(Deserialize)]
struct AggregateChange {
    name: String,
    free: u64,
}

impl OntapSim {
    /// The users of an initiator's CHAP entry, its own and the array's. `None`: it has no entry.
    pub fn credential_users(&self, initiator: &str) -> Option<(Option<String>, Option<String>)> {
        self.state().credential_users(initiator)
    }

    /// Answers one request of the control interface:
    ///
    /// | request | effect |
    /// |---|---|
    /// | `GET /sim/state` | volumes, LUNs, igroups, maps, running jobs |
    /// | `GET /sim/log?since=N` | requests after number N |
    /// | `GET`, `POST`, `DELETE /sim/faults`, `DELETE /sim/faults/ID` | list, add (a [`Rule`]), clear |
    /// | `PUT /sim/api {"state"}` | `up`, `refusing`, `black_hole` |
    /// | `GET /sim/portals`, `PUT /sim/portals {"address","state"}` | read, change |
    /// | `GET /sim/units?initiator=IQN&portal=ADDR` | what that initiator sees there |
    /// | `PUT /sim/svms {"name","running"}` | start, stop |
    /// | `PUT /sim/luns {"svm","path","online"}` | online, offline |
    /// | `PUT /sim/aggregates {"name","free"}` | leave so many bytes free |
    /// | `POST /sim/purge` | empty the recovery queue |
    pub fn control(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let (status, body) = match self.controlled(request) {
            Ok(body) => (StatusCode::OK, body),
            Err(Refusal(status, message)) => (status, json!({ "error": message })),
        };
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = status;
        let json = http::HeaderValue::from_static("application/json");
        response.headers_mut().insert(http::header::CONTENT_TYPE, json);
        response
    }

    fn controlled(&self, request: &Request<Bytes>) -> Result<Value> {
        let query = request.uri().query().unwrap_or_default();
        let body = request.body();
        match (request.method(), request.uri().path()) {
            (&Method::GET, "/sim/state") => Ok(json!({
                "volumes": self.volumes(), "luns": self.luns(), "igroups": self.igroups(), "maps": self.maps(),
                "running_jobs": self.running_jobs(),
            })),
            (&Method::GET, "/sim/log") => {
                let since = parameter(query, "since").and_then(|text| text.parse().ok()).unwrap_or(0);
                Ok(json!(self.requests(Mark::after(since))))
            }
            (&Method::GET, "/sim/portals") => {
                Ok(self.portals().iter().map(portal_object).collect::<Vec<_>>().into())
            }
            (&Method::GET, "/sim/units") => self.seen(query),
            (method, path) if path.starts_with("/sim/faults") => self.fault_request(method, path, body),
            (&Method::PUT, path) => self.change_request(path, body).map(|()| json!({})),
            (&Method::POST, "/sim/purge") => Ok(self.purge_recovery_queue().map(|()| json!({}))?),
            _ => Err(Refusal(StatusCode::NOT_FOUND, "no such control request".to_owned())),
        }
    }

    fn fault_request(&self, method: &Method, path: &str, body: &[u8]) -> Result<Value> {
        let unknown = || Refusal(StatusCode::NOT_FOUND, "no such control request".to_owned());
        match (method, path.strip_prefix("/sim/faults").unwrap_or_default()) {
            (&Method::GET, "") => {
                let list = lock(&self.shared.faults).list();
                let object = |(id, rule, struck): &(RuleId, Rule, u32)| json!({"id": id, "rule": rule, "struck": struck});
                Ok(list.iter().map(object).collect::<Vec<_>>().into())
            }
            (&Method::POST, "") => Ok(json!({ "id": self.inject(read::<Rule>(body)?) })),
            (&Method::DELETE, "") => {
                self.clear_faults();
                Ok(json!({}))
            }
            (&Method::DELETE, id) => {
                let id = id.strip_prefix('/').and_then(|id| id.parse().ok()).ok_or_else(unknown)?;
                self.clear_fault(RuleId(id));
                Ok(json!({}))
            }
            _ => Err(unknown()),
        }
    }

    fn change_request(&self, path: &str, body: &[u8]) -> Result<()> {
        match path {
            "/sim/api" => {
                self.set_api(match read::<ApiChange>(body)?.state {
                    Reach::Up => ApiState::Up,
                    Reach::Refusing => ApiState::Refusing,
                    Reach::BlackHole => ApiState::BlackHole,
                });
                Ok(())
            }
            "/sim/portals" => {
                let change: PortalChange = read(body)?;
                let state = match change.state {
                    Reach::Up => Reachability::Up,
                    Reach::Refusing => Reachability::Refusing,
                    Reach::BlackHole => Reachability::BlackHole,
                };
                Ok(self.set_portal(change.address, state)?)
            }
            "/sim/svms" => {
                let change: SvmChange = read(body)?;
                let running = if change.running { Running::Yes } else { Running::No };
                Ok(self.set_svm_running(&change.name, running)?)
            }
            "/sim/luns" => {
                let change: LunChange = read(body)?;
                let online = if change.online { Online::Yes } else { Online::No };
                Ok(self.set_lun_online(&change.svm, &change.path, online)?)
            }
            "/sim/aggregates" => {
                let change: AggregateChange = read(body)?;
                Ok(self.set_aggregate_free(&change.name, change.free)?)
            }
            _ => Err(Refusal(StatusCode::NOT_FOUND, "no such control request".to_owned())),
        }
    }

    fn seen(&self, query: &str) -> Result<Value> {
        let missing = || Refusal(StatusCode::BAD_REQUEST, "initiator and portal are needed".to_owned());
        let initiator = parameter(query, "initiator").ok_or_else(missing)?;
        let portal = parameter(query, "portal").and_then(|it| it.parse().ok()).ok_or_else(missing)?;
        let units = self.units(&initiator, portal);
        Ok(units.iter().map(|(number, unit)| unit_object(*number, unit)).collect::<Vec<_>>().into())
    }
}

fn portal_object(portal: &Portal) -> Value {
    let state = match portal.reachability {
        Reachability::Up => "up",
        Reachability::Refusing => "refusing",
        Reachability::BlackHole => "black_hole",
    };
    json!({
        "address": portal.address, "target": portal.target, "group": portal.group, "node": portal.node, "state": state,
    })
}

fn unit_object(number: u16, unit: &Unit) -> Value {
    json!({
        "number": number, "vendor": unit.vendor, "product": unit.product, "revision": unit.revision,
        "serial": hex(&unit.serial), "naa": hex(&unit.naa), "size": unit.size, "file": unit.file,
        "optimized": unit.optimized,
    })
}

fn read<T: DeserializeOwned>(body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|error| Refusal(StatusCode::BAD_REQUEST, error.to_string()))
}

fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    Some(percent_decode_str(value).decode_utf8_lossy().into_owned())
}
