//! A client of multipathd that keeps its connections, repeats what timed out and never believes a lost answer.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use san_core::{Cx, EffectState, Error, ErrorKind, Result};
use san_host::{Guard, Stream};

use crate::MultipathConfig;
use crate::wire::{self, MapLine, PathLine, Reason, Reply};

/// Connections kept for the next command: the daemon runs one command at a time anyway.
const KEPT: usize = 4;
/// The first pause after the daemon said `timeout`; doubled up to the second.
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_millis(800);
const START: &str = "systemctl start multipathd";

/// A change of one map or path. Every one of them may be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    AddMap,
    DelMap,
    ResizeMap,
    ResumeMap,
    AddPath,
    DelPath,
    EndWaiting,
    ResumeWaiting,
}

impl Change {
    fn verb(self) -> &'static str {
        match self {
            Self::AddMap => "add map",
            Self::DelMap => "del map",
            Self::ResizeMap => "resize map",
            Self::ResumeMap => "resume map",
            Self::AddPath => "add path",
            Self::DelPath => "del path",
            Self::EndWaiting => "disablequeueing map",
            Self::ResumeWaiting => "restorequeueing map",
        }
    }
}

/// multipathd's socket.
pub(crate) struct Multipathd {
    guard: Guard,
    config: MultipathConfig,
    idle: Mutex<Vec<Box<dyn Stream>>>,
}

impl fmt::Debug for Multipathd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Multipathd").field("sockets", &self.config.sockets).finish_non_exhaustive()
    }
}

impl Multipathd {
    pub(crate) fn new(guard: Guard, config: MultipathConfig) -> Self {
        Self { guard, config, idle: Mutex::default() }
    }

    fn idle<T>(&self, work: impl FnOnce(&mut Vec<Box<dyn Stream>>) -> T) -> T {
        work(&mut self.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Every path multipathd knows.
    pub(crate) async fn paths(&self, cx: &Cx) -> Result<Vec<PathLine>> {
        wire::paths(&self.show(cx, wire::SHOW_PATHS).await?)
    }

    /// Every map multipathd knows.
    pub(crate) async fn maps(&self, cx: &Cx) -> Result<Vec<MapLine>> {
        wire::maps(&self.show(cx, wire::SHOW_MAPS).await?)
    }

    async fn show(&self, cx: &Cx, command: &str) -> Result<Reply> {
        self.patiently(cx, || async {
            let exchange = self.exchange(cx, command);
            cx.at_most(self.config.answer).within("waiting for multipathd", exchange).await
        })
        .await
    }

    /// Asks for a change under the effect seam. Whatever is answered, look at the kernel's state before believing it.
    pub(crate) async fn change(&self, cx: &Cx, change: Change, subject: &str) -> Result<Reply> {
        let command = format!("{} {subject}", change.verb());
        self.patiently(cx, || async {
            let bounded = cx.at_most(self.config.answer);
            self.guard.exchange(&bounded, change.verb(), subject, self.exchange(&bounded, &command)).await
        })
        .await
        .map_err(|it| it.during(change.verb()).on(subject))
    }

    /// Repeats `ask` while the daemon says that it could not get its lock, within the deadline.
    async fn patiently<Ask>(&self, cx: &Cx, ask: impl Fn() -> Ask) -> Result<Reply>
    where
        Ask: Future<Output = Result<Reply>>,
    {
        let mut pause = PAUSE;
        loop {
            let reply = ask().await.map_err(name_the_daemon)?;
            if reply != Reply::Fail(Reason::Timeout) {
                return Ok(reply);
            }
            // The daemon tells nobody when it is free again.
            if cx.deadline().remaining() <= pause {
                return Err(name_the_daemon(
                    Error::new(ErrorKind::Timeout, "multipathd is busy").with_effect(EffectState::Unknown),
                ));
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// One command on a kept connection, or on a new one where the kept one turns out to be broken.
    async fn exchange(&self, cx: &Cx, command: &str) -> Result<Reply> {
        while let Some(mut stream) = self.idle(Vec::pop) {
            // The daemon may have been restarted since. All our commands may be repeated.
            match self.converse(&mut stream, command).await {
                Ok(reply) => {
                    self.keep(stream);
                    return Ok(reply);
                }
                Err(error) if error.kind() == ErrorKind::Unavailable => {}
                Err(error) => return Err(error),
            }
        }
        let mut stream = self.connect(cx).await?;
        let reply = self.converse(&mut stream, command).await?;
        self.keep(stream);
        Ok(reply)
    }

    async fn converse(&self, stream: &mut Box<dyn Stream>, command: &str) -> Result<Reply> {
        wire::send(stream.as_mut(), command).await?;
        wire::receive(stream.as_mut()).await.map(|it| Reply::parse(&it))
    }

    fn keep(&self, stream: Box<dyn Stream>) {
        self.idle(|idle| {
            if idle.len() < KEPT {
                idle.push(stream);
            }
        });
    }

    async fn connect(&self, cx: &Cx) -> Result<Box<dyn Stream>> {
        let mut last = None;
        for address in &self.config.sockets {
            match self.guard.connect(cx, address).await {
                Ok(stream) => return Ok(stream),
                Err(error) if error.kind() == ErrorKind::Unavailable => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        let error = Error::new(ErrorKind::Unavailable, "multipathd is not running")
            .with_effect(EffectState::None)
            .with_remedy(START);
        Err(match last {
            Some(cause) => error.caused_by(cause),
            None => error,
        })
    }
}

/// Whatever fails here concerns the daemon: say so where the error does not.
fn name_the_daemon(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Timeout if !error.message().contains("multipathd") => {
            Error::wrap(error, "multipathd did not answer in time").with_remedy(
                "check `systemctl status multipathd`; `systemctl restart multipathd` is safe for maps",
            )
        }
        _ => error,
    }
}
