//! What the suites of this binary share: sizes and names, faults in one line, counted changes, captured logs.

use san_contract::audit::Audit;
use san_core::SnapshotName;
use san_sim::ontap::{Entry, Fault, Mark, OntapSim, Rule, RuleId, Times, When};
pub(crate) use sanbridge_tests::log::Log;
pub(crate) use sanbridge_tests::operation::{DISK, GROWN, SIZE};
use sanbridge_tests::site::Site;

/// The snapshot most tests are about.
pub(crate) fn snapshot() -> SnapshotName {
    sanbridge_tests::operation::snapshot().unwrap()
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
