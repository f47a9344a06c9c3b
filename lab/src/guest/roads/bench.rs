//! What these checks stand on: a site with three networks, a storage with options of its own, and a look at its sessions.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use san_contract::audit::Audit;
use san_core::OperationId;
use sanbridge_tests::daemons::{Client, Reply};
use sanbridge_tests::site::PASSWORD;
use serde_json::{Value, json};

use crate::guest::bystander::VerifiedIo;
use crate::guest::ledger::{legs, maps, names};
use crate::guest::site::{Bystander, Site, until};
use crate::guest::{Failure, tools};

/// How many networks there are.
pub(super) const NETWORKS: u8 = 3;
/// The options that name who proves what.
pub(super) const CHAP_NAMES: [&str; 2] = ["sanbridge-chap-username", "sanbridge-chap-target-username"];
/// The disk of every check.
pub(super) const DISK: &str = "vm-100-disk-0";
const MIB: u64 = 1 << 20;
/// A round of input and output under emulation, also after an outage.
const ROUND: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(60);
const SESSIONS: &str = "/sys/class/iscsi_session";

/// The site, and who must not notice anything.
#[derive(Debug)]
pub(super) struct Bench {
    pub(super) site: Site,
    pub(super) bystander: Bystander,
    /// Speaks of the storage that a check has added last.
    last: Mutex<Option<Client>>,
}

/// A session of this machine with our part of the array.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Session {
    /// The number of the network that its portal is in.
    pub(super) network: u8,
    /// The interface of open-iscsi.
    pub(super) interface: String,
    /// This machine's address.
    pub(super) address: String,
    /// The SCSI host: `3`.
    pub(super) host: String,
    /// The kernel's name of it: another one is another session.
    pub(super) name: String,
    /// `LOGGED_IN`, `FAILED`, ...
    pub(super) state: String,
}

/// A secret that no program holds from the beginning.
pub(super) fn fresh_secret() -> String {
    OperationId::random().to_string().chars().filter(char::is_ascii_alphanumeric).take(24).collect()
}

pub(super) fn wrong<T>(what: impl Into<String>) -> Result<T, Failure> {
    Err(Failure(what.into()))
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

impl Bench {
    pub(super) fn new(site: Site, bystander: Bystander) -> Self {
        Self { site, bystander, last: Mutex::default() }
    }

    /// Takes away what a check that failed has left, as far as it is there.
    ///
    /// # Errors
    /// Where sessions stay, or the array does not follow.
    pub(super) async fn clear(&self) -> Result<(), Failure> {
        self.site.live.plane().plane().set_access(&self.site.node.initiator, None);
        self.site.sync().await?;
        for n in 1..=NETWORKS {
            self.site.network.mend(n).await?;
        }
        self.site.network.mend_second(super::interfaces::NETWORK).await?;
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(client) = last {
            for (method, params) in [
                ("storage.update", json!({ "delete": CHAP_NAMES })),
                ("volume.detach", json!({ "name": DISK })),
                ("volume.delete", json!({ "name": DISK })),
                ("storage.remove", json!({})),
            ] {
                if let Err(error) = client.call(method, params).await {
                    tracing::warn!(method, error = %error.chain(), "a check that failed is cleared away");
                }
            }
        }
        crate::guest::site::remove_guest(100)?;
        self.leave().await?;
        super::interfaces::clear().await
    }

    /// A client whose section has these options too.
    pub(super) fn client(&self, options: &[(&str, &str)]) -> Client {
        let mut client = self.site.client();
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), Value::from(*value)));
        client.options.extend(options);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
        client
    }

    /// Our sessions.
    pub(super) fn sessions(&self) -> Vec<Session> {
        let folder = Path::new(SESSIONS);
        let mut found = Vec::new();
        for name in names(folder) {
            let session = folder.join(&name);
            if !self.site.targets().contains(&text(&session.join("targetname"))) {
                continue;
            }
            // .../platform/host3/session1/iscsi_session/session1
            let path = session.canonicalize().unwrap_or_default();
            let parts: Vec<_> = path.iter().filter_map(|it| it.to_str()).collect();
            let host = parts.iter().find_map(|it| it.strip_prefix("host")).unwrap_or_default().to_owned();
            let number = name.trim_start_matches("session");
            let connection = format!("/sys/class/iscsi_connection/connection{number}:0/persistent_address");
            let portal = text(Path::new(&connection));
            found.push(Session {
                network: portal.split('.').nth(2).and_then(|it| it.parse().ok()).unwrap_or_default(),
                interface: text(&session.join("ifacename")),
                address: text(Path::new(&format!("/sys/class/iscsi_host/host{host}/ipaddress"))),
                state: text(&session.join("state")),
                host,
                name,
            });
        }
        found.sort();
        found
    }

    /// The networks that our sessions lead to.
    pub(super) fn networks(&self) -> Vec<u8> {
        self.sessions().into_iter().map(|it| it.network).collect()
    }

    /// The SCSI hosts of the disk's legs that are in its map and run.
    ///
    /// # Errors
    /// Where the disk has no map.
    pub(super) fn hosts(&self) -> Result<Vec<String>, Failure> {
        let wwid = self.site.wwid(DISK)?;
        let map = maps().into_iter().find(|it| it.wwid == wwid);
        let map = map.ok_or_else(|| Failure(format!("{DISK} has no map")))?;
        let legs = legs().into_iter().filter(|it| it.wwid == wwid && it.state == "running");
        let mut hosts: Vec<String> =
            legs.map(|it| it.address.split(':').next().unwrap_or_default().to_owned()).collect();
        hosts.sort();
        if hosts.len() == map.slaves.len() {
            Ok(hosts)
        } else {
            wrong(format!("{map:?} over hosts {hosts:?}"))
        }
    }

    /// The networks behind which the disk has a leg in its map.
    ///
    /// # Errors
    /// Where the disk has no map.
    pub(super) fn legs(&self) -> Result<Vec<u8>, Failure> {
        let of: BTreeMap<String, u8> = self.sessions().into_iter().map(|it| (it.host, it.network)).collect();
        let mut networks: Vec<u8> =
            self.hosts()?.iter().map(|it| of.get(it).copied().unwrap_or_default()).collect();
        networks.sort_unstable();
        Ok(networks)
    }

    /// Makes the disk and attaches it; what was warned of.
    ///
    /// # Errors
    /// What the daemon says.
    pub(super) async fn disk(&self, client: &Client) -> Result<Reply, Failure> {
        self.create(client).await?;
        Ok(client.call("volume.attach", json!({ "name": DISK })).await?)
    }

    /// Makes the disk.
    ///
    /// # Errors
    /// What the daemon says.
    pub(super) async fn create(&self, client: &Client) -> Result<(), Failure> {
        client.call("volume.create", json!({ "vmid": 100, "name": DISK, "size_bytes": 8 * MIB })).await?;
        self.site.place_guest(DISK, self.site.node.name.as_str())
    }

    /// Verified input and output on the attached disk.
    ///
    /// # Errors
    /// Where none goes well.
    pub(super) async fn io(&self) -> Result<VerifiedIo, Failure> {
        let path = format!("/dev/sanbridge/san1/{DISK}");
        let io = VerifiedIo::start(Path::new(&path), Duration::from_millis(20))?;
        io.another_round(ROUND).await?;
        Ok(io)
    }

    /// The disk carries data, and the bystander's LUN too.
    ///
    /// # Errors
    /// What went wrong.
    pub(super) async fn require_well(&self, io: &VerifiedIo) -> Result<(), Failure> {
        io.another_round(ROUND).await?;
        io.require_well()?;
        self.bystander.io.another_round(ROUND).await?;
        self.bystander.io.require_well().map(drop)
    }

    /// Ends the life of the disk and of the storage, and everything must be as `before`.
    ///
    /// # Errors
    /// What the daemon says, or what is left over.
    pub(super) async fn end(&self, client: &Client, before: &Audit) -> Result<(), Failure> {
        client.call("volume.detach", json!({ "name": DISK })).await?;
        self.end_without_detach(client, before).await
    }

    /// The same of a disk that is not attached.
    ///
    /// # Errors
    /// What the daemon says, or what is left over.
    pub(super) async fn end_without_detach(&self, client: &Client, before: &Audit) -> Result<(), Failure> {
        client.call("volume.delete", json!({ "name": DISK })).await?;
        crate::guest::site::remove_guest(100)?;
        client.call("storage.remove", json!({})).await?;
        self.leave().await?;
        self.site.require_as(before).await
    }

    /// Ends our sessions, which stay by policy, with their records, as an admin does.
    ///
    /// # Errors
    /// Where a program does not run, or sessions stay.
    pub(super) async fn leave(&self) -> Result<(), Failure> {
        for target in self.site.targets() {
            for tail in [["--logout"].as_slice(), &["-o", "delete"]] {
                let head = ["-m", "node", "-T", target.as_str()];
                // There may be none.
                tools::output("iscsiadm", &[&head[..], tail].concat(), PATIENCE).await?;
            }
        }
        until("the sessions end", || self.sessions().is_empty()).await
    }

    /// Waits until the session with network `n` is in this state.
    ///
    /// # Errors
    /// Where it does not come.
    pub(super) async fn await_state(&self, n: u8, state: &str) -> Result<(), Failure> {
        let is_there = || self.sessions().iter().any(|it| it.network == n && it.state == state);
        until(&format!("the session with network {n} is {state}"), is_there).await
    }
}

/// The secrets of a storage with CHAP, as its user gives them.
pub(super) fn secrets(own: &str, target: Option<&str>) -> Value {
    let mut secrets = json!({ "sanbridge-password": PASSWORD, "sanbridge-chap-password": own });
    if let Some(target) = target {
        secrets["sanbridge-chap-target-password"] = target.into();
    }
    json!({ "secrets": secrets })
}
