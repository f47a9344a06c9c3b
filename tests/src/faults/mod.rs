//! The fault matrix: every operation, disturbed at every request it sends to the array by everything that can happen to a
//! request, once and until it gave up; then the array is mended, and what is left is audited.

mod cell;
mod rules;

use clap::ValueEnum;
use san_core::{Error, ErrorKind, Result};

use crate::matrix::{Hole, Matrix, Progress, Tally};
use crate::operation::Row;
use crate::parallel;
use cell::Undisturbed;

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Trouble {
    /// The connection is refused.
    Refused,
    /// The connection breaks before the request is carried out.
    Reset,
    /// The request is carried out, then the connection breaks.
    AnswerLost,
    /// 500, with an error that says nothing of the object.
    #[value(name = "500")]
    Failing,
    /// 503.
    #[value(name = "503")]
    Unavailable,
    /// 429 with a time to wait.
    #[value(name = "429")]
    Throttled,
    /// 401.
    #[value(name = "401")]
    Unauthorized,
    /// The job it starts ends in failure.
    JobFails,
    /// The job it starts does not end before the array is mended.
    JobNeverEnds,
    /// The job it starts does its work, and is forgotten.
    JobVanishes,
    /// What it makes is missing from the next lists.
    LaggingList,
    /// A list ends with an error in its middle.
    CutList,
    /// Its answer is cut off.
    CutAnswer,
    /// Its answer tells a size that is not the disk's.
    WrongSize,
    /// Its answer tells a serial number that is not the disk's.
    WrongSerial,
    /// Its answer comes shortly before the deadline; where all are slow, each in its time.
    Slow,
    /// It is never answered.
    Hang,
}

/// How often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Often {
    /// This request alone.
    Once,
    /// This one and all that follow, until the operation has ended.
    Always,
}

impl Trouble {
    /// All of them.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |it| it.get_name().to_owned())
    }
}

impl Often {
    /// Both.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Once => "once",
            Self::Always => "always",
        }
    }
}

/// Which cells to try.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Of which operations.
    pub operations: Vec<Row>,
    /// What happens to their requests.
    pub troubles: Vec<Trouble>,
    /// How often.
    pub often: Vec<Often>,
    /// This request alone, from 0.
    pub step: Option<usize>,
}

/// One cell.
#[derive(Debug)]
struct Cell {
    /// Its place in the selection.
    operation: usize,
    /// Its place in the selection.
    trouble: usize,
    often: Often,
    step: usize,
}

/// The same operation on an array whose jobs end at once, and on one whose jobs take their time.
struct Plain {
    quick: Undisturbed,
    slow: Undisturbed,
}

impl Plain {
    fn of(&self, trouble: Trouble) -> &Undisturbed {
        if rules::needs_slow_jobs(trouble) { &self.slow } else { &self.quick }
    }
}

/// Tries the selected cells on all processors.
///
/// # Errors
/// Where an operation does not even work undisturbed.
pub fn run(selection: &Selection, progress: &Progress) -> Result<Matrix> {
    let operations = &selection.operations;
    progress.begin(operations.len());
    let undisturbed = |it: &Row| {
        parallel::paused(async {
            let (quick, slow) = (cell::undisturbed(*it, false).await?, cell::undisturbed(*it, true).await?);
            Ok(Plain { quick, slow })
        })
    };
    let plain = parallel::for_each(operations, undisturbed, &|| progress.ended());
    let plain: Vec<Plain> = plain.into_iter().collect::<Result<_>>()?;
    let names = operations.iter().map(|it| it.name()).collect();
    let mut matrix = Matrix::new("faults", names, selection.troubles.iter().map(|it| it.name()).collect());
    let mut cells = Vec::new();
    for (operation, plain) in plain.iter().enumerate() {
        if plain.quick.requests.is_empty() {
            let message = format!("{} sends nothing to the array", operations[operation].name());
            return Err(Error::new(ErrorKind::Internal, message));
        }
        for (trouble, it) in selection.troubles.iter().enumerate() {
            for (step, request) in plain.of(*it).requests.iter().enumerate() {
                let steps = selection.step.is_none_or(|it| it == step);
                for often in selection.often.iter().filter(|_| steps) {
                    if rules::applies(*it, request) {
                        cells.push(Cell { operation, trouble, often: *often, step });
                    } else {
                        matrix.add(operation, trouble, Tally { not_applicable: 1, ..Tally::default() });
                    }
                }
            }
        }
    }
    progress.begin(cells.len());
    let work = |it: &Cell| {
        let (operation, trouble) = (operations[it.operation], selection.troubles[it.trouble]);
        let plain = plain[it.operation].of(trouble);
        parallel::paused(cell::try_at(operation, trouble, it.often, it.step, plain))
    };
    let found = parallel::for_each(&cells, work, &|| progress.ended());
    for (cell, found) in cells.iter().zip(found) {
        let findings = found.unwrap_or_else(|error| vec![format!("{error:?}")]);
        let plain = plain[cell.operation].of(selection.troubles[cell.trouble]);
        let holes = (!findings.is_empty()).then(|| hole(selection, cell, plain, findings));
        let tally = Tally { cells: 1, not_applicable: 0, holes: holes.into_iter().collect() };
        matrix.add(cell.operation, cell.trouble, tally);
    }
    Ok(matrix)
}

fn hole(selection: &Selection, cell: &Cell, plain: &Undisturbed, findings: Vec<String>) -> Hole {
    let operation = selection.operations[cell.operation].name();
    let trouble = selection.troubles[cell.trouble].name();
    let (often, step) = (cell.often.name(), cell.step);
    let request =
        plain.requests.get(step).map_or_else(String::new, |it| format!("{} {}", it.method, it.path));
    Hole {
        cell: format!("{operation}, {trouble} {often} at request {step} ({request})"),
        repeat: format!(
            "cargo xtask faults --operation {operation} --fault {trouble} --often {often} --step {step}"
        ),
        findings,
    }
}
