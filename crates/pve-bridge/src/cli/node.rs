//! `sanbridge node`.

use std::time::Duration;

use san_engine::LoggedIn;
use serde_json::json;

use super::exit::{Exit, Failure};
use super::output::{Screen, Table};
use super::{Session, Verb};
use crate::admin::node::{Listed, Removed};

/// Each disk that it had mapped takes a request.
const PATIENCE: Duration = Duration::from_secs(300);

/// Nodes that are gone, or were reinstalled.
#[derive(Debug, clap::Args)]
pub struct Node {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// End what remains of a node that is gone for ever: its mappings, its host object on each array, and what is noted of it
    Remove {
        /// The node
        node: String,
        /// Also where it is a member of the cluster still, because it never comes back as it was (reinstalled, destroyed)
        #[arg(long)]
        listed: bool,
        /// Also while an array says that the node is logged in to it, because you know that it is not running
        #[arg(long)]
        logged_in: bool,
    },
    /// Make the arrays know a node that was reinstalled under its name and has another initiator name now: what remains of the
    /// former installation ends. Run it on that node, before its first guest starts, or elsewhere while it is switched off
    Replace {
        /// The node
        node: String,
        /// Also while the array says that the former machine is logged in to it, because you know that it is not running
        #[arg(long)]
        logged_in: bool,
    },
}

impl Verb for Node {
    async fn run(&self, session: &mut Session<'_, '_>) -> Result<Exit, Failure> {
        let (method, mut params, logged_in) = match &self.what {
            What::Remove { node, listed, logged_in } => {
                let listed = if *listed { Listed::Remove } else { Listed::Refuse };
                ("admin.node.remove", json!({ "node": node, "listed": listed }), *logged_in)
            }
            What::Replace { node, logged_in } => ("admin.node.replace", json!({ "node": node }), *logged_in),
        };
        // A daemon of before refuses members it does not know.
        if logged_in {
            params["logged_in"] = json!(LoggedIn::Ignore);
        }
        let answer: Removed = session.call(method, params, PATIENCE).await?;
        session.show(&answer, removed)?;
        Ok(session.report(&answer.problems))
    }
}

fn removed(of: &Removed, screen: Screen) -> String {
    let mut table = Table::new(&["STORAGE", "MAPPINGS ENDED>", "FORMER HOST OBJECT"]);
    for it in &of.storages {
        let host = if it.host { "removed" } else { "none" };
        table.row(&[it.storage.clone(), it.mappings.to_string(), host.to_owned()]);
    }
    table.render(screen)
}
