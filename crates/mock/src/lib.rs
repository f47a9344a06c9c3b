//! Mocks of the three traits, for embedders' tests in which the order of calls is the point. For everything else the
//! simulator (`san-sim`) is the better double: it reacts.

use async_trait::async_trait;
use mockall::mock;
use san_core::{
    Array, ArrayId, ArrayProfile, ByteSize, Capacity, CloneSpec, Cx, DeleteMode, Device, DeviceManager,
    Ensured, Expected, HostAccess, HostSpec, Identity, Initiator, KnownHost, KnownLegs, Lun, LunChoice,
    Mapping, Mark, NodeName, PathWatch, Paths, PortState, ReaderSpec, Result, Retired, Route, Snapshot,
    SnapshotName, SnapshotSet, TargetPort, Transport, TransportKind, Usage, Volume, VolumeKey, VolumeName,
    VolumeQuery, VolumeSpec,
};

mock! {
    /// A mock of [`san_core::Array`].
    #[derive(Debug)]
    pub Array {}

    #[async_trait]
    impl Array for Array {
        fn profile(&self) -> &ArrayProfile;
        async fn capacity(&self, cx: &Cx) -> Result<Capacity>;
        async fn volumes(&self, cx: &Cx, of: &VolumeQuery) -> Result<Vec<Volume>>;
        async fn volume(&self, cx: &Cx, key: &VolumeKey) -> Result<Option<Volume>>;
        async fn ensure_volume(&self, cx: &Cx, spec: &VolumeSpec) -> Result<Ensured<Volume>>;
        async fn ensure_clone(&self, cx: &Cx, spec: &CloneSpec) -> Result<Ensured<Volume>>;
        async fn rename(&self, cx: &Cx, volume: &Volume, name: &VolumeName, mark: &Mark) -> Result<()>;
        async fn ensure_no_volume(&self, cx: &Cx, volume: &Volume, mode: DeleteMode) -> Result<bool>;
        async fn resize(&self, cx: &Cx, volume: &Volume, size: ByteSize) -> Result<ByteSize>;
        async fn snapshot(&self, cx: &Cx, set: &SnapshotSet) -> Result<Vec<Snapshot>>;
        async fn snapshots(&self, cx: &Cx, volume: &Volume) -> Result<Vec<Snapshot>>;
        async fn ensure_no_snapshot(&self, cx: &Cx, volume: &Volume, name: &SnapshotName) -> Result<bool>;
        async fn rollback(&self, cx: &Cx, volume: &Volume, name: &SnapshotName) -> Result<()>;
        async fn ensure_reader(&self, cx: &Cx, volume: &Volume, of: &ReaderSpec) -> Result<Ensured<Volume>>;
        async fn ensure_no_reader(&self, cx: &Cx, reader: &ArrayId) -> Result<bool>;
        async fn ensure_host(&self, cx: &Cx, spec: &HostSpec) -> Result<Ensured<HostAccess>>;
        async fn host(&self, cx: &Cx, realm: &str, node: &NodeName) -> Result<Option<KnownHost>>;
        async fn ensure_no_host(&self, cx: &Cx, host: &ArrayId) -> Result<bool>;
        async fn ensure_mapped(
            &self,
            cx: &Cx,
            volume: &Volume,
            host: &HostAccess,
            choice: &LunChoice,
        ) -> Result<Ensured<Mapping>>;
        async fn ensure_unmapped(&self, cx: &Cx, volume: &ArrayId, host: &ArrayId) -> Result<bool>;
        async fn mapping(&self, cx: &Cx, volume: &Volume, host: &HostAccess) -> Result<Option<Mapping>>;
        async fn target_ports(&self, cx: &Cx, kind: TransportKind) -> Result<Vec<TargetPort>>;
    }
}

mock! {
    /// A mock of [`san_core::Transport`].
    #[derive(Debug)]
    pub Transport {}

    #[async_trait]
    impl Transport for Transport {
        fn kind(&self) -> TransportKind;
        async fn initiators(&self, cx: &Cx) -> Result<Vec<Initiator>>;
        async fn connect(&self, cx: &Cx, ports: &[TargetPort]) -> Result<Vec<PortState>>;
        async fn routes(&self, cx: &Cx, ports: &[TargetPort]) -> Result<Vec<Route>>;
        async fn disconnect(&self, cx: &Cx, ports: &[TargetPort]) -> Result<usize>;
    }
}

mock! {
    /// A mock of [`san_core::DeviceManager`].
    #[derive(Debug)]
    pub DeviceManager {}

    #[async_trait]
    impl DeviceManager for DeviceManager {
        async fn attach(&self, cx: &Cx, expect: &Expected, routes: &[Route]) -> Result<Device>;
        async fn inspect(&self, cx: &Cx, expect: &Expected, routes: &[Route]) -> Result<Option<Device>>;
        async fn usage(&self, cx: &Cx, device: &Device) -> Result<Usage>;
        async fn flush(&self, cx: &Cx, device: &Device) -> Result<()>;
        async fn grow(&self, cx: &Cx, expect: &Expected, routes: &[Route]) -> Result<Device>;
        async fn retire(&self, cx: &Cx, known: &KnownLegs) -> Result<Retired>;
        async fn bury(&self, cx: &Cx, retired: &Retired) -> Result<()>;
        async fn revive(&self, cx: &Cx, expect: &Expected, routes: &[Route]) -> Result<Device>;
        async fn occupied(&self, cx: &Cx, routes: &[Route]) -> Result<Vec<Lun>>;
        async fn paths(&self, cx: &Cx, of: &[Identity]) -> Result<Vec<Option<Paths>>>;
        fn watch_paths(&self) -> Box<dyn PathWatch>;
        async fn is_denied(&self, cx: &Cx, known: &KnownLegs) -> Result<bool>;
        async fn end_waiting(&self, cx: &Cx, identity: &Identity) -> Result<()>;
        async fn resume_waiting(&self, cx: &Cx, identity: &Identity) -> Result<()>;
    }
}
