//! Frames and messages between the plugin and the daemon, as `PROTOCOL.md` has them.

use std::collections::BTreeMap;

use san_core::{Error, ErrorKind, OperationId, Result};
use san_engine::Asker;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The version spoken here.
pub(crate) const VERSION: u32 = 1;
/// Largest frame from the client.
const REQUEST_MAX: usize = 1 << 20;
/// Largest frame to the client.
pub(crate) const ANSWER_MAX: usize = 16 << 20;

/// The first frame of a connection. Not printable: its parameters may hold a secret.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Frame {
    pub(crate) v: u32,
    pub(crate) id: OperationId,
    #[serde(default)]
    pub(crate) ack: bool,
    #[serde(default)]
    pub(crate) resend: bool,
    pub(crate) timeout_ms: Option<u64>,
    pub(crate) method: Option<String>,
    pub(crate) storage: Option<StorageRef>,
    pub(crate) caller: Option<Caller>,
    #[serde(default)]
    pub(crate) params: Value,
}

/// What frames of all versions have.
#[derive(Deserialize)]
struct Opening {
    v: u32,
    id: OperationId,
}

/// Which storage, with its section of the configuration as the asking node has it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StorageRef {
    pub(crate) id: String,
    pub(crate) options: BTreeMap<String, Value>,
}

/// Who asks: for the log, and to know how long somebody may want what he had attached.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Caller {
    pub(crate) pid: Option<u32>,
    pub(crate) task: Option<String>,
}

impl Caller {
    /// The process that asks: PVE's task, which names it in its id (`UPID:<node>:<pid>:<start>:...`, both hexadecimal), or else
    /// the one that sent the frame.
    pub(crate) fn asker(&self) -> Option<Asker> {
        let mut parts = self.task.iter().flat_map(|it| it.split(':')).skip(2);
        let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
        match (number(), number()) {
            (Some(pid), Some(started)) => Some(Asker { pid: pid.try_into().ok()?, started: Some(started) }),
            _ => self.pid.map(|pid| Asker { pid, started: None }),
        }
    }
}

/// An answer.
#[derive(Debug, Serialize)]
pub(crate) struct Answer {
    v: u32,
    #[serde(serialize_with = "as_printed")]
    id: OperationId,
    #[serde(skip_serializing_if = "Option::is_none")]
    ok: Option<Value>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    ack: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    acked: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure>,
}

#[derive(Debug, Serialize)]
struct Failure {
    kind: ErrorKind,
    effect: san_core::EffectState,
    message: String,
    remedy: Option<String>,
    causes: Vec<String>,
}

impl Answer {
    fn empty(id: OperationId) -> Self {
        Self { v: VERSION, id, ok: None, ack: false, acked: false, warnings: Vec::new(), error: None }
    }

    pub(crate) fn ok(id: OperationId, value: Value, warnings: Vec<String>) -> Self {
        Self { ok: Some(value), warnings, ..Self::empty(id) }
    }

    /// The same, to be acknowledged.
    pub(crate) fn asking_for_acknowledgement(self) -> Self {
        Self { ack: true, ..self }
    }

    pub(crate) fn acked(id: OperationId) -> Self {
        Self { acked: true, ..Self::empty(id) }
    }

    pub(crate) fn error(id: OperationId, error: &Error) -> Self {
        let failure = Failure {
            kind: error.kind(),
            effect: error.effect(),
            message: one_line(&error.to_string()),
            remedy: error.remedy().map(one_line),
            causes: error.causes().map(|it| one_line(&it)).collect(),
        };
        Self { error: Some(failure), ..Self::empty(id) }
    }
}

/// 32 hex digits, as the client sent it: it compares them as text.
fn as_printed<S: Serializer>(id: &OperationId, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_str(id)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn protocol(message: &'static str) -> Error {
    Error::new(ErrorKind::Protocol, message)
}

/// Reads one frame; `None` where the client closed before the first byte of it.
pub(crate) async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Frame>> {
    let broken = |error: std::io::Error| protocol("a frame was cut off").caused_by(error);
    let mut length = [0; 4];
    match stream.read(&mut length[..1]).await {
        Ok(0) => return Ok(None),
        Ok(_) => {}
        Err(error) => return Err(broken(error)),
    }
    stream.read_exact(&mut length[1..]).await.map_err(broken)?;
    let length = u32::from_be_bytes(length) as usize;
    if length == 0 || length > REQUEST_MAX {
        return Err(protocol("a frame is empty or too long"));
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.map_err(broken)?;
    understand(&bytes).map(Some)
}

/// A frame of this version, or as much of another version's as it takes to say that this is not spoken here. Errors do
/// not repeat what was sent: a secret may be in it.
fn understand(bytes: &[u8]) -> Result<Frame> {
    let opening: Opening =
        serde_json::from_slice(bytes).map_err(|_| protocol("a frame has no version and operation"))?;
    if opening.v == VERSION {
        return serde_json::from_slice(bytes).map_err(|_| protocol("a frame cannot be understood"));
    }
    Ok(Frame {
        v: opening.v,
        id: opening.id,
        ack: false,
        resend: false,
        timeout_ms: None,
        method: None,
        storage: None,
        caller: None,
        params: Value::Null,
    })
}

/// Writes one frame.
pub(crate) async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), answer: &Answer) -> Result<()> {
    let mut bytes =
        serde_json::to_vec(answer).map_err(|error| protocol("cannot write an answer").caused_by(error))?;
    if bytes.len() > ANSWER_MAX {
        let error = Error::new(ErrorKind::LimitReached, "the answer is larger than the protocol allows");
        bytes = serde_json::to_vec(&Answer::error(answer.id, &error))
            .map_err(|error| protocol("cannot write an answer").caused_by(error))?;
    }
    let length = u32::try_from(bytes.len()).map_err(|_| protocol("an answer is too long"))?;
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(bytes);
    stream.write_all(&frame).await.map_err(|error| protocol("the client is gone").caused_by(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_asker_is_the_task_or_the_process() {
        let asker = |pid, task: Option<&str>| Caller { pid, task: task.map(str::to_owned) }.asker();
        let task = "UPID:node1:000F1A2B:0A1B2C3D:65000000:vzdump:100:root@pam:";
        assert_eq!(asker(Some(7), Some(task)), Some(Asker { pid: 0xf_1a2b, started: Some(0xa1b_2c3d) }));
        assert_eq!(asker(Some(7), None), Some(Asker { pid: 7, started: None }));
        assert_eq!(asker(Some(7), Some("UPID:node1")), Some(Asker { pid: 7, started: None }));
        assert_eq!(asker(None, None), None);
    }

    #[test]
    fn an_answer_carries_the_id_as_the_client_sent_it() {
        let id = "00112233445566778899aabbccddeeff";
        let frame: Frame = serde_json::from_value(serde_json::json!({ "v": 1, "id": id })).unwrap();
        let answers = [
            Answer::ok(frame.id, serde_json::json!({}), Vec::new()),
            Answer::acked(frame.id),
            Answer::error(frame.id, &Error::new(ErrorKind::Busy, "busy")),
        ];
        for answer in answers {
            assert_eq!(serde_json::to_value(answer).unwrap()["id"], id);
        }
    }
}
