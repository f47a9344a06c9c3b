//! ONTAP's error codes: the one table from code to kind.
//!
//! The codes are those the API definition documents per operation. Where it documents none (no room in an aggregate, a
//! LUN number that is taken, too many volumes), the texts that the vendor's own clients rely on stand in.

use std::error::Error as StdError;
use std::fmt;

use http::StatusCode;
use san_core::{EffectState, Error, ErrorKind};
use san_rest::Answer;

use crate::wire::{ErrorBody, Failure};

/// Codes that some verb handles itself.
pub(crate) mod code {
    /// "entry doesn't exist", of everything.
    pub(crate) const NO_ENTRY: u64 = 4;
    /// Which code says "no such object" differs by release and operation: each look-up and removal accepts those that
    /// the API definition documents for it.
    pub(crate) const NO_JOB: &[u64] = &[NO_ENTRY];
    pub(crate) const NO_LUN: &[u64] = &[NO_ENTRY, 5_374_875, 5_374_876];
    pub(crate) const NO_MAP: &[u64] = &[NO_ENTRY, 5_374_922, 5_374_875, 5_374_876, 5_374_878];
    pub(crate) const NO_VOLUME: &[u64] = &[NO_ENTRY, 917_927, 918_235];
    pub(crate) const NO_SNAPSHOT: &[u64] = &[NO_ENTRY, 1_638_600];
    /// No SVM of this UUID or name, or not the same by both.
    pub(crate) const NO_SVM: &[u64] = &[2_621_462, 2_621_706];
    pub(crate) const NO_ISCSI_SERVICE: &[u64] = &[NO_ENTRY, 5_374_078];
    pub(crate) const UNEXPECTED_ARGUMENT: u64 = 262_179;
    pub(crate) const INVALID_FIELD: u64 = 262_197;
    pub(crate) const ABOVE_AUTOSIZE: u64 = 918_521;
    pub(crate) const VOLUME_EXISTS: u64 = 917_526;
    pub(crate) const HAS_CLONES: u64 = 524_615;
    pub(crate) const NO_PARENT_SNAPSHOT: u64 = 1_638_600;
    pub(crate) const VOLUME_IN_CREATION: u64 = 13_107_405;
    pub(crate) const LUN_EXISTS: u64 = 5_374_242;
    pub(crate) const LUN_EXISTS_OLD: u64 = 1_254_196;
    pub(crate) const LUN_IN_CREATION: u64 = 5_702_832;
    pub(crate) const SAME_SIZE: u64 = 1_254_226;
    pub(crate) const SNAPSHOT_EXISTS: u64 = 525_059;
    pub(crate) const SNAPSHOT_BUSY: u64 = 1_638_543;
    pub(crate) const IGROUP_EXISTS: u64 = 5_374_023;
    /// There is no such igroup.
    pub(crate) const NO_IGROUP: u64 = 5_374_852;
    pub(crate) const INITIATOR_PRESENT: u64 = 5_374_035;
    /// The initiator is not in the igroup, or neither is there.
    pub(crate) const NO_INITIATOR: &[u64] = &[5_374_034, 5_374_852];
    /// The initiator would see a LUN, or two LUNs of one number, through two igroups.
    pub(crate) const SEEN_TWICE: &[u64] = &[1_254_193, 1_254_324];
    pub(crate) const ALREADY_MAPPED: u64 = 1_254_207;
}

/// An initiator would see two LUNs of one number.
const NUMBER_TWICE: u64 = 1_254_324;

/// Multi-admin verification: nothing happens before others have approved it, and then it has to be asked for once more.
/// So waiting helps: what has to be undone stays open until it may be.
const APPROVAL: u64 = 262_325;
const WAITS_FOR_APPROVAL: &str = "it waits for the approval of another administrator";
const END_REPLICATION: &str =
    "end the SnapMirror relation first (on the array: snapmirror delete, then snapmirror release)";

/// Longest part of the array's own text that is kept.
const TEXT: usize = 300;

/// What ONTAP said, as the cause of a [`san_core::Error`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OntapError {
    /// The HTTP status, or `None` for the failure of a job.
    pub status: Option<u16>,
    /// The vendor's code.
    pub code: Option<u64>,
    /// The vendor's text, shortened.
    pub message: String,
    /// The field it complains about.
    pub target: Option<String>,
}

impl fmt::Display for OntapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ONTAP says ")?;
        if let Some(code) = self.code {
            write!(f, "{code} ")?;
        } else if let Some(status) = self.status {
            write!(f, "HTTP {status} ")?;
        }
        write!(f, "{:?}", self.message)?;
        self.target.iter().try_for_each(|it| write!(f, " (about {it:?})"))
    }
}

impl StdError for OntapError {}

/// The code ONTAP gave somewhere below `error`, where it means what it says.
pub(crate) fn code_of(error: &Error) -> Option<u64> {
    let mut next = StdError::source(error);
    while let Some(it) = next {
        if let Some(it) = it.downcast_ref::<OntapError>() {
            return it.code.filter(|code| !is_hollow(it.status, *code));
        }
        next = it.source();
    }
    None
}

/// Whether ONTAP gave this code.
pub(crate) fn is(error: &Error, code: u64) -> bool {
    code_of(error) == Some(code)
}

/// Whether ONTAP gave one of these codes.
pub(crate) fn is_one_of(error: &Error, codes: &[u64]) -> bool {
    code_of(error).is_some_and(|it| codes.contains(&it))
}

/// The error of an answer that is not a success.
pub(crate) fn of_answer(answer: &Answer) -> Error {
    if let Ok(ErrorBody { error }) = serde_json::from_slice(&answer.body) {
        return of_failure(Some(answer.status), error);
    }
    let said = OntapError {
        status: Some(answer.status.as_u16()),
        code: None,
        message: "an answer that is not ONTAP's".into(),
        target: None,
    };
    // Whoever wrote that did not say what was done, whatever the status.
    Error::new(ErrorKind::Protocol, "the array's error cannot be understood")
        .with_effect(EffectState::Unknown)
        .with_remedy("check that the address is an ONTAP management interface")
        .caused_by(said)
}

/// The error of an error object. `status` is `None` where it came from a job.
pub(crate) fn of_failure(status: Option<StatusCode>, failure: Failure) -> Error {
    let code = failure.code.as_deref().and_then(|it| it.trim().parse().ok());
    let text: String = failure.message.chars().filter(|it| !it.is_control()).take(TEXT).collect();
    let (kind, effect) = classify(status, code, &text);
    let said = OntapError {
        status: status.map(|it| it.as_u16()),
        code,
        message: text,
        target: failure.target.map(|it| it.chars().filter(|it| !it.is_control()).take(64).collect()),
    };
    let summary = if code == Some(APPROVAL) { WAITS_FOR_APPROVAL } else { summary(kind) };
    let mut error = Error::new(kind, summary).with_effect(effect);
    let replicated = is_about_replication(&said.message).then_some(END_REPLICATION);
    if let Some(remedy) = code.and_then(remedy).or(replicated).or_else(|| usual_remedy(kind)) {
        error = error.with_remedy(remedy);
    }
    error.caused_by(said)
}

fn summary(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::NotFound => "there is no such object on the array",
        ErrorKind::AlreadyExists => "it exists on the array already",
        ErrorKind::Busy => "the array is busy with it",
        ErrorKind::InUse => "it is mapped",
        ErrorKind::Conflict => "the array's state does not allow it",
        ErrorKind::LimitReached => "a limit of the array is reached",
        ErrorKind::OutOfSpace => "the array has no room",
        ErrorKind::PermissionDenied => "the account may not do this",
        ErrorKind::Unauthenticated => "the array refuses the credentials",
        ErrorKind::Unavailable => "the array does not serve it now",
        ErrorKind::Unsupported => "this release of ONTAP cannot do it",
        ErrorKind::InvalidInput => "the array refuses the request as wrong",
        _ => "the array refuses for a reason that is not known here",
    }
}

fn remedy(code: u64) -> Option<&'static str> {
    Some(match code {
        6 => {
            "give the account a role that allows it; the least that is needed is shipped as a file of commands (roles)"
        }
        APPROVAL => {
            "have another administrator approve it (on the array: security multi-admin-verify request show), then try again"
        }
        524_481 => "wait until the lock of its snapshots has expired, or until the array lets it go",
        1_638_480 | 9_437_886 => "delete those newer snapshots, or wait until they are let go",
        524_615 => "delete or split the clones that were made of it",
        525_062 => "delete snapshots of this volume",
        1_638_543 => "wait until the clone, backup or replication that uses it has ended",
        1_638_555 => "wait until the lock of the snapshot has expired",
        5_374_865 | 5_374_866 => "bring the aggregate or the volume online",
        _ => return None,
    })
}

/// What usually helps, whatever the code.
fn usual_remedy(kind: ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::OutOfSpace => Some("free space in the aggregate, or add disks to it"),
        ErrorKind::LimitReached => {
            Some("delete what is not needed any more, or use another SVM or array for further disks")
        }
        ErrorKind::Busy => Some("try again in a moment"),
        _ => None,
    }
}

/// Kind and effect of an error. A code that no row knows is `Internal`; whether anything happened is then read off the
/// status: ONTAP refuses with 4xx before it acts.
fn classify(status: Option<StatusCode>, code: Option<u64>, text: &str) -> (ErrorKind, EffectState) {
    if code.is_some_and(|it| is_hollow(status.map(|it| it.as_u16()), it)) {
        return (ErrorKind::Internal, EffectState::Unknown);
    }
    if status == Some(StatusCode::FORBIDDEN) && code != Some(APPROVAL) {
        return (ErrorKind::PermissionDenied, EffectState::None);
    }
    if let Some(code) = code
        && HALF_DONE.contains(&code)
    {
        return (ErrorKind::Internal, EffectState::Unknown);
    }
    if let Some(kind) = code.and_then(kind_of_code).or_else(|| kind_of_text(text)) {
        return (kind, EffectState::None);
    }
    let refused = status.is_some_and(|it| it.is_client_error());
    (ErrorKind::Internal, if refused { EffectState::None } else { EffectState::Unknown })
}

/// Errors after a part of the request was carried out: a LUN made or overwritten whose properties could not be set or
/// read, a clone that failed on its way.
const HALF_DONE: [u64; 5] = [5_374_863, 5_374_864, 5_374_885, 5_374_886, 13_565_952];

/// Whether a code says nothing of the object: one that any object may have (exists, has a bad value, cannot do that, does not
/// exist), from a server that has failed and has not looked.
fn is_hollow(status: Option<u16>, code: u64) -> bool {
    status.is_some_and(|it| it >= 500) && (1..=4).contains(&code)
}

/// The table.
#[expect(clippy::match_same_arms, reason = "the rows keep the order of the objects they are about")]
fn kind_of_code(code: u64) -> Option<ErrorKind> {
    use ErrorKind::{
        AlreadyExists, Busy, Conflict, InUse, InvalidInput, LimitReached, NotFound, OutOfSpace,
        PermissionDenied, Unavailable, Unsupported,
    };
    Some(match code {
        // Any object.
        1 => AlreadyExists,
        2 => InvalidInput,
        3 => Unsupported,
        4 => NotFound,
        6 => PermissionDenied,
        8 => Busy,
        // Validation of requests.
        262_155 | 262_179 => Unsupported,
        262_186 | 262_188 | 262_194 | 262_196 | 262_197 | 262_256 => InvalidInput,
        APPROVAL => Busy,
        // The SVM.
        2_621_462 => NotFound,
        2_621_706 | 2_621_707 => InvalidInput,
        // Volumes.
        917_526 => AlreadyExists,
        13_107_405 | 524_486 | 524_615 => Busy,
        917_927 | 918_235 | 917_508 | 917_551 | 524_601 => NotFound,
        917_534 | 917_886 | 917_887 | 917_888 | 917_597 | 787_140 | 787_141 | 918_242 | 13_107_307 => {
            InvalidInput
        }
        8_454_243 => NotFound,
        787_144 | 918_183 | 5_375_059 => InvalidInput,
        917_829 | 917_831 | 917_835 | 918_521 | 918_524 => InvalidInput,
        918_701 | 918_703 => Unsupported,
        // Snapshots.
        525_059 => AlreadyExists,
        525_062 => LimitReached,
        524_479 => OutOfSpace,
        524_481 | 1_638_532 | 1_638_543 | 1_638_555 => Busy,
        // A newer snapshot that is locked, or that replication refers to.
        1_638_480 | 9_437_886 => Busy,
        1_638_461 | 1_638_521 | 1_520_351 | 524_511 | 1_638_590 => Conflict,
        1_638_477 | 1_638_518 => InvalidInput,
        1_638_600 => NotFound,
        // LUNs.
        5_374_242 | 1_254_196 => AlreadyExists,
        5_702_832 | 7_018_877 | 5_374_053 | 5_374_316 => Busy,
        5_374_875 | 5_374_876 => NotFound,
        1_254_197 => InUse,
        1_254_226 | 5_374_705 | 5_374_707 => Conflict,
        5_374_865 | 5_374_866 => Unavailable,
        5_440_509 => OutOfSpace,
        5_374_121 | 5_374_127 | 5_374_352 | 5_376_461 | 5_376_462 => InvalidInput,
        5_374_123..=5_374_125 | 5_374_130 | 5_374_241 | 5_374_892 => InvalidInput,
        5_374_237 | 5_374_238 | 5_374_859 | 5_374_883 | 5_374_884 | 5_374_899 | 1_260_121 => InvalidInput,
        // Igroups and initiators.
        5_374_023 | 5_374_035 | 5_376_488 => AlreadyExists,
        5_374_034 | 5_374_852 => NotFound,
        1_254_213 => InUse,
        5_374_732..=5_374_734 | 1_254_193 | 1_254_324 => Conflict,
        5_373_958 | 5_373_969 | 5_373_971 | 5_373_972 | 5_374_038 | 5_374_039 | 5_374_040 | 5_374_917 => {
            InvalidInput
        }
        5_373_966 => Unsupported,
        // Mappings.
        1_254_207 => AlreadyExists,
        5_374_922 | 1_254_201 | 5_374_878 | 5_374_078 => NotFound,
        5_374_573 | 5_374_574 | 5_374_581..=5_374_584 => Conflict,
        5_374_901 | 5_374_902 => InvalidInput,
        5_374_329 => Unsupported,
        _ => return None,
    })
}

/// Stands in for codes that are not documented. Only asked where no row knows the code.
fn kind_of_text(text: &str) -> Option<ErrorKind> {
    let text = text.to_ascii_lowercase();
    let holds = |any: &[&str]| any.iter().any(|it| text.contains(it));
    if holds(&["not enough space", "no space", "insufficient space"]) {
        Some(ErrorKind::OutOfSpace)
    } else if holds(&["maximum number", "limit reached", "cannot have more"]) {
        Some(ErrorKind::LimitReached)
    } else if is_about_replication(&text) {
        Some(ErrorKind::Busy)
    } else if holds(&["not running", "is stopped"]) {
        Some(ErrorKind::Unavailable)
    } else {
        None
    }
}

/// Whether the array keeps something for the sake of replication. Its codes are not documented.
fn is_about_replication(text: &str) -> bool {
    text.to_ascii_lowercase().contains("snapmirror relationship")
}

/// Whether the LUN number that was asked for is taken in the igroup, or in another one with an initiator of it. Its code is not
/// documented for a mapping, its text is relied on; the one of an initiator that joins an igroup counts as well.
pub(crate) fn is_lun_number_taken(error: &Error) -> bool {
    let mut next = StdError::source(error);
    while let Some(it) = next {
        if let Some(it) = it.downcast_ref::<OntapError>() {
            let unknown = it.code.is_none_or(|code| kind_of_code(code).is_none());
            let text = it.message.to_ascii_lowercase();
            return it.code == Some(NUMBER_TWICE)
                || (unknown && text.contains("lun") && text.contains("already in use"));
        }
        next = it.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: u16, code: &str, message: &str) -> Error {
        let failure = Failure { message: message.into(), code: Some(code.into()), target: None };
        of_failure(StatusCode::from_u16(status).ok(), failure)
    }

    /// Every documented code that a verb of ours can meet, with what it must come to.
    #[test]
    fn every_row() {
        use ErrorKind as K;
        let rows: &[(u16, u64, K)] = &[
            (409, 1, K::AlreadyExists),
            (400, 2, K::InvalidInput),
            (400, 3, K::Unsupported),
            (404, 4, K::NotFound),
            (403, 6, K::PermissionDenied),
            (409, 8, K::Busy),
            (400, 262_155, K::Unsupported),
            (400, 262_179, K::Unsupported),
            (400, 262_186, K::InvalidInput),
            (400, 262_196, K::InvalidInput),
            (400, 262_197, K::InvalidInput),
            (403, 262_325, K::Busy),
            (409, 524_481, K::Busy),
            (409, 1_638_480, K::Busy),
            (409, 9_437_886, K::Busy),
            (409, 524_511, K::Conflict),
            (409, 1_638_590, K::Conflict),
            (404, 2_621_462, K::NotFound),
            (400, 2_621_706, K::InvalidInput),
            (400, 2_621_707, K::InvalidInput),
            (409, 917_526, K::AlreadyExists),
            (409, 13_107_405, K::Busy),
            (409, 524_486, K::Busy),
            (409, 524_615, K::Busy),
            (404, 917_927, K::NotFound),
            (404, 917_508, K::NotFound),
            (404, 8_454_243, K::NotFound),
            (400, 787_144, K::InvalidInput),
            (400, 918_521, K::InvalidInput),
            (400, 917_534, K::InvalidInput),
            (400, 917_888, K::InvalidInput),
            (400, 918_701, K::Unsupported),
            (409, 525_059, K::AlreadyExists),
            (409, 525_062, K::LimitReached),
            (409, 524_479, K::OutOfSpace),
            (409, 1_638_543, K::Busy),
            (409, 1_638_555, K::Busy),
            (404, 1_638_600, K::NotFound),
            (409, 5_374_242, K::AlreadyExists),
            (409, 1_254_196, K::AlreadyExists),
            (409, 5_702_832, K::Busy),
            (404, 5_374_875, K::NotFound),
            (409, 1_254_197, K::InUse),
            (400, 1_254_226, K::Conflict),
            (400, 5_374_892, K::InvalidInput),
            (409, 5_374_866, K::Unavailable),
            (409, 5_374_023, K::AlreadyExists),
            (404, 5_374_852, K::NotFound),
            (409, 1_254_213, K::InUse),
            (409, 5_374_733, K::Conflict),
            (409, 1_254_193, K::Conflict),
            (409, 1_254_207, K::AlreadyExists),
            (404, 5_374_922, K::NotFound),
            (404, 1_254_201, K::NotFound),
            (404, 5_374_878, K::NotFound),
            (400, 5_374_582, K::Conflict),
        ];
        for &(status, code, kind) in rows {
            let error = failure(status, &code.to_string(), "text");
            assert_eq!((error.kind(), error.effect()), (kind, EffectState::None), "{code}");
            assert_eq!(code_of(&error), Some(code));
        }
    }

    #[test]
    fn an_unknown_code_is_internal_and_shown() {
        let error = failure(400, "424242", "surprise\n\u{1b}[2J");
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Internal, EffectState::None));
        assert!(error.chain().to_string().contains("424242 \"surprise[2J\""), "{}", error.chain());
        assert_eq!(failure(500, "424242", "surprise").effect(), EffectState::Unknown);
        let of_job = of_failure(None, Failure { message: String::new(), code: None, target: None });
        assert_eq!((of_job.kind(), of_job.effect()), (ErrorKind::Internal, EffectState::Unknown));
    }

    #[test]
    fn texts_stand_in_only_for_undocumented_codes() {
        assert_eq!(failure(400, "99", "Not enough space in aggregate \"a\"").kind(), ErrorKind::OutOfSpace);
        assert_eq!(failure(409, "4", "no space").kind(), ErrorKind::NotFound);
        assert!(is_lun_number_taken(&failure(409, "99", "LUN number 3 is already in use")));
        assert!(!is_lun_number_taken(&failure(409, "1254207", "LUN already in use")));
    }

    #[test]
    fn what_waits_for_others_says_for_whom() {
        let approval = failure(403, "262325", "approval is needed");
        assert!(approval.message().contains("approval") && approval.remedy().unwrap().contains("approve"));
        assert!(approval.is_passing());
        let text = "Volume is the source endpoint of one or more SnapMirror relationships";
        let kept = failure(409, "99", text);
        assert_eq!((kept.kind(), kept.effect()), (ErrorKind::Busy, EffectState::None));
        assert!(kept.remedy().unwrap().contains("snapmirror release"));
    }

    #[test]
    fn a_foreign_answer_is_named_as_such() {
        for status in [404, 500] {
            let status = StatusCode::from_u16(status).unwrap();
            let error =
                of_answer(&Answer { status, body: "<html>canary</html>".into(), after_silence: false });
            // Also where the status is a refusal: whoever wrote that is not known to be the array.
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Protocol, EffectState::Unknown));
            assert!(!format!("{error:?}").contains("canary"));
        }
    }

    #[test]
    fn a_code_is_found_below_further_layers() {
        let error = Error::wrap(Error::wrap(failure(409, "917526", ""), "a"), "b");
        assert!(is(&error, code::VOLUME_EXISTS));
    }
}
