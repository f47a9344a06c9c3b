//! `cargo xtask crash [--json] [--full]`: every operation disturbed at every boundary of every effect, and what came of it.

use std::process::ExitCode;

use clap::Parser;
use sanbridge_tests::crash::{self, Boundary, Kind, Reach, Selection};
use sanbridge_tests::findings::Output;
use sanbridge_tests::matrix::Progress;
use sanbridge_tests::operation::Row;

/// Kills, abandons and loses every operation at every boundary of every effect, lets the next run end it, and audits.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(flatten)]
    output: Output,
    /// Try every second stop inside every recovery, not only some
    #[arg(long)]
    full: bool,
    /// Only this operation (may be given several times)
    #[arg(long = "operation")]
    operations: Vec<Row>,
    /// Only this kind (may be given several times)
    #[arg(long = "kind")]
    kinds: Vec<Kind>,
    /// Only this boundary: before:N or after:N
    #[arg(long)]
    at: Option<Boundary>,
    /// Only this boundary of the recovery
    #[arg(long)]
    again: Option<Boundary>,
}

fn main() -> ExitCode {
    let Arguments { output, full, operations, kinds, at, again } = Arguments::parse();
    let selection = Selection {
        operations: if operations.is_empty() { Row::all() } else { operations },
        kinds: if kinds.is_empty() { Kind::all().to_vec() } else { kinds },
        reach: if full { Reach::Full } else { Reach::Usual },
        at,
        again,
    };
    let progress = Progress::on_stderr();
    let matrix = crash::run(&selection, &progress);
    progress.finish();
    output.end("the matrix", matrix)
}
