//! The control port of simulated nodes: everything the array's has, and the daemons' lives.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use san_contract::audit::Ledger;
use san_core::Result;
use san_sim::ontap::OntapSim;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::{mpsc, oneshot};

use super::Member;
use crate::ledger::{ArrayLedger, FolderLedger, HostLedger};

/// How a daemon shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Wish {
    /// It serves.
    Running,
    /// It was ended as SIGKILL ends it.
    Killed,
}

/// A change of one daemon, and who waits for it.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) node: usize,
    pub(crate) wish: Wish,
    pub(crate) done: oneshot::Sender<Result<()>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    name: String,
    daemon: Wish,
}

/// Answers control requests:
///
/// | request | effect |
/// |---|---|
/// | `/sim/...` | as [`OntapSim::control`] |
/// | `GET /nodes` | the nodes and whether their daemons run |
/// | `PUT /nodes {"name","daemon"}` | `killed`, `running`; answered when it is so |
/// | `GET /audit` | everything of ours on the array, on each node and among the records |
#[derive(Debug, Clone)]
pub(crate) struct Desk {
    array: OntapSim,
    members: Arc<Vec<Member>>,
    shared: PathBuf,
    orders: mpsc::Sender<Order>,
}

impl Desk {
    pub(crate) fn new(
        array: OntapSim,
        members: Arc<Vec<Member>>,
        pve: &Path,
        orders: mpsc::Sender<Order>,
    ) -> Self {
        Self { array, members, shared: pve.join("priv").join("sanbridge"), orders }
    }

    pub(crate) fn answer(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let (status, body) = match (request.method(), request.uri().path()) {
            (_, path) if path.starts_with("/sim/") => return self.array.control(request),
            (&Method::GET, "/nodes") => (StatusCode::OK, self.nodes()),
            (&Method::PUT, "/nodes") => self.change(request.body()),
            (&Method::GET, "/audit") => (StatusCode::OK, self.audit()),
            _ => (StatusCode::NOT_FOUND, json!({ "error": "no such control request" })),
        };
        let mut response = Response::new(Bytes::from(body.to_string()));
        *response.status_mut() = status;
        let json = http::HeaderValue::from_static("application/json");
        response.headers_mut().insert(http::header::CONTENT_TYPE, json);
        response
    }

    fn nodes(&self) -> Value {
        let state = |it: &Member| if it.is_running() { "running" } else { "killed" };
        self.members.iter().map(|it| json!({ "name": it.name, "daemon": state(it) })).collect()
    }

    fn change(&self, body: &Bytes) -> (StatusCode, Value) {
        let refused = |status, text: String| (status, json!({ "error": text }));
        let Change { name, daemon: wish } = match serde_json::from_slice(body) {
            Ok(change) => change,
            Err(error) => return refused(StatusCode::BAD_REQUEST, error.to_string()),
        };
        let Some(node) = self.members.iter().position(|it| it.name.as_str() == name) else {
            return refused(StatusCode::NOT_FOUND, format!("there is no node {name}"));
        };
        let (done, answer) = oneshot::channel();
        let ended = tokio::task::block_in_place(|| {
            self.orders.blocking_send(Order { node, wish, done }).ok()?;
            answer.blocking_recv().ok()
        });
        match ended {
            Some(Ok(())) => (StatusCode::OK, json!({})),
            Some(Err(error)) => refused(StatusCode::CONFLICT, error.chain().to_string()),
            None => refused(StatusCode::CONFLICT, "the simulation is ending".to_owned()),
        }
    }

    fn audit(&self) -> Value {
        let mut found = Map::new();
        let mut take = |ledger: &dyn Ledger| {
            let lines = ledger.ours().into_iter().map(Value::from).collect();
            found.insert(ledger.name(), Value::Array(lines));
        };
        take(&ArrayLedger(&self.array));
        take(&FolderLedger::new("cluster", &self.shared));
        for member in self.members.iter() {
            take(&HostLedger(&member.host));
            take(&FolderLedger::new(member.name.as_str(), &member.config.state));
        }
        Value::Object(found)
    }
}
