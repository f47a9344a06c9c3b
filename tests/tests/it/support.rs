//! What the suites of this binary share: sizes and names, faults in one line, counted changes, captured logs.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError};

use san_contract::audit::Audit;
use san_core::{ByteSize, SnapshotName};
use san_sim::ontap::{Entry, Fault, Mark, OntapSim, Rule, RuleId, Times, When};
use sanbridge_tests::site::Site;
use tracing_subscriber::fmt::MakeWriter;

/// The disk most tests are about.
pub(crate) const DISK: &str = "vm-100-disk-0";
/// Its size.
pub(crate) const SIZE: ByteSize = ByteSize::from_mib(8);
/// A larger one.
pub(crate) const GROWN: ByteSize = ByteSize::from_mib(16);

/// The snapshot most tests are about.
pub(crate) fn snapshot() -> SnapshotName {
    "before".parse().unwrap()
}

/// Requests of one method and path template (all, where they are empty).
pub(crate) fn when(method: &str, path: &str, times: Times) -> When {
    let given = |it: &str| Some(it.to_owned()).filter(|it| !it.is_empty());
    When { method: given(method), path: given(path), times, ..When::default() }
}

/// Lets a fault strike such requests.
pub(crate) fn inject(array: &OntapSim, method: &str, path: &str, times: Times, fault: Fault) -> RuleId {
    array.inject(Rule { when: when(method, path, times), fault })
}

/// An error answer of the array.
pub(crate) fn answer(status: u16, code: u64) -> Fault {
    Fault::Answer { status, code, message: "simulated".to_owned(), retry_after: None }
}

/// The requests since `mark` that were meant to change something.
pub(crate) fn changes(array: &OntapSim, mark: Mark) -> Vec<Entry> {
    array.requests(mark).into_iter().filter(|it| it.method != "GET").collect()
}

/// Everything is as it was at `before`.
pub(crate) fn assert_unchanged(site: &Site, before: &Audit) {
    let findings = site.audit().against(before);
    assert!(findings.is_empty(), "{findings}");
}

/// What this thread's tasks log, from debug upwards.
#[derive(Debug, Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Captures until the guard is dropped.
    pub(crate) fn capture() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_ansi(false)
            .with_writer(log.clone())
            .finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// What has been said.
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}
