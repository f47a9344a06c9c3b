//! Runs futures side by side in the caller's task, so that dropping the caller drops all of them.

use std::future::{Future, poll_fn};
use std::task::Poll;

/// The outputs of all `futures`, in their order.
pub(crate) async fn join_all<T, F: Future<Output = T>>(futures: impl IntoIterator<Item = F>) -> Vec<T> {
    let mut running: Vec<_> = futures.into_iter().map(|it| (Box::pin(it), None)).collect();
    poll_fn(|cx| {
        for (future, output) in running.iter_mut().filter(|(_, output)| output.is_none()) {
            if let Poll::Ready(it) = future.as_mut().poll(cx) {
                *output = Some(it);
            }
        }
        if running.iter().all(|(_, output)| output.is_some()) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    running.into_iter().filter_map(|(_, output)| output).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn all_run_at_once_and_answer_in_order() {
        let start = tokio::time::Instant::now();
        let naps = [3, 1, 2].map(|n| async move {
            tokio::time::sleep(Duration::from_secs(n)).await;
            n
        });
        assert_eq!(join_all(naps).await, [3, 1, 2]);
        assert_eq!(start.elapsed(), Duration::from_secs(3));
        assert_eq!(join_all(Vec::<std::future::Ready<u8>>::new()).await, [0_u8; 0]);
    }
}
