//! A site: one simulated array, simulated nodes, and on each node the real backend, transport, device manager and engine.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use san_contract::audit::{Audit, Ledger};
use san_core::{
    ByteSize, Cx, Deadline, DeleteMode, Effects, Error, ErrorKind, NodeName, OperationId, Owner, Result,
    SnapshotName, TransportKind, Visibility,
};
use san_engine::{
    Asker, Cluster, Folder, FolderCluster, Guest, Guests, Naming, Node, NodeConfig, OUTAGE, Outcome, Request,
    San, SanConfig, Tie,
};
use san_host::Guard;
use san_multipath::{Multipath, MultipathConfig};
use san_ontap::{Ontap, OntapConfig};
use san_rest::{Credentials, Wire};
use san_sim::host::{NodeSpec, SimNode, World};
use san_sim::ontap::{BadRole, OntapConfig as SimConfig, OntapSim, Version};
use san_transport_iscsi::{Iscsi, IscsiConfig};

use crate::ledger::{ArrayLedger, FolderLedger, HostLedger};

/// The SVM every site uses.
pub const SVM: &str = "svm1";
/// The storage every site has.
pub const SPACE: &str = "san1";
/// The realm of every site.
pub const REALM: &str = "lab";
/// The password of the simulated array; nothing may ever print it.
pub const PASSWORD: &str = "netapp1!";
/// The role that is shipped for accounts of the cluster.
pub const CLUSTER_ROLE: &str = include_str!("../../crates/ontap/roles/cluster.txt");
/// The role that is shipped for accounts of an SVM.
pub const SVM_ROLE: &str = include_str!("../../crates/ontap/roles/svm.txt");
/// How long one call may take.
pub const PATIENCE: Duration = Duration::from_secs(55);

/// Where guests live, as a test says.
#[derive(Debug, Default)]
pub struct TestGuests {
    places: Mutex<BTreeMap<String, (NodeName, Tie)>>,
    activities: Mutex<BTreeMap<(NodeName, String), String>>,
}

impl TestGuests {
    /// The guest of `object` lives on `node`.
    pub fn place(&self, object: &str, node: &NodeName, tie: Tie) {
        self.places
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(object.to_owned(), (node.clone(), tie));
    }

    /// The guest of `object` is gone.
    pub fn remove(&self, object: &str) {
        self.places.lock().unwrap_or_else(PoisonError::into_inner).remove(object);
    }

    /// Something is under way with the guest of `object` on `node`; `None`: no more.
    pub fn busy(&self, object: &str, node: &NodeName, activity: Option<&str>) {
        let mut activities = self.activities.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (node.clone(), object.to_owned());
        match activity {
            Some(activity) => drop(activities.insert(key, activity.to_owned())),
            None => drop(activities.remove(&key)),
        }
    }
}

#[async_trait]
impl Guests for TestGuests {
    async fn using(&self, _cx: &Cx, owner: &Owner) -> Result<Vec<Guest>> {
        let guests = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let found = guests.get(owner.object());
        Ok(found
            .map(|(node, tie)| Guest { label: "guest".to_owned(), node: node.clone(), tie: *tie })
            .into_iter()
            .collect())
    }

    async fn activity(&self, _cx: &Cx, owner: &Owner, node: &NodeName) -> Result<Option<String>> {
        let activities = self.activities.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(activities.get(&(node.clone(), owner.object().to_owned())).cloned())
    }
}

/// One node of a site.
#[derive(Debug)]
pub struct SiteNode {
    /// Its name.
    pub name: NodeName,
    /// Its simulated operating system.
    pub host: SimNode,
    /// Its folder of records.
    pub state: PathBuf,
    engine: Option<(Node, San)>,
}

/// One simulated array and its nodes.
#[derive(Debug)]
pub struct Site {
    /// The simulated hosts.
    pub world: World,
    /// The simulated array.
    pub array: OntapSim,
    /// Where guests live.
    pub guests: Arc<TestGuests>,
    /// How engines that are started from now on map disks.
    pub visibility: Visibility,
    nodes: Vec<SiteNode>,
    folder: tempfile::TempDir,
}

fn failed(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Internal, "the simulation could not be set up").caused_by(error)
}

impl Site {
    /// A site of `nodes` nodes with an ONTAP 9.16.1; no engine runs yet.
    pub fn new(nodes: usize) -> Result<Self> {
        Self::with(nodes, Version::new(9, 16, 1), |_| {})
    }

    /// A site whose array `change` made different from the usual one.
    pub fn with(nodes: usize, version: Version, change: impl FnOnce(&mut SimConfig)) -> Result<Self> {
        let folder = tempfile::tempdir().map_err(failed)?;
        let mut config = SimConfig::new(version, folder.path().join("array"));
        // What the shipped role does not allow, no suite may need.
        config.role = Some(CLUSTER_ROLE.parse().map_err(|it| failed(std::io::Error::other::<BadRole>(it)))?);
        change(&mut config);
        let array = OntapSim::new(config).map_err(failed)?;
        std::fs::create_dir(folder.path().join("mounted")).map_err(failed)?;
        // Bystanders: nothing of ours may ever change them.
        array.add_volume(SVM, "foreign_db", 1 << 30, "made by hand").map_err(failed)?;
        array.add_lun(SVM, "/vol/foreign_db/lun0", 1 << 20, "").map_err(failed)?;
        array.add_igroup(SVM, "foreign_hosts", &["iqn.2001-04.com.example:db"]).map_err(failed)?;
        let world = World::new();
        world.add_array(Arc::new(array.clone()));
        let mut made = Vec::new();
        for index in 1..=nodes {
            let name: NodeName = format!("node{index}").parse()?;
            let host =
                world.add_node(NodeSpec::new(name.as_str(), format!("iqn.1993-08.org.debian:01:{name}")));
            let state = folder.path().join(name.as_str());
            made.push(SiteNode { name, host, state, engine: None });
        }
        Ok(Self {
            world,
            array,
            guests: Arc::default(),
            visibility: Visibility::PerNode,
            nodes: made,
            folder,
        })
    }

    /// A site whose engines all run.
    pub async fn started(nodes: usize) -> Result<Self> {
        Self::started_with(nodes, Visibility::PerNode).await
    }

    /// The same with disks mapped so.
    pub async fn started_with(nodes: usize, visibility: Visibility) -> Result<Self> {
        let mut site = Self::new(nodes)?;
        site.visibility = visibility;
        for index in 0..nodes {
            site.start(index, Effects::unobserved()).await?;
        }
        Ok(site)
    }

    /// The folder the nodes share.
    pub fn cluster_folder(&self) -> PathBuf {
        self.folder.path().join("cluster")
    }

    /// The folder everything of the site lies in; removed with it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// How many nodes there are.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// What is there exactly while the file system that the nodes share is mounted.
    pub fn witness(&self) -> PathBuf {
        self.folder.path().join("mounted")
    }

    /// A node; the first is 0.
    pub fn node(&self, index: usize) -> &SiteNode {
        &self.nodes[index]
    }

    /// Starts a node's engine, whose effects pass `effects`; open operations of an earlier run are ended.
    pub async fn start(&mut self, index: usize, effects: Effects) -> Result<usize> {
        let array = self.connect(effects.clone()).await?;
        self.start_with(index, effects, Arc::new(array)).await
    }

    /// A backend connected to the array, as a node has it.
    pub async fn connect(&self, effects: Effects) -> Result<Ontap> {
        let credentials = Credentials { username: "admin".to_owned(), password: PASSWORD.into() };
        let client = san_ontap::client(Arc::new(self.array.clone()) as Arc<dyn Wire>, Arc::new(credentials));
        let config = OntapConfig::new(SVM, "aggr1", TransportKind::Iscsi);
        Ontap::connect(&Cx::new(Deadline::after(PATIENCE), OperationId::random(), effects), client, config)
            .await
    }

    /// Starts a node's engine over a backend.
    pub async fn start_with(&mut self, index: usize, effects: Effects, array: Arc<Ontap>) -> Result<usize> {
        let (node, san) = self.build(index, effects, array)?;
        san.start().await?;
        // The daemon tries it again and again.
        san.join_all_nodes().await.ok();
        let open = san.take_up_open().await?;
        let serving = san.clone();
        node.serve_releases(self.cluster_of(index), move |space| (space == SPACE).then(|| serving.clone()));
        self.nodes[index].engine = Some((node, san));
        Ok(open)
    }

    /// A node's engine, not started.
    pub fn build(&self, index: usize, effects: Effects, array: Arc<Ontap>) -> Result<(Node, San)> {
        let SiteNode { name, host, state, .. } = &self.nodes[index];
        let guard = Guard::new(Arc::new(host.clone()));
        let node = Node::new(NodeConfig {
            realm: REALM.to_owned(),
            name: name.clone(),
            state: state.clone(),
            devices_folder: "/dev/sanbridge".into(),
            masks_folder: "/etc/sanbridge/masked".into(),
            host: guard.clone(),
            devices: Arc::new(Multipath::new(guard.clone(), MultipathConfig::default())),
            effects,
        });
        let cluster = self.cluster_of(index);
        let config = SanConfig {
            space: SPACE.to_owned(),
            array,
            transport: Arc::new(Iscsi::new(guard, IscsiConfig::default())),
            max_paths: None,
            cluster,
            outage: OUTAGE,
            deletion: DeleteMode::Recoverable,
            visibility: self.visibility,
        };
        let san = San::new(&node, config)?;
        Ok((node, san))
    }

    /// What the nodes know together, as a node sees it.
    pub fn cluster_of(&self, index: usize) -> Arc<dyn Cluster> {
        let guests: Arc<dyn Guests> = Arc::clone(&self.guests) as _;
        let folder = Folder::shared(self.cluster_folder(), self.witness());
        Arc::new(FolderCluster::new(folder, self.nodes[index].name.clone(), guests))
    }

    /// Ends a node's engine as a kill would: whatever runs is abandoned where it stands.
    pub fn kill(&mut self, index: usize) {
        self.nodes[index].engine = None;
    }

    /// Lets every lease run out: they end by the wall clock, which no test can turn.
    pub fn expire_leases(&self) -> Result<()> {
        let volumes = self.cluster_folder().join("volumes").join(SPACE);
        for volume in std::fs::read_dir(volumes).into_iter().flatten().flatten() {
            let lease = volume.path().join("lease");
            let Ok(text) = std::fs::read_to_string(&lease) else { continue };
            let mut content: serde_json::Value =
                serde_json::from_str(&text).map_err(|error| failed(error.into()))?;
            content["until"] = 0.into();
            std::fs::write(&lease, content.to_string()).map_err(failed)?;
        }
        Ok(())
    }

    /// Everything of ours, and everything beside it, at this moment.
    pub fn audit(&self) -> Audit {
        self.audit_with(&[])
    }

    /// The same with further ledgers.
    pub fn audit_with(&self, more: &[&dyn Ledger]) -> Audit {
        let array = ArrayLedger(&self.array);
        let cluster = FolderLedger::new("cluster", &self.cluster_folder());
        let hosts: Vec<HostLedger<'_>> = self.nodes.iter().map(|it| HostLedger(&it.host)).collect();
        let states: Vec<FolderLedger> =
            self.nodes.iter().map(|it| FolderLedger::new(it.name.as_str(), &it.state)).collect();
        let mut ledgers: Vec<&dyn Ledger> = vec![&array, &cluster];
        ledgers.extend(more);
        ledgers.extend(hosts.iter().map(|it| it as &dyn Ledger));
        ledgers.extend(states.iter().map(|it| it as &dyn Ledger));
        Audit::of(&ledgers)
    }
}

impl SiteNode {
    /// Its storage.
    ///
    /// # Panics
    /// Where its engine does not run.
    pub fn san(&self) -> &San {
        match &self.engine {
            Some((_, san)) => san,
            None => panic!("the engine of {} does not run", self.name),
        }
    }

    /// Does one operation as a well-behaved caller: waits for the answer and confirms it.
    pub async fn call(&self, request: Request) -> Result<Outcome> {
        call(self.san(), OperationId::random(), request).await
    }

    /// Makes a disk.
    pub async fn create(&self, object: &str, size: ByteSize) -> Result<Outcome> {
        self.call(Request::Create { naming: Naming::Exact(object.to_owned()), size }).await
    }

    /// Attaches a disk; returns where it appears.
    pub async fn attach(&self, object: &str) -> Result<PathBuf> {
        match self.call(Request::Attach { object: object.to_owned() }).await? {
            Outcome::Attached { path, .. } => Ok(path),
            other => Err(Error::new(ErrorKind::Internal, format!("attach ended with {other:?}"))),
        }
    }

    /// Detaches a disk.
    pub async fn detach(&self, object: &str) -> Result<Outcome> {
        self.call(Request::Detach { object: object.to_owned() }).await
    }

    /// Attaches a snapshot of a disk; returns where it appears.
    pub async fn attach_snapshot(&self, object: &str, snapshot: &SnapshotName) -> Result<PathBuf> {
        self.attach_snapshot_for(object, snapshot, None).await
    }

    /// The same for a process.
    pub async fn attach_snapshot_for(
        &self,
        object: &str,
        snapshot: &SnapshotName,
        asker: Option<Asker>,
    ) -> Result<PathBuf> {
        let (object, snapshot) = (object.to_owned(), snapshot.clone());
        match self.call(Request::AttachSnapshot { object, snapshot, asker }).await? {
            Outcome::Attached { path, .. } => Ok(path),
            other => Err(Error::new(ErrorKind::Internal, format!("attach ended with {other:?}"))),
        }
    }

    /// Detaches a snapshot of a disk.
    pub async fn detach_snapshot(&self, object: &str, snapshot: &SnapshotName) -> Result<Outcome> {
        let (object, snapshot) = (object.to_owned(), snapshot.clone());
        // Another process than any that a test attaches it for.
        let asker = Some(Asker { pid: 1, started: None });
        self.call(Request::DetachSnapshot { object, snapshot, asker }).await
    }

    /// Deletes a disk.
    pub async fn delete(&self, object: &str) -> Result<Outcome> {
        self.call(Request::Delete { object: object.to_owned() }).await
    }

    /// Grows a disk.
    pub async fn grow(&self, object: &str, size: ByteSize) -> Result<Outcome> {
        self.call(Request::Grow { object: object.to_owned(), size }).await
    }

    /// Takes a snapshot.
    pub async fn snapshot(&self, object: &str, name: &SnapshotName) -> Result<Outcome> {
        self.call(Request::Snapshot { object: object.to_owned(), snapshot: name.clone() }).await
    }

    /// Deletes a snapshot.
    pub async fn delete_snapshot(&self, object: &str, name: &SnapshotName) -> Result<Outcome> {
        self.call(Request::DeleteSnapshot { object: object.to_owned(), snapshot: name.clone() }).await
    }

    /// Rolls back.
    pub async fn roll_back(&self, object: &str, name: &SnapshotName) -> Result<Outcome> {
        self.call(Request::Rollback { object: object.to_owned(), snapshot: name.clone() }).await
    }

    /// Reads as a guest would, past the cache.
    pub async fn read(&self, path: &Path, offset: u64, length: usize) -> Result<Vec<u8>> {
        self.host.read_at(path, offset, length).await
    }

    /// Writes as a guest would, past the cache.
    pub async fn write(&self, path: &Path, offset: u64, bytes: &[u8]) -> Result<()> {
        self.host.write_at(path, offset, bytes).await
    }
}

/// Does one operation under a given id: waits for the answer and confirms it.
pub async fn call(san: &San, id: OperationId, request: Request) -> Result<Outcome> {
    let deadline = Deadline::after(PATIENCE);
    let ticket = san.submit(id, request, deadline);
    let outcome = ticket.wait(deadline).await?;
    if outcome.needs_acknowledgement() {
        ticket.acknowledge(deadline).await?;
    }
    Ok(outcome)
}
