//! The group `record`: plays the scenes of `san_sim::recording` on this machine's real tools, brings the transcripts out
//! and compares them with those that are stored, which the simulated host is tested against. A newer tool that behaves
//! otherwise shows here first.
//!
//! The fresh transcripts are written into the folder that the machine shares with the outside; stored in place of the
//! old ones (`crates/sim/tests/recordings`), they make the simulator's tests say what has to change.

mod stage;
mod stored;

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use san_sim::recording::{play as play_scene, scenes};

use super::{Check, Failure, Group, Recorder, Running, Shown, machine, run};
use stage::Kernel;
use stored::stored;

/// The folder that is shared with the outside; without one, a folder of this machine.
const SHARES: [&str; 2] = ["/lab/share", "/run"];
/// Below it, by release.
const FOLDER: &str = "recordings/debian13";
/// The file of the versions.
const VERSIONS: &str = "versions";
/// How many lines of a difference are told.
const LINES: usize = 8;
/// A scene with outages takes this long on an idle machine.
const SCENE: Duration = Duration::from_secs(40);

/// The group.
pub(super) fn group() -> Group {
    Group::new("record", |recorder| Box::pin(play(recorder)))
}

async fn play(recorder: Recorder) -> Result<(), Failure> {
    let bench = Arc::new(Bench { kernel: Kernel::start().await?, folder: folder()? });
    for check in checks() {
        if recorder.wants(check.name) {
            let outcome = run(&recorder, &bench, &check).await?;
            if outcome != crate::verdict::Outcome::Held {
                bench.kernel.clean().await?;
            }
        }
    }
    bench.kernel.stop().await
}

#[derive(Debug)]
struct Bench {
    kernel: Kernel,
    folder: PathBuf,
}

impl Bench {
    /// Brings a fresh transcript out and compares it with the stored one.
    fn judge(&self, name: &str, fresh: &str) -> Result<Shown, Failure> {
        fs::write(self.folder.join(name), fresh)?;
        let file = format!("tests/recordings/debian13/{name}");
        let Some(old) = stored(name) else { return Err(Failure(format!("{file} is not stored yet"))) };
        if old == fresh {
            return Ok(Shown::held(format!("{} lines are as in {file}", fresh.lines().count())));
        }
        Err(Failure(format!("{file} is out of date: {}", difference(old, fresh))))
    }
}

/// Where the fresh transcripts go.
fn folder() -> Result<PathBuf, Failure> {
    let share = SHARES.iter().map(Path::new).find(|it| it.is_dir()).unwrap_or(Path::new("/"));
    let folder = share.join(FOLDER);
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// The first lines that differ.
fn difference(old: &str, fresh: &str) -> String {
    let (old, fresh): (Vec<&str>, Vec<&str>) = (old.lines().collect(), fresh.lines().collect());
    let same = old.iter().zip(&fresh).take_while(|(old, fresh)| old == fresh).count();
    let from = |lines: &[&str]| lines.iter().skip(same).take(LINES).copied().collect::<Vec<_>>().join(" / ");
    format!("line {}: stored {:?}, now {:?}", same + 1, from(&old), from(&fresh))
}

fn versions(bench: Arc<Bench>) -> Running {
    Box::pin(async move {
        let text = bench.kernel.versions().await?;
        bench.judge(VERSIONS, &text)
    })
}

fn nth<const N: usize>(bench: Arc<Bench>) -> Running {
    Box::pin(async move {
        let scenes = scenes();
        let scene = scenes.get(N).ok_or_else(|| Failure(format!("there is no scene {N}")))?;
        let text = match play_scene(&bench.kernel, scene).await {
            // Its worker was just reading the map when the last path went (scenario 48): that is no scene of ours.
            Err(error) if machine::udev_waits_for_a_device()? => {
                tracing::warn!(scene = scene.name, %error, "udev waits for a device: the scene is played once more");
                bench.kernel.clean().await?;
                play_scene(&bench.kernel, scene).await?
            }
            other => other?,
        };
        bench.judge(&format!("{}.txt", scene.name), &text)
    })
}

fn checks() -> Vec<Check<Bench>> {
    /// What plays each scene, in their order.
    const PLAYS: [fn(Arc<Bench>) -> Running; 21] = [
        nth::<0>, nth::<1>, nth::<2>, nth::<3>, nth::<4>, nth::<5>, nth::<6>, nth::<7>, nth::<8>, nth::<9>,
        nth::<10>, nth::<11>, nth::<12>, nth::<13>, nth::<14>, nth::<15>, nth::<16>, nth::<17>, nth::<18>,
        nth::<19>, nth::<20>,
    ];
    let first = Check {
        name: VERSIONS,
        scenarios: &[],
        done: "ask the system and its tools for their versions",
        run: versions,
        bound: SCENE,
    };
    let rest = scenes().into_iter().zip(PLAYS).map(|(scene, run)| Check {
        name: scene.name,
        scenarios: &[],
        done: scene.about,
        run,
        bound: SCENE,
    });
    std::iter::once(first).chain(rest).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_scene_is_a_check_and_stored() {
        let checks = checks();
        assert_eq!(checks.len(), scenes().len() + 1, "a scene has no check");
        for scene in scenes() {
            assert!(stored(&format!("{}.txt", scene.name)).is_some(), "{} is not stored", scene.name);
        }
        assert!(stored(VERSIONS).is_some());
    }

    #[test]
    fn a_difference_is_told_from_its_first_line() {
        assert_eq!(difference("a\nb\nc\n", "a\nx\nc\n"), "line 2: stored \"b / c\", now \"x / c\"");
        assert_eq!(difference("a\n", "a\nb\n"), "line 2: stored \"\", now \"b\"");
    }
}
