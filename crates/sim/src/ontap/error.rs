//! Vendor error codes with their HTTP status, and the error body.

use http::StatusCode;
use serde_json::{Value, json};

/// A vendor error code and the status it comes with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Code(pub(crate) u64, pub(crate) u16);

impl Code {
    pub(crate) fn error(self, message: impl Into<String>) -> ApiError {
        ApiError { code: self.0, status: self.1, message: message.into(), target: None }
    }
}

pub(crate) const INVALID_VALUE: Code = Code(2, 400);
pub(crate) const NOT_SUPPORTED: Code = Code(3, 400);
pub(crate) const NO_SUCH_API: Code = Code(3, 404);
pub(crate) const BAD_METHOD: Code = Code(3, 405);
pub(crate) const NO_ENTRY: Code = Code(4, 404);
pub(crate) const FORBIDDEN: Code = Code(6, 403);
pub(crate) const APPROVAL_NEEDED: Code = Code(262_325, 403);

pub(crate) const UNKNOWN_ARGUMENT: Code = Code(262_179, 400);
pub(crate) const FIELDS_EXCLUDE: Code = Code(262_186, 400);
pub(crate) const FIELD_TWICE: Code = Code(262_188, 400);
pub(crate) const NO_EXPRESSION: Code = Code(262_194, 400);
pub(crate) const NOT_SETTABLE: Code = Code(262_196, 400);
pub(crate) const BAD_VALUE: Code = Code(262_197, 400);

pub(crate) const SVM_MISSING: Code = Code(2_621_462, 404);
pub(crate) const SVM_DISAGREES: Code = Code(2_621_706, 400);
pub(crate) const SVM_NOT_GIVEN: Code = Code(2_621_707, 400);

pub(crate) const VOLUME_DUPLICATE: Code = Code(917_526, 409);
pub(crate) const VOLUME_IN_CREATION: Code = Code(13_107_405, 409);
pub(crate) const VOLUME_NAME_LONG: Code = Code(917_886, 400);
pub(crate) const VOLUME_NAME_FIRST: Code = Code(917_887, 400);
pub(crate) const VOLUME_NAME_CHAR: Code = Code(917_888, 400);
pub(crate) const VOLUME_TOO_SMALL: Code = Code(917_534, 400);
pub(crate) const VOLUME_MISSING: Code = Code(917_927, 404);
pub(crate) const AGGREGATE_MISSING: Code = Code(917_508, 404);
pub(crate) const AGGREGATE_NOT_GIVEN: Code = Code(787_140, 400);
pub(crate) const AGGREGATE_DISAGREES: Code = Code(787_141, 400);
pub(crate) const AGGREGATE_COUNT: Code = Code(918_242, 400);
pub(crate) const SNAPSHOT_POLICY_MISSING: Code = Code(917_551, 400);
pub(crate) const QOS_POLICY_MISSING: Code = Code(8_454_243, 404);
pub(crate) const NO_CLOUD_TIER: Code = Code(787_144, 400);
pub(crate) const NO_KEY_MANAGER: Code = Code(65_537_600, 400);
pub(crate) const RESERVE_TOO_LARGE: Code = Code(917_835, 400);
pub(crate) const AUTOSIZE_THRESHOLDS: Code = Code(917_829, 400);
pub(crate) const AUTOSIZE_BOUNDS: Code = Code(917_831, 400);
pub(crate) const AUTOSIZE_BELOW_SIZE: Code = Code(918_521, 400);
pub(crate) const AUTOSIZE_ABOVE_SIZE: Code = Code(918_524, 400);
pub(crate) const VOLUME_HAS_CLONES: Code = Code(524_615, 409);
pub(crate) const VOLUME_BUSY: Code = Code(524_486, 409);
pub(crate) const VOLUME_LOCKED: Code = Code(524_481, 409);
pub(crate) const CLONE_PARENT_MISSING: Code = Code(524_601, 404);
pub(crate) const PARENT_SNAPSHOT_DISAGREES: Code = Code(918_243, 400);

pub(crate) const SNAPSHOT_DUPLICATE: Code = Code(525_059, 409);
pub(crate) const SNAPSHOT_LIMIT: Code = Code(525_062, 409);
pub(crate) const SNAPSHOT_NO_SPACE: Code = Code(524_479, 409);
pub(crate) const SNAPSHOT_NAME_RESERVED: Code = Code(1_638_477, 400);
pub(crate) const SNAPSHOT_NAME_BAD: Code = Code(1_638_518, 400);
pub(crate) const SNAPSHOT_BUSY: Code = Code(1_638_543, 409);
pub(crate) const SNAPSHOT_LOCKED: Code = Code(1_638_555, 409);
pub(crate) const SNAPSHOT_MISSING: Code = Code(1_638_600, 404);
pub(crate) const SNAPSHOT_RENAME: Code = Code(524_508, 409);
pub(crate) const RESTORE_FAILED: Code = Code(524_511, 409);

pub(crate) const LUN_DUPLICATE: Code = Code(5_374_242, 409);
pub(crate) const LUN_MISSING: Code = Code(5_374_875, 404);
pub(crate) const LUN_NAME_CHAR: Code = Code(5_374_121, 400);
pub(crate) const LUN_NAME_BAD: Code = Code(5_374_127, 400);
pub(crate) const LUN_NAME_LONG: Code = Code(5_376_462, 400);
pub(crate) const LUN_TOO_SMALL: Code = Code(5_374_124, 400);
pub(crate) const LUN_TOO_LARGE: Code = Code(5_374_125, 400);
pub(crate) const LUN_SHRINK: Code = Code(5_374_892, 400);
pub(crate) const LUN_SAME_SIZE: Code = Code(1_254_226, 400);
pub(crate) const LUN_MAPPED: Code = Code(1_254_197, 409);
pub(crate) const LUN_NO_VOLUME: Code = Code(5_374_859, 400);
pub(crate) const LUN_REQUIRED: Code = Code(5_374_884, 400);
pub(crate) const LUN_NOT_WITH_CLONE: Code = Code(5_374_883, 400);
pub(crate) const LUN_SNAPSHOT_BY_NAME: Code = Code(5_374_899, 400);
pub(crate) const LUN_IN_SNAPSHOT: Code = Code(5_374_238, 400);
pub(crate) const LUN_CLONE_ELSEWHERE: Code = Code(1_260_121, 400);
pub(crate) const LUN_VOLUME_OFFLINE: Code = Code(5_374_866, 409);

pub(crate) const IGROUP_DUPLICATE: Code = Code(5_374_023, 409);
pub(crate) const IGROUP_NAME_BAD: Code = Code(5_373_958, 400);
pub(crate) const IGROUP_MISSING: Code = Code(5_374_852, 404);
pub(crate) const IGROUP_MAPPED: Code = Code(1_254_213, 409);
pub(crate) const INITIATOR_OTHER_OS: Code = Code(5_374_732, 409);
pub(crate) const INITIATOR_BAD: Code = Code(5_373_969, 400);
pub(crate) const INITIATOR_WRONG_PROTOCOL: Code = Code(5_374_038, 400);
pub(crate) const INITIATOR_PRESENT: Code = Code(5_374_035, 409);
pub(crate) const INITIATOR_ABSENT: Code = Code(5_374_034, 404);
pub(crate) const INITIATOR_MAPPED_TWICE: Code = Code(1_254_193, 409);
pub(crate) const INITIATOR_SAME_NUMBER: Code = Code(1_254_324, 409);
pub(crate) const INITIATOR_CONFLICT: Code = Code(5_374_917, 400);

pub(crate) const MAP_DUPLICATE: Code = Code(1_254_207, 409);
pub(crate) const MAP_MISSING: Code = Code(5_374_922, 404);
pub(crate) const MAP_LUN_MISSING: Code = Code(1_254_201, 404);
pub(crate) const MAP_LUN_NOT_GIVEN: Code = Code(5_374_901, 400);
pub(crate) const MAP_IGROUP_NOT_GIVEN: Code = Code(5_374_902, 400);
pub(crate) const MAP_IGROUP_MISSING: Code = Code(5_374_878, 404);

// Not documented for credentials.
pub(crate) const CREDENTIAL_DUPLICATE: Code = Code(1, 409);
pub(crate) const FIELD_MISSING: Code = Code(262_254, 400);

/// An error answer of the array, or the reason a job failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) code: u64,
    pub(crate) message: String,
    pub(crate) target: Option<String>,
}

impl ApiError {
    /// Names the offending field.
    pub(crate) fn target(mut self, field: impl Into<String>) -> Self {
        self.target = Some(field.into());
        self
    }

    pub(crate) fn no_entry() -> Self {
        NO_ENTRY.error("entry doesn't exist")
    }

    pub(crate) fn unknown_argument(name: &str) -> Self {
        UNKNOWN_ARGUMENT.error(format!("Unexpected argument \"{name}\".")).target(name)
    }

    pub(crate) fn bad_value(value: &str, field: &str) -> Self {
        BAD_VALUE.error(format!("The value \"{value}\" is invalid for field \"{field}\"")).target(field)
    }

    pub(crate) fn not_simulated(what: &str) -> Self {
        NOT_SUPPORTED.error(format!("{what} is not simulated"))
    }

    /// The data folder failed: never the client's fault.
    pub(crate) fn data(error: &std::io::Error) -> Self {
        Code(131_072, 500).error(format!("internal error in the data plane: {error}"))
    }

    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// The body of an HTTP error. The code is a string here.
    pub(crate) fn body(&self) -> Value {
        json!({ "error": self.object() })
    }

    /// The `error` object alone, as jobs carry it.
    pub(crate) fn object(&self) -> Value {
        let mut error = json!({ "message": self.message, "code": self.code.to_string() });
        if let Some(target) = &self.target {
            error["target"] = json!(target);
        }
        error
    }
}
