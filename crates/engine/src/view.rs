//! What can be said of a storage without asking its array: for people who want to know how things stand.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use san_core::{
    Cx, Finding, Hctl, HostSpec, Lun, Marked, NodeName, OperationId, Owner, Paths, Result, Route, TargetPort,
    Volume, VolumeName,
};

use crate::cluster::Guest;
use crate::disk_view::View;
use crate::intent::{Cursor, Found, Intent};
use crate::record::AttachmentState;
use crate::san::San;

/// How far an open operation is, and what it waits for. Steps are in words for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OpenState {
    /// This step is done, or tried, next.
    ToDo(&'static str),
    /// This step is taken back next; why.
    ToUndo(&'static str, String),
    /// It is done, and its caller has not confirmed that it has the answer.
    Unconfirmed,
    /// It could be neither finished nor undone at this step; why.
    Stuck(&'static str, String),
    /// Its file cannot be understood; why.
    Unreadable(String),
}

/// An operation that has not ended.
#[derive(Debug, Clone)]
pub struct OpenOperation {
    /// Its id; `None` where its file cannot be understood.
    pub id: Option<OperationId>,
    /// What it does, in a word.
    pub verb: &'static str,
    /// Its volume.
    pub object: Option<String>,
    /// What that is called on the array, for whoever has to look there.
    pub on_array: Option<VolumeName>,
    /// When it began, in seconds since 1970.
    pub started: Option<u64>,
    /// Whether it runs now. What does not is taken up again by itself.
    pub is_running: bool,
    /// How far it is.
    pub state: OpenState,
}

/// A port of the array, and whether this node has a session with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Portal {
    /// Which.
    pub port: TargetPort,
    /// Whether a session with it is up.
    pub is_up: bool,
}

/// A disk, or a snapshot of one, that a node has, or may have, as far as the cluster knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemotePresence {
    /// Which node.
    pub node: NodeName,
    /// What.
    pub view: View,
}

/// A disk, or a snapshot of one, that this node has on record.
#[derive(Debug, Clone)]
pub struct Presence {
    /// What.
    pub view: View,
    /// The number it has here; `None` until it is mapped.
    pub lun: Option<Lun>,
    /// How far it is.
    pub state: AttachmentState,
    /// How its device stands; `None` where there is none.
    pub paths: Option<Paths>,
    /// How many paths it should have.
    pub expected: usize,
    /// For how long it has had no path, as far as this process has seen.
    pub outage: Option<Duration>,
}

impl San {
    /// The operations of this storage that have not ended, on this node.
    pub async fn open_operations(&self) -> Result<Vec<OpenOperation>> {
        let found = self.intents().all().await?;
        Ok(found.into_iter().map(|it| self.describe(it)).collect())
    }

    /// The nodes that have the disk mapped, or may have.
    pub async fn nodes_of(&self, cx: &Cx, owner: &Owner) -> Result<Vec<NodeName>> {
        self.cluster().attached_on(cx, owner).await
    }

    /// What the cluster notes that nodes have: disks, and snapshots of disks.
    pub async fn remote_presences(&self, cx: &Cx) -> Result<Vec<RemotePresence>> {
        let mut found = Vec::new();
        for owner in self.cluster().bound(cx, self.realm(), self.space()).await? {
            for node in self.cluster().attached_on(cx, &owner).await? {
                found.push(RemotePresence { node, view: View::disk(owner.clone()) });
            }
            for reader in self.cluster().readers(cx, &owner).await? {
                let view = View::snapshot(owner.clone(), reader.snapshot);
                found.push(RemotePresence { node: reader.node, view });
            }
        }
        Ok(found)
    }

    /// The nodes of which the array has a host object, as far as the cluster knows.
    pub async fn known_hosts(&self, cx: &Cx) -> Result<Vec<NodeName>> {
        self.cluster().hosts(cx, &self.array().profile().serial).await
    }

    /// The guests tied to the disk.
    pub async fn guests_of(&self, cx: &Cx, owner: &Owner) -> Result<Vec<Guest>> {
        self.cluster().guests_using(cx, owner).await
    }

    /// All volumes with a name of this storage, half-made and unmarked ones too: complete, or an error.
    pub async fn census(&self, cx: &Cx) -> Result<Vec<Volume>> {
        self.array().volumes(cx, &self.query()).await
    }

    /// Whose a volume of [`San::census`] is; `None` where its name and its mark do not say the same.
    pub fn owner_of(&self, volume: &Volume) -> Option<Owner> {
        let Marked::Ours(mark) = &volume.mark else { return None };
        let name = self.encode(&mark.owner).ok()?;
        (name == volume.name).then(|| mark.owner.clone())
    }

    /// The disks of this storage that the cluster has a binding of.
    pub async fn bound_owners(&self, cx: &Cx) -> Result<Vec<Owner>> {
        let mut owners = Vec::new();
        for owner in self.cluster().bound(cx, self.realm(), self.space()).await? {
            // A folder may hold a lease only.
            if self.cluster().binding(cx, &owner).await?.is_some() {
                owners.push(owner);
            }
        }
        Ok(owners)
    }

    /// Where disks of this storage, and snapshots of them, appear on this node.
    pub async fn links(&self, cx: &Cx) -> Result<Vec<PathBuf>> {
        let folder = self.node().devices_folder.join(self.space());
        let names = self.node().host.list(cx, &folder).await?.unwrap_or_default();
        Ok(names.into_iter().map(|it| folder.join(it)).collect())
    }

    /// What of the array's settings is known to cause trouble; nothing where the array has nothing that looks.
    pub async fn checkup(&self, cx: &Cx) -> Result<Vec<Finding>> {
        let Some(checkup) = self.array().checkup() else { return Ok(Vec::new()) };
        let host = HostSpec {
            realm: self.realm().to_owned(),
            node: self.node_name().clone(),
            initiators: self.transport().initiators(cx).await?,
        };
        checkup.findings(cx, &host, &self.query()).await
    }

    /// The controllers to which those legs of an attached disk lead that answer, as this node finds them now; `None` where that
    /// cannot be told.
    pub async fn controllers_of(&self, cx: &Cx, view: &View) -> Result<Option<BTreeSet<String>>> {
        let record = self.attachments().of(view).await?;
        let Some((record, expect)) = record.and_then(|it| it.expected().map(|expect| (it, expect))) else {
            return Ok(None);
        };
        let routes = self.routes(cx, &record.ports).await?;
        let Some(device) = self.devices().inspect(cx, &expect, &routes).await? else { return Ok(None) };
        let is_behind =
            |route: &Route, leg: &Hctl| matches!(route, Route::Scsi { host, .. } if *host == leg.host);
        let controller = |leg: &Hctl| {
            let route = routes.iter().find(|it| is_behind(it, leg))?;
            route.port().node().map(str::to_owned)
        };
        Ok(device.legs.iter().map(|it| controller(&it.hctl)).collect())
    }

    fn describe(&self, found: Found) -> OpenOperation {
        match found {
            Found::Unreadable { file, error } => OpenOperation {
                id: None,
                verb: "unknown",
                object: None,
                on_array: None,
                started: None,
                is_running: false,
                state: OpenState::Unreadable(format!("{file}: {}", error.chain())),
            },
            Found::Readable(intent) => OpenOperation {
                id: Some(intent.id),
                verb: intent.work.verb(),
                object: intent.work.owner().map(|it| it.object().to_owned()),
                on_array: intent.work.owner().and_then(|it| self.encode(it).ok()),
                started: Some(intent.started),
                is_running: self.is_running(intent.id),
                state: state_of(&intent),
            },
        }
    }

    /// The array's ports as far as this node knows them, from its memory or its disks, and its sessions with them.
    pub async fn portals(&self, cx: &Cx) -> Result<Vec<Portal>> {
        let remembered = {
            // Whoever asks the array for them just now must not be waited for.
            let ports = self.shared().ports.try_lock();
            ports.ok().and_then(|it| it.clone())
        };
        let mut ports = match remembered {
            Some(ports) => ports,
            None => self.attached().await?.into_iter().flat_map(|it| it.ports).collect(),
        };
        ports.sort();
        ports.dedup();
        let up: Vec<TargetPort> = self.routes(cx, &ports).await?.iter().map(|it| it.port().clone()).collect();
        Ok(ports.into_iter().map(|port| Portal { is_up: up.contains(&port), port }).collect())
    }

    /// The disks that this node has on record, and how their devices stand.
    pub async fn presences(&self, cx: &Cx) -> Result<Vec<Presence>> {
        let records = self.attached().await?;
        let identities: Vec<_> = records.iter().map(|it| it.identity.clone()).collect();
        let paths =
            if records.is_empty() { Vec::new() } else { self.devices().paths(cx, &identities).await? };
        let known = records.into_iter().zip(paths.into_iter().chain(std::iter::repeat(None)));
        Ok(known
            .map(|(record, paths)| Presence {
                outage: self.outage(&record.identity.wwid),
                lun: record.lun,
                expected: self.paths_wanted(&record),
                state: record.state,
                view: record.view(),
                paths,
            })
            .collect())
    }
}

fn state_of(intent: &Intent) -> OpenState {
    let steps = intent.work.plan().steps();
    let step = |it: usize| steps.get(it).copied().unwrap_or("give the answer");
    match &intent.cursor {
        Cursor::Forward(it) => OpenState::ToDo(step(*it)),
        Cursor::Back(it, why) => OpenState::ToUndo(step(*it), why.clone()),
        Cursor::Unacknowledged(_) => OpenState::Unconfirmed,
        Cursor::Stuck(it) => OpenState::Stuck(step(it.step), it.reason.clone()),
    }
}
