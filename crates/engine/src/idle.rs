//! What nobody detaches: templates and snapshots are attached to be copied and then forgotten, and so are disks whenever a
//! hypervisor does not come to detach them. Who wants them is kept in mind, and what nobody wants or uses any more is taken down.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use san_core::{Cx, Deadline, Error, ErrorKind, OperationId, Result, VolumeKind};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::disk_view::View;
use crate::plan::Request;
use crate::reconciled::Repair;
use crate::record::{Attachment, AttachmentState};
use crate::san::San;

/// How long a disk stays attached after its last use: whoever copies several disks comes back to each of them, and a guest
/// that starts may wait for another one.
const DISK_REST: Duration = Duration::from_secs(15 * 60);
/// The same for a snapshot.
const READER_REST: Duration = Duration::from_secs(10 * 60);
/// Two looks have to find it unused, so far apart that nobody is just changing hands.
const BETWEEN_LOOKS: Duration = Duration::from_secs(20);
/// More than the kernel tells of a process.
const STAT_MAX: usize = 4096;

/// The process for which something is attached: it may open it as long as it lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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
    /// When a look found it unused for the first time since then.
    unused: Option<Instant>,
    askers: Vec<Asker>,
}

impl Default for Use {
    fn default() -> Self {
        Self { last: Instant::now(), unused: None, askers: Vec::new() }
    }
}

/// How long something stays attached after its last use; `None`: until somebody detaches it.
fn rest(view: &View, kind: VolumeKind) -> Option<Duration> {
    match (&view.snapshot, kind) {
        (Some(_), _) => Some(READER_REST),
        (None, VolumeKind::Template | VolumeKind::Disk) => Some(DISK_REST),
        (None, VolumeKind::Deleting) => None,
    }
}

impl San {
    /// Takes down what nobody has used here for a while: as long as one node has a disk no other can delete it, and what reads
    /// a snapshot costs room. What is in use stays, and so does whatever cannot be proved to be unused. Called again and
    /// again: one look is no proof.
    pub async fn drop_idle(&self) -> Result<()> {
        if self.status().problem.is_some() {
            // It could not take the mappings away, and would have to be asked for them where they are needed next.
            return Ok(());
        }
        let records = self.attached().await?;
        self.shared().uses.lock().unwrap_or_else(PoisonError::into_inner).retain(|view, _| {
            // Of what is not here nothing need be remembered.
            records.iter().any(|it| it.view() == *view)
        });
        for record in records {
            let cx = self.cx(Deadline::after(Duration::from_secs(30)), OperationId::random());
            let view = record.view();
            if record.state == AttachmentState::Attached
                && let Err(error) = self.drop_if_idle(&cx, &record, &view).await
            {
                tracing::debug!(volume = %view, error = %error.chain(), "it stays attached");
                self.note_use(&cx, &view, None).await;
            }
        }
        Ok(())
    }

    /// An error: it is in use, or nobody knows.
    async fn drop_if_idle(&self, cx: &Cx, record: &Attachment, view: &View) -> Result<()> {
        if !self.has_rested(cx, view).await? {
            return Ok(());
        }
        self.require_unused(cx, record).await?;
        if !self.was_unused_before(view) {
            return Ok(());
        }
        let request =
            Request::Release { object: view.owner.object().to_owned(), snapshot: view.snapshot.clone() };
        let ticket = self.submit(cx.operation(), request, cx.deadline());
        ticket.wait(cx.deadline()).await?;
        // Somebody may have asked for it at the last moment, and where the array is silent its part is still to come.
        if self.attachments().of(view).await?.is_none() {
            self.reconciled(Repair::IdleDetached, &view.file_name());
        }
        Ok(())
    }

    /// Notes that a look has found it unused; whether an earlier one has, long enough ago.
    fn was_unused_before(&self, view: &View) -> bool {
        let mut uses = self.shared().uses.lock().unwrap_or_else(PoisonError::into_inner);
        let first = *uses.entry(view.clone()).or_default().unused.get_or_insert_with(Instant::now);
        first.elapsed() >= BETWEEN_LOOKS
    }

    /// Somebody wants it, or has it open.
    pub(crate) async fn note_use(&self, cx: &Cx, view: &View, asker: Option<Asker>) {
        let asker = match asker {
            Some(asker) => Some(self.recognized(cx, asker).await),
            None => None,
        };
        let mut uses = self.shared().uses.lock().unwrap_or_else(PoisonError::into_inner);
        let it = uses.entry(view.clone()).or_default();
        it.last = Instant::now();
        it.unused = None;
        if let Some(asker) = asker.filter(|asker| !it.askers.contains(asker)) {
            it.askers.push(asker);
        }
    }

    /// The process with its start, so that another one of its number is told from it.
    pub(crate) async fn recognized(&self, cx: &Cx, asker: Asker) -> Asker {
        match asker.started {
            Some(_) => asker,
            None => Asker { started: self.started(cx, asker.pid).await.ok().flatten(), ..asker },
        }
    }

    /// Whether it is to be taken down when nobody uses it for a while, and nobody has wanted it for so long. What was attached
    /// by an earlier process rests from now on.
    ///
    /// # Errors
    /// `InUse` where a disk may be needed although nobody has asked for it lately: its guest runs, is locked or moves, or a
    /// task works on it.
    pub(crate) async fn has_rested(&self, cx: &Cx, view: &View) -> Result<bool> {
        // What the cluster knows nothing of is not idle, but stale.
        let Some(bound) = self.cluster().binding(cx, &view.owner).await? else { return Ok(false) };
        let Some(rest) = rest(view, bound.kind) else { return Ok(false) };
        let elapsed = {
            let mut uses = self.shared().uses.lock().unwrap_or_else(PoisonError::into_inner);
            uses.entry(view.clone()).or_default().last.elapsed()
        };
        if elapsed < rest || self.is_wanted(cx, view, None).await {
            return Ok(false);
        }
        if view.snapshot.is_none() && bound.kind == VolumeKind::Disk {
            self.require_unneeded(cx, view).await?;
        }
        Ok(true)
    }

    /// Makes sure that no guest needs a disk here, although nobody may have it open at this moment.
    ///
    /// # Errors
    /// `InUse` with what is under way.
    pub(crate) async fn require_unneeded(&self, cx: &Cx, view: &View) -> Result<()> {
        match self.cluster().guest_activity(cx, &view.owner).await? {
            Some(activity) => Err(Error::new(ErrorKind::InUse, activity).on(view.owner.object())),
            None => Ok(()),
        }
    }

    /// Whether a process for which it was attached lives, besides `but`.
    pub(crate) async fn is_wanted(&self, cx: &Cx, view: &View, but: Option<Asker>) -> bool {
        let askers = {
            let uses = self.shared().uses.lock().unwrap_or_else(PoisonError::into_inner);
            uses.get(view).map(|it| it.askers.clone()).unwrap_or_default()
        };
        let mut living = Vec::new();
        for asker in askers {
            if self.is_alive(cx, asker).await {
                living.push(asker);
            }
        }
        let is_wanted = living.iter().any(|it| but.is_none_or(|but| but.pid != it.pid));
        if let Some(it) = self.shared().uses.lock().unwrap_or_else(PoisonError::into_inner).get_mut(view) {
            it.askers = living;
        }
        is_wanted
    }

    /// Whether a process lives. Not known is not gone.
    pub(crate) async fn is_alive(&self, cx: &Cx, asker: Asker) -> bool {
        self.started(cx, asker.pid)
            .await
            .map_or(true, |it| it.is_some_and(|now| asker.started.is_none_or(|then| then == now)))
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
        Error::new(ErrorKind::Protocol, "what the kernel tells of a process is not understood")
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
