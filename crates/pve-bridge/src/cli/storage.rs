//! `sanbridge storage`.

use serde_json::json;

use super::exit::{Exit, Failure};
use super::output::plain;
use super::{QUESTION, Session, Verb};
use crate::admin::storage::Restoration;

/// Sections of storage.cfg.
#[derive(Debug, clap::Args)]
pub struct Storage {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print the command that adds a storage again whose section somebody's node has dropped from storage.cfg, with the options it
    /// had. Its volumes and secrets are where they were
    Restore {
        /// The storage
        storage: String,
    },
}

impl Verb for Storage {
    async fn run(&self, session: &mut Session<'_, '_>) -> Result<Exit, Failure> {
        let What::Restore { storage } = &self.what;
        let params = json!({ "storage": storage });
        let answer: Restoration = session.call("admin.storage.restore", params, QUESTION).await?;
        session.show(&answer, |it, _| format!("{}\n", plain(&it.command)))?;
        session.console.note("Run this on one node: Proxmox VE writes the section under its own lock. Options of its own, like \
                              bwlimit, have to be set again.");
        Ok(Exit::Success)
    }
}
