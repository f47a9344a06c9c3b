//! What the program's exit code says. The codes are an interface: scripts branch on them, so none ever changes its meaning.

use std::process::ExitCode;

use san_core::{Error, ErrorKind};

/// An exit code of `sanbridge`, whichever subcommand it ran.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// It is done.
    Success = 0,
    /// A defect, or an answer nobody understands.
    Failed = 1,
    /// The command line, or what it asks for, is wrong.
    Usage = 2,
    /// There is no such thing.
    NotFound = 3,
    /// What is there contradicts what was asked for, or is not what it has to be.
    Conflict = 4,
    /// Somebody uses it or is changing it.
    InUse = 5,
    /// A limit is reached, or there is no room.
    NoRoom = 6,
    /// It may not be done: by us (root only), or by the array's account.
    Denied = 7,
    /// The array, or something else it takes, does not answer.
    Unavailable = 8,
    /// It did not end in time; it may yet.
    Timeout = 9,
    /// This array, release or build cannot do it.
    Unsupported = 10,
    /// An earlier operation could be neither finished nor undone.
    Stuck = 11,
    /// It was given up and taken back.
    Cancelled = 12,
    /// The daemon of this node does not run.
    NoDaemon = 13,
    /// It was done, and what it found needs somebody's attention.
    Findings = 20,
}

impl Exit {
    /// The code for a failure of this kind.
    pub fn of(kind: ErrorKind) -> Self {
        match kind {
            ErrorKind::NotFound => Self::NotFound,
            ErrorKind::AlreadyExists | ErrorKind::Conflict | ErrorKind::IdentityMismatch => Self::Conflict,
            ErrorKind::Busy | ErrorKind::InUse => Self::InUse,
            ErrorKind::LimitReached | ErrorKind::OutOfSpace => Self::NoRoom,
            ErrorKind::PermissionDenied | ErrorKind::Unauthenticated => Self::Denied,
            ErrorKind::Throttled | ErrorKind::Unavailable => Self::Unavailable,
            ErrorKind::Timeout => Self::Timeout,
            ErrorKind::Unsupported => Self::Unsupported,
            ErrorKind::InvalidInput => Self::Usage,
            ErrorKind::Stuck => Self::Stuck,
            ErrorKind::Cancelled => Self::Cancelled,
            _ => Self::Failed,
        }
    }

    /// As a number.
    pub fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

/// Why a subcommand failed, and with which code it ends.
#[derive(Debug)]
pub struct Failure {
    pub(crate) exit: Exit,
    pub(crate) error: Error,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { exit: Exit::of(error.kind()), error }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_the_code_that_is_documented() {
        use ErrorKind as K;
        let table = [
            (K::NotFound, 3),
            (K::AlreadyExists, 4),
            (K::Conflict, 4),
            (K::IdentityMismatch, 4),
            (K::Busy, 5),
            (K::InUse, 5),
            (K::LimitReached, 6),
            (K::OutOfSpace, 6),
            (K::PermissionDenied, 7),
            (K::Unauthenticated, 7),
            (K::Throttled, 8),
            (K::Unavailable, 8),
            (K::Timeout, 9),
            (K::Unsupported, 10),
            (K::InvalidInput, 2),
            (K::Stuck, 11),
            (K::Cancelled, 12),
            (K::Protocol, 1),
            (K::Internal, 1),
        ];
        for (kind, code) in table {
            assert_eq!(Exit::of(kind).code(), code, "{kind}");
        }
        assert_eq!((Exit::Success.code(), Exit::NoDaemon.code(), Exit::Findings.code()), (0, 13, 20));
    }
}
