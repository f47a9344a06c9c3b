//! Programs of the machine: one way to start them, with a deadline and with what they said.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use sanbridge_tests::program::program;

use super::Failure;

/// Where programs are looked for.
const PLACES: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// After how long a busy multipathd is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// How a program ended.
#[derive(Debug)]
pub struct Ran {
    /// The command line, for people.
    pub line: String,
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Ran {
    /// What it printed, if it succeeded.
    ///
    /// # Errors
    /// With its complaint.
    pub fn success(self) -> Result<String, Failure> {
        if self.code == Some(0) {
            return Ok(self.stdout);
        }
        let said = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        Err(Failure(format!("{} ended with {:?}: {}", self.line, self.code, said.trim())))
    }
}

/// Runs a program to its end. One that misses its deadline is killed. A multipathd that is too busy to show something
/// is asked again within the deadline.
///
/// # Errors
/// Where it is not there or does not end in time.
pub async fn output(name: &str, arguments: &[&str], within: Duration) -> Result<Ran, Failure> {
    let begun = Instant::now();
    loop {
        let ran = once(name, arguments, within.saturating_sub(begun.elapsed())).await?;
        let is_busy = ran.code == Some(1) && ran.stdout.trim() == "timeout";
        let asks = name == "multipathd" && arguments.first() == Some(&"show");
        if !(asks && is_busy) || begun.elapsed() + AGAIN >= within {
            return Ok(ran);
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn once(name: &str, arguments: &[&str], within: Duration) -> Result<Ran, Failure> {
    let line = format!("{name} {}", arguments.join(" "));
    let mut command = program(find(name)?);
    command.args(arguments).env("PATH", PLACES.join(":")).env("LANG", "C.UTF-8");
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let ended = tokio::time::timeout(within, command.output()).await;
    let ended = ended.map_err(|_| Failure(format!("{line} did not end within {within:?}")))?;
    let ended = ended.map_err(|error| Failure(format!("{line}: {error}")))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Ran { line, code: ended.status.code(), stdout: text(&ended.stdout), stderr: text(&ended.stderr) })
}

/// Runs a program that must succeed, and returns what it printed.
///
/// # Errors
/// With its complaint; where it is not there or does not end in time.
pub async fn run(name: &str, arguments: &[&str], within: Duration) -> Result<String, Failure> {
    output(name, arguments, within).await?.success()
}

/// A program by its name.
fn find(name: &str) -> Result<PathBuf, Failure> {
    let mut places = PLACES.iter().map(|it| Path::new(it).join(name));
    let found = places.find(|it| it.try_exists().unwrap_or(false));
    found.ok_or_else(|| Failure(format!("{name} is not in this machine")))
}
