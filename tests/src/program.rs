//! The one place where the suites and their programs start programs of the system.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

/// A program with an empty environment, without input, that ends when its handle is dropped.
#[expect(
    clippy::disallowed_methods,
    reason = "suites start Perl and losetup; the product is not in this crate"
)]
pub fn program(path: impl AsRef<Path>) -> Command {
    let mut command = Command::new(path.as_ref());
    command.env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command
}
