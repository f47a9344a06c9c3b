//! `sanbridge undelete`.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::exit::{Exit, Failure};
use super::output::{Screen, Table, plain, size};
use super::{QUESTION, Session, Verb, named};
use crate::admin::deleted::Deleted;

/// List the deleted volumes that arrays still keep, or bring one back under its name.
#[derive(Debug, clap::Args)]
pub struct Undelete {
    /// The volume to bring back: its name, or <storage>:<name>; without it those that are kept are listed
    volume: Option<String>,
    /// Its storage, where this node serves several
    #[arg(long)]
    storage: Option<String>,
    /// Which one, where several had the name: what the array calls it now
    #[arg(long, requires = "volume")]
    queued: Option<String>,
}

/// The volume that is back.
#[derive(Debug, Serialize, Deserialize)]
struct Back {
    name: String,
    size_bytes: u64,
}

/// Three changes on the array at most.
const PATIENCE: Duration = Duration::from_secs(120);

impl Verb for Undelete {
    async fn run(&self, session: &mut Session<'_, '_>) -> Result<Exit, Failure> {
        let Some(volume) = &self.volume else {
            let answer: Deleted =
                session.call("admin.deleted", json!({ "storage": self.storage }), QUESTION).await?;
            session.show(&answer, table)?;
            return Ok(session.report(&answer.problems));
        };
        let (storage, name) = named(self.storage.as_deref(), volume);
        let params = json!({ "storage": storage, "name": name, "queued": self.queued });
        let back: Back = session.call("admin.undelete", params, PATIENCE).await?;
        session.show(&back, |it, _| format!("{} is back ({}).\n", plain(&it.name), size(it.size_bytes)))?;
        Ok(Exit::Success)
    }
}

fn table(of: &Deleted, screen: Screen) -> String {
    if of.volumes.is_empty() {
        return "No array keeps a deleted volume of ours.\n".to_owned();
    }
    let mut table = Table::new(&["STORAGE", "VOLUME", "ON THE ARRAY"]);
    for it in &of.volumes {
        let name = it.name.clone().unwrap_or_else(|| "-".to_owned());
        table.row(&[it.storage.clone(), name, it.queued.clone()]);
    }
    table.render(screen)
}
