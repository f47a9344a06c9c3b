//! The crash matrix: every operation disturbed at every boundary of every effect, ended by the next run, audited.

mod cells;
mod stopper;

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;
use san_core::{Error, ErrorKind, Result};

pub use cells::{Undisturbed, undisturbed};
pub use stopper::{Side, Stopper};

use crate::matrix::{Hole, Matrix, Progress, Tally};
use crate::operation::Row;
use crate::parallel;

/// What happens at a boundary.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// The daemon is killed; the next one ends what it left.
    Stopped,
    /// The next one is killed too, somewhere in that.
    StoppedAgain,
    /// The caller goes away while the daemon lives.
    CallerGone,
    /// The node loses power; it starts again without what its kernel knew.
    PowerLost,
    /// The node never comes back; the other one takes over.
    NodeLost,
}

/// How many of the cells are tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Every single stop; of the others so many that the suite stays short.
    Sample,
    /// Every boundary once for each kind; of the second stops some.
    Usual,
    /// Every one. The second stops alone are some ten thousand.
    Full,
}

impl Kind {
    /// All of them.
    pub fn all() -> &'static [Self] {
        Self::value_variants()
    }

    fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |it| it.get_name().to_owned())
    }

    /// Every so many-th boundary is tried, and of its recovery every so many-th.
    fn strides(self, reach: Reach) -> (usize, usize) {
        match (self, reach) {
            (Self::StoppedAgain, Reach::Sample | Reach::Usual) => (9, 7),
            (Self::PowerLost, Reach::Sample) => (5, 1),
            (Self::CallerGone | Self::NodeLost, Reach::Sample) => (6, 1),
            _ => (1, 1),
        }
    }
}

/// A place between two effects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Boundary {
    /// The number of the effect, from 0.
    pub number: usize,
    /// Which side of it.
    pub side: Side,
}

impl fmt::Display for Boundary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.side == Side::Before { "before" } else { "after" };
        write!(f, "{side}:{}", self.number)
    }
}

impl FromStr for Boundary {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (side, number) = text.split_once(':').ok_or("a boundary is before:<number> or after:<number>")?;
        let number = number.parse().map_err(|error| format!("{number}: {error}"))?;
        Ok(Self { number, side: Side::from_str(side, false)? })
    }
}

/// Which cells to try.
#[derive(Debug, Clone)]
pub struct Selection {
    /// Of which operations.
    pub operations: Vec<Row>,
    /// What happens to them.
    pub kinds: Vec<Kind>,
    /// How many.
    pub reach: Reach,
    /// This boundary alone.
    pub at: Option<Boundary>,
    /// This boundary of the recovery alone.
    pub again: Option<Boundary>,
}

/// All cells that share a boundary.
#[derive(Debug)]
struct Unit {
    /// Its place in the selection.
    operation: usize,
    /// Its place in the selection.
    kind: usize,
    at: Boundary,
}

/// Tries the selected cells on all processors.
///
/// # Errors
/// Where an operation does not even work undisturbed.
pub fn run(selection: &Selection, progress: &Progress) -> Result<Matrix> {
    let operations = &selection.operations;
    progress.begin(operations.len());
    let plain = parallel::for_each(operations, |it| parallel::paused(undisturbed(*it)), &|| progress.ended());
    let plain: Vec<Undisturbed> = plain.into_iter().collect::<Result<_>>()?;
    let units = units(selection, &plain)?;
    progress.begin(units.len());
    let work = |unit: &Unit| parallel::paused(tried(selection, unit, &plain[unit.operation]));
    let tallies = parallel::for_each(&units, work, &|| progress.ended());
    let names = operations.iter().map(|it| it.name()).collect();
    let mut matrix = Matrix::new("crash", names, selection.kinds.iter().map(|it| it.name()).collect());
    for (unit, tally) in units.iter().zip(tallies) {
        let tally = tally.unwrap_or_else(|error| Tally {
            cells: 1,
            holes: vec![hole(selection, unit, None, &plain[unit.operation], vec![format!("{error:?}")])],
            ..Tally::default()
        });
        matrix.add(unit.operation, unit.kind, tally);
    }
    Ok(matrix)
}

fn units(selection: &Selection, plain: &[Undisturbed]) -> Result<Vec<Unit>> {
    let mut units = Vec::new();
    for (operation, plain) in plain.iter().enumerate() {
        if plain.effects.len() < 3 {
            let name = selection.operations[operation].name();
            let message = format!("{name} has hardly any effect: {:?}", plain.effects);
            return Err(Error::new(ErrorKind::Internal, message));
        }
        let both = |number| [Side::Before, Side::After].map(|side| Boundary { number, side });
        let all: Vec<Boundary> = (0..plain.effects.len()).flat_map(both).collect();
        for (kind, of) in selection.kinds.iter().enumerate() {
            // Short operations have few boundaries: more of those are tried.
            let stride = of.strides(selection.reach).0.min(plain.effects.len().div_ceil(4));
            let chosen = match selection.at {
                Some(at) => vec![at],
                None => all.iter().copied().step_by(stride).collect(),
            };
            units.extend(chosen.into_iter().map(|at| Unit { operation, kind, at }));
        }
    }
    Ok(units)
}

/// Tries the cells of a unit.
async fn tried(selection: &Selection, unit: &Unit, plain: &Undisturbed) -> Result<Tally> {
    let operation = selection.operations[unit.operation];
    let kind = selection.kinds[unit.kind];
    let mut tally = Tally::default();
    let mut count = |again: Option<Boundary>, findings: Vec<String>| {
        tally.cells += 1;
        if !findings.is_empty() {
            tally.holes.push(hole(selection, unit, again, plain, findings));
        }
    };
    match kind {
        Kind::Stopped => count(None, cells::stop_at(operation, unit.at, plain).await?),
        Kind::CallerGone => count(None, cells::leave_at(operation, unit.at, plain).await?),
        Kind::PowerLost => count(None, cells::lose_power_at(operation, unit.at).await?),
        Kind::NodeLost => count(None, cells::lose_node_at(operation, unit.at).await?),
        Kind::StoppedAgain => {
            let stride = kind.strides(selection.reach).1;
            for number in (unit.at.number % stride.min(2)..).step_by(stride) {
                let sides: &[Side] = match (stride, (unit.at.number + number).is_multiple_of(2)) {
                    (1, _) => &[Side::Before, Side::After],
                    (_, true) => &[Side::Before],
                    (_, false) => &[Side::After],
                };
                for side in sides {
                    let again = selection.again.unwrap_or(Boundary { number, side: *side });
                    let Some(found) = cells::stop_twice_at(operation, unit.at, again, plain).await? else {
                        return Ok(tally);
                    };
                    count(Some(again), found);
                    if selection.again.is_some() {
                        return Ok(tally);
                    }
                }
            }
        }
    }
    Ok(tally)
}

fn hole(
    selection: &Selection,
    unit: &Unit,
    again: Option<Boundary>,
    plain: &Undisturbed,
    findings: Vec<String>,
) -> Hole {
    let operation = selection.operations[unit.operation].name();
    let kind = selection.kinds[unit.kind].name();
    let effect = plain.effects.get(unit.at.number).map_or("no effect", String::as_str);
    let (twice, option) = match again {
        Some(it) => (format!(", and {it} of the recovery"), format!(" --again {it}")),
        None => (String::new(), String::new()),
    };
    Hole {
        cell: format!("{operation}, {kind} {} ({effect}){twice}", unit.at),
        repeat: format!("cargo xtask crash --operation {operation} --kind {kind} --at {}{option}", unit.at),
        findings,
    }
}
