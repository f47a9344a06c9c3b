//! One storage: its array's answer and settings, the way there, the disks of this node, what is under way.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use san_core::{Cx, Error, ErrorKind, Finding, Result, Severity, TargetPort, Waiting};
use san_engine::{AttachmentState, OpenOperation, OpenState, Portal, Presence};
use san_host::{Guard, Probe};
use san_rest::Peer;

use super::{Words, finding};
use crate::storage::Storage;

/// Below this part of its size an array is nearly full.
const LEAST_FREE_PERCENT: u64 = 10;
/// An operation that is open for so long needs somebody's eye.
const LONG: u64 = 600;
/// Clocks that differ by so many seconds are not kept by the same time servers.
const SKEW_MAX: u64 = 120;
/// A certificate that ends within so many days is renewed better today.
const CERTIFICATE_DAYS: i64 = 30;
/// A silent portal is waited for as long.
const PROBE: Duration = Duration::from_secs(2);
/// A session that waits longer than this for its portal keeps guests from using their other paths.
const RECOVERY_MAX: u64 = 30;
const SESSIONS: &str = "/sys/class/iscsi_session";

/// Everything that was found; what could not be found out is a finding too.
pub(super) async fn findings(cx: &Cx, guard: &Guard, storage: &Storage) -> Vec<Finding> {
    let (array, way, disks, operations) =
        tokio::join!(array(cx, storage), way(cx, guard, storage), disks(cx, storage), operations(storage),);
    let mut found = Vec::new();
    for part in [array, way, disks, operations] {
        match part {
            Ok(some) => found.extend(some),
            Err(error) => found.push(unknown(storage, &error)),
        }
    }
    found
}

fn unknown(storage: &Storage, error: &Error) -> Finding {
    finding(
        "unknown",
        Severity::Warning,
        storage.san.space(),
        Words {
            what: error.chain().to_string(),
            why: "what could not be looked at may hide what is wrong",
            fix: error.remedy().unwrap_or("mend what is named and run the check again").to_owned(),
            undo: None,
        },
    )
}

async fn array(cx: &Cx, storage: &Storage) -> Result<Vec<Finding>> {
    let san = &storage.san;
    let capacity = match san.refresh_status(cx).await {
        Ok(capacity) => capacity,
        Err(error) => return Ok(vec![silent(storage, &error)]),
    };
    let mut found = san.checkup(cx).await?;
    let Peer { ahead, valid_until } = storage.client.peer();
    found.extend(ahead.and_then(|it| clock(san.space(), it)));
    found.extend(valid_until.and_then(|it| certificate(san.space(), it)));
    let (total, free) = (capacity.total.bytes(), capacity.available.bytes());
    if free < total / 100 * LEAST_FREE_PERCENT {
        found.push(finding(
            "nearly-full",
            Severity::Warning,
            san.space(),
            Words {
                what: format!(
                    "less than {LEAST_FREE_PERCENT} % of its room is left ({} of {})",
                    capacity.available, capacity.total
                ),
                why: "volumes are thin: when the room ends, every guest's writes fail",
                fix: "add disks to the aggregate, or delete volumes and snapshots (sanbridge volumes)"
                    .to_owned(),
                undo: None,
            },
        ));
    }
    Ok(found)
}

fn clock(space: &str, ahead: i64) -> Option<Finding> {
    let away = ahead.unsigned_abs();
    let way = if ahead > 0 { "ahead of" } else { "behind" };
    let words = Words {
        what: format!("the array's clock is {away} s {way} this node's"),
        why: "times of snapshots and volumes are the array's, and ages are told by this node's clock; \
              logs of the two cannot be compared",
        fix: "set the same time servers for both: chronyc tracking here, cluster time-service ntp server show there"
            .to_owned(),
        undo: None,
    };
    (away > SKEW_MAX).then(|| finding("clock-skew", Severity::Warning, space, words))
}

fn certificate(space: &str, valid_until: i64) -> Option<Finding> {
    let left = valid_until - i64::try_from(crate::admin::status::now()).unwrap_or(i64::MAX);
    let (severity, what) = match left / 86_400 {
        _ if left < 0 => (Severity::Failure, "the array's certificate has ended".to_owned()),
        days if days < CERTIFICATE_DAYS => {
            (Severity::Warning, format!("the array's certificate ends in {days} days"))
        }
        _ => return None,
    };
    let words = Words {
        what,
        why: "from then on it is not trusted where it is verified by a CA: nothing can be made, attached elsewhere or \
              deleted; and whoever renews it changes the fingerprint where that is what is trusted",
        fix: "renew it on the array; with sanbridge-fingerprint add the new one before the array uses it \
              (pvesm set: both, with a comma between them)"
            .to_owned(),
        undo: None,
    };
    Some(finding("certificate-expiry", severity, space, words))
}

fn silent(storage: &Storage, error: &Error) -> Finding {
    let (check, why) = match error.kind() {
        ErrorKind::Unauthenticated => {
            ("array-credentials", "nothing can be made, attached elsewhere or deleted")
        }
        ErrorKind::PermissionDenied => {
            ("array-privilege", "what the account may not do fails when it is needed")
        }
        ErrorKind::IdentityMismatch => (
            "array-identity",
            "its certificate, or the array itself, is not the one that is trusted; nothing is sent",
        ),
        _ => {
            ("array-unreachable", "running guests go on; nothing can be made, attached elsewhere or deleted")
        }
    };
    finding(
        check,
        Severity::Failure,
        storage.san.space(),
        Words {
            what: error.chain().to_string(),
            why,
            fix: error.remedy().unwrap_or("check the management address and the network to it").to_owned(),
            undo: None,
        },
    )
}

async fn way(cx: &Cx, guard: &Guard, storage: &Storage) -> Result<Vec<Finding>> {
    let space = storage.san.space();
    let portals = storage.san.portals(cx).await?;
    let mut found = Vec::new();
    for it in portals.iter().filter(|it| !it.is_up) {
        found.extend(lost(cx, guard, space, it).await);
    }
    let up: Vec<&Portal> = portals.iter().filter(|it| it.is_up).collect();
    if let [only] = up.as_slice() {
        found.push(finding(
            "single-portal",
            Severity::Warning,
            space,
            Words {
                what: format!("{} is the only portal this node has a session with", only.port),
                why: "when it goes, every disk of this storage goes with it",
                fix: "connect this node to portals of both controllers, over two networks".to_owned(),
                undo: None,
            },
        ));
    }
    let controllers: BTreeSet<&str> = up.iter().filter_map(|it| it.port.node()).collect();
    if up.len() > 1 && up.iter().all(|it| it.port.node().is_some()) && controllers.len() == 1 {
        found.push(finding(
            "single-controller",
            Severity::Warning,
            space,
            Words {
                what: format!(
                    "all sessions of this node end at {}",
                    controllers.iter().copied().collect::<String>()
                ),
                why: "a takeover of that controller cuts every disk off",
                fix: "connect this node to portals of the other controller too".to_owned(),
                undo: None,
            },
        ));
    }
    found.extend(patience(cx, guard, space, &up).await?);
    Ok(found)
}

fn address(of: &Portal) -> Option<SocketAddr> {
    match &of.port {
        TargetPort::Iscsi { portal, .. } => Some(*portal),
        _ => None,
    }
}

/// A portal without a session: who is to blame?
async fn lost(cx: &Cx, guard: &Guard, space: &str, of: &Portal) -> Option<Finding> {
    let address = address(of)?;
    let answer = guard.probe(cx, address, PROBE).await;
    let (check, what, fix) = match answer {
        Ok(Probe::Open) => (
            "session-missing",
            format!("there is no session with {address}, which answers"),
            "it is made by itself within a minute; if not, journalctl -u iscsid says what went wrong"
                .to_owned(),
        ),
        _ => (
            "portal-unreachable",
            format!("{address} does not answer this node"),
            format!("check this node's storage network and MTU: ping -M do -s 8972 {}", address.ip()),
        ),
    };
    Some(finding(
        check,
        Severity::Warning,
        space,
        Words { what, why: "disks have fewer paths than they could have", fix, undo: None },
    ))
}

/// Sessions that were made by others keep their own settings.
async fn patience(cx: &Cx, guard: &Guard, space: &str, up: &[&Portal]) -> Result<Vec<Finding>> {
    let targets: BTreeSet<String> = up
        .iter()
        .filter_map(|it| match &it.port {
            TargetPort::Iscsi { target, .. } => Some(target.to_string().to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    let mut found = Vec::new();
    for name in guard.list(cx, Path::new(SESSIONS)).await?.unwrap_or_default() {
        let folder = Path::new(SESSIONS).join(&name);
        let target = guard.attr(cx, &folder, "targetname").await?;
        if !target.text().is_some_and(|it| targets.contains(&it.to_ascii_lowercase())) {
            continue;
        }
        let waits =
            guard.attr(cx, &folder, "recovery_tmo").await?.text().and_then(|it| it.parse::<u64>().ok());
        if let Some(seconds) = waits.filter(|it| *it > RECOVERY_MAX) {
            found.push(finding("recovery-timeout", Severity::Warning, space, Words {
                what: format!("{name} keeps input and output for {seconds} s when its portal goes"),
                why: "so long a guest hangs before its other paths are used; Sanbridge's own sessions have 5 s",
                fix: format!("echo 5 > {SESSIONS}/{name}/recovery_tmo, and set node.session.timeo.replacement_timeout = 5 \
                              in the record of whoever made the session"),
                undo: Some("write the former number back"),
            }));
        }
    }
    Ok(found)
}

async fn disks(cx: &Cx, storage: &Storage) -> Result<Vec<Finding>> {
    let mut presences = storage.san.presences(cx).await?;
    presences.retain(|it| it.state == AttachmentState::Attached);
    let mut found: Vec<Finding> = presences.iter().filter_map(disk).chain(outside(storage)).collect();
    // Where all sessions end at one controller, that is said once, and not of every disk.
    let portals = storage.san.portals(cx).await?;
    let controllers: BTreeSet<&str> =
        portals.iter().filter(|it| it.is_up).filter_map(|it| it.port.node()).collect();
    if controllers.len() > 1 {
        let each = presences.iter().map(|it| one_controller(cx, storage, it));
        found.extend(join_all(each).await.into_iter().flatten());
    }
    Ok(found)
}

/// What all nodes see, this one does not.
fn outside(storage: &Storage) -> Option<Finding> {
    let why = storage.san.outside()?;
    Some(finding(
        "outside-all-nodes",
        Severity::Failure,
        storage.san.space(),
        Words {
            what: format!("this node is not among those that see its disks: {why}"),
            why: "no guest with such a disk starts here, whether the array answers or not",
            fix: "mend what is named; the daemon tries again by itself within a minute".to_owned(),
            undo: None,
        },
    ))
}

/// What this node sees of a disk's paths, whatever it should see.
async fn one_controller(cx: &Cx, storage: &Storage, of: &Presence) -> Option<Finding> {
    // One that does not answer is told by what else is looked at.
    let controllers = storage.san.controllers_of(cx, &of.view).await.ok().flatten()?;
    let only = controllers.first().filter(|_| controllers.len() == 1)?;
    Some(finding(
        "disk-single-controller",
        Severity::Warning,
        &of.view.file_name(),
        Words {
            what: format!("all its paths that answer lead to {only}"),
            why: "a takeover of that controller cuts it off, however many paths there are",
            fix: "sanbridge status shows the portals; missing paths are made by themselves within a minute of their \
                  portal's return. Where none is missing, let sanbridge-portals and sanbridge-max-paths take in the other \
                  controller, and attach the disk anew"
                .to_owned(),
            undo: None,
        },
    ))
}

fn disk(of: &Presence) -> Option<Finding> {
    let name = &of.view.file_name();
    let words = |what: String, why, fix: &str| Words { what, why, fix: fix.to_owned(), undo: None };
    let Some(paths) = of.paths else {
        let words = words(
            "it is on record here and has no device".to_owned(),
            "a guest that uses it has lost its disk",
            "stop the guest and start it again",
        );
        return Some(finding("no-device", Severity::Failure, name, words));
    };
    let usable = usize::try_from(paths.usable).unwrap_or(usize::MAX);
    if usable == 0 {
        let words = words(
            "it has no path".to_owned(),
            "its guest waits, or gets errors",
            "sanbridge status shows the portals; check the storage network and the array",
        );
        return Some(finding("no-path", Severity::Failure, name, words));
    }
    if usable < of.expected {
        let words = words(
            format!("it has {usable} of {} paths", of.expected),
            "when the others go, its guest waits or gets errors",
            "sanbridge status shows the portals; missing paths are made by themselves within a minute of their portal's return",
        );
        return Some(finding("paths-missing", Severity::Warning, name, words));
    }
    (paths.waiting == Waiting::Fails).then(|| {
        let words = Words {
            what: "its guest gets errors as soon as the last path goes".to_owned(),
            why: "a takeover or a restart of a switch takes longer than that",
            fix: "take no_path_retry fail out of /etc/multipath.conf, or set it to 30".to_owned(),
            undo: Some("put the former value back"),
        };
        finding("no-path-retry", Severity::Warning, name, words)
    })
}

async fn operations(storage: &Storage) -> Result<Vec<Finding>> {
    let open = storage.san.open_operations().await?;
    Ok(open.iter().filter_map(operation).collect())
}

fn operation(of: &OpenOperation) -> Option<Finding> {
    let id = of.id.map(|it| it.to_string());
    let subject = of.object.clone().or(id).unwrap_or_else(|| "an operation's file".to_owned());
    let age = of.started.map_or(0, |it| crate::admin::status::now().saturating_sub(it));
    let (check, severity, what) = match &of.state {
        OpenState::Stuck(step, why) => {
            ("stuck-operation", Severity::Failure, format!("{} is stuck at \"{step}\": {why}", of.verb))
        }
        OpenState::Unreadable(why) => ("unreadable-operation", Severity::Failure, why.clone()),
        _ if age > LONG && !of.is_running => {
            ("open-operation", Severity::Warning, format!("{} has not ended for {age} s", of.verb))
        }
        _ => return None,
    };
    Some(finding(
        check,
        severity,
        &subject,
        Words {
            what,
            why: "the volume cannot be changed before it has ended; an attached disk goes on working",
            fix: "remove the named obstacle on the array or this node: it is tried again by itself"
                .to_owned(),
            undo: None,
        },
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_reported_when_they_are_stuck_or_old() {
        let open = |state: OpenState, started: u64| OpenOperation {
            id: None,
            verb: "delete",
            object: Some("vm-100-disk-0".to_owned()),
            on_array: None,
            started: Some(started),
            is_running: false,
            state,
        };
        let now = crate::admin::status::now();
        let stuck = OpenState::Stuck("delete it on the array", "it has clones".to_owned());
        for (state, started, expected) in [
            (stuck, now, Some("stuck-operation")),
            (OpenState::Unreadable("unknown version".to_owned()), now, Some("unreadable-operation")),
            (OpenState::ToDo("unmap it"), now - LONG - 60, Some("open-operation")),
            (OpenState::ToDo("unmap it"), now, None),
            (OpenState::Unconfirmed, now, None),
        ] {
            let found = operation(&open(state.clone(), started));
            assert_eq!(found.map(|it| it.check), expected.map(str::to_owned), "{state:?}");
        }
    }
}
