//! A host on a folder of its own, and looks at its helper processes.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use san_core::Deadline;
use san_host::{System, SystemConfig};
use tempfile::TempDir;

/// A host whose `/` is a temporary folder.
pub(crate) struct Bench {
    pub(crate) folder: TempDir,
    pub(crate) host: Arc<System>,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    /// With a changed configuration.
    pub(crate) fn with(change: impl FnOnce(&mut SystemConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // The folder's name is passed as an argument nobody reads: it tells this host's helpers from others'.
        let mut config = SystemConfig::new(env!("CARGO_BIN_EXE_san-host-helper"), [folder.path()]);
        config.root = folder.path().into();
        config.helpers = 1;
        change(&mut config);
        Self { host: System::start(config).unwrap(), folder }
    }

    /// A path as it lies on this machine.
    pub(crate) fn real(&self, path: &str) -> PathBuf {
        self.folder.path().join(path.trim_start_matches('/'))
    }

    /// Writes a file, making its folders.
    pub(crate) fn file(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let real = self.real(path);
        std::fs::create_dir_all(real.parent().unwrap()).unwrap();
        std::fs::write(&real, content).unwrap();
        real
    }

    /// A FIFO that nobody reads: whoever opens it for writing hangs.
    pub(crate) fn fifo(&self, path: &str) -> PathBuf {
        let real = self.real(path);
        std::fs::create_dir_all(real.parent().unwrap()).unwrap();
        mknodat(CWD, &real, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        real
    }

    /// A FIFO that is full and that nobody reads: whoever writes to it hangs with it open.
    pub(crate) fn full_fifo(&self, path: &str) -> File {
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let mut ours = File::from(rustix::fs::open(self.fifo(path), flags, Mode::empty()).unwrap());
        while ours.write(&[0; 4096]).is_ok() {}
        ours
    }

    /// Waits until a helper has opened a path; its process number.
    pub(crate) async fn helper_with_open(&self, path: &str) -> i32 {
        let real = self.real(path);
        let has_it = |pid: &i32| {
            std::fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|mut it| {
                it.any(|it| std::fs::read_link(it.unwrap().path()).is_ok_and(|it| it == real))
            })
        };
        eventually("a helper has opened it", || self.helpers().iter().any(has_it)).await;
        self.helpers().into_iter().find(has_it).unwrap()
    }

    /// One helper process; a new one has no command line for a moment.
    pub(crate) async fn helper(&self) -> i32 {
        eventually("a helper is there", || !self.helpers().is_empty()).await;
        self.helpers()[0]
    }

    /// The helper processes of this host that are alive.
    pub(crate) fn helpers(&self) -> Vec<i32> {
        helpers_of(self.folder.path())
    }
}

pub(crate) fn helpers_of(folder: &Path) -> Vec<i32> {
    let mark = folder.to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap();
    processes
        .filter_map(|it| it.unwrap().file_name().to_str()?.parse().ok())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|it| *it == 0).nth(1) == Some(mark.as_bytes())
        })
        .collect()
}

/// Waits until a process has ended.
pub(crate) fn wait_for_end(pid: i32) {
    let Ok(process) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) else { return };
    let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
    let wait = || poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&patience));
    let ended = rustix::io::retry_on_intr(wait).unwrap();
    assert_eq!(ended, 1, "process {pid} did not end");
}

/// Looks every few milliseconds until `look` holds.
pub(crate) async fn eventually(what: &str, mut look: impl FnMut() -> bool) {
    for _ in 0..2000 {
        if look() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never happened: {what}");
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

pub(crate) fn millis(millis: u64) -> Deadline {
    Deadline::after(Duration::from_millis(millis))
}
