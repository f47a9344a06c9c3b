//! What the exit codes of `iscsiadm` mean (open-iscsi 2.1.8 to 2.1.11, `iscsi_err.h`).

use san_core::{Error, ErrorKind};
use san_host::Output;

/// What to do about a lock that nobody holds.
pub(crate) const LEFT_BEHIND: &str = "if no iscsiadm is running, one died: remove /run/lock/iscsi/lock.write";

/// What `iscsiadm` was started for; the same code means different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    /// `-o new`, `-o update`.
    Record,
    /// `--login`.
    Login,
    /// `--logout`, `-o delete`.
    Remove,
}

/// How it went.
#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    /// This call did it.
    Done,
    /// It was so before: the session or its absence.
    Already,
    /// The record database was locked: the same call may simply be repeated.
    Locked(Error),
    /// The record is not there (any more).
    NoRecord(Error),
    /// It failed.
    Failed(Error),
}

const START_ISCSID: &str = "systemctl start iscsid";

/// One row of the table: kind, message, remedy.
type Row = (ErrorKind, &'static str, Option<&'static str>);

fn row(code: i32) -> Option<Row> {
    use ErrorKind::{Busy, Internal, NotFound, PermissionDenied, Timeout, Unauthenticated, Unavailable};
    Some(match code {
        1 => (Unavailable, "iscsiadm failed without a reason", None),
        2 => (NotFound, "there is no such session", None),
        // Of an interface that it does not know it says the same.
        3 => (
            Unavailable,
            "iscsiadm ran out of memory, or this node has no such interface",
            Some("check `iscsiadm -m iface`"),
        ),
        4 => (Unavailable, "the connection failed", None),
        5 => (Unavailable, "the login failed", None),
        6 => (Busy, "the record database of open-iscsi is locked", Some(LEFT_BEHIND)),
        7 => (Internal, "iscsiadm refused its arguments", None),
        8 => (Timeout, "the login timed out", None),
        9 => (Internal, "iscsiadm reported an internal error", None),
        10 => (Busy, "the logout failed", None),
        11 => (Timeout, "the target did not answer in time", None),
        12 => (Unavailable, "the kernel module iscsi_tcp is missing", Some("modprobe iscsi_tcp")),
        13 => (PermissionDenied, "iscsiadm may not do this", Some("run as root")),
        16..=18 => (Unavailable, "iscsid cannot be spoken to", Some("systemctl restart iscsid")),
        BROKEN_OFF => (Unavailable, "the target refused the login for good", None),
        20 => (Unavailable, "iscsid is not running", Some(START_ISCSID)),
        21 => (NotFound, "there is no such record", None),
        22 => (NotFound, "the session vanished", None),
        23 => (Internal, "iscsiadm could not look up the SCSI host", None),
        24 => (
            Unauthenticated,
            "the target refused this initiator",
            Some("check that the array knows this node's IQN and the CHAP settings"),
        ),
        28 => (Busy, "the session is in use", None),
        29 => (Busy, "iscsid asks to try again", None),
        31 => (Unavailable, "a child of iscsiadm died", None),
        32 => (Busy, "the session is stuck while it reconnects", None),
        33 => (Timeout, "iscsid did not answer in time", Some("systemctl restart iscsid")),
        _ => return None,
    })
}

/// The code of a login that was broken off for good, by either side.
const BROKEN_OFF: i32 = 19;

/// What a failed login means where the target was to prove itself: open-iscsi breaks off one without that proof.
pub(crate) fn unproved(code: Option<i32>, error: Error) -> Error {
    if code != Some(BROKEN_OFF) {
        return error;
    }
    let message = "the array did not prove itself, or refused the login for good";
    Error::new(ErrorKind::Unauthenticated, format!("{message} (iscsiadm exit code {BROKEN_OFF})"))
        .with_remedy(
            "compare the name and the secret by which the array proves itself (mutual CHAP) on both sides",
        )
}

/// Whether the failure is of the daemon or tool here, so that no other port would fare better.
pub(crate) fn is_of_this_node(code: Option<i32>) -> bool {
    matches!(code, Some(12 | 13 | 16..=18 | 20))
}

/// What the run of `iscsiadm` for `verb` means.
pub(crate) fn outcome(verb: Verb, output: &Output) -> Outcome {
    let Some(code) = output.code else {
        return Outcome::Failed(Error::new(ErrorKind::Internal, "iscsiadm was killed by a signal"));
    };
    match (verb, code) {
        (_, 0) => return Outcome::Done,
        // Also where only one of several logins was new: the session's state in sysfs decides afterwards.
        (Verb::Login, 15) | (Verb::Remove, 2 | 21) => return Outcome::Already,
        _ => {}
    }
    let (kind, message, remedy) =
        row(code).unwrap_or((ErrorKind::Internal, "iscsiadm failed with a code no table knows", None));
    let mut error = Error::new(kind, format!("{message} (iscsiadm exit code {code})"));
    if let Some(remedy) = remedy {
        error = error.with_remedy(remedy);
    }
    match (verb, code) {
        (_, 6) => Outcome::Locked(error),
        (_, 21) => Outcome::NoRecord(error),
        _ => Outcome::Failed(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(verb: Verb, code: Option<i32>) -> String {
        match outcome(verb, &Output { code, stdout: vec![], stderr: vec![] }) {
            Outcome::Done => "done".into(),
            Outcome::Already => "already".into(),
            Outcome::Locked(it) => format!("locked {:?}", it.kind()),
            Outcome::NoRecord(it) => format!("no record {:?}", it.kind()),
            Outcome::Failed(it) => format!("{:?}", it.kind()),
        }
    }

    /// Scenarios 26, 27, 31, 32 and 33, and every code there is.
    #[test]
    fn table() {
        let login = [
            (0, "done"),
            (1, "Unavailable"),
            (2, "NotFound"),
            (3, "Unavailable"),
            (4, "Unavailable"),
            (5, "Unavailable"),
            (6, "locked Busy"),
            (7, "Internal"),
            (8, "Timeout"),
            (9, "Internal"),
            (10, "Busy"),
            (11, "Timeout"),
            (12, "Unavailable"),
            (13, "PermissionDenied"),
            (15, "already"),
            (16, "Unavailable"),
            (17, "Unavailable"),
            (18, "Unavailable"),
            (19, "Unavailable"),
            (20, "Unavailable"),
            (21, "no record NotFound"),
            (22, "NotFound"),
            (23, "Internal"),
            (24, "Unauthenticated"),
            (28, "Busy"),
            (29, "Busy"),
            (31, "Unavailable"),
            (32, "Busy"),
            (33, "Timeout"),
            (99, "Internal"),
            (255, "Internal"),
        ];
        for (code, expected) in login {
            assert_eq!(meaning(Verb::Login, Some(code)), expected, "login, {code}");
        }
        assert_eq!(meaning(Verb::Login, None), "Internal");
        for (code, expected) in [(0, "done"), (2, "already"), (21, "already"), (10, "Busy"), (28, "Busy")] {
            assert_eq!(meaning(Verb::Remove, Some(code)), expected, "logout, {code}");
        }
        for (code, expected) in [(0, "done"), (6, "locked Busy"), (15, "Internal"), (20, "Unavailable")] {
            assert_eq!(meaning(Verb::Record, Some(code)), expected, "record, {code}");
        }
    }

    #[test]
    fn a_stopped_daemon_is_named_with_its_remedy() {
        let output = Output { code: Some(20), stdout: vec![], stderr: vec![] };
        let Outcome::Failed(error) = outcome(Verb::Login, &output) else { panic!() };
        assert!(error.message().contains("iscsid"));
        assert_eq!(error.remedy(), Some("systemctl start iscsid"));
        assert!(is_of_this_node(output.code) && !is_of_this_node(Some(8)));
    }
}
