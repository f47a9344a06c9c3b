//! The role [`Checkup`]: settings of an SVM that are known to cause trouble.

use async_trait::async_trait;
use san_core::{
    Checkup, Cx, EffectState, Error, Finding, HostSpec, Initiator, Result, Severity, VolumeQuery,
};
use san_rest::Request;
use serde::Deserialize;

use crate::array::Ontap;
use crate::hosts::{OS_TYPE, igroup_name, shared_igroup_name};
use crate::wire;

/// What is read of a volume for this.
#[derive(Debug, Deserialize)]
struct Settings {
    name: String,
    state: Option<String>,
    #[serde(default)]
    snapshot_policy: wire::Reference,
}

#[async_trait]
impl Checkup for Ontap {
    async fn findings(&self, cx: &Cx, host: &HostSpec, of: &VolumeQuery) -> Result<Vec<Finding>> {
        let looked = Box::pin(self.check_settings(cx, host, of)).await;
        looked.map_err(|error| Error::wrap(error, "cannot check the settings of").on(&self.profile.name))
    }
}

impl Ontap {
    async fn check_settings(&self, cx: &Cx, host: &HostSpec, of: &VolumeQuery) -> Result<Vec<Finding>> {
        self.prove(cx).await.map_err(|error| error.with_effect(EffectState::None))?;
        let mut found = Vec::from_iter(Box::pin(self.check_relation(cx)).await?);
        found.extend(Box::pin(self.check_interfaces(cx)).await?);
        found.extend(Box::pin(self.check_igroups(cx, host)).await?);
        found.extend(Box::pin(self.check_volumes(cx, of)).await?);
        Ok(found)
    }

    async fn check_interfaces(&self, cx: &Cx) -> Result<Vec<Finding>> {
        let request = Request::get("/api/network/ip/interfaces", &[])
            .query("svm.uuid", &self.svm)
            .query("services", "data_iscsi")
            .query("fields", "name,enabled,state");
        let all: Vec<wire::Interface> = self.api.list(cx, request).await?;
        let is_down = |it: &&wire::Interface| it.enabled != Some(false) && it.state.as_deref() != Some("up");
        let finding = |it: &wire::Interface| Finding {
            check: "interface-down".to_owned(),
            severity: Severity::Warning,
            subject: it.name.clone(),
            what: format!("the iSCSI interface {} is switched on and down", it.name),
            why: "every disk has fewer paths than it could have, and none where the last one goes".to_owned(),
            fix: format!("look at its port and cable: network interface show -lif {}", it.name),
            undo: None,
        };
        Ok(all.iter().filter(is_down).map(finding).collect())
    }

    async fn check_igroups(&self, cx: &Cx, host: &HostSpec) -> Result<Vec<Finding>> {
        let names = host.initiators.iter().filter_map(|it| match it {
            Initiator::Iscsi(iqn) => Some(iqn.as_str()),
            _ => None,
        });
        let names: Vec<&str> = names.collect();
        let request = Request::get("/api/protocols/san/igroups", &[])
            .query("initiators.name", names.join("|"))
            .query("svm.uuid", &self.svm)
            .query("fields", "uuid,name,svm.uuid,os_type");
        let own = [igroup_name(host), shared_igroup_name(&host.realm)];
        let mut found = Vec::new();
        for it in self.api.list::<wire::Igroup>(cx, request).await? {
            if !own.contains(&it.name) {
                found.push(Finding {
                    check: "initiator-elsewhere".to_owned(),
                    severity: Severity::Failure,
                    subject: it.name.clone(),
                    what: format!("the igroup {} holds this node's initiator as well", it.name),
                    why: "LUNs mapped there appear on this node under numbers that nobody here chose; \
                          where it is another node's igroup, two nodes have the same initiator name"
                        .to_owned(),
                    fix: format!("give each node a name of its own, and take this one out of {}", it.name),
                    undo: Some(format!("add the initiator to {} again", it.name)),
                });
            } else if it.os_type.as_deref() != Some(OS_TYPE) {
                found.push(Finding {
                    check: "igroup-os-type".to_owned(),
                    severity: Severity::Failure,
                    subject: it.name.clone(),
                    what: format!("its os_type is {} instead of {OS_TYPE}", it.os_type.unwrap_or_default()),
                    why:
                        "the array answers a Linux host as it would another system: takeovers can cut it off"
                            .to_owned(),
                    fix: format!("lun igroup modify -igroup {} -ostype {OS_TYPE}", it.name),
                    undo: None,
                });
            }
        }
        Ok(found)
    }

    async fn check_volumes(&self, cx: &Cx, of: &VolumeQuery) -> Result<Vec<Finding>> {
        let request = Request::get("/api/storage/volumes", &[])
            .query("name", format!("{}*", of.prefix))
            .query("svm.uuid", &self.svm)
            .query("fields", "name,state,snapshot_policy.name");
        let mut found = Vec::new();
        for it in self.api.list::<Settings>(cx, request).await? {
            if it.state.as_deref() != Some("online") {
                found.push(Finding {
                    check: "volume-offline".to_owned(),
                    severity: Severity::Failure,
                    subject: it.name.clone(),
                    what: format!("the volume is {}", it.state.unwrap_or_default()),
                    why: "its disk cannot be read or written".to_owned(),
                    fix: format!("volume online -volume {}", it.name),
                    undo: Some(format!("volume offline -volume {}", it.name)),
                });
            }
            let policy = it.snapshot_policy.name.unwrap_or_default();
            if !["", "none"].contains(&policy.as_str()) {
                found.push(Finding {
                    check: "snapshot-policy".to_owned(),
                    severity: Severity::Notice,
                    subject: it.name.clone(),
                    what: format!("the array takes snapshots of it by the policy {policy}"),
                    why: "they hold room that guests have freed, and no guest knows of them".to_owned(),
                    fix: format!("volume modify -volume {} -snapshot-policy none", it.name),
                    undo: Some(format!("volume modify -volume {} -snapshot-policy {policy}", it.name)),
                });
            }
        }
        Ok(found)
    }
}
