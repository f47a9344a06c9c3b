//! What was measured, held against the budgets, for people and for programs.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use san_core::{Error, ErrorKind, Result};
use serde::Serialize;
use serde_json::{Value, json};

use super::budgets::{Budget, Operation};
use super::operations::{Cell, Sample};
use crate::findings::Findings;

/// A measure beside the counts, with its limit.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Limit {
    what: String,
    measured: f64,
    at_most: f64,
}

/// How an operation's time depends on the array's.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
struct Timing {
    /// Round trips to the array that follow one another.
    critical_path: f64,
    milliseconds_at_5_ms: f64,
    milliseconds_at_50_ms: f64,
    /// Its time over that of its round trips alone; absent where there is none.
    ratio_at_5_ms: Option<f64>,
    ratio_at_50_ms: Option<f64>,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    operation: String,
    nodes: Option<usize>,
    volumes: Option<usize>,
    attached: Option<usize>,
    requests: usize,
    requests_at_most: Option<usize>,
    processes: u64,
    processes_at_most: Option<u64>,
    #[serde(flatten)]
    timing: Option<Timing>,
    limits: Vec<Limit>,
    notes: Vec<String>,
    ok: bool,
}

impl Row {
    pub(super) fn counted(operation: &str, requests: usize, processes: u64) -> Self {
        Self {
            operation: operation.to_owned(),
            nodes: None,
            volumes: None,
            attached: None,
            requests,
            requests_at_most: None,
            processes,
            processes_at_most: None,
            timing: None,
            limits: Vec::new(),
            notes: Vec::new(),
            ok: true,
        }
    }

    pub(super) fn require(&mut self, budget: Budget) {
        self.requests_at_most = budget.requests;
        self.processes_at_most = budget.processes;
        self.ok &= budget.requests.is_none_or(|it| self.requests <= it)
            && budget.processes.is_none_or(|it| self.processes <= it);
    }

    pub(super) fn limit(&mut self, what: &str, measured: Duration, at_most: Duration) {
        self.ok &= measured < at_most;
        let what = format!("{what} (ms)");
        self.limits.push(Limit {
            what,
            measured: rounded(milliseconds(measured)),
            at_most: milliseconds(at_most),
        });
    }

    pub(super) fn bound(&mut self, what: &str, measured: u64, at_most: u64) {
        self.ok &= measured <= at_most;
        #[expect(clippy::cast_precision_loss, reason = "counts and KiB stay far below 2^52")]
        let limit = Limit { what: what.to_owned(), measured: measured as f64, at_most: at_most as f64 };
        self.limits.push(limit);
    }

    pub(super) fn note(&mut self, text: &str) {
        self.notes.push(text.to_owned());
    }

    fn cells(&self) -> [String; 8] {
        let allowed = |count: String, most: Option<String>| match most {
            Some(most) => format!("{count} of {most}"),
            None => count,
        };
        let timing = |show: fn(&Timing) -> Option<f64>| {
            self.timing.as_ref().and_then(show).map_or_else(|| "-".to_owned(), |it| format!("{it:.2}"))
        };
        let limits = self.limits.iter().map(|it| format!("{}: {} of {}", it.what, it.measured, it.at_most));
        [
            self.operation.clone(),
            allowed(self.requests.to_string(), self.requests_at_most.map(|it| it.to_string())),
            allowed(self.processes.to_string(), self.processes_at_most.map(|it| it.to_string())),
            timing(|it| Some(it.critical_path)),
            timing(|it| it.ratio_at_5_ms),
            timing(|it| it.ratio_at_50_ms),
            limits.chain(self.notes.iter().cloned()).collect::<Vec<_>>().join("\n"),
            if self.ok { "ok" } else { "MISSED" }.to_owned(),
        ]
    }
}

/// The rows of one cell, from the same work at two latencies.
///
/// # Errors
/// Where the two runs did not do the same work.
pub(super) fn compare(
    cell: Cell,
    short: &[(Operation, Sample)],
    long: &[(Operation, Sample)],
) -> Result<Vec<Row>> {
    let one = |samples: &[(Operation, Sample)]| {
        samples.iter().find(|(it, _)| *it == Operation::Ask).map(|(_, it)| it.took)
    };
    let (Some(low), Some(high)) = (one(short), one(long)) else {
        return Err(Error::new(ErrorKind::Internal, "the latency itself was not measured"));
    };
    let pair = |((operation, short), (same, long)): (&(Operation, Sample), &(Operation, Sample))| {
        let counts = |it: &Sample| (it.requests, it.processes);
        if operation != same || counts(short) != counts(long) {
            let message =
                format!("{} costs {short:?} at one latency and {long:?} at another", operation.title());
            return Err(Error::new(ErrorKind::Internal, message));
        }
        let mut row = Row {
            nodes: Some(cell.nodes),
            volumes: Some(cell.volumes),
            attached: Some(cell.attached),
            timing: Some(Timing::of([short.took, long.took], [low, high])),
            ..Row::counted(operation.title(), short.requests, short.processes)
        };
        row.require(operation.budget());
        Ok(row)
    };
    short.iter().zip(long).map(pair).collect()
}

impl Timing {
    /// From the time of the operation, and of one request, at both latencies.
    fn of(took: [Duration; 2], round_trip: [Duration; 2]) -> Self {
        let [short, long] = took.map(milliseconds);
        let [low, high] = round_trip.map(milliseconds);
        let round_trips = (long - short) / (high - low);
        // An operation that does not wait for the array has no ratio.
        let ratio = |took: f64, one: f64| (round_trips > 0.5).then(|| rounded(took / (round_trips * one)));
        Self {
            critical_path: rounded(round_trips),
            milliseconds_at_5_ms: rounded(short),
            milliseconds_at_50_ms: rounded(long),
            ratio_at_5_ms: ratio(short, low),
            ratio_at_50_ms: ratio(long, high),
        }
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn rounded(number: f64) -> f64 {
    (number * 100.0).round() / 100.0
}

/// Rows that were measured together.
#[derive(Debug, Clone, PartialEq)]
pub struct Part {
    /// In words for people.
    pub title: String,
    /// How long measuring took.
    pub took: Duration,
    /// The rows.
    pub rows: Vec<Row>,
}

/// Everything.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    parts: Vec<Part>,
}

impl Report {
    pub(super) fn add(&mut self, part: Part) {
        self.parts.push(part);
    }

    fn missed(&self) -> usize {
        self.parts.iter().flat_map(|it| &it.rows).filter(|it| !it.ok).count()
    }
}

impl Findings for Report {
    fn is_good(&self) -> bool {
        self.missed() == 0 && !self.parts.is_empty()
    }

    fn to_json(&self) -> Value {
        let parts: Vec<Value> = self
            .parts
            .iter()
            .map(|it| {
                json!({
                    "title": it.title,
                    "seconds": rounded(it.took.as_secs_f64()),
                    "rows": it.rows,
                })
            })
            .collect();
        json!({ "format": 1, "parts": parts, "missed": self.missed(), "ok": self.is_good() })
    }

    fn to_text(&self) -> String {
        let mut lines = vec![
            "\"2 of 2\": measured, and the budget. Round trips: those to the array that follow one another."
                .to_owned(),
            "Ratio: the operation's time over that of its round trips alone, at 5 and at 50 ms each."
                .to_owned(),
        ];
        for part in &self.parts {
            lines.push(format!("\n{}", part.title));
            lines.push(table(&part.rows).trim_fmt());
        }
        let mut slowest: Vec<&Part> = self.parts.iter().collect();
        slowest.sort_by_key(|it| std::cmp::Reverse(it.took));
        lines.push("\nSlowest to measure:".to_owned());
        lines.extend(
            slowest.iter().take(3).map(|it| format!("  {:5.1} s  {}", it.took.as_secs_f64(), it.title)),
        );
        lines.push(match self.missed() {
            0 => "All budgets are met.".to_owned(),
            missed => format!("{missed} budgets are MISSED."),
        });
        lines.join("\n")
    }
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    let mut header = vec![
        "operation",
        "requests",
        "processes",
        "round trips",
        "ratio, 5 ms",
        "ratio, 50 ms",
        "further",
        "",
    ];
    // Columns that hold nothing in any row only make the table wide.
    let has_timing = rows.iter().any(|it| it.timing.is_some());
    let has_more = rows.iter().any(|it| !it.limits.is_empty() || !it.notes.is_empty());
    let shown = |column: usize| match column {
        3..=5 => has_timing,
        6 => has_more,
        _ => true,
    };
    let mut column = 0;
    header.retain(|_| {
        column += 1;
        shown(column - 1)
    });
    table.set_header(header);
    for row in rows {
        let cells = row.cells().into_iter().enumerate().filter(|(column, _)| shown(*column));
        table.add_row(cells.map(|(_, text)| text));
    }
    for column in table.column_iter_mut().skip(1).take(if has_timing { 5 } else { 2 }) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_over_its_limit_is_missed() {
        let row = || Row::counted("x", 2, 0);
        let mut good = row();
        good.require(Budget::of(2));
        good.bound("y", 3, 3);
        let mut too_many = row();
        too_many.require(Budget::of(1));
        let mut program = Row::counted("x", 0, 1);
        program.require(Budget::of(0));
        let mut slow = row();
        slow.limit("y", Duration::from_millis(10), Duration::from_millis(10));
        let mut large = row();
        large.bound("y", 4, 3);
        let report = |row| {
            let mut report = Report::default();
            report.add(Part { title: "p".to_owned(), took: Duration::ZERO, rows: vec![row] });
            report
        };
        assert!(report(good).is_good());
        for row in [too_many, program, slow, large] {
            assert!(!report(row.clone()).is_good(), "{row:?}");
        }
        assert!(!Report::default().is_good());
    }
}
