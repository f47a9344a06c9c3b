//! The trait [`Host`]: an operating system as far as storage needs one.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use san_core::{Deadline, DeviceNumber, Result};
use secrecy::SecretString;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast;

/// One attribute of a device, in three answers. Every other trouble is an error: nothing is ever guessed to be absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attr {
    /// The attribute's bytes, without a trailing newline.
    Value(Vec<u8>),
    /// The device is present and has no such attribute.
    Missing,
    /// The device's directory is proved absent.
    DeviceGone,
}

impl Attr {
    /// The value as text; `None` where there is none or it is not UTF-8.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Value(bytes) => std::str::from_utf8(bytes).ok().map(str::trim),
            Self::Missing | Self::DeviceGone => None,
        }
    }
}

/// A program this workspace may start. Found once by absolute path in a fixed list of folders, never through `PATH`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Tool {
    /// open-iscsi's `iscsiadm`.
    Iscsiadm,
}

impl Tool {
    /// Its file name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Iscsiadm => "iscsiadm",
        }
    }

    /// The Debian package that brings it, for messages.
    pub fn package(self) -> &'static str {
        match self {
            Self::Iscsiadm => "open-iscsi",
        }
    }
}

impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a program left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// The exit code; `None` where a signal ended it.
    pub code: Option<i32>,
    /// Standard output, at most 1 MiB.
    pub stdout: Vec<u8>,
    /// Standard error, at most 64 KiB.
    pub stderr: Vec<u8>,
}

/// Where a Unix stream socket listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketAddress {
    /// In the file system.
    Path(PathBuf),
    /// In Linux's abstract name space, without the leading NUL.
    Abstract(String),
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Abstract(name) => write!(f, "@{name}"),
        }
    }
}

/// A connected stream.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// How a port answered a TCP connection attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// It took the connection.
    Open,
    /// It refused.
    Refused,
    /// Nothing came back in time, or there is no road to it.
    Silent,
}

/// One kernel event about a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Uevent {
    /// `add`, `change`, `remove`, ...
    pub action: String,
    /// The device's path below `/sys`, beginning with `/devices`.
    pub device: String,
    /// All keys of the message, `SUBSYSTEM` and `DEVNAME` among them.
    pub keys: BTreeMap<String, String>,
}

impl Uevent {
    /// Stands for events that were lost on the way: receivers get `None` for it.
    pub(crate) fn missed() -> Self {
        Self { action: String::new(), device: String::new(), keys: BTreeMap::new() }
    }

    /// No real event is without an action.
    fn is_missed(&self) -> bool {
        self.action.is_empty()
    }
}

/// A subscription to kernel events.
#[derive(Debug)]
pub struct Uevents(pub(crate) broadcast::Receiver<Arc<Uevent>>);

impl Uevents {
    /// Wraps the receiving end, for implementations of [`Host`].
    pub fn new(receiver: broadcast::Receiver<Arc<Uevent>>) -> Self {
        Self(receiver)
    }

    /// Passes over the events that are there already.
    pub(crate) fn catch_up(&mut self) {
        use broadcast::error::TryRecvError::{Closed, Empty};
        while !matches!(self.0.try_recv(), Err(Empty | Closed)) {}
    }

    /// The next event. `None`: some were missed, or there will be none any more, so look at the state itself.
    pub async fn next(&mut self) -> Option<Arc<Uevent>> {
        self.0.recv().await.ok().filter(|it| !it.is_missed())
    }
}

/// What a host was asked to do, for budgets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Programs started.
    pub processes: u64,
    /// Jobs given to prestarted helper processes.
    pub helper_jobs: u64,
    /// Helper processes that missed a deadline and are still stuck in the kernel.
    pub abandoned: u64,
    /// Writes to attributes.
    pub writes: u64,
    /// Unix stream connections opened.
    pub connections: u64,
}

/// An operating system as far as storage needs one. Object-safe; all calls may run concurrently. Every call ends by its
/// deadline: what can block in the kernel runs in a helper process that is abandoned then, and its device is refused
/// until the helper is gone.
#[async_trait]
pub trait Host: fmt::Debug + Send + Sync {
    /// Reads an attribute below `/sys`: `device` is the device's directory, `attribute` a relative path in it.
    async fn attr(&self, device: &Path, attribute: &str, deadline: Deadline) -> Result<Attr>;

    /// The names in a directory, sorted; `None` where it is proved absent.
    async fn list(&self, directory: &Path, deadline: Deadline) -> Result<Option<Vec<String>>>;

    /// Where a symbolic link points, as stored; `None` where there is no such file.
    async fn read_link(&self, path: &Path, deadline: Deadline) -> Result<Option<PathBuf>>;

    /// A whole regular file of at most `max` bytes (`/etc`, `/proc`, `/run`); `None` where it is proved absent.
    async fn read(&self, path: &Path, max: usize, deadline: Deadline) -> Result<Option<Vec<u8>>>;

    /// Writes an attribute below `/sys` in one write. Success proves nothing: re-read the state.
    async fn write_attr(&self, path: &Path, value: &str, deadline: Deadline) -> Result<()>;

    /// Makes `link` a symbolic link to `target`, replacing a link that is there, creating its folder (mode 0755).
    async fn make_link(&self, link: &Path, target: &Path, deadline: Deadline) -> Result<()>;

    /// Removes a symbolic link; whether there was one.
    async fn remove_link(&self, link: &Path, deadline: Deadline) -> Result<bool>;

    /// Makes `path` a file (mode 0644) that holds `text`, replacing a file or a link that is there, creating its folder
    /// (mode 0755). Others see the old one or the new one, also after a power failure.
    async fn put_file(&self, path: &Path, text: &str, deadline: Deadline) -> Result<()>;

    /// Makes `path` a file (mode 0600) that holds a secret, replacing a file or a link that is there. It is written as
    /// `staged` first, on the same file system: whoever reads the folder of `path` may take every file there for its own.
    async fn put_secret(
        &self,
        path: &Path,
        staged: &Path,
        secret: &SecretString,
        deadline: Deadline,
    ) -> Result<()>;

    /// Gives a file a second name on the same file system; `false` where that name is taken.
    async fn link_file(&self, file: &Path, name: &Path, deadline: Deadline) -> Result<bool>;

    /// Removes a file or a symbolic link; whether there was one.
    async fn remove_file(&self, path: &Path, deadline: Deadline) -> Result<bool>;

    /// Runs a tool to its end with a cleared environment and no input. A non-zero exit is an `Output`, not an error.
    ///
    /// # Errors
    /// `Unavailable` naming the package where the tool is missing, `Timeout` where the deadline passed (it is killed).
    async fn run(&self, tool: Tool, arguments: &[String], deadline: Deadline) -> Result<Output>;

    /// Opens a Unix stream.
    ///
    /// # Errors
    /// `Unavailable` where nobody listens, `PermissionDenied` where the listener is neither root's nor our own user's.
    async fn connect(&self, address: &SocketAddress, deadline: Deadline) -> Result<Box<dyn Stream>>;

    /// Tries a TCP connection and closes it at once.
    async fn probe(&self, address: SocketAddr, deadline: Deadline) -> Result<Probe>;

    /// Subscribes to kernel events from now on.
    fn uevents(&self) -> Uevents;

    /// A fresh standard INQUIRY (`page` `None`) or vital product data page from a SCSI generic node (`/dev/sgN`).
    async fn inquiry(&self, device: &Path, page: Option<u8>, deadline: Deadline) -> Result<Vec<u8>>;

    /// Writes out and drops what the page cache holds of one block device.
    async fn flush(&self, device: &Path, deadline: Deadline) -> Result<()>;

    /// Reads `length` bytes at `offset` past the page cache; the proof that a device serves.
    async fn read_block(
        &self,
        device: &Path,
        offset: u64,
        length: usize,
        deadline: Deadline,
    ) -> Result<Vec<u8>>;

    /// How often a device-mapper device is open; `None` where it is proved absent.
    async fn open_count(&self, device: DeviceNumber, deadline: Deadline) -> Result<Option<u32>>;

    /// What was done so far.
    fn counters(&self) -> Counters;
}
