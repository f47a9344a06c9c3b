//! The role [`RecoveryQueue`]: FlexVols that were deleted and are not purged yet.
//!
//! The API has no resource for them, only the pass-through of the command line; by the vendor's documentation of `volume
//! recovery-queue recover` a volume comes back offline, under its name in the queue (`<name>_<digits>`), without its mappings
//! and its snapshot policy. That the comment, and so the mark, comes back with it is looked at, not believed.

use async_trait::async_trait;
use san_core::{
    Cx, Deleted, EffectState, Error, ErrorKind, Marked, Owner, RecoveryQueue, Result, VolumeName, VolumeQuery,
};
use san_rest::Request;
use serde::Deserialize;
use serde_json::json;

use crate::array::Ontap;
use crate::client::patiently;
use crate::convert::{self, inconsistent};
use crate::error::{code, is};
use crate::wire;

const QUEUE: &str = "/api/private/cli/volume/recovery-queue";
const RECOVER: &str = "/api/private/cli/volume/recovery-queue/recover";

#[derive(Debug, Deserialize)]
struct Queued {
    vserver: String,
    volume: String,
}

#[async_trait]
impl RecoveryQueue for Ontap {
    async fn deleted(&self, cx: &Cx, of: &VolumeQuery) -> Result<Vec<Deleted>> {
        self.read_queue(cx, &of.prefix)
            .await
            .map_err(|error| Error::wrap(error, "cannot read the recovery queue of").on(&self.config.svm))
    }

    async fn ensure_recovered(&self, cx: &Cx, deleted: &Deleted, owner: &Owner) -> Result<()> {
        self.recover(cx, deleted, owner)
            .await
            .map_err(|error| Error::wrap(error, "cannot bring the volume back").on(&deleted.queued))
    }
}

/// The name that a volume had before it was deleted.
fn former(queued: &str) -> Option<VolumeName> {
    let (name, digits) = queued.rsplit_once('_')?;
    let is_number = !digits.is_empty() && digits.bytes().all(|it| it.is_ascii_digit());
    if is_number { name.parse().ok() } else { None }
}

/// Whose it says that it is.
fn is_of(volume: &wire::Volume, owner: &Owner) -> bool {
    matches!(convert::mark(volume), Marked::Ours(mark) if mark.owner == *owner)
}

/// Only root of the cluster may use the pass-through unless a role says otherwise.
fn allowed(error: Error) -> Error {
    if error.kind() == ErrorKind::PermissionDenied {
        return error.with_remedy(
            "let the account's role use /api/private/cli/volume/recovery-queue, or bring it back by hand: \
             volume recovery-queue recover, volume rename, volume online",
        );
    }
    error
}

impl Ontap {
    async fn read_queue(&self, cx: &Cx, prefix: &str) -> Result<Vec<Deleted>> {
        self.prove(cx).await.map_err(|error| error.with_effect(EffectState::None))?;
        let request =
            Request::get(QUEUE, &[]).query("vserver", &self.config.svm).query("fields", "vserver,volume");
        let all: Vec<Queued> = self.api.list(cx, request).await.map_err(allowed)?;
        let mut found = Vec::new();
        for Queued { vserver, volume } in all {
            if vserver != self.config.svm {
                return Err(inconsistent("the array answered about another SVM"));
            }
            if let Some(name) = former(&volume).filter(|it| it.as_str().starts_with(prefix)) {
                found.push(Deleted { name, queued: volume });
            }
        }
        Ok(found)
    }

    async fn recover(&self, cx: &Cx, deleted: &Deleted, owner: &Owner) -> Result<()> {
        let in_queue = self.read_queue(cx, deleted.name.as_str()).await?.contains(deleted);
        let named = self.flexvol_named(cx, &deleted.name).await?;
        let queued: VolumeName = deleted.queued.parse()?;
        match (in_queue, named) {
            (true, Some(_)) => {
                Err(Error::new(ErrorKind::AlreadyExists, "its name is taken by another volume")
                    .on(&deleted.name)
                    .with_remedy("rename or delete the volume that has the name now"))
            }
            (true, None) => {
                self.take_from_queue(cx, &queued).await?;
                let back = crate::create::once_shown(cx, || self.flexvol_named(cx, &queued)).await;
                let whole = async { self.give_back(cx, &back?, deleted, owner).await };
                // It has left the queue, and nobody finds it there any more.
                whole.await.map_err(|error| error.with_effect(EffectState::Unknown))
            }
            // An earlier attempt may have done it all, or the first half.
            (false, named) => match (self.flexvol_named(cx, &queued).await?, named) {
                (Some(it), _) => self.give_back(cx, &it, deleted, owner).await,
                (None, Some(it)) if is_of(&it, owner) => Ok(()),
                (None, _) => Err(Error::new(ErrorKind::NotFound, "it is in the recovery queue no longer")),
            },
        }
    }

    async fn take_from_queue(&self, cx: &Cx, queued: &VolumeName) -> Result<()> {
        let request =
            Request::post(RECOVER, &[]).json(&json!({ "vserver": self.config.svm, "volume": queued }))?;
        let back = || self.flexvol_named(cx, queued);
        self.api.settle::<serde_json::Value, _, _>(cx, &request, back).await.map(drop).map_err(allowed)
    }

    /// Its name and its state, together.
    async fn give_back(
        &self,
        cx: &Cx,
        volume: &wire::Volume,
        deleted: &Deleted,
        owner: &Owner,
    ) -> Result<()> {
        if !is_of(volume, owner) {
            return Err(Error::new(ErrorKind::Conflict, format!("its mark does not say that it is {owner}"))
                .on(&deleted.queued)
                .with_remedy("it is left alone, offline: look at the volume's comment on the array"));
        }
        let request = Request::patch("/api/storage/volumes/{}", &[&volume.uuid])
            .json(&json!({ "name": deleted.name, "state": "online" }))?;
        let done = || async {
            let now = self.flexvol(cx, &volume.uuid).await?;
            let is_back =
                |it: &wire::Volume| it.name == deleted.name.as_str() && it.state.as_deref() == Some("online");
            Ok(now.is_some_and(|it| is_back(&it)).then_some(()))
        };
        match self.api.settle::<serde_json::Value, _, _>(cx, &patiently(cx, request), done).await {
            Ok(_) => Ok(()),
            Err(error) if is(&error, code::VOLUME_EXISTS) => {
                Err(Error::wrap(error, "its name is taken by another volume").on(&deleted.name).with_remedy(
                    format!(
                        "it is back as {}, offline; rename or delete the other one and try again",
                        deleted.queued
                    ),
                ))
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_former_name_is_what_stands_before_the_number() {
        assert_eq!(
            former("sb__lab__san1__vm_100_disk_0_1234").unwrap().as_str(),
            "sb__lab__san1__vm_100_disk_0"
        );
        for odd in ["", "x", "x_", "sb__a_b1", "_12"] {
            assert_eq!(former(odd), None, "{odd}");
        }
    }
}
