//! Readers of snapshots: clones of the disk's LUN as it is in a snapshot, inside the disk's own FlexVol.
//!
//! Such a clone takes no time and no room, does not keep the snapshot busy, and goes with the FlexVol. It is ours because it
//! lies there under our naming; its note tells which operation made it.

use san_core::{ArrayId, Cx, EffectState, Ensured, Error, ErrorKind, ReaderName, ReaderSpec, Result, Volume};
use san_rest::Request;
use serde_json::json;

use crate::array::Ontap;
use crate::client::Settled;
use crate::convert::{self, Key, inconsistent, mapped};
use crate::error::{code, is, is_one_of};
use crate::snapshots::{array_name, claim_of, note, path_in};
use crate::wire;

impl Ontap {
    /// One request.
    pub(crate) async fn read_snapshot(
        &self,
        cx: &Cx,
        volume: &Volume,
        of: &ReaderSpec,
    ) -> Result<Ensured<Volume>> {
        let key = Key::parse(&volume.id)?;
        key.lun()?;
        let path = format!("/vol/{}/{}", volume.name, of.name());
        let request = Request::post("/api/storage/luns", &[]).query("return_records", true).json(&json!({
            "svm": { "uuid": self.svm },
            "name": path,
            "comment": note(cx)?,
            "clone": { "source": { "name": path_in(&volume.name, &of.snapshot) } },
        }))?;
        match self.api.settle(cx, &request, || self.own_reader(cx, &key, &path)).await {
            Ok(Settled::Seen(it)) => Ok(Ensured::Created(it)),
            Ok(Settled::Answered(done)) => {
                // A record that does not tell what it is proves nothing.
                let is_whole =
                    |it: &&wire::Lun| it.location.volume.uuid.is_some() && it.serial_number.is_some();
                let record = done.records.first().filter(is_whole);
                let made = match record {
                    Some(it) => Some(self.reader_at(&key, &path, it)?),
                    None => self.own_reader(cx, &key, &path).await?,
                };
                let made =
                    made.ok_or_else(|| inconsistent("the array does not show the LUN it has just created"))?;
                if record.is_some_and(|it| claim_of(it.comment.as_deref()) != Some(cx.operation())) {
                    self.write_note(cx, &made).await?;
                }
                Ok(Ensured::Created(made))
            }
            Err(error) if is(&error, code::LUN_EXISTS) || is(&error, code::LUN_EXISTS_OLD) => {
                self.own_reader(cx, &key, &path).await?.map(Ensured::Already).ok_or(error)
            }
            Err(error) => Err(self.explain_reader(cx, &key, of, error).await),
        }
    }

    /// The reader at this path, if this operation made it.
    ///
    /// # Errors
    /// `AlreadyExists` where another one did.
    async fn own_reader(&self, cx: &Cx, key: &Key, path: &str) -> Result<Option<Volume>> {
        let Some(found) = self.lun_at(cx, path).await? else { return Ok(None) };
        let reader = self.reader_at(key, path, &found)?;
        if claim_of(found.comment.as_deref()) == Some(cx.operation()) {
            return Ok(Some(Volume { mapped: Some(mapped(&found)?), ..reader }));
        }
        Err(Error::new(ErrorKind::AlreadyExists, "a reader of a snapshot of this name is there already")
            .with_effect(EffectState::None))
    }

    /// That a clone takes the comment of its creation, and not its source's, is documented for new LUNs only.
    async fn write_note(&self, cx: &Cx, reader: &Volume) -> Result<()> {
        let key = Key::parse(&reader.id)?;
        let request =
            Request::patch("/api/storage/luns/{}", &[key.lun()?]).json(&json!({ "comment": note(cx)? }))?;
        self.api.insist(cx, request).await
    }

    /// Nobody sees what was made a moment ago.
    fn reader_at(&self, key: &Key, path: &str, lun: &wire::Lun) -> Result<Volume> {
        self.check_svm(&lun.svm)?;
        if lun.name != path || lun.location.volume.uuid.as_deref() != Some(&key.flexvol) {
            return Err(inconsistent("the array answered about another LUN"));
        }
        self.keep_lun_node(lun);
        let reader = convert::reader(lun)?.ok_or_else(|| inconsistent("a reader has no name of one"))?;
        Ok(Volume { mapped: Some(Vec::new()), ..reader.volume })
    }

    async fn explain_reader(&self, cx: &Cx, key: &Key, of: &ReaderSpec, error: Error) -> Error {
        if error.effect() == EffectState::None
            && let Ok(None) = self.snapshot_named(cx, key, &array_name(&of.snapshot)).await
        {
            return Error::new(ErrorKind::NotFound, "the volume has no such snapshot").caused_by(error);
        }
        error
    }

    /// One request: that it is a reader, by its name, is the array's own condition for the deletion.
    pub(crate) async fn remove_reader(&self, cx: &Cx, reader: &ArrayId) -> Result<bool> {
        let key = Key::parse(reader)?;
        let lun = key.lun()?;
        let request = Request::delete("/api/storage/luns", &[])
            .query("uuid", lun)
            .query("svm.uuid", &self.svm)
            .query("name", format!("/vol/*/{}*", ReaderName::PREFIX));
        let gone = || async { Ok(self.lun(cx, lun).await?.is_none().then_some(())) };
        let outcome = self.api.settle::<serde_json::Value, _, _>(cx, &request, gone).await;
        self.forget_lun_node(lun);
        match outcome {
            Ok(Settled::Seen(())) => Ok(true),
            Ok(Settled::Answered(done)) if done.touched.is_some_and(|it| it > 0) => Ok(true),
            // Nothing touched, or not said: whether it is gone can be seen.
            Ok(Settled::Answered(done)) => match self.lun(cx, lun).await? {
                None => Ok(done.touched.is_none()),
                Some(_) => Err(inconsistent("the array still shows a reader that it was told to delete")),
            },
            Err(error) if is_one_of(&error, code::NO_LUN) => {
                self.prove_svm(cx).await?;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}
