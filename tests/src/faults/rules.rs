//! What a trouble is on the simulated array, which requests it can happen to, and how an operation may end under it.

use std::time::Duration;

use http::Method;
use san_core::ErrorKind;
use san_sim::ontap::{Entry, Fault, Outcome};

use super::{Often, Trouble};

/// Shortly before the deadline of 55 s.
const SLOW: Duration = Duration::from_secs(50);
/// Every answer of an array that is slow throughout.
const SLUGGISH: Duration = Duration::from_secs(8);
/// A code that no table knows.
const UNKNOWN: u64 = 999_999;

/// Whether it can only be seen on an array whose jobs do not end at once.
pub(super) fn needs_slow_jobs(trouble: Trouble) -> bool {
    matches!(trouble, Trouble::JobFails | Trouble::JobNeverEnds | Trouble::JobVanishes)
}

/// Whether the trouble can happen to this request of the undisturbed run.
pub(super) fn applies(trouble: Trouble, request: &Entry) -> bool {
    let is = |method: &Method| request.method == method.as_str();
    let answered = |of: &[u16]| matches!(request.outcome, Outcome::Answered(it) if of.contains(&it));
    // What is asked for by name, and what a creation returns of its own accord.
    let tells = |field: &str| request.query.contains(field) || request.query.contains("return_records=true");
    let is_lun = request.template.starts_with("/storage/luns");
    match trouble {
        Trouble::JobFails | Trouble::JobNeverEnds | Trouble::JobVanishes => request.job,
        Trouble::LaggingList => is(&Method::POST) && answered(&[201, 202]),
        Trouble::CutList => is(&Method::GET) && answered(&[200]) && !request.template.contains('{'),
        Trouble::WrongSize => is_lun && tells("space.size"),
        Trouble::WrongSerial => is_lun && tells("serial_number"),
        _ => true,
    }
}

/// The fault that the simulated array has to be given.
pub(super) fn fault(trouble: Trouble, often: Often) -> Fault {
    let answer = |status, code, retry_after| Fault::Answer {
        status,
        code,
        message: "simulated".to_owned(),
        retry_after,
    };
    let alter = |member: &str, value| Fault::Alter { member: member.to_owned(), value };
    match trouble {
        Trouble::Refused => Fault::Refuse,
        Trouble::Reset => Fault::ResetBefore,
        Trouble::AnswerLost => Fault::LoseAnswer,
        Trouble::Failing => answer(500, UNKNOWN, None),
        Trouble::Unavailable => answer(503, 1, None),
        Trouble::Throttled => answer(429, 1, Some(2)),
        Trouble::Unauthorized => Fault::Unauthorized,
        Trouble::JobFails => Fault::JobFails { code: UNKNOWN, message: "simulated".to_owned() },
        Trouble::JobNeverEnds => Fault::JobNeverEnds,
        Trouble::JobVanishes => Fault::JobVanishes,
        Trouble::LaggingList => Fault::Lag { reads: 2 },
        Trouble::CutList => Fault::PartialPage { records: 0 },
        Trouble::CutAnswer => Fault::Truncated,
        Trouble::WrongSize => alter("size", (1_u64 << 20).into()),
        Trouble::WrongSerial => alter("serial_number", "wOnGserial00".into()),
        Trouble::Slow => Fault::Delay(if often == Often::Once { SLOW } else { SLUGGISH }),
        Trouble::Hang => Fault::Hang,
    }
}

/// Whether the answers of the array are lies that no one can see through at once.
pub(super) fn lies(trouble: Trouble) -> bool {
    matches!(trouble, Trouble::WrongSize | Trouble::WrongSerial)
}

/// The kinds of error an operation may end with under it. Success is always allowed; whether it is one is looked at.
pub(super) fn allowed(trouble: Trouble) -> &'static [ErrorKind] {
    use ErrorKind::{
        Conflict, IdentityMismatch, Internal, Protocol, Throttled, Timeout, Unauthenticated, Unavailable,
    };
    match trouble {
        Trouble::Refused | Trouble::Reset | Trouble::AnswerLost | Trouble::Unavailable => {
            &[Unavailable, Timeout]
        }
        Trouble::Failing => &[Internal],
        // Jobs that fail after their time use up the deadline.
        Trouble::JobFails => &[Internal, Timeout],
        Trouble::Throttled => &[Throttled, Timeout],
        Trouble::Unauthorized => &[Unauthenticated],
        Trouble::JobNeverEnds | Trouble::Slow | Trouble::Hang => &[Timeout, Unavailable],
        Trouble::CutList => &[Unavailable, Timeout],
        Trouble::JobVanishes | Trouble::CutAnswer => &[Protocol, Timeout],
        Trouble::LaggingList => &[],
        Trouble::WrongSize | Trouble::WrongSerial => &[IdentityMismatch, Conflict],
    }
}
