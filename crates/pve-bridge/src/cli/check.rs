//! `sanbridge check`.

use std::fmt::Write;
use std::time::Duration;

use san_core::{Finding, Severity};
use serde_json::json;

use super::exit::{Exit, Failure};
use super::output::{Screen, plain};
use super::{Session, Verb};
use crate::admin::check::Checked;

/// Look for settings of this node, its storages and their arrays that are known to cause trouble. Changes nothing.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Only of this storage, and the node
    #[arg(long)]
    storage: Option<String>,
}

/// Arrays that do not answer are waited for.
const PATIENCE: Duration = Duration::from_secs(60);

impl Verb for Check {
    async fn run(&self, session: &mut Session<'_, '_>) -> Result<Exit, Failure> {
        let answer: Checked =
            session.call("admin.check", json!({ "storage": self.storage }), PATIENCE).await?;
        session.show(&answer, text)?;
        let needs_somebody = answer.findings.iter().any(|it| it.severity > Severity::Notice);
        let exit = session.report(&answer.problems);
        Ok(if needs_somebody { Exit::Findings } else { exit })
    }
}

fn text(of: &Checked, _: Screen) -> String {
    if of.findings.is_empty() {
        return format!("Nothing wrong was found on node {}.\n", of.node);
    }
    let mut text = String::new();
    for it in &of.findings {
        block(&mut text, it);
    }
    text
}

fn block(text: &mut String, of: &Finding) {
    let word = match of.severity {
        Severity::Failure => "FAILURE",
        Severity::Warning => "WARNING",
        Severity::Notice => "notice",
    };
    let _ = writeln!(text, "{word} {}: {}: {}", of.check, plain(&of.subject), plain(&of.what));
    let _ = writeln!(text, "  why:  {}", plain(&of.why));
    let _ = writeln!(text, "  fix:  {}", plain(&of.fix));
    if let Some(undo) = &of.undo {
        let _ = writeln!(text, "  undo: {}", plain(undo));
    }
}
