//! `cargo xtask faults [--json]`: every operation with every trouble at every request it sends, and what came of it.

use std::process::ExitCode;

use clap::Parser;
use sanbridge_tests::faults::{self, Often, Selection, Trouble};
use sanbridge_tests::findings::Output;
use sanbridge_tests::matrix::Progress;
use sanbridge_tests::operation::Row;

/// Lets everything that can happen to a request happen to every request of every operation, mends the array, and audits.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    output: Output,
    /// Only this operation (may be given several times)
    #[arg(long = "operation")]
    operations: Vec<Row>,
    /// Only this trouble (may be given several times)
    #[arg(long = "fault")]
    troubles: Vec<Trouble>,
    /// Only this often
    #[arg(long)]
    often: Option<Often>,
    /// Only at this request, counted from 0
    #[arg(long)]
    step: Option<usize>,
}

fn main() -> ExitCode {
    let Arguments { output, operations, troubles, often, step } = Arguments::parse();
    let selection = Selection {
        operations: if operations.is_empty() { Row::all_that_ask() } else { operations },
        troubles: if troubles.is_empty() { Trouble::all().to_vec() } else { troubles },
        often: often.map_or_else(|| Often::all().to_vec(), |it| vec![it]),
        step,
    };
    let progress = Progress::on_stderr();
    let matrix = faults::run(&selection, &progress);
    progress.finish();
    output.end("the matrix", matrix)
}
