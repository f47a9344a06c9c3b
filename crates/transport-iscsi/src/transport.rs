//! [`Iscsi`]: the trait [`Transport`] over the parts of this crate.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use san_core::{
    Cx, Error, ErrorKind, Initiator, Iqn, PortState, PortStatus, Result, Route, TargetPort, Transport,
    TransportKind,
};
use san_host::Guard;

use crate::holds::Holds;
use crate::session::{Session, sessions};
use crate::{IscsiConfig, initiator};

const INITIATOR_MAX: usize = 64 << 10;

/// iSCSI sessions of this node, made and ended with open-iscsi.
///
/// Which sessions are ours is known in memory only: after a restart all of them count as somebody else's and are left
/// alone. A session too many costs little; one logged out under a guest costs its disks.
#[derive(Debug)]
pub struct Iscsi {
    pub(crate) guard: Guard,
    pub(crate) config: IscsiConfig,
    pub(crate) holds: Holds,
    /// Ports for which this process made a session, a node record, or both.
    pub(crate) made: Mutex<HashMap<TargetPort, Made>>,
    /// open-iscsi locks its record database with 10 ms polls and gives up after 30 s: one step at a time is faster.
    pub(crate) records: tokio::sync::Mutex<()>,
    /// One target's sessions are made by one caller at a time; the next one finds them.
    gates: Mutex<HashMap<Iqn, Arc<tokio::sync::Mutex<()>>>>,
}

/// What this process made for a port.
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
            holds: Holds::default(),
            made: Mutex::default(),
            records: tokio::sync::Mutex::default(),
            gates: Mutex::default(),
        }
    }

    pub(crate) fn made<T>(&self, work: impl FnOnce(&mut HashMap<TargetPort, Made>) -> T) -> T {
        work(&mut self.made.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until nobody else makes sessions with the targets of `ports`. Taken in one order, so that two callers
    /// never wait for each other.
    pub(crate) async fn gate(
        &self,
        cx: &Cx,
        ports: &[TargetPort],
    ) -> Result<Vec<tokio::sync::OwnedMutexGuard<()>>> {
        let targets: BTreeSet<&Iqn> = ports.iter().filter_map(target_of).collect();
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

/// The port as far as a session can tell it: which array node it is on may be known to one caller and not to another.
pub(crate) fn key_of(port: &TargetPort) -> TargetPort {
    match port {
        TargetPort::Iscsi { portal, target, .. } => {
            let portal = SocketAddr::new(portal.ip().to_canonical(), portal.port());
            TargetPort::Iscsi { portal, target: target.clone(), node: None }
        }
        other => other.clone(),
    }
}

fn target_of(port: &TargetPort) -> Option<&Iqn> {
    match port {
        TargetPort::Iscsi { target, .. } => Some(target),
        _ => None,
    }
}

/// How `port` stands without doing anything: `None` where there is no session at all.
fn standing(port: &TargetPort, found: &[Session]) -> Option<PortStatus> {
    if target_of(port).is_none() {
        let error = Error::new(ErrorKind::Unsupported, "this is not an iSCSI port").on(port);
        return Some(PortStatus::Failed(error));
    }
    let mut own = found.iter().filter(|it| it.leads_to(port)).peekable();
    let first = *own.peek()?;
    if own.any(Session::is_live) {
        return Some(PortStatus::Connected);
    }
    // iscsid repeats the login of a broken session for ever: a second login would only add a storm.
    let message = format!("the session is {}; iscsid is repairing it", first.state);
    Some(PortStatus::Failed(Error::new(ErrorKind::Unavailable, message).on(port)))
}

#[async_trait]
impl Transport for Iscsi {
    fn kind(&self) -> TransportKind {
        TransportKind::Iscsi
    }

    async fn initiators(&self, cx: &Cx) -> Result<Vec<Initiator>> {
        let text = self.guard.read(cx, Path::new(initiator::FILE), INITIATOR_MAX).await?;
        Ok(vec![Initiator::Iscsi(initiator::parse(text.as_deref())?)])
    }

    async fn connect(&self, cx: &Cx, ports: &[TargetPort]) -> Result<Vec<PortState>> {
        let found = sessions(&self.guard, cx, ports).await?;
        let statuses: Vec<_> = ports.iter().map(|it| standing(it, &found)).collect();
        if statuses.iter().all(Option::is_some) {
            return Ok(states(ports, statuses.into_iter().flatten()));
        }
        let missing = ports.iter().zip(&statuses).filter(|(_, it)| it.is_none()).map(|(it, _)| key_of(it));
        let missing: Vec<_> = missing.collect::<BTreeSet<_>>().into_iter().collect();
        let _gate = self.gate(cx, &missing).await?;
        // Whoever held the gate before may have made them.
        let found = sessions(&self.guard, cx, ports).await?;
        let statuses: Vec<_> = ports.iter().map(|it| standing(it, &found)).collect();
        let any_up = statuses.iter().flatten().any(PortStatus::is_up);
        let missing: Vec<_> = missing.into_iter().filter(|it| standing(it, &found).is_none()).collect();
        let joined = self.join(cx, &missing, any_up).await?;
        let answers = ports.iter().zip(statuses).map(|(port, status)| {
            status.or_else(|| joined.get(&key_of(port)).cloned()).unwrap_or_else(|| {
                PortStatus::Failed(Error::new(ErrorKind::Internal, "the port was forgotten").on(port))
            })
        });
        Ok(states(ports, answers))
    }

    async fn routes(&self, cx: &Cx, ports: &[TargetPort]) -> Result<Vec<Route>> {
        let found = sessions(&self.guard, cx, ports).await?;
        let mut routes = BTreeSet::new();
        for port in ports {
            for session in found.iter().filter(|it| it.is_live() && it.leads_to(port)) {
                if let Some(target) = session.target_id {
                    // The iSCSI class of the kernel has one channel, 0.
                    routes.insert(Route::Scsi { host: session.host, channel: 0, target, port: port.clone() });
                }
            }
        }
        Ok(routes.into_iter().collect())
    }

    async fn disconnect(&self, cx: &Cx, ports: &[TargetPort]) -> Result<usize> {
        self.leave(cx, ports).await
    }
}

fn states(ports: &[TargetPort], statuses: impl Iterator<Item = PortStatus>) -> Vec<PortState> {
    ports.iter().cloned().zip(statuses).map(|(port, status)| PortState { port, status }).collect()
}
