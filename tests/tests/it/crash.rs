//! A sample of the crash matrix, with every single stop in it, and what no matrix shows.

use std::sync::Arc;

use san_core::{Effects, Visibility};
use sanbridge_tests::crash::{Kind, Reach, Selection, Side, Stopper, run, undisturbed};
use sanbridge_tests::findings::Findings;
use sanbridge_tests::matrix::Progress;
use sanbridge_tests::operation::{Operation, Row};
use sanbridge_tests::site::Site;

use crate::support::{DISK, SIZE};

/// `cargo xtask crash` tries more of it, and shows it.
#[test]
fn the_crash_matrix_has_no_hole() {
    let selection = Selection {
        operations: Row::all(),
        kinds: Kind::all().to_vec(),
        reach: Reach::Sample,
        at: None,
        again: None,
    };
    let matrix = run(&selection, &Progress::Silent).unwrap();
    assert!(matrix.is_good(), "{}", matrix.to_text());
}

/// A delete stops when the array has removed the disk. Its name is made anew elsewhere, with and without what the cluster
/// knew of the old one; the recovery must not take the new disk for it.
#[tokio::test(start_paused = true)]
async fn a_delete_taken_up_late_spares_the_next_disk_of_that_name() {
    for forget in [false, true] {
        let mut site = Site::started(2).await.unwrap();
        site.node(0).create(DISK, SIZE).await.unwrap();
        if forget {
            std::fs::remove_dir_all(site.cluster_folder().join("volumes")).unwrap();
        }
        let plain =
            undisturbed(Row { operation: Operation::Delete, visibility: Visibility::PerNode }).await.unwrap();
        let at = plain.effects.iter().position(|it| it.starts_with("DELETE")).unwrap();
        let offset = usize::from(forget);
        let stopper = Stopper::new(Some((at + offset, Side::After)));
        let array = Arc::new(site.connect(stopper.effects()).await.unwrap());
        site.kill(0);
        site.start_with(0, stopper.effects(), array).await.unwrap();
        tokio::select! {
            biased;
            () = stopper.reached() => {}
            done = site.node(0).delete(DISK) => panic!("never reached: {done:?} {:?}", stopper.passed()),
        }
        assert!(stopper.passed().last().unwrap().starts_with("DELETE"), "{:?}", stopper.passed());
        site.kill(0);
        site.expire_leases().unwrap();
        site.node(1).create(DISK, SIZE).await.unwrap();
        let path = site.node(1).attach(DISK).await.unwrap();
        site.node(1).write(&path, 0, b"newer").await.unwrap();
        site.node(1).detach(DISK).await.unwrap();
        assert_eq!(site.start(0, Effects::unobserved()).await.unwrap(), 0);
        let path = site.node(0).attach(DISK).await.unwrap();
        assert_eq!(site.node(0).read(&path, 0, 5).await.unwrap(), b"newer");
    }
}
