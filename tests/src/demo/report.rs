//! What the demo showed, for people and for programs.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use san_core::Result;
use serde::Serialize;
use serde_json::{Value, json};

use super::stage::{Counts, Stage};
use super::story::Step;
use super::{REAL, SIMULATED};
use crate::findings::Findings;

/// One step.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepReport {
    /// A name for programs that stays.
    pub id: &'static str,
    /// What was done, for people.
    pub title: &'static str,
    /// Requests the array got meanwhile.
    pub array_requests: usize,
    /// Programs started on the nodes meanwhile.
    pub processes_started: u64,
    /// How long it took, with everything that was written and compared.
    pub milliseconds: u64,
    /// What was seen.
    pub result: Option<String>,
    /// What was wrong.
    pub error: Option<String>,
}

impl StepReport {
    pub(super) fn new(step: Step, counts: Counts, took: Duration, result: Result<String>) -> Self {
        let (result, error) = match result {
            Ok(seen) => (Some(seen), None),
            Err(error) => (None, Some(error.chain().to_string())),
        };
        Self {
            id: step.id(),
            title: step.title(),
            array_requests: counts.requests,
            processes_started: counts.processes,
            milliseconds: millis(took),
            result,
            error,
        }
    }

    /// The step in one line.
    pub(super) fn line(&self) -> String {
        match (&self.error, &self.result) {
            (Some(error), _) => format!("FAILED  {}: {error}", self.title),
            (None, seen) => format!("ok      {}: {}", self.title, seen.as_deref().unwrap_or_default()),
        }
    }
}

/// Everything.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    steps: Vec<StepReport>,
    planned: usize,
    findings: Vec<String>,
    handshakes: u64,
    requests: usize,
    took: Duration,
}

impl Report {
    pub(super) fn new(steps: Vec<StepReport>, findings: Vec<String>, stage: &Stage, took: Duration) -> Self {
        Self {
            steps,
            planned: Step::ALL.len(),
            findings,
            handshakes: stage.handshakes(),
            requests: stage.counts().requests,
            took,
        }
    }

    pub(super) fn conclude(&mut self, findings: Vec<String>) {
        self.findings = findings;
    }

    fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["operation", "array requests", "processes", "time"]);
        for it in &self.steps {
            let failed = if it.error.is_some() { " (FAILED)" } else { "" };
            table.add_row([
                format!("{}{failed}", it.title),
                it.array_requests.to_string(),
                it.processes_started.to_string(),
                format!("{} ms", it.milliseconds),
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        table
    }
}

impl Findings for Report {
    fn is_good(&self) -> bool {
        self.steps.len() == self.planned
            && self.steps.iter().all(|it| it.error.is_none())
            && self.findings.is_empty()
    }

    fn to_json(&self) -> Value {
        json!({
            "format": 1,
            "simulated": SIMULATED,
            "real": REAL,
            "steps": self.steps,
            "steps_planned": self.planned,
            "array_requests": self.requests,
            "tls_handshakes": self.handshakes,
            "milliseconds": millis(self.took),
            "audit": { "is_empty": self.findings.is_empty(), "findings": self.findings },
            "ok": self.is_good(),
        })
    }

    fn to_text(&self) -> String {
        let mut lines = vec![self.table().trim_fmt(), String::new()];
        let (requests, handshakes, seconds) = (self.requests, self.handshakes, self.took.as_secs_f64());
        lines.push(format!(
            "{requests} array requests over {handshakes} TLS handshakes, {seconds:.1} s in all."
        ));
        if self.findings.is_empty() {
            lines.push(
                "Audit: empty. No object, mapping, leg, map, link or record is left over; nobody else's was touched."
                    .to_owned(),
            );
        } else {
            lines.push("Audit:".to_owned());
            lines.extend(self.findings.iter().map(|it| format!("  {it}")));
        }
        for it in &self.steps {
            lines.extend(it.error.as_ref().map(|error| format!("FAILED: {}: {error}", it.title)));
        }
        if self.steps.len() < self.planned {
            let missing = self.planned - self.steps.len();
            lines.push(format!("{missing} of {} steps were not played.", self.planned));
        }
        let verdict = if self.is_good() { "All checks held." } else { "The demo FAILED." };
        lines.push(verdict.to_owned());
        lines.join("\n")
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
