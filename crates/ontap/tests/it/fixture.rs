//! A simulated array with one SVM of ours, and the backend connected to it.

use std::fmt::Write as _;
use std::io::{Read as _, Seek as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use san_contract::array::ArrayFixture;
use san_core::{
    Array, ByteSize, Cx, Deadline, Effects, HostAccess, HostSpec, Initiator, Lun, LunChoice, NameCodec,
    OperationId, Owner, TransportKind, Volume, VolumeSpec,
};
use san_ontap::{Ontap, OntapConfig};
use san_rest::{Client, Credentials, Endpoint, HttpsWire, Trust, Wire};
use san_sim::ontap::{
    Assigned, Fault, OntapConfig as SimConfig, OntapSim, Personality, Rule, Scope, Times, Version, When,
};
use san_sim::server::HttpsServer;

pub(crate) const SVM: &str = "svm1";
pub(crate) const OLD: Version = Version::new(9, 12, 1);
pub(crate) const NEW: Version = Version::new(9, 16, 1);
pub(crate) const SIZE: ByteSize = ByteSize::from_mib(8);

pub(crate) struct Fixture {
    pub(crate) sim: OntapSim,
    pub(crate) array: Ontap,
    pub(crate) server: Option<HttpsServer>,
    // Removed with the fixture.
    _data: tempfile::TempDir,
}

impl Fixture {
    pub(crate) async fn new(version: Version) -> Self {
        Self::with(version, |_| {}).await
    }

    /// A fixture whose simulated array `change` made different from the usual one.
    pub(crate) async fn with(version: Version, change: impl FnOnce(&mut SimConfig)) -> Self {
        let (data, sim) = Self::sim(version, change);
        let array = Ontap::connect(&cx(), client(&sim), ontap_config()).await.unwrap();
        Self { sim, array, server: None, _data: data }
    }

    /// A fixture of one release and personality.
    pub(crate) async fn of(version: Version, personality: Personality) -> Self {
        Self::with(version, |it| it.personality = personality).await
    }

    /// A fixture that is reached over TCP and TLS.
    pub(crate) async fn over_https(version: Version) -> Self {
        let (data, sim) = Self::sim(version, |_| {});
        let names = ["127.0.0.1".to_owned()];
        let server =
            HttpsServer::start(Arc::new(sim.clone()), ([127, 0, 0, 1], 0).into(), &names).await.unwrap();
        let authority = data.path().join("authority.pem");
        std::fs::write(&authority, server.certificate_pem()).unwrap();
        let endpoint = Endpoint {
            addresses: vec![server.address().to_string().parse().unwrap()],
            trust: Trust::AuthorityFile(authority),
            connect: san_rest::CONNECT,
        };
        let client = san_ontap::client(
            Arc::new(HttpsWire::new(&endpoint).unwrap()),
            Arc::new(credentials("netapp1!")),
        );
        let array = Ontap::connect(&cx(), client, ontap_config()).await.unwrap();
        Self { sim, array, server: Some(server), _data: data }
    }

    fn sim(version: Version, change: impl FnOnce(&mut SimConfig)) -> (tempfile::TempDir, OntapSim) {
        let data = tempfile::tempdir().unwrap();
        let mut config = SimConfig::new(version, data.path());
        change(&mut config);
        let sim = OntapSim::new(config).unwrap();
        // Two of the bystanders that every clause must leave alone.
        sim.add_volume(SVM, "foreign_db", 1 << 30, "made by hand").unwrap();
        sim.add_lun(SVM, "/vol/foreign_db/lun0", 1 << 20, "").unwrap();
        sim.add_igroup(SVM, "foreign_hosts", &["iqn.2001-04.com.example:db"]).unwrap();
        (data, sim)
    }

    pub(crate) fn inject(&self, method: &str, path: &str, fault: Fault) {
        self.inject_times(method, path, fault, Times::Count(1));
    }

    pub(crate) fn inject_times(&self, method: &str, path: &str, fault: Fault, times: Times) {
        let when = When { method: Some(method.into()), path: Some(path.into()), times, ..When::default() };
        self.sim.inject(Rule { when, fault });
    }

    pub(crate) async fn made(&self, object: &str) -> Volume {
        self.array.ensure_volume(&cx(), &spec(object)).await.unwrap().into_inner()
    }

    pub(crate) async fn host(&self) -> HostAccess {
        self.array.ensure_host(&cx(), &host_spec()).await.unwrap().into_inner()
    }

    /// By its key: a reader lies beside the volume it reads.
    fn path(&self, volume: &Volume) -> String {
        let lun = volume.id.as_str().split_once(':').unwrap().1;
        self.sim.luns().into_iter().find(|it| it.uuid.to_string() == lun).unwrap().path
    }
}

pub(crate) fn client(sim: &OntapSim) -> Client {
    client_as(sim, "netapp1!")
}

pub(crate) fn client_as(sim: &OntapSim, password: &str) -> Client {
    san_ontap::client(Arc::new(sim.clone()) as Arc<dyn Wire>, Arc::new(credentials(password)))
}

/// The account has the role that is shipped for accounts of the cluster; nothing is assigned to the SVM, as is usual.
pub(crate) fn cluster_role(it: &mut SimConfig) {
    it.svms[0].assigned = Assigned::These(Vec::new());
    it.role = Some(include_str!("../../roles/cluster.txt").parse().unwrap());
}

/// The account belongs to the SVM and has the role that is shipped for such.
pub(crate) fn svm_account(it: &mut SimConfig) {
    it.scope = Scope::Svm(SVM.into());
    it.role = Some(include_str!("../../roles/svm.txt").parse().unwrap());
}

fn credentials(password: &str) -> Credentials {
    Credentials { username: "admin".into(), password: password.into() }
}

pub(crate) fn ontap_config() -> OntapConfig {
    OntapConfig::new(SVM, "aggr1", TransportKind::Iscsi)
}

pub(crate) fn cx() -> Cx {
    cx_for(Duration::from_secs(60))
}

pub(crate) fn cx_for(span: Duration) -> Cx {
    Cx::new(Deadline::after(span), OperationId::random(), Effects::unobserved())
}

pub(crate) fn spec(object: &str) -> VolumeSpec {
    let owner = Owner::new("pve", "san1", object).unwrap();
    let codec = NameCodec::new(san_core::NameRules { max: 203 }).unwrap();
    VolumeSpec {
        name: codec.encode(&owner).unwrap(),
        owner,
        claim: OperationId::random(),
        size: SIZE,
        apart_from: Vec::new(),
    }
}

pub(crate) fn host_spec() -> HostSpec {
    let initiators = vec![Initiator::Iscsi("iqn.2010-10.org.example:node1".parse().unwrap())];
    HostSpec { realm: "pve".into(), node: "node1".parse().unwrap(), initiators }
}

pub(crate) fn lun_choice(numbers: &[u16]) -> LunChoice {
    LunChoice(numbers.iter().map(|it| Lun::new(*it).unwrap()).collect())
}

impl ArrayFixture for Fixture {
    fn array(&self) -> &dyn Array {
        &self.array
    }

    async fn write(&self, volume: &Volume, bytes: &[u8]) {
        let file = self.sim.lun_file(SVM, &self.path(volume)).unwrap();
        let mut file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
        file.rewind().unwrap();
        file.write_all(bytes).unwrap();
    }

    async fn read(&self, volume: &Volume, length: usize) -> Vec<u8> {
        let file = self.sim.lun_file(SVM, &self.path(volume)).unwrap();
        let mut bytes = vec![0; length];
        std::fs::File::open(file).unwrap().read_exact(&mut bytes).unwrap();
        bytes
    }

    async fn add_foreign_volume(&self, name: &str) {
        self.sim.add_volume(SVM, name, 1 << 30, "foreign").unwrap();
        self.sim.add_lun(SVM, &format!("/vol/{name}/lun0"), 1 << 20, "").unwrap();
    }

    async fn add_half_made(&self, spec: &VolumeSpec) -> Option<()> {
        self.sim.add_volume(SVM, spec.name.as_str(), 1 << 30, &spec.mark().to_text().unwrap()).unwrap();
        Some(())
    }

    async fn add_foreign_snapshot(&self, volume: &Volume, name: &str) {
        self.sim.add_snapshot(SVM, volume.name.as_str(), name).unwrap();
    }

    async fn forget_deleted(&self) {
        // Before, nothing bypasses the recovery queue.
        if self.sim.config().version < OLD {
            self.sim.purge_recovery_queue().unwrap();
        }
    }

    async fn add_foreign_host(&self, name: &str, initiator: &Initiator) {
        self.sim.add_igroup(SVM, name, &[&initiator.to_string()]).unwrap();
    }

    async fn shorten_pages(&self, records: usize) {
        self.sim.clear_faults();
        let when = When { method: Some("GET".into()), times: Times::Always, ..When::default() };
        self.sim.inject(Rule { when, fault: Fault::ShortPage { records } });
    }

    async fn bystanders(&self) -> String {
        let mut text = String::new();
        for it in self.sim.volumes().iter().filter(|it| !it.comment.contains("sanbridge")) {
            writeln!(text, "volume {} {} {} {:?}", it.uuid, it.name, it.comment, it.snapshots).unwrap();
        }
        for it in self.sim.volumes() {
            for snapshot in it.snapshots.iter().filter(|it| !it.comment.contains("sanbridge")) {
                writeln!(text, "snapshot {} {}", it.uuid, snapshot.name).unwrap();
            }
        }
        for it in self.sim.luns().iter().filter(|it| !it.path.starts_with("/vol/sb__")) {
            writeln!(text, "lun {} {} {} {}", it.uuid, it.path, it.serial, it.size).unwrap();
        }
        for it in self.sim.igroups().iter().filter(|it| !it.name.starts_with("sb_")) {
            writeln!(text, "igroup {} {} {:?}", it.uuid, it.name, it.initiators).unwrap();
        }
        text
    }
}
