//! The SVM's iSCSI portals and the nodes they are on, kept so that an attach does not ask for them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, PoisonError};

use san_core::{Cx, Error, ErrorKind, Iqn, Result, TargetPort, TransportKind};
use san_rest::Request;

use crate::array::Ontap;
use crate::client::Api;
use crate::config::OntapConfig;
use crate::convert::inconsistent;
use crate::error::code;
use crate::look::both;
use crate::wire;

/// The port ONTAP's iSCSI service listens on; it cannot be changed.
const ISCSI_PORT: u16 = 3260;

/// The portals of the SVM and the pairs of nodes.
#[derive(Debug, Clone)]
pub(crate) struct Ports {
    /// Those that are switched on. One that is down at the moment, say because its node is being taken over, comes back
    /// without anybody asking for the portals again, and whoever needs them finds out by itself which answer.
    pub(crate) all: Vec<TargetPort>,
    /// How many of them were up when the array was asked.
    pub(crate) up: usize,
    /// The addresses of further ones that the settings do not let us use.
    pub(crate) passed_over: Vec<IpAddr>,
    /// The high-availability partner of each node; `None` where the account is not told, as one of an SVM.
    pub(crate) partners: Option<BTreeMap<String, String>>,
}

impl Ontap {
    pub(crate) fn keep_ports(&self, ports: Ports) -> Arc<Ports> {
        let ports = Arc::new(ports);
        *self.ports.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&ports));
        ports
    }

    pub(crate) async fn refresh_ports(&self, cx: &Cx, kind: TransportKind) -> Result<Vec<TargetPort>> {
        if kind != self.config.transport {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                format!("this SVM was configured for {}", self.config.transport),
            ));
        }
        let service = iscsi_service(cx, &self.api, &self.svm).await?;
        let service =
            service.ok_or_else(|| Error::new(ErrorKind::NotFound, "the SVM has no iSCSI service"))?;
        let ports = read_ports(cx, &self.api, &self.svm, &self.config, &service).await?;
        Ok(self.keep_ports(ports).all.clone())
    }

    /// What interfaces must be besides there.
    fn allowed(&self) -> &'static str {
        if self.config.portals.is_empty() { "" } else { "that the storage's portals allow " }
    }

    async fn known_ports(&self, cx: &Cx) -> Result<Arc<Ports>> {
        let known = self.ports.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(it) = known {
            return Ok(it);
        }
        self.refresh_ports(cx, self.config.transport).await?;
        let known = self.ports.lock().unwrap_or_else(PoisonError::into_inner).clone();
        known.ok_or_else(|| Error::new(ErrorKind::Internal, "the target ports were not kept"))
    }

    /// The portals that serve a LUN on `node`: by default ONTAP reports a LUN on its node and that node's partner
    /// (selective LUN map). `None` where the account is not told the pairs.
    pub(crate) async fn ports_serving(&self, cx: &Cx, node: &str) -> Result<Option<Vec<TargetPort>>> {
        let known = self.known_ports(cx).await?;
        let Some(partners) = &known.partners else { return Ok(None) };
        let mut nodes = vec![node.to_owned()];
        nodes.extend(partners.get(node).cloned());
        self.ports_on(cx, &nodes).await.map(Some)
    }

    /// The portals that serve a mapping whose nodes are not told: of an SVM on one pair of nodes, all of them.
    ///
    /// # Errors
    /// `Protocol` where the account sees nodes, so that it should have been told.
    pub(crate) async fn ports_of_pair(&self, cx: &Cx) -> Result<Vec<TargetPort>> {
        let known = self.known_ports(cx).await?;
        if known.partners.is_some() {
            return Err(inconsistent("the array does not tell on which nodes a LUN is reported"));
        }
        Ok(known.all.clone())
    }

    /// The portals on these nodes.
    ///
    /// # Errors
    /// `Unavailable` where there is none.
    pub(crate) async fn ports_on(&self, cx: &Cx, nodes: &[String]) -> Result<Vec<TargetPort>> {
        let known = self.known_ports(cx).await?;
        let ports = on(&known, nodes);
        if !ports.is_empty() {
            return Ok(ports);
        }
        // Interfaces may have moved since.
        self.refresh_ports(cx, self.config.transport).await?;
        let ports = on(&*self.known_ports(cx).await?, nodes);
        if ports.is_empty() {
            return Err(Error::new(
                ErrorKind::Unavailable,
                format!("the SVM has no iSCSI interface {}on {}", self.allowed(), nodes.join(" or ")),
            )
            .with_effect(san_core::EffectState::None)
            .with_remedy(
                "create or switch on an iSCSI interface on the node of the aggregate or on its partner",
            ));
        }
        Ok(ports)
    }
}

fn on(ports: &Ports, nodes: &[String]) -> Vec<TargetPort> {
    // One whose node the account is not told may be.
    let here = |port: &&TargetPort| port.node().is_none_or(|it| nodes.iter().any(|node| node == it));
    ports.all.iter().filter(here).cloned().collect()
}

/// The SVM's iSCSI service, running or not.
pub(crate) async fn iscsi_service(cx: &Cx, api: &Api, svm: &str) -> Result<Option<wire::IscsiService>> {
    let request =
        Request::get("/api/protocols/san/iscsi/services/{}", &[svm]).query("fields", "enabled,target");
    api.find(cx, &request, code::NO_ISCSI_SERVICE).await
}

/// The portals that are switched on, and the pairs of nodes.
pub(crate) async fn read_ports(
    cx: &Cx,
    api: &Api,
    svm: &str,
    config: &OntapConfig,
    service: &wire::IscsiService,
) -> Result<Ports> {
    let target: Iqn = match &service.target.name {
        Some(it) => it.parse()?,
        None => return Err(inconsistent("the iSCSI service does not tell its target's name")),
    };
    let request = Request::get("/api/network/ip/interfaces", &[])
        .query("svm.uuid", svm)
        .query("services", "data_iscsi")
        .query("fields", "name,enabled,state,ip.address,location.node.name");
    let (interfaces, partners) =
        both(api.list::<wire::Interface>(cx, request), read_partners(cx, api)).await?;
    let (mut all, mut up, mut passed_over) = (Vec::new(), 0, Vec::new());
    for it in interfaces {
        if it.enabled == Some(false) {
            continue;
        }
        let address = it.ip.ok_or_else(|| inconsistent("an interface has no address"))?.address;
        let address: IpAddr =
            address.parse().map_err(|_| inconsistent(format!("interface {} has no IP address", it.name)))?;
        if !config.may_use(address) {
            passed_over.push(address);
            continue;
        }
        up += usize::from(it.state.as_deref() == Some("up"));
        let portal = SocketAddr::new(address, ISCSI_PORT);
        all.push(TargetPort::Iscsi { portal, target: target.clone(), node: it.location.node.name });
    }
    Ok(Ports { all, up, passed_over, partners })
}

/// The pairs of nodes, where the account may see nodes.
async fn read_partners(cx: &Cx, api: &Api) -> Result<Option<BTreeMap<String, String>>> {
    let request = Request::get("/api/cluster/nodes", &[]).query("fields", "name,ha.partners");
    let nodes = match api.list::<wire::Node>(cx, request).await {
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(None),
        other => other?,
    };
    if nodes.is_empty() {
        return Ok(None);
    }
    let pair = |node: wire::Node| Some((node.name, node.ha.partners.into_iter().next()?.name?));
    Ok(Some(nodes.into_iter().filter_map(pair).collect()))
}
