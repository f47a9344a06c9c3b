//! [`Iscsi`]: the trait [`Transport`] over the parts of this crate.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use san_core::{
    Cx, Error, ErrorKind, HostLogin, Initiator, Iqn, PortState, PortStatus, Result, Route, TargetPort,
    Transport, TransportKind,
};
use san_host::Guard;

use crate::auth::LoginSource;
use crate::holds::Holds;
use crate::link::Link;
use crate::session::{Session, sessions};
use crate::{IscsiConfig, initiator};

/// The interface of open-iscsi that leaves the choice to the routes of the system.
pub(crate) const DEFAULT: &str = "default";

/// iSCSI sessions of this node, made and ended with open-iscsi.
///
/// Which sessions are ours is known in memory only: after a restart all of them count as somebody else's and are left
/// alone. A session too many costs little; one logged out under a guest costs its disks.
///
/// Clones and what [`Iscsi::with`] makes share what is known of this node's sessions.
#[derive(Debug, Clone)]
pub struct Iscsi {
    pub(crate) guard: Guard,
    pub(crate) config: IscsiConfig,
    source: Option<Arc<dyn LoginSource>>,
    pub(crate) holds: Arc<Holds>,
    /// Links for which this process made a session, a node record, or both.
    made: Arc<Mutex<HashMap<Link, Made>>>,
    /// open-iscsi locks its record database with 10 ms polls and gives up after 30 s: one step at a time is faster.
    pub(crate) records: Arc<tokio::sync::Mutex<()>>,
    /// One target's sessions are made by one caller at a time; the next one finds them.
    gates: Arc<Mutex<HashMap<Iqn, Arc<tokio::sync::Mutex<()>>>>>,
}

/// What this process made for a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Made {
    /// The record, for a login that has not succeeded yet.
    Record,
    /// The session, through a record that was there.
    Session,
    /// The session and its record.
    SessionAndRecord,
}

impl Iscsi {
    /// The transport of the node behind `guard`.
    pub fn new(guard: Guard, config: IscsiConfig) -> Self {
        Self {
            guard,
            config,
            source: None,
            holds: Arc::default(),
            made: Arc::default(),
            records: Arc::default(),
            gates: Arc::default(),
        }
    }

    /// The same node's sessions under other settings.
    #[must_use]
    pub fn with(&self, change: impl FnOnce(&mut IscsiConfig)) -> Self {
        let mut changed = self.clone();
        change(&mut changed.config);
        changed
    }

    /// The same node's sessions, whose logins prove what `source` says.
    #[must_use]
    pub fn proving(&self, source: Arc<dyn LoginSource>) -> Self {
        Self { source: Some(source), ..self.clone() }
    }

    /// What a login is to prove now.
    pub(crate) async fn proof(&self) -> Result<HostLogin> {
        match &self.source {
            Some(source) => source.read().await,
            None => Ok(HostLogin::AsItIs),
        }
    }

    pub(crate) fn made<T>(&self, work: impl FnOnce(&mut HashMap<Link, Made>) -> T) -> T {
        work(&mut self.made.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What there should be a session for, by ports and then by interfaces.
    pub(crate) fn links(&self, ports: &[TargetPort]) -> Vec<Link> {
        let interfaces: Vec<&str> = match self.config.interfaces.as_slice() {
            [] => vec![DEFAULT],
            named => named.iter().map(String::as_str).collect(),
        };
        let of_port = |port| interfaces.iter().map(move |it| Link::new(port, it));
        ports.iter().flat_map(of_port).collect()
    }

    /// Whether a session is one for `link` as the settings want it.
    pub(crate) fn serves(&self, session: &Session, link: &Link) -> bool {
        let is_free = self.config.interfaces.is_empty();
        session.leads_to(&link.port) && (is_free || session.interface == link.interface)
    }

    /// Waits until nobody else makes sessions with the targets of `links`. Taken in one order, so that two callers
    /// never wait for each other.
    pub(crate) async fn gate(
        &self,
        cx: &Cx,
        links: &[Link],
    ) -> Result<Vec<tokio::sync::OwnedMutexGuard<()>>> {
        let targets: BTreeSet<&Iqn> = links.iter().filter_map(|it| target_of(&it.port)).collect();
        let mut held = Vec::new();
        for target in targets {
            let gate = {
                let mut gates = self.gates.lock().unwrap_or_else(PoisonError::into_inner);
                gates.entry(target.clone()).or_default().clone()
            };
            held.push(cx.within("waiting for another login", async { Ok(gate.lock_owned().await) }).await?);
        }
        Ok(held)
    }
}

fn target_of(port: &TargetPort) -> Option<&Iqn> {
    match port {
        TargetPort::Iscsi { target, .. } => Some(target),
        _ => None,
    }
}

impl Iscsi {
    /// How `link` stands without doing anything: `None` where there is no session at all.
    fn standing(&self, link: &Link, found: &[Session]) -> Option<PortStatus> {
        if target_of(&link.port).is_none() {
            let error = Error::new(ErrorKind::Unsupported, "this is not an iSCSI port").on(link);
            return Some(PortStatus::Failed(error));
        }
        let mut own = found.iter().filter(|it| self.serves(it, link)).peekable();
        let first = *own.peek()?;
        if own.any(Session::is_live) {
            return Some(PortStatus::Connected);
        }
        // iscsid repeats the login of a broken session for ever: a second login would only add a storm.
        let message = format!("the session is {}; iscsid is repairing it", first.state);
        Some(PortStatus::Failed(Error::new(ErrorKind::Unavailable, message).on(link)))
    }
}

#[async_trait]
impl Transport for Iscsi {
    fn kind(&self) -> TransportKind {
        TransportKind::Iscsi
    }

    fn sessions_per_port(&self) -> usize {
        self.config.interfaces.len().max(1)
    }

    async fn login(&self, cx: &Cx) -> Result<HostLogin> {
        cx.within("reading what logins prove", self.proof()).await
    }

    async fn initiators(&self, cx: &Cx) -> Result<Vec<Initiator>> {
        let names = initiator::names(&self.guard, cx, &self.config.interfaces).await?;
        Ok(names.into_iter().map(Initiator::Iscsi).collect())
    }

    async fn connect(&self, cx: &Cx, ports: &[TargetPort]) -> Result<Vec<PortState>> {
        let links = self.links(ports);
        let found = sessions(&self.guard, cx, ports).await?;
        let statuses: Vec<_> = links.iter().map(|it| self.standing(it, &found)).collect();
        if statuses.iter().all(Option::is_some) {
            return Ok(states(links, statuses.into_iter().flatten()));
        }
        let missing = links.iter().zip(&statuses).filter(|(_, it)| it.is_none()).map(|(it, _)| it.key());
        let missing: Vec<_> = missing.collect::<BTreeSet<_>>().into_iter().collect();
        let _gate = self.gate(cx, &missing).await?;
        // Whoever held the gate before may have made them.
        let found = sessions(&self.guard, cx, ports).await?;
        let statuses: Vec<_> = links.iter().map(|it| self.standing(it, &found)).collect();
        let any_up = statuses.iter().flatten().any(PortStatus::is_up);
        let missing: Vec<_> = missing.into_iter().filter(|it| self.standing(it, &found).is_none()).collect();
        let joined = self.join(cx, &missing, any_up).await?;
        let answers: Vec<_> = links
            .iter()
            .zip(statuses)
            .map(|(link, status)| {
                status.or_else(|| joined.get(&link.key()).cloned()).unwrap_or_else(|| {
                    PortStatus::Failed(Error::new(ErrorKind::Internal, "the port was forgotten").on(link))
                })
            })
            .collect();
        Ok(states(links, answers.into_iter()))
    }

    async fn routes(&self, cx: &Cx, ports: &[TargetPort]) -> Result<Vec<Route>> {
        let found = sessions(&self.guard, cx, ports).await?;
        let mut routes = BTreeSet::new();
        for link in self.links(ports) {
            for session in found.iter().filter(|it| it.is_live() && self.serves(it, &link)) {
                if let Some(target) = session.target_id {
                    // The iSCSI class of the kernel has one channel, 0.
                    let port = link.port.clone();
                    routes.insert(Route::Scsi { host: session.host, channel: 0, target, port });
                }
            }
        }
        Ok(routes.into_iter().collect())
    }

    async fn disconnect(&self, cx: &Cx, ports: &[TargetPort]) -> Result<usize> {
        self.leave(cx, ports).await
    }
}

fn states(links: Vec<Link>, statuses: impl Iterator<Item = PortStatus>) -> Vec<PortState> {
    links.into_iter().zip(statuses).map(|(link, status)| PortState { port: link.port, status }).collect()
}
