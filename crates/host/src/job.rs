//! What is asked of a helper process, what it answers, and how both travel.
//!
//! A frame is two lengths (32 bits, little endian), a JSON head and raw data. Both ends are the same program.

use std::io::{self, Read};
use std::path::PathBuf;

use rustix::io::Errno;
use san_core::{DeviceNumber, EffectState, Error, ErrorKind};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::errno;

/// The most bytes that one job reads from a device.
pub(crate) const DATA_MAX: usize = 1024 * 1024;
const HEAD_MAX: usize = 64 * 1024;

/// One call that can block in the kernel for longer than anybody waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Job {
    /// Write `value` in one write.
    WriteAttr { path: PathBuf, value: String },
    /// Send INQUIRY through a SCSI generic node.
    Inquiry { device: PathBuf, page: Option<u8>, timeout_ms: u32 },
    /// Write out and drop the page cache of a block device.
    Flush { device: PathBuf },
    /// Read past the page cache.
    ReadBlock { device: PathBuf, offset: u64, length: usize },
    /// Ask device-mapper how often a device is open.
    OpenCount { control: PathBuf, device: DeviceNumber },
}

impl Job {
    /// What shares a fate: while a helper is stuck in one of these, the same one is not asked for again.
    ///
    /// It is the path and not the device's directory: putting a leg offline is the cure of its stuck rescan.
    pub(crate) fn key(&self) -> String {
        match self {
            Self::WriteAttr { path: device, .. }
            | Self::Inquiry { device, .. }
            | Self::Flush { device }
            | Self::ReadBlock { device, .. } => device.display().to_string(),
            Self::OpenCount { device, .. } => format!("device-mapper device {device}"),
        }
    }

    /// For messages: "an earlier ... has not ended".
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::WriteAttr { .. } => "write",
            Self::Inquiry { .. } => "INQUIRY",
            Self::Flush { .. } => "flush",
            Self::ReadBlock { .. } => "read",
            Self::OpenCount { .. } => "look at the openers",
        }
    }

    /// Whether anything may have happened when no answer was seen.
    pub(crate) fn effect_unseen(&self) -> EffectState {
        match self {
            Self::WriteAttr { .. } | Self::Flush { .. } => EffectState::Unknown,
            Self::Inquiry { .. } | Self::ReadBlock { .. } | Self::OpenCount { .. } => EffectState::None,
        }
    }
}

/// The head of an answer; bytes read from a device follow it as data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Done,
    OpenCount(Option<u32>),
    Failed(Failure),
}

/// Why a job failed, said by the helper.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub(crate) kind: ErrorKind,
    pub(crate) message: String,
    errno: Option<i32>,
}

impl Failure {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), errno: None }
    }

    /// A call that the kernel refused.
    pub(crate) fn os(message: &str, errno: Errno) -> Self {
        Self { kind: errno::kind(errno), message: message.into(), errno: Some(errno.raw_os_error()) }
    }

    /// The same cause where what is missing is not the thing that was asked about.
    pub(crate) fn of_a_service(mut self, message: &str) -> Self {
        if self.kind == ErrorKind::NotFound {
            self.kind = ErrorKind::Unavailable;
        }
        message.clone_into(&mut self.message);
        self
    }

    /// The error that callers see.
    pub(crate) fn into_error(self, job: &Job) -> Error {
        let mut error = Error::new(self.kind, self.message).on(job.key());
        if job.effect_unseen() == EffectState::None {
            error = error.with_effect(EffectState::None);
        }
        match self.errno {
            Some(errno) => error.caused_by(io::Error::from_raw_os_error(errno)),
            None => error,
        }
    }
}

/// Builds a frame.
pub(crate) fn encode(head: &impl Serialize, data: &[u8]) -> io::Result<Vec<u8>> {
    let head = serde_json::to_vec(head)?;
    let length = |bytes: &[u8], max: usize| match u32::try_from(bytes.len()) {
        Ok(it) if bytes.len() <= max => Ok(it),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "frame too long")),
    };
    let mut frame = length(&head, HEAD_MAX)?.to_le_bytes().to_vec();
    frame.extend(length(data, DATA_MAX)?.to_le_bytes());
    frame.extend(head);
    frame.extend(data);
    Ok(frame)
}

/// Reads a frame; `None` where the other end has closed before it.
pub(crate) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<Option<(T, Vec<u8>)>> {
    let mut prefix = [0; 8];
    if from.read(&mut prefix[..1])? == 0 {
        return Ok(None);
    }
    from.read_exact(&mut prefix[1..])?;
    let (mut head, mut data) = buffers(prefix)?;
    from.read_exact(&mut head)?;
    from.read_exact(&mut data)?;
    Ok(Some((serde_json::from_slice(&head)?, data)))
}

/// Reads a frame without blocking a thread.
pub(crate) async fn read_async<T: DeserializeOwned>(
    from: &mut (impl AsyncRead + Unpin),
) -> io::Result<(T, Vec<u8>)> {
    let mut prefix = [0; 8];
    from.read_exact(&mut prefix).await?;
    let (mut head, mut data) = buffers(prefix)?;
    from.read_exact(&mut head).await?;
    from.read_exact(&mut data).await?;
    Ok((serde_json::from_slice(&head)?, data))
}

fn buffers(prefix: [u8; 8]) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let lengths = u64::from_le_bytes(prefix);
    let bounded = |length: u64, max: usize| match usize::try_from(length) {
        Ok(length) if length <= max => Ok(vec![0; length]),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "frame too long")),
    };
    Ok((bounded(lengths & 0xffff_ffff, HEAD_MAX)?, bounded(lengths >> 32, DATA_MAX)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn jobs() -> Vec<Job> {
        vec![
            Job::WriteAttr { path: "/sys/class/scsi_host/host0/scan".into(), value: "0 0 3".into() },
            Job::Inquiry { device: "/dev/sg3".into(), page: Some(0x83), timeout_ms: 3000 },
            Job::Flush { device: "/dev/dm-1".into() },
            Job::ReadBlock { device: "/dev/dm-1".into(), offset: 0, length: 4096 },
            Job::OpenCount {
                control: "/dev/mapper/control".into(),
                device: DeviceNumber { major: 253, minor: 1 },
            },
        ]
    }

    #[tokio::test]
    async fn frames_survive_the_way() {
        for job in jobs() {
            let frame = encode(&job, b"data").unwrap();
            assert_eq!(read::<Job>(&mut &frame[..]).unwrap().unwrap(), (job.clone(), b"data".to_vec()));
            assert_eq!(read_async::<Job>(&mut &frame[..]).await.unwrap(), (job, b"data".to_vec()));
        }
        assert!(read::<Job>(&mut &b""[..]).unwrap().is_none());
        assert!(read::<Job>(&mut &b"\x01\x00"[..]).is_err());
        assert!(encode(&Answer::Done, &vec![0; DATA_MAX + 1]).is_err());
    }

    #[test]
    fn only_changes_may_have_happened_unseen() {
        let unknown = jobs().iter().filter(|it| it.effect_unseen() == EffectState::Unknown).count();
        assert_eq!(unknown, 2);
    }

    #[test]
    fn a_failed_read_has_no_effect_even_where_the_device_is_silent() {
        let jobs = jobs();
        let error = Failure::os("cannot read", Errno::IO).into_error(&jobs[3]);
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, EffectState::None));
        let error = Failure::os("cannot write", Errno::IO).into_error(&jobs[0]);
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, EffectState::Unknown));
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = read::<Answer>(&mut &bytes[..]);
        }
    }
}
