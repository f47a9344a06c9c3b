//! An array in process and short ways to ask it.

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use san_sim::ontap::{OntapConfig, OntapSim, Version};
use serde_json::{Value, json};
use tempfile::TempDir;

pub(crate) const OLD: Version = Version::new(9, 12, 1);
pub(crate) const NEW: Version = Version::new(9, 16, 1);

/// Operators of the query language that a URI may not hold as they are.
const OPERATORS: &AsciiSet = &CONTROLS.add(b'|').add(b'<').add(b'>').add(b' ').add(b'"');

/// The array and its data folder.
pub(crate) struct Rig {
    pub(crate) sim: OntapSim,
    _dir: TempDir,
}

/// Status, body, and the `Location` header.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: StatusCode,
    pub(crate) body: Value,
    pub(crate) location: Option<String>,
}

impl Rig {
    pub(crate) fn new(version: Version) -> Self {
        Self::with(version, |_| {})
    }

    pub(crate) fn with(version: Version, change: impl FnOnce(&mut OntapConfig)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut config = OntapConfig::new(version, dir.path());
        change(&mut config);
        Self { sim: OntapSim::new(config).unwrap(), _dir: dir }
    }

    pub(crate) async fn ask(&self, method: Method, target: &str, body: Value) -> Said {
        let headers = [("authorization", "Basic YWRtaW46bmV0YXBwMSE=")];
        self.ask_with(method, target, body, &headers).await
    }

    pub(crate) async fn ask_with(
        &self,
        method: Method,
        target: &str,
        body: Value,
        headers: &[(&'static str, &str)],
    ) -> Said {
        let bytes = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let mut request = Request::new(bytes);
        *request.method_mut() = method;
        *request.uri_mut() = format!("/api{}", utf8_percent_encode(target, OPERATORS)).parse().unwrap();
        for (name, value) in headers {
            request.headers_mut().insert(*name, value.parse().unwrap());
        }
        let response = self.sim.handle(request).await.unwrap();
        let location = response.headers().get("location").map(|it| it.to_str().unwrap().to_owned());
        let body = serde_json::from_slice(response.body()).unwrap();
        Said { status: response.status(), body, location }
    }

    pub(crate) async fn get(&self, target: &str) -> Said {
        self.ask(Method::GET, target, Value::Null).await
    }

    pub(crate) async fn post(&self, target: &str, body: Value) -> Said {
        self.ask(Method::POST, target, body).await
    }

    pub(crate) async fn patch(&self, target: &str, body: Value) -> Said {
        self.ask(Method::PATCH, target, body).await
    }

    pub(crate) async fn delete(&self, target: &str) -> Said {
        self.ask(Method::DELETE, target, Value::Null).await
    }

    /// A thin volume without snapshot policy; gives its uuid.
    pub(crate) async fn volume(&self, name: &str, size: &str) -> String {
        let said =
            self.post("/storage/volumes?return_timeout=15&return_records=true", volume(name, size)).await;
        assert_eq!(said.status, 201, "{said:?}");
        said.text("/records/0/uuid")
    }

    /// A LUN `/vol/<volume>/lun0`; gives its uuid.
    pub(crate) async fn lun(&self, volume: &str, size: &str) -> String {
        let said = self.post("/storage/luns?return_records=true", lun(volume, "lun0", size)).await;
        assert_eq!(said.status, 201, "{said:?}");
        said.text("/records/0/uuid")
    }

    /// An igroup with one initiator; gives its uuid.
    pub(crate) async fn igroup(&self, name: &str, initiator: &str) -> String {
        let body = json!({
            "svm": {"name": "svm1"}, "name": name, "os_type": "linux", "protocol": "iscsi",
            "initiators": [{"name": initiator}],
        });
        let said = self.post("/protocols/san/igroups?return_records=true", body).await;
        assert_eq!(said.status, 201, "{said:?}");
        said.text("/records/0/uuid")
    }

    pub(crate) async fn map(&self, lun: &str, igroup: &str, number: Option<u16>) -> Said {
        let mut body = json!({"svm": {"name": "svm1"}, "lun": {"uuid": lun}, "igroup": {"uuid": igroup}});
        if let Some(number) = number {
            body["logical_unit_number"] = json!(number);
        }
        self.post("/protocols/san/lun-maps?return_records=true", body).await
    }

    /// A snapshot; gives its uuid.
    pub(crate) async fn snapshot(&self, volume: &str, name: &str) -> String {
        let target = format!("/storage/volumes/{volume}/snapshots?return_timeout=15&return_records=true");
        let said = self.post(&target, json!({"name": name})).await;
        assert_eq!(said.status, 201, "{said:?}");
        said.text("/records/0/uuid")
    }
}

impl Said {
    pub(crate) fn at(&self, pointer: &str) -> &Value {
        self.body.pointer(pointer).unwrap_or(&Value::Null)
    }

    pub(crate) fn text(&self, pointer: &str) -> String {
        self.at(pointer).as_str().unwrap_or_else(|| panic!("no text at {pointer}: {self:?}")).to_owned()
    }

    /// The status and vendor code of an error.
    pub(crate) fn error(&self) -> (u16, &str) {
        let code = self.at("/error/code").as_str().unwrap_or_else(|| panic!("not an error: {self:?}"));
        (self.status.as_u16(), code)
    }

    pub(crate) fn count(&self) -> usize {
        self.at("/records").as_array().map_or(0, Vec::len)
    }
}

pub(crate) fn volume(name: &str, size: &str) -> Value {
    json!({
        "svm": {"name": "svm1"}, "name": name, "size": size, "aggregates": [{"name": "aggr1"}],
        "guarantee": {"type": "none"}, "snapshot_policy": {"name": "none"},
        "space": {"snapshot": {"reserve_percent": 0}},
    })
}

pub(crate) fn lun(volume: &str, name: &str, size: &str) -> Value {
    json!({
        "svm": {"name": "svm1"}, "name": format!("/vol/{volume}/{name}"), "os_type": "linux",
        "space": {"size": size},
    })
}
