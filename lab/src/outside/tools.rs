//! Programs of this computer that the lab starts, and how their failures are told.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Command;

/// What went wrong outside of the machine, in words for people.
#[derive(Debug)]
pub struct Trouble {
    /// The words.
    pub text: String,
    /// Whether this computer just cannot carry the lab (something is missing, or cannot be downloaded), as opposed to
    /// a fault of what the lab is about.
    pub kind: TroubleKind,
}

/// Whose trouble it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TroubleKind {
    /// This computer lacks something that the lab needs.
    Lacking,
    /// Anything else.
    Fault,
}

impl Trouble {
    /// Something the lab needs is not here.
    pub fn lacking(text: impl Into<String>) -> Self {
        Self { text: text.into(), kind: TroubleKind::Lacking }
    }

    /// Something went wrong.
    pub fn fault(text: impl Into<String>) -> Self {
        Self { text: text.into(), kind: TroubleKind::Fault }
    }
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// An error with the thing it befell.
pub fn about(path: &Path) -> impl FnOnce(std::io::Error) -> Trouble {
    let path = path.display().to_string();
    move |error| Trouble::fault(format!("{path}: {error}"))
}

/// Says something to the person who waits; results go to standard output, this does not.
#[expect(clippy::print_stderr, reason = "a command line tool speaks on its terminal")]
pub fn say(text: &str) {
    eprintln!("lab: {text}");
}

/// Where a program lies: on the path, or among those of the system, which are not on everybody's path.
pub fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(system).map(|it| it.join(name)).find(|it| it.is_file())
}

/// A program of this computer, without input, that ends when its handle is dropped.
#[expect(
    clippy::disallowed_methods,
    reason = "the lab is a tool of the developers, not a part of the product"
)]
pub fn command(name: &str) -> Command {
    let mut command = Command::new(find(name).unwrap_or_else(|| name.into()));
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A program whose mounts nobody else sees, and which are gone with it, however it ends. Where this computer does not
/// allow that, it does not allow mounts either.
pub async fn apart(name: &str) -> Command {
    let words = ["--mount", "--propagation", "slave", "--"];
    if run("unshare", words.into_iter().chain(["true"])).await.is_err() {
        return command(name);
    }
    let mut unshare = command("unshare");
    unshare.args(words).arg(name);
    unshare
}

/// Runs a program to its end and returns what it wrote to standard output; what it complained of becomes the error.
///
/// # Errors
/// Where it cannot be started or does not succeed.
pub async fn run(
    name: &str,
    arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
) -> Result<Vec<u8>, Trouble> {
    finish(command(name).args(arguments)).await
}

/// A process and those it started, who are asked to end when this is dropped.
#[derive(Debug)]
struct Family(Option<Pid>);

impl Drop for Family {
    fn drop(&mut self) {
        // An error means that there is nobody left.
        let _ = self.0.map(|it| kill_process_group(it, Signal::TERM));
    }
}

/// As [`finish`], for a program that starts others which must not outlive it.
///
/// # Errors
/// Where it cannot be started or does not succeed.
pub async fn finish_family(command: &mut Command) -> Result<Vec<u8>, Trouble> {
    let shown = command.as_std().get_program().display().to_string();
    command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child =
        command.spawn().map_err(|error| Trouble::fault(format!("{shown} cannot be started: {error}")))?;
    let mut family = Family(child.id().and_then(|it| Pid::from_raw(i32::try_from(it).ok()?)));
    let output = child.wait_with_output().await;
    family.0 = None;
    judged(&shown, output)
}

/// As [`run`], for a command with more to it.
///
/// # Errors
/// Where it cannot be started or does not succeed.
pub async fn finish(command: &mut Command) -> Result<Vec<u8>, Trouble> {
    let shown = command.as_std().get_program().display().to_string();
    let output = command.output().await;
    judged(&shown, output)
}

fn judged(shown: &str, output: std::io::Result<Output>) -> Result<Vec<u8>, Trouble> {
    let output = output.map_err(|error| Trouble::fault(format!("{shown} cannot be started: {error}")))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    let last: Vec<&str> = complaint.lines().rev().take(8).collect();
    let last = last.into_iter().rev().collect::<Vec<_>>().join("\n  ");
    Err(Trouble::fault(format!("{shown} ended with {}\n  {last}", output.status)))
}
