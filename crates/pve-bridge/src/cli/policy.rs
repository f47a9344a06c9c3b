//! `sanbridge policy show` and `sanbridge policy apply`.

use std::collections::BTreeSet;
use std::time::Duration;

use clap::Subcommand;
use serde_json::{Value, json};

use super::exit::{Exit, Failure};
use super::output::{Screen, Table};
use super::{Session, Verb, named};
use crate::admin::policy::{DeviationLine, Review};

/// How long looking at all volumes of a node's storages, or setting one, may take.
const PATIENCE: Duration = Duration::from_secs(600);

/// Options that were changed after volumes had been made.
#[derive(Debug, clap::Args)]
pub struct Policy {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Show which volumes differ from the options of their storage. Two requests per volume
    Show(Which),
    /// Set volumes as the options of their storage say, one after the other
    Apply {
        #[command(flatten)]
        which: Which,
        /// Only show what would be set
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Only of this storage
    #[arg(long)]
    storage: Option<String>,
    /// Only this volume: its name, or <storage>:<name> as PVE writes it
    #[arg(long)]
    volume: Option<String>,
}

impl Which {
    /// As parameters of a method.
    fn params(&self) -> Value {
        let storage = self.storage.as_deref();
        let (storage, name) = self.volume.as_deref().map_or((storage, None), |it| {
            let (storage, name) = named(storage, it);
            (storage, Some(name))
        });
        json!({ "storage": storage, "name": name })
    }
}

impl Verb for Policy {
    async fn run(&self, session: &mut Session<'_, '_>) -> Result<Exit, Failure> {
        let (which, is_for_real) = match &self.what {
            What::Show(which) => (which, false),
            What::Apply { which, dry_run } => (which, !dry_run),
        };
        let review: Review = session.call("admin.policy", which.params(), PATIENCE).await?;
        session.show(&review, table)?;
        let seen = session.report(&review.problems);
        if !is_for_real {
            return Ok(if review.deviations.is_empty() { seen } else { Exit::Findings });
        }
        let volumes: BTreeSet<(&String, &String)> =
            review.deviations.iter().map(|it| (&it.storage, &it.name)).collect();
        let mut end = seen;
        for (storage, name) in volumes {
            let params = json!({ "storage": storage, "name": name });
            match session.call::<Value>("admin.policy-apply", params, PATIENCE).await {
                Ok(_) => session.console.note(&format!("{storage}:{name}: set")),
                // The others are set all the same.
                Err(failure) => {
                    let remedy = failure.error.remedy().map(|it| format!(" -- {it}")).unwrap_or_default();
                    session.console.note(&format!("{storage}:{name}: {}{remedy}", failure.error.chain()));
                    end = Exit::Findings;
                }
            }
        }
        Ok(end)
    }
}

fn table(of: &Review, screen: Screen) -> String {
    if of.deviations.is_empty() {
        return format!("{} volumes are as their storages say\n", of.reviewed);
    }
    let mut table = Table::new(&["STORAGE", "VOLUME", "OPTION", "IS", "WANTED", "ON THE ARRAY"]);
    for DeviationLine { storage, name, option, field, is, wanted } in &of.deviations {
        table.row(&[
            storage.clone(),
            name.clone(),
            option.clone(),
            is.clone(),
            wanted.clone(),
            field.clone(),
        ]);
    }
    table.render(screen)
}
