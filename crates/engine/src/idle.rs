//! What nobody detaches: templates and snapshots are attached to be copied and then forgotten. Who wants them is kept in mind,
//! and what nobody wants or uses any more is taken down.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use san_core::{Cx, Deadline, OperationId, Result, VolumeKind};
use tokio::time::Instant;

use crate::disk_view::View;
use crate::plan::Request;
use crate::reconciled::Repair;
use crate::record::AttachmentState;
use crate::san::San;

/// How long a template stays attached after its last use: whoever copies several disks comes back to each of them.
const TEMPLATE_REST: Duration = Duration::from_secs(15 * 60);
/// The same for a snapshot.
const READER_REST: Duration = Duration::from_secs(10 * 60);
/// More than the kernel tells of a process.
const STAT_MAX: usize = 4096;

/// The process for which something is attached: it may open it as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asker {
    /// Its number.
    pub pid: u32,
    /// When it was started, in the kernel's ticks since its boot; `None`: as the kernel says now.
    pub started: Option<u64>,
}

/// Who wants what is attached.
#[derive(Debug)]
pub(crate) struct Use {
    /// When it was last asked for, or seen in use.
    last: Instant,
    askers: Vec<Asker>,
}

impl Default for Use {
    fn default() -> Self {
        Self { last: Instant::now(), askers: Vec::new() }
    }
}

/// How long something stays attached after its last use; `None`: until somebody detaches it.
fn rest(view: &View, kind: VolumeKind) -> Option<Duration> {
    match (&view.snapshot, kind) {
        (Some(_), _) => Some(READER_REST),
        (None, VolumeKind::Template) => Some(TEMPLATE_REST),
        (None, VolumeKind::Disk | VolumeKind::Deleting) => None,
    }
}

impl San {
    /// Takes down what nobody has used here for a while, of what is attached to be copied: as long as one node has a template
    /// no other can delete it, and what reads a snapshot costs room. What is in use stays.
    pub async fn drop_idle(&self) -> Result<()> {
        let records = self.attached().await?;
        self.shared().uses.lock().unwrap_or_else(PoisonError::into_inner).retain(|view, _| {
            // Of what is not here nothing need be remembered.
            records.iter().any(|it| it.view() == *view)
        });
        for record in records {
            let cx = self.cx(Deadline::after(Duration::from_secs(30)), OperationId::random());
            let view = record.view();
            if record.state != AttachmentState::Attached || !self.has_rested(&cx, &view).await? {
                continue;
            }
            if let Err(error) = self.require_unused(&cx, &record).await {
                tracing::debug!(volume = %view, error = %error.chain(), "it stays attached");
                self.note_use(&cx, &view, None).await;
                continue;
            }
            let request =
                Request::Release { object: view.owner.object().to_owned(), snapshot: view.snapshot.clone() };
            let ticket = self.submit(cx.operation(), request, cx.deadline());
            match ticket.wait(cx.deadline()).await {
                Ok(_) => self.reconciled(Repair::IdleDetached, &view.file_name()),
                Err(error) => {
                    tracing::debug!(volume = %view, error = %error.chain(), "what is idle stays attached");
                }
            }
        }
        Ok(())
    }

    /// Somebody wants it, or has it open.
    pub(crate) async fn note_use(&self, cx: &Cx, view: &View, asker: Option<Asker>) {
        let asker = match asker {
            Some(Asker { pid, started: None }) => {
                Some(Asker { pid, started: self.started(cx, pid).await.ok().flatten() })
            }
            other => other,
        };
        let mut uses = self.shared().uses.lock().unwrap_or_else(PoisonError::into_inner);
        let it = uses.entry(view.clone()).or_default();
        it.last = Instant::now();
        if let Some(asker) = asker.filter(|asker| !it.askers.contains(asker)) {
            it.askers.push(asker);
        }
    }

    /// Whether it is to be taken down when nobody uses it for a while, and nobody has wanted it for so long. What was attached
    /// by an earlier process rests from now on.
    pub(crate) async fn has_rested(&self, cx: &Cx, view: &View) -> Result<bool> {
        let kind = self.cluster().binding(cx, &view.owner).await?.map(|it| it.kind).unwrap_or_default();
        let Some(rest) = rest(view, kind) else { return Ok(false) };
        let elapsed = {
            let mut uses = self.shared().uses.lock().unwrap_or_else(PoisonError::into_inner);
            uses.entry(view.clone()).or_default().last.elapsed()
        };
        Ok(elapsed >= rest && !self.is_wanted(cx, view, None).await)
    }

    /// Whether a process for which it was attached lives, besides `but`.
    pub(crate) async fn is_wanted(&self, cx: &Cx, view: &View, but: Option<Asker>) -> bool {
        let askers = {
            let uses = self.shared().uses.lock().unwrap_or_else(PoisonError::into_inner);
            uses.get(view).map(|it| it.askers.clone()).unwrap_or_default()
        };
        let mut living = Vec::new();
        for asker in askers {
            let is_alive = match self.started(cx, asker.pid).await {
                Ok(started) => started.is_some_and(|now| asker.started.is_none_or(|then| then == now)),
                // Not known is not gone.
                Err(_) => true,
            };
            if is_alive {
                living.push(asker);
            }
        }
        let is_wanted = living.iter().any(|it| but.is_none_or(|but| but.pid != it.pid));
        if let Some(it) = self.shared().uses.lock().unwrap_or_else(PoisonError::into_inner).get_mut(view) {
            it.askers = living;
        }
        is_wanted
    }

    /// When a process was started; `None` where there is none of that number.
    async fn started(&self, cx: &Cx, pid: u32) -> Result<Option<u64>> {
        let path = PathBuf::from(format!("/proc/{pid}/stat"));
        let Some(bytes) = self.node().host.read(cx, &path, STAT_MAX).await? else { return Ok(None) };
        started_of(&String::from_utf8_lossy(&bytes)).map(Some)
    }
}

/// The start time in `/proc/<pid>/stat` (proc(5), field 22). The program's name before it may hold anything.
fn started_of(stat: &str) -> Result<u64> {
    let after_name = stat.rsplit_once(')').map(|(_, rest)| rest);
    let started = after_name.and_then(|it| it.split_whitespace().nth(19)).and_then(|it| it.parse().ok());
    started.ok_or_else(|| {
        san_core::Error::new(
            san_core::ErrorKind::Protocol,
            "what the kernel tells of a process is not understood",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_process_is_found_behind_any_name() {
        let numbers = "S 1 4711 4711 0 -1 4194304 25 0 0 0 1 2 0 0 20 0 1 0 98765 2252800 80";
        for name in ["task", "a b", "a) S 1 (b", ")"] {
            assert_eq!(started_of(&format!("4711 ({name}) {numbers}")).unwrap(), 98765);
        }
        assert!(started_of("4711 (task) S 1").is_err());
        assert!(started_of("").is_err());
    }
}
