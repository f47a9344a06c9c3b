//! The storages this node serves: made from their options, their secrets and what the array said of itself last time.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use san_core::{Array, ArrayProfile, Cx, Deadline, Error, ErrorKind, OperationId, Result, Transport};
use san_engine::{Cluster, Folder, Node, Outcome, San, SanConfig};
use san_ontap::Ontap;
use san_rest::{Client, Credentials, Endpoint};
use san_transport_iscsi::Iscsi;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use crate::names::check_storage_id;
use crate::options::Options;
use crate::protocol::StorageRef;
use crate::secrets::{ChapUse, SecretFiles, Secrets, Stored};
use crate::sections::Sections;
use crate::wires::Wires;

/// What of a storage is kept on this node, so that its disks can be served while the array is down.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    options: BTreeMap<String, Value>,
    profile: ArrayProfile,
    /// Whether its logins have ever proved something: then the array may still ask this node for that.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    has_proved: bool,
}

const KEPT: &str = "storage";
/// How long one of several addresses may take to show that it leads to the array, when settings are checked.
const ADDRESS_LOOK: Duration = Duration::from_secs(6);
/// How long a storage that is being made, or looked after, is waited for by whoever wants to know of it.
const MOMENT: Duration = Duration::from_secs(2);

/// What an addition found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Addition {
    /// Nothing.
    New,
    /// The same storage, whose settings it replaced.
    Replaced,
}

/// One storage, ready for work.
#[derive(Debug)]
pub(crate) struct Storage {
    pub(crate) san: San,
    pub(crate) options: Options,
    pub(crate) client: Client,
    /// Operations that could not be ended yet.
    pub(crate) open: AtomicUsize,
    /// When it was looked after.
    looked: Mutex<Option<Instant>>,
    /// Held by whoever tends it.
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// Clients are shared by all storages of one array and account: one budget, one circuit breaker.
type ClientKey = (String, String);

/// One storage's place. Its lock is held while the storage is made, which may take as long as its array does: others must
/// not wait for that.
type Slot = Arc<tokio::sync::Mutex<Option<Arc<Storage>>>>;

/// All storages of this node.
#[derive(Debug)]
pub(crate) struct Storages {
    node: Arc<Node>,
    cluster: Arc<dyn Cluster>,
    wires: Arc<dyn Wires>,
    secrets: SecretFiles,
    sections: Arc<Sections>,
    state: Folder,
    sessions: Iscsi,
    slots: Mutex<HashMap<String, Slot>>,
    clients: Mutex<HashMap<ClientKey, Client>>,
}

impl Storages {
    pub(crate) fn new(
        node: Arc<Node>,
        cluster: Arc<dyn Cluster>,
        wires: Arc<dyn Wires>,
        secrets: SecretFiles,
        sections: Sections,
        state: Folder,
        sessions: Iscsi,
    ) -> Self {
        Self {
            node,
            cluster,
            wires,
            secrets,
            sections: Arc::new(sections),
            state,
            sessions,
            slots: Mutex::default(),
            clients: Mutex::default(),
        }
    }

    /// The way to the arrays, with the node's settings and none of a storage's.
    pub(crate) fn transport(&self) -> &dyn Transport {
        &self.sessions
    }

    /// The copies of the storages' sections.
    pub(crate) fn sections(&self) -> &Arc<Sections> {
        &self.sections
    }

    /// The storages that are ready now.
    pub(crate) fn ready(&self) -> Vec<Arc<Storage>> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is being made at this moment is not ready.
        slots.values().filter_map(|it| it.try_lock().ok().and_then(|it| it.clone())).collect()
    }

    /// All storages this node serves or served, by id; `None` beside one that is not ready, or still being made.
    pub(crate) async fn known(&self, cx: &Cx) -> Result<BTreeMap<String, Option<Arc<Storage>>>> {
        let mut ids = self.state.names().await?;
        let ready: Vec<String> = self.ready().iter().map(|it| it.san.space().to_owned()).collect();
        ids.retain(|it| !ready.contains(it));
        let mut known = BTreeMap::new();
        for id in ids {
            // One that cannot be read is known all the same.
            if !self.state.below(&id).read::<Kept>(KEPT).await.is_ok_and(|it| it.is_none()) {
                known.insert(id, None);
            }
        }
        for id in ready {
            known.insert(id, None);
        }
        // Whoever looks after one at this moment has its slot; whoever makes one has it for as long as its array takes.
        let moment = cx.at_most(MOMENT);
        for (id, storage) in &mut known {
            *storage = self.slot(&moment, id).await.ok().and_then(|it| it.clone());
        }
        Ok(known)
    }

    /// The storage of this id as this node serves it, whatever its section says by now.
    ///
    /// # Errors
    /// `NotFound` where this node serves none of this id, `Unavailable` where it is not ready.
    pub(crate) async fn by_id(&self, cx: &Cx, id: &str) -> Result<Arc<Storage>> {
        check_storage_id(id)?;
        match self.known(cx).await?.remove(id) {
            Some(Some(storage)) => Ok(storage),
            Some(None) => Err(Error::new(ErrorKind::Unavailable, "the storage is not ready on this node")
                .on(id)
                .with_remedy("journalctl -u sanbridge says why")),
            None => Err(Error::new(ErrorKind::NotFound, "this node serves no storage of this name")
                .on(id)
                .with_remedy("sanbridge status lists those it serves; pvesm status makes PVE ask for all")),
        }
    }

    async fn slot(&self, cx: &Cx, id: &str) -> Result<OwnedMutexGuard<Option<Arc<Storage>>>> {
        let slot = Arc::clone(
            self.slots.lock().unwrap_or_else(PoisonError::into_inner).entry(id.to_owned()).or_default(),
        );
        cx.within("waiting for the storage to be made ready", async { Ok(slot.lock_owned().await) }).await
    }

    /// Makes ready what this node served before, so that open operations are ended without waiting for PVE.
    pub(crate) async fn restore(&self, cx: &Cx) -> Result<()> {
        for id in self.state.names().await? {
            let kept = match self.state.below(&id).read::<Kept>(KEPT).await {
                Ok(Some(kept)) => kept,
                Ok(None) => continue,
                Err(error) => {
                    tracing::error!(storage = %id, error = %error.chain(), "a storage's file cannot be understood");
                    continue;
                }
            };
            if let Err(error) = self.get(cx, &StorageRef { id: id.clone(), options: kept.options }).await {
                tracing::error!(storage = %id, error = %error.chain(), "a storage is not ready");
            }
        }
        Ok(())
    }

    /// The storage of a request, made ready if it is not, or anew if its options changed.
    pub(crate) async fn get(&self, cx: &Cx, of: &StorageRef) -> Result<Arc<Storage>> {
        check_storage_id(&of.id)?;
        let options = Options::parse(&of.options).map_err(|error| error.on(&of.id))?;
        let mut slot = self.slot(cx, &of.id).await?;
        if let Some(storage) = slot.as_ref().filter(|it| it.options == options) {
            return Ok(Arc::clone(storage));
        }
        let kept: Option<Kept> = self.state.below(&of.id).read(KEPT).await?;
        let client = self.client(&of.id, &options)?;
        let array = match kept {
            Some(kept) if same_array(&kept.options, &of.options) => {
                Ontap::from_profile(client.clone(), options.ontap.clone(), kept.profile)?
            }
            // Other options may mean another array: it has to say so itself.
            Some(kept) => {
                let array = Ontap::connect(cx, client.clone(), options.ontap.clone()).await?;
                require_same(&kept.profile, array.profile())?;
                array
            }
            None => Ontap::connect(cx, client.clone(), options.ontap.clone()).await?,
        };
        let storage = self.make(cx, of, options, client, array).await?;
        *slot = Some(Arc::clone(&storage));
        Ok(storage)
    }

    async fn make(
        &self,
        cx: &Cx,
        of: &StorageRef,
        options: Options,
        client: Client,
        array: Ontap,
    ) -> Result<Arc<Storage>> {
        let before: Option<Kept> = self.state.below(&of.id).read(KEPT).await?;
        let proved = before.is_some_and(|it| it.has_proved);
        let kept = Kept {
            options: only_ours(&of.options),
            profile: array.profile().clone(),
            has_proved: proved || options.chap.is_some(),
        };
        self.state.below(&of.id).write(cx, KEPT, &kept).await?;
        let chap = match &options.chap {
            Some(names) => ChapUse::Names(names.clone()),
            None if proved => ChapUse::NoLonger,
            None => ChapUse::None,
        };
        let logins = Arc::new(self.secrets.logins(&of.id, chap));
        let transport = self.sessions.with(|it| options.sessions.apply(it)).proving(logins);
        let san = San::new(
            &self.node,
            SanConfig {
                space: of.id.clone(),
                array: Arc::new(array),
                transport: Arc::new(transport),
                max_paths: options.max_paths,
                cluster: Arc::clone(&self.cluster),
                outage: options.outage,
                deletion: options.ontap.deletion,
                visibility: options.visibility,
            },
        )?;
        san.start().await?;
        let open = AtomicUsize::new(san.open_operations().await?.len());
        let storage =
            Arc::new(Storage { san, options, client, open, looked: Mutex::default(), turn: Arc::default() });
        let starting = Arc::clone(&storage);
        // Whatever an earlier run left open is ended beside the work that does not concern it.
        self.node.run(async move {
            if let Some(_turn) = starting.turn() {
                starting.take_up().await;
                starting.refresh().await;
                starting.look_after().await;
            }
        });
        Ok(storage)
    }

    /// A new storage: everything is asked of the array before anything is stored. Says whether it was there before, so
    /// that an addition nobody confirms does not take away what it did not bring.
    pub(crate) async fn add(
        &self,
        cx: &Cx,
        of: &StorageRef,
        secrets: &Secrets,
    ) -> Result<(Addition, Vec<String>)> {
        check_storage_id(&of.id)?;
        let options = Options::parse(&of.options).map_err(|error| error.on(&of.id))?;
        let kept = self.secrets_of_lost(of).await?;
        let secrets = secrets.applied_to(kept, options.chap.as_ref()).map_err(|error| error.on(&of.id))?;
        let mut problems: Vec<Error> = Vec::new();
        let mut warnings = Vec::new();
        let array = match self.connect_with(cx, &options, &secrets.password).await {
            Ok((array, found)) => {
                warnings = found;
                Some(array)
            }
            Err(error) => {
                problems.push(error);
                None
            }
        };
        let transport = self.sessions.with(|it| options.sessions.apply(it));
        problems.extend(transport.initiators(cx).await.err());
        if let Some(array) = &array {
            problems.extend(self.check_chap(&of.id, &options, &secrets, array.profile()).await.err());
        }
        let Some(array) = array.filter(|_| problems.is_empty()) else { return Err(all_of(problems)) };
        let mut slot = self.slot(cx, &of.id).await?;
        let former = self.secrets.read(&of.id).await?;
        self.secrets.write(cx, &of.id, &secrets).await?;
        self.forget_clients(&of.id);
        let made = async {
            let client = self.client(&of.id, &options)?;
            let profile = array.profile().clone();
            let array = Ontap::from_profile(client.clone(), options.ontap.clone(), profile)?;
            self.make(cx, of, options.clone(), client, array).await
        };
        match made.await {
            Ok(storage) => {
                *slot = Some(storage);
                self.sections.note(cx, of).await;
                Ok((if former.is_some() { Addition::Replaced } else { Addition::New }, warnings))
            }
            Err(error) => {
                // Nothing of a failed addition stays, and what was there before does.
                let restored = match &former {
                    Some(former) => self.secrets.write(cx, &of.id, former).await,
                    None => self.secrets.remove(cx, &of.id).await,
                };
                if let Err(error) = restored {
                    tracing::error!(storage = %of.id, error = %error.chain(), "its secret could not be put back");
                }
                Err(error)
            }
        }
    }

    /// The secrets of a storage whose section PVE has lost, and that is to be added as it was.
    async fn secrets_of_lost(&self, of: &StorageRef) -> Result<Option<Stored>> {
        match self.sections.copy(&of.id).await? {
            Some(section) if section.leads_alike(&of.options) => self.secrets.read(&of.id).await,
            _ => Ok(None),
        }
    }

    /// Changed options or secrets: nothing is changed unless all of it is right, and it is still the same array. Returns
    /// what is to be told of it.
    pub(crate) async fn update(
        &self,
        cx: &Cx,
        of: &StorageRef,
        new: &StorageRef,
        secrets: &Secrets,
    ) -> Result<Vec<String>> {
        check_storage_id(&of.id)?;
        let options = Options::parse(&new.options).map_err(|error| error.on(&of.id))?;
        let former = self.secrets.read(&of.id).await?;
        let after = secrets.applied_to(former.clone(), options.chap.as_ref());
        let after = after.map_err(|error| error.on(&of.id))?;
        let (array, mut warnings) = self.connect_with(cx, &options, &after.password).await?;
        self.sessions.with(|it| options.sessions.apply(it)).initiators(cx).await?;
        // Storages are changed one after the other, so that on the way they differ.
        let differs = self.check_chap(&of.id, &options, &after, array.profile()).await.err();
        warnings.extend(differs.map(|it| format!("{}: {}", it.chain(), it.remedy().unwrap_or_default())));
        let kept: Option<Kept> = self.state.below(&of.id).read(KEPT).await?;
        let was_proving = kept.as_ref().is_some_and(|it| it.has_proved);
        if let Some(kept) = kept {
            require_same(&kept.profile, array.profile())?;
        }
        if !secrets.is_empty() || was_proving {
            self.secrets.write(cx, &of.id, &after).await?;
        }
        self.forget(cx, &of.id).await?;
        // PVE may not ask for it again for a while, and what is under way must not wait for that.
        let made = self.get(cx, new).await;
        if !was_proving && options.chap.is_none() {
            if let Err(error) = made {
                tracing::warn!(storage = %of.id, error = %error.chain(), "it is made ready at PVE's next request");
            }
            self.sections.note(cx, new).await;
            return Ok(warnings);
        }
        // Sessions of this node prove what the array expects, at once; other nodes follow when they make their next one.
        let told = async { made?.san.announce(cx).await };
        if let Err(error) = told.await {
            let restored = match &former {
                Some(former) => self.secrets.write(cx, &of.id, former).await,
                None => Ok(()),
            };
            self.forget(cx, &of.id).await?;
            restored?;
            return Err(Error::wrap(error, "the array could not be told what nodes prove from now on"));
        }
        self.sections.note(cx, new).await;
        Ok(warnings)
    }

    /// Makes sure that no other storage of the same array and tenant proves something else: an array has one entry for each
    /// node.
    async fn check_chap(
        &self,
        id: &str,
        options: &Options,
        secrets: &Stored,
        profile: &ArrayProfile,
    ) -> Result<()> {
        let is_beside =
            |it: &&Arc<Storage>| it.san.space() != id && it.san.array().profile().serial == profile.serial;
        for other in self.ready().iter().filter(is_beside) {
            let stored = self.secrets.read(other.san.space()).await?;
            let is_same = other.options.chap == options.chap
                && stored.as_ref().is_none_or(|it| it.proves_like(secrets));
            if !is_same {
                let message = format!(
                    "storage {} is on {} too, and its nodes do not log in in the same way",
                    other.san.space(),
                    profile.name
                );
                return Err(Error::new(ErrorKind::Conflict, message).with_remedy(
                    "give all storages of one SVM the same CHAP settings and secrets, or each an SVM of its own",
                ));
            }
        }
        Ok(())
    }

    /// The storage is not configured any more: what this node keeps of it goes; its volumes stay on the array.
    pub(crate) async fn remove(&self, cx: &Cx, of: &StorageRef) -> Result<()> {
        check_storage_id(&of.id)?;
        let attachments: Vec<String> = self.state.below(&of.id).below("attachments").names().await?;
        if !attachments.is_empty() {
            // Without the storage nobody could take them down.
            self.get(cx, of).await?.detach_all(cx, &of.id).await?;
        }
        self.forget(cx, &of.id).await?;
        // Before the secrets: as long as there is a copy, whoever adds the storage again may need them.
        self.sections.forget(cx, of).await?;
        self.secrets.remove(cx, &of.id).await?;
        self.state.below(&of.id).remove(cx, KEPT).await?;
        Ok(())
    }

    /// Drops what this node keeps of a storage that another node has removed: its secrets are proved gone, nothing of it
    /// is attached here and nothing is open.
    pub(crate) async fn drop_if_removed(&self, storage: &Storage) {
        let id = storage.san.space();
        let cx = storage.san.cx(Deadline::after(Duration::from_secs(10)), OperationId::random());
        let result = async {
            let mut slot = self.slot(&cx, id).await?;
            let is_used =
                storage.open.load(Ordering::Relaxed) > 0 || !storage.san.attached().await?.is_empty();
            if is_used || self.secrets.read(id).await?.is_some() {
                return Ok(());
            }
            tracing::info!(storage = %id, "the storage was removed on another node");
            *slot = None;
            self.forget_clients(id);
            self.state.below(id).remove(&cx, KEPT).await.map(|_| ())
        };
        if let Err(error) = result.await {
            tracing::debug!(storage = %id, error = %error.chain(), "whether it was removed is not known");
        }
    }

    /// Asks the array with settings that are new, and for each of several addresses whether it leads there. Returns what is
    /// to be told: an address that is silent today may be the one that is needed tomorrow.
    async fn connect_with(
        &self,
        cx: &Cx,
        options: &Options,
        password: &SecretString,
    ) -> Result<(Ontap, Vec<String>)> {
        let credentials = Credentials { username: options.username.clone(), password: password.clone() };
        let credentials = Arc::new(credentials);
        let connect = |cx: Cx, endpoint: Endpoint| {
            let credentials = Arc::clone(&credentials);
            async move {
                let client = san_ontap::client(self.wires.wire(&endpoint)?, credentials);
                Ontap::connect(&cx, client, options.ontap.clone()).await
            }
        };
        // One look before the others: a wrong password tried at every address might lock the account.
        let array = connect(cx.clone(), options.endpoint.clone()).await?;
        let mut warnings = Vec::new();
        if options.endpoint.addresses.len() == 1 {
            return Ok((array, warnings));
        }
        let each = options.endpoint.alone().map(|(address, endpoint)| {
            let found = connect(cx.at_most(ADDRESS_LOOK), endpoint);
            async move { (address, found.await) }
        });
        let mut problems = Vec::new();
        for (address, found) in join_all(each).await {
            match found {
                Ok(found) if found.profile().serial == array.profile().serial => {}
                Ok(found) => {
                    let (there, here) = (&found.profile().name, &array.profile().name);
                    let message =
                        format!("the address {address} leads to {there}, and another one to {here}");
                    problems.push(
                        Error::new(ErrorKind::Conflict, message)
                            .with_remedy("name only management addresses of one and the same array"),
                    );
                }
                Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) => {
                    warnings.push(format!("management address {address}: {}", error.chain()));
                }
                Err(error) => {
                    problems.push(Error::wrap(error, format!("the address {address} does not serve")));
                }
            }
        }
        if problems.is_empty() { Ok((array, warnings)) } else { Err(all_of(problems)) }
    }

    fn client(&self, storage: &str, options: &Options) -> Result<Client> {
        let key = (format!("{:?}", options.endpoint), format!("{}\n{storage}", options.username));
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let credentials = Arc::new(self.secrets.source(storage, &options.username));
        let client = san_ontap::client(self.wires.wire(&options.endpoint)?, credentials);
        clients.insert(key, client.clone());
        Ok(client)
    }

    /// Makes the next request build the storage and its client anew.
    async fn forget(&self, cx: &Cx, id: &str) -> Result<()> {
        *self.slot(cx, id).await? = None;
        self.forget_clients(id);
        Ok(())
    }

    fn forget_clients(&self, id: &str) {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        clients.retain(|(_, user), _| user.split_once('\n').is_none_or(|(_, storage)| storage != id));
    }
}

impl Storage {
    /// Ends what can be ended of the operations earlier runs left open.
    pub(crate) async fn take_up(&self) {
        let (open, why) = match self.san.take_up_open().await {
            Ok(open) => (open, None),
            Err(error) => (1, Some(error)),
        };
        let before = self.open.swap(open, Ordering::Relaxed);
        // Said once, not with every round.
        if open != before && open > 0 {
            let why = why.map(|it| it.chain().to_string());
            tracing::warn!(storage = %self.san.space(), open, why, "operations stay open until the array answers");
        }
    }

    /// Takes down what is attached here on record and belongs here no longer, or is needed here no longer, removes what was
    /// deleted and could not go, or that nobody has finished making, and makes paths that are missing. While there is nothing
    /// of that, the array is asked for one list every ten minutes.
    pub(crate) async fn look_after(&self) {
        *self.looked.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        for (what, done) in [
            ("whether this node sees what all nodes see", self.san.join_all_nodes().await),
            ("stale attachments", self.san.drop_stale_attachments().await),
            ("what is idle", self.san.drop_idle().await),
            ("notes of what was deleted", self.san.let_go_of_deleted().await),
            ("what was deleted", self.san.finish_deletions().await),
            ("missing paths", self.san.complete_paths().await),
            ("what is half-made", self.san.reap().await),
        ] {
            if let Err(error) = done {
                tracing::debug!(storage = %self.san.space(), error = %error.chain(), "{what}: not known");
            }
        }
    }

    /// Whether it was last looked after longer than `age` ago.
    pub(crate) fn is_due(&self, age: Duration) -> bool {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner).is_none_or(|it| it.elapsed() >= age)
    }

    /// The right to tend it, unless somebody does.
    pub(crate) fn turn(&self) -> Option<OwnedMutexGuard<()>> {
        Arc::clone(&self.turn).try_lock_owned().ok()
    }

    /// Asks the array for its room; PVE's polls are answered from what this remembers.
    pub(crate) async fn refresh(&self) {
        let cx = self.san.cx(Deadline::after(Duration::from_secs(30)), OperationId::random());
        let is_news = self.san.status().problem.is_none();
        if let Err(error) = self.san.refresh_status(&cx).await
            && is_news
        {
            tracing::warn!(storage = %self.san.space(), error = %error.chain(), "the array did not tell its room");
        }
    }

    async fn detach_all(&self, cx: &Cx, id: &str) -> Result<()> {
        for record in self.san.attached().await? {
            let request = san_engine::Request::detach(&record.view());
            let ticket = self.san.submit(OperationId::random(), request, cx.deadline());
            let attached = |error| {
                Error::wrap(error, "a volume of it is attached on this node")
                    .on(id)
                    .with_remedy("stop what uses it first")
            };
            if let Outcome::Detached { pending: Some(why) } =
                ticket.wait(cx.deadline()).await.map_err(attached)?
            {
                let message =
                    format!("the array still maps volumes of it to this node and does not answer: {why}");
                return Err(Error::new(ErrorKind::Unavailable, message).on(id));
            }
        }
        Ok(())
    }
}

fn only_ours(options: &BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    options
        .iter()
        .filter(|(key, _)| key.starts_with("sanbridge-"))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Whether two sections name the same array and tenant in the same words.
fn same_array(old: &BTreeMap<String, Value>, new: &BTreeMap<String, Value>) -> bool {
    ["sanbridge-address", "sanbridge-svm", "sanbridge-array"].iter().all(|key| old.get(*key) == new.get(*key))
}

fn require_same(old: &ArrayProfile, new: &ArrayProfile) -> Result<()> {
    if old.serial == new.serial {
        return Ok(());
    }
    let message = format!("the new settings lead to {}, and its volumes are on {}", new.name, old.name);
    Err(Error::new(ErrorKind::Conflict, message)
        .with_remedy("add the other array or SVM as a storage of its own"))
}

fn all_of(mut problems: Vec<Error>) -> Error {
    if problems.len() == 1 {
        return problems.remove(0);
    }
    let kind = problems.first().map_or(ErrorKind::Internal, Error::kind);
    let texts: Vec<String> = problems.iter().map(|it| it.chain().to_string()).collect();
    let mut remedies: Vec<&str> = Vec::new();
    for remedy in problems.iter().filter_map(Error::remedy) {
        if !remedies.contains(&remedy) {
            remedies.push(remedy);
        }
    }
    let error = Error::new(kind, texts.join("; ")).with_effect(san_core::EffectState::None);
    if remedies.is_empty() { error } else { error.with_remedy(remedies.join("; ")) }
}
