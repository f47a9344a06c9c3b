//! Deleted volumes that arrays keep for a while.

use san_core::{Cx, Result};
use serde::{Deserialize, Serialize};

use super::{Problem, Ready, side_by_side};
use crate::storage::Storage;

/// The answer of `admin.deleted`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Deleted {
    pub(crate) volumes: Vec<DeletedLine>,
    /// Storages that could not be asked.
    pub(crate) problems: Vec<Problem>,
}

/// One deleted volume.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct DeletedLine {
    pub(crate) storage: String,
    /// `None` where its name on the array is a shortened one.
    pub(crate) name: Option<String>,
    /// What the array calls it now.
    pub(crate) queued: String,
}

/// What the arrays of these storages keep.
pub(crate) async fn list(cx: &Cx, ready: Ready) -> Result<Deleted> {
    let ask = |storage: std::sync::Arc<Storage>| async move {
        let kept = storage.san.deleted(cx).await?;
        let line = |(owner, deleted): (Option<san_core::Owner>, san_core::Deleted)| DeletedLine {
            storage: storage.san.space().to_owned(),
            name: owner.map(|it| it.object().to_owned()),
            queued: deleted.queued,
        };
        Ok(kept.into_iter().map(line).collect::<Vec<_>>())
    };
    let (lists, problems) = side_by_side(ready, ask).await?;
    Ok(Deleted { volumes: lists.into_iter().flatten().collect(), problems })
}
