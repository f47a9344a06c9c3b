//! The data side: what initiators see of the array's LUNs.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use uuid::Uuid;

use super::model::{Interface, Lun, State, Volume};
use super::overrides::Identity;
use super::sim::OntapSim;
use super::version::Personality;
use crate::target::{Access, Portal, Reachability, Target, Unit};

/// The first four bytes of every NAA identifier of this vendor; the serial number's twelve follow.
const NAA_PREFIX: [u8; 4] = [0x60, 0x0a, 0x09, 0x80];

impl Target for OntapSim {
    fn portals(&self) -> Vec<Portal> {
        let state = self.state();
        state.interfaces.iter().filter_map(|it| portal(&state, it)).collect()
    }

    fn units(&self, initiator: &str, portal: SocketAddr) -> BTreeMap<u16, Unit> {
        let state = self.state();
        let Some(at) = state.interfaces.iter().find(|it| it.address == portal) else {
            return BTreeMap::new();
        };
        let Some(svm) = serving(&state, at) else { return BTreeMap::new() };
        let igroups = state.igroups.values().filter(|igroup| {
            let member = |name: &str| name.eq_ignore_ascii_case(initiator);
            igroup.svm == svm
                && igroup.protocol != "fcp"
                && igroup.initiators.iter().any(|it| member(&it.name))
        });
        let ours: Vec<Uuid> = igroups.map(|igroup| igroup.uuid).collect();
        let mapped = state.maps.iter().filter(|((_, igroup), _)| ours.contains(igroup));
        mapped.filter_map(|((lun, _), number)| Some((*number, unit(&state, *lun, at)?))).collect()
    }

    fn access(&self, initiator: &str, portal: SocketAddr) -> Access {
        let state = self.state();
        let svm = state.interfaces.iter().find(|it| it.address == portal).and_then(|it| it.svm);
        svm.map_or(Access::Refused, |it| state.access(it, initiator))
    }

    fn logged_in(&self, initiator: &str, portal: SocketAddr) {
        *self.state().sessions.entry((initiator.to_owned(), portal)).or_default() += 1;
    }

    fn logged_out(&self, initiator: &str, portal: SocketAddr) {
        let mut state = self.state();
        if let Some(count) = state.sessions.get_mut(&(initiator.to_owned(), portal)) {
            *count = count.saturating_sub(1);
        }
    }
}

fn portal(state: &State, it: &Interface) -> Option<Portal> {
    let svm = &state.svms[it.svm?];
    let service = svm.iscsi.as_ref()?;
    let serving = svm.running && service.enabled;
    let reachability = if serving { it.reachability } else { Reachability::Refusing };
    Some(Portal {
        address: it.address,
        target: service.target.clone(),
        group: it.group,
        node: state.nodes[it.node].name.clone(),
        reachability,
    })
}

/// The SVM whose LUNs a portal shows now.
fn serving(state: &State, it: &Interface) -> Option<usize> {
    let svm = it.svm?;
    let up = it.reachability == Reachability::Up && state.svms[svm].running;
    let enabled = state.svms[svm].iscsi.as_ref().is_some_and(|service| service.enabled);
    (up && enabled).then_some(svm)
}

/// A LUN as seen on a portal; only its own node and that node's partner report it.
fn unit(state: &State, lun: Uuid, portal: &Interface) -> Option<Unit> {
    let (lun, volume) = state.live_lun(lun)?;
    let online = volume.online && lun.unit.enabled && !lun.failed;
    if !online || !state.reporting_nodes(volume).contains(&portal.node) {
        return None;
    }
    Some(Unit {
        vendor: "NETAPP".to_owned(),
        product: "LUN C-Mode".to_owned(),
        revision: state.revision().chars().take(4).collect(),
        serial: serial(state, lun, portal),
        naa: naa_of(state, lun, portal),
        size: lun.unit.size,
        file: lun.unit.file.clone()?,
        optimized: is_optimized(state, volume, portal),
    })
}

fn is_optimized(state: &State, volume: &Volume, portal: &Interface) -> bool {
    // All paths of an ASA are active, those of the partner too.
    state.personality == Personality::Asa || state.node_of(volume) == portal.node
}

fn serial(state: &State, lun: &Lun, portal: &Interface) -> Vec<u8> {
    match state.overrides.identity(lun.uuid, portal.address) {
        None => lun.serial.clone().into_bytes(),
        Some(Identity::Serial(bytes)) => bytes.clone(),
        Some(Identity::Empty) => Vec::new(),
    }
}

fn naa_of(state: &State, lun: &Lun, portal: &Interface) -> [u8; 16] {
    let shown = serial(state, lun, portal);
    if shown.is_empty() { [0; 16] } else { naa(&shown) }
}

/// The NAA identifier made of a serial number.
pub(crate) fn naa(serial: &[u8]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&NAA_PREFIX);
    for (place, byte) in bytes[4..].iter_mut().zip(serial) {
        *place = *byte;
    }
    bytes
}
