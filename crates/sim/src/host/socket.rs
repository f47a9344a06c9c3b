//! multipathd's socket: framed commands and replies, many on one connection, worked off one by one.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::Instant;

use super::log::LogKind;
use super::machine::Machine;
use super::multipathd::Daemon;
use super::node::SimNode;
use super::settings::Release;

/// The longest command multipathd takes, with its NUL.
const MAX_COMMAND: usize = 512;

/// How long a command waits for multipathd's lock (`uxsock_timeout`).
const LOCK_PATIENCE: std::time::Duration = std::time::Duration::from_secs(4);

/// A new connection to a running (or hung) multipathd.
pub(crate) fn connect(node: &SimNode, epoch: u64) -> DuplexStream {
    let (client, server) = tokio::io::duplex(64 * 1024);
    tokio::spawn(converse(node.clone(), server, epoch));
    client
}

/// What to do about a command.
enum Turn {
    Late,
    At(Instant),
}

async fn converse(node: SimNode, mut stream: DuplexStream, epoch: u64) {
    let ended = |machine: &mut Machine| {
        (machine.multipathd.epoch != epoch || machine.multipathd.daemon == Daemon::Stopped || !machine.is_up)
            .then_some(())
    };
    loop {
        let command = tokio::select! {
            () = node.until(ended) => return,
            command = read_command(&mut stream) => command,
        };
        let Some(command) = command else { return };
        let reply = tokio::select! {
            () = node.until(ended) => return,
            reply = answer(&node, &command) => reply,
        };
        if write_reply(&mut stream, &reply).await.is_none() {
            return;
        }
    }
}

/// One command; `None` where the client is gone or breaks the framing.
async fn read_command(stream: &mut DuplexStream) -> Option<String> {
    let mut length = [0; 8];
    stream.read_exact(&mut length).await.ok()?;
    let length = usize::try_from(u64::from_ne_bytes(length)).ok()?;
    if length == 0 || length > MAX_COMMAND {
        return None;
    }
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.ok()?;
    // The last byte is replaced by the terminator, whatever it was.
    bytes.pop();
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

async fn write_reply(stream: &mut DuplexStream, reply: &str) -> Option<()> {
    let length = u64::try_from(reply.len() + 1).ok()?;
    stream.write_all(&length.to_ne_bytes()).await.ok()?;
    stream.write_all(reply.as_bytes()).await.ok()?;
    stream.write_all(&[0]).await.ok()
}

async fn answer(node: &SimNode, command: &str) -> String {
    node.look(|it| it.note(LogKind::Socket, command));
    node.until(|it| (it.multipathd.daemon == Daemon::Running).then_some(())).await;
    let turn = node.look(|it| {
        if it.multipathd.late_until.is_some_and(|until| until > it.now) {
            return Turn::Late;
        }
        let timing = it.spec.timing;
        let cost = if Machine::is_change(command) { timing.table } else { timing.show };
        let begin = it.multipathd.busy_until.map_or(it.now, |busy| busy.max(it.now));
        it.multipathd.busy_until = Some(begin + cost);
        Turn::At(begin + cost)
    });
    match turn {
        Turn::Late => {
            tokio::time::sleep(LOCK_PATIENCE).await;
            let is_old = node.look(|it| it.spec.release) == Release::Debian12;
            if is_old { "timeout\n".to_owned() } else { "fail\ntimeout\n".to_owned() }
        }
        Turn::At(at) => {
            tokio::time::sleep_until(at).await;
            node.look(|it| it.command(command))
        }
    }
}
