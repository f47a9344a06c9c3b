//! Multi-admin verification, and what replication keeps: refusals that pass when somebody else has acted.

use std::collections::BTreeSet;
use std::io;

use http::Method;
use uuid::Uuid;

use super::call::Call;
use super::error::{APPROVAL_NEEDED, ApiError};
use super::model::{State, Volume};
use super::sim::OntapSim;

/// Which requests need approval, and which have it.
#[derive(Debug, Default)]
pub(crate) struct Approvals {
    rules: Vec<(Method, String)>,
    waiting: BTreeSet<String>,
    granted: BTreeSet<String>,
}

/// Whether a volume is replicated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replicated {
    /// It is the source of a relation, which also holds its newest snapshot.
    Yes,
    /// It is not, or not any more.
    No,
}

impl State {
    /// The first request that falls under a rule waits for approval; approved, it is carried out once.
    pub(crate) fn check_approval(&mut self, call: &Call) -> Result<(), ApiError> {
        let is_about =
            |(method, template): &(Method, String)| *method == call.method && template == call.route.template;
        if !self.approvals.rules.iter().any(is_about) {
            return Ok(());
        }
        let request = format!("{} {} {:?}", call.method, call.path, call.params.filters);
        if self.approvals.granted.remove(&request) {
            return Ok(());
        }
        self.approvals.waiting.insert(request);
        Err(APPROVAL_NEEDED.error("The operation needs the approval of other administrators"))
    }

    /// Whether replication keeps a volume or a snapshot.
    pub(crate) fn is_replicated(&self, uuid: Uuid) -> bool {
        self.replicated.contains(&uuid)
    }

    /// Refuses to delete the source of a relation.
    pub(crate) fn check_not_replicated(&self, volume: &Volume) -> Result<(), ApiError> {
        if !self.is_replicated(volume.uuid) {
            return Ok(());
        }
        let code = super::error::Code(self.unverified.replicated_code, 409);
        Err(code.error(format!(
            "volume \"{}\" is the source endpoint of one or more SnapMirror relationships",
            volume.name
        )))
    }
}

impl OntapSim {
    /// From now on requests of this method to this path template wait for approval.
    pub fn require_approval(&self, method: &Method, template: &str) {
        self.state().approvals.rules.push((method.clone(), template.to_owned()));
    }

    /// Approves what waits; how many requests those are.
    pub fn approve(&self) -> usize {
        let mut state = self.state();
        let waiting = std::mem::take(&mut state.approvals.waiting);
        let count = waiting.len();
        state.approvals.granted.extend(waiting);
        count
    }

    /// Makes a volume the source of a SnapMirror relation, or ends that.
    pub fn set_replicated(&self, svm: &str, volume: &str, replicated: Replicated) -> io::Result<()> {
        let mut state = self.state();
        let found = state.svm_index(svm).ok().and_then(|svm| state.volume_named(svm, volume));
        let found = found.ok_or_else(|| io::Error::other("there is no such volume"))?;
        let kept: Vec<Uuid> =
            std::iter::once(found.uuid).chain(found.snapshots.iter().map(|it| it.uuid)).collect();
        let newest = found.snapshots.last().map(|it| it.uuid);
        let volume = found.uuid;
        match replicated {
            Replicated::Yes => state.replicated.extend(newest.into_iter().chain([volume])),
            Replicated::No => state.replicated.retain(|it| !kept.contains(it)),
        }
        Ok(())
    }
}
