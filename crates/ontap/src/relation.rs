//! What an SVM is to other sites. MetroCluster, and the disaster recovery of SVMs, keep a copy of an SVM on another cluster; of
//! the two only one serves at a time, and each says by its `subtype` (GET /svm/svms, ONTAP 9.6) which of the two it is.
//!
//! During a switchover the copy of a MetroCluster runs on the partner's cluster, which has another UUID, under its name with
//! `-mc` before the first dot, and serves hosts at the same addresses: what is attached goes on. Whether its objects have the
//! UUIDs of the original is not documented, so that nothing can be proved absent there, and the vendor advises against making
//! and deleting volumes before the switchback. So a copy is never taken for the array of a storage, and its partner's cluster
//! never for a stranger: nothing is made and nothing is absent before the switchback. Except that a process that has met the
//! array before may find, map, unmap, roll back and delete what it knows by its UUID, should the copy show it under that: each
//! of these would need a request more to prove the SVM.

use san_core::{Cx, EffectState, Error, ErrorKind, Finding, Result, Severity};
use san_rest::Request;

use crate::array::Ontap;
use crate::client::Api;
use crate::wire::Svm;

/// What an SVM is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    /// An SVM without a relation of this kind, as far as it says.
    None,
    /// The one of a MetroCluster whose copy is on the partner's cluster.
    MetroCluster,
    /// The copy that a MetroCluster keeps of an SVM of the partner.
    MetroClusterCopy,
    /// The copy of an SVM by SnapMirror.
    RecoveryCopy,
}

impl Relation {
    pub(crate) fn of(svm: &Svm) -> Self {
        match svm.subtype.as_deref() {
            Some("sync_source") => Self::MetroCluster,
            Some("sync_destination") => Self::MetroClusterCopy,
            Some("dp_destination") => Self::RecoveryCopy,
            _ => Self::None,
        }
    }
}

/// Why nothing can be asked of an SVM, and what helps; `None` where it serves.
pub(crate) fn refusal(svm: &Svm) -> Option<Error> {
    let (name, state) = (&svm.name, svm.state.as_deref().unwrap_or("unknown"));
    let is_running = state == "running";
    let (message, remedy) = match Relation::of(svm) {
        Relation::MetroClusterCopy if is_running => (
            format!("the MetroCluster has switched over: {name} runs on the partner's cluster, as a copy"),
            "what is attached goes on working; do everything else after the switchback (on the array: metrocluster show), and do not remove the storage",
        ),
        Relation::MetroClusterCopy => (
            format!(
                "the SVM {name} is the copy that MetroCluster keeps of an SVM of the other site, and is {state}"
            ),
            "use the management address and the SVM of the site that serves (on the array: metrocluster vserver show)",
        ),
        _ if is_running => return None,
        Relation::MetroCluster => (
            format!(
                "the SVM {name} is {state}, and MetroCluster keeps a copy of it at the other site: it may have switched over"
            ),
            "what is attached goes on working where the copy serves; switch back (on the array: metrocluster show), or start it (vserver start) where there was no switchover",
        ),
        Relation::RecoveryCopy => (
            format!("the SVM {name} is the copy of another SVM for its disaster recovery, and is {state}"),
            "use the SVM it is copied from; in a disaster make it one of its own first (on the array: snapmirror break, then vserver start)",
        ),
        Relation::None => (format!("the SVM {name} is {state}"), "start it (on the array: vserver start)"),
    };
    Some(Error::new(ErrorKind::Unavailable, message).with_effect(EffectState::None).with_remedy(remedy))
}

/// How an SVM is looked up by name.
pub(crate) fn svm_request(name: &str) -> Request {
    Request::get("/api/svm/svms", &[]).query("name", name).query("fields", "uuid,name,state,subtype")
}

/// What a MetroCluster calls the copy of an SVM.
fn copy_name(svm: &str) -> String {
    match svm.split_once('.') {
        Some((host, domain)) => format!("{host}-mc.{domain}"),
        None => format!("{svm}-mc"),
    }
}

/// Where no SVM of this name is found: whether there is only the copy of it, and so the array at this address is the other
/// site's.
pub(crate) async fn only_a_copy(cx: &Cx, api: &Api, svm: &str) -> Result<Option<Error>> {
    let found: Option<Svm> = api.find_one(cx, svm_request(&copy_name(svm))).await?;
    Ok(found.filter(|it| Relation::of(it) == Relation::MetroClusterCopy).as_ref().and_then(refusal))
}

impl Ontap {
    /// The SVM in which something new is made: the copy of a MetroCluster may have its UUID, but not its name, and the array
    /// refuses where the two differ.
    pub(crate) fn svm_by_both_names(&self) -> serde_json::Value {
        serde_json::json!({ "uuid": self.svm, "name": self.config.svm })
    }

    /// The error of a failed request, or, where the SVM does not serve at all, why that is.
    pub(crate) async fn explained(&self, cx: &Cx, error: Error) -> Error {
        let found = self.api.find_one::<Svm>(cx, svm_request(&self.config.svm)).await;
        match found.ok().flatten().filter(|it| it.uuid == self.svm).as_ref().and_then(refusal) {
            Some(refusal) => refusal.caused_by(error),
            None => error,
        }
    }

    /// What people should know of an SVM that has a copy, or is one.
    pub(crate) async fn check_relation(&self, cx: &Cx) -> Result<Option<Finding>> {
        let found: Option<Svm> = self.api.find_one(cx, svm_request(&self.config.svm)).await?;
        let Some(svm) = found else { return Ok(None) };
        let (severity, what, why, fix) = match Relation::of(&svm) {
            Relation::None | Relation::MetroClusterCopy => return Ok(None),
            Relation::MetroCluster => (
                Severity::Notice,
                "MetroCluster keeps a copy of it at the other site",
                "after a switchover attached disks go on working, and nothing can be attached, made or removed before the switchback",
                "know it, and attach what has to start at the other site beforehand",
            ),
            Relation::RecoveryCopy => (
                Severity::Warning,
                "it is the copy of another SVM for its disaster recovery",
                "its volumes cannot be written to while the relation stands, and are overwritten by its updates",
                "end the relation (on the array: snapmirror break), or use the SVM it is copied from",
            ),
        };
        Ok(Some(Finding {
            check: "svm-relation".to_owned(),
            severity,
            subject: svm.name,
            what: what.to_owned(),
            why: why.to_owned(),
            fix: fix.to_owned(),
            undo: None,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn svm(subtype: Option<&str>, state: &str) -> Svm {
        serde_json::from_value(serde_json::json!({
            "uuid": "u", "name": "svm1", "state": state, "subtype": subtype,
        }))
        .unwrap()
    }

    #[test]
    fn every_relation_says_why_nothing_is_served_and_what_helps() {
        for (subtype, state, said, helps) in [
            (None, "stopped", "is stopped", "vserver start"),
            (Some("default"), "stopped", "is stopped", "vserver start"),
            (Some("sync_source"), "stopped", "may have switched over", "switch back"),
            (Some("sync_destination"), "stopped", "copy that MetroCluster keeps", "of the site that serves"),
            (Some("sync_destination"), "running", "has switched over", "do not remove the storage"),
            (Some("dp_destination"), "stopped", "for its disaster recovery", "snapmirror break"),
        ] {
            let error = refusal(&svm(subtype, state)).unwrap();
            assert_eq!((error.kind(), error.effect()), (ErrorKind::Unavailable, EffectState::None));
            assert!(error.message().contains(said), "{subtype:?} {state}: {error:?}");
            assert!(error.remedy().unwrap().contains(helps), "{subtype:?} {state}: {error:?}");
        }
        for subtype in
            [None, Some("default"), Some("sync_source"), Some("dp_destination"), Some("of a later release")]
        {
            assert!(refusal(&svm(subtype, "running")).is_none(), "{subtype:?}");
        }
    }

    #[test]
    fn a_copy_is_named_before_the_first_dot() {
        assert_eq!(copy_name("svm1"), "svm1-mc");
        assert_eq!(copy_name("svm1.example.com"), "svm1-mc.example.com");
    }
}
