//! What goes into a machine: our programs, as cargo builds them now, and the files of the clone that they look for.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use super::channel::Channel;
use super::tools::{Trouble, about, command, find, finish, run, say};

/// The programs, by package and name.
const PROGRAMS: [(&str, &str); 2] = [("sanbridge-lab", "sanbridge-lab-guest"), ("sanbridge", "sanbridge")];

/// The parts of the clone that tests look for at run time.
const FILES: [&str; 4] = ["crates/pve-bridge/perl", "crates/sim/tests/fixtures", "tests/perl", "host"];

/// The clone.
pub(super) fn clone_folder() -> &'static Path {
    let lab = Path::new(env!("CARGO_MANIFEST_DIR"));
    lab.parent().unwrap_or(lab)
}

/// Programs that were built, without what only a debugger needs.
#[derive(Debug)]
pub struct Programs {
    folder: tempfile::TempDir,
}

/// Which state of the programs is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As the clone has them now.
    Present,
    /// As they lie beside this program.
    AsBuilt,
}

/// The programs, built with cargo if need be.
///
/// # Errors
/// Where they do not build, or are not there.
pub async fn ready(state: State) -> Result<Programs, Trouble> {
    let messages = if state == State::Present { build().await? } else { Vec::new() };
    let own = std::env::current_exe().map_err(about(Path::new("this program")))?;
    let folder = tempfile::tempdir().map_err(about(Path::new("a temporary folder")))?;
    for (_, program) in PROGRAMS {
        let built = match state {
            State::Present => executable(&messages, program)
                .ok_or_else(|| Trouble::fault(format!("cargo does not say where {program} is")))?,
            State::AsBuilt => own.with_file_name(program),
        };
        let copy = folder.path().join(program);
        fs::copy(&built, &copy).map_err(about(&built))?;
        // They get through the shared folder quicker without it; without binutils it stays.
        if find("strip").is_some() {
            run("strip", [Path::new("--strip-debug"), &copy]).await?;
        }
    }
    Ok(Programs { folder })
}

/// Builds the programs; the answer is what cargo says of them.
async fn build() -> Result<Vec<u8>, Trouble> {
    say("building the programs");
    let mut cargo = command("cargo");
    cargo.current_dir(clone_folder()).stderr(Stdio::inherit());
    cargo.args(["build", "--quiet", "--locked", "--message-format=json-render-diagnostics"]);
    for (package, program) in PROGRAMS {
        cargo.args(["--package", package, "--bin", program]);
    }
    finish(&mut cargo).await.map_err(|it| Trouble::fault(format!("the programs do not build: {it}")))
}

/// Where cargo's messages say that a program lies.
fn executable(messages: &[u8], program: &str) -> Option<PathBuf> {
    let messages = serde_json::Deserializer::from_slice(messages).into_iter::<serde_json::Value>();
    let paths = messages.flatten().filter_map(|it| it["executable"].as_str().map(PathBuf::from));
    paths.into_iter().find(|it| it.file_name().is_some_and(|it| it == program))
}

impl Programs {
    /// Puts everything into the folder that a machine shares.
    ///
    /// # Errors
    /// Where it cannot be copied.
    pub async fn put(&self, share: &Path) -> Result<(), Trouble> {
        let programs = share.join("bin");
        fs::create_dir_all(&programs).map_err(about(&programs))?;
        for (_, program) in PROGRAMS {
            // A program that runs cannot be overwritten, but replaced.
            let fresh = programs.join(format!(".{program}"));
            fs::copy(self.folder.path().join(program), &fresh).map_err(about(&fresh))?;
            fs::rename(&fresh, programs.join(program)).map_err(about(&fresh))?;
        }
        for path in FILES {
            let from = clone_folder().join(path);
            let to = share.join("tree").join(path);
            if !from.is_dir() {
                continue;
            }
            fs::create_dir_all(&to).map_err(about(&to))?;
            run("cp", [Path::new("-r"), Path::new("-T"), &from, &to]).await?;
        }
        Ok(())
    }
}

/// Makes a machine use what is in its shared folder: the programs are copied (the kernel runs nothing from there
/// quickly), and the clone's files appear at the path that is built into the programs.
///
/// # Errors
/// Where the machine fails to.
pub async fn install(channel: &mut Channel) -> Result<(), Trouble> {
    let clone = clone_folder().display();
    let text = format!(
        "set -e; mkdir -p /opt/lab/bin \"$(dirname '{clone}')\"\n\
         for it in /lab/share/bin/*; do cp \"$it\" /opt/lab/bin/.new; mv /opt/lab/bin/.new \"/opt/lab/bin/${{it##*/}}\"; done\n\
         [ -e '{clone}' ] || ln -s /lab/share/tree '{clone}'"
    );
    channel.succeed(&text, Duration::from_secs(120)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_program_in_cargos_messages() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","executable":"/t/debug/sanbridge"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
            "\n"
        );
        assert_eq!(executable(messages.as_bytes(), "sanbridge"), Some("/t/debug/sanbridge".into()));
        assert_eq!(executable(messages.as_bytes(), "sanbridge-lab-guest"), None);
    }
}
