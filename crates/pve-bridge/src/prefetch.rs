//! The disks of a guest that starts, attached side by side: PVE asks for them one after the other, and each takes its time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use san_core::{Cx, Deadline, OperationId};
use san_engine::Request;
use tokio::time::Instant;

use crate::guests::PveGuests;
use crate::names::DiskName;
use crate::storage::Storage;

/// A guest's start asks for each of its disks; within this time they belong to the same start.
const ONE_START: Duration = Duration::from_secs(60);
/// Of one guest so many at most. PVE has room for 31 disks of the common kind.
const DISKS: usize = 32;

/// Knows which guests are starting.
#[derive(Debug)]
pub(crate) struct Prefetch {
    guests: Arc<PveGuests>,
    begun: Mutex<HashMap<u64, Instant>>,
}

impl Prefetch {
    pub(crate) fn new(guests: Arc<PveGuests>) -> Self {
        Self { guests, begun: Mutex::default() }
    }

    /// Attaches the other disks that the guest of `name` has on `storage`, beside the caller's work. Whoever asks for them
    /// next finds them attached or waits for them, and is told what went wrong there. What nobody asks for after all is
    /// detached as everything idle is.
    pub(crate) fn others(&self, cx: &Cx, storage: &Arc<Storage>, name: &DiskName) {
        if !self.begins(name.vmid) {
            return;
        }
        let (cx, storage, name) = (cx.clone(), Arc::clone(storage), name.clone());
        let guests = Arc::clone(&self.guests);
        let beside = Arc::clone(&storage);
        beside.san.run_beside(async move {
            match guests.disks(&cx, name.vmid, storage.san.space()).await {
                Ok(disks) => {
                    let others = disks.into_iter().filter(|it| *it != name.object).take(DISKS);
                    others.for_each(|object| attach(&storage, object, cx.deadline()));
                }
                Err(error) => {
                    tracing::debug!(guest = name.vmid, error = %error.chain(), "its disks are not known");
                }
            }
        });
    }

    /// Whether this is the first disk of a start.
    fn begins(&self, vmid: u64) -> bool {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.retain(|_, since| since.elapsed() < ONE_START);
        let is_first = !begun.contains_key(&vmid);
        begun.entry(vmid).or_insert_with(Instant::now);
        is_first
    }
}

/// One of them: its caller is the daemon itself, which confirms the answer.
fn attach(storage: &Storage, object: String, deadline: Deadline) {
    let request = Request::Attach { object: object.clone() };
    let ticket = storage.san.submit(OperationId::random(), request, deadline);
    storage.san.run_beside(async move {
        let attached = async {
            ticket.wait(deadline).await?;
            ticket.acknowledge(deadline).await
        };
        if let Err(error) = attached.await {
            tracing::debug!(volume = object, error = %error.chain(), "it could not be attached ahead");
        }
    });
}
