//! [`SimNode`]: one simulated Linux node, its clock and its log.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::log::{LogEntry, LogKind};
use super::machine::Machine;

/// One simulated node. Cheap to clone; all clones are the same node.
#[derive(Clone)]
pub struct SimNode(pub(crate) Arc<Inner>);

/// What all clones share.
pub(crate) struct Inner {
    machine: Mutex<Machine>,
    changed: Notify,
    wake: Arc<Notify>,
    driver: Mutex<Option<JoinHandle<()>>>,
}

impl fmt::Debug for SimNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("SimNode").field(&self.lock().spec.name).finish()
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // The driver holds no strong reference; woken, it sees that the node is gone.
        self.wake.notify_one();
    }
}

impl SimNode {
    pub(crate) fn new(machine: Machine) -> Self {
        Self(Arc::new(Inner {
            machine: Mutex::new(machine),
            changed: Notify::new(),
            wake: Arc::new(Notify::new()),
            driver: Mutex::new(None),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Machine> {
        self.0.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the node as it is now, and perhaps changes it.
    pub(crate) fn look<R>(&self, look: impl FnOnce(&mut Machine) -> R) -> R {
        self.drive();
        let mut machine = self.lock();
        let before = machine.generation;
        machine.catch_up(Instant::now());
        let result = look(&mut machine);
        let has_changed = machine.generation != before;
        if has_changed {
            machine.reap();
        }
        drop(machine);
        if has_changed {
            self.0.changed.notify_waiters();
            self.0.wake.notify_one();
        }
        result
    }

    /// Looks again after every change until there is an answer.
    pub(crate) async fn until<R>(&self, mut look: impl FnMut(&mut Machine) -> Option<R>) -> R {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Registered before the look, so that no change between is missed.
            changed.as_mut().enable();
            if let Some(answer) = self.look(&mut look) {
                return answer;
            }
            changed.await;
        }
    }

    /// Makes sure that the task is there that lets time pass for this node.
    fn drive(&self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let mut driver = self.0.driver.lock().unwrap_or_else(PoisonError::into_inner);
        if driver.as_ref().is_none_or(JoinHandle::is_finished) {
            *driver = Some(runtime.spawn(drive(Arc::downgrade(&self.0), Arc::clone(&self.0.wake))));
        }
    }

    /// Its name.
    pub fn name(&self) -> String {
        self.lock().spec.name.clone()
    }

    /// Its iSCSI initiator name.
    pub fn initiator(&self) -> String {
        self.lock().spec.initiator.clone()
    }

    /// Everything it was asked to do and that happened to it.
    pub fn log(&self) -> Vec<LogEntry> {
        self.look(|it| it.log.clone())
    }

    /// The texts of one kind of log entry.
    pub fn logged(&self, kind: LogKind) -> Vec<String> {
        self.look(|it| it.log.iter().filter(|it| it.kind == kind).map(|it| it.text.clone()).collect())
    }

    /// Empties the log.
    pub fn forget_log(&self) {
        self.look(|it| it.log.clear());
    }

    /// Waits until `look` is true of the log's texts, for tests that follow what happens by itself.
    pub async fn until_logged(&self, kind: LogKind, part: &str) {
        self.until(|it| it.log.iter().any(|it| it.kind == kind && it.text.contains(part)).then_some(()))
            .await;
    }
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").finish_non_exhaustive()
    }
}

/// Lets time pass for a node: runs what is due and sleeps until something is.
async fn drive(node: Weak<Inner>, wake: Arc<Notify>) {
    loop {
        let next = match node.upgrade() {
            None => return,
            Some(inner) => SimNode(inner).step(),
        };
        match next {
            Some(at) => {
                // Woken early or on time: the agenda is looked at again.
                let _ = tokio::time::timeout_at(at, wake.notified()).await;
            }
            None => wake.notified().await,
        }
    }
}

impl SimNode {
    /// Runs what is due; when the next thing is.
    fn step(&self) -> Option<Instant> {
        let mut machine = self.lock();
        let ran = machine.catch_up(Instant::now());
        if ran {
            machine.reap();
        }
        let next = machine.next_event();
        drop(machine);
        if ran {
            self.0.changed.notify_waiters();
        }
        next
    }
}
