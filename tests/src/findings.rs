//! How the programs that try out and measure end, all alike: what they found goes to standard output, and the exit code
//! says whether it is good.

use std::process::ExitCode;

use clap::Args;
use san_core::Result;
use serde_json::{Value, json};

/// What such a program found.
pub trait Findings {
    /// Whether everything is as it must be, and enough of it was looked at.
    fn is_good(&self) -> bool;

    /// For programs: keys are only ever added.
    fn to_json(&self) -> Value;

    /// For people, ending with the verdict.
    fn to_text(&self) -> String;
}

/// How it is printed.
#[derive(Debug, Clone, Copy, Args)]
pub struct Output {
    /// Print one JSON document and nothing else on standard output
    #[arg(long)]
    pub json: bool,
}

impl Output {
    /// Prints what was found, or why `what` could not be run, and says how the program ends.
    pub fn end<F: Findings>(self, what: &str, found: Result<F>) -> ExitCode {
        match found {
            Ok(found) => {
                say(&if self.json { format!("{:#}", found.to_json()) } else { found.to_text() });
                if found.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
            }
            Err(error) => {
                let error = format!("{what} could not be run: {error:?}");
                if self.json {
                    say(&json!({ "format": 1, "ok": false, "error": error }).to_string());
                } else {
                    complain(&error);
                }
                ExitCode::FAILURE
            }
        }
    }
}

/// Prints one line for whoever asked.
#[expect(clippy::print_stdout, reason = "a command line tool speaks on its terminal")]
pub fn say(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "a command line tool speaks on its terminal")]
fn complain(text: &str) {
    eprintln!("{text}");
}
