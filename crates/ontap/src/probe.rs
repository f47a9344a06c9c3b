//! The first questions to an array: is it one we serve, and does everything the settings name exist?

use std::collections::BTreeSet;

use san_core::{
    ArrayProfile, ByteSize, Cx, EffectState, Error, ErrorKind, Limits, Lun, NameRules, Result, TargetPort,
};
use san_rest::Request;

use crate::aggregates::{self, Room};
use crate::client::Api;
use crate::config::OntapConfig;
use crate::policy;
use crate::ports::{Ports, iscsi_service, read_ports};
use crate::relation::{only_a_copy, refusal, svm_request};
use crate::release::{Feature, Personality, Release};
use crate::wire::{Cluster, Svm};

/// What the probe learned.
pub(crate) struct Found {
    pub(crate) profile: ArrayProfile,
    pub(crate) release: Release,
    pub(crate) ports: Ports,
    pub(crate) rooms: Vec<Room>,
}

/// Everything that is wrong, in the order in which it was found.
#[derive(Default)]
pub(crate) struct Problems(Vec<Error>);

impl Problems {
    pub(crate) fn add(
        &mut self,
        kind: ErrorKind,
        message: impl Into<std::borrow::Cow<'static, str>>,
        remedy: &'static str,
    ) {
        self.push(Error::new(kind, message).with_remedy(remedy));
    }

    pub(crate) fn push(&mut self, error: Error) {
        self.0.push(error);
    }

    /// Keeps what can be named beside other problems; a failure of the connection ends the probe.
    pub(crate) fn keep(&mut self, error: Error, what: String) -> Result<()> {
        match error.kind() {
            ErrorKind::PermissionDenied | ErrorKind::NotFound | ErrorKind::Unsupported => {
                self.0.push(Error::wrap(error, what));
                Ok(())
            }
            _ => Err(Error::wrap(error, what)),
        }
    }

    /// One error that names them all; its kind is that of the first.
    fn into_error(self) -> Option<Error> {
        let first = self.0.first()?;
        if self.0.len() == 1 {
            return Some(first.clone());
        }
        let all: Vec<String> = self.0.iter().map(|it| it.chain().to_string()).collect();
        let mut remedies: Vec<&str> = Vec::new();
        for remedy in self.0.iter().filter_map(Error::remedy) {
            if !remedies.contains(&remedy) {
                remedies.push(remedy);
            }
        }
        let error = Error::new(first.kind(), all.join("; ")).with_effect(EffectState::None);
        Some(if remedies.is_empty() { error } else { error.with_remedy(remedies.join("; ")) })
    }
}

/// Asks for everything that must be so.
pub(crate) async fn probe(cx: &Cx, api: &Api, config: &OntapConfig) -> Result<Found> {
    let cluster = read_cluster(cx, api).await?;
    refuse_unserved(&cluster)?;
    let mut problems = Problems::default();
    let svm = check_svm(cx, api, config, &mut problems).await?;
    let rooms = aggregates::check(cx, api, config, cluster.version, svm.as_ref(), &mut problems).await?;
    policy::check(cx, api, config, cluster.version, &mut problems).await?;
    let ports = match &svm {
        Some(svm) => check_iscsi(cx, api, config, cluster.version, svm, &mut problems).await?,
        None => None,
    };
    if let Some(error) = problems.into_error() {
        return Err(error.during("probe").on(&config.svm));
    }
    match (svm, ports) {
        (Some(svm), Some(ports)) => {
            Ok(Found { profile: profile(&cluster, &svm), release: cluster.version, ports, rooms })
        }
        _ => Err(Error::new(ErrorKind::Internal, "the probe lost what it had found")),
    }
}

async fn read_cluster(cx: &Cx, api: &Api) -> Result<Cluster> {
    let request = |fields: &str| Request::get("/api/cluster", &[]).query("fields", fields);
    let not_ontap = |error: Error| match error.kind() {
        ErrorKind::Protocol | ErrorKind::NotFound | ErrorKind::Unsupported => {
            Error::wrap(error, "this is not an ONTAP management interface")
                .with_remedy("check the management addresses")
        }
        _ => error,
    };
    let cluster: Cluster =
        api.get(cx, &request("name,uuid,version,san_optimized")).await.map_err(not_ontap)?;
    if !cluster.version.has(Feature::TellsDisaggregated) {
        return Ok(cluster);
    }
    api.get(cx, &request("name,uuid,version,san_optimized,disaggregated")).await
}

fn refuse_unserved(cluster: &Cluster) -> Result<()> {
    let refusal = if cluster.version < Release::OLDEST {
        format!("ONTAP {} is older than {}", cluster.version, Release::OLDEST)
    } else if cluster.disaggregated {
        let kind = if cluster.san_optimized { "an ASA r2" } else { "an AFX" };
        format!("it is {kind} system, whose volumes are not FlexVols, and which is not supported yet")
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Unsupported, refusal)
        .on(cluster.name.as_deref().unwrap_or("the cluster"))
        .with_remedy("use a FAS, AFF or ASA (not ASA r2) system with ONTAP 9.8 or newer"))
}

async fn check_svm(cx: &Cx, api: &Api, config: &OntapConfig, problems: &mut Problems) -> Result<Option<Svm>> {
    let found: Result<Option<Svm>> = api.find_one(cx, svm_request(&config.svm)).await;
    match found {
        Err(error) => {
            problems.keep(error, format!("cannot look up the SVM {}", config.svm))?;
            Ok(None)
        }
        Ok(None) => {
            if let Some(elsewhere) = only_a_copy(cx, api, &config.svm).await? {
                problems.push(elsewhere);
            } else {
                let message = format!("there is no SVM {}", config.svm);
                problems.add(
                    ErrorKind::NotFound,
                    message,
                    "name an existing SVM (on the array: vserver show)",
                );
            }
            Ok(None)
        }
        Ok(Some(svm)) => {
            if let Some(refusal) = refusal(&svm) {
                problems.push(refusal);
            }
            Ok(Some(svm))
        }
    }
}

async fn check_iscsi(
    cx: &Cx,
    api: &Api,
    config: &OntapConfig,
    release: Release,
    svm: &Svm,
    problems: &mut Problems,
) -> Result<Option<Ports>> {
    let service = match iscsi_service(cx, api, &svm.uuid).await {
        Err(error) => {
            problems.keep(error, format!("cannot look up the iSCSI service of {}", svm.name))?;
            return Ok(None);
        }
        Ok(None) => {
            let message = format!("the SVM {} has no iSCSI service", svm.name);
            problems.add(ErrorKind::NotFound, message, "create it (on the array: vserver iscsi create)");
            return Ok(None);
        }
        Ok(Some(it)) => it,
    };
    if !service.enabled {
        let message = format!("the iSCSI service of the SVM {} is switched off", svm.name);
        problems.add(ErrorKind::Unavailable, message, "start it (on the array: vserver iscsi start)");
    }
    let ports = match read_ports(cx, api, &svm.uuid, config, &service).await {
        Err(error) => {
            problems.keep(error, format!("cannot look up the interfaces of {}", svm.name))?;
            return Ok(None);
        }
        Ok(it) => it,
    };
    let nodes: BTreeSet<_> = ports.all.iter().filter_map(TargetPort::node).collect();
    if ports.partners.is_none() && !release.has(Feature::LunNode) && nodes.len() > 2 {
        let message = "the SVM has interfaces on more than two nodes, and this account is not told which of them are a pair";
        problems.add(
            ErrorKind::Unsupported,
            message,
            "use an account of the cluster, update to ONTAP 9.10.1 or newer, or keep the SVM's interfaces to one pair of nodes",
        );
    }
    if ports.all.is_empty() && !ports.passed_over.is_empty() {
        let there: Vec<String> = ports.passed_over.iter().map(ToString::to_string).collect();
        let message = format!(
            "none of the portals that the storage may use is an iSCSI interface of the SVM {}: it has {}",
            svm.name,
            there.join(", ")
        );
        problems.add(ErrorKind::NotFound, message, "name addresses or networks of these interfaces");
    } else if ports.up == 0 {
        let message = format!("the SVM {} has no iSCSI interface that is up", svm.name);
        problems.add(
            ErrorKind::NotFound,
            message,
            "create one per node (on the array: network interface create with the service data-iscsi)",
        );
    }
    Ok(Some(ports))
}

fn profile(cluster: &Cluster, svm: &Svm) -> ArrayProfile {
    let personality = if cluster.san_optimized { Personality::Asa } else { Personality::FasAff };
    ArrayProfile {
        vendor: "NetApp".into(),
        personality: personality.word().into(),
        version: cluster.version.to_string(),
        serial: format!("{}/{}", cluster.uuid.as_deref().unwrap_or_default(), svm.uuid),
        name: format!("{}/{}", cluster.name.as_deref().unwrap_or("ONTAP"), svm.name),
        limits: limits(cluster.version, personality),
    }
}

/// The limits the API definition documents. A LUN is never larger than what its FlexVol may become.
fn limits(release: Release, personality: Personality) -> Limits {
    let (lun, flexvol) = release.largest(personality);
    Limits {
        volume_granule: ByteSize::from_kib(4),
        volume_min: ByteSize::from_kib(4),
        volume_max: lun.min(flexvol),
        name: NameRules { max: 203 },
        lun_max: lun_max(),
        snapshots_max: 1023,
    }
}

#[expect(clippy::expect_used, reason = "a constant below the largest LUN")]
fn lun_max() -> Lun {
    Lun::new(4095).expect("4095 is below 16383")
}
