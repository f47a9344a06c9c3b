//! The role [`Splits`]: FlexClones made independent of their parents.
//!
//! Unless the array is an AFF, splitting deletes the snapshots of the clone, and on no array new ones can be taken meanwhile
//! (vendor's documentation of `volume clone split`): a clone that has any is refused.

use async_trait::async_trait;
use san_core::{Cx, EffectState, Error, ErrorKind, Lineage, Result, Splits, Volume};
use san_rest::{Replay, Request};
use serde::Deserialize;
use serde_json::json;

use crate::array::Ontap;
use crate::convert::{Key, inconsistent};
use crate::error::code;
use crate::wire::Reference;

const PATH: &str = "/api/storage/volumes/{}";

/// What is read of a FlexVol for this.
#[derive(Debug, Deserialize)]
struct Family {
    uuid: String,
    #[serde(default)]
    svm: Reference,
    #[serde(default)]
    clone: Clone,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Clone {
    is_flexclone: Option<bool>,
    parent_snapshot: Reference,
    split_initiated: Option<bool>,
    split_complete_percent: Option<u8>,
}

impl Clone {
    fn lineage(&self) -> Result<Lineage> {
        match (self.is_flexclone, self.split_initiated) {
            (Some(false), _) => Ok(Lineage::Independent),
            (Some(true), Some(true)) => Ok(Lineage::Splitting(self.split_complete_percent)),
            (Some(true), _) => Ok(Lineage::Clone),
            (None, _) => Err(inconsistent("the array does not say whether the volume is a clone")),
        }
    }
}

#[async_trait]
impl Splits for Ontap {
    async fn lineage(&self, cx: &Cx, volume: &Volume) -> Result<Lineage> {
        let look = async { self.proved_family(cx, &Key::parse(&volume.id)?).await?.clone.lineage() };
        look.await.map_err(|error: Error| {
            Error::wrap(error, "cannot see whether the volume is a clone").on(&volume.name)
        })
    }

    async fn ensure_splitting(&self, cx: &Cx, volume: &Volume) -> Result<Lineage> {
        let begun = async { self.begin_split(cx, &Key::parse(&volume.id)?).await };
        begun.await.map_err(|error: Error| Error::wrap(error, "cannot split the clone").on(&volume.name))
    }
}

impl Ontap {
    async fn proved_family(&self, cx: &Cx, key: &Key) -> Result<Family> {
        self.prove(cx).await.map_err(|error| error.with_effect(EffectState::None))?;
        let request = Request::get(PATH, &[&key.flexvol]).query("fields", "uuid,svm.uuid,clone");
        let found: Option<Family> = self.api.find(cx, &request, code::NO_VOLUME).await?;
        let Some(found) = found else {
            self.prove_svm(cx).await?;
            return Err(Error::new(ErrorKind::NotFound, "the array has no such volume"));
        };
        self.check_svm(&found.svm)?;
        if found.uuid == key.flexvol {
            Ok(found)
        } else {
            Err(inconsistent("the array answered about another volume"))
        }
    }

    async fn begin_split(&self, cx: &Cx, key: &Key) -> Result<Lineage> {
        let family = self.proved_family(cx, key).await?;
        let now = family.clone.lineage()?;
        if now != Lineage::Clone {
            return Ok(now);
        }
        self.require_no_snapshots(cx, key, &family.clone.parent_snapshot).await?;
        // Its job lasts as long as the splitting: nobody waits for it. Twice is once, so a lost answer needs no question.
        let request = Request::patch(PATH, &[&key.flexvol])
            .query("return_timeout", 0)
            .json(&json!({ "clone": { "split_initiated": true } }))?
            .replay(Replay::Safe);
        let refused = self.api.begin(cx, &request).await.err();
        match (self.proved_family(cx, key).await?.clone.lineage()?, refused) {
            // Not even begun.
            (Lineage::Clone, Some(error)) => Err(error),
            // It was taken on, and the array has yet to show it.
            (Lineage::Clone, None) => Ok(Lineage::Splitting(None)),
            (now, _) => Ok(now),
        }
    }

    /// The snapshot it was cloned from may be shown among its own.
    async fn require_no_snapshots(&self, cx: &Cx, key: &Key, parent: &Reference) -> Result<()> {
        let request =
            Request::get("/api/storage/volumes/{}/snapshots", &[&key.flexvol]).query("fields", "name");
        let mut names: Vec<String> = self
            .api
            .list::<Reference>(cx, request)
            .await?
            .into_iter()
            .map(|it| it.name.unwrap_or_default())
            .filter(|it| Some(it) != parent.name.as_ref())
            .collect();
        if names.is_empty() {
            return Ok(());
        }
        names.truncate(10);
        let message =
            format!("it has snapshots that the array may delete when it splits it: {}", names.join(", "));
        Err(Error::new(ErrorKind::Conflict, message)
            .with_effect(EffectState::None)
            .with_remedy("delete its snapshots first if they are not needed"))
    }
}
