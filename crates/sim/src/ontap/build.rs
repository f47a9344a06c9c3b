//! From a configuration to the state of a fresh array.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use super::account::Account;
use super::approval::Approvals;
use super::config::{AggregateEncryption, IscsiConfig, OntapConfig, Scope};
use super::disk::Store;
use super::ids::Ids;
use super::jobs::Jobs;
use super::model::{Aggregate, Interface, IscsiService, Named, Node, State, Svm};
use super::overrides::Overrides;
use super::relations::SvmSubtype;
use crate::target::Reachability;

pub(crate) fn state(config: &OntapConfig) -> io::Result<State> {
    check(config)?;
    let mut ids = Ids::new(config.seed);
    let cluster = Named { name: config.cluster.clone(), uuid: ids.uuid() };
    let nodes = nodes(config, &mut ids);
    let aggregates = config
        .aggregates
        .iter()
        .map(|it| Aggregate {
            name: it.name.clone(),
            uuid: ids.uuid(),
            node: it.node,
            size: it.size,
            ballast: 0,
            encrypts: it.encryption == AggregateEncryption::On,
            object_stores: it.object_stores.clone(),
        })
        .collect();
    let svms: Vec<Svm> = config
        .svms
        .iter()
        .enumerate()
        .map(|(at, it)| Svm {
            name: it.name.clone(),
            uuid: ids.uuid(),
            running: true,
            subtype: SvmSubtype::Default,
            assigned: it.assigned.clone(),
            iscsi: (it.iscsi != IscsiConfig::Absent).then(|| IscsiService {
                enabled: it.iscsi == IscsiConfig::Enabled,
                target: format!("iqn.1992-08.com.netapp:sn.{}:vs.{}", ids.hex(32), at + 2),
            }),
        })
        .collect();
    let interfaces = interfaces(config, &mut ids);
    Ok(State {
        now: Duration::ZERO,
        epoch: config.epoch,
        version: config.version,
        personality: config.personality,
        account: Account { scope: config.scope.clone(), role: config.role.clone() },
        limits: config.limits.clone(),
        pace: config.pace.clone(),
        unverified: config.unverified.clone(),
        store: Store::new(&config.data_dir)?,
        cluster,
        nodes,
        aggregates,
        svms,
        snapshot_policies: config.snapshot_policies.clone(),
        qos_policies: config.qos_policies.clone(),
        interfaces,
        volumes: BTreeMap::new(),
        names: BTreeMap::new(),
        serials: BTreeSet::new(),
        luns: BTreeMap::new(),
        igroups: BTreeMap::new(),
        credentials: BTreeMap::new(),
        sessions: BTreeMap::new(),
        maps: BTreeMap::new(),
        jobs: Jobs::default(),
        recovery_queue: BTreeSet::new(),
        overrides: Overrides::default(),
        approvals: Approvals::default(),
        replicated: BTreeSet::new(),
        ids,
    })
}

fn nodes(config: &OntapConfig, ids: &mut Ids) -> Vec<Node> {
    let count = config.nodes.len();
    let node = |(at, name): (usize, &String)| Node {
        name: name.clone(),
        uuid: ids.uuid(),
        serial: ids.digits(12),
        partner: Some(at ^ 1).filter(|partner| *partner < count),
    };
    config.nodes.iter().enumerate().map(node).collect()
}

/// One management interface, and the iSCSI interfaces of every SVM.
fn interfaces(config: &OntapConfig, ids: &mut Ids) -> Vec<Interface> {
    let mut all = vec![Interface {
        name: "cluster_mgmt".to_owned(),
        uuid: ids.uuid(),
        address: ([192, 0, 2, 10], 443).into(),
        node: 0,
        svm: None,
        group: 0,
        reachability: Reachability::Up,
    }];
    let mut group = 1028;
    for (svm, it) in config.svms.iter().enumerate() {
        for (at, portal) in it.portals.iter().enumerate() {
            group += 1;
            all.push(Interface {
                name: format!("{}_iscsi_{}", it.name, at + 1),
                uuid: ids.uuid(),
                address: portal.address,
                node: portal.node,
                svm: Some(svm),
                group,
                reachability: Reachability::Up,
            });
        }
    }
    all
}

fn check(config: &OntapConfig) -> io::Result<()> {
    let wrong = |what: &str| Err(io::Error::new(io::ErrorKind::InvalidInput, what.to_owned()));
    if !config.version.is_covered() {
        return wrong("the ONTAP release is not covered by the tables");
    }
    if config.version < config.personality.since() {
        return wrong("there are no such systems with this ONTAP release");
    }
    if config.nodes.is_empty() || config.aggregates.is_empty() {
        return wrong("an array needs a node and an aggregate");
    }
    if let Scope::Svm(name) = &config.scope
        && config.svms.iter().all(|it| it.name != *name)
    {
        return wrong("the account belongs to an SVM that does not exist");
    }
    let portals = || config.svms.iter().flat_map(|svm| &svm.portals);
    let nodes = config.aggregates.iter().map(|it| it.node).chain(portals().map(|it| it.node));
    if nodes.into_iter().any(|node| node >= config.nodes.len()) {
        return wrong("an aggregate or portal names a node that does not exist");
    }
    let addresses: BTreeSet<_> = portals().map(|it| it.address).collect();
    if addresses.len() != portals().count() {
        return wrong("two portals have one address");
    }
    Ok(())
}
