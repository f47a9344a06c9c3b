//! Listing, deleting and growing volumes.

use std::collections::{BTreeMap, BTreeSet};

use san_core::{ByteSize, Cx, DeleteMode, Error, ErrorKind, Result, Volume, VolumeKey};
use san_rest::Request;
use serde_json::json;

use crate::array::Ontap;
use crate::client::patiently;
use crate::convert::{self, Key, LUN_NAME, inconsistent};
use crate::create::{ROUNDING, check_size};
use crate::error::{code, is, is_one_of};
use crate::look::{LUN_FIELDS, Luns, VOLUME_FIELDS, both};
use crate::release::Feature;
use crate::wire;

/// How many volumes one filter names at most, so that the request stays within usual limits for its length.
const NAMED_AT_ONCE: usize = 50;

impl Ontap {
    /// All volumes whose names begin with `prefix`. Volumes and LUNs are two lists, so objects that come and go
    /// meanwhile show in one of them only: those are looked at again, and only then judged.
    pub(crate) async fn list_volumes(&self, cx: &Cx, prefix: &str) -> Result<Vec<Volume>> {
        let (mut flexvols, mut luns) =
            both(self.flexvols(cx, prefix), self.luns(cx, Filter::Prefix(prefix))).await?;
        if flexvols.is_empty() {
            self.prove_svm(cx).await?;
        }
        if luns.keys().any(|it| !flexvols.contains_key(it)) {
            flexvols.extend(self.flexvols(cx, prefix).await?);
        }
        for stray in luns.keys().filter(|it| !flexvols.contains_key(*it)).cloned().collect::<Vec<_>>() {
            if self.flexvol(cx, &stray).await?.is_some() {
                return Err(inconsistent("the array's list of volumes lacks one that exists"));
            }
            luns.remove(&stray);
        }
        let has_disk = |it: &String| luns.get(it).is_some_and(|it: &Luns| it.disk.is_some());
        let bare: Vec<String> = flexvols.keys().filter(|it| !has_disk(it)).cloned().collect();
        for some in bare.chunks(NAMED_AT_ONCE) {
            luns.extend(self.luns(cx, Filter::Flexvols(some)).await?);
        }
        let whole = |it: &wire::Volume| {
            let Luns { disk, readers } = luns.remove(&it.uuid).unwrap_or_default();
            let mut volume = convert::volume(it, disk.as_ref())?;
            volume.readers = Some(readers);
            Ok(volume)
        };
        flexvols.values().map(whole).collect()
    }

    /// FlexVols by UUID.
    async fn flexvols(&self, cx: &Cx, prefix: &str) -> Result<BTreeMap<String, wire::Volume>> {
        let request = Request::get("/api/storage/volumes", &[])
            .query("name", format!("{prefix}*"))
            .query("svm.uuid", &self.svm)
            .query("fields", VOLUME_FIELDS);
        let all: Vec<wire::Volume> = self.api.list(cx, request).await?;
        all.iter().try_for_each(|it| self.check_svm(&it.svm))?;
        Ok(all.into_iter().filter(|it| it.name.starts_with(prefix)).map(|it| (it.uuid.clone(), it)).collect())
    }

    /// Our LUNs by the UUID of their FlexVol.
    async fn luns(&self, cx: &Cx, of: Filter<'_>) -> Result<BTreeMap<String, Luns>> {
        let request =
            Request::get("/api/storage/luns", &[]).query("svm.uuid", &self.svm).query("fields", LUN_FIELDS);
        let request = match of {
            Filter::Prefix(it) => request.query("name", format!("/vol/{it}*")),
            Filter::Flexvols(it) => request.query("location.volume.uuid", it.join("|")),
        };
        let all: Vec<wire::Lun> = self.api.list(cx, request).await?;
        let mut by_flexvol: BTreeMap<String, Luns> = BTreeMap::new();
        for lun in all {
            self.check_svm(&lun.svm)?;
            let ours = match of {
                Filter::Prefix(it) => lun.name.strip_prefix("/vol/").is_some_and(|path| path.starts_with(it)),
                Filter::Flexvols(_) => true,
            };
            if !ours {
                continue;
            }
            let flexvol = lun.location.volume.uuid.clone();
            let flexvol = flexvol.ok_or_else(|| inconsistent("a LUN names no FlexVol"))?;
            if convert::unit(&lun.name) == Some(LUN_NAME) {
                by_flexvol.entry(flexvol).or_default().disk = Some(lun);
            } else if let Some(reader) = convert::reader(&lun)? {
                by_flexvol.entry(flexvol).or_default().readers.push(reader);
            }
        }
        Ok(by_flexvol)
    }

    pub(crate) async fn delete(&self, cx: &Cx, volume: &Volume, mode: DeleteMode) -> Result<bool> {
        let key = Key::parse(&volume.id)?;
        let looked;
        let seen = if volume.mapped.is_some() && volume.readers.is_some() {
            volume
        } else {
            let Some(it) = self.look_up(cx, &VolumeKey::Id(volume.id.clone())).await? else {
                return Ok(false);
            };
            looked = it;
            &looked
        };
        let mapped = |it: &Volume| it.mapped.clone().unwrap_or_default();
        let readers = seen.readers()?.iter().flat_map(|it| mapped(&it.volume));
        let hosts: BTreeSet<String> = mapped(seen).into_iter().chain(readers).map(|it| it.name).collect();
        if !hosts.is_empty() {
            let hosts = hosts.into_iter().collect::<Vec<_>>().join(", ");
            return Err(Error::new(
                ErrorKind::InUse,
                format!("it, or a snapshot of it, is mapped to {hosts}"),
            )
            .with_remedy("stop the guests that use it on those nodes, then detach it there"));
        }
        let request = Request::delete("/api/storage/volumes/{}", &[&key.flexvol]);
        let request = match mode {
            DeleteMode::Immediate if self.has(Feature::ForcedDelete) => request.query("force", true),
            DeleteMode::Immediate | DeleteMode::Recoverable => request,
        };
        let request = patiently(cx, request);
        let gone = || async { Ok(self.flexvol(cx, &key.flexvol).await?.is_none().then_some(())) };
        let outcome = self.api.settle::<serde_json::Value, _, _>(cx, &request, gone).await;
        key.lun.iter().for_each(|it| self.forget_lun_node(it));
        match outcome {
            Ok(_) => Ok(true),
            Err(error) if is_one_of(&error, code::NO_VOLUME) => {
                self.prove_svm(cx).await?;
                Ok(false)
            }
            Err(error) if is(&error, code::HAS_CLONES) => Err(self.name_clones(cx, &key, error).await),
            Err(error) => Err(error),
        }
    }

    /// Two requests: first the FlexVol holds it or may grow further, then the LUN is larger. A success status is proof of
    /// the size, except where the release rounds: there it is read back.
    pub(crate) async fn grow(&self, cx: &Cx, volume: &Volume, size: ByteSize) -> Result<ByteSize> {
        let key = Key::parse(&volume.id)?;
        let lun = key.lun()?;
        check_size(&self.profile.limits, size)?;
        if size < volume.size && !self.has(Feature::ExactSizes) && volume.size <= size.plus(ROUNDING) {
            // Rounded up when it was made or grown: it is as large as it was asked to be.
            return Ok(volume.size);
        }
        if size < volume.size {
            let message = format!("it has {} and cannot shrink to {size}", volume.size);
            return Err(Error::new(ErrorKind::InvalidInput, message));
        }
        self.make_roomier(cx, &key.flexvol, size).await?;
        let larger = Request::patch("/api/storage/luns/{}", &[lun])
            .json(&json!({ "space": { "size": size.bytes() } }))?;
        match self.api.insist(cx, larger).await {
            Err(error) if !is(&error, code::SAME_SIZE) => Err(error),
            _ if self.has(Feature::ExactSizes) => Ok(size),
            _ => self.grown_size(cx, lun, size).await,
        }
    }

    /// What became of a growth to `size`.
    async fn grown_size(&self, cx: &Cx, lun: &str, size: ByteSize) -> Result<ByteSize> {
        let request =
            Request::get("/api/storage/luns/{}", &[lun]).query("fields", "uuid,name,svm.uuid,space.size");
        let it: wire::Lun = self.api.get(cx, &request).await?;
        self.check_svm(&it.svm)?;
        let now = convert::size(&it)?;
        if it.uuid != lun || now < size || now > size.plus(ROUNDING) {
            return Err(inconsistent(format!("the LUN was grown to {size} and shows {now}")));
        }
        Ok(now)
    }
}

/// Which LUNs to list.
#[derive(Clone, Copy)]
enum Filter<'a> {
    Prefix(&'a str),
    Flexvols(&'a [String]),
}
