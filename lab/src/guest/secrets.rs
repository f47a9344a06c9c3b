//! Where secrets show: in the arguments and the environment of processes, and in files.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use super::{Failure, ledger};

/// Where files with secrets are looked for: everything that is written while the machine runs.
const FOLDERS: [&str; 5] = ["/etc", "/root", "/run", "/tmp", "/var"];
/// Larger files are disks of the array.
const FILE_MAX: u64 = 4 << 20;

/// Watches the arguments and the environment of every process until it is told to end.
#[derive(Debug)]
pub struct Watch {
    ends: Arc<AtomicBool>,
    looks: Arc<AtomicUsize>,
    found: tokio::task::JoinHandle<Vec<String>>,
}

impl Watch {
    /// Begins to look for these secrets.
    pub fn start(secrets: &[&str]) -> Self {
        let (ends, looks) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (until, count) = (Arc::clone(&ends), Arc::clone(&looks));
        let secrets: Vec<String> = secrets.iter().map(|it| (*it).to_owned()).collect();
        let found = tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            while !until.load(Ordering::SeqCst) {
                count.fetch_add(1, Ordering::SeqCst);
                for name in ledger::names(Path::new("/proc")).iter().filter(|it| it.parse::<u32>().is_ok()) {
                    for file in ["cmdline", "environ"] {
                        // It may have ended meanwhile.
                        let bytes = fs::read(Path::new("/proc").join(name).join(file)).unwrap_or_default();
                        let text = String::from_utf8_lossy(&bytes);
                        if secrets.iter().any(|it| text.contains(it.as_str())) {
                            found.push(format!("{file} of process {name}"));
                        }
                    }
                }
            }
            found
        });
        Self { ends, looks, found }
    }

    /// Ends it; how often it looked at every process, and where it saw a secret.
    ///
    /// # Errors
    /// Where it came to no end.
    pub async fn end(self) -> Result<(usize, Vec<String>), Failure> {
        self.ends.store(true, Ordering::SeqCst);
        let found = self.found.await?;
        Ok((self.looks.load(Ordering::SeqCst), found))
    }
}

/// The files of this machine that hold one of these secrets.
///
/// # Errors
/// Naming those that others than root may read.
pub fn files(secrets: &[&str]) -> Result<Vec<PathBuf>, Failure> {
    let mut found = Vec::new();
    let mut folders: Vec<PathBuf> = FOLDERS.iter().map(PathBuf::from).collect();
    while let Some(folder) = folders.pop() {
        for name in ledger::names(&folder) {
            let path = folder.join(name);
            // It may be gone already.
            let Ok(meta) = fs::symlink_metadata(&path) else { continue };
            if meta.is_dir() {
                folders.push(path);
            } else if meta.is_file() && meta.len() <= FILE_MAX {
                let bytes = fs::read(&path).unwrap_or_default();
                let text = String::from_utf8_lossy(&bytes);
                if secrets.iter().any(|it| text.contains(it)) {
                    found.push((path, meta.mode() & 0o777, meta.uid()));
                }
            }
        }
    }
    let open: Vec<_> = found.iter().filter(|(_, mode, owner)| mode & 0o077 != 0 || *owner != 0).collect();
    if !open.is_empty() {
        return Err(Failure(format!("others than root may read secrets: {open:?}")));
    }
    Ok(found.into_iter().map(|(path, ..)| path).collect())
}
