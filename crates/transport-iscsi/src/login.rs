//! Makes missing sessions: probes, node records, logins.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use san_core::{
    Chap, Cx, Deadline, EffectState, Error, ErrorKind, HostLogin, PortStatus, Result, TargetPort,
};
use san_host::{Probe, Tool};

use crate::Iscsi;
use crate::auth::{self, LOCK, LOCK_MAX};
use crate::exit::{LEFT_BEHIND, Outcome, Verb, is_of_this_node, outcome, unproved};
use crate::holds::Trouble;
use crate::link::Link;
use crate::record::{Node, RECORD_MAX, Record, parse};
use crate::session::sessions;
use crate::transport::Made;
use futures_util::future::join_all;

/// How often a locked record database is tried, and the first pause; it is held for tens of milliseconds.
const RECORD_TRIES: u32 = 5;
const RECORD_PAUSE: Duration = Duration::from_millis(100);
/// What `iscsiadm` needs beyond the login itself.
const TOOL_MARGIN: Duration = Duration::from_secs(2);
const LOCK_LOOK: Duration = Duration::from_millis(500);
const SESSION_PAUSE: Duration = Duration::from_millis(20);

/// A failure, and whether it is one of this node, not of the port.
#[derive(Debug, Clone)]
struct Failure {
    error: Error,
    is_of_this_node: bool,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        // A tool that is not installed is `Unavailable`; whatever concerns the port itself comes as an exit code.
        Self { is_of_this_node: error.kind() == ErrorKind::Unavailable, error }
    }
}

impl Iscsi {
    /// Makes sessions for `links`, none of which has one. `any_up`: whether volumes are reachable without them.
    ///
    /// # Errors
    /// Only where nothing is up and every failure is one of this node: a missing tool, a stopped daemon.
    pub(crate) async fn join(
        &self,
        cx: &Cx,
        links: &[Link],
        any_up: bool,
    ) -> Result<HashMap<Link, PortStatus>> {
        cx.check("connecting")?;
        // A file that cannot be read fails each login, and says so there.
        let proof = cx.within("reading what logins prove", self.proof()).await.unwrap_or_default();
        let failed_login = Trouble::Login(proof);
        let results = join_all(links.iter().map(|it| self.reach(cx, it, any_up, &failed_login))).await;
        let mut open: BTreeMap<&TargetPort, Vec<&Link>> = BTreeMap::new();
        for (link, _) in links.iter().zip(&results).filter(|(_, it)| it.is_ok()) {
            open.entry(&link.port).or_default().push(link);
        }
        // Through one interface after the other: the first session tells the group by which the others have records.
        let logins = join_all(open.into_values().map(|of_port| async move {
            let mut results = Vec::new();
            for link in of_port {
                results.push((link, self.log_in(cx, link).await));
            }
            results
        }));
        let logins = logins.await.into_iter().flatten();
        let mut statuses = HashMap::new();
        let mut of_this_node = None;
        for (link, result) in links.iter().zip(results) {
            if let Err(error) = result {
                statuses.insert(link.clone(), PortStatus::Failed(error));
            }
        }
        for (link, result) in logins {
            let status = match result {
                Ok(status) => {
                    self.holds.clear(link);
                    status
                }
                Err(Failure { error, is_of_this_node }) => {
                    if is_of_this_node {
                        of_this_node = Some(error.clone());
                    } else {
                        let hold = self.config.login_hold;
                        self.holds.failed(link, failed_login.clone(), &error, hold);
                    }
                    PortStatus::Failed(error)
                }
            };
            statuses.insert(link.clone(), status);
        }
        match of_this_node {
            Some(error) if !any_up && !statuses.values().any(PortStatus::is_up) => Err(error),
            _ => Ok(statuses),
        }
    }

    /// Whether the portal takes a connection and no login with it failed just now as `failed_login`.
    async fn reach(&self, cx: &Cx, link: &Link, any_up: bool, failed_login: &Trouble) -> Result<()> {
        // Where the volume has another road, a dead portal must not cost every attach a probe.
        if any_up && let Some(error) = self.holds.active(link, &Trouble::Probe) {
            return Err(error);
        }
        let TargetPort::Iscsi { portal, .. } = &link.port else {
            return Err(Error::new(ErrorKind::Unsupported, "this is not an iSCSI port").on(link));
        };
        let error = match self.guard.probe(cx, *portal, self.config.probe_timeout).await? {
            Probe::Open => return self.holds.active(link, failed_login).map_or(Ok(()), Err),
            Probe::Refused => "the portal refuses connections",
            Probe::Silent => "the portal does not answer",
        };
        let error = Error::new(ErrorKind::Unavailable, error).with_effect(EffectState::None).on(link);
        // This also forgets a failed login: a portal that was dead and comes back is worth a new one at once.
        self.holds.failed(link, Trouble::Probe, &error, self.config.probe_hold);
        // Until then the port is not looked at again, as long as another one is up.
        Err(if any_up { error.with_retry_after(self.config.probe_hold) } else { error })
    }

    async fn log_in(&self, cx: &Cx, link: &Link) -> Result<PortStatus, Failure> {
        let TargetPort::Iscsi { portal, target, .. } = &link.port else {
            return Err(Error::new(ErrorKind::Unsupported, "this is not an iSCSI port").on(link).into());
        };
        let node = Node { target, portal: *portal, interface: &link.interface };
        let found = self.prepare(cx, link, &node).await.map_err(|it| it.on(link))?;
        let is_ours = self.made(|it| matches!(it.get(link), Some(Made::Record | Made::SessionAndRecord)));
        let is_new = found == Record::Absent;
        let mut made = if is_new || is_ours { Made::SessionAndRecord } else { Made::Session };
        let mut result = self.run(cx, Verb::Login, &node.login_arguments()).await;
        if let Ok((Outcome::NoRecord(_), _)) = result {
            // Somebody removed the record between the two steps.
            self.prepare(cx, link, &node).await.map_err(|it| it.on(link))?;
            made = Made::SessionAndRecord;
            result = self.run(cx, Verb::Login, &node.login_arguments()).await;
        }
        let (outcome, code) = result.map_err(|it| Failure::from(it).on(link))?;
        match outcome {
            Outcome::Done => {
                // Before the wait: whatever the session's state, it is ours now.
                self.made(|it| it.insert(link.clone(), made));
                self.wait_live(cx, link).await?;
                Ok(PortStatus::Joined)
            }
            // Somebody else's login won the race, or ours of an earlier call whose answer was lost: not ours to end.
            Outcome::Already => {
                self.wait_live(cx, link).await?;
                Ok(PortStatus::Connected)
            }
            Outcome::Locked(error) | Outcome::NoRecord(error) | Outcome::Failed(error) => {
                let login = cx.within("reading what logins prove", self.proof()).await.unwrap_or_default();
                let is_mutual = matches!(login, HostLogin::Chap(Chap { target: Some(_), .. }));
                let error = if is_mutual { unproved(code, error) } else { error };
                Err(Failure { error: error.during("login").on(link), is_of_this_node: is_of_this_node(code) })
            }
        }
    }

    /// Makes sure that the node record says what our sessions need, and says what was found.
    async fn prepare(&self, cx: &Cx, link: &Link, node: &Node<'_>) -> Result<Record, Failure> {
        let turn = async { Ok(self.records.lock().await) };
        let _turn = cx.within("waiting for another record step", turn).await?;
        auth::release_left_behind(&self.guard, cx).await?;
        let found = node.record(&self.guard, cx, &self.config).await?;
        if found == Record::Absent {
            self.displaces_nothing(cx, node).await?;
            // A record without a group is one file for all interfaces: beside another session the group is known and told.
            let beside = sessions(&self.guard, cx, std::slice::from_ref(&link.port)).await?;
            let group = beside.first().and_then(|it| it.group);
            self.record_step(cx, &node.new_arguments(group)).await?;
            // Whatever becomes of the login: the record is ours to take away.
            self.made(|it| it.insert(link.clone(), Made::Record));
        }
        if found != Record::Ready {
            self.record_step(cx, &node.update_arguments(&self.config, found)).await?;
        }
        let login = cx.within("reading what logins prove", self.proof()).await?;
        if let Some((file, text)) = node.find(&self.guard, cx).await?
            && !auth::fits(&parse(&text), &login)
        {
            auth::write(&self.guard, cx, &file, RECORD_MAX, &login).await?;
        }
        Ok(found)
    }

    /// open-iscsi keeps one record without a group for a portal, whatever its interface, and removes it for any other record
    /// of that portal. Where it is somebody else's, ours is not made.
    async fn displaces_nothing(&self, cx: &Cx, node: &Node<'_>) -> Result<()> {
        let Some(interface) = node.displaced(&self.guard, cx).await? else { return Ok(()) };
        let message =
            format!("open-iscsi would lose the record that somebody made for its interface {interface}");
        Err(Error::new(ErrorKind::Conflict, message).with_remedy(
            "make that record again by a discovery, which keeps one for each interface: iscsiadm -m discovery -t \
             sendtargets -p PORTAL -I INTERFACE; or delete it: iscsiadm -m node -T TARGET -p PORTAL -I INTERFACE -o delete",
        ))
    }

    async fn record_step(&self, cx: &Cx, arguments: &[String]) -> Result<(), Failure> {
        let mut pause = RECORD_PAUSE;
        for attempt in 1.. {
            let (outcome, code) = match self.run(cx, Verb::Record, arguments).await {
                Err(error) if error.kind() == ErrorKind::Timeout => {
                    return Err(self.blame_lock(cx, error).await.into());
                }
                other => other?,
            };
            match outcome {
                Outcome::Done | Outcome::Already => break,
                // The lock is a file that other processes poll: there is no event to wait for.
                Outcome::Locked(_) if attempt < RECORD_TRIES => {
                    cx.within("waiting for open-iscsi's database", async {
                        tokio::time::sleep(pause).await;
                        Ok(())
                    })
                    .await?;
                    pause *= 2;
                }
                Outcome::Locked(error) | Outcome::NoRecord(error) | Outcome::Failed(error) => {
                    return Err(Failure { error, is_of_this_node: is_of_this_node(code) });
                }
            }
        }
        Ok(())
    }

    /// A record step that did not end: iscsiadm waits for the lock of its database longer than anybody here.
    async fn blame_lock(&self, cx: &Cx, error: Error) -> Error {
        let brief = cx.with_deadline(Deadline::after(LOCK_LOOK));
        match self.guard.read(&brief, Path::new(LOCK), LOCK_MAX).await {
            Ok(Some(_)) => Error::new(ErrorKind::Busy, "the record database of open-iscsi is locked")
                .with_effect(error.effect())
                .with_remedy(LEFT_BEHIND)
                .caused_by(error),
            Ok(None) | Err(_) => error,
        }
    }

    /// One run of `iscsiadm`.
    pub(crate) async fn run(
        &self,
        cx: &Cx,
        verb: Verb,
        arguments: &[String],
    ) -> Result<(Outcome, Option<i32>)> {
        let cx = cx.at_most(self.config.login_timeout + TOOL_MARGIN);
        let output = self.guard.run(&cx, Tool::Iscsiadm, arguments).await.map_err(|error| {
            if error.kind() == ErrorKind::Timeout {
                // open-iscsi 2.1.10 hangs in a login with manual scan (fixed in 2.1.11).
                Error::wrap(error, "iscsiadm did not end in time").with_remedy(
                    "check `systemctl status iscsid` and `iscsiadm --version`: 2.1.10 hangs, update it",
                )
            } else {
                error
            }
        })?;
        Ok((outcome(verb, &output), output.code))
    }

    /// Waits until the kernel shows the session in use.
    async fn wait_live(&self, cx: &Cx, link: &Link) -> Result<()> {
        let cx = cx.at_most(self.config.login_timeout);
        let ports = std::slice::from_ref(&link.port);
        let waiting = self.guard.wait_for(&cx, "waiting for the session", SESSION_PAUSE, || async {
            let found = sessions(&self.guard, &cx, ports).await?;
            Ok(found.iter().any(|it| it.is_live() && self.serves(it, link)).then_some(()))
        });
        waiting.await.map_err(|it| it.during("login").on(link))
    }
}

impl Failure {
    fn on(mut self, link: &Link) -> Self {
        self.error = self.error.during("login").on(link);
        self
    }
}
