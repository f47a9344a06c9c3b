//! Who asks: what an account's scope lets it see, and what its role lets it do.

use http::Method;
use serde_json::Value;

use super::answer::Row;
use super::call::Call;
use super::config::{ClusterView, Hidden, NodeView, Scope};
use super::error::{ApiError, FORBIDDEN};
use super::model::State;
use super::role::Role;
use super::route::Shape;
use super::schema::Resource;

/// The one account, as it works inside the array.
#[derive(Debug, Clone)]
pub(crate) struct Account {
    pub(crate) scope: Scope,
    pub(crate) role: Option<Role>,
}

impl State {
    /// The SVM the account belongs to; `None` for one of the cluster.
    pub(crate) fn account_svm(&self) -> Option<&str> {
        match &self.account.scope {
            Scope::Cluster => None,
            Scope::Svm(name) => Some(name),
        }
    }

    /// Refuses what the account may not do at all, before the array looks at anything.
    pub(crate) fn permit(&self, call: &Call) -> Result<(), ApiError> {
        if let Some(role) = &self.account.role
            && !role.allows(&call.method, &call.path)
        {
            return Err(forbidden());
        }
        if self.account_svm().is_none() {
            return Ok(());
        }
        match (call.route.resource, call.route.shape) {
            // The job it created itself is readable, the list of all is not.
            (Resource::Job, Shape::Collection(_)) => Err(forbidden()),
            (Resource::Node | Resource::Aggregate, _)
                if self.unverified.svm_account_hidden == Hidden::Forbidden =>
            {
                Err(forbidden())
            }
            _ if call.method != Method::GET && call.route.shape == Shape::Item => {
                // What is not there at all is refused by whoever looks for it.
                let rows = (call.route.get)(self, call)?;
                let is_there = !rows.is_empty();
                let seen = self.seen(call, rows);
                if is_there && seen.is_empty() { Err(ApiError::no_entry()) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    /// What the account sees of `rows`.
    pub(crate) fn seen(&self, call: &Call, mut rows: Vec<Row>) -> Vec<Row> {
        let Some(svm) = self.account_svm() else { return rows };
        rows.retain(|row| match call.route.resource {
            Resource::Node | Resource::Aggregate => false,
            Resource::Svm => row.value.get("name").and_then(Value::as_str) == Some(svm),
            // Neither belongs to an SVM itself; an igroup of another one is not found in the first place.
            Resource::Cluster | Resource::Initiator => true,
            // Named as on the command line.
            Resource::RecoveryQueue => row.value.get("vserver").and_then(Value::as_str) == Some(svm),
            _ => row.value.pointer("/svm/name").is_none_or(|it| it.as_str() == Some(svm)),
        });
        for row in &mut rows {
            if self.unverified.svm_account_nodes == NodeView::Hidden {
                hide_nodes(&mut row.value);
            }
            if call.route.resource == Resource::Cluster
                && self.unverified.svm_account_cluster == ClusterView::VersionOnly
                && let Value::Object(members) = &mut row.value
            {
                members
                    .retain(|name, _| ["version", "san_optimized", "disaggregated"].contains(&name.as_str()));
            }
        }
        rows
    }
}

fn forbidden() -> ApiError {
    FORBIDDEN.error("not authorized for that command")
}

fn hide_nodes(value: &mut Value) {
    let Value::Object(members) = value else { return };
    members.retain(|name, _| !["node", "home_node", "reporting_nodes"].contains(&name.as_str()));
    members.values_mut().for_each(hide_nodes);
}
