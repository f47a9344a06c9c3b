//! `sanbridge orphans`.

use std::fmt::Write;
use std::time::Duration;

use san_core::{Error, ErrorKind};
use serde_json::{Value, json};

use super::exit::{Exit, Failure};
use super::output::{Screen, Table, plain};
use super::{QUESTION, Session, Verb, VolumeRef};
use crate::admin::orphans::{Orphan, Orphans as Answer};

/// What is ours and of no use: half-made volumes, volumes no guest names, notes and records without a volume.
#[derive(Debug, clap::Args)]
pub struct Orphans {
    #[command(subcommand)]
    what: Option<What>,
    /// Only of this storage
    #[arg(long)]
    storage: Option<String>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Tell how one came about and what can be done
    Explain(VolumeRef),
    /// Remove one that is proved unused; without --yes only the plan is shown
    Remove {
        #[command(flatten)]
        orphan: VolumeRef,
        /// Do it
        #[arg(long)]
        yes: bool,
    },
}

/// As long as a deletion by PVE may take.
const REMOVAL: Duration = Duration::from_secs(60);

impl Verb for Orphans {
    async fn run(&self, session: &mut Session<'_, '_>) -> Result<Exit, Failure> {
        match &self.what {
            None => list(session, self.storage.as_deref()).await,
            Some(What::Explain(of)) => {
                let orphans = named(session, of).await?;
                session.show(&orphans, |it, _| it.iter().map(explained).collect())?;
                Ok(Exit::Success)
            }
            Some(What::Remove { orphan, yes: false }) => {
                let orphans = named(session, orphan).await?;
                session.show(&orphans, |it, _| it.iter().map(planned).collect())?;
                session.console.note("Nothing was done. With --yes it is.");
                Ok(Exit::Success)
            }
            Some(What::Remove { orphan, yes: true }) => {
                let done: Value = session.call("admin.orphans.remove", orphan.params(), REMOVAL).await?;
                session.show(&done, |_, _| "It is gone.\n".to_owned())?;
                Ok(Exit::Success)
            }
        }
    }
}

async fn list(session: &mut Session<'_, '_>, storage: Option<&str>) -> Result<Exit, Failure> {
    let answer: Answer = session.call("admin.orphans", json!({ "storage": storage }), QUESTION).await?;
    session.show(&answer, table)?;
    Ok(session.report(&answer.problems))
}

/// Those of a name: there may be a record of it here as well as notes in the cluster.
async fn named(session: &mut Session<'_, '_>, of: &VolumeRef) -> Result<Vec<Orphan>, Failure> {
    let params = of.params();
    let answer: Answer =
        session.call("admin.orphans", json!({ "storage": params["storage"] }), QUESTION).await?;
    session.report(&answer.problems);
    let orphans: Vec<Orphan> =
        answer.orphans.into_iter().filter(|it| params["name"] == it.name.as_str()).collect();
    if orphans.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "there is no orphan of this name")
            .with_remedy("sanbridge orphans lists them")
            .into());
    }
    Ok(orphans)
}

fn table(of: &Answer, screen: Screen) -> String {
    if of.orphans.is_empty() {
        return "There are no orphans.\n".to_owned();
    }
    let mut table = Table::new(&["STORAGE", "KIND", "NAME", "REMOVABLE", "WHAT"]);
    for it in &of.orphans {
        table.row(&[
            it.storage.clone(),
            it.kind.word().to_owned(),
            it.name.clone(),
            if it.removable { "yes" } else { "no" }.to_owned(),
            it.what.clone(),
        ]);
    }
    table.render(screen)
}

fn explained(of: &Orphan) -> String {
    let mut text = format!("{}:{} ({}): {}\n", of.storage, plain(&of.name), of.kind.word(), plain(&of.what));
    let _ = writeln!(text, "  why: {}", plain(&of.why));
    text + &steps(of)
}

fn planned(of: &Orphan) -> String {
    format!("{}:{} ({})\n{}", of.storage, plain(&of.name), of.kind.word(), steps(of))
}

fn steps(of: &Orphan) -> String {
    let who = if of.removable { "sanbridge orphans remove --yes would" } else { "a person can" };
    let mut text = format!("  {who}:\n");
    for step in &of.plan {
        let _ = writeln!(text, "    - {}", plain(step));
    }
    text
}
