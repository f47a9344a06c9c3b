//! `cargo xtask demo [--json]`: the main job, on a simulated array and two simulated nodes, ending with an audit.

use std::process::ExitCode;

use clap::Parser;
use san_core::{Error, ErrorKind};
use sanbridge_tests::demo::{self, Progress, REAL, SIMULATED};
use sanbridge_tests::findings::{Output, say};
use tokio::runtime::Runtime;

/// Shows the life of a guest's disk on a simulated array and two simulated nodes, and checks every step.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    output: Output,
}

fn main() -> ExitCode {
    let Arguments { output } = Arguments::parse();
    if !output.json {
        let indented = |lines: [&str; 2]| lines.map(|it| format!("  {it}")).join("\n");
        say(&format!("Simulated:\n{}\nReal:\n{}\n", indented(SIMULATED), indented(REAL)));
    }
    let progress = if output.json { Progress::Silent } else { Progress::on_stderr() };
    let played = Runtime::new()
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot start the runtime").caused_by(error))
        .and_then(|runtime| runtime.block_on(demo::run(&progress)));
    progress.finish();
    output.end("the demo", played)
}
