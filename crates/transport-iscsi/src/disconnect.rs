//! Ends sessions: only those this process made, and only where no device is left. Node records it made go too.

use std::path::Path;

use san_core::{Cx, Result, TargetPort};

use crate::Iscsi;
use crate::auth;
use crate::exit::{Outcome, Verb};
use crate::link::Link;
use crate::record::Node;
use crate::session::{Session, sessions};
use crate::transport::Made;

const DEVICES: &str = "/sys/class/scsi_device";

impl Iscsi {
    /// Ends what may be ended of the sessions with `ports`; how many that was.
    pub(crate) async fn leave(&self, cx: &Cx, ports: &[TargetPort]) -> Result<usize> {
        let links = self.links(ports);
        let ours: Vec<_> = self.made(|it| {
            links
                .iter()
                .map(Link::key)
                .filter_map(|link| it.get(&link).copied().map(|made| (link, made)))
                .collect()
        });
        if ours.is_empty() {
            return Ok(0);
        }
        let names: Vec<_> = ours.iter().map(|(link, _)| link.clone()).collect();
        // No login and no logout of the same target at once, so that nobody attaches over a session that is going.
        let _gate = self.gate(cx, &names).await?;
        self.unlock_records(cx).await?;
        let mut ended = 0;
        for (link, made) in ours {
            if self.leave_one(cx, &link, made).await.map_err(|it| it.during("logout").on(&link))? {
                ended += 1;
            }
        }
        Ok(ended)
    }

    /// A login that ran out of time may have left our lock on open-iscsi's records, and a logout would wait for it in vain.
    async fn unlock_records(&self, cx: &Cx) -> Result<()> {
        let turn = async { Ok(self.records.lock().await) };
        let _turn = cx.within("waiting for another record step", turn).await?;
        auth::release_left_behind(&self.guard, cx).await
    }

    async fn leave_one(&self, cx: &Cx, link: &Link, made: Made) -> Result<bool> {
        let TargetPort::Iscsi { portal, target, .. } = &link.port else { return Ok(false) };
        let found = sessions(&self.guard, cx, std::slice::from_ref(&link.port)).await?;
        // A second session to the same portal through another interface is somebody else's.
        let session = found.iter().find(|it| it.interface == link.interface);
        let node = Node { target, portal: *portal, interface: &link.interface };
        let (Some(session), Made::Session | Made::SessionAndRecord) = (session, made) else {
            // A session that came without us since then may need the record; it stays with it.
            if made != Made::Session && session.is_none() {
                self.remove_record(cx, &node).await?;
            }
            self.made(|it| it.remove(link));
            return Ok(false);
        };
        if self.has_devices(cx, session).await? {
            return Ok(false);
        }
        if let Outcome::Locked(error) | Outcome::NoRecord(error) | Outcome::Failed(error) =
            self.run(cx, Verb::Remove, &node.logout_arguments()).await?.0
        {
            return Err(error);
        }
        if made == Made::SessionAndRecord {
            self.remove_record(cx, &node).await?;
        }
        self.made(|it| it.remove(link));
        Ok(true)
    }

    async fn remove_record(&self, cx: &Cx, node: &Node<'_>) -> Result<()> {
        let turn = async { Ok(self.records.lock().await) };
        let _turn = cx.within("waiting for another record step", turn).await?;
        match self.run(cx, Verb::Remove, &node.delete_arguments()).await?.0 {
            Outcome::Locked(error) | Outcome::NoRecord(error) | Outcome::Failed(error) => Err(error),
            Outcome::Done | Outcome::Already => Ok(()),
        }
    }

    /// Whether any logical unit is present behind the session, whoever it belongs to.
    async fn has_devices(&self, cx: &Cx, session: &Session) -> Result<bool> {
        let names = self.guard.list(cx, Path::new(DEVICES)).await?.unwrap_or_default();
        // Before its first login a session has no target and cannot have devices, but its host may: look at all of it.
        let prefix = format!("{}:", session.host);
        Ok(names.iter().any(|it| it.starts_with(&prefix)))
    }
}
