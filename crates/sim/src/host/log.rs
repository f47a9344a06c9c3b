//! What a node was asked to do and what happened to it, with the virtual time of each entry.

use std::fmt;
use std::time::Duration;

/// What kind of thing an entry of the log tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LogKind {
    /// A write below `/sys`: `PATH VALUE`.
    Write,
    /// A program: its name and arguments as given.
    Program,
    /// A command on multipathd's socket.
    Socket,
    /// A link made or removed: `make LINK TARGET` or `remove LINK`.
    Link,
    /// A file written or removed: `put PATH` or `remove PATH`.
    File,
    /// A flush of a block device: its path.
    Flush,
    /// An INQUIRY: path and page.
    Inquiry,
    /// A TCP probe: the address.
    Probe,
    /// Something the kernel or a daemon of the node did by itself.
    Event,
}

/// One entry of a node's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// When, since the world began.
    pub at: Duration,
    /// What kind.
    pub kind: LogKind,
    /// What.
    pub text: String,
}

impl fmt::Display for LogEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9.3} {:?} {}", self.at.as_secs_f64(), self.kind, self.text)
    }
}
