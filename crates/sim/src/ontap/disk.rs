//! The bytes of LUNs and snapshots: one sparse file each, which share their extents where the file system can. A LUN's
//! file keeps its inode for life, so that a loop device over it sees a roll back as the initiator of a real array would.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, SeekFrom, fallocate, ioctl_ficlone, seek};
use rustix::io::Errno;

const BUFFER: usize = 1 << 20;
const BLOCK: usize = 4096;

/// The data folder.
#[derive(Debug)]
pub(crate) struct Store {
    dir: PathBuf,
    next: u64,
}

/// What tells whether a file was written since it was last looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp {
    seconds: i64,
    nanos: i64,
    blocks: u64,
}

impl Store {
    /// Opens the folder. Files of an earlier simulation are not looked at and not removed.
    pub(crate) fn new(dir: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        Ok(Self { dir: dir.to_owned(), next: 0 })
    }

    /// A new file of `size` bytes, all holes.
    pub(crate) fn create(&mut self, size: u64) -> io::Result<PathBuf> {
        loop {
            self.next += 1;
            let path = self.dir.join(format!("unit-{:06}.img", self.next));
            match OpenOptions::new().write(true).create_new(true).open(&path) {
                Ok(file) => {
                    file.set_len(size)?;
                    return Ok(path);
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// A new file with the bytes of `from`, holes kept.
    pub(crate) fn copy(&mut self, from: &Path) -> io::Result<PathBuf> {
        let source = File::open(from)?;
        let size = source.metadata()?.len();
        let path = self.create(size)?;
        let target = OpenOptions::new().write(true).open(&path)?;
        if share(&source, &target)? {
            return Ok(path);
        }
        for (start, end) in extents(&source, size)? {
            copy_range(&source, &target, start, end)?;
        }
        Ok(path)
    }
}

/// Makes `to` equal to `from` (or empty when there is none) and `size` bytes long, without replacing the file.
pub(crate) fn overwrite(from: Option<&Path>, to: &Path, size: u64) -> io::Result<()> {
    let target = OpenOptions::new().read(true).write(true).open(to)?;
    let source = from.map(File::open).transpose()?;
    if let Some(source) = &source
        && share(source, &target)?
    {
        // What is beyond the source's end would show again if the file grew: it goes first.
        let length = source.metadata()?.len();
        if length < size {
            target.set_len(length)?;
        }
        return target.set_len(size);
    }
    let length = source.as_ref().map_or(Ok(0), |file| file.metadata().map(|meta| meta.len().min(size)))?;
    if target.metadata()?.len() != size {
        target.set_len(size)?;
    }
    let extents = source.as_ref().map_or(Ok(Vec::new()), |file| extents(file, length))?;
    let mut at = 0;
    for (start, end) in extents {
        clear(&target, at, start)?;
        if let Some(source) = &source {
            clear(&target, start, end)?;
            copy_range(source, &target, start, end)?;
        }
        at = end;
    }
    clear(&target, at, size)
}

/// Lets the beginning of `target` share the extents of the whole of `source`; whether the file system did. A longer
/// target keeps its end.
fn share(source: &File, target: &File) -> io::Result<bool> {
    match ioctl_ficlone(target, source) {
        Ok(()) => Ok(true),
        // Another file system, one that cannot, or an end in the middle of a block.
        Err(Errno::OPNOTSUPP | Errno::XDEV | Errno::INVAL | Errno::NOTTY | Errno::NOSYS) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Changes the length of a file.
pub(crate) fn resize(path: &Path, size: u64) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.set_len(size)
}

/// Removes a file; one that is gone already is no error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Bytes on disk, and a stamp that changes with writes.
pub(crate) fn stat(path: &Path) -> io::Result<(u64, Stamp)> {
    let meta = std::fs::metadata(path)?;
    let stamp = Stamp { seconds: meta.mtime(), nanos: meta.mtime_nsec(), blocks: meta.blocks() };
    Ok((meta.blocks() * 512, stamp))
}

/// The parts of a file that are not holes.
fn extents(file: &File, size: u64) -> io::Result<Vec<(u64, u64)>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < size {
        let start = match seek(file, SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = seek(file, SeekFrom::Hole(start))?.min(size);
        if start < end {
            found.push((start, end));
        }
        at = end.max(start + 1);
    }
    Ok(found)
}

fn copy_range(source: &File, target: &File, start: u64, end: u64) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
        let got = source.read_at(&mut buffer[..want], at)?;
        if got == 0 {
            break;
        }
        for (index, block) in buffer[..got].chunks(BLOCK).enumerate() {
            if block.iter().any(|byte| *byte != 0) {
                target.write_all_at(block, at + (index * BLOCK) as u64)?;
            }
        }
        at += got as u64;
    }
    Ok(())
}

/// Zeroes a range: by a hole where the file system can, else by writing.
fn clear(file: &File, start: u64, end: u64) -> io::Result<()> {
    if start >= end {
        return Ok(());
    }
    let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
    match fallocate(file, flags, start, end - start) {
        Ok(()) => Ok(()),
        Err(Errno::OPNOTSUPP) => write_zeroes(file, start, end),
        Err(error) => Err(error.into()),
    }
}

fn write_zeroes(file: &File, start: u64, end: u64) -> io::Result<()> {
    let zeroes = vec![0; BUFFER];
    let mut at = start;
    while at < end {
        let count = usize::try_from(end - at).unwrap_or(BUFFER).min(BUFFER);
        file.write_all_at(&zeroes[..count], at)?;
        at += count as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(path: &Path, at: u64, bytes: &[u8]) {
        OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, at).unwrap();
    }

    fn inode(path: &Path) -> u64 {
        std::fs::metadata(path).unwrap().ino()
    }

    #[test]
    fn copies_are_equal_and_sparse() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::new(dir.path()).unwrap();
        let lun = store.create(64 << 20).unwrap();
        write(&lun, 5000, b"first");
        write(&lun, 40 << 20, b"second");
        let copy = store.copy(&lun).unwrap();
        assert!(std::fs::read(&lun).unwrap() == std::fs::read(&copy).unwrap());
        assert!(stat(&copy).unwrap().0 < 1 << 20);
    }

    #[test]
    fn overwriting_keeps_the_inode_and_drops_old_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::new(dir.path()).unwrap();
        let lun = store.create(8 << 20).unwrap();
        write(&lun, 0, b"old");
        let image = store.copy(&lun).unwrap();
        write(&lun, 0, b"new");
        write(&lun, 6 << 20, b"later");
        resize(&lun, 16 << 20).unwrap();
        let before = inode(&lun);
        overwrite(Some(&image), &lun, 8 << 20).unwrap();
        assert_eq!(inode(&lun), before);
        assert!(std::fs::read(&lun).unwrap() == std::fs::read(&image).unwrap());
        overwrite(None, &lun, 4 << 20).unwrap();
        assert!(std::fs::read(&lun).unwrap().iter().all(|byte| *byte == 0));
        assert_eq!(std::fs::metadata(&lun).unwrap().len(), 4 << 20);
    }
}
