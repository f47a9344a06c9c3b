//! Making and removing symbolic links and small files: replaced in one step, and never anything of another kind.

use std::fs::{DirBuilder, FileType, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use san_core::{EffectState, Error, ErrorKind, Result};
use secrecy::{ExposeSecret, SecretString};

use crate::errno::{changing, looking};

/// See [`crate::Host::make_link`]. `turn` keeps two makers off one temporary name.
pub(crate) fn make(link: &Path, target: &Path, turn: &Mutex<()>) -> Result<()> {
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    make_folder(folder_of(link)?)?;
    if is_there(link, Kind::Link)? && std::fs::read_link(link).is_ok_and(|it| it == target) {
        return Ok(());
    }
    replace(link, |temporary| std::os::unix::fs::symlink(target, temporary))
}

/// See [`crate::Host::put_file`]. `turn` keeps two makers off one temporary name.
pub(crate) fn put_file(path: &Path, text: &str, turn: &Mutex<()>) -> Result<()> {
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    make_folder(folder_of(path)?)?;
    is_there(path, Kind::LinkOrFile)?;
    replace(path, |temporary| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(temporary)?;
        file.set_permissions(Permissions::from_mode(0o644))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    })
}

/// See [`crate::Host::put_secret`]. `turn` keeps two makers off one temporary name.
pub(crate) fn put_secret(path: &Path, staged: &Path, secret: &SecretString, turn: &Mutex<()>) -> Result<()> {
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    is_there(path, Kind::LinkOrFile)?;
    replace_by(path, staged, |staged| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(staged)?;
        file.set_permissions(Permissions::from_mode(0o600))?;
        file.write_all(secret.expose_secret().as_bytes())?;
        file.sync_all()
    })
}

/// See [`crate::Host::link_file`].
pub(crate) fn link_file(file: &Path, name: &Path) -> Result<bool> {
    match std::fs::hard_link(file, name) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(changing("cannot give the file a second name", name, error)),
    }
}

/// See [`crate::Host::remove_link`].
pub(crate) fn remove(link: &Path) -> Result<bool> {
    remove_a(link, Kind::Link)
}

/// See [`crate::Host::remove_file`].
pub(crate) fn remove_file(path: &Path) -> Result<bool> {
    remove_a(path, Kind::LinkOrFile)
}

fn folder_of(path: &Path) -> Result<&Path> {
    let folder = path.parent().filter(|_| path.file_name().is_some());
    folder.ok_or_else(|| Error::new(ErrorKind::InvalidInput, "not the path of a file").on(path.display()))
}

/// Puts what `make` makes under a temporary name in the place of what is there.
fn replace(path: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    let folder = folder_of(path)?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(path.file_name().unwrap_or_default());
    temporary.push(".new");
    replace_by(path, &folder.join(temporary), make)
}

/// The same under a temporary name of the caller's choice.
fn replace_by(path: &Path, temporary: &Path, make: impl FnOnce(&Path) -> io::Result<()>) -> Result<()> {
    let folder = folder_of(path)?;
    // One that a crash left behind.
    remove_a(temporary, Kind::LinkOrFile)?;
    make(temporary).map_err(|error| changing("cannot make the file", path, error))?;
    let failed = |error| changing("cannot put the file in place", path, error);
    std::fs::rename(temporary, path).map_err(failed)?;
    // On a disk it has to outlive a power failure.
    std::fs::File::open(folder).and_then(|it| it.sync_all()).map_err(failed)
}

fn remove_a(path: &Path, kind: Kind) -> Result<bool> {
    if !is_there(path, kind)? {
        return Ok(false);
    }
    match std::fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(changing("cannot remove the file", path, error)),
    }
}

/// What may be replaced or removed.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Link,
    LinkOrFile,
}

impl Kind {
    fn admits(self, found: FileType) -> bool {
        match self {
            Self::Link => found.is_symlink(),
            Self::LinkOrFile => found.is_symlink() || found.is_file(),
        }
    }

    fn other(self) -> &'static str {
        match self {
            Self::Link => "something that is not a symbolic link is in the way",
            Self::LinkOrFile => "something that is neither a file nor a link is in the way",
        }
    }
}

/// Whether one of this kind is there; an error where something else is.
fn is_there(path: &Path, kind: Kind) -> Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(it) if kind.admits(it.file_type()) => Ok(true),
        Ok(_) => Err(Error::new(ErrorKind::Conflict, kind.other())
            .on(path.display())
            .with_remedy("look at it, and move it away if nobody needs it")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(looking("cannot look at it", path, error)),
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
