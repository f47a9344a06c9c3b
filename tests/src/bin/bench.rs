//! `cargo xtask bench [--json]`: requests, programs and round trips per operation, held against the budgets.

use std::process::ExitCode;

use clap::Parser;
use indicatif::ProgressBar;
use sanbridge_tests::bench;
use sanbridge_tests::findings::Output;

/// Measures what each operation costs on simulated arrays and nodes, and fails where a budget is missed.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    output: Output,
}

fn main() -> ExitCode {
    let Arguments { output } = Arguments::parse();
    // Draws on standard error, and only where that is a terminal.
    let spinner = ProgressBar::new_spinner();
    spinner.enable_steady_tick(std::time::Duration::from_millis(100));
    let measured = bench::run(&mut |title| spinner.set_message(title.to_owned()));
    spinner.finish_and_clear();
    output.end("the bench", measured)
}
