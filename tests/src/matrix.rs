//! What a matrix of cells came to: counts by operation and by what was done to it, and every hole with the command that
//! repeats it.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};
use std::sync::atomic::{AtomicU64, Ordering};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};

use crate::findings::Findings;

/// A cell whose promise was not kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Hole {
    /// The cell in words.
    pub cell: String,
    /// The command that repeats it alone.
    pub repeat: String,
    /// What was found.
    pub findings: Vec<String>,
}

/// What some cells of one operation and one disturbance came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Cells tried.
    pub cells: usize,
    /// Cells in which the disturbance means nothing, by a rule in code.
    pub not_applicable: usize,
    /// Those of the tried that failed.
    pub holes: Vec<Hole>,
}

/// All cells of a run.
#[derive(Debug, Clone)]
pub struct Matrix {
    name: &'static str,
    /// By the place of the operation and of the disturbance in their lists.
    tallies: BTreeMap<(usize, usize), Tally>,
    operations: Vec<String>,
    disturbances: Vec<String>,
}

impl Matrix {
    /// An empty one over these operations and disturbances. What stays empty is a hole.
    pub fn new(name: &'static str, operations: Vec<String>, disturbances: Vec<String>) -> Self {
        let places = (0..operations.len()).flat_map(|it| (0..disturbances.len()).map(move |at| (it, at)));
        let tallies = places.map(|it| (it, Tally::default())).collect();
        Self { name, tallies, operations, disturbances }
    }

    /// Counts cells of an operation and a disturbance, each by its place in its list.
    pub fn add(&mut self, operation: usize, disturbance: usize, more: Tally) {
        let tally = self.tallies.entry((operation, disturbance)).or_default();
        tally.cells += more.cells;
        tally.not_applicable += more.not_applicable;
        tally.holes.extend(more.holes);
    }

    /// Cells tried.
    pub fn cells(&self) -> usize {
        self.tallies.values().map(|it| it.cells).sum()
    }

    fn not_applicable(&self) -> usize {
        self.tallies.values().map(|it| it.not_applicable).sum()
    }

    /// Every hole.
    pub fn holes(&self) -> Vec<&Hole> {
        self.tallies.values().flat_map(|it| &it.holes).collect()
    }

    /// Where nothing was tried at all: a matrix that cannot fail.
    fn blanks(&self) -> Vec<String> {
        let empty = self.tallies.iter().filter(|(_, it)| it.cells + it.not_applicable == 0);
        let name = |(operation, at): (usize, usize)| {
            format!("{} x {}", self.operations[operation], self.disturbances[at])
        };
        empty.map(|(place, _)| name(*place)).collect()
    }
}

impl Findings for Matrix {
    fn is_good(&self) -> bool {
        self.cells() > 0 && self.holes().is_empty() && self.blanks().is_empty()
    }

    fn to_json(&self) -> Value {
        let rows: Vec<Value> = self
            .tallies
            .iter()
            .map(|((operation, at), tally)| {
                json!({
                    "operation": self.operations[*operation],
                    "disturbance": self.disturbances[*at],
                    "cells": tally.cells,
                    "not_applicable": tally.not_applicable,
                    "holes": tally.holes,
                })
            })
            .collect();
        json!({
            "format": 1,
            "matrix": self.name,
            "cells": self.cells(),
            "not_applicable": self.not_applicable(),
            "holes": self.holes().len(),
            "blanks": self.blanks(),
            "ok": self.is_good(),
            "rows": rows,
        })
    }

    fn to_text(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        // The longer list goes down, so that the table fits a terminal.
        let is_wide = self.disturbances.len() > self.operations.len();
        let (down, across) = if is_wide {
            (&self.disturbances, &self.operations)
        } else {
            (&self.operations, &self.disturbances)
        };
        table.set_header(std::iter::once("cells").chain(across.iter().map(String::as_str)));
        for (row, title) in down.iter().enumerate() {
            let shown = (0..across.len()).map(|column| {
                let place = if is_wide { (column, row) } else { (row, column) };
                self.tallies.get(&place).map_or_else(String::new, Tally::shown)
            });
            table.add_row(std::iter::once(title.clone()).chain(shown));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = table.trim_fmt();
        for hole in self.holes() {
            let _ = write!(text, "\n\nHOLE: {}\n  {}", hole.cell, hole.findings.join("\n  "));
            let _ = write!(text, "\n  repeat: {}", hole.repeat);
        }
        for blank in self.blanks() {
            let _ = write!(text, "\n\nNOTHING TRIED: {blank}");
        }
        let beside = match self.not_applicable() {
            0 => String::new(),
            some => format!(" ({some} more do not apply)"),
        };
        let _ = write!(text, "\n{} cells{beside}, {} holes.", self.cells(), self.holes().len());
        text
    }
}

impl Tally {
    fn shown(&self) -> String {
        match (self.cells, self.not_applicable, self.holes.len()) {
            (0, 0, _) => "none".to_owned(),
            (0, _, _) => "-".to_owned(),
            (cells, _, 0) => cells.to_string(),
            (cells, _, holes) => format!("{cells}, {holes} HOLES"),
        }
    }
}

/// How far a run is, on standard error and never among the results.
#[derive(Debug)]
pub enum Progress {
    /// A bar on a terminal.
    Bar(ProgressBar),
    /// A line for every twentieth part.
    Lines {
        /// Units that have ended.
        ended: AtomicU64,
        /// Units there are.
        of: AtomicU64,
    },
    /// Nowhere: a test runs.
    Silent,
}

impl Progress {
    /// What standard error can show.
    pub fn on_stderr() -> Self {
        if std::io::stderr().is_terminal() {
            let bar = ProgressBar::no_length();
            if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos} of {len}, {elapsed}") {
                bar.set_style(style);
            }
            Self::Bar(bar)
        } else {
            Self::Lines { ended: AtomicU64::new(0), of: AtomicU64::new(0) }
        }
    }

    /// So many units follow.
    pub fn begin(&self, units: usize) {
        let units = u64::try_from(units).unwrap_or(u64::MAX);
        match self {
            Self::Bar(bar) => bar.inc_length(units),
            Self::Lines { of, .. } => {
                of.fetch_add(units, Ordering::Relaxed);
            }
            Self::Silent => {}
        }
    }

    /// One has ended.
    pub fn ended(&self) {
        match self {
            Self::Bar(bar) => bar.inc(1),
            Self::Lines { ended, of } => {
                let (ended, of) = (ended.fetch_add(1, Ordering::Relaxed) + 1, of.load(Ordering::Relaxed));
                if ended == of || ended.is_multiple_of((of / 20).max(1)) {
                    // A closed standard error is no reason to stop.
                    drop(writeln!(std::io::stderr(), "{ended} of {of}"));
                }
            }
            Self::Silent => {}
        }
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        if let Self::Bar(bar) = self {
            bar.finish_and_clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hole_or_a_blank_is_not_good() {
        let empty = || Matrix::new("test", vec!["a".to_owned()], vec!["x".to_owned(), "y".to_owned()]);
        let tried = || Tally { cells: 2, ..Tally::default() };
        let mut matrix = empty();
        assert!(!matrix.is_good());
        matrix.add(0, 0, tried());
        assert_eq!((matrix.is_good(), matrix.blanks()), (false, vec!["a x y".to_owned()]));
        matrix.add(0, 1, Tally { not_applicable: 1, ..Tally::default() });
        assert!(matrix.is_good());
        let hole = Hole { cell: "c".to_owned(), repeat: "again".to_owned(), findings: vec!["f".to_owned()] };
        matrix.add(0, 1, Tally { cells: 1, holes: vec![hole], ..Tally::default() });
        assert!(!matrix.is_good());
        assert!(matrix.to_text().contains("repeat: again"));
        assert_eq!(matrix.to_json()["holes"], 1);
    }
}
