//! The first doctor: settings of the node, of its storages and of their arrays that are known to cause trouble. Only looks.

mod cluster;
mod host;
mod storage;

use san_core::{Cx, Finding, Result, Severity};
use serde::{Deserialize, Serialize};

use super::{Problem, Ready, side_by_side};
use crate::server::Service;

/// The answer of `admin.check`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Checked {
    pub(crate) node: String,
    /// The worst first.
    pub(crate) findings: Vec<Finding>,
    /// Storages of which not everything could be found out.
    pub(crate) problems: Vec<Problem>,
}

/// Looks at the node and, side by side, at its storages.
pub(crate) async fn check(cx: &Cx, service: &Service, id: Option<&str>) -> Result<Checked> {
    let Service { node, storages, state, .. } = service;
    let ready = Ready::of(cx, storages, id).await?;
    let guard = node.host();
    let ask = |storage: std::sync::Arc<crate::storage::Storage>| {
        let (cx, guard) = (cx.clone(), guard.clone());
        async move { Ok(storage::findings(&cx, &guard, &storage).await) }
    };
    let (of_host, of_cluster, of_storages) = tokio::join!(
        host::findings(cx, guard, storages.transport(), state),
        cluster::findings(cx, service),
        side_by_side(ready, ask)
    );
    let (lists, problems) = of_storages?;
    let mut findings: Vec<Finding> =
        of_host.into_iter().chain(of_cluster).chain(lists.into_iter().flatten()).collect();
    findings.sort_by(|one, two| two.severity.cmp(&one.severity).then_with(|| one.check.cmp(&two.check)));
    Ok(Checked { node: node.name().to_string(), findings, problems })
}

/// What a check says.
struct Words {
    what: String,
    why: &'static str,
    fix: String,
    undo: Option<&'static str>,
}

fn finding(check: &str, severity: Severity, subject: &str, words: Words) -> Finding {
    let Words { what, why, fix, undo } = words;
    Finding {
        check: check.to_owned(),
        severity,
        subject: subject.to_string(),
        what,
        why: why.to_owned(),
        fix,
        undo: undo.map(str::to_owned),
    }
}
