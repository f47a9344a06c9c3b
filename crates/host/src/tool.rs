//! Running a tool to its end, or killing it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use san_core::{Deadline, EffectState, Error, ErrorKind, Result};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout_at;

use crate::host::{Output, Tool};
use crate::process;

/// As the documentation of [`Output`] says.
const STDOUT_MAX: usize = 1024 * 1024;
/// As the documentation of [`Output`] says.
const STDERR_MAX: usize = 64 * 1024;
/// How long output is waited for after the tool has ended: something it started may keep the pipes open for ever.
const LINGER: Duration = Duration::from_millis(200);

/// The first executable file of that name.
pub(crate) fn find(tool: Tool, folders: &[PathBuf]) -> Result<PathBuf> {
    let executable = |path: &PathBuf| {
        std::fs::metadata(path).is_ok_and(|it| it.is_file() && it.permissions().mode() & 0o111 != 0)
    };
    folders.iter().map(|it| it.join(tool.name())).find(executable).ok_or_else(|| {
        Error::new(ErrorKind::Unavailable, format!("{tool} is not installed"))
            .with_effect(EffectState::None)
            .with_remedy(format!("apt install {}", tool.package()))
    })
}

/// Runs `program`. A caller that stops waiting changes nothing: the tool runs on until its deadline and is killed then.
///
/// The arguments are in no message: they may hold secrets.
pub(crate) async fn run(
    tool: Tool,
    program: &Path,
    arguments: &[String],
    deadline: Deadline,
) -> Result<Output> {
    if deadline.has_passed() {
        return Err(Error::new(ErrorKind::Timeout, "deadline passed before the tool was started")
            .on(tool)
            .with_effect(EffectState::None));
    }
    let mut command = process::command(program, arguments);
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    let (child, pipes) = start(&mut command).map_err(|error| {
        Error::new(ErrorKind::Unavailable, format!("cannot start {tool}"))
            .on(program.display())
            .with_effect(EffectState::None)
            .caused_by(error)
    })?;
    let (sender, answer) = oneshot::channel();
    tokio::spawn(attend(tool, child, pipes, deadline, sender));
    answer.await.unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "the tool's task ended").on(tool)))
}

/// The two outputs while they are read, and what has been read.
struct Pipes {
    reading: JoinSet<()>,
    stdout: Arc<Mutex<Vec<u8>>>,
    stderr: Arc<Mutex<Vec<u8>>>,
}

fn start(command: &mut Command) -> std::io::Result<(Child, Pipes)> {
    let mut child = command.spawn()?;
    let mut pipes = Pipes { reading: JoinSet::new(), stdout: Arc::default(), stderr: Arc::default() };
    if let Some(pipe) = child.stdout.take() {
        pipes.reading.spawn(drain(pipe, Arc::clone(&pipes.stdout), STDOUT_MAX));
    }
    if let Some(pipe) = child.stderr.take() {
        pipes.reading.spawn(drain(pipe, Arc::clone(&pipes.stderr), STDERR_MAX));
    }
    Ok((child, pipes))
}

/// Reads all, so that the writer never blocks, and keeps the first `max` bytes.
async fn drain(mut pipe: impl AsyncRead + Unpin, into: Arc<Mutex<Vec<u8>>>, max: usize) {
    let mut buffer = [0; 8192];
    while let Ok(read @ 1..) = pipe.read(&mut buffer).await {
        let mut kept = into.lock().unwrap_or_else(PoisonError::into_inner);
        let room = read.min(max - kept.len());
        kept.extend_from_slice(&buffer[..room]);
    }
}

async fn attend(
    tool: Tool,
    mut child: Child,
    mut pipes: Pipes,
    deadline: Deadline,
    caller: oneshot::Sender<Result<Output>>,
) {
    let group = child.id().and_then(|it| i32::try_from(it).ok()).and_then(Pid::from_raw);
    // The caller may have left: then nobody wants the answer.
    let _ = match timeout_at(deadline.instant(), child.wait()).await {
        Ok(Ok(status)) => {
            let read_all = async { while pipes.reading.join_next().await.is_some() {} };
            let _ = timeout_at(deadline.at_most(LINGER).instant(), read_all).await;
            let take =
                |it: &Mutex<Vec<u8>>| std::mem::take(&mut *it.lock().unwrap_or_else(PoisonError::into_inner));
            let (stdout, stderr) = (take(&pipes.stdout), take(&pipes.stderr));
            caller.send(Ok(Output { code: status.code(), stdout, stderr }))
        }
        Ok(Err(error)) => caller
            .send(Err(Error::new(ErrorKind::Internal, "cannot wait for the tool").on(tool).caused_by(error))),
        Err(_) => {
            // Not reaped yet, so the number still means this group. What it started goes with it.
            let killed = group.map(|it| kill_process_group(it, Signal::KILL));
            tracing::warn!(%tool, ?group, ?killed, "killed at its deadline");
            let sent =
                caller.send(Err(Error::new(ErrorKind::Timeout, "no end by the deadline; killed").on(tool)));
            let _ = child.wait().await;
            sent
        }
    };
}
