//! Work in another network namespace, on a thread of its own: no other thread ever leaves its namespace.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Does `work` in the network namespace at `path` (`/run/netns/NAME`). Sockets that the kernel makes for it are there.
///
/// # Errors
/// Where the namespace cannot be entered, and those of `work`.
pub(super) fn within<T: Send>(path: &Path, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let namespace = File::open(path)
        .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", path.display())))?;
    let ended = std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            work()
        });
        thread.join()
    });
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}
