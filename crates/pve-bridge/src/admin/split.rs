//! Whether a volume hangs on what it was cloned from.

use san_core::{Cx, Result};
use serde::{Deserialize, Serialize};

use crate::names::DiskName;
use crate::storage::Storage;

/// The answer of `admin.lineage`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lineage {
    pub(crate) state: State,
    /// How much is split, where the array says so.
    pub(crate) percent: Option<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    Independent,
    Clone,
    Splitting,
}

/// How it is now, as the array says.
pub(crate) async fn lineage(cx: &Cx, storage: &Storage, name: &str) -> Result<Lineage> {
    let object = DiskName::parse(name)?.object;
    Ok(match storage.san.lineage(cx, &object).await? {
        san_core::Lineage::Independent => Lineage { state: State::Independent, percent: None },
        san_core::Lineage::Clone => Lineage { state: State::Clone, percent: None },
        san_core::Lineage::Splitting(percent) => Lineage { state: State::Splitting, percent },
    })
}
