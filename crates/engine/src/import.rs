//! Disks that are filled before they count. Their creation stays unconfirmed while bytes are written, for hours perhaps, so
//! that a process that is killed in the middle leaves no half disk that looks whole. Nobody else waits for it meanwhile.
//!
//! It is taken back when its importer refuses, by closing the connection or by being killed. After a restart of the daemon
//! there is no connection: then the importer's process decides. As long as that lives it may confirm, and nothing is taken
//! from under it. What is in use, on whichever node, or named by a guest's configuration, stays in any case.

use std::sync::Arc;
use std::time::Duration;

use san_core::{Deadline, OperationId, Result};

use crate::idle::Asker;
use crate::intent::{Cursor, Intent};
use crate::registry::Entry;
use crate::runner::{CLEAN_UP, End, PAUSES, Pace};
use crate::san::San;

/// How often is looked whether an importer without a connection lives.
const LOOK: Duration = Duration::from_secs(5);
/// How long one look may take.
const GLANCE: Duration = Duration::from_secs(5);

impl San {
    /// Waits, beside everything else, until an import is confirmed or its importer is gone, and ends it. Repeatable.
    ///
    /// # Errors
    /// It cannot be read now.
    pub(crate) async fn watch_import(&self, id: OperationId) -> Result<()> {
        let Some(running) = self.mark_running(id) else { return Ok(()) };
        let Some(intent) = self.intents().get(id).await? else { return Ok(()) };
        let (Some(importer), Cursor::Unacknowledged(outcome)) = (intent.is_filled_by(), &intent.cursor)
        else {
            return Ok(());
        };
        let entry = Arc::clone(self.node().registry.join(id).0.entry());
        entry.answer(Ok(outcome.clone()));
        let san = self.clone();
        // Not among what a daemon that stops waits for: the next one goes on with it.
        self.node().spawn_endless(async move {
            let ended = if entry.acknowledged_unless(|| san.importer_gone(id, importer)).await {
                san.confirm_import(id).await
            } else {
                san.end_import(intent, &entry).await
            };
            drop(running);
            match ended {
                Ok(kept) => {
                    entry.settle(kept);
                    entry.end();
                }
                // Whoever looks for open operations next asks again; until then nobody is told anything.
                Err(error) => {
                    tracing::warn!(operation = %id, error = %error.chain(), "an import is open still");
                }
            }
        });
        Ok(())
    }

    /// Returns when the importer's process is gone.
    async fn importer_gone(&self, id: OperationId, importer: Asker) {
        while self.is_alive(&self.node().cx(Deadline::after(GLANCE), id), importer).await {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Its importer has said that it is whole: nothing is done to the disk, so that nobody who has its lock is waited for.
    async fn confirm_import(&self, id: OperationId) -> Result<bool> {
        let cx = self.node().cx(Deadline::after(GLANCE), id);
        self.intents().remove(&cx, id).await.map(|()| true)
    }

    /// Takes back what nobody confirmed, unless it is used; whether it is kept. An error: neither was decided.
    async fn end_import(&self, mut intent: Intent, entry: &Entry) -> Result<bool> {
        let cx = self.node().cx(Deadline::after(CLEAN_UP), intent.id);
        let _lock = self.node().locks.lock(&cx, &intent.work.lock_name()).await?;
        let pace = Pace { clean_up: cx.clone(), pauses: &PAUSES };
        match self.drive(&cx, &pace, &mut intent, Some(entry)).await? {
            End::Finished(_) => Ok(true),
            End::Open(error) if intent.is_filled_by().is_some() => Err(error),
            // Nobody can confirm any more what is being taken back.
            End::Undone(error) | End::Open(error) => {
                tracing::warn!(operation = %intent.id, error = %error.chain(), "an import was not confirmed");
                Ok(false)
            }
        }
    }
}
