//! The plane: keeps the kernel equal to what arrays say.

use std::io;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::desired::{Desired, Rules};
use super::lio::Lio;
use super::plan::plan;
use super::present::Present;
use crate::target::{Access, Target};

/// The kernel's iSCSI target. There is one in a machine: every iSCSI target of the kernel is taken for its own.
///
/// All calls block, some of them until commands of dead connections have timed out: not for an async task.
#[derive(Debug)]
pub struct KernelPlane {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    lio: Lio,
    present: Present,
    rules: Rules,
}

impl KernelPlane {
    /// A plane whose portals listen in the network namespace at `netns` (`/run/netns/NAME`). What an earlier one left in
    /// the kernel is removed.
    ///
    /// # Errors
    /// Without root, LIO or configfs.
    pub fn new(netns: &Path) -> io::Result<Self> {
        let mut lio = Lio::new(netns)?;
        lio.clear()?;
        let inner = Inner { lio, present: Present::default(), rules: Rules::default() };
        Ok(Self { inner: Mutex::new(inner) })
    }

    /// Makes the kernel show what `targets` show to `initiators` (IQNs), and nothing else. Changes what differs only:
    /// sessions go on, units grow and shrink under them, and what an initiator has to prove counts from its next login.
    /// Every initiator may log in to every portal that is up.
    ///
    /// # Errors
    /// `InvalidInput` for what the kernel's target cannot express: a unit at LUN 0, an identifier that is not of NAA
    /// type 6, two portals in one group. Others name the path that failed; the next call goes on from there.
    pub fn sync(&self, targets: &[&dyn Target], initiators: &[String]) -> io::Result<()> {
        let mut inner = self.inner();
        let Inner { lio, present, rules } = &mut *inner;
        let desired = Desired::of(targets, initiators, rules)?;
        for step in plan(present, &desired) {
            lio.carry_out(&step)?;
            present.note(&step);
        }
        Ok(())
    }

    /// How an initiator may log in everywhere, whatever the arrays say, from the next [`KernelPlane::sync`] on. `None`: as
    /// the arrays say.
    pub fn set_access(&self, initiator: &str, access: impl Into<Option<Access>>) {
        let mut inner = self.inner();
        match access.into() {
            Some(access) => drop(inner.rules.access.insert(initiator.to_owned(), access)),
            None => drop(inner.rules.access.remove(initiator)),
        }
    }

    /// The logical block size in bytes (512 or 4096) of all units, from the next [`KernelPlane::sync`] on; those that
    /// are there already are made again.
    pub fn set_block_size(&self, bytes: u32) {
        self.inner().rules.block = bytes;
    }

    /// Removes everything: sessions end, portals refuse.
    ///
    /// # Errors
    /// Names the path that failed.
    pub fn clear(&self) -> io::Result<()> {
        let mut inner = self.inner();
        inner.lio.clear()?;
        inner.present = Present { made: inner.present.made, ..Present::default() };
        Ok(())
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
