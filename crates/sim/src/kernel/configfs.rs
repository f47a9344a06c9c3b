//! Plain file operations on configfs, with errors that name the path.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

fn at(path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Writes an attribute.
pub(super) fn write(path: impl AsRef<Path>, value: &str) -> io::Result<()> {
    fs::write(&path, value).map_err(at(path.as_ref()))
}

/// Reads an attribute.
pub(super) fn read(path: impl AsRef<Path>) -> io::Result<String> {
    Ok(fs::read_to_string(&path).map_err(at(path.as_ref()))?.trim_end().to_owned())
}

/// Makes an object; one that is there already is fine.
pub(super) fn make(path: impl AsRef<Path>) -> io::Result<()> {
    match fs::create_dir(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(path.as_ref())(error)),
        _ => Ok(()),
    }
}

/// Removes an object; one that is gone already is fine.
pub(super) fn remove(path: impl AsRef<Path>) -> io::Result<()> {
    gone(path.as_ref(), fs::remove_dir(&path))
}

/// Links an object into another.
pub(super) fn link(to: impl AsRef<Path>, link: impl AsRef<Path>) -> io::Result<()> {
    match symlink(&to, &link) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(at(link.as_ref())(error)),
        _ => Ok(()),
    }
}

/// Takes a link away; one that is gone already is fine.
pub(super) fn unlink(path: impl AsRef<Path>) -> io::Result<()> {
    gone(path.as_ref(), fs::remove_file(&path))
}

fn gone(path: &Path, result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}

/// The objects (folders) in a folder; none where it is missing.
pub(super) fn objects(path: impl AsRef<Path>) -> io::Result<Vec<PathBuf>> {
    list(path.as_ref(), fs::FileType::is_dir)
}

/// The links in a folder; none where it is missing.
pub(super) fn links(path: impl AsRef<Path>) -> io::Result<Vec<PathBuf>> {
    list(path.as_ref(), fs::FileType::is_symlink)
}

fn list(path: &Path, wanted: fn(&fs::FileType) -> bool) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(at(path))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(at(path))?;
        if wanted(&entry.file_type().map_err(at(path))?) {
            found.push(entry.path());
        }
    }
    found.sort();
    Ok(found)
}
