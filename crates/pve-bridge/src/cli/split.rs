//! `sanbridge split`.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use san_core::{Error, ErrorKind};
use serde_json::Value;

use super::exit::{Exit, Failure};
use super::{QUESTION, Session, Verb, VolumeRef};
use crate::admin::split::{Lineage, State};

/// Make a linked clone independent of its template.
///
/// The array works on it in the background; the clone may be used meanwhile, but has no snapshots until that has ended.
#[derive(Debug, clap::Args)]
pub struct Split {
    #[command(flatten)]
    volume: VolumeRef,
    /// Wait until the array has done it, and show how far it is
    #[arg(long)]
    wait: bool,
}

/// Beginning it takes a few requests.
const BEGINNING: Duration = Duration::from_secs(60);
/// Between two looks: the array tells nobody when it has done it.
const LOOK: Duration = Duration::from_secs(5);

impl Verb for Split {
    async fn run(&self, session: &mut Session<'_, '_>) -> Result<Exit, Failure> {
        let _: Value = session.call("admin.split", self.volume.params(), BEGINNING).await?;
        let mut lineage: Lineage = session.call("admin.lineage", self.volume.params(), QUESTION).await?;
        let bar = session.console.progress();
        while self.wait && lineage.state == State::Splitting {
            show(&bar, lineage.percent);
            tokio::time::sleep(LOOK).await;
            lineage = session.call("admin.lineage", self.volume.params(), QUESTION).await?;
        }
        bar.finish_and_clear();
        session.show(&lineage, |it, _| text(*it))?;
        if lineage.state == State::Clone {
            let error =
                Error::new(ErrorKind::Conflict, "the array gave the splitting up; it is still a clone")
                    .with_remedy("look at the array's events: there may be no room in the aggregate");
            return Err(error.into());
        }
        Ok(Exit::Success)
    }
}

fn show(bar: &ProgressBar, percent: Option<u8>) {
    if let Ok(style) = ProgressStyle::with_template("splitting {bar:40} {pos} %") {
        bar.set_style(style);
    }
    bar.set_length(100);
    bar.set_position(percent.unwrap_or(0).into());
}

fn text(of: Lineage) -> String {
    match (of.state, of.percent) {
        (State::Independent, _) => "It is independent.\n".to_owned(),
        (State::Clone, _) => "It is still a clone.\n".to_owned(),
        (State::Splitting, Some(percent)) => format!("The array splits it: {percent} %.\n"),
        (State::Splitting, None) => "The array splits it.\n".to_owned(),
    }
}
