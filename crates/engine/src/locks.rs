//! One lock per volume, first come, first served.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use san_core::{Cx, Error, ErrorKind, Result};
use tokio::sync::OwnedMutexGuard;

type Lock = Arc<tokio::sync::Mutex<()>>;

/// Locks by name. Names nobody holds or waits for take no room.
#[derive(Debug, Default)]
pub(crate) struct Locks(Mutex<HashMap<String, Lock>>);

impl Locks {
    /// Waits for the lock of `name` until the context's deadline.
    pub(crate) async fn lock(&self, cx: &Cx, name: &str) -> Result<OwnedMutexGuard<()>> {
        let lock = {
            let mut locks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            // The map's own handle is one; whoever holds or waits has another.
            locks.retain(|_, it| Arc::strong_count(it) > 1);
            Arc::clone(locks.entry(name.to_owned()).or_default())
        };
        match tokio::time::timeout_at(cx.deadline().instant(), lock.lock_owned()).await {
            Ok(guard) => Ok(guard),
            Err(_) => Err(Error::new(ErrorKind::Busy, "another operation on it has not ended").on(name)),
        }
    }
}
