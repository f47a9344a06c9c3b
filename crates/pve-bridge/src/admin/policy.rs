//! Volumes that were made before their storage's options were changed: what differs, and setting it.

use std::sync::Arc;

use futures_util::stream::{self, StreamExt, TryStreamExt};
use san_core::{Cx, Deviation, Error, ErrorKind, Result};
use san_engine::{Disk, San};
use serde::{Deserialize, Serialize};

use super::{Problem, Ready, side_by_side};
use crate::names::DiskName;
use crate::storage::Storage;

/// How many volumes of an array are looked at side by side.
const AT_ONCE: usize = 4;

/// The answer of `admin.policy`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Review {
    /// How many volumes were looked at.
    pub(crate) reviewed: usize,
    pub(crate) deviations: Vec<DeviationLine>,
    /// Storages that could not be looked at.
    pub(crate) problems: Vec<Problem>,
}

/// One setting of one volume that is not as its storage says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DeviationLine {
    pub(crate) storage: String,
    pub(crate) name: String,
    /// The option without what all options begin with.
    pub(crate) option: String,
    /// The array's word for it.
    pub(crate) field: String,
    pub(crate) is: String,
    pub(crate) wanted: String,
}

/// What differs in one volume, or in all of these storages.
pub(crate) async fn review(cx: &Cx, ready: Ready, name: Option<&str>) -> Result<Review> {
    let name = name.map(DiskName::parse).transpose()?;
    let only = name.as_ref().map(|it| it.object.as_str());
    let ask = |storage: Arc<Storage>| async move { of_storage(cx, &storage, only).await };
    let (found, problems) = side_by_side(ready, ask).await?;
    let reviewed = found.iter().map(|(count, _)| count).sum();
    if let Some(name) = name.filter(|_| reviewed == 0 && problems.is_empty()) {
        return Err(Error::new(ErrorKind::NotFound, "there is no such volume").on(name.object));
    }
    Ok(Review { reviewed, deviations: found.into_iter().flat_map(|(_, lines)| lines).collect(), problems })
}

async fn of_storage(cx: &Cx, storage: &Storage, only: Option<&str>) -> Result<(usize, Vec<DeviationLine>)> {
    let san = &storage.san;
    let mut disks = san.disks(cx).await?;
    disks.retain(|it| only.is_none_or(|only| it.owner.object() == only));
    disks.sort_by(|one, two| one.owner.object().cmp(two.owner.object()));
    let count = disks.len();
    let looks = disks.into_iter().map(|disk| of_disk(cx, san, disk));
    let lines: Vec<Vec<DeviationLine>> = stream::iter(looks).buffered(AT_ONCE).try_collect().await?;
    Ok((count, lines.concat()))
}

async fn of_disk(cx: &Cx, san: &San, disk: Disk) -> Result<Vec<DeviationLine>> {
    let found = match san.review(cx, disk.owner.object()).await {
        // It was deleted since it was listed.
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        other => other?,
    };
    let name = DiskName::full(disk.template.as_deref(), disk.owner.object());
    let line = |it: Deviation| DeviationLine {
        storage: san.space().to_owned(),
        name: name.clone(),
        option: it.setting,
        field: it.field,
        is: it.is,
        wanted: it.wanted,
    };
    Ok(found.into_iter().map(line).collect())
}
