//! A bystander: somebody else's LUN on the same array, under continuous verified input and output, which must notice
//! nothing of what we do.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::check::Failure;
use super::direct::{Aligned, Device, hash_of};

/// What one round writes and reads back.
const BLOCK: usize = 16 << 10;
/// How many places of the area are gone through in turn.
const PLACES: u64 = 16;
/// A round that was under way when the end was asked for gets this long.
const LAST_ROUND: Duration = Duration::from_secs(60);

/// What was seen so far.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Rounds of write, read and compare that went well.
    pub rounds: u64,
    /// What went wrong.
    pub errors: Vec<String>,
    /// The longest time from one round that went well to the next, the present one included.
    pub longest_gap: Duration,
}

#[derive(Debug)]
struct Seen {
    report: Report,
    last_good: Instant,
}

/// Verified input and output on a device, in a thread of its own, until it is ended or dropped.
#[derive(Debug)]
pub struct VerifiedIo {
    device: PathBuf,
    seen: Arc<Mutex<Seen>>,
    end: Option<Sender<()>>,
    ended: Arc<AtomicBool>,
}

impl VerifiedIo {
    /// Begins on the first 256 KiB of `device`, with a `pause` after each round.
    ///
    /// # Errors
    /// Where the device cannot be opened.
    pub fn start(device: &Path, pause: Duration) -> Result<Self, Failure> {
        let open = Device::open(device)?;
        let seen = Arc::new(Mutex::new(Seen { report: Report::default(), last_good: Instant::now() }));
        let (end, told) = channel();
        let ended = Arc::new(AtomicBool::new(false));
        let (shared, done) = (Arc::clone(&seen), Arc::clone(&ended));
        std::thread::Builder::new().name("bystander".to_owned()).spawn(move || {
            run(&open, pause, &shared, &told);
            drop(open);
            done.store(true, Ordering::Release);
        })?;
        Ok(Self { device: device.to_owned(), seen, end: Some(end), ended })
    }

    /// What was seen so far.
    pub fn report(&self) -> Report {
        let seen = lock(&self.seen);
        let mut report = seen.report.clone();
        report.longest_gap = report.longest_gap.max(seen.last_good.elapsed());
        report
    }

    /// Forgets the longest gap, so that the next one counts alone.
    pub fn forget_gap(&self) {
        let mut seen = lock(&self.seen);
        seen.report.longest_gap = Duration::ZERO;
        seen.last_good = Instant::now();
    }

    /// Waits until another round has gone well, at most `patience`.
    ///
    /// # Errors
    /// Where none does.
    pub async fn another_round(&self, patience: Duration) -> Result<(), Failure> {
        let before = self.report().rounds;
        let started = Instant::now();
        while self.report().rounds <= before {
            if started.elapsed() > patience {
                return Err(Failure(format!("no round on {} within {patience:?}", self.device.display())));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    /// Ends it and closes the device.
    ///
    /// # Errors
    /// Where anything went wrong, nothing went well, or the last round does not end.
    pub async fn end(mut self) -> Result<Report, Failure> {
        self.end = None;
        let started = Instant::now();
        while !self.ended.load(Ordering::Acquire) {
            if started.elapsed() > LAST_ROUND {
                return Err(Failure(format!("the last round on {} does not end", self.device.display())));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.require_well()
    }

    /// What was seen so far, while all of it is well.
    ///
    /// # Errors
    /// Where anything went wrong, or nothing went well.
    pub fn require_well(&self) -> Result<Report, Failure> {
        let report = self.report();
        if let Some(first) = report.errors.first() {
            let count = report.errors.len();
            return Err(Failure(format!("{count} errors on {}, first {first}", self.device.display())));
        }
        if report.rounds == 0 {
            return Err(Failure(format!("nothing was written to {}", self.device.display())));
        }
        Ok(report)
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run(device: &Device, pause: Duration, seen: &Mutex<Seen>, told: &Receiver<()>) {
    let mut memory = Aligned::new(BLOCK);
    for round in 0_u64.. {
        let outcome = one_round(device, round, &mut memory);
        {
            let mut seen = lock(seen);
            match outcome {
                Ok(()) => {
                    seen.report.rounds += 1;
                    let gap = seen.last_good.elapsed();
                    seen.report.longest_gap = seen.report.longest_gap.max(gap);
                    seen.last_good = Instant::now();
                }
                // The first few tell everything.
                Err(error) if seen.report.errors.len() < 20 => {
                    seen.report.errors.push(format!("in round {round}: {error}"));
                }
                Err(_) => {}
            }
        }
        if told.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}

fn one_round(device: &Device, round: u64, memory: &mut Aligned) -> Result<(), String> {
    let offset = (round % PLACES) * BLOCK as u64;
    for (index, word) in (0_u64..).zip(memory.bytes_mut().chunks_exact_mut(8)) {
        word.copy_from_slice(&(round << 20 | index).to_le_bytes());
    }
    device.write(offset, memory.bytes()).map_err(|it| format!("write: {it}"))?;
    let found = device.read(offset, BLOCK).map_err(|it| format!("read: {it}"))?;
    if found == memory.bytes() {
        Ok(())
    } else {
        let (found, written) = (hash_of(&found), hash_of(memory.bytes()));
        Err(format!("read {found} where {written} was written"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_round_counts_and_a_wrong_byte_is_an_error() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = folder.path().join("device");
        std::fs::write(&file, vec![0; 1 << 20]).unwrap();
        let io = VerifiedIo::start(&file, Duration::from_millis(1)).unwrap();
        io.another_round(Duration::from_secs(20)).await.unwrap();
        let report = io.end().await.unwrap();
        assert!(report.rounds > 0 && report.longest_gap > Duration::ZERO, "{report:?}");
        assert!(VerifiedIo::start(&folder.path().join("absent"), Duration::ZERO).is_err());
    }

    #[tokio::test]
    async fn an_error_is_kept() {
        let folder = tempfile::tempdir_in("/var/tmp").unwrap();
        let file = folder.path().join("device");
        std::fs::write(&file, vec![0; 1 << 20]).unwrap();
        let io = VerifiedIo::start(&file, Duration::ZERO).unwrap();
        let started = Instant::now();
        while io.report().errors.is_empty() {
            assert!(started.elapsed() < Duration::from_secs(20));
            std::fs::File::options().write(true).open(&file).unwrap().set_len(0).unwrap();
            tokio::task::yield_now().await;
        }
        assert!(io.end().await.unwrap_err().to_string().contains("errors on"));
    }
}
