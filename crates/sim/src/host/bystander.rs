//! A bystander: somebody else's volume under continuous verified I/O, which must notice nothing of what we do.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::node::SimNode;

/// What a bystander has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Rounds of write, read and compare that went well.
    pub rounds: u64,
    /// What went wrong.
    pub errors: Vec<String>,
    /// The longest round.
    pub longest: Duration,
}

/// A task that writes and verifies a device until it is dropped.
#[derive(Debug)]
pub struct Bystander {
    report: Arc<Mutex<Report>>,
    task: JoinHandle<()>,
}

impl Bystander {
    /// Begins: one round every `pause` on the first 4 KiB of `path`.
    pub fn start(node: &SimNode, path: &Path, pause: Duration) -> Self {
        let report = Arc::new(Mutex::new(Report::default()));
        let task = tokio::spawn(run(node.clone(), path.to_owned(), pause, Arc::clone(&report)));
        Self { report, task }
    }

    /// What it has seen so far.
    pub fn report(&self) -> Report {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(node: SimNode, path: PathBuf, pause: Duration, report: Arc<Mutex<Report>>) {
    for round in 0_u64.. {
        let began = Instant::now();
        let outcome = one_round(&node, &path, round).await;
        let took = began.elapsed();
        {
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.longest = report.longest.max(took);
            match outcome {
                Ok(()) => report.rounds += 1,
                Err(error) => report.errors.push(format!("round {round}: {error}")),
            }
        }
        tokio::time::sleep(pause).await;
    }
}

async fn one_round(node: &SimNode, path: &Path, round: u64) -> Result<(), String> {
    let pattern: Vec<u8> = round.to_le_bytes().iter().copied().cycle().take(4096).collect();
    node.write_at(path, 0, &pattern).await.map_err(|it| format!("write: {}", it.chain()))?;
    let found = node.read_at(path, 0, 4096).await.map_err(|it| format!("read: {}", it.chain()))?;
    if found == pattern { Ok(()) } else { Err("other bytes than were written".to_owned()) }
}
