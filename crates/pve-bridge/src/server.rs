//! Connections of the plugin: one operation each, answered in time, undone where nobody took the answer.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use san_core::{Deadline, EffectState, Error, ErrorKind, OperationId, Result};
use san_engine::{Node, Outcome, Ticket};
use serde_json::json;
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::members::Members;
use crate::methods::{self, Reply, Running};
use crate::peers::Peers;
use crate::prefetch::Prefetch;
use crate::protocol::{Answer, Frame, VERSION, read_frame, write_frame};
use crate::storage::{Addition, Storages};

/// A client has so long to say what it wants, and to confirm an answer.
const SPEAK: Duration = Duration::from_secs(10);
/// No caller waits longer than this.
const LONGEST: Duration = Duration::from_secs(600);
/// For recording a confirmation: whoever works on the volume at that moment ends first.
const RECORD: Duration = Duration::from_secs(30);
/// For undoing an addition nobody confirmed.
const CLEAN_UP: Duration = Duration::from_secs(30);

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) node: Arc<Node>,
    pub(crate) storages: Storages,
    pub(crate) prefetch: Prefetch,
    pub(crate) members: Members,
    pub(crate) peers: Peers,
    /// Where intents and records lie.
    pub(crate) state: PathBuf,
}

/// Serves one connection to its end. A client that speaks nonsense is cut off.
pub(crate) async fn serve(service: &Service, stream: UnixStream) {
    let (reader, writer) = stream.into_split();
    let mut connection = Connection { reader, writer };
    if let Err(error) = connection.serve(service).await {
        tracing::debug!(error = %error.chain(), "a connection ended early");
    }
}

struct Connection {
    reader: OwnedReadHalf,
    writer: OwnedWriteHalf,
}

impl Connection {
    async fn serve(&mut self, service: &Service) -> Result<()> {
        let Some(frame) = self.read(SPEAK).await? else { return Ok(()) };
        if frame.v != VERSION {
            let message = format!("this daemon speaks version {VERSION} of the protocol, not {}", frame.v);
            let error = Error::new(ErrorKind::Unsupported, message)
                .with_remedy("restart PVE's daemons after an upgrade");
            return self.write(&Answer::error(frame.id, &error)).await;
        }
        if frame.ack {
            return self.late_acknowledgement(service, frame.id).await;
        }
        let patience = Duration::from_millis(frame.timeout_ms.unwrap_or(10_000)).min(LONGEST);
        let deadline = Deadline::after(patience);
        let task = frame.caller.as_ref().and_then(|it| it.task.as_deref());
        let pid = frame.caller.as_ref().and_then(|it| it.pid);
        tracing::debug!(operation = %frame.id, method = frame.method, task, pid, "request");
        match methods::call(service, &frame, deadline).await {
            Err(error) => self.write(&Answer::error(frame.id, &error)).await,
            Ok(Reply::Value(value)) => self.write(&Answer::ok(frame.id, value, Vec::new())).await,
            Ok(Reply::Updated(warnings)) => self.write(&Answer::ok(frame.id, json!({}), warnings)).await,
            Ok(Reply::Added(storage, addition, warnings)) => {
                let answer = Answer::ok(frame.id, json!({}), warnings).asking_for_acknowledgement();
                let taken = self.write(&answer).await.is_ok()
                    && self.reads_acknowledgement(frame.id, Some(SPEAK)).await;
                if taken {
                    return self.write(&Answer::acked(frame.id)).await;
                }
                if addition == Addition::Replaced {
                    return Ok(());
                }
                let cx = service.node.cx(Deadline::after(CLEAN_UP), frame.id);
                service.storages.remove(&cx, &storage).await
            }
            Ok(Reply::Operation(running)) => self.operation(&frame, *running, deadline).await,
        }
    }

    async fn operation(&mut self, frame: &Frame, running: Running, deadline: Deadline) -> Result<()> {
        let mut result = self.wait(frame.id, &running.ticket, deadline).await?;
        let mut again = None;
        if let Err(error) = &result
            && error.kind() == ErrorKind::Cancelled
            && frame.resend
        {
            // The daemon that began it died, and recovery undid it: the request is as good as new.
            again = running.again(deadline);
            if let Some(ticket) = &again {
                result = self.wait(frame.id, ticket, deadline).await?;
            }
        }
        let ticket = again.as_ref().unwrap_or(&running.ticket);
        let done = match result {
            Err(error) => return self.write(&Answer::error(frame.id, &error)).await,
            Ok(done) => done,
        };
        let needs_acknowledgement = done.needs_acknowledgement() && ticket.id() == frame.id;
        let (value, warnings) = methods::outcome(done);
        let answer = Answer::ok(frame.id, value, warnings);
        if !needs_acknowledgement {
            return self.write(&answer).await;
        }
        let patience = (!methods::is_confirmed_late(frame.method.as_deref())).then_some(SPEAK);
        if self.write(&answer.asking_for_acknowledgement()).await.is_ok()
            && self.reads_acknowledgement(frame.id, patience).await
        {
            return match ticket.acknowledge(Deadline::after(RECORD)).await {
                Ok(()) => self.write(&Answer::acked(frame.id)).await,
                Err(error) => self.write(&Answer::error(frame.id, &error)).await,
            };
        }
        ticket.refuse();
        Ok(())
    }

    /// Waits for an operation as long as its caller is there. A caller that goes away has refused what would have to be
    /// acknowledged; everything else goes on without it.
    async fn wait(
        &mut self,
        id: OperationId,
        ticket: &Ticket,
        deadline: Deadline,
    ) -> Result<Result<Outcome>> {
        let mut byte = [0; 1];
        tokio::select! {
            biased;
            result = ticket.wait(deadline) => Ok(result),
            // Nothing may be said before the answer: a byte is as good as a closed connection.
            _ = self.reader.read(&mut byte) => {
                // Whoever only watches another's operation has nothing to refuse.
                if ticket.id() == id {
                    ticket.refuse();
                }
                Err(Error::new(ErrorKind::Cancelled, "the caller went away"))
            }
        }
    }

    async fn late_acknowledgement(&mut self, service: &Service, id: OperationId) -> Result<()> {
        let unknown = || {
            let error = Error::new(ErrorKind::NotFound, format!("operation {id} is not known (any more)"));
            error.with_effect(EffectState::Unknown)
        };
        let ticket = service.node.find(id).ok_or_else(unknown);
        let acknowledged = match ticket {
            Ok(ticket) => ticket.acknowledge(Deadline::after(RECORD)).await,
            Err(error) => Err(error),
        };
        let answer = acknowledged.map_or_else(|error| Answer::error(id, &error), |()| Answer::acked(id));
        self.write(&answer).await
    }

    /// Without `patience` as long as the connection stands.
    async fn reads_acknowledgement(&mut self, id: OperationId, patience: Option<Duration>) -> bool {
        let frame = match patience {
            Some(patience) => self.read(patience).await,
            None => read_frame(&mut self.reader).await,
        };
        matches!(frame, Ok(Some(frame)) if frame.ack && frame.id == id && frame.v == VERSION)
    }

    async fn read(&mut self, patience: Duration) -> Result<Option<Frame>> {
        match tokio::time::timeout(patience, read_frame(&mut self.reader)).await {
            Ok(frame) => frame,
            Err(_) => Err(Error::new(ErrorKind::Timeout, "the client says nothing")),
        }
    }

    async fn write(&mut self, answer: &Answer) -> Result<()> {
        match tokio::time::timeout(SPEAK, write_frame(&mut self.writer, answer)).await {
            Ok(result) => result,
            Err(_) => Err(Error::new(ErrorKind::Timeout, "the client does not read")),
        }
    }
}
