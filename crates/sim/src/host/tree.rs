//! The virtual file system of a simulated host: folders, files, links and device nodes, with what a write to each does.

use std::collections::BTreeMap;

use san_core::{DeviceNumber, Error, ErrorKind, Result};

use super::scsi::Address;

/// What the kernel does when a file below `/sys` is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Keeps the value.
    Store,
    /// `scan` of a SCSI host.
    Scan(u32),
    /// `state` of a SCSI device.
    State(Address),
    /// `rescan` of a SCSI device.
    Rescan(Address),
    /// `delete` of a SCSI device.
    Delete(Address),
    /// `uevent` of a SCSI disk's block device.
    DiskEvent(Address),
    /// `uevent` of a device-mapper device.
    MapEvent(u32),
}

/// What a device node stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Device {
    /// A block device.
    Block(DeviceNumber),
    /// A SCSI generic device.
    Generic(Address),
}

/// One entry of a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// A folder.
    Dir(BTreeMap<String, Entry>),
    /// A file; `bytes` is `None` where it cannot be read, `write` where it cannot be written.
    File { bytes: Option<Vec<u8>>, write: Option<Action> },
    /// A symbolic link, as stored.
    Link(String),
    /// A device node.
    Node(Device),
}

impl Entry {
    fn dir() -> Self {
        Self::Dir(BTreeMap::new())
    }
}

/// The tree. Paths are absolute, without `.` and `..` (links may hold them).
#[derive(Debug, Clone)]
pub(crate) struct Tree(Entry);

fn parts(path: &str) -> impl Iterator<Item = &str> {
    path.split('/').filter(|it| !it.is_empty() && *it != ".")
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self(Entry::dir())
    }

    /// The entry at `path`, following no link.
    pub(crate) fn entry(&self, path: &str) -> Option<&Entry> {
        parts(path).try_fold(&self.0, |at, name| match at {
            Entry::Dir(children) => children.get(name),
            _ => None,
        })
    }

    fn entry_mut(&mut self, path: &str) -> Option<&mut Entry> {
        parts(path).try_fold(&mut self.0, |at, name| match at {
            Entry::Dir(children) => children.get_mut(name),
            _ => None,
        })
    }

    /// The path without links, whether or not something is there; an error only for a loop.
    pub(crate) fn canonical(&self, path: &str) -> Result<Option<String>> {
        self.walk(path, true)
    }

    /// Like [`Tree::canonical`], but a link at the very end is not followed.
    pub(crate) fn canonical_parent(&self, path: &str) -> Result<Option<String>> {
        self.walk(path, false)
    }

    fn walk(&self, path: &str, follow_last: bool) -> Result<Option<String>> {
        let mut todo: Vec<String> = parts(path).map(str::to_owned).collect();
        todo.reverse();
        let mut done: Vec<String> = Vec::new();
        let mut links = 0;
        while let Some(name) = todo.pop() {
            if name == ".." {
                done.pop();
                continue;
            }
            done.push(name);
            let here = format!("/{}", done.join("/"));
            match self.entry(&here) {
                None => return Ok(None),
                Some(Entry::Link(target)) if follow_last || !todo.is_empty() => {
                    links += 1;
                    if links > 40 {
                        return Err(
                            Error::new(ErrorKind::Conflict, "too many levels of symbolic links").on(path)
                        );
                    }
                    done.pop();
                    if target.starts_with('/') {
                        done.clear();
                    }
                    todo.extend(parts(target).map(str::to_owned).collect::<Vec<_>>().into_iter().rev());
                }
                Some(_) => {}
            }
        }
        Ok(Some(format!("/{}", done.join("/"))))
    }

    /// The entry `path` leads to through all links.
    pub(crate) fn follow(&self, path: &str) -> Result<Option<&Entry>> {
        Ok(self.canonical(path)?.and_then(|it| self.entry(&it)))
    }

    fn put(&mut self, path: &str, entry: Entry) {
        let mut names: Vec<&str> = parts(path).collect();
        let Some(last) = names.pop() else { return };
        let mut at = &mut self.0;
        for name in names {
            let Entry::Dir(children) = at else { return };
            at = children.entry(name.to_owned()).or_insert_with(Entry::dir);
        }
        if let Entry::Dir(children) = at {
            children.insert(last.to_owned(), entry);
        }
    }

    /// Makes a folder and those above it.
    pub(crate) fn make_dir(&mut self, path: &str) {
        if self.entry(path).is_none() {
            self.put(path, Entry::dir());
        }
    }

    /// Makes or replaces a plain file.
    pub(crate) fn put_file(&mut self, path: &str, bytes: impl Into<Vec<u8>>) {
        self.put(path, Entry::File { bytes: Some(bytes.into()), write: None });
    }

    /// Makes or replaces an attribute.
    pub(crate) fn put_attr(&mut self, path: &str, bytes: Option<Vec<u8>>, write: Option<Action>) {
        self.put(path, Entry::File { bytes, write });
    }

    /// Changes the value of an attribute that is there; `false` where it is not.
    pub(crate) fn set(&mut self, path: &str, value: impl Into<Vec<u8>>) -> bool {
        match self.entry_mut(path) {
            Some(Entry::File { bytes, .. }) => {
                *bytes = Some(value.into());
                true
            }
            _ => false,
        }
    }

    /// Makes or replaces a symbolic link.
    pub(crate) fn put_link(&mut self, path: &str, target: &str) {
        self.put(path, Entry::Link(target.to_owned()));
    }

    /// Makes or replaces a device node.
    pub(crate) fn put_node(&mut self, path: &str, device: Device) {
        self.put(path, Entry::Node(device));
    }

    /// Removes what is there with all below it; whether there was something.
    pub(crate) fn remove(&mut self, path: &str) -> bool {
        let Some((parent, name)) = path.trim_end_matches('/').rsplit_once('/') else { return false };
        match self.entry_mut(parent) {
            Some(Entry::Dir(children)) => children.remove(name).is_some(),
            _ => false,
        }
    }

    /// The names in a folder, through links, sorted.
    pub(crate) fn list(&self, path: &str) -> Result<Option<Vec<String>>> {
        match self.follow(path)? {
            Some(Entry::Dir(children)) => Ok(Some(children.keys().cloned().collect())),
            Some(_) => Err(Error::new(ErrorKind::Conflict, "not a folder").on(path)),
            None => Ok(None),
        }
    }

    /// The bytes of a file, through links; `None` where there is none.
    pub(crate) fn bytes(&self, path: &str) -> Result<Option<&[u8]>> {
        match self.follow(path)? {
            Some(Entry::File { bytes: Some(bytes), .. }) => Ok(Some(bytes)),
            Some(_) => Err(Error::new(ErrorKind::Conflict, "not a file that can be read").on(path)),
            None => Ok(None),
        }
    }

    /// The text of a file that this simulator wrote; empty where there is none.
    pub(crate) fn text(&self, path: &str) -> String {
        self.bytes(path).ok().flatten().map(|it| String::from_utf8_lossy(it).into_owned()).unwrap_or_default()
    }

    /// Every symbolic link below a folder, with what it holds.
    pub(crate) fn links_below(&self, path: &str) -> BTreeMap<String, String> {
        fn gather(at: &Entry, path: &str, found: &mut BTreeMap<String, String>) {
            match at {
                Entry::Dir(children) => {
                    for (name, child) in children {
                        gather(child, &format!("{path}/{name}"), found);
                    }
                }
                Entry::Link(target) => {
                    found.insert(path.to_owned(), target.clone());
                }
                Entry::File { .. } | Entry::Node(_) => {}
            }
        }
        let mut found = BTreeMap::new();
        if let Some(entry) = self.entry(path) {
            gather(entry, path.trim_end_matches('/'), &mut found);
        }
        found
    }

    /// Every plain file below a folder.
    pub(crate) fn files_below(&self, path: &str) -> Vec<String> {
        fn gather(at: &Entry, path: &str, found: &mut Vec<String>) {
            match at {
                Entry::Dir(children) => {
                    for (name, child) in children {
                        gather(child, &format!("{path}/{name}"), found);
                    }
                }
                Entry::File { .. } => found.push(path.to_owned()),
                Entry::Link(_) | Entry::Node(_) => {}
            }
        }
        let mut found = Vec::new();
        if let Some(entry) = self.entry(path) {
            gather(entry, path.trim_end_matches('/'), &mut found);
        }
        found
    }

    /// Takes a whole folder out, to put it into another tree.
    pub(crate) fn take(&mut self, path: &str) -> Option<Entry> {
        self.entry_mut(path).map(|it| std::mem::replace(it, Entry::dir()))
    }

    /// Puts an entry taken from another tree.
    pub(crate) fn restore(&mut self, path: &str, entry: Entry) {
        self.put(path, entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_followed_as_the_kernel_does() {
        let mut tree = Tree::new();
        tree.put_file("/sys/devices/platform/host0/state", "running");
        tree.put_link("/sys/class/scsi_host/host0", "../../devices/platform/host0");
        tree.put_link("/dev/loop", "loop");
        assert_eq!(tree.text("/sys/class/scsi_host/host0/state"), "running");
        assert_eq!(
            tree.canonical("/sys/class/scsi_host/host0/../host0").unwrap().as_deref(),
            Some("/sys/devices/platform/host0")
        );
        assert_eq!(tree.canonical("/sys/class/nothing").unwrap(), None);
        assert!(tree.canonical("/dev/loop").is_err());
        assert_eq!(tree.list("/sys/class/scsi_host").unwrap().unwrap(), ["host0"]);
        assert!(tree.remove("/sys/class/scsi_host/host0"));
        assert!(!tree.remove("/sys/class/scsi_host/host0"));
    }
}
