//! Making and removing symbolic links: replaced in one step, and never anything but a link.

use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use san_core::{EffectState, Error, ErrorKind, Result};

use crate::errno::{changing, looking};

/// See [`crate::Host::make_link`]. `turn` keeps two makers off one temporary name.
pub(crate) fn make(link: &Path, target: &Path, turn: &Mutex<()>) -> Result<()> {
    let (Some(folder), Some(name)) = (link.parent(), link.file_name()) else {
        return Err(Error::new(ErrorKind::InvalidInput, "not a link's path").on(link.display()));
    };
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    make_folder(folder)?;
    if is_link(link)? && std::fs::read_link(link).is_ok_and(|it| it == target) {
        return Ok(());
    }
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(".new");
    let temporary = folder.join(temporary);
    // One that a crash left behind.
    remove(&temporary)?;
    std::os::unix::fs::symlink(target, &temporary)
        .map_err(|error| changing("cannot make the link", link, error))?;
    let failed = |error| changing("cannot put the link in place", link, error);
    std::fs::rename(&temporary, link).map_err(failed)?;
    // On a disk it has to outlive a power failure.
    std::fs::File::open(folder).and_then(|it| it.sync_all()).map_err(failed)
}

/// See [`crate::Host::remove_link`].
pub(crate) fn remove(link: &Path) -> Result<bool> {
    if !is_link(link)? {
        return Ok(false);
    }
    match std::fs::remove_file(link) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(changing("cannot remove the link", link, error)),
    }
}

/// Whether a link is there; an error where something else is.
fn is_link(path: &Path) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(it) if it.is_symlink() => Ok(true),
        Ok(_) => Err(Error::new(ErrorKind::Conflict, "something that is not a symbolic link is in the way")
            .on(path.display())
            .with_remedy("look at it, and move it away if nobody needs it")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(looking("cannot look at the link", path, error)),
    }
}

/// Makes the missing folders, readable by all whatever the umask says.
fn make_folder(folder: &Path) -> Result<()> {
    let failed = |error| changing("cannot make the folder", folder, error).with_effect(EffectState::None);
    if folder.try_exists().map_err(failed)? {
        return Ok(());
    }
    if let Some(parent) = folder.parent() {
        make_folder(parent)?;
    }
    match DirBuilder::new().mode(0o755).create(folder) {
        Ok(()) => std::fs::set_permissions(folder, Permissions::from_mode(0o755)).map_err(failed),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(failed(error)),
    }
}
