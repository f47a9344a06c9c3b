//! `admin.storage.restore`: how a storage that PVE has lost is added again.

use san_core::{Cx, Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::names::check_storage_id;
use crate::sections::{Place, Sections};

/// Which storage.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Restore {
    storage: String,
}

/// What to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Restoration {
    pub(crate) storage: String,
    /// The command by which PVE writes the section again: under its own lock, and with the hooks that make it ready.
    pub(crate) command: String,
}

/// The command, where the section is lost.
///
/// # Errors
/// `Conflict` where there is nothing to restore, or another storage has its name; `NotFound` where no copy is kept.
pub(crate) async fn restore(cx: &Cx, sections: &Sections, of: Restore) -> Result<Restoration> {
    let id = of.storage;
    check_storage_id(&id)?;
    let Some(section) = sections.copy(&id).await? else {
        return Err(Error::new(
            ErrorKind::NotFound,
            "no copy of its section is kept: it was never added, or was removed",
        )
        .on(&id)
        .with_remedy("add it with pvesm add"));
    };
    let refused = |message: String| Err(Error::new(ErrorKind::Conflict, message).on(&id));
    match sections.place(cx, &id).await? {
        Place::Missing => Ok(Restoration { command: section.command(&id), storage: id }),
        Place::There => refused("its section is in storage.cfg".to_owned()),
        Place::Taken(other) => refused(format!("a storage of type {other} has its name by now")),
    }
}
