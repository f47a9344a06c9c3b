//! Paths that are missing: of a port that was silent when a disk was attached, or whose session was lost later. They are made
//! when the disk is attached again, and by a look now and then at what is in use.

use std::time::Duration;

use san_core::{Cx, Deadline, Device, Error, ErrorKind, Expected, OperationId, Result, Route, TargetPort};

use crate::reconciled::Repair;
use crate::record::{Attachment, AttachmentState, addresses};
use crate::san::San;

/// How long one look may take, and the logins it begins.
const LOOK: Duration = Duration::from_secs(30);
const LOGINS: Duration = Duration::from_secs(10);
/// One disk; whoever wants to do something with it waits for as long.
const DISK: Duration = Duration::from_secs(10);

impl San {
    /// Whether sessions lead to each of the ports, through every interface that is used.
    pub(crate) fn are_led_to(&self, ports: &[TargetPort], routes: &[Route]) -> bool {
        let sessions = self.transport().sessions_per_port();
        ports.iter().all(|port| routes.iter().filter(|it| it.port() == port).count() >= sessions)
    }

    /// How many paths an attachment should have.
    pub(crate) fn paths_wanted(&self, of: &Attachment) -> usize {
        of.ports.len() * self.transport().sessions_per_port()
    }

    /// Where it will be scanned for: on record before anything is.
    pub(crate) async fn note_addresses(&self, cx: &Cx, record: &mut Attachment) -> Result<()> {
        let routes = self.routes(cx, &record.ports).await?;
        if let Some(lun) = record.lun {
            let known = std::mem::take(&mut record.addresses);
            record.addresses = addresses(&routes, lun);
            // Legs an earlier boot or session left behind are still ours to remove.
            for address in known {
                if address.lun == lun && !record.addresses.contains(&address) {
                    record.addresses.push(address);
                }
            }
        }
        self.attachments().put(cx, record).await
    }

    /// Makes the legs of what is attached already behind every session there is. The array is not asked.
    pub(crate) async fn complete_legs(
        &self,
        cx: &Cx,
        record: &mut Attachment,
        expect: &Expected,
    ) -> Result<Device> {
        self.note_addresses(cx, record).await?;
        let routes = self.routes(cx, &record.ports).await?;
        self.devices().attach(cx, expect, &routes).await
    }

    /// Makes the paths that disks of this node lack although their ports answer by now: sessions first, and then legs, of
    /// these disks only. Costs one question to multipathd while none is missing, and asks the array nothing.
    pub async fn complete_paths(&self) -> Result<()> {
        let cx = self.cx(Deadline::after(LOOK), OperationId::random());
        let mut records = self.attached().await?;
        records.retain(|it| it.state == AttachmentState::Attached && it.lun.is_some());
        self.shared().incomplete.keep(|name| records.iter().any(|it| it.view().file_name() == name));
        if records.is_empty() {
            return Ok(());
        }
        let identities: Vec<_> = records.iter().map(|it| it.identity.clone()).collect();
        let mut lacking = Vec::new();
        for (record, paths) in records.into_iter().zip(self.devices().paths(&cx, &identities).await?) {
            // What has no device is not completed but attached, by whoever needs it.
            let usable = paths.and_then(|it| usize::try_from(it.usable).ok());
            if let Some(usable) = usable.filter(|it| *it < self.paths_wanted(&record)) {
                lacking.push((record, usable));
            }
        }
        if lacking.is_empty() {
            return Ok(());
        }
        let mut ports: Vec<TargetPort> = lacking.iter().flat_map(|(it, _)| it.ports.clone()).collect();
        ports.sort();
        ports.dedup();
        // Once for all of them: a port that is silent still costs its time.
        if let Err(error) = self.connect(&cx.at_most(LOGINS), &ports).await {
            tracing::debug!(storage = %self.space(), error = %error.chain(), "no port can be reached");
        }
        for (record, usable) in lacking {
            let name = record.view().file_name();
            let led = self.routes(&cx, &record.ports).await?.len();
            if led <= usable || self.shared().incomplete.is_resting(&name) {
                continue;
            }
            match self.complete(&cx.at_most(DISK), &record).await {
                Ok(()) => {
                    self.shared().incomplete.end(&name);
                    self.reconciled(Repair::PathsCompleted, &name);
                }
                Err(error) => {
                    let why = error.chain().to_string();
                    if self.shared().incomplete.rest(&name, why.clone()) {
                        tracing::info!(storage = %self.space(), volume = %name, error = why, "it lacks paths still");
                    }
                }
            }
        }
        Ok(())
    }

    /// One disk, unless somebody works on it. An error: nothing came of it.
    async fn complete(&self, cx: &Cx, seen: &Attachment) -> Result<()> {
        let view = seen.view();
        let nothing = |why: &'static str| Err(Error::new(ErrorKind::Busy, why).on(view.file_name()));
        let _lock =
            self.node().locks.lock(cx, &format!("{}/{}", view.owner.space(), view.owner.object())).await?;
        // One that waits until the disk is filled may be open for hours, and does nothing to it meanwhile.
        if self.intents().of(&view.owner).await?.iter().any(|it| it.is_filled_by().is_none()) {
            return nothing("an operation on it has not ended");
        }
        let Some(mut record) = self.attachments().of(&view).await?.filter(|it| it == seen) else {
            return nothing("it is being changed");
        };
        let bound = self.cluster().binding(cx, &view.owner).await?;
        if !self.is_noted(cx, &view).await? || bound.is_none_or(|it| !record.is_of(&it)) {
            return nothing("it belongs here no longer");
        }
        let Some(expect) = record.expected() else { return nothing("it has no number here") };
        let Some(before) = self.inspect(cx, &expect, &record.ports).await? else {
            return nothing("it has no device");
        };
        if before.missing.is_empty() {
            return nothing("multipathd does not use all of its legs");
        }
        let after = self.complete_legs(cx, &mut record, &expect).await?;
        match after.missing.first() {
            Some(problem) if after.legs.len() <= before.legs.len() => Err(problem.error.clone()),
            _ => Ok(()),
        }
    }
}
