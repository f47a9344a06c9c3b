//! /private/cli/volume/recovery-queue: what was deleted and is not purged yet, and bringing it back. The pass-through of the
//! command line: fields and parameters are named as there.

use serde_json::json;

use super::answer::{Reply, Row};
use super::call::Call;
use super::error::{ApiError, Code, SVM_MISSING};
use super::model::State;

/// GET: the volumes in the queue, by the names they have there.
#[expect(clippy::unnecessary_wraps, reason = "one signature for all collections")]
pub(crate) fn rows(state: &State, _: &Call) -> Result<Vec<Row>, ApiError> {
    let queued = state.volumes.values().filter(|it| it.deleted.is_some());
    let row = |it: &super::model::Volume| {
        let svm = &state.svms[it.svm].name;
        let value = json!({ "vserver": svm, "volume": it.name });
        Row::new("/private/cli/volume/recovery-queue", vec![svm.clone(), it.name.clone()], value)
    };
    Ok(queued.map(row).collect())
}

/// POST: a volume comes back under the name it has in the queue, offline and without maps and snapshot policy (vendor's
/// documentation of `volume recovery-queue recover`).
pub(crate) fn recover(state: &mut State, call: &Call) -> Result<Reply, ApiError> {
    let required = |name: &str| Code(262_254, 400).error(format!("field \"{name}\" is required"));
    let svm = call.body.text("vserver")?.ok_or_else(|| required("vserver"))?;
    let name = call.body.text("volume")?.ok_or_else(|| required("volume"))?;
    if state.account_svm().is_some_and(|own| own != svm) {
        return Err(SVM_MISSING.error("the SVM does not exist"));
    }
    let svm = state.svm_index(&svm)?;
    state.check_running(svm)?;
    let queued = state.volumes.values().find(|it| it.deleted.is_some() && it.svm == svm && it.name == name);
    let mut volume = queued.ok_or_else(ApiError::no_entry)?.clone();
    volume.deleted = None;
    volume.online = false;
    "none".clone_into(&mut volume.snapshot_policy);
    state.recovery_queue.retain(|(_, uuid)| *uuid != volume.uuid);
    state.put_volume(volume);
    Ok(Reply::Done)
}
