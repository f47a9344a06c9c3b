//! What the nodes share: the cluster file system, the storages' sections in it, and the package.

use std::collections::{BTreeMap, BTreeSet};

use san_core::{Cx, Error, Finding, Severity};

use super::{Words, finding};
use crate::peers::VERSION;
use crate::sections::Place;
use crate::server::Service;

pub(super) async fn findings(cx: &Cx, service: &Service) -> Vec<Finding> {
    let lost = match service.storages.sections().lost(cx).await {
        Ok(lost) => lost,
        Err(error) => return vec![file_system(&error)],
    };
    let mut found: Vec<Finding> = lost.iter().map(|(id, place)| section(id, place)).collect();
    match (service.peers.versions().await, service.members.names(cx).await) {
        (Ok(versions), Ok(members)) => found.extend(packages(&versions, &members)),
        // A node that has no cluster has no members either.
        (Ok(_), Err(_)) => {}
        (Err(error), _) => found.push(file_system(&error)),
    }
    found
}

/// Nodes with another version of the package, or without.
fn packages(versions: &BTreeMap<String, String>, members: &BTreeSet<String>) -> Vec<Finding> {
    let of_member = |node: &String| match versions.get(node).map(String::as_str) {
        Some(VERSION) => None,
        Some(other) => Some(finding(
            "package-version",
            Severity::Warning,
            node,
            Words {
                what: format!("{node} has version {other} of this package, and this node {VERSION}"),
                why: "a node with an older package drops options from storage.cfg that it does not know, and may not \
                  understand what a newer one has begun",
                fix: format!(
                    "update sanbridge on the older one of the two, then restart its daemon: on {node} or here"
                ),
                undo: None,
            },
        )),
        None => Some(finding(
            "package-missing",
            Severity::Warning,
            node,
            Words {
                what: format!("no daemon of this package has ever run on {node}"),
                why: "a node without this package that changes storage.cfg writes it without the sections of its storages",
                fix: format!(
                    "install sanbridge on {node} and start its daemon, also where it uses none of the storages"
                ),
                undo: None,
            },
        )),
    };
    members.iter().filter_map(of_member).collect()
}

fn file_system(error: &Error) -> Finding {
    finding(
        "cluster-file-system",
        Severity::Failure,
        "/etc/pve",
        Words {
            what: error.chain().to_string(),
            why: "without it nobody knows who has which volume, so that nothing is made, attached elsewhere or deleted; \
              running guests go on",
            fix: "systemctl status pve-cluster; systemctl restart pve-cluster".to_owned(),
            undo: None,
        },
    )
}

fn section(id: &str, place: &Place) -> Finding {
    let (what, fix) = match place {
        Place::Taken(other) => (
            format!("a storage of type {other} has its name in storage.cfg"),
            format!("remove or rename that storage, then: sanbridge storage restore {id}"),
        ),
        _ => (
            "its section is not in storage.cfg, and nobody has removed the storage".to_owned(),
            format!("install sanbridge on every node of the cluster, then: sanbridge storage restore {id}"),
        ),
    };
    finding(
        "section-missing",
        Severity::Failure,
        id,
        Words {
            what,
            why: "a node without this package that changes storage.cfg writes it without sections it cannot parse; guests \
              of this storage cannot start any more, and its volumes are where they were",
            fix,
            undo: Some("pvesm remove, which leaves the volumes on the array"),
        },
    )
}
