//! Copies of SVMs at other sites: what an SVM is to them, and a MetroCluster that switches over and back.

use std::io;

use serde::Serialize;
use uuid::Uuid;

use super::config::SwitchedUuid;
use super::model::State;
use super::sim::OntapSim;

/// What an SVM is to other sites.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SvmSubtype {
    /// Nothing.
    Default,
    /// The source of a MetroCluster relation.
    SyncSource,
    /// The copy that a MetroCluster keeps of the partner's.
    SyncDestination,
    /// The copy of another SVM by SnapMirror.
    DpDestination,
}

/// What an array was before its MetroCluster switched over.
#[derive(Debug)]
pub struct SwitchedOver {
    svm: String,
    uuid: Uuid,
    cluster: Uuid,
}

impl OntapSim {
    /// Makes an SVM the source or the copy of a relation between sites, or neither.
    pub fn set_svm_subtype(&self, svm: &str, subtype: SvmSubtype) -> io::Result<()> {
        self.change(|state| {
            let at = state.svm_index(svm)?;
            state.svms[at].subtype = subtype;
            Ok(())
        })
    }

    /// Lets a MetroCluster switch over: from now on the partner's cluster answers at the management addresses, and shows
    /// the copy of the SVM, under its name with `-mc`, as it serves. Hosts notice nothing.
    pub fn switch_over(&self, svm: &str) -> io::Result<SwitchedOver> {
        let mut before = None;
        self.change(|state| {
            let at = state.svm_index(svm)?;
            let State { ids, cluster, svms, unverified, .. } = state;
            let there = &mut svms[at];
            before = Some(SwitchedOver { svm: there.name.clone(), uuid: there.uuid, cluster: cluster.uuid });
            cluster.uuid = ids.uuid();
            there.name = match there.name.split_once('.') {
                Some((host, domain)) => format!("{host}-mc.{domain}"),
                None => format!("{}-mc", there.name),
            };
            there.subtype = SvmSubtype::SyncDestination;
            if unverified.switched_svm_uuid == SwitchedUuid::Own {
                there.uuid = ids.uuid();
            }
            Ok(())
        })?;
        before.ok_or_else(|| io::Error::other("nothing was switched over"))
    }

    /// Ends a switchover.
    pub fn switch_back(&self, from: &SwitchedOver) {
        let mut state = self.state();
        let State { cluster, svms, .. } = &mut *state;
        let copies = svms.iter_mut().filter(|it| it.subtype == SvmSubtype::SyncDestination);
        for svm in copies {
            svm.name.clone_from(&from.svm);
            svm.uuid = from.uuid;
            svm.subtype = SvmSubtype::SyncSource;
        }
        cluster.uuid = from.cluster;
    }
}
