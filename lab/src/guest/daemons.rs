//! The daemons of the machine: held, woken, stopped and started as accidents and administrators do it.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{Failure, tools};

/// Starting and stopping one takes seconds under emulation.
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(50);

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// udev's: without it no device is recorded.
    Udevd,
    /// The multipath daemon.
    Multipathd,
    /// open-iscsi's: it makes and repairs sessions.
    Iscsid,
}

impl Daemon {
    fn name(self) -> &'static str {
        match self {
            Self::Udevd => "systemd-udevd",
            Self::Multipathd => "multipathd",
            Self::Iscsid => "iscsid",
        }
    }

    /// The socket it listens on once it is ready to, in the abstract name space.
    fn socket(self) -> Option<&'static str> {
        match self {
            Self::Udevd => None,
            Self::Multipathd => Some("@/org/kernel/linux/storage/multipathd"),
            Self::Iscsid => Some("@ISCSIADM_ABSTRACT_NAMESPACE"),
        }
    }

    /// Its processes. udev's workers go by another name.
    fn processes(self) -> Result<Vec<Pid>, Failure> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|it| it.parse().ok()).and_then(Pid::from_raw) else {
                continue;
            };
            // It may have ended meanwhile.
            let comm = fs::read_to_string(Path::new("/proc").join(&name).join("comm")).unwrap_or_default();
            // The kernel keeps 15 characters.
            if !comm.is_empty() && comm.trim_end() == &self.name()[..self.name().len().min(15)] {
                found.push(pid);
            }
        }
        Ok(found)
    }

    fn signal(self, signal: Signal) -> Result<(), Failure> {
        for pid in self.processes()? {
            // One process of a daemon may end because another did.
            match kill_process(pid, signal) {
                Err(rustix::io::Errno::SRCH) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Whether it is there, awake or not.
    ///
    /// # Errors
    /// Where `/proc` cannot be read.
    pub fn is_there(self) -> Result<bool, Failure> {
        Ok(!self.processes()?.is_empty())
    }

    /// It takes commands and does nothing any more.
    ///
    /// # Errors
    /// Where it is not there.
    pub fn hold(self) -> Result<(), Failure> {
        if !self.is_there()? {
            return Err(Failure(format!("{} does not run", self.name())));
        }
        self.signal(Signal::STOP)
    }

    /// It goes on where it was held.
    ///
    /// # Errors
    /// Where it cannot be told.
    pub fn wake(self) -> Result<(), Failure> {
        self.signal(Signal::CONT)
    }

    /// Ends it, and waits until it has ended.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn stop(self) -> Result<(), Failure> {
        self.signal(Signal::TERM)?;
        self.wake()?;
        until(&format!("{} does not end", self.name()), || Ok(!self.is_there()?)).await
    }

    /// Starts it where it is not there, wakes it where it is, and waits until it listens.
    ///
    /// # Errors
    /// Where it does not.
    pub async fn start(self) -> Result<(), Failure> {
        self.wake()?;
        if !self.is_there()? {
            match self {
                Self::Udevd => return Err(Failure("udev was ended for good".to_owned())),
                Self::Multipathd | Self::Iscsid => tools::run(self.name(), &[], PATIENCE).await?,
            };
        }
        let Some(socket) = self.socket() else { return Ok(()) };
        let listens = || Ok(fs::read_to_string("/proc/net/unix")?.lines().any(|it| it.ends_with(socket)));
        until(&format!("{} does not listen", self.name()), listens).await
    }
}

/// Waits until udev has nothing to do.
///
/// # Errors
/// Where it does not come to rest.
pub async fn udev_rests() -> Result<(), Failure> {
    // It says so with a file; between the end of one event and the effect of it there is a moment.
    for _ in 0..2 {
        until("udev does not come to rest", || Ok(!Path::new("/run/udev/queue").try_exists()?)).await?;
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Has multipathd remove a map that nobody uses for longer than a look takes: udev opens every map when something of it
/// changes.
///
/// # Errors
/// Where it stays in use, or is not known.
pub async fn remove_map(map: &str) -> Result<(), Failure> {
    let started = Instant::now();
    loop {
        udev_rests().await?;
        match tools::run("multipathd", &["remove", "map", map], PATIENCE).await {
            Err(failure) if failure.0.contains("in use") && started.elapsed() < PATIENCE => {
                tokio::time::sleep(PAUSE).await;
            }
            other => return other.map(drop),
        }
    }
}

/// Looks until `look` says yes.
///
/// # Errors
/// With `what`, where it does not in two minutes, or with what `look` fails with.
pub async fn until(what: &str, look: impl Fn() -> Result<bool, Failure>) -> Result<(), Failure> {
    let waiting = async {
        while !look()? {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| Err(Failure(what.to_owned())))
}
