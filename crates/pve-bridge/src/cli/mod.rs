//! `sanbridge` for people: subcommands that ask the daemon of this node, and what they print.
//!
//! Every subcommand is a struct of clap's with a `Verb` in a file of its own. It asks the daemon through its `Session`,
//! prints the answer's table or, with `--json`, the answer itself, and ends with an [`Exit`].

mod check;
mod client;
mod exit;
mod node;
mod orphans;
mod output;
mod policy;
mod split;
mod status;
mod storage;
mod undelete;
mod volumes;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::admin::Problem;
use client::Client;
pub use exit::{Exit, Failure};
pub use output::{Console, Format, Screen};

/// How long the daemon may take for what it knows or can ask quickly.
pub(crate) const QUESTION: Duration = Duration::from_secs(30);

/// What people may ask of the daemon.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show storages, portals, disks of this node and what is under way. Asks no array
    Status(Ask<status::Status>),
    /// List volumes with their guests and where they are attached. One request per array
    Volumes(Ask<volumes::Volumes>),
    /// List the snapshots of a volume
    Snapshots(Ask<volumes::Snapshots>),
    /// End what remains of a node that is gone for ever, or was reinstalled
    Node(Ask<node::Node>),
    /// Bring back storages that Proxmox VE has lost
    Storage(Ask<storage::Storage>),
    /// Look for settings that are known to cause trouble. Changes nothing
    Check(Ask<check::Check>),
    /// List what is ours and of no use, explain it, and remove what is proved unused
    Orphans(Ask<orphans::Orphans>),
    /// List deleted volumes that arrays still keep, or bring one back
    Undelete(Ask<undelete::Undelete>),
    /// Make a linked clone independent of its template
    Split(Ask<split::Split>),
    /// Compare volumes with the options of their storage, and set them
    Policy(Ask<policy::Policy>),
}

impl Command {
    /// Asks the daemon and prints its answer.
    pub async fn run(&self, console: &mut Console<'_>) -> Exit {
        match self {
            Self::Status(it) => ask(it, console).await,
            Self::Volumes(it) => ask(it, console).await,
            Self::Snapshots(it) => ask(it, console).await,
            Self::Node(it) => ask(it, console).await,
            Self::Storage(it) => ask(it, console).await,
            Self::Check(it) => ask(it, console).await,
            Self::Orphans(it) => ask(it, console).await,
            Self::Undelete(it) => ask(it, console).await,
            Self::Split(it) => ask(it, console).await,
            Self::Policy(it) => ask(it, console).await,
        }
    }
}

/// A subcommand with what all of them have.
#[derive(Debug, Args)]
pub struct Ask<T: Args> {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    verb: T,
}

#[derive(Debug, Args)]
struct Common {
    /// Print the daemon's answer as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Where the daemon listens
    #[arg(long, global = true, default_value = "/run/sanbridge/sanbridge.sock")]
    socket: PathBuf,
}

/// What a subcommand does.
pub(crate) trait Verb {
    /// Does it.
    async fn run(&self, session: &mut Session<'_, '_>) -> Result<Exit, Failure>;
}

async fn ask<T: Args + Verb>(of: &Ask<T>, console: &mut Console<'_>) -> Exit {
    let format = if of.common.json { Format::Json } else { Format::Text };
    let client = Client::new(of.common.socket.clone());
    let mut session = Session { client, format, console };
    let done = of.verb.run(&mut session).await;
    done.unwrap_or_else(|failure| {
        session.console.end(&failure.error);
        failure.exit
    })
}

/// A volume, as people name it.
#[derive(Debug, Args)]
pub(crate) struct VolumeRef {
    /// The volume: its name, or <storage>:<name> as PVE writes it
    volume: String,
    /// Its storage, where this node serves several
    #[arg(long)]
    storage: Option<String>,
}

impl VolumeRef {
    /// As parameters of a method.
    pub(crate) fn params(&self) -> Value {
        let (storage, name) = named(self.storage.as_deref(), &self.volume);
        json!({ "storage": storage, "name": name })
    }
}

/// Storage and name of a volume, which people name by the latter alone, or as `<storage>:<name>`, as PVE writes it.
pub(crate) fn named<'a>(storage: Option<&'a str>, volume: &'a str) -> (Option<&'a str>, &'a str) {
    match volume.split_once(':') {
        Some((of, name)) if storage.is_none() => (Some(of), name),
        _ => (storage, volume),
    }
}

/// A subcommand's way to the daemon and to its reader.
#[derive(Debug)]
pub(crate) struct Session<'a, 'b> {
    client: Client,
    format: Format,
    pub(crate) console: &'a mut Console<'b>,
}

impl Session<'_, '_> {
    /// Calls a method; warnings of the answer are shown as messages.
    pub(crate) async fn call<T: DeserializeOwned>(
        &mut self,
        method: &str,
        params: Value,
        patience: Duration,
    ) -> Result<T, Failure> {
        let reply = self.client.call(method, params, patience).await?;
        for warning in &reply.warnings {
            self.console.note(&format!("warning: {warning}"));
        }
        Ok(serde_json::from_value(reply.ok).map_err(|error| {
            san_core::Error::new(san_core::ErrorKind::Protocol, "the daemon's answer is not understood")
                .with_remedy("restart the daemon: it is of another version than this program")
                .caused_by(error)
        })?)
    }

    /// Names storages that could not be asked; the code to end with.
    pub(crate) fn report(&mut self, problems: &[Problem]) -> Exit {
        for Problem { storage, why, remedy } in problems {
            let remedy = remedy.as_ref().map(|it| format!(" -- {it}")).unwrap_or_default();
            self.console.note(&format!("sanbridge: {storage}: {why}{remedy}"));
        }
        if problems.is_empty() { Exit::Success } else { Exit::Findings }
    }

    /// Prints a result: for programs as it is, for people as `text` says it.
    pub(crate) fn show<T: Serialize>(
        &mut self,
        result: &T,
        text: impl FnOnce(&T, Screen) -> String,
    ) -> Result<(), Failure> {
        let shown = match self.format {
            Format::Json => output::json(result)?,
            Format::Text => text(result, self.console.screen()),
        };
        self.console.print(&shown);
        Ok(())
    }
}
