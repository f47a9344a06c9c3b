//! Many creates at once from several nodes: none fails, none is left half-made, none gets another's name.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use san_core::{ByteSize, Deadline, Error, ErrorKind, OperationId, Result};
use san_engine::{Naming, Outcome, Request};
use tokio::task::JoinSet;

use super::budgets::Budget;
use super::operations::{Sample, sample, site};
use super::report::Row;
use crate::site::{PATIENCE, Site, call};

const CREATES: usize = 100;
const NODES: usize = 3;
const SIZE: ByteSize = ByteSize::from_mib(8);

/// Who chooses the names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Names {
    /// The caller: all differ.
    Exact,
    /// Each node: all want the lowest free number of the same guest.
    Numbered,
}

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exact => "names given",
            Self::Numbered => "names numbered",
        })
    }
}

impl Names {
    fn naming(self, number: usize) -> Naming {
        match self {
            Self::Exact => Naming::Exact(format!("vm-100-disk-{number}")),
            Self::Numbered => Naming::Numbered { stem: "vm-100-disk-".to_owned() },
        }
    }
}

pub(super) async fn measure(names: Names) -> Result<Vec<Row>> {
    let site = site(NODES, 0, Duration::from_millis(5)).await?;
    let before = site.audit();
    let (cost, made) = sample(&site, async { Ok(create_all(&site, names).await) }).await?;
    let mut row = Row::counted(&format!("{CREATES} creates, {names}"), cost.requests, cost.processes);
    let budget = match names {
        Names::Exact => Budget::of(2 * CREATES),
        // Nodes that want the same number learn it from the array, so that there is no fixed number of requests.
        Names::Numbered => Budget { requests: None, processes: Some(0) },
    };
    row.require(budget);
    row.bound("failures", made.failures.len() as u64, 0);
    row.bound("names missing or given twice", (CREATES - made.names.len()) as u64, 0);
    let leftovers = leftovers(&site, &made.names).await?;
    row.bound("leftovers", leftovers.len() as u64, 0);
    for name in &made.names {
        site.node(0).delete(name).await?;
    }
    let findings = site.audit().against(&before).0;
    row.bound("audit findings after deleting all", findings.len() as u64, 0);
    row.note(&waits(&cost));
    made.failures.iter().chain(&leftovers).chain(&findings).take(5).for_each(|it| row.note(it));
    Ok(vec![row])
}

fn waits(cost: &Sample) -> String {
    format!("{} ms at 5 ms per round trip", cost.took.as_millis())
}

#[derive(Debug, Default)]
struct Made {
    names: BTreeSet<String>,
    failures: Vec<String>,
}

async fn create_all(site: &Site, names: Names) -> Made {
    let mut running = JoinSet::new();
    for number in 0..CREATES {
        let san = site.node(number % NODES).san().clone();
        let request = Request::Create { naming: names.naming(number), size: SIZE };
        running.spawn(async move { call(&san, OperationId::random(), request).await });
    }
    let mut made = Made::default();
    while let Some(ended) = running.join_next().await {
        match ended {
            Ok(Ok(Outcome::Created { object, .. })) => drop(made.names.insert(object)),
            Ok(Ok(other)) => made.failures.push(format!("a create ended with {other:?}")),
            Ok(Err(error)) => made.failures.push(error.chain().to_string()),
            Err(error) => made.failures.push(error.to_string()),
        }
    }
    made
}

/// What is there beside the disks that were handed out.
async fn leftovers(site: &Site, names: &BTreeSet<String>) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for index in 0..site.nodes() {
        let open = site.node(index).san().open_operations().await?;
        found.extend(open.into_iter().map(|it| format!("{it:?}")));
    }
    let san = site.node(0).san();
    let cx = san.cx(Deadline::after(PATIENCE), OperationId::random());
    let listed: BTreeSet<String> =
        san.disks(&cx).await?.into_iter().map(|it| it.owner.object().to_owned()).collect();
    found.extend(listed.symmetric_difference(names).map(|it| format!("{it} is listed or made, not both")));
    // Half-made volumes are not listed: they are counted on the array itself.
    let volumes =
        site.array.volumes().into_iter().filter(|it| !it.deleted && it.name.starts_with("sb")).count();
    if volumes != names.len() {
        found.push(format!("{volumes} volumes on the array for {} disks", names.len()));
    }
    if found.is_empty() && names.is_empty() {
        return Err(Error::new(ErrorKind::Internal, "nothing was made"));
    }
    Ok(found)
}
