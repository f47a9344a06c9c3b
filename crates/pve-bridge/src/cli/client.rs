//! The daemon's client for people: the same frames that PVE's plugin sends, with the same manners.

use std::path::PathBuf;
use std::time::Duration;

use san_core::{Deadline, EffectState, Error, ErrorKind, OperationId, Result};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::exit::{Exit, Failure};
use crate::protocol::{ANSWER_MAX, VERSION};

/// How long a daemon that restarts is waited for.
const START: Duration = Duration::from_secs(1);
/// Between two attempts to reach it.
const PAUSE: Duration = Duration::from_millis(100);
/// The daemon answers within the deadline it was given; so much longer it is listened to.
const GRACE: Duration = Duration::from_millis(500);

/// A connection to the daemon of this node, made anew for each call.
#[derive(Debug)]
pub(crate) struct Client {
    socket: PathBuf,
}

/// What the daemon answered.
#[derive(Debug)]
pub(crate) struct Reply {
    /// Its result.
    pub(crate) ok: Value,
    /// What is not as it should be.
    pub(crate) warnings: Vec<String>,
}

/// An answer as it comes. Members of newer daemons are not known and left alone.
#[derive(Debug, Deserialize)]
struct Received {
    v: u32,
    id: String,
    ok: Option<Value>,
    #[serde(default)]
    ack: bool,
    #[serde(default)]
    acked: bool,
    #[serde(default)]
    warnings: Vec<String>,
    error: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
struct Refusal {
    /// A kind of a newer daemon is not known here.
    kind: Value,
    effect: Option<EffectState>,
    message: String,
    remedy: Option<String>,
    #[serde(default)]
    causes: Vec<String>,
}

impl Refusal {
    fn into_error(self) -> Error {
        let kind = serde_json::from_value(self.kind).unwrap_or(ErrorKind::Internal);
        let mut message = self.message;
        for cause in self.causes {
            message = format!("{message}: {cause}");
        }
        let error = Error::new(kind, message).with_effect(self.effect.unwrap_or(EffectState::Unknown));
        match self.remedy {
            Some(remedy) => error.with_remedy(remedy),
            None => error,
        }
    }
}

impl Client {
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Calls a method and confirms the answer where that is asked for. A connection that breaks is made again, and the
    /// request sent again under its id, until `patience` ends: whatever it began is joined, never begun twice.
    pub(crate) async fn call(
        &self,
        method: &str,
        params: Value,
        patience: Duration,
    ) -> Result<Reply, Failure> {
        let (id, deadline) = (OperationId::random(), Deadline::after(patience));
        let mut resend = false;
        loop {
            let mut stream = match self.connect(if resend { deadline } else { Deadline::after(START) }).await
            {
                Ok(stream) => stream,
                Err(failure) if resend => return Err(unknown_end(failure)),
                Err(failure) => return Err(failure),
            };
            let left = u64::try_from(deadline.remaining().as_millis()).unwrap_or(u64::MAX);
            let request = json!({
                "v": VERSION, "id": id.to_string(), "resend": resend, "timeout_ms": left, "method": method,
                "caller": { "pid": std::process::id() }, "params": params,
            });
            let until = Deadline::after(deadline.remaining() + GRACE);
            match exchange(&mut stream, id, &request, until).await {
                Ok(reply) => return Ok(reply?),
                Err(error) if deadline.remaining().is_zero() => {
                    return Err(error.with_effect(EffectState::Unknown).into());
                }
                Err(_) => resend = true,
            }
        }
    }

    async fn connect(&self, until: Deadline) -> Result<UnixStream, Failure> {
        loop {
            let error = match UnixStream::connect(&self.socket).await {
                Ok(stream) => return Ok(stream),
                Err(error) => error,
            };
            if error.kind() == std::io::ErrorKind::PermissionDenied {
                let error = Error::new(ErrorKind::PermissionDenied, "only root may speak to the daemon")
                    .on(self.socket.display())
                    .with_remedy("run it as root");
                return Err(error.into());
            }
            if until.remaining() <= PAUSE {
                let message = format!("the sanbridge daemon is not running on this node ({error})");
                let error = Error::new(ErrorKind::Unavailable, message)
                    .with_effect(EffectState::None)
                    .with_remedy("systemctl start sanbridge");
                return Err(Failure { exit: Exit::NoDaemon, error });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The daemon went away while it worked, and did not come back.
fn unknown_end(failure: Failure) -> Failure {
    let message = "the daemon went away before it answered, and did not come back";
    let error = Error::wrap(failure.error, message)
        .with_effect(EffectState::Unknown)
        .with_remedy("systemctl status sanbridge");
    Failure { exit: failure.exit, error }
}

/// One request and its answer. An outer error: the connection broke.
async fn exchange(
    stream: &mut UnixStream,
    id: OperationId,
    request: &Value,
    until: Deadline,
) -> Result<Result<Reply>> {
    write(stream, request).await?;
    let received = read(stream, id, until).await?;
    if let Some(refusal) = received.error {
        return Ok(Err(refusal.into_error()));
    }
    let Some(ok) = received.ok else {
        return Ok(Err(Error::new(
            ErrorKind::Protocol,
            "the daemon's answer has neither a result nor an error",
        )));
    };
    if received.ack {
        write(stream, &json!({ "v": VERSION, "id": id.to_string(), "ack": true })).await?;
        let confirmed = read(stream, id, until).await?;
        if let Some(refusal) = confirmed.error {
            return Ok(Err(refusal.into_error()));
        }
        if !confirmed.acked {
            return Ok(Err(Error::new(ErrorKind::Protocol, "the daemon did not confirm the answer")));
        }
    }
    Ok(Ok(Reply { ok, warnings: received.warnings }))
}

fn broken(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "the connection to the daemon broke").caused_by(error)
}

async fn write(stream: &mut UnixStream, frame: &Value) -> Result<()> {
    let bytes = frame.to_string().into_bytes();
    let length = u32::try_from(bytes.len())
        .map_err(|_| Error::new(ErrorKind::InvalidInput, "the request is too long"))?;
    stream.write_all(&length.to_be_bytes()).await.map_err(broken)?;
    stream.write_all(&bytes).await.map_err(broken)
}

async fn read(stream: &mut UnixStream, id: OperationId, until: Deadline) -> Result<Received> {
    let frame = async {
        let mut length = [0; 4];
        stream.read_exact(&mut length).await.map_err(broken)?;
        let length = u32::from_be_bytes(length) as usize;
        if length == 0 || length > ANSWER_MAX {
            return Err(Error::new(ErrorKind::Protocol, "the daemon's answer is empty or too long"));
        }
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).await.map_err(broken)?;
        Ok(bytes)
    };
    let silent = |_| Error::new(ErrorKind::Timeout, "the daemon did not answer in time");
    let bytes = tokio::time::timeout_at(until.instant(), frame).await.map_err(silent)??;
    let received: Received = serde_json::from_slice(&bytes).map_err(|error| {
        Error::new(ErrorKind::Protocol, "the daemon's answer is not understood").caused_by(error)
    })?;
    if received.v != VERSION && received.error.is_none() || received.id != id.to_string() {
        return Err(Error::new(ErrorKind::Protocol, "the daemon answered something else"));
    }
    Ok(received)
}
