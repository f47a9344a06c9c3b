//! `cargo xtask bench [--json]`: requests, programs and round trips per operation, held against the budgets.

use std::process::ExitCode;

use clap::Parser;
use indicatif::ProgressBar;
use sanbridge_tests::bench;

/// Measures what each operation costs on simulated arrays and nodes, and fails where a budget is missed.
#[derive(Debug, Parser)]
struct Arguments {
    /// Print one JSON document and nothing else on standard output
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let Arguments { json } = Arguments::parse();
    // Draws on standard error, and only where that is a terminal.
    let spinner = ProgressBar::new_spinner();
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    let measured = bench::run(&mut |title| spinner.set_message(title.to_owned()));
    spinner.finish_and_clear();
    match measured {
        Err(error) => {
            let error = format!("the bench could not be run: {}", error.chain());
            if json {
                say(&serde_json::json!({ "format": 1, "ok": false, "error": error }).to_string());
            } else {
                complain(&error);
            }
            ExitCode::FAILURE
        }
        Ok(report) => {
            say(&if json { format!("{:#}", report.to_json()) } else { report.to_text() });
            if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
        }
    }
}

#[expect(clippy::print_stdout, reason = "a command line tool speaks on its terminal")]
fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "a command line tool speaks on its terminal")]
fn complain(text: &str) {
    eprintln!("{text}");
}
