//! `sanbridge node`.

use std::time::Duration;

use serde_json::json;

use super::exit::{Exit, Failure};
use super::output::{Screen, Table};
use super::{Session, Verb};
use crate::admin::node::{Listed, Removed};

/// Each disk that it had mapped takes a request.
const PATIENCE: Duration = Duration::from_secs(300);

/// Nodes that are gone.
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
    },
}

impl Verb for Node {
    async fn run(&self, session: &mut Session<'_, '_>) -> Result<Exit, Failure> {
        let What::Remove { node, listed } = &self.what;
        let listed = if *listed { Listed::Remove } else { Listed::Refuse };
        let params = json!({ "node": node, "listed": listed });
        let answer: Removed = session.call("admin.node.remove", params, PATIENCE).await?;
        session.show(&answer, removed)?;
        Ok(session.report(&answer.problems))
    }
}

fn removed(of: &Removed, screen: Screen) -> String {
    let mut table = Table::new(&["STORAGE", "MAPPINGS ENDED>", "HOST OBJECT"]);
    for it in &of.storages {
        let host = if it.host { "removed" } else { "none" };
        table.row(&[it.storage.clone(), it.mappings.to_string(), host.to_owned()]);
    }
    table.render(screen)
}
