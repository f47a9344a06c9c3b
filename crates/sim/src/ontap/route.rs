//! Which paths exist since when, which methods and parameters they take, and who answers.

use http::Method;
use percent_encoding::percent_decode_str;

use super::answer::{Reply, Row};
use super::call::Call;
use super::error::{ApiError, BAD_METHOD, NO_SUCH_API};
use super::model::State;
use super::schema::Resource;
use super::version::Version;
use super::{
    cluster, credentials, igroups, initiators, jobs, luns, maps, network, recovery_queue, sessions,
    snapshots, volumes,
};

type Read = fn(&State, &Call) -> Result<Vec<Row>, ApiError>;
type Change = fn(&mut State, &Call) -> Result<Reply, ApiError>;

/// One path of the API.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) template: &'static str,
    since: Version,
    pub(crate) resource: Resource,
    pub(crate) shape: Shape,
    pub(crate) get: Read,
    pub(crate) post: Option<Change>,
    pub(crate) patch: Option<Change>,
    pub(crate) delete: Option<Change>,
    /// Parameters of this path alone: method, name, first release.
    special: &'static [(Method, &'static str, Version)],
}

/// Whether a path names many objects or one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Changes by query go to the items at this template.
    Collection(Option<&'static str>),
    Item,
}

/// What a query parameter means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Param {
    Fields,
    IgnoreUnknown,
    OrderBy,
    MaxRecords,
    ReturnTimeout,
    ReturnRecords,
    ContinueOnFailure,
    SerialRecords,
    Start,
    Special,
}

const BASE: Version = Version::OLDEST;
const V9_11: Version = Version::new(9, 11, 1);
const V9_12: Version = Version::new(9, 12, 1);
const V9_16: Version = Version::new(9, 16, 1);

const fn item(template: &'static str, resource: Resource, get: Read) -> Route {
    let (since, shape) = (BASE, Shape::Item);
    Route { template, since, resource, shape, get, post: None, patch: None, delete: None, special: &[] }
}

const fn collection(template: &'static str, resource: Resource, get: Read) -> Route {
    Route { shape: Shape::Collection(None), ..item(template, resource, get) }
}

const MAPPED_DELETE: &[(Method, &str, Version)] = &[(Method::DELETE, "allow_delete_while_mapped", BASE)];
const VOLUME_PARAMS: &[(Method, &str, Version)] = &[
    (Method::DELETE, "force", V9_12),
    (Method::PATCH, "restore_to.snapshot.name", BASE),
    (Method::PATCH, "restore_to.snapshot.uuid", BASE),
];

static ROUTES: &[Route] = &[
    item("/cluster", Resource::Cluster, cluster::cluster),
    collection("/cluster/nodes", Resource::Node, cluster::nodes),
    item("/cluster/nodes/{uuid}", Resource::Node, cluster::nodes),
    collection("/cluster/jobs", Resource::Job, jobs::rows),
    item("/cluster/jobs/{uuid}", Resource::Job, jobs::rows),
    collection("/svm/svms", Resource::Svm, cluster::svms),
    item("/svm/svms/{uuid}", Resource::Svm, cluster::svms),
    collection("/storage/aggregates", Resource::Aggregate, cluster::aggregates),
    item("/storage/aggregates/{uuid}", Resource::Aggregate, cluster::aggregates),
    collection("/storage/snapshot-policies", Resource::SnapshotPolicy, cluster::snapshot_policies),
    collection("/storage/qos/policies", Resource::QosPolicy, cluster::qos_policies),
    Route {
        shape: Shape::Collection(Some("/storage/volumes/{uuid}")),
        post: Some(volumes::create),
        special: VOLUME_PARAMS,
        ..collection("/storage/volumes", Resource::Volume, volumes::rows)
    },
    Route {
        patch: Some(volumes::modify),
        delete: Some(volumes::delete),
        special: VOLUME_PARAMS,
        ..item("/storage/volumes/{uuid}", Resource::Volume, volumes::rows)
    },
    Route {
        shape: Shape::Collection(Some("/storage/volumes/{volume.uuid}/snapshots/{uuid}")),
        post: Some(snapshots::create),
        ..collection("/storage/volumes/{volume.uuid}/snapshots", Resource::Snapshot, snapshots::rows)
    },
    Route {
        patch: Some(snapshots::modify),
        delete: Some(snapshots::delete),
        ..item("/storage/volumes/{volume.uuid}/snapshots/{uuid}", Resource::Snapshot, snapshots::rows)
    },
    Route {
        shape: Shape::Collection(Some("/storage/luns/{uuid}")),
        post: Some(luns::create),
        special: MAPPED_DELETE,
        ..collection("/storage/luns", Resource::Lun, luns::rows)
    },
    Route {
        patch: Some(luns::modify),
        delete: Some(luns::delete),
        special: MAPPED_DELETE,
        ..item("/storage/luns/{uuid}", Resource::Lun, luns::rows)
    },
    Route {
        shape: Shape::Collection(Some("/protocols/san/igroups/{uuid}")),
        post: Some(igroups::create),
        special: MAPPED_DELETE,
        ..collection("/protocols/san/igroups", Resource::Igroup, igroups::rows)
    },
    Route {
        patch: Some(igroups::modify),
        delete: Some(igroups::delete),
        special: MAPPED_DELETE,
        ..item("/protocols/san/igroups/{uuid}", Resource::Igroup, igroups::rows)
    },
    Route {
        shape: Shape::Collection(Some("/protocols/san/igroups/{igroup.uuid}/initiators/{name}")),
        post: Some(initiators::create),
        special: MAPPED_DELETE,
        ..collection("/protocols/san/igroups/{igroup.uuid}/initiators", Resource::Initiator, initiators::rows)
    },
    Route {
        patch: Some(initiators::modify),
        delete: Some(initiators::delete),
        special: MAPPED_DELETE,
        ..item(
            "/protocols/san/igroups/{igroup.uuid}/initiators/{name}",
            Resource::Initiator,
            initiators::rows,
        )
    },
    Route {
        shape: Shape::Collection(Some("/protocols/san/lun-maps/{lun.uuid}/{igroup.uuid}")),
        post: Some(maps::create),
        ..collection("/protocols/san/lun-maps", Resource::LunMap, maps::rows)
    },
    Route {
        delete: Some(maps::delete),
        ..item("/protocols/san/lun-maps/{lun.uuid}/{igroup.uuid}", Resource::LunMap, maps::rows)
    },
    collection("/protocols/san/iscsi/services", Resource::IscsiService, network::iscsi_services),
    item("/protocols/san/iscsi/services/{svm.uuid}", Resource::IscsiService, network::iscsi_services),
    collection("/protocols/san/iscsi/sessions", Resource::IscsiSession, sessions::rows),
    Route {
        shape: Shape::Collection(Some("/protocols/san/iscsi/credentials/{svm.uuid}/{initiator}")),
        post: Some(credentials::create),
        ..collection("/protocols/san/iscsi/credentials", Resource::Credential, credentials::rows)
    },
    Route {
        patch: Some(credentials::modify),
        delete: Some(credentials::delete),
        ..item(
            "/protocols/san/iscsi/credentials/{svm.uuid}/{initiator}",
            Resource::Credential,
            credentials::rows,
        )
    },
    collection("/private/cli/volume/recovery-queue", Resource::RecoveryQueue, recovery_queue::rows),
    Route {
        post: Some(recovery_queue::recover),
        ..item("/private/cli/volume/recovery-queue/recover", Resource::RecoveryQueue, recovery_queue::rows)
    },
    collection("/network/ip/interfaces", Resource::Interface, network::interfaces),
    item("/network/ip/interfaces/{uuid}", Resource::Interface, network::interfaces),
];

/// The route of a path below `/api`, with what stands in its variable places.
pub(crate) fn find(path: &str, version: Version) -> Result<(&'static Route, Vec<String>), ApiError> {
    let segments: Vec<&str> = path.split('/').filter(|segment| !segment.is_empty()).collect();
    ROUTES
        .iter()
        .filter(|route| route.since <= version)
        .find_map(|route| Some((route, captures(route.template, &segments)?)))
        .ok_or_else(|| NO_SUCH_API.error("API not found"))
}

/// The route with this template.
pub(crate) fn by_template(template: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| route.template == template)
}

fn captures(template: &str, segments: &[&str]) -> Option<Vec<String>> {
    let parts: Vec<&str> = template.split('/').filter(|part| !part.is_empty()).collect();
    if parts.len() != segments.len() {
        return None;
    }
    let mut found = Vec::new();
    for (part, segment) in parts.iter().zip(segments) {
        if part.starts_with('{') {
            found.push(percent_decode_str(segment).decode_utf8_lossy().into_owned());
        } else if part != segment {
            return None;
        }
    }
    Some(found)
}

impl Route {
    /// Refuses methods this path does not have.
    pub(crate) fn check_method(&self, method: &Method) -> Result<(), ApiError> {
        let bulk = self.bulk_item().is_some_and(|item| item.changer(method).is_some());
        if *method == Method::GET || self.changer(method).is_some() || bulk {
            return Ok(());
        }
        Err(BAD_METHOD.error(format!("method {method} is not supported at {}", self.template)))
    }

    /// Who carries out a change of this path itself.
    pub(crate) fn changer(&self, method: &Method) -> Option<Change> {
        match *method {
            Method::POST => self.post,
            Method::PATCH => self.patch,
            Method::DELETE => self.delete,
            _ => None,
        }
    }

    /// The route of the items that a change by query goes to.
    pub(crate) fn bulk_item(&self) -> Option<&'static Self> {
        match self.shape {
            Shape::Collection(Some(template)) => by_template(template),
            _ => None,
        }
    }

    pub(crate) fn takes_filters(&self, method: &Method) -> bool {
        matches!(self.shape, Shape::Collection(_)) && *method != Method::POST
    }

    /// The meaning of a parameter here, if it has one that is not a filter.
    pub(crate) fn param(&self, method: &Method, name: &str, version: Version) -> Option<Param> {
        let special = |(of, special, since): &&(Method, &str, Version)| {
            of == method && *special == name && *since <= version
        };
        if self.special.iter().any(|it| special(&it)) {
            return Some(Param::Special);
        }
        let many = matches!(self.shape, Shape::Collection(_));
        let get = *method == Method::GET;
        let post = *method == Method::POST;
        let by_query = many && !get && !post;
        let (param, allowed, since) = match name {
            "fields" => (Param::Fields, get, BASE),
            "ignore_unknown_fields" => (Param::IgnoreUnknown, get, V9_11),
            "order_by" => (Param::OrderBy, many && get, BASE),
            "max_records" => (Param::MaxRecords, many && !post, BASE),
            "return_timeout" => (Param::ReturnTimeout, many || !get, BASE),
            "return_records" => (Param::ReturnRecords, many, BASE),
            "continue_on_failure" => (Param::ContinueOnFailure, by_query, V9_16),
            "serial_records" => (Param::SerialRecords, by_query, V9_16),
            "start.key" => (Param::Start, many && !post, BASE),
            _ => return None,
        };
        (allowed && since <= version).then_some(param)
    }
}
