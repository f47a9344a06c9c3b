//! The trait [`Cluster`]: what the nodes of one hypervisor cluster know together, and one implementation over a shared folder.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use san_core::{
    ArrayId, ByteSize, Cx, Deadline, Error, ErrorKind, Identity, Mapping, Marked, NodeName, OperationId,
    Owner, ReaderSpec, Result, Volume, VolumeKind, VolumeName, VolumeState,
};
use serde::{Deserialize, Serialize};

use crate::clock::unix_now;
use crate::release::{ReleaseAnswer, ReleaseRequest, Requests};
use crate::store::Folder;

/// Which array object an owner has now. Written by every operation that changes it, read at the moment of use: a node
/// that still holds an older object of the same name learns it here, without asking the array.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// Whose.
    pub owner: Owner,
    /// The array's key.
    pub id: ArrayId,
    /// Its name on the array.
    pub name: VolumeName,
    /// What its devices report.
    pub identity: Identity,
    /// Its size; `None` where only the array knows (after a roll back).
    pub size: Option<ByteSize>,
    /// What it is for.
    #[serde(default)]
    pub kind: VolumeKind,
    /// The template it was cloned from.
    #[serde(default)]
    pub template: Option<String>,
    /// Which part of the array held it when it was made ([`Volume::place`]).
    #[serde(default)]
    pub place: Option<String>,
    /// Since when it is deleted and waits to go, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deleted: Option<u64>,
    /// How all nodes see it: enough to attach it without asking the array. `None`: it is mapped node by node, or nobody knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shared: Option<Mapping>,
}

impl Binding {
    /// The volume as far as the binding knows it: enough to address it on the array.
    pub fn to_volume(&self) -> Volume {
        Volume {
            id: self.id.clone(),
            name: self.name.clone(),
            mark: Marked::NotRead,
            identity: Some(self.identity.clone()),
            size: self.size.unwrap_or_default(),
            used: None,
            created: None,
            state: VolumeState::Online,
            mapped: None,
            readers: None,
            place: self.place.clone(),
        }
    }
}

/// A guest that has to do with a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Guest {
    /// A word for people, e.g. `VM 100`.
    pub label: String,
    /// Where it lives.
    pub node: NodeName,
    /// How it is tied to the volume.
    pub tie: Tie,
}

/// How a guest is tied to a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tie {
    /// The volume's name says that it is this guest's.
    Named,
    /// The guest's configuration refers to it.
    Configured,
}

/// Which guests have to do with which volumes. "Unknown" is an error.
#[async_trait]
pub trait Guests: fmt::Debug + Send + Sync {
    /// The guests tied to the volume.
    async fn using(&self, cx: &Cx, owner: &Owner) -> Result<Vec<Guest>>;

    /// Why the volume may be needed on `node` although nobody has it open at this moment: its guest runs there, is locked
    /// or moves, or a task works on it. `None` only where that is proved not to be so.
    async fn activity(&self, cx: &Cx, owner: &Owner, node: &NodeName) -> Result<Option<String>>;
}

/// A cluster-wide right to change one volume, until `until`.
#[derive(Debug, Clone)]
pub struct Lease {
    /// The volume.
    pub owner: Owner,
    /// The operation that holds it.
    pub operation: OperationId,
    /// No effect may begin after this.
    pub until: Deadline,
}

/// What the nodes of one cluster know together.
#[async_trait]
pub trait Cluster: fmt::Debug + Send + Sync {
    /// The owner's binding; `None` where it is proved absent.
    async fn binding(&self, cx: &Cx, owner: &Owner) -> Result<Option<Binding>>;

    /// The objects of a space that have a binding.
    async fn bound(&self, cx: &Cx, realm: &str, space: &str) -> Result<Vec<Owner>>;

    /// Writes a binding.
    async fn bind(&self, cx: &Cx, binding: &Binding) -> Result<()>;

    /// Removes the owner's binding if it is of `id`.
    async fn unbind(&self, cx: &Cx, owner: &Owner, id: &ArrayId) -> Result<()>;

    /// The nodes that have, or may have, the volume mapped: noted before the mapping is made, until it is gone.
    async fn attached_on(&self, cx: &Cx, owner: &Owner) -> Result<Vec<NodeName>>;

    /// Notes that `node` is about to map the volume.
    async fn note_attached(&self, cx: &Cx, owner: &Owner, node: &NodeName) -> Result<()>;

    /// Notes that `node` has no mapping of the volume any more.
    async fn note_detached(&self, cx: &Cx, owner: &Owner, node: &NodeName) -> Result<()>;

    /// Who reads snapshots of the volume, or may: noted before the reader is handed out, until it is gone, or until the
    /// snapshot of that name is another one than he reads.
    async fn readers(&self, cx: &Cx, owner: &Owner) -> Result<Vec<ReaderSpec>>;

    /// Notes such a reader.
    async fn note_reader(&self, cx: &Cx, owner: &Owner, reader: &ReaderSpec) -> Result<()>;

    /// Forgets one.
    async fn forget_reader(&self, cx: &Cx, owner: &Owner, reader: &ReaderSpec) -> Result<()>;

    /// The node a host object of an array stands for; `None`: not one of this cluster.
    async fn node_of_host(&self, cx: &Cx, array: &str, host: &ArrayId) -> Result<Option<NodeName>>;

    /// Whether a host object of an array stands for all nodes together.
    async fn is_shared_host(&self, cx: &Cx, array: &str, host: &ArrayId) -> Result<bool>;

    /// Notes that it does.
    async fn note_shared_host(&self, cx: &Cx, array: &str, host: &ArrayId) -> Result<()>;

    /// Notes a node's host object.
    async fn note_host(&self, cx: &Cx, array: &str, host: &ArrayId, node: &NodeName) -> Result<()>;

    /// The nodes that have a noted host object of an array, each once.
    async fn hosts(&self, cx: &Cx, array: &str) -> Result<Vec<NodeName>>;

    /// Forgets a node's host objects of an array.
    async fn forget_hosts(&self, cx: &Cx, array: &str, node: &NodeName) -> Result<()>;

    /// The operation that is about to overwrite the volume's bytes, or may not have ended doing so. Whatever other change
    /// of the volume comes first takes the note away, and the operation must not go on then.
    async fn overwriting(&self, cx: &Cx, owner: &Owner) -> Result<Option<OperationId>>;

    /// Notes, or with `None` forgets, such an operation.
    async fn note_overwriting(&self, cx: &Cx, owner: &Owner, operation: Option<OperationId>) -> Result<()>;

    /// The right to change the volume; waits for another holder until the context's deadline.
    ///
    /// # Errors
    /// `Busy` naming the node and operation that holds it.
    async fn lease(&self, cx: &Cx, owner: &Owner) -> Result<Lease>;

    /// Gives a lease back. A lease that ran out is no error.
    async fn give_back(&self, cx: &Cx, lease: &Lease) -> Result<()>;

    /// Gives back what leases a daemon of `node` left behind that does not run any more, and takes back what it asked of
    /// others: an earlier one of this node, or one of a node that is gone.
    async fn give_back_leftovers(&self, cx: &Cx, realm: &str, space: &str, node: &NodeName) -> Result<()>;

    /// The guests tied to the volume.
    async fn guests_using(&self, cx: &Cx, owner: &Owner) -> Result<Vec<Guest>>;

    /// Why the volume may be needed on this node although nobody has it open. `None` only where that is proved not to be so.
    async fn guest_activity(&self, cx: &Cx, owner: &Owner) -> Result<Option<String>>;

    /// Asks the daemon of `node` to detach the volume; of each node an operation asks once at a time.
    async fn ask_release(&self, cx: &Cx, node: &NodeName, owner: &Owner, until: Deadline) -> Result<()>;

    /// What `node` has answered this operation; `None`: nothing yet.
    async fn release_answer(&self, cx: &Cx, node: &NodeName) -> Result<Option<ReleaseAnswer>>;

    /// Takes back what this operation asked of `node`, answered or not.
    async fn withdraw_release(&self, cx: &Cx, node: &NodeName) -> Result<()>;

    /// What others ask of this node and nobody has answered. Looked at every second: it must be cheap.
    async fn release_requests(&self, cx: &Cx) -> Result<Vec<ReleaseRequest>>;

    /// Answers what another node asked. Nobody waiting for it any more is no error.
    async fn answer_release(&self, cx: &Cx, request: &ReleaseRequest, answer: ReleaseAnswer) -> Result<()>;
}

/// A [`Cluster`] over a folder that all nodes share.
///
/// ```text
/// <folder>/volumes/<space>/<object>/binding    which array object it is
/// <folder>/volumes/<space>/<object>/on.<node>  the node has it mapped, or is about to
/// <folder>/volumes/<space>/<object>/reader.<node>@<snapshot>  the node reads that snapshot
/// <folder>/volumes/<space>/<object>/lease      who changes it, and until when
/// <folder>/volumes/<space>/<object>/overwrite  which operation is about to overwrite its bytes
/// <folder>/volumes/<space>/<object>/successor.<operation>  for a moment: who takes that operation's dead lease over
/// <folder>/hosts/<array>.<host id>             which node a host object of an array stands for
/// <folder>/shared-hosts/<array>.<host id>      that one stands for all nodes together
/// <folder>/requests/<node>/<operation>         for seconds: a volume that node is asked to release, and its answer
/// ```
#[derive(Debug)]
pub struct FolderCluster {
    folder: Folder,
    node: NodeName,
    guests: Arc<dyn Guests>,
    requests: Requests,
}

/// How long a lease lasts. It is never renewed: whoever needs longer stops at the fence and takes a new one.
const LEASE: Duration = Duration::from_secs(180);
/// Nodes may disagree about the time by this much before a dead holder's lease is taken over.
const SKEW: Duration = Duration::from_secs(30);
/// How often a held lease is looked at again: the folder tells nobody about changes other nodes make.
const LEASE_PAUSE: Duration = Duration::from_millis(250);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct LeaseFile {
    node: NodeName,
    operation: OperationId,
    /// Seconds since 1970.
    until: u64,
}

#[derive(Debug, Serialize, Deserialize)]
struct NodeNote {
    node: NodeName,
}

/// What the notes about readers begin with: other than the ones about disks, which older versions read.
const READER: &str = "reader.";

fn reader_file(reader: &ReaderSpec) -> String {
    format!("{READER}{}@{}", reader.node, reader.snapshot)
}

impl FolderCluster {
    /// The cluster folder as `node` sees it.
    pub fn new(folder: Folder, node: NodeName, guests: Arc<dyn Guests>) -> Self {
        let requests = Requests::at(folder.below("requests"), node.clone());
        Self { folder, node, guests, requests }
    }

    fn space(&self, space: &str) -> Folder {
        self.folder.below("volumes").below(space)
    }

    fn of(&self, owner: &Owner) -> Folder {
        self.space(owner.space()).below(owner.object())
    }

    fn host_file(array: &str, host: &ArrayId) -> String {
        format!("{array}.{host}").replace('/', "_")
    }

    /// One attempt: ours, or whose it is.
    async fn try_lease(&self, cx: &Cx, owner: &Owner) -> Result<Result<Lease, LeaseFile>> {
        let folder = self.of(owner);
        let until = Deadline::after(LEASE);
        let ours = LeaseFile {
            node: self.node.clone(),
            operation: cx.operation(),
            until: unix_now() + LEASE.as_secs() + SKEW.as_secs(),
        };
        let lease = Lease { owner: owner.clone(), operation: cx.operation(), until };
        if folder.claim(cx, "lease", &ours).await? {
            return Ok(Ok(lease));
        }
        let holder = match folder.read::<LeaseFile>("lease").await {
            Ok(Some(holder)) => holder,
            // It was given back this moment.
            Ok(None) => return Ok(Err(ours)),
            // Its maker has not written it yet, or never will: then its age counts.
            Err(_) => match folder.age("lease").await? {
                Some(age) if age > LEASE + SKEW => LeaseFile { until: 0, ..ours.clone() },
                _ => return Ok(Err(ours)),
            },
        };
        // Only one daemon runs per node, and it serialises its own work per volume: a lease of this node is a leftover.
        let leftover = holder.node == self.node;
        if leftover || holder.until < unix_now() {
            // A dead lease has exactly one successor: whoever makes this file.
            let succession = format!("successor.{}", holder.operation);
            if folder.claim(cx, &succession, &ours).await? {
                tracing::warn!(%owner, node = %holder.node, operation = %holder.operation, "taking over a lease");
                // It may have been given back, and taken by somebody else, since it was looked at.
                let is_unchanged = folder.read::<LeaseFile>("lease").await?.as_ref() == Some(&holder);
                if is_unchanged {
                    folder.write(cx, "lease", &ours).await?;
                }
                folder.remove(cx, &succession).await?;
                if is_unchanged {
                    return Ok(Ok(lease));
                }
            } else if folder.age(&succession).await?.is_some_and(|it| it > LEASE + SKEW) {
                // The successor died in between, long ago.
                folder.remove(cx, &succession).await?;
            }
        }
        Ok(Err(holder))
    }
}

#[async_trait]
impl Cluster for FolderCluster {
    async fn binding(&self, _cx: &Cx, owner: &Owner) -> Result<Option<Binding>> {
        let binding: Option<Binding> = self.of(owner).read("binding").await?;
        match binding {
            Some(it) if it.owner != *owner => {
                Err(Error::new(ErrorKind::Conflict, format!("its binding is the one of {}", it.owner))
                    .on(owner))
            }
            other => Ok(other),
        }
    }

    async fn bound(&self, _cx: &Cx, realm: &str, space: &str) -> Result<Vec<Owner>> {
        let mut owners = Vec::new();
        for object in self.space(space).names().await? {
            owners.push(Owner::new(realm, space, &object)?);
        }
        Ok(owners)
    }

    async fn bind(&self, cx: &Cx, binding: &Binding) -> Result<()> {
        self.of(&binding.owner).write(cx, "binding", binding).await
    }

    async fn unbind(&self, cx: &Cx, owner: &Owner, id: &ArrayId) -> Result<()> {
        let folder = self.of(owner);
        if folder.read::<Binding>("binding").await?.is_some_and(|it| it.id == *id) {
            folder.remove(cx, "binding").await?;
        }
        // An empty folder would keep the name from being given again.
        folder.prune(cx).await
    }

    async fn attached_on(&self, _cx: &Cx, owner: &Owner) -> Result<Vec<NodeName>> {
        let names = self.of(owner).names().await?;
        names.iter().filter_map(|it| it.strip_prefix("on.")).map(str::parse).collect()
    }

    async fn note_attached(&self, cx: &Cx, owner: &Owner, node: &NodeName) -> Result<()> {
        self.of(owner).write(cx, &format!("on.{node}"), &NodeNote { node: node.clone() }).await
    }

    async fn note_detached(&self, cx: &Cx, owner: &Owner, node: &NodeName) -> Result<()> {
        self.of(owner).remove(cx, &format!("on.{node}")).await.map(|_| ())
    }

    async fn readers(&self, _cx: &Cx, owner: &Owner) -> Result<Vec<ReaderSpec>> {
        let reader = |name: &String| {
            let (node, snapshot) = name.strip_prefix(READER)?.split_once('@')?;
            Some(node.parse().and_then(|node| Ok(ReaderSpec { node, snapshot: snapshot.parse()? })))
        };
        self.of(owner).names().await?.iter().filter_map(reader).collect()
    }

    async fn note_reader(&self, cx: &Cx, owner: &Owner, reader: &ReaderSpec) -> Result<()> {
        self.of(owner).write(cx, &reader_file(reader), &NodeNote { node: reader.node.clone() }).await
    }

    async fn forget_reader(&self, cx: &Cx, owner: &Owner, reader: &ReaderSpec) -> Result<()> {
        self.of(owner).remove(cx, &reader_file(reader)).await.map(|_| ())
    }

    async fn node_of_host(&self, _cx: &Cx, array: &str, host: &ArrayId) -> Result<Option<NodeName>> {
        let note: Option<NodeNote> = self.folder.below("hosts").read(&Self::host_file(array, host)).await?;
        Ok(note.map(|it| it.node))
    }

    async fn is_shared_host(&self, _cx: &Cx, array: &str, host: &ArrayId) -> Result<bool> {
        let folder = self.folder.below("shared-hosts");
        Ok(folder.read::<NodeNote>(&Self::host_file(array, host)).await?.is_some())
    }

    async fn note_shared_host(&self, cx: &Cx, array: &str, host: &ArrayId) -> Result<()> {
        // Who noted it, for people.
        let content = NodeNote { node: self.node.clone() };
        self.folder.below("shared-hosts").write(cx, &Self::host_file(array, host), &content).await
    }

    async fn note_host(&self, cx: &Cx, array: &str, host: &ArrayId, node: &NodeName) -> Result<()> {
        let content = NodeNote { node: node.clone() };
        self.folder.below("hosts").write(cx, &Self::host_file(array, host), &content).await
    }

    async fn hosts(&self, _cx: &Cx, array: &str) -> Result<Vec<NodeName>> {
        let folder = self.folder.below("hosts");
        let prefix = format!("{array}.").replace('/', "_");
        let mut nodes = BTreeSet::new();
        for name in folder.names().await?.iter().filter(|it| it.starts_with(&prefix)) {
            nodes.extend(folder.read::<NodeNote>(name).await?.map(|it| it.node));
        }
        Ok(nodes.into_iter().collect())
    }

    async fn forget_hosts(&self, cx: &Cx, array: &str, node: &NodeName) -> Result<()> {
        let folder = self.folder.below("hosts");
        let prefix = format!("{array}.").replace('/', "_");
        for name in folder.names().await?.iter().filter(|it| it.starts_with(&prefix)) {
            if folder.read::<NodeNote>(name).await?.is_some_and(|it| it.node == *node) {
                folder.remove(cx, name).await?;
            }
        }
        Ok(())
    }

    async fn overwriting(&self, _cx: &Cx, owner: &Owner) -> Result<Option<OperationId>> {
        self.of(owner).read("overwrite").await
    }

    async fn note_overwriting(&self, cx: &Cx, owner: &Owner, operation: Option<OperationId>) -> Result<()> {
        match operation {
            Some(id) => self.of(owner).write(cx, "overwrite", &id).await,
            None => self.of(owner).remove(cx, "overwrite").await.map(|_| ()),
        }
    }

    async fn lease(&self, cx: &Cx, owner: &Owner) -> Result<Lease> {
        loop {
            let holder = match self.try_lease(cx, owner).await? {
                Ok(lease) => return Ok(lease),
                Err(holder) => holder,
            };
            if cx.deadline().remaining() <= LEASE_PAUSE {
                let message = format!("node {} is changing it (operation {})", holder.node, holder.operation);
                return Err(Error::new(ErrorKind::Busy, message)
                    .on(owner)
                    .with_remedy("try again in a moment"));
            }
            tokio::time::sleep(LEASE_PAUSE).await;
        }
    }

    async fn give_back(&self, cx: &Cx, lease: &Lease) -> Result<()> {
        let folder = self.of(&lease.owner);
        let holder: Option<LeaseFile> = folder.read("lease").await?;
        if holder.is_some_and(|it| it.node == self.node && it.operation == lease.operation) {
            folder.remove(cx, "lease").await?;
        }
        folder.prune(cx).await
    }

    async fn give_back_leftovers(&self, cx: &Cx, realm: &str, space: &str, node: &NodeName) -> Result<()> {
        for owner in self.bound(cx, realm, space).await? {
            let folder = self.of(&owner);
            // One that cannot be read is not known to be ours: its age decides when somebody needs it.
            let Ok(Some(holder)) = folder.read::<LeaseFile>("lease").await else { continue };
            if holder.node == *node {
                folder.remove(cx, "lease").await?;
                folder.prune(cx).await?;
            }
        }
        self.requests.withdraw_leftovers(cx, space, node).await
    }

    async fn guests_using(&self, cx: &Cx, owner: &Owner) -> Result<Vec<Guest>> {
        self.guests.using(cx, owner).await
    }

    async fn guest_activity(&self, cx: &Cx, owner: &Owner) -> Result<Option<String>> {
        self.guests.activity(cx, owner, &self.node).await
    }

    async fn ask_release(&self, cx: &Cx, node: &NodeName, owner: &Owner, until: Deadline) -> Result<()> {
        self.requests.ask(cx, node, owner, until).await
    }

    async fn release_answer(&self, cx: &Cx, node: &NodeName) -> Result<Option<ReleaseAnswer>> {
        self.requests.answer(cx, node).await
    }

    async fn withdraw_release(&self, cx: &Cx, node: &NodeName) -> Result<()> {
        self.requests.withdraw(cx, node).await
    }

    async fn release_requests(&self, cx: &Cx) -> Result<Vec<ReleaseRequest>> {
        self.requests.pending(cx).await
    }

    async fn answer_release(&self, cx: &Cx, request: &ReleaseRequest, answer: ReleaseAnswer) -> Result<()> {
        self.requests.reply(cx, request, answer).await
    }
}

#[cfg(test)]
mod tests {
    use san_core::Effects;
    use tokio::time::Instant;

    use super::*;

    #[derive(Debug)]
    struct NoGuests;

    #[async_trait]
    impl Guests for NoGuests {
        async fn using(&self, _cx: &Cx, _owner: &Owner) -> Result<Vec<Guest>> {
            Ok(Vec::new())
        }

        async fn activity(&self, _cx: &Cx, _owner: &Owner, _node: &NodeName) -> Result<Option<String>> {
            Ok(None)
        }
    }

    fn cluster(folder: &tempfile::TempDir, node: &str) -> FolderCluster {
        FolderCluster::new(Folder::at(folder.path()), node.parse().unwrap(), Arc::new(NoGuests))
    }

    fn cx(seconds: u64) -> Cx {
        Cx::new(Deadline::after(Duration::from_secs(seconds)), OperationId::random(), Effects::unobserved())
    }

    fn owner() -> Owner {
        Owner::new("realm", "san1", "vm-100-disk-0").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_excludes_other_nodes_until_it_is_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (cluster(&folder, "node1"), cluster(&folder, "node2"));
        let lease = one.lease(&cx(5), &owner()).await.unwrap();
        let start = Instant::now();
        let error = two.lease(&cx(5), &owner()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Busy);
        assert!(error.to_string().contains("node1"), "{error}");
        assert!(start.elapsed() <= Duration::from_secs(5));
        one.give_back(&cx(5), &lease).await.unwrap();
        let theirs = two.lease(&cx(5), &owner()).await.unwrap();
        // What is not ours any more is not given back.
        one.give_back(&cx(5), &lease).await.unwrap();
        assert!(one.lease(&cx(5), &owner()).await.is_err());
        two.give_back(&cx(5), &theirs).await.unwrap();
        assert_eq!(one.bound(&cx(5), "realm", "san1").await.unwrap(), Vec::<Owner>::new());
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_of_an_earlier_process_of_this_node_is_a_leftover() {
        let folder = tempfile::tempdir().unwrap();
        drop(cluster(&folder, "node1").lease(&cx(5), &owner()).await.unwrap());
        cluster(&folder, "node2")
            .give_back_leftovers(&cx(5), "realm", "san1", &"node2".parse().unwrap())
            .await
            .unwrap();
        assert!(cluster(&folder, "node2").lease(&cx(5), &owner()).await.is_err());
        cluster(&folder, "node1")
            .give_back_leftovers(&cx(5), "realm", "san1", &"node1".parse().unwrap())
            .await
            .unwrap();
        assert!(cluster(&folder, "node2").lease(&cx(5), &owner()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_nodes_lease_runs_out() {
        let folder = tempfile::tempdir().unwrap();
        let place = Folder::at(folder.path()).below("volumes").below("san1").below("vm-100-disk-0");
        let dead =
            |until| LeaseFile { node: "node1".parse().unwrap(), operation: OperationId::random(), until };
        place.write(&cx(5), "lease", &dead(unix_now() + 60)).await.unwrap();
        assert!(cluster(&folder, "node2").lease(&cx(5), &owner()).await.is_err());
        place.write(&cx(5), "lease", &dead(unix_now() - 1)).await.unwrap();
        assert!(cluster(&folder, "node2").lease(&cx(5), &owner()).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_dead_lease_has_one_successor() {
        let folder = tempfile::tempdir().unwrap();
        let place = Folder::at(folder.path()).below("volumes").below("san1").below("vm-100-disk-0");
        for _ in 0..20 {
            let dead = LeaseFile {
                node: "node9".parse().unwrap(),
                operation: OperationId::random(),
                until: unix_now() - 1,
            };
            place.write(&cx(5), "lease", &dead).await.unwrap();
            let mut tasks = tokio::task::JoinSet::new();
            for node in ["node1", "node2", "node3", "node4"] {
                let cluster = cluster(&folder, node);
                tasks.spawn(async move { cluster.try_lease(&cx(5), &owner()).await.unwrap().is_ok() });
            }
            let holders = tasks.join_all().await.into_iter().filter(|it| *it).count();
            assert!(holders <= 1, "{holders} holders");
            place.remove(&cx(5), "lease").await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_binding_goes_only_with_its_object() {
        let folder = tempfile::tempdir().unwrap();
        let cluster = cluster(&folder, "node1");
        let binding = Binding {
            owner: owner(),
            id: "a:b".parse().unwrap(),
            name: "sb__x".parse().unwrap(),
            identity: Identity { wwid: san_core::Wwid::Naa6([0x60; 16]), serial: "s".into() },
            size: Some(ByteSize::from_mib(1)),
            kind: VolumeKind::Disk,
            template: None,
            place: None,
            deleted: None,
            shared: None,
        };
        cluster.bind(&cx(5), &binding).await.unwrap();
        cluster.unbind(&cx(5), &owner(), &"c:d".parse().unwrap()).await.unwrap();
        assert_eq!(cluster.binding(&cx(5), &owner()).await.unwrap(), Some(binding));
        cluster.unbind(&cx(5), &owner(), &"a:b".parse().unwrap()).await.unwrap();
        assert_eq!(cluster.binding(&cx(5), &owner()).await.unwrap(), None);
    }
}
