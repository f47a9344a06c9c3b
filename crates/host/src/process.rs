//! The one place that starts programs.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

/// A program by absolute path: no environment but `LC_ALL=C`, no input, working in `/`.
#[expect(clippy::disallowed_methods, reason = "this is where programs are started")]
pub(crate) fn command<A: AsRef<OsStr>>(program: &Path, arguments: impl IntoIterator<Item = A>) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().env("LC_ALL", "C").current_dir("/").stdin(Stdio::null());
    command
}
