//! Telling a person how far the demo is.

use std::io::{IsTerminal, Write};
use std::time::Duration;

use indicatif::ProgressBar;

use super::StepReport;

/// Where progress goes: to standard error, never among the results.
#[derive(Debug)]
pub enum Progress {
    /// A terminal: a spinner on the step that runs.
    Terminal(ProgressBar),
    /// A line for each step.
    Lines,
    /// Nowhere: a program reads the results.
    Silent,
}

impl Progress {
    /// What standard error can show.
    pub fn on_stderr() -> Self {
        if std::io::stderr().is_terminal() {
            let spinner = ProgressBar::new_spinner();
            spinner.enable_steady_tick(Duration::from_millis(100));
            Self::Terminal(spinner)
        } else {
            Self::Lines
        }
    }

    pub(super) fn begin(&self, title: &str) {
        if let Self::Terminal(spinner) = self {
            spinner.set_message(title.to_owned());
        }
    }

    pub(super) fn end(&self, step: &StepReport) {
        let line = step.line();
        match self {
            Self::Terminal(spinner) => spinner.println(line),
            // A closed standard error is no reason to stop.
            Self::Lines => drop(writeln!(std::io::stderr(), "{line}")),
            Self::Silent => {}
        }
    }

    /// Takes the spinner away.
    pub fn finish(&self) {
        if let Self::Terminal(spinner) = self {
            spinner.finish_and_clear();
        }
    }
}
