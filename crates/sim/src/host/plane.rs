//! The block plane: real block devices behind a node's maps, so that real programs can use them.
//!
//! [`LoopPlane`] puts a loop device over a volume's file for as long as a node has a map of it, and mirrors the node's
//! links below `/dev/sanbridge` into a folder, which a container can bind-mount as `/dev/sanbridge`. It needs root. What
//! the loop device does goes to the file directly: lost paths, queueing and re-used LUN numbers do not show there.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Mutex, PoisonError};

use super::machine::Machine;

/// The folder of the links that are mirrored.
const LINKS: &str = "/dev/sanbridge/";

/// Something that gives a node's maps real devices.
pub trait BlockPlane: fmt::Debug + Send + Sync {
    /// A node has a map of the volume in `file`.
    fn appeared(&self, node: &str, map: &str, file: &Path);

    /// A node's map has grown.
    fn grown(&self, node: &str, map: &str);

    /// A node wrote out and dropped what it had cached of a map.
    fn flushed(&self, node: &str, map: &str);

    /// A node's map is gone.
    fn removed(&self, node: &str, map: &str);

    /// A node has a link `name` (relative to `/dev/sanbridge`) to a map.
    fn linked(&self, node: &str, name: &str, map: &str);

    /// A link is gone.
    fn unlinked(&self, node: &str, name: &str);

    /// A node lost everything.
    fn cleared(&self, node: &str);

    /// How many real users a map's device has.
    fn openers(&self, node: &str, map: &str) -> u32;
}

/// Loop devices. Dropping it takes away those it made; a process that is killed leaves them (`losetup --detach`).
#[derive(Debug)]
pub struct LoopPlane {
    folder: PathBuf,
    losetup: PathBuf,
    blockdev: PathBuf,
    loops: Mutex<BTreeMap<(String, String), Loop>>,
}

/// One loop device.
#[derive(Debug)]
struct Loop {
    device: PathBuf,
    /// Keeps the device while its map is there: users may free whatever loop device they find below a file system
    /// (`umount --detach-loop`), which then happens at the last close only.
    held: File,
}

/// The flag that makes opening a block device fail while somebody has claimed it (mount, LVM, md, swap).
const O_EXCL: i32 = 0o200;

impl LoopPlane {
    /// Loop devices, with links in `folder`: `NODE/STORAGE/VOLUME`.
    ///
    /// # Errors
    /// Where `losetup` or `blockdev` is missing or the folder cannot be made.
    pub fn new(folder: impl Into<PathBuf>) -> io::Result<Self> {
        let folder = folder.into();
        fs::create_dir_all(&folder)?;
        let loops = Mutex::new(BTreeMap::new());
        let (losetup, blockdev) = (find("losetup", "mount")?, find("blockdev", "util-linux")?);
        Ok(Self { folder, losetup, blockdev, loops })
    }

    /// The loop device of a node's map.
    pub fn device(&self, node: &str, map: &str) -> Option<PathBuf> {
        let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.get(&(node.to_owned(), map.to_owned())).map(|it| it.device.clone())
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the simulator is not the product; nothing else of it starts programs"
    )]
    fn run(program: &Path, arguments: &[&OsStr]) -> io::Result<Output> {
        let output = std::process::Command::new(program).env_clear().args(arguments).output()?;
        if output.status.success() {
            Ok(output)
        } else {
            let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            Err(io::Error::other(text))
        }
    }

    fn attach(&self, file: &Path) -> io::Result<Loop> {
        let output = Self::run(&self.losetup, &["--find".as_ref(), "--show".as_ref(), file.as_os_str()])?;
        let device = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
        let held = File::open(&device)?;
        Ok(Loop { device, held })
    }

    fn link_path(&self, node: &str, name: &str) -> PathBuf {
        self.folder.join(node).join(name)
    }

    fn make_link(&self, node: &str, name: &str, device: &Path) -> io::Result<()> {
        let link = self.link_path(node, name);
        if let Some(folder) = link.parent() {
            fs::create_dir_all(folder)?;
        }
        match fs::remove_file(&link) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        symlink(device, &link)
    }
}

impl Drop for LoopPlane {
    fn drop(&mut self) {
        let loops = self.loops.get_mut().unwrap_or_else(PoisonError::into_inner);
        let nodes: BTreeSet<String> = loops.keys().map(|(node, _)| node.clone()).collect();
        for node in nodes {
            self.cleared(&node);
        }
    }
}

/// A program by absolute path.
fn find(name: &str, package: &str) -> io::Result<PathBuf> {
    let places = ["/usr/sbin", "/sbin"].map(|it| Path::new(it).join(name));
    let found = places.into_iter().find(|it| it.try_exists().unwrap_or(false));
    found.ok_or_else(|| io::Error::other(format!("{name} is missing: apt install {package}")))
}

/// Removes the folders of links in a node's folder.
fn empty(folder: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        fs::remove_dir_all(entry?.path())?;
    }
    Ok(())
}

fn report(doing: &str, result: io::Result<()>) {
    if let Err(error) = result {
        tracing::warn!(%error, "block plane: {doing}");
    }
}

impl BlockPlane for LoopPlane {
    fn appeared(&self, node: &str, map: &str, file: &Path) {
        let made = match self.attach(file) {
            Ok(made) => made,
            Err(error) => return report("losetup", Err(error)),
        };
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.insert((node.to_owned(), map.to_owned()), made);
    }

    fn grown(&self, node: &str, map: &str) {
        if let Some(device) = self.device(node, map) {
            report("losetup -c", Self::run(&self.losetup, &["-c".as_ref(), device.as_os_str()]).map(drop));
        }
    }

    fn flushed(&self, node: &str, map: &str) {
        if let Some(device) = self.device(node, map) {
            let flush = Self::run(&self.blockdev, &["--flushbufs".as_ref(), device.as_os_str()]);
            report("blockdev --flushbufs", flush.map(drop));
        }
    }

    fn removed(&self, node: &str, map: &str) {
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = loops.remove(&(node.to_owned(), map.to_owned()));
        drop(loops);
        if let Some(Loop { device, held }) = gone {
            report("losetup -d", Self::run(&self.losetup, &["-d".as_ref(), device.as_os_str()]).map(drop));
            // The last close: only now does the kernel let go of the file.
            drop(held);
        }
    }

    fn linked(&self, node: &str, name: &str, map: &str) {
        if let Some(device) = self.device(node, map) {
            report("link", self.make_link(node, name, &device));
        }
    }

    fn unlinked(&self, node: &str, name: &str) {
        report("unlink", fs::remove_file(self.link_path(node, name)));
    }

    fn cleared(&self, node: &str) {
        let loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        let maps: Vec<String> =
            loops.keys().filter(|(owner, _)| owner == node).map(|(_, map)| map.clone()).collect();
        drop(loops);
        for map in &maps {
            self.removed(node, map);
        }
        // The folder itself stays: it may be mounted somewhere.
        report("clearing links", empty(&self.folder.join(node)));
    }

    /// Counts open descriptors of all processes but the one that keeps the device; one that is claimed without any
    /// (mounted, stacked on) counts once.
    fn openers(&self, node: &str, map: &str) -> u32 {
        let Some(device) = self.device(node, map) else { return 0 };
        let count = match fs::metadata(&device) {
            Ok(it) if it.file_type().is_block_device() => descriptors_on(it.rdev()).saturating_sub(1),
            _ => 0,
        };
        let claimed = OpenOptions::new().read(true).custom_flags(O_EXCL).open(&device);
        // An unknown answer counts as a user: nothing may be removed on a guess.
        if count == 0 && claimed.is_err() { 1 } else { count }
    }
}

/// How many descriptors of any process refer to a block device.
fn descriptors_on(device: u64) -> u32 {
    let Ok(processes) = fs::read_dir("/proc") else { return 1 };
    let numbered = |it: &fs::DirEntry| it.file_name().to_string_lossy().bytes().all(|it| it.is_ascii_digit());
    let mut count = 0;
    for process in processes.flatten().filter(numbered) {
        // A process that ended meanwhile has no descriptors.
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let is_it = fs::metadata(descriptor.path())
                .is_ok_and(|it| it.file_type().is_block_device() && it.rdev() == device);
            count += u32::from(is_it);
        }
    }
    count
}

impl Machine {
    /// Tells the plane about a link below `/dev/sanbridge`.
    pub(crate) fn mirror_link(&self, link: &str, target: &str) {
        let (Some(plane), Some(name)) = (&self.plane, link.strip_prefix(LINKS)) else { return };
        // Links may lead to the map by any of its names.
        let folder = link.rsplit_once('/').map_or("/", |it| it.0);
        let path = if target.starts_with('/') { target.to_owned() } else { format!("{folder}/{target}") };
        let number = self.block(&path).ok();
        if let Some(map) = number.and_then(|it| self.dm.maps.get(&it.minor)) {
            plane.linked(&self.spec.name, name, &map.name);
        }
    }

    /// Tells the plane that a link below `/dev/sanbridge` is gone.
    pub(crate) fn unmirror_link(&self, link: &str) {
        if let (Some(plane), Some(name)) = (&self.plane, link.strip_prefix(LINKS)) {
            plane.unlinked(&self.spec.name, name);
        }
    }
}
