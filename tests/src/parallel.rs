//! Work side by side: one thread for each processor, and on each its own runtime whose clock jumps over every wait.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use san_core::{Error, ErrorKind, Result};

/// Runs on a clock that jumps over every wait, so that latencies cost nothing.
pub fn paused<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    runtime(tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true))?.block_on(work)
}

/// Runs on the real clock.
pub(crate) fn real<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    runtime(tokio::runtime::Builder::new_multi_thread().enable_all())?.block_on(work)
}

fn runtime(builder: &mut tokio::runtime::Builder) -> Result<tokio::runtime::Runtime> {
    builder
        .build()
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot start the runtime").caused_by(error))
}

/// Does `work` for each of `units`, as many at once as there are processors. The results are in the order of the units;
/// a panic is an error of its unit. `ended` is told after each.
pub fn for_each<U: Sync, T: Send>(
    units: &[U],
    work: impl Fn(&U) -> Result<T> + Sync,
    ended: &(dyn Fn() + Sync),
) -> Vec<Result<T>> {
    let next = AtomicUsize::new(0);
    let results: Mutex<Vec<Option<Result<T>>>> = Mutex::new(units.iter().map(|_| None).collect());
    let workers = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(unit) = units.get(at) else { return };
                    let result = catch_unwind(AssertUnwindSafe(|| work(unit)))
                        .unwrap_or_else(|panic| Err(panicked(panic.as_ref())));
                    results.lock().unwrap_or_else(PoisonError::into_inner)[at] = Some(result);
                    ended();
                }
            });
        }
    });
    let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.into_iter().map(|it| it.unwrap_or_else(|| Err(panicked(&"it was never tried")))).collect()
}

fn panicked(panic: &(dyn std::any::Any + Send)) -> Error {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without words");
    Error::new(ErrorKind::Internal, text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_keep_their_order_and_a_panic_is_one_of_them() {
        let units: Vec<usize> = (0..20).collect();
        let told = AtomicUsize::new(0);
        let work = |it: &usize| {
            assert_ne!(*it, 7, "seven");
            Ok(it * 2)
        };
        let ended = || {
            told.fetch_add(1, Ordering::Relaxed);
        };
        let results = for_each(&units, work, &ended);
        assert_eq!(told.into_inner(), 20);
        for (at, result) in results.into_iter().enumerate() {
            match result {
                Ok(it) => assert_eq!(it, at * 2),
                Err(error) => assert!(at == 7 && error.message().contains("seven"), "{at}: {error:?}"),
            }
        }
    }
}
