//! Brings one leg into being: a targeted scan and the wait for its device nodes.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use san_core::{Cx, Error, ErrorKind, Hctl, Result};
use san_host::Attr;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::Multipath;
use crate::leg::{Present, State, device_of};
use crate::map::PAUSE;

/// When the scan is asked for again: the array's mapping may take effect after the first one, and a success of the write
/// proves nothing.
const AGAIN: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];

/// How the legs of one attach stand to each other: once one is there, the others are not waited for as long.
#[derive(Debug)]
pub(crate) struct Race {
    started: Instant,
    first: watch::Sender<Option<Instant>>,
}

impl Race {
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), first: watch::Sender::new(None) }
    }

    /// One leg is there.
    pub(crate) fn won(&self) {
        self.first.send_if_modified(|first| {
            let is_first = first.is_none();
            first.get_or_insert_with(Instant::now);
            is_first
        });
    }

    /// Ends when the others have had their chance: `straggler`, and on a slow machine as long again as the first took.
    pub(crate) async fn over(&self, straggler: Duration) {
        let first = self.first.subscribe().wait_for(Option::is_some).await.ok().and_then(|it| *it);
        match first {
            Some(first) => tokio::time::sleep_until(first + straggler.max(first - self.started)).await,
            // The sender is borrowed here: it cannot be gone.
            None => std::future::pending().await,
        }
    }
}

impl Multipath {
    /// Scans for one LUN at one address until its device nodes are there.
    ///
    /// # Errors
    /// `NotFound` where nothing appears in time.
    pub(crate) async fn scan(&self, cx: &Cx, hctl: Hctl) -> Result<Present> {
        let bounded = cx.at_most(self.config.leg);
        let started = Instant::now();
        let repeated = AtomicUsize::new(0);
        self.ask_for(&bounded, hctl).await?;
        let nothing = || Error::new(ErrorKind::NotFound, "no unit appears at this address").on(hctl);
        let appeared = self.guard.wait_for(&bounded, "waiting for a leg", PAUSE, || async {
            let found = self.look(&bounded, hctl).await?;
            if let Some(leg) = found.filter(|it| it.disk.is_some() && it.generic.is_some()) {
                return Ok(Some(leg));
            }
            let next = AGAIN.get(repeated.load(Ordering::Relaxed));
            if next.is_some_and(|it| started.elapsed() >= *it) {
                repeated.fetch_add(1, Ordering::Relaxed);
                self.drop_empty(&bounded, hctl).await?;
                self.ask_for(&bounded, hctl).await?;
            }
            Ok(None)
        });
        match appeared.await {
            Ok(leg) => Ok(leg),
            Err(error) if error.kind() == ErrorKind::Timeout && !cx.deadline().has_passed() => {
                // What these scans made goes again.
                self.drop_empty(cx, hctl).await?;
                Err(nothing())
            }
            Err(error) => Err(error.on(hctl)),
        }
    }

    /// Deletes what the kernel made of an earlier answer that there is no unit here (a peripheral qualifier other than 0):
    /// a device without a disk, which no further scan would look at again.
    async fn drop_empty(&self, cx: &Cx, hctl: Hctl) -> Result<()> {
        let Some(leg) = self.look(cx, hctl).await? else { return Ok(()) };
        let (None, Some(generic)) = (&leg.disk, &leg.generic) else { return Ok(()) };
        let node = Path::new("/dev").join(generic);
        let qualifier = |answer: &Vec<u8>| answer.first().map(|it| it >> 5);
        // What this one says now tells nothing about what the kernel took it for: that is on record.
        let then = match self.guard.attr(cx, &device_of(hctl), "inquiry").await? {
            Attr::Value(answer) => qualifier(&answer),
            Attr::Missing | Attr::DeviceGone => None,
        };
        let now =
            self.guard.inquiry(cx, &node, None, self.config.inquiry).await.ok().as_ref().and_then(qualifier);
        if then.is_some_and(|it| it != 0) || now.is_some_and(|it| it != 0) {
            tracing::info!(address = %hctl, "deleting a device without a unit");
            self.delete(cx, hctl).await?;
        }
        Ok(())
    }

    /// Asks for exactly one LUN of one target, never for more.
    async fn ask_for(&self, cx: &Cx, hctl: Hctl) -> Result<()> {
        let path = Path::new("/sys/class/scsi_host").join(format!("host{}", hctl.host)).join("scan");
        let wanted = format!("{} {} {}\n", hctl.channel, hctl.target, hctl.lun);
        self.guard.write_attr(cx, &path, &wanted).await
    }

    /// Makes the kernel read the unit's size and pages again. Does nothing, successfully, on a leg that is not running.
    pub(crate) async fn rescan(&self, cx: &Cx, hctl: Hctl) -> Result<()> {
        self.guard.write_attr(cx, &device_of(hctl).join("rescan"), "1\n").await
    }

    /// Puts a leg in or out of use.
    pub(crate) async fn set_state(&self, cx: &Cx, hctl: Hctl, state: &State) -> Result<()> {
        let word = match state {
            State::Running => "running\n",
            // The newline belongs to it: without one the kernel refuses the word.
            State::Offline => "offline\n",
            State::Other(other) => {
                return Err(Error::new(ErrorKind::Internal, format!("{other:?} cannot be set")).on(hctl));
            }
        };
        self.guard.write_attr(cx, &device_of(hctl).join("state"), word).await
    }

    /// Removes a leg and waits until its address is empty.
    pub(crate) async fn delete(&self, cx: &Cx, hctl: Hctl) -> Result<()> {
        let device = device_of(hctl);
        if let Err(error) = self.guard.write_attr(cx, &device.join("delete"), "1\n").await {
            // Somebody else's delete may have come first.
            return if self.look(cx, hctl).await?.is_none() { Ok(()) } else { Err(error.on(hctl)) };
        }
        let bounded = cx.at_most(self.config.map);
        self.guard
            .wait_for(&bounded, "waiting for a leg to go", PAUSE, || async {
                Ok(self.look(&bounded, hctl).await?.is_none().then_some(()))
            })
            .await
            .map_err(|it| it.on(hctl))
    }
}
