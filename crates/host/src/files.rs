//! Reading files, directories and links: absence is proved or it is an error.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{FileType, Mode, OFlags};
use rustix::io::Errno;
use san_core::{Error, ErrorKind, Result};

use crate::errno::looking;
use crate::host::Attr;

/// The longest attribute. Text attributes end at one page; a vital product data page at 64 KiB.
const ATTRIBUTE_MAX: usize = 64 * 1024 + 4;
/// The most names taken from one directory.
const NAMES_MAX: usize = 100_000;

/// The folder that stands for `/`.
#[derive(Debug, Clone)]
pub(crate) struct Root(PathBuf);

impl Root {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self(root)
    }

    /// Where an absolute path without `..` really lies.
    pub(crate) fn at(&self, path: &Path) -> Result<PathBuf> {
        let mut parts = path.components();
        if parts.next() != Some(Component::RootDir) || parts.any(|it| !matches!(it, Component::Normal(_))) {
            return Err(Error::new(ErrorKind::InvalidInput, "not an absolute path").on(path.display()));
        }
        Ok(path.strip_prefix("/").map_or_else(|_| path.to_owned(), |below| self.0.join(below)))
    }

    /// Where an attribute below `/sys` lies.
    pub(crate) fn attribute(&self, path: &Path) -> Result<PathBuf> {
        if !path.starts_with("/sys") || path.components().count() < 3 {
            return Err(Error::new(ErrorKind::InvalidInput, "not below /sys").on(path.display()));
        }
        self.at(path)
    }
}

/// See [`crate::Host::attr`]. `device` is already below the root.
pub(crate) fn attr(device: &Path, attribute: &str) -> Result<Attr> {
    let relative = Path::new(attribute);
    let is_plain = relative.components().all(|it| matches!(it, Component::Normal(_)));
    if attribute.is_empty() || !is_plain {
        return Err(Error::new(ErrorKind::InvalidInput, format!("{attribute:?} is no attribute's name")));
    }
    let path = device.join(relative);
    let attr = decide(&path, || contents(&path, ATTRIBUTE_MAX), || is_present(device))?;
    Ok(match attr {
        Attr::Value(bytes) => Attr::Value(without_newline(attribute, bytes)),
        other => other,
    })
}

/// Which of the three answers it is. Absence is believed only of a whole directory; an error is never an absence.
fn decide(
    path: &Path,
    mut contents: impl FnMut() -> io::Result<Option<Vec<u8>>>,
    mut is_present: impl FnMut() -> Result<bool>,
) -> Result<Attr> {
    let mut looked_again = false;
    loop {
        let error = match contents() {
            Ok(Some(bytes)) => return Ok(Attr::Value(bytes)),
            Ok(None) => {
                let message = "the attribute is longer than 64 KiB";
                return Err(Error::new(ErrorKind::Protocol, message).on(path.display()));
            }
            Err(error) => error,
        };
        match Errno::from_io_error(&error) {
            Some(Errno::NOENT) => {
                return Ok(if is_present()? { Attr::Missing } else { Attr::DeviceGone });
            }
            // What device-mapper answers of a map that nobody can open any more (Linux, dm-sysfs.c).
            Some(Errno::INVAL) if path.parent().is_some_and(|it| it.ends_with("dm")) => {
                return Ok(Attr::DeviceGone);
            }
            // What a device answers while it is taken away. If it is still there, one more look decides.
            Some(Errno::NODEV | Errno::NXIO | Errno::IO) if !looked_again => {
                if !is_present()? {
                    return Ok(Attr::DeviceGone);
                }
                looked_again = true;
            }
            _ => return Err(looking("cannot read the attribute", path, error)),
        }
    }
}

/// `vpd_pg80`, `vpd_pg83`, ... and `inquiry` hold bytes of the device: what looks like a newline at their end is data.
fn without_newline(attribute: &str, mut bytes: Vec<u8>) -> Vec<u8> {
    let name = attribute.rsplit('/').next().unwrap_or(attribute);
    let is_binary = name.starts_with("vpd_pg") || name == "inquiry";
    if !is_binary && bytes.last() == Some(&b'\n') {
        bytes.pop();
    }
    bytes
}

fn is_present(directory: &Path) -> Result<bool> {
    match std::fs::metadata(directory) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(looking("cannot look at the device's directory", directory, error)),
    }
}

/// See [`crate::Host::list`].
pub(crate) fn list(directory: &Path) -> Result<Option<Vec<String>>> {
    let mut names = Vec::new();
    let entries = match std::fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(looking("cannot list the directory", directory, error)),
    };
    for entry in entries {
        let name = match entry {
            Ok(entry) => entry.file_name(),
            // The directory was removed while it was read.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(looking("cannot list the directory", directory, error)),
        };
        let Ok(name) = name.into_string() else {
            let message = "the directory holds a name that is not UTF-8";
            return Err(Error::new(ErrorKind::Unsupported, message).on(directory.display()));
        };
        if names.len() == NAMES_MAX {
            let message = format!("the directory holds more than {NAMES_MAX} names");
            return Err(Error::new(ErrorKind::LimitReached, message).on(directory.display()));
        }
        names.push(name);
    }
    names.sort_unstable();
    Ok(Some(names))
}

/// See [`crate::Host::read_link`].
pub(crate) fn read_link(path: &Path) -> Result<Option<PathBuf>> {
    match std::fs::read_link(path) {
        Ok(target) => Ok(Some(target)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::INVAL) => {
            Err(Error::new(ErrorKind::Conflict, "not a symbolic link").on(path.display()))
        }
        Err(error) => Err(looking("cannot read the link", path, error)),
    }
}

/// See [`crate::Host::read`].
pub(crate) fn read(path: &Path, max: usize) -> Result<Option<Vec<u8>>> {
    match contents(path, max) {
        Ok(Some(bytes)) => Ok(Some(bytes)),
        Ok(None) => {
            let message = format!("the file is longer than {max} bytes");
            Err(Error::new(ErrorKind::LimitReached, message).on(path.display()))
        }
        // ESRCH is how a file of a process in /proc says that the process has ended.
        Err(error) if matches!(Errno::from_io_error(&error), Some(Errno::NOENT | Errno::SRCH)) => Ok(None),
        Err(error) => Err(looking("cannot read the file", path, error)),
    }
}

/// A regular file's bytes; `None` where there are more than `max`. Never waits for the other end of a FIFO.
fn contents(path: &Path, max: usize) -> io::Result<Option<Vec<u8>>> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(path, flags, Mode::empty())?;
    match FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) {
        FileType::RegularFile => {}
        FileType::Directory => return Err(Errno::ISDIR.into()),
        _ => return Err(Errno::OPNOTSUPP.into()),
    }
    // One buffer that takes a whole page at once: a text attribute must not be read in pieces of two moments.
    let mut bytes = Vec::with_capacity(max.saturating_add(1).min(16 * 1024));
    let bound = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    File::from(file).take(bound).read_to_end(&mut bytes)?;
    Ok((bytes.len() <= max).then_some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_below_the_root() {
        let root = Root::new("/tmp/tree".into());
        assert_eq!(root.at(Path::new("/sys/block")).unwrap(), Path::new("/tmp/tree/sys/block"));
        assert_eq!(Root::new("/".into()).at(Path::new("/sys/block")).unwrap(), Path::new("/sys/block"));
        for bad in ["sys/block", "/sys/../etc/shadow", ""] {
            assert_eq!(root.at(Path::new(bad)).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
        for bad in ["/etc/passwd", "/sysfoo/x", "/sys", "/dev/sda", "/sys/../dev/sda"] {
            assert_eq!(root.attribute(Path::new(bad)).unwrap_err().kind(), ErrorKind::InvalidInput, "{bad}");
        }
        assert!(root.attribute(Path::new("/sys/class/scsi_host/host0/scan")).is_ok());
    }

    #[test]
    fn a_device_that_is_being_removed_is_looked_at_again() {
        let gone = || Err(Error::new(ErrorKind::PermissionDenied, "not to be seen"));
        let value = |it: &[u8]| Ok(Attr::Value(it.to_vec()));
        let (here, absent) = (|| Ok(true), || Ok(false));
        let run = |answers: &[Result<&'static str, Errno>], present: &dyn Fn() -> Result<bool>| {
            let mut answers = answers.iter();
            let read = || match answers.next().expect("no further look") {
                Ok(text) => Ok(Some(text.as_bytes().to_vec())),
                Err(errno) => Err((*errno).into()),
            };
            decide(Path::new("/sys/x/y"), read, present).map_err(|it| it.kind())
        };
        assert_eq!(run(&[Ok("a")], &gone), value(b"a"));
        assert_eq!(run(&[Err(Errno::NOENT)], &here), Ok(Attr::Missing));
        assert_eq!(run(&[Err(Errno::NOENT)], &absent), Ok(Attr::DeviceGone));
        for errno in [Errno::NODEV, Errno::NXIO, Errno::IO] {
            assert_eq!(run(&[Err(errno)], &absent), Ok(Attr::DeviceGone));
            assert_eq!(run(&[Err(errno), Ok("b")], &here), value(b"b"));
            assert_eq!(run(&[Err(errno), Err(Errno::NOENT)], &here), Ok(Attr::Missing));
            let twice = run(&[Err(errno), Err(errno)], &here);
            assert_eq!(twice, Err(crate::errno::kind(errno)), "still there, and still no answer");
        }
        assert_eq!(run(&[Err(Errno::INVAL)], &here), Err(ErrorKind::InvalidInput));
        let of_map = || Err(Errno::INVAL.into());
        let uuid = Path::new("/sys/block/dm-16/dm/uuid");
        assert_eq!(decide(uuid, of_map, here).map_err(|it| it.kind()), Ok(Attr::DeviceGone));
        assert_eq!(run(&[Err(Errno::NOENT)], &gone), Err(ErrorKind::PermissionDenied));
    }

    #[test]
    fn a_newline_is_cut_from_text_only() {
        assert_eq!(without_newline("state", b"running\n".to_vec()), b"running");
        assert_eq!(without_newline("model", b"LUN\n\n".to_vec()), b"LUN\n");
        assert_eq!(without_newline("device/vpd_pg83", b"\x00\x83\x00\x01\n".to_vec()), b"\x00\x83\x00\x01\n");
        assert_eq!(without_newline("inquiry", b"\n".to_vec()), b"\n");
    }
}
