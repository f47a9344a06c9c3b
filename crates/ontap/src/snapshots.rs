//! Snapshots of a FlexVol and rolling a LUN back to one of them.
//!
//! Ours are named `sb_<name>`, which sets them apart from those of the array's schedules and of other tools, and carry
//! a note with the claim of the operation that made them. Only snapshots with both are ever listed or deleted.

use san_core::{
    Cx, EffectState, Error, ErrorKind, OperationId, Result, Snapshot, SnapshotName, SnapshotSet, Volume,
    VolumeKey, VolumeName,
};
use san_rest::{Replay, Request};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::array::Ontap;
use crate::client::{Settled, patiently};
use crate::convert::{Key, LUN_NAME, inconsistent, time};
use crate::error::{code, is, is_one_of};
use crate::wire;

pub(crate) const PREFIX: &str = "sb_";
const FIELDS: &str = "uuid,name,comment,create_time,owners";
const COLLECTION: &str = "/api/storage/volumes/{}/snapshots";
/// Version of the note this build writes.
const SCHEMA: u16 = 1;

/// The comment of our snapshots and readers.
#[derive(Serialize, Deserialize)]
struct Note {
    sanbridge: Claim,
}

#[derive(Serialize, Deserialize)]
struct Claim {
    v: u16,
    claim: OperationId,
}

pub(crate) fn array_name(name: &SnapshotName) -> String {
    format!("{PREFIX}{name}")
}

/// Where the disk's LUN lies in a snapshot.
pub(crate) fn path_in(volume: &VolumeName, snapshot: &SnapshotName) -> String {
    format!("/vol/{volume}/.snapshot/{}/{LUN_NAME}", array_name(snapshot))
}

/// The comment of what the operation makes beside a disk.
pub(crate) fn note(cx: &Cx) -> Result<String> {
    let note = Note { sanbridge: Claim { v: SCHEMA, claim: cx.operation() } };
    serde_json::to_string(&note)
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot write an object's note").caused_by(error))
}

/// The operation that made it, where its comment says so.
pub(crate) fn claim_of(comment: Option<&str>) -> Option<OperationId> {
    let note: Note = serde_json::from_str(comment?).ok()?;
    (note.sanbridge.v == SCHEMA).then_some(note.sanbridge.claim)
}

/// A snapshot of ours; `None` for everybody else's.
fn ours(snapshot: &wire::Snapshot) -> Option<Result<Snapshot>> {
    let name: SnapshotName = snapshot.name.strip_prefix(PREFIX)?.parse().ok()?;
    let claim = Some(claim_of(snapshot.comment.as_deref())?);
    let created = time(snapshot.create_time.as_deref());
    Some(snapshot.uuid.parse().map(|id| Snapshot { name, id, created, claim }))
}

impl Ontap {
    pub(crate) async fn take_snapshot(&self, cx: &Cx, set: &SnapshotSet) -> Result<Vec<Snapshot>> {
        let [volume] = set.volumes.as_slice() else {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "snapshots of several volumes at one instant are not supported",
            ));
        };
        let key = Key::parse(&volume.id)?;
        key.lun()?;
        let comment = note(cx)?;
        let name = array_name(&set.name);
        let request = Request::post(COLLECTION, &[&key.flexvol])
            .query("return_records", true)
            .json(&json!({ "name": name, "comment": comment }))?;
        let request = patiently(cx, request);
        let outcome = self.api.settle(cx, &request, || self.own_snapshot(cx, &key, &name)).await;
        let found = match outcome {
            Ok(Settled::Seen(it)) => Some(it),
            Ok(Settled::Answered(done)) => match done.records.iter().find_map(ours) {
                Some(it) => Some(it?),
                None => self.own_snapshot(cx, &key, &name).await?,
            },
            Err(error) if is(&error, code::SNAPSHOT_EXISTS) => {
                return match self.own_snapshot(cx, &key, &name).await? {
                    Some(it) => Ok(vec![it]),
                    None => Err(error),
                };
            }
            Err(error) => return Err(error),
        };
        let it =
            found.ok_or_else(|| inconsistent("the array does not show the snapshot it has just taken"))?;
        Ok(vec![it])
    }

    /// The snapshot of this name, if this operation took it.
    ///
    /// # Errors
    /// `AlreadyExists` where somebody else did.
    async fn own_snapshot(&self, cx: &Cx, key: &Key, name: &str) -> Result<Option<Snapshot>> {
        let Some(found) = self.snapshot_named(cx, key, name).await? else { return Ok(None) };
        if claim_of(found.comment.as_deref()) != Some(cx.operation()) {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                "the volume has a snapshot of this name already",
            ));
        }
        ours(&found).transpose()
    }

    pub(crate) async fn snapshot_named(
        &self,
        cx: &Cx,
        key: &Key,
        name: &str,
    ) -> Result<Option<wire::Snapshot>> {
        let request = Request::get(COLLECTION, &[&key.flexvol]).query("name", name).query("fields", FIELDS);
        let found: Option<wire::Snapshot> = self.api.find_one(cx, request).await?;
        match found {
            Some(it) if it.name != name => Err(inconsistent("the array answered about another snapshot")),
            other => Ok(other),
        }
    }

    pub(crate) async fn list_snapshots(&self, cx: &Cx, volume: &Volume) -> Result<Vec<Snapshot>> {
        let key = Key::parse(&volume.id)?;
        let request = Request::get(COLLECTION, &[&key.flexvol])
            .query("name", format!("{PREFIX}*"))
            .query("fields", FIELDS)
            .query("order_by", "create_time");
        let all: Vec<wire::Snapshot> = self.api.list(cx, request).await?;
        let mut all: Vec<Snapshot> = all.iter().filter_map(ours).collect::<Result<_>>()?;
        all.sort_by_key(|it| it.created);
        Ok(all)
    }

    /// One request: the name and our note are the array's own condition for the deletion.
    pub(crate) async fn delete_snapshot(
        &self,
        cx: &Cx,
        volume: &Volume,
        name: &SnapshotName,
    ) -> Result<bool> {
        let key = Key::parse(&volume.id)?;
        let name = array_name(name);
        let request =
            Request::delete(COLLECTION, &[&key.flexvol]).query("name", &name).query("comment", "*sanbridge*");
        let request = patiently(cx, request);
        let gone = || async { Ok(self.snapshot_named(cx, &key, &name).await?.is_none().then_some(())) };
        match self.api.settle::<serde_json::Value, _, _>(cx, &request, gone).await {
            Ok(Settled::Seen(())) => Ok(true),
            Ok(Settled::Answered(done)) => match done.touched {
                Some(count) => Ok(count > 0),
                // Whether it is gone can be seen; whether this call did it was not said.
                None => self.gone(cx, &key, &name).await,
            },
            Err(error) if is_one_of(&error, code::NO_SNAPSHOT) => {
                self.prove_svm(cx).await?;
                Ok(false)
            }
            Err(error) if is(&error, code::SNAPSHOT_BUSY) => {
                Err(self.name_owners(cx, &key, &name, error).await)
            }
            Err(error) => Err(error),
        }
    }

    async fn gone(&self, cx: &Cx, key: &Key, name: &str) -> Result<bool> {
        match self.snapshot_named(cx, key, name).await? {
            None => Ok(true),
            Some(_) => Err(inconsistent("the array still shows a snapshot it has just deleted")),
        }
    }

    async fn name_owners(&self, cx: &Cx, key: &Key, name: &str, error: Error) -> Error {
        match self.snapshot_named(cx, key, name).await {
            Ok(Some(it)) if !it.owners.is_empty() => {
                let owners: String =
                    it.owners.join(", ").chars().filter(|it| !it.is_control()).take(200).collect();
                Error::wrap(error, format!("it is used by: {owners}"))
            }
            _ => error,
        }
    }

    /// One request: the LUN's bytes are replaced by those of its image in the snapshot, on the array's own condition that
    /// it is mapped to nobody. Identity and all snapshots stay. Doing it twice is doing it once.
    pub(crate) async fn roll_back(&self, cx: &Cx, volume: &Volume, name: &SnapshotName) -> Result<()> {
        let key = Key::parse(&volume.id)?;
        let source = path_in(&volume.name, name);
        let body = json!({ "clone": { "source": { "name": source } } });
        let request = Request::patch("/api/storage/luns", &[])
            .query("uuid", key.lun()?)
            .query("svm.uuid", &self.svm)
            .query("status.mapped", false)
            .json(&body)?;
        match self.overwrite(cx, request).await {
            Ok(Some(0)) => Err(self.why_untouched(cx, volume).await?),
            Ok(Some(_)) => Ok(()),
            // That a change by query says how much it touched is documented for all collections; a release that does not
            // say it, or takes no such condition, is asked first and told then.
            Ok(None) => self.roll_back_looking(cx, volume, &key, &body).await,
            Err(error) if is(&error, code::UNEXPECTED_ARGUMENT) || is(&error, code::INVALID_FIELD) => {
                self.roll_back_looking(cx, volume, &key, &body).await
            }
            Err(error) => Err(self.explain_overwrite(cx, &key, name, error).await),
        }
    }

    /// Repeatable: the condition holds for each attempt anew.
    async fn overwrite(&self, cx: &Cx, request: Request) -> Result<Option<u64>> {
        let request = patiently(cx, request.replay(Replay::Safe));
        let first = match self.api.change::<serde_json::Value>(cx, &request).await {
            Err(error) if error.effect() == EffectState::Unknown => error,
            other => return other.map(|it| it.touched),
        };
        tracing::debug!(error = %first.chain(), "overwriting once more");
        let again = self.api.change::<serde_json::Value>(cx, &request).await;
        again.map(|it| it.touched).map_err(|error| error.with_effect(EffectState::Unknown))
    }

    async fn roll_back_looking(
        &self,
        cx: &Cx,
        volume: &Volume,
        key: &Key,
        body: &serde_json::Value,
    ) -> Result<()> {
        let now = self.look_up(cx, &VolumeKey::Id(volume.id.clone())).await?;
        let is_mapped = now.as_ref().is_none_or(|it| it.mapped.as_ref().is_none_or(|it| !it.is_empty()));
        if is_mapped {
            return Err(self.why_untouched(cx, volume).await?);
        }
        // Sent once: without a condition a late first copy of it could strike a disk that is in use again.
        let request = Request::patch("/api/storage/luns/{}", &[key.lun()?]).json(body)?;
        self.api.change::<serde_json::Value>(cx, &patiently(cx, request)).await.map(drop)
    }

    /// Why a change on condition touched nothing.
    async fn why_untouched(&self, cx: &Cx, volume: &Volume) -> Result<Error> {
        let now = self.look_up(cx, &VolumeKey::Id(volume.id.clone())).await?;
        let hosts: Vec<String> =
            now.iter().flat_map(|it| it.mapped.iter().flatten()).map(|it| it.name.clone()).collect();
        Ok(match (now.is_some(), hosts.is_empty()) {
            (true, false) => Error::new(ErrorKind::InUse, format!("it is mapped to {}", hosts.join(", ")))
                .with_remedy("detach it there first; what writes to it would lose or mix its data"),
            (true, true) => Error::new(ErrorKind::Busy, "its mapping changed at this moment"),
            (false, _) => Error::new(ErrorKind::NotFound, "the array has no such volume"),
        })
    }

    async fn explain_overwrite(&self, cx: &Cx, key: &Key, name: &SnapshotName, error: Error) -> Error {
        if error.effect() == EffectState::None
            && let Ok(None) = self.snapshot_named(cx, key, &array_name(name)).await
        {
            return Error::new(ErrorKind::NotFound, "the volume has no such snapshot").caused_by(error);
        }
        error
    }
}
