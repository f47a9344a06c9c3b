//! /cluster, /cluster/nodes, /svm/svms and /storage/aggregates: what a client reads once to know the array.

use serde_json::{Value, json};

use super::answer::Row;
use super::call::Call;
use super::error::ApiError;
use super::model::{Node, State};

/// GET /cluster.
#[expect(clippy::unnecessary_wraps, reason = "one signature for all collections")]
pub(crate) fn cluster(state: &State, _: &Call) -> Result<Vec<Row>, ApiError> {
    let value = json!({
        "name": state.cluster.name,
        "uuid": state.cluster.uuid,
        "version": version(state),
        "san_optimized": state.personality.is_san_optimized(),
        "disaggregated": state.personality.is_disaggregated(),
        "location": "",
        "contact": "",
        "timezone": { "name": "Etc/UTC" },
    });
    Ok(vec![Row::new("/cluster", Vec::new(), value)])
}

fn version(state: &State) -> Value {
    let version = state.version;
    json!({
        "full": format!("NetApp Release {version}: Thu Jan 01 00:00:00 UTC 2026"),
        "generation": version.generation,
        "major": version.major,
        "minor": version.minor,
    })
}

/// Whether the first key of a path, if there is one, is this uuid.
fn is_asked_for(call: &Call, uuid: uuid::Uuid) -> bool {
    call.keys.first().is_none_or(|key| *key == uuid.to_string())
}

/// Name and uuid of a node, as other objects refer to it.
pub(crate) fn node_ref(node: &Node) -> Value {
    json!({ "name": node.name, "uuid": node.uuid })
}

/// GET /cluster/nodes[/{uuid}].
#[expect(clippy::unnecessary_wraps, reason = "one signature for all collections")]
pub(crate) fn nodes(state: &State, call: &Call) -> Result<Vec<Row>, ApiError> {
    let row = |node: &Node| {
        let partners: Vec<Value> = node.partner.iter().map(|at| node_ref(&state.nodes[*at])).collect();
        let value = json!({
            "uuid": node.uuid,
            "name": node.name,
            "model": state.personality.model(),
            "serial_number": node.serial,
            "system_id": node.serial,
            "version": version(state),
            "state": "up",
            "membership": "member",
            "uptime": state.now.as_secs() + 86_400,
            "location": "",
            "ha": {
                "enabled": node.partner.is_some(),
                "auto_giveback": true,
                "partners": partners,
                "takeover": { "state": "not_attempted" },
                "giveback": { "state": "nothing_to_giveback" },
            },
        });
        Row::new("/cluster/nodes", vec![node.uuid.to_string()], value)
    };
    Ok(state.nodes.iter().filter(|node| is_asked_for(call, node.uuid)).map(row).collect())
}

/// GET /svm/svms[/{uuid}].
#[expect(clippy::unnecessary_wraps, reason = "one signature for all collections")]
pub(crate) fn svms(state: &State, call: &Call) -> Result<Vec<Row>, ApiError> {
    let indices = (0..state.svms.len()).filter(|at| is_asked_for(call, state.svms[*at].uuid));
    Ok(indices.map(|at| svm(state, at)).collect())
}

fn svm(state: &State, at: usize) -> Row {
    let svm = &state.svms[at];
    let assigned = |at: &usize| svm.assigned.holds(&state.aggregates[*at].name);
    let aggregates: Vec<Value> = (0..state.aggregates.len())
        .filter(assigned)
        .map(|at| {
            let aggregate = &state.aggregates[at];
            let available = aggregate.size - state.aggregate_used(at);
            json!({ "name": aggregate.name, "uuid": aggregate.uuid, "available_size": available })
        })
        .collect();
    let queued = || state.volumes.values().filter(|volume| volume.svm == at && volume.deleted.is_some());
    let value = json!({
        "uuid": svm.uuid,
        "name": svm.name,
        "state": if svm.running { "running" } else { "stopped" },
        "subtype": svm.subtype,
        "comment": "",
        "language": "c.utf_8",
        "ipspace": { "name": "Default" },
        "aggregates": (!aggregates.is_empty()).then_some(aggregates),
        "aggregates_delegated": true,
        "snapshot_policy": { "name": "default" },
        "iscsi": {
            "enabled": svm.iscsi.as_ref().is_some_and(|service| service.enabled),
            "allowed": true,
        },
        "fcp": { "enabled": false, "allowed": true },
        "nvme": { "enabled": false, "allowed": true },
        "max_volumes": "unlimited",
        "number_of_volumes_in_recovery_queue": queued().count(),
        "total_volume_size_in_recovery_queue": queued().map(|volume| volume.size).sum::<u64>(),
    });
    Row::new("/svm/svms", vec![svm.uuid.to_string()], value)
}

/// GET /storage/aggregates[/{uuid}].
#[expect(clippy::unnecessary_wraps, reason = "one signature for all collections")]
pub(crate) fn aggregates(state: &State, call: &Call) -> Result<Vec<Row>, ApiError> {
    let indices = (0..state.aggregates.len()).filter(|at| is_asked_for(call, state.aggregates[*at].uuid));
    Ok(indices.map(|at| aggregate(state, at)).collect())
}

fn aggregate(state: &State, at: usize) -> Row {
    let aggregate = &state.aggregates[at];
    let used = state.aggregate_used(at);
    let percent = used / (aggregate.size / 100).max(1);
    let node = node_ref(&state.nodes[aggregate.node]);
    let volumes = state.live_volumes().filter(|volume| volume.aggregate == at).count();
    let value = json!({
        "uuid": aggregate.uuid,
        "name": aggregate.name,
        "node": node,
        "home_node": node,
        "state": "online",
        "snaplock_type": "non_snaplock",
        "block_storage": {
            "primary": {
                "disk_class": "solid_state", "disk_type": "ssd", "raid_type": "raid_dp", "disk_count": 12,
            },
            "storage_type": "ssd",
        },
        "data_encryption": { "software_encryption_enabled": aggregate.encrypts },
        "cloud_storage": {
            "stores": aggregate
                .object_stores
                .iter()
                .map(|name| json!({ "cloud_store": { "name": name } }))
                .collect::<Vec<_>>(),
        },
        "volume-count": volumes,
        "space": {
            "block_storage": {
                "size": aggregate.size,
                "available": aggregate.size - used,
                "used": used,
                "full_threshold_percent": 98,
                "physical_used": used,
                "physical_used_percent": percent,
                "used_percent": percent,
            },
            "cloud_storage": { "used": 0 },
            "footprint": used,
            "efficiency": { "logical_used": used, "ratio": 1.0, "savings": 0 },
        },
    });
    Row::new("/storage/aggregates", vec![aggregate.uuid.to_string()], value)
}

/// GET /storage/snapshot-policies: those of the cluster.
#[expect(clippy::unnecessary_wraps, reason = "one signature for all collections")]
pub(crate) fn snapshot_policies(state: &State, _: &Call) -> Result<Vec<Row>, ApiError> {
    let row = |name: &String| {
        let uuid = policy_uuid(state, name);
        let value = json!({ "uuid": uuid, "name": name, "enabled": true });
        Row::new("/storage/snapshot-policies", vec![uuid], value)
    };
    Ok(state.snapshot_policies.iter().map(row).collect())
}

/// GET /storage/qos/policies: those of every SVM.
#[expect(clippy::unnecessary_wraps, reason = "one signature for all collections")]
pub(crate) fn qos_policies(state: &State, _: &Call) -> Result<Vec<Row>, ApiError> {
    let mut rows = Vec::new();
    for svm in &state.svms {
        for name in &state.qos_policies {
            let uuid = policy_uuid(state, &format!("{}/{name}", svm.name));
            let count = state.live_volumes().filter(|it| it.qos_policy.as_ref() == Some(name)).count();
            let svm = json!({ "name": svm.name, "uuid": svm.uuid });
            let value = json!({ "uuid": uuid, "name": name, "svm": svm, "object_count": count });
            rows.push(Row::new("/storage/qos/policies", vec![uuid], value));
        }
    }
    Ok(rows)
}

/// Policies are few and never change: their uuids follow from the cluster's and their names.
fn policy_uuid(state: &State, name: &str) -> String {
    let mut bytes = *state.cluster.uuid.as_bytes();
    for (at, byte) in name.bytes().enumerate() {
        let place = &mut bytes[at % 16];
        *place = place.wrapping_mul(31).wrapping_add(byte);
    }
    uuid::Uuid::from_bytes(bytes).to_string()
}
