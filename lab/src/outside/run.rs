//! `lab run` and `lab record`: chooses groups, runs them, and reports.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Signal, set_parent_process_death_signal};

use super::cache::Cache;
use super::lanes::{self, Played, Wish};
use super::programs::{self, State};
use super::report::{Report, Scope};
use super::tools::{Trouble, about, say};
use super::{accelerator, image};
use crate::guest::{self, Group, Machines};

/// The folder of the stored recordings, in the clone.
const RECORDINGS: &str = "crates/sim/tests/recordings";

/// Files of earlier runs go after this.
const KEPT: Duration = Duration::from_secs(3 * 24 * 3600);

/// What to run.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Choice {
    /// Only this group; may be given several times
    #[arg(long = "group")]
    pub groups: Vec<String>,
    /// Only checks whose name contains this
    #[arg(long)]
    pub only: Option<String>,
    /// So many machines at once [default: two where there are two processors]
    #[arg(long)]
    pub jobs: Option<u32>,
    /// Take the programs as they were built last, instead of building them now
    #[arg(long)]
    pub as_built: bool,
    /// Where recordings and the logs of failures go [default: a folder in the cache]
    #[arg(long)]
    pub keep: Option<PathBuf>,
}

impl Choice {
    fn state(&self) -> State {
        if self.as_built { State::AsBuilt } else { State::Present }
    }

    fn scope(&self) -> Scope {
        if self.groups.is_empty() && self.only.is_none() { Scope::Everything } else { Scope::Part }
    }

    /// The groups chosen out of all there are, in the order in which they begin.
    fn groups(&self, all: Vec<Group>) -> Result<Vec<Group>, Trouble> {
        let known: Vec<&str> = all.iter().map(|it| it.name).collect();
        if let Some(unknown) = self.groups.iter().find(|it| !known.contains(&it.as_str())) {
            return Err(Trouble::fault(format!(
                "there is no group {unknown}; there are: {}",
                known.join(" ")
            )));
        }
        let wanted = |it: &Group| self.groups.is_empty() || self.groups.iter().any(|name| name == it.name);
        let mut chosen: Vec<Group> = all.into_iter().filter(wanted).collect();
        // What takes both lanes while both are free, then what boots slowly.
        chosen.sort_by_key(|it| match it.machines {
            Machines::Pair => 0,
            Machines::Systemd => 1,
            Machines::Script => 2,
        });
        Ok(chosen)
    }
}

fn jobs() -> u32 {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if processors < 2 { 1 } else { 2 }
}

/// Where the files of this run go.
fn logs_folder(cache: &Cache, choice: &Choice) -> Result<PathBuf, Trouble> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let own = || cache.path(&format!("logs-{since}-{}", std::process::id()));
    let folder = choice.keep.clone().unwrap_or_else(own);
    std::path::absolute(&folder).map_err(about(&folder))
}

/// Runs what was chosen. The answer comes with the folder of its logs, if there are any.
///
/// # Errors
/// Where the lab cannot run here, or nothing could be begun.
pub async fn run(
    cache: &Cache,
    mirror: Option<&str>,
    choice: &Choice,
) -> Result<(Report, Option<PathBuf>), Trouble> {
    let started = Instant::now();
    // Whoever started this may be killed without a word; the machines then end too.
    set_parent_process_death_signal(Some(Signal::TERM)).map_err(|error| Trouble::fault(error.to_string()))?;
    cache.forget(&["machines-", "logs-"], KEPT);
    let groups = choice.groups(guest::groups())?;
    let logs = logs_folder(cache, choice)?;
    let played = play(cache, mirror, choice, groups, &logs).await;
    let logs = logs.is_dir().then_some(logs);
    Ok((Report::new(played?, choice.scope(), started.elapsed().as_secs_f64()), logs))
}

async fn play(
    cache: &Cache,
    mirror: Option<&str>,
    choice: &Choice,
    groups: Vec<Group>,
    logs: &Path,
) -> Result<Vec<Played>, Trouble> {
    let (image, programs) = tokio::try_join!(image::ensure(cache, mirror), programs::ready(choice.state()))?;
    let accelerator = accelerator::find(cache, &image).await?;
    let machines = cache.fresh("machines-")?;
    let wish = Wish {
        only: choice.only.clone(),
        jobs: choice.jobs.unwrap_or_else(jobs),
        image,
        accelerator,
        logs: logs.to_owned(),
        machines: machines.path().to_owned(),
    };
    Ok(lanes::run(wish, programs, groups).await)
}

/// Records anew, and puts the recordings into the clone, to be looked at as a change.
///
/// # Errors
/// Where the lab cannot run here, or nothing was recorded.
pub async fn record(cache: &Cache, mirror: Option<&str>) -> Result<(), Trouble> {
    let choice = Choice { groups: vec!["record".to_owned()], ..Choice::default() };
    let (_, logs) = run(cache, mirror, &choice).await?;
    let nothing = || Trouble::fault("nothing was recorded");
    let from = logs.ok_or_else(nothing)?.join("record/recordings");
    if !from.is_dir() {
        return Err(nothing());
    }
    let to = programs::clone_folder().join(RECORDINGS);
    lanes::copy_folder(&from, &to)?;
    say(&format!("{} is as this kernel and these tools have it; see git diff", to.display()));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(name: &'static str) -> Group {
        Group::new(name, |_| Box::pin(async { Ok(()) }))
    }

    #[test]
    fn chooses_groups_by_name_and_begins_with_the_largest() {
        let all = || {
            vec![
                group("a").on(Machines::Script),
                group("c").on(Machines::Systemd),
                group("b").on(Machines::Pair),
            ]
        };
        let names =
            |choice: &Choice| choice.groups(all()).map(|it| it.iter().map(|it| it.name).collect::<Vec<_>>());
        assert_eq!(names(&Choice::default()).unwrap(), ["b", "c", "a"]);
        let two = Choice { groups: vec!["c".to_owned(), "a".to_owned()], ..Choice::default() };
        assert_eq!(names(&two).unwrap(), ["c", "a"]);
        assert_eq!(two.scope(), Scope::Part);
        let wrong = Choice { groups: vec!["d".to_owned()], ..Choice::default() };
        assert_eq!(names(&wrong).unwrap_err().text, "there is no group d; there are: a c b");
    }

    #[test]
    fn group_names_are_unique_and_fit_a_folder() {
        let names: Vec<&str> = guest::groups().iter().map(|it| it.name).collect();
        let unique: std::collections::BTreeSet<_> = names.iter().collect();
        assert_eq!(unique.len(), names.len());
        assert!(names.iter().all(|it| it.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'-')));
    }
}
