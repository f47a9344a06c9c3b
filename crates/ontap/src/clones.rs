//! FlexClones of a FlexVol's snapshot, and giving a volume another name.

use san_core::{
    CloneSpec, Cx, Ensured, Error, ErrorKind, Mark, Marked, Result, Volume, VolumeKind, VolumeName,
};
use san_rest::Request;
use serde_json::json;

use crate::array::Ontap;
use crate::client::patiently;
use crate::convert::{self, Key, inconsistent, mapped};
use crate::create::{Wanted, check_name, comment, once_shown};
use crate::error::{code, is};
use crate::look::Luns;
use crate::snapshots::array_name;
use crate::wire;

impl Ontap {
    /// Two requests: the clone, and a look at the LUN that came with it, whose serial number is new. More where the parent
    /// was made under other settings, or the array does not hand them down.
    pub(crate) async fn clone_of(&self, cx: &Cx, spec: &CloneSpec) -> Result<Ensured<Volume>> {
        check_name(&self.profile.limits, &spec.name)?;
        let source = Key::parse(&spec.source.id)?;
        source.lun()?;
        let body = json!({
            "svm": self.svm_by_both_names(),
            "name": spec.name,
            "comment": comment(&spec.mark)?,
            // What settings come with the parent is compared afterwards.
            "clone": {
                "is_flexclone": true,
                "parent_volume": { "uuid": source.flexvol },
                "parent_snapshot": { "name": array_name(&spec.snapshot) },
            },
        });
        let wanted = Wanted { name: &spec.name, mark: spec.mark.clone() };
        let flexvol = match self.create_flexvol(cx, &wanted, &body).await {
            Err(error) if is(&error, code::NO_PARENT_SNAPSHOT) => {
                return Err(Error::wrap(error, "it has no such snapshot").on(&spec.snapshot));
            }
            other => other?,
        };
        self.make_sure_of_mark(cx, &flexvol.it, &spec.mark).await?;
        self.require_encrypted(cx, &flexvol.it).await?;
        let shown = || async {
            let Luns { disk, readers } = self.luns_of(cx, &spec.name).await?;
            Ok(disk.map(|it| (it, readers)))
        };
        let (lun, readers) = once_shown(cx, shown).await?;
        if lun.location.volume.uuid.as_deref().is_some_and(|it| it != flexvol.it.uuid) {
            return Err(inconsistent("the array answered about another LUN"));
        }
        // Who read a snapshot of the source when this one was taken was copied with it, and reads nothing here.
        for reader in &readers {
            self.remove_reader(cx, &reader.volume.id).await?;
        }
        self.adapt_clone(cx, &flexvol.it, &lun).await?;
        let mut volume = convert::volume(&flexvol.it, Some(&lun))?;
        volume.readers = Some(Vec::new());
        volume.mark = Marked::Ours(spec.mark.clone());
        volume.mapped = Some(mapped(&lun)?);
        Ok(if flexvol.now { Ensured::Created(volume) } else { Ensured::Already(volume) })
    }

    /// That a clone takes the comment of its creation, and not its parent's, is documented for new volumes only. No more
    /// requests where the answer shows it.
    async fn make_sure_of_mark(&self, cx: &Cx, clone: &wire::Volume, mark: &Mark) -> Result<()> {
        let wanted = Marked::Ours(mark.clone());
        if convert::mark(clone) == wanted {
            return Ok(());
        }
        let is_marked = || async {
            let now = self.flexvol(cx, &clone.uuid).await?;
            Ok(now.is_some_and(|it| convert::mark(&it) == wanted).then_some(()))
        };
        if is_marked().await?.is_some() {
            return Ok(());
        }
        let request = Request::patch("/api/storage/volumes/{}", &[&clone.uuid])
            .json(&json!({ "comment": comment(mark)? }))?;
        self.api.settle::<serde_json::Value, _, _>(cx, &patiently(cx, request), is_marked).await.map(drop)
    }

    /// One request: name and mark change together, and the LUN's path with the name.
    pub(crate) async fn give_name(
        &self,
        cx: &Cx,
        volume: &Volume,
        name: &VolumeName,
        mark: &Mark,
    ) -> Result<()> {
        check_name(&self.profile.limits, name)?;
        let key = Key::parse(&volume.id)?;
        let request = Request::patch("/api/storage/volumes/{}", &[&key.flexvol])
            .json(&json!({ "name": name, "comment": comment(mark)? }))?;
        let done = || async {
            let now = self.flexvol(cx, &key.flexvol).await?;
            let is_done = |it: &wire::Volume| {
                it.name == name.as_str() && convert::mark(it) == Marked::Ours(mark.clone())
            };
            Ok(now.is_some_and(|it| is_done(&it)).then_some(()))
        };
        match self.api.settle::<serde_json::Value, _, _>(cx, &patiently(cx, request), done).await {
            Ok(_) => Ok(()),
            Err(error) if is(&error, code::VOLUME_EXISTS) => {
                // Of this very volume, where an earlier attempt has done it.
                if done().await?.is_some() {
                    Ok(())
                } else {
                    Err(Error::wrap(error, "the name is taken by another volume").on(name))
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The clones that hang on a volume, as far as the array shows them: those in its recovery queue it does not.
    pub(crate) async fn name_clones(&self, cx: &Cx, key: &Key, error: Error) -> Error {
        let request = Request::get("/api/storage/volumes", &[])
            .query("clone.parent_volume.uuid", &key.flexvol)
            .query("svm.uuid", &self.svm)
            .query("fields", "name,uuid,comment");
        let is_deleted = |it: &wire::Volume| matches!(convert::mark(it), Marked::Ours(mark) if mark.kind == VolumeKind::Deleting);
        let found = self.api.list::<wire::Volume>(cx, request).await;
        match found.map(|it| it.into_iter().filter(|it| !is_deleted(it)).collect::<Vec<_>>()) {
            // It says more than the code alone: nobody finds those clones by looking. One that waits to be deleted
            // itself goes by itself, as those in the queue do.
            Ok(clones) if clones.is_empty() => Error::new(error.kind(), "clones that were deleted still hang on it")
                .with_effect(error.effect())
                .with_remedy(
                    "wait until the recovery queue of the array has let those clones go (12 hours by default), or purge it",
                )
                .caused_by(error),
            Ok(clones) => {
                let mut names: Vec<String> = clones.into_iter().map(|it| it.name).collect();
                names.sort_unstable();
                names.truncate(10);
                let message = format!("clones hang on it: {}", names.join(", "));
                Error::new(ErrorKind::InUse, message)
                    .with_effect(error.effect())
                    .with_remedy("delete those clones first, or make them independent of it")
                    .caused_by(error)
            }
            Err(_) => error,
        }
    }
}
