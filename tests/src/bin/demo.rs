//! `cargo xtask demo [--json]`: the main job, on a simulated array and two simulated nodes, ending with an audit.

use std::process::ExitCode;

use clap::Parser;
use sanbridge_tests::demo::{self, Progress, REAL, SIMULATED};

/// Shows the life of a guest's disk on a simulated array and two simulated nodes, and checks every step.
#[derive(Debug, Parser)]
struct Arguments {
    /// Print one JSON document and nothing else on standard output
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let Arguments { json } = Arguments::parse();
    if !json {
        let indented = |lines: [&str; 2]| lines.map(|it| format!("  {it}")).join("\n");
        say(&format!("Simulated:\n{}\nReal:\n{}", indented(SIMULATED), indented(REAL)));
    }
    let progress = if json { Progress::Silent } else { Progress::on_stderr() };
    let played = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime.block_on(demo::run(&progress)),
        Err(error) => return complain(&format!("cannot start the runtime: {error}")),
    };
    progress.finish();
    match played {
        Err(error) if json => {
            let error = format!("the demo could not begin: {}", error.chain());
            say(&serde_json::json!({ "format": 1, "ok": false, "error": error }).to_string());
            ExitCode::FAILURE
        }
        Err(error) => complain(&format!("the demo could not begin: {}", error.chain())),
        Ok(report) => {
            say(&if json { format!("{:#}", report.to_json()) } else { format!("\n{}", report.to_text()) });
            if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

#[expect(clippy::print_stdout, reason = "a command line tool speaks on its terminal")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "a command line tool speaks on its terminal")]
fn complain(text: &str) -> ExitCode {
    eprintln!("{text}");
    ExitCode::FAILURE
}
