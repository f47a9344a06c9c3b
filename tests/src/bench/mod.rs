//! The bench: what each operation costs in array requests, processes and round trips, held against the budgets.

mod budgets;
mod daemon;
mod listing;
mod operations;
mod parallel;
mod report;

use std::time::{Duration, Instant};

use san_core::{Error, ErrorKind, Result};
use san_host::Host;

pub use budgets::Operation;
pub use operations::{Cell, Sample};
pub use report::{Part, Report, Row};

use crate::parallel::{paused, real};
use crate::site::Site;

/// The two latencies between which a round trip shows.
pub(crate) const LATENCIES: [Duration; 2] = [Duration::from_millis(5), Duration::from_millis(50)];

/// Where the operations are measured. The second is what the budgets speak of; the others show that nothing grows.
pub const CELLS: [Cell; 3] = [
    Cell { nodes: 1, volumes: 100, attached: 32 },
    Cell { nodes: 3, volumes: 1_000, attached: 16 },
    Cell { nodes: 16, volumes: 10_000, attached: 4 },
];

/// Measures everything. `progress` is told what begins.
pub fn run(progress: &mut dyn FnMut(&str)) -> Result<Report> {
    let mut report = Report::default();
    for cell in CELLS {
        part(&mut report, progress, &format!("operations, {cell}"), || {
            let [short, long] = side_by_side(|latency| paused(operations::measure(cell, latency)));
            report::compare(cell, &short?, &long?)
        })?;
    }
    part(&mut report, progress, "the daemon, asked by PVE", || real(daemon::measure()))?;
    part(&mut report, progress, "a list of 10,000 disks", || paused(listing::measure(10_000)))?;
    for naming in [parallel::Names::Exact, parallel::Names::Numbered] {
        let title = format!("100 creates at once from three nodes, {naming}");
        part(&mut report, progress, &title, || paused(parallel::measure(naming)))?;
    }
    Ok(report)
}

/// The rows of one cell without any latency: the counts alone, for tests.
pub async fn counts(cell: Cell) -> Result<Vec<(Operation, Sample)>> {
    operations::measure(cell, Duration::ZERO).await
}

fn part(
    report: &mut Report,
    progress: &mut dyn FnMut(&str),
    title: &str,
    measure: impl FnOnce() -> Result<Vec<Row>>,
) -> Result<()> {
    progress(title);
    let begun = Instant::now();
    let rows = measure().map_err(|error| Error::wrap(error, title.to_owned()))?;
    report.add(Part { title: title.to_owned(), took: begun.elapsed(), rows });
    Ok(())
}

/// The same work at both latencies, each on a thread of its own.
fn side_by_side<T: Send>(work: impl Fn(Duration) -> Result<T> + Sync) -> [Result<T>; 2] {
    let died = |_| Err(Error::new(ErrorKind::Internal, "a measurement panicked"));
    std::thread::scope(|scope| {
        let running = LATENCIES.map(|latency| {
            scope.spawn({
                let work = &work;
                move || work(latency)
            })
        });
        running.map(|it| it.join().unwrap_or_else(died))
    })
}

/// Programs started on all nodes so far.
pub(crate) fn processes(site: &Site) -> u64 {
    (0..site.nodes()).map(|it| site.node(it).host.counters().processes).sum()
}

/// Requests the array got since `mark`.
pub(crate) fn requests(site: &Site, mark: san_sim::ontap::Mark) -> usize {
    site.array.counts(mark).values().sum()
}
