//! The one table from the kernel's error numbers to error kinds.

use std::io;
use std::path::Path;

use rustix::io::Errno;
use san_core::{EffectState, Error, ErrorKind};

/// What an error number means to a caller.
///
/// `ENXIO` is a device that is there and does not serve (an offline disk answers it to `open`), `ENODEV` one that is
/// being taken away.
pub(crate) fn kind(errno: Errno) -> ErrorKind {
    match errno {
        Errno::NOENT | Errno::NODEV => ErrorKind::NotFound,
        Errno::PERM | Errno::ACCESS | Errno::ROFS => ErrorKind::PermissionDenied,
        Errno::BUSY | Errno::AGAIN | Errno::TXTBSY => ErrorKind::Busy,
        Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR | Errno::ISDIR | Errno::LOOP => ErrorKind::Conflict,
        Errno::INVAL | Errno::NAMETOOLONG | Errno::RANGE | Errno::BADMSG => ErrorKind::InvalidInput,
        Errno::NOTTY | Errno::OPNOTSUPP | Errno::NOSYS => ErrorKind::Unsupported,
        Errno::NOSPC | Errno::DQUOT => ErrorKind::OutOfSpace,
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS => ErrorKind::LimitReached,
        Errno::IO
        | Errno::NXIO
        | Errno::TIMEDOUT
        | Errno::NOLINK
        | Errno::REMOTEIO
        | Errno::CONNREFUSED
        | Errno::CONNRESET
        | Errno::HOSTUNREACH
        | Errno::NETUNREACH
        | Errno::PIPE => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

/// The kind of an error of the standard library; `Internal` where no error number is behind it.
pub(crate) fn kind_of(error: &io::Error) -> ErrorKind {
    Errno::from_io_error(error).map_or(ErrorKind::Internal, kind)
}

/// An error of a call that only looks: nothing has happened, whatever went wrong.
pub(crate) fn looking(message: &'static str, path: &Path, error: io::Error) -> Error {
    changing(message, path, error).with_effect(EffectState::None)
}

/// An error of a call that changes something, with the effect that is usual for its kind.
pub(crate) fn changing(message: &'static str, path: &Path, error: io::Error) -> Error {
    Error::new(kind_of(&error), message).on(path.display()).caused_by(error)
}

/// The deadline passed before or while only looking.
pub(crate) fn late(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Timeout, message).with_effect(EffectState::None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_kinds() {
        for (errno, expected) in [
            (Errno::NOENT, ErrorKind::NotFound),
            (Errno::NODEV, ErrorKind::NotFound),
            (Errno::NXIO, ErrorKind::Unavailable),
            (Errno::IO, ErrorKind::Unavailable),
            (Errno::BUSY, ErrorKind::Busy),
            (Errno::ACCESS, ErrorKind::PermissionDenied),
            (Errno::INVAL, ErrorKind::InvalidInput),
            (Errno::NOTTY, ErrorKind::Unsupported),
            (Errno::NOTDIR, ErrorKind::Conflict),
            (Errno::XFULL, ErrorKind::Internal),
        ] {
            assert_eq!(kind(errno), expected, "{errno}");
        }
    }

    #[test]
    fn a_failed_look_has_no_effect_and_a_failed_change_may_have_one() {
        let io = || io::Error::from(Errno::IO);
        assert_eq!(looking("cannot read", Path::new("/x"), io()).effect(), EffectState::None);
        assert_eq!(changing("cannot write", Path::new("/x"), io()).effect(), EffectState::Unknown);
        let refused = changing("cannot write", Path::new("/x"), Errno::INVAL.into());
        assert_eq!(refused.effect(), EffectState::None);
        assert_eq!(refused.chain().to_string(), "/x: cannot write: Invalid argument (os error 22)");
    }
}
