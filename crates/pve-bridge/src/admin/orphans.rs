//! What is ours and of no use: on the array, in the cluster's notes and on this node. Listed with the reason, removed only
//! where an operation that proves it unused can do it, and never by force.

use std::collections::BTreeSet;

use san_core::{Cx, Error, ErrorKind, Marked, NodeName, Owner, Result, Volume, VolumeKind};
use san_engine::{AttachmentState, Request, San, Tie, View};
use serde::{Deserialize, Serialize};

use super::{Problem, Ready, side_by_side};
use crate::admin::status::now;
use crate::members::Members;
use crate::names::DiskName;
use crate::storage::Storage;

/// A creation that is younger may be under way on another node.
const YOUNG: u64 = 3600;

/// The answer of `admin.orphans`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Orphans {
    pub(crate) orphans: Vec<Orphan>,
    /// Storages that could not be looked at.
    pub(crate) problems: Vec<Problem>,
}

/// One thing without a use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Orphan {
    pub(crate) storage: String,
    pub(crate) kind: Kind,
    pub(crate) name: String,
    /// What is so.
    pub(crate) what: String,
    /// How it comes about, and what it costs.
    pub(crate) why: String,
    /// Whether `admin.orphans.remove` takes it away.
    pub(crate) removable: bool,
    /// What that does, or what a person can do.
    pub(crate) plan: Vec<String>,
}

/// What kind of thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A volume whose creation was interrupted.
    HalfMade,
    /// A volume that no guest's configuration names.
    Unreferenced,
    /// A volume with a name of ours whose mark says something else, or nothing.
    Unmarked,
    /// What the cluster notes of a volume that the array does not have.
    Binding,
    /// A disk on record on this node that has no device.
    Record,
    /// A link to a disk that is not on record on this node.
    Link,
    /// The mapping of a disk to a node that is gone, or a note of one.
    Mapping,
    /// What reads a snapshot for a node that is gone.
    Reader,
    /// The host object of a node that is gone.
    Host,
}

impl Kind {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::HalfMade => "half-made",
            Self::Unreferenced => "unreferenced",
            Self::Unmarked => "unmarked",
            Self::Binding => "binding",
            Self::Record => "record",
            Self::Link => "link",
            Self::Mapping => "mapping",
            Self::Reader => "reader",
            Self::Host => "host",
        }
    }
}

/// Which nodes are gone: all but the members of the cluster.
#[derive(Debug, Clone)]
pub(crate) enum Gone {
    /// All that are none of these.
    AllBut(BTreeSet<String>),
    /// Who is a member is not known, so that nobody counts as gone.
    Unknown,
}

impl Gone {
    pub(crate) async fn of(members: &Members, cx: &Cx, here: &NodeName) -> Self {
        match members.names(cx).await {
            Ok(mut names) => {
                // A node without a cluster is a member of none.
                names.insert(here.to_string());
                Self::AllBut(names)
            }
            Err(_) => Self::Unknown,
        }
    }

    fn has(&self, node: &NodeName) -> bool {
        matches!(self, Self::AllBut(members) if !members.contains(node.as_str()))
    }
}

/// Everything without a use. One list per array, and what this node and the cluster know.
pub(crate) async fn list(cx: &Cx, ready: Ready, gone: &Gone) -> Result<Orphans> {
    let ask = |storage: std::sync::Arc<Storage>| {
        let cx = cx.clone();
        async move { of_storage(&cx, &storage.san, gone).await }
    };
    let (lists, problems) = side_by_side(ready, ask).await?;
    Ok(Orphans { orphans: lists.into_iter().flatten().collect(), problems })
}

/// The operation that removes an orphan, looked for anew.
///
/// # Errors
/// `NotFound` where nothing of this name is an orphan, `Conflict` where it is none that an operation may remove.
pub(crate) async fn removal(cx: &Cx, storage: &Storage, name: &str, gone: &Gone) -> Result<Request> {
    let all = of_storage(cx, &storage.san, gone).await?;
    let of_name: Vec<&Orphan> = all.iter().filter(|it| it.name == name).collect();
    let Some(first) = of_name.first() else {
        return Err(Error::new(ErrorKind::NotFound, "there is no orphan of this name")
            .on(name)
            .with_remedy("sanbridge orphans lists them"));
    };
    let Some(orphan) = of_name.iter().find(|it| it.removable) else {
        return Err(Error::new(ErrorKind::Conflict, format!("{}; it is not removed", first.what))
            .on(name)
            .with_remedy(first.plan.join("; ")));
    };
    if orphan.kind != Kind::Record {
        return Ok(Request::Delete { object: name.to_owned() });
    }
    let san = &storage.san;
    Ok(Request::detach(&match name.split_once('@') {
        Some((object, snapshot)) => View::snapshot(san.owner(object)?, snapshot.parse()?),
        None => View::disk(san.owner(name)?),
    }))
}

async fn of_storage(cx: &Cx, san: &San, gone: &Gone) -> Result<Vec<Orphan>> {
    let volumes = san.census(cx).await?;
    let busy: BTreeSet<String> =
        san.open_operations().await?.into_iter().filter_map(|it| it.object).collect();
    let mut found = Vec::new();
    let mut known = BTreeSet::new();
    for volume in &volumes {
        let owner = san.owner_of(volume);
        known.extend(owner.as_ref().map(|it| it.object().to_owned()));
        // What is deleted and cannot go yet goes by itself.
        if matches!(&volume.mark, Marked::Ours(mark) if mark.kind == VolumeKind::Deleting) {
            continue;
        }
        // What is being worked on is no orphan.
        if !owner.as_ref().is_some_and(|it| busy.contains(it.object())) {
            found.extend(of_volume(cx, san, volume, owner.as_ref()).await?);
        }
    }
    for owner in san.bound_owners(cx).await? {
        if !known.contains(owner.object()) && !busy.contains(owner.object()) {
            found.push(binding(san, &owner));
        }
    }
    found.extend(on_node(cx, san, &busy).await?);
    found.extend(of_gone_nodes(cx, san, gone).await?);
    Ok(found)
}

async fn of_volume(cx: &Cx, san: &San, volume: &Volume, owner: Option<&Owner>) -> Result<Option<Orphan>> {
    let Some(owner) = owner else {
        return Ok(Some(Orphan {
            storage: san.space().to_owned(),
            kind: Kind::Unmarked,
            name: volume.name.to_string(),
            what: match volume.mark {
                Marked::Ours(_) => "its name and its mark disagree".to_owned(),
                _ => "it has a name of this storage and no mark".to_owned(),
            },
            why: "somebody renamed it, or took its comment away; it is left alone whatever happens"
                .to_owned(),
            removable: false,
            plan: vec!["look at the volume and its comment on the array".to_owned()],
        }));
    };
    let guests = san.guests_of(cx, owner).await?;
    if guests.iter().any(|it| it.tie == Tie::Configured) {
        return Ok(None);
    }
    let name = DiskName::full(
        match &volume.mark {
            Marked::Ours(mark) => mark.template.as_deref(),
            _ => None,
        },
        owner.object(),
    );
    let on = san.nodes_of(cx, owner).await?;
    let attached: Vec<String> = on.iter().map(ToString::to_string).collect();
    if volume.identity.is_none() {
        let age = volume.created.and_then(|it| u64::try_from(it).ok()).map(|it| now().saturating_sub(it));
        let is_old = age.is_some_and(|it| it > YOUNG);
        return Ok(Some(Orphan {
            storage: san.space().to_owned(),
            kind: Kind::HalfMade,
            name: owner.object().to_owned(),
            what: "its creation was interrupted: it has no LUN".to_owned(),
            why: "the node that was making it died, or still makes it; it holds its name".to_owned(),
            removable: is_old && attached.is_empty(),
            plan: if is_old {
                vec![format!("delete {} on the array, after proof that nobody sees it", volume.name)]
            } else {
                vec![
                    "wait: its node may yet end it, and if not it is removed by itself within the hour"
                        .to_owned(),
                ]
            },
        }));
    }
    let what = match (guests.first(), attached.as_slice()) {
        (Some(guest), []) => format!("{} exists and does not name it", guest.label),
        (None, []) => "no guest of its number exists".to_owned(),
        (_, some) => format!("no guest names it, and it is attached on {}", some.join(", ")),
    };
    Ok(Some(Orphan {
        storage: san.space().to_owned(),
        kind: Kind::Unreferenced,
        why: "a removed guest left it, or somebody made it by hand: nobody here can tell whether its data is needed"
            .to_owned(),
        removable: false,
        plan: vec![
            "qm rescan shows it as an unused disk where its guest exists".to_owned(),
            format!("pvesm free {}:{name} deletes it", san.space()),
        ],
        name,
        what,
    }))
}

/// What the cluster notes of nodes that are none any more. Only people know that they never come back.
async fn of_gone_nodes(cx: &Cx, san: &San, gone: &Gone) -> Result<Vec<Orphan>> {
    let orphan = |kind: Kind, name: String, node: &NodeName, what: String| Orphan {
        storage: san.space().to_owned(),
        kind,
        name,
        what,
        why: format!(
            "{node} is no node of the cluster any more; as long as the array knows it, whatever has its \
                      initiator name sees the disk, and nobody can delete that"
        ),
        removable: false,
        plan: vec![format!("sanbridge node remove {node}: ends everything that is left of it")],
    };
    let mut found = Vec::new();
    for presence in san.remote_presences(cx).await? {
        let node = &presence.node;
        if !gone.has(node) {
            continue;
        }
        let name = presence.view.file_name();
        found.push(match presence.view.snapshot {
            None => orphan(Kind::Mapping, name, node, format!("it is mapped to {node}, or may be")),
            Some(_) => orphan(Kind::Reader, name, node, format!("it is read for {node}, or may be")),
        });
    }
    for node in san.known_hosts(cx).await?.iter().filter(|it| gone.has(it)) {
        let what = format!("{} has a host object of {node}", san.array().profile().name);
        found.push(orphan(Kind::Host, node.to_string(), node, what));
    }
    Ok(found)
}

fn binding(san: &San, owner: &Owner) -> Orphan {
    Orphan {
        storage: san.space().to_owned(),
        kind: Kind::Binding,
        name: owner.object().to_owned(),
        what: "the cluster has notes of it, and the array has no such volume".to_owned(),
        why: "somebody deleted the volume on the array; its notes keep the name from being used".to_owned(),
        removable: true,
        plan: vec![
            "ask the array again".to_owned(),
            "detach it here if it is on record and unused".to_owned(),
            "forget the notes".to_owned(),
        ],
    }
}

async fn on_node(cx: &Cx, san: &San, busy: &BTreeSet<String>) -> Result<Vec<Orphan>> {
    let mut found = Vec::new();
    let presences = san.presences(cx).await?;
    let bare = |it: &&san_engine::Presence| {
        it.state == AttachmentState::Attached && it.paths.is_none() && !busy.contains(it.view.owner.object())
    };
    for it in presences.iter().filter(bare) {
        found.push(Orphan {
            storage: san.space().to_owned(),
            kind: Kind::Record,
            name: it.view.file_name(),
            what: "it is on record on this node and has no device".to_owned(),
            why: "the node was started anew; other nodes cannot delete it while this one has it".to_owned(),
            removable: true,
            plan: vec!["detach it here: unmap it on the array and forget the record".to_owned()],
        });
    }
    for path in san.links(cx).await? {
        if presences.iter().all(|it| san.device_path(&it.view) != path) {
            found.push(Orphan {
                storage: san.space().to_owned(),
                kind: Kind::Link,
                name: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
                what: format!("{} leads to a disk that is not on record here", path.display()),
                why: "somebody made it, or removed the record by hand".to_owned(),
                removable: false,
                plan: vec![format!("rm {}", path.display())],
            });
        }
    }
    Ok(found)
}
