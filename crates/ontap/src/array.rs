//! [`Ontap`]: one SVM as an [`Array`].

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_trait::async_trait;
use san_core::{
    Array, ArrayId, ArrayProfile, ByteSize, Capacity, Checkup, CloneSpec, Cx, DeleteMode, EffectState,
    Ensured, Error, ErrorKind, HostAccess, HostLogins, HostSpec, KnownHost, LunChoice, Mapping, Mark,
    NodeName, Policies, ReaderSpec, RecoveryQueue, Result, Sessions, SharedAccess, Snapshot, SnapshotName,
    SnapshotSet, Splits, TargetPort, TransportKind, Volume, VolumeKey, VolumeName, VolumeQuery, VolumeSpec,
};
use san_rest::{Client, Request};

use crate::aggregates::Room;
use crate::client::Api;
use crate::config::OntapConfig;
use crate::convert::{inconsistent, is_uuid};
use crate::error::{code, code_of, is_one_of};
use crate::ports::Ports;
use crate::relation;
use crate::release::{Feature, Release};
use crate::wire;

/// One storage virtual machine of an ONTAP cluster.
#[derive(Debug)]
pub struct Ontap {
    pub(crate) api: Api,
    pub(crate) config: OntapConfig,
    pub(crate) profile: ArrayProfile,
    pub(crate) svm: String,
    cluster: String,
    // Set once the array has proved that it is the one of the profile: the release it has by now.
    proved: OnceLock<Release>,
    // The release of the profile.
    known: Release,
    pub(crate) ports: Mutex<Option<Arc<Ports>>>,
    // Cleared once the account turns out not to see aggregates.
    pub(crate) sees_aggregates: AtomicBool,
    // The node each LUN was on when it was last looked at, for the attach that follows the look.
    lun_nodes: Mutex<HashMap<String, String>>,
    // What room the aggregates had when they were last asked.
    pub(crate) rooms: Mutex<Vec<Room>>,
}

impl Ontap {
    /// Asks the array for everything that must be so, once, and remembers it. All problems found are named in one error.
    ///
    /// # Errors
    /// `InvalidInput` or `NotFound` for settings that do not fit, `Unsupported` for a release or personality that is
    /// not served, `Unauthenticated`, `PermissionDenied`, `Protocol` where it is not an ONTAP, and what the client
    /// reports where it cannot be reached or trusted.
    pub async fn connect(cx: &Cx, client: Client, config: OntapConfig) -> Result<Self> {
        let api = Api::new(client);
        let found = crate::probe::probe(cx, &api, &config).await?;
        let array = Self::assemble(api, config, found.profile)?;
        let _ = array.proved.set(found.release);
        array.keep_ports(found.ports);
        array.keep_rooms(found.rooms);
        Ok(array)
    }

    /// The array of an earlier `connect`, without asking it: it may be down. Its first answer must show that it is the
    /// one of `profile`; until then every call fails with `IdentityMismatch`.
    ///
    /// # Errors
    /// `InvalidInput` where `profile` was not made by this backend.
    pub fn from_profile(client: Client, config: OntapConfig, profile: ArrayProfile) -> Result<Self> {
        Self::assemble(Api::new(client), config, profile)
    }

    fn assemble(api: Api, config: OntapConfig, profile: ArrayProfile) -> Result<Self> {
        // An SVM's account may not be told which cluster it is on.
        let is_key = |it: &str| it.is_empty() || is_uuid(it);
        let keys = profile.serial.split_once('/').filter(|(cluster, svm)| is_key(cluster) && is_uuid(svm));
        let Some((cluster, svm)) = keys else {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "the stored profile is not one of an ONTAP array",
            ));
        };
        let known = profile.version.parse()?;
        Ok(Self {
            known,
            cluster: cluster.to_owned(),
            svm: svm.to_owned(),
            api,
            config,
            profile,
            proved: OnceLock::new(),
            ports: Mutex::default(),
            sees_aggregates: AtomicBool::new(true),
            lun_nodes: Mutex::default(),
            rooms: Mutex::default(),
        })
    }

    /// Makes sure, once, that this is the array of the profile.
    pub(crate) async fn prove(&self, cx: &Cx) -> Result<()> {
        if self.proved.get().is_some() {
            return Ok(());
        }
        let cluster: wire::ClusterId =
            self.api.get(cx, &Request::get("/api/cluster", &[]).query("fields", "uuid,version")).await?;
        if cluster.uuid.is_some_and(|it| !self.cluster.is_empty() && it != self.cluster) {
            return Err(self.other_array(cx).await);
        }
        self.prove_svm(cx).await?;
        // An array that was updated since has more than its profile says; one that was reverted has less.
        let _ = self.proved.set(cluster.version);
        Ok(())
    }

    /// Whether the array has `feature`, by the release it said last.
    pub(crate) fn has(&self, feature: Feature) -> bool {
        self.release().has(feature)
    }

    /// The release the array said last.
    pub(crate) fn release(&self) -> Release {
        self.proved.get().copied().unwrap_or(self.known)
    }

    /// The answer of this array and no other. A proof that fails has changed nothing.
    pub(crate) async fn proved<T>(&self, cx: &Cx, call: impl Future<Output = Result<T>>) -> Result<T> {
        self.prove(cx).await.map_err(|error| error.with_effect(EffectState::None))?;
        match call.await {
            Err(error) if is_one_of(&error, code::NO_SVM) => Err(self.other_array(cx).await),
            Err(error) if says_little(&error) => Err(self.explained(cx, error).await),
            other => other,
        }
    }

    /// Asks whether our SVM is there. Nothing counts as absent without it: another array at the same address, or an
    /// SVM that was made anew, knows none of our objects either.
    pub(crate) async fn prove_svm(&self, cx: &Cx) -> Result<()> {
        let found: Option<wire::Svm> = self.api.find_one(cx, relation::svm_request(&self.config.svm)).await?;
        match found.filter(|it| it.uuid == self.svm) {
            // One that does not serve may not show all it has.
            Some(ours) => relation::refusal(&ours).map_or(Ok(()), Err),
            None => Err(self.other_array(cx).await),
        }
    }

    /// This is not the array of the profile, or its SVM is not here. That passes where it is the partner in a MetroCluster.
    async fn other_array(&self, cx: &Cx) -> Error {
        match relation::only_a_copy(cx, &self.api, &self.config.svm).await {
            Ok(Some(elsewhere)) => return elsewhere,
            Err(error) if error.is_passing() => return error,
            _ => {}
        }
        let message =
            format!("this is not the array and the SVM that were configured as {}", self.profile.name);
        Error::new(ErrorKind::IdentityMismatch, message).with_remedy(
            "check the management addresses; if the array was replaced on purpose, remove this storage and add it anew",
        )
    }

    /// Checks that a record belongs to our SVM; answers that were asked for it always say so.
    pub(crate) fn check_svm(&self, of: &wire::Reference) -> Result<()> {
        match of.uuid.as_deref() {
            Some(it) if it == self.svm => Ok(()),
            _ => Err(inconsistent("the array answered about another SVM")),
        }
    }

    pub(crate) fn keep_lun_node(&self, lun: &wire::Lun) {
        let mut nodes = self.lun_nodes.lock().unwrap_or_else(PoisonError::into_inner);
        match &lun.location.node.name {
            Some(node) => nodes.insert(lun.uuid.clone(), node.clone()),
            None => nodes.remove(&lun.uuid),
        };
    }

    pub(crate) fn forget_lun_node(&self, lun: &str) {
        self.lun_nodes.lock().unwrap_or_else(PoisonError::into_inner).remove(lun);
    }

    pub(crate) fn lun_node(&self, lun: &str) -> Option<String> {
        self.lun_nodes.lock().unwrap_or_else(PoisonError::into_inner).get(lun).cloned()
    }
}

/// A refusal of the array that may be the whole SVM's: its code says no more than that it does not serve, or nothing.
fn says_little(error: &Error) -> bool {
    let kind = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Internal);
    kind && error.effect() == EffectState::None && code_of(error).is_some()
}

/// What a verb was doing when it failed. The identity is proved first.
macro_rules! verb {
    ($self:ident, $cx:ident, $message:literal, $subject:expr, $call:expr) => {{
        let outcome = $self.proved($cx, $call).await;
        outcome.map_err(|error| Error::wrap(error, $message).on($subject))
    }};
}

#[async_trait]
impl Array for Ontap {
    fn profile(&self) -> &ArrayProfile {
        &self.profile
    }

    fn shared_access(&self) -> Option<&dyn SharedAccess> {
        Some(self)
    }

    fn host_logins(&self) -> Option<&dyn HostLogins> {
        Some(self)
    }

    fn policies(&self) -> Option<&dyn Policies> {
        Some(self)
    }

    async fn capacity(&self, cx: &Cx) -> Result<Capacity> {
        let names = self.config.aggregates.join(", ");
        verb!(self, cx, "cannot read the room in the aggregates", names, self.read_capacity(cx))
    }

    async fn volumes(&self, cx: &Cx, of: &VolumeQuery) -> Result<Vec<Volume>> {
        verb!(self, cx, "cannot list the volumes", &self.profile.name, self.list_volumes(cx, &of.prefix))
    }

    async fn volume(&self, cx: &Cx, key: &VolumeKey) -> Result<Option<Volume>> {
        verb!(self, cx, "cannot look up the volume", key, self.look_up(cx, key))
    }

    async fn ensure_volume(&self, cx: &Cx, spec: &VolumeSpec) -> Result<Ensured<Volume>> {
        verb!(self, cx, "cannot create the volume", &spec.name, self.create(cx, spec))
    }

    async fn ensure_clone(&self, cx: &Cx, spec: &CloneSpec) -> Result<Ensured<Volume>> {
        verb!(self, cx, "cannot clone the volume", &spec.source.name, self.clone_of(cx, spec))
    }

    async fn rename(&self, cx: &Cx, volume: &Volume, name: &VolumeName, mark: &Mark) -> Result<()> {
        verb!(self, cx, "cannot rename the volume", &volume.name, self.give_name(cx, volume, name, mark))
    }

    async fn ensure_no_volume(&self, cx: &Cx, volume: &Volume, mode: DeleteMode) -> Result<bool> {
        verb!(self, cx, "cannot delete the volume", &volume.name, self.delete(cx, volume, mode))
    }

    async fn resize(&self, cx: &Cx, volume: &Volume, size: ByteSize) -> Result<ByteSize> {
        verb!(self, cx, "cannot resize the volume", &volume.name, self.grow(cx, volume, size))
    }

    async fn snapshot(&self, cx: &Cx, set: &SnapshotSet) -> Result<Vec<Snapshot>> {
        verb!(self, cx, "cannot take the snapshot", &set.name, self.take_snapshot(cx, set))
    }

    async fn snapshots(&self, cx: &Cx, volume: &Volume) -> Result<Vec<Snapshot>> {
        verb!(self, cx, "cannot list the snapshots", &volume.name, self.list_snapshots(cx, volume))
    }

    async fn ensure_no_snapshot(&self, cx: &Cx, volume: &Volume, name: &SnapshotName) -> Result<bool> {
        verb!(self, cx, "cannot delete the snapshot", name, self.delete_snapshot(cx, volume, name))
    }

    async fn rollback(&self, cx: &Cx, volume: &Volume, name: &SnapshotName) -> Result<()> {
        verb!(self, cx, "cannot roll back to the snapshot", name, self.roll_back(cx, volume, name))
    }

    async fn ensure_reader(&self, cx: &Cx, volume: &Volume, of: &ReaderSpec) -> Result<Ensured<Volume>> {
        verb!(self, cx, "cannot make the snapshot readable", &of.snapshot, self.read_snapshot(cx, volume, of))
    }

    async fn ensure_no_reader(&self, cx: &Cx, reader: &ArrayId) -> Result<bool> {
        verb!(self, cx, "cannot remove the reader of a snapshot", reader, self.remove_reader(cx, reader))
    }

    async fn ensure_host(&self, cx: &Cx, spec: &HostSpec) -> Result<Ensured<HostAccess>> {
        verb!(self, cx, "cannot prepare the igroup of node", &spec.node, self.prepare_host(cx, spec))
    }

    async fn host(&self, cx: &Cx, realm: &str, node: &NodeName) -> Result<Option<KnownHost>> {
        verb!(self, cx, "cannot look up the igroup of node", node, self.host_of(cx, realm, node))
    }

    async fn ensure_no_host(&self, cx: &Cx, host: &ArrayId) -> Result<bool> {
        verb!(self, cx, "cannot delete the igroup", host, self.delete_host(cx, host))
    }

    async fn ensure_mapped(
        &self,
        cx: &Cx,
        volume: &Volume,
        host: &HostAccess,
        choice: &LunChoice,
    ) -> Result<Ensured<Mapping>> {
        verb!(self, cx, "cannot map the volume", &volume.name, self.map(cx, volume, host, choice))
    }

    async fn ensure_unmapped(&self, cx: &Cx, volume: &ArrayId, host: &ArrayId) -> Result<bool> {
        // Whoever asks knows the volume by its name.
        let outcome = self.proved(cx, self.unmap(cx, volume, host)).await;
        outcome.map_err(|error| Error::wrap(error, "the array cannot take the mapping away"))
    }

    async fn mapping(&self, cx: &Cx, volume: &Volume, host: &HostAccess) -> Result<Option<Mapping>> {
        verb!(
            self,
            cx,
            "cannot read the mapping of the volume",
            &volume.name,
            self.read_mapping(cx, volume, host)
        )
    }

    async fn target_ports(&self, cx: &Cx, kind: TransportKind) -> Result<Vec<TargetPort>> {
        verb!(self, cx, "cannot read the target ports", kind, self.refresh_ports(cx, kind))
    }

    fn checkup(&self) -> Option<&dyn Checkup> {
        Some(self)
    }

    fn recovery_queue(&self) -> Option<&dyn RecoveryQueue> {
        Some(self)
    }

    fn sessions(&self) -> Option<&dyn Sessions> {
        Some(self)
    }

    fn splits(&self) -> Option<&dyn Splits> {
        Some(self)
    }
}
