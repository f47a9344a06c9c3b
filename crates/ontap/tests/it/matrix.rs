//! The contract over every release, personality and scope of account that is served: one test per cell. All accounts have
//! exactly the roles that are shipped.

use san_sim::ontap::{ClusterView, Hidden, NodeView, OntapConfig as SimConfig, Personality, Version};

use crate::fixture::{Fixture, NEW, cluster_role, svm_account};

/// One kind of array and account.
#[derive(Clone, Copy)]
struct Cell {
    version: Version,
    personality: Personality,
    account: fn(&mut SimConfig),
}

san_contract::array_contract!(every_clause(cell: Cell) => Fixture::with(cell.version, |it| {
    it.personality = cell.personality;
    (cell.account)(it);
}));

/// The cells of one release.
macro_rules! release {
    ($name:ident, $version:expr) => {
        mod $name {
            use super::*;

            #[tokio::test(start_paused = true)]
            async fn fas_aff_with_an_account_of_the_cluster() {
                every_clause(cell($version, Personality::Unified, cluster_role)).await;
            }

            #[tokio::test(start_paused = true)]
            async fn fas_aff_with_an_account_of_the_svm() {
                every_clause(cell($version, Personality::Unified, svm_account)).await;
            }

            #[tokio::test(start_paused = true)]
            async fn asa_with_an_account_of_the_cluster() {
                every_clause(cell($version, Personality::Asa, cluster_role)).await;
            }

            #[tokio::test(start_paused = true)]
            async fn asa_with_an_account_of_the_svm() {
                every_clause(cell($version, Personality::Asa, svm_account)).await;
            }
        }
    };
}

fn cell(version: Version, personality: Personality, account: fn(&mut SimConfig)) -> Cell {
    Cell { version, personality, account }
}

release!(release_9_8, Version::OLDEST);
release!(release_9_9_1, Version::new(9, 9, 1));
release!(release_9_10_1, Version::new(9, 10, 1));
release!(release_9_11_1, Version::new(9, 11, 1));
release!(release_9_12_1, Version::new(9, 12, 1));
release!(release_9_13_1, Version::new(9, 13, 1));
release!(release_9_14_1, Version::new(9, 14, 1));
release!(release_9_15_1, Version::new(9, 15, 1));
release!(release_9_16_1, Version::new(9, 16, 1));
release!(release_9_17_1, Version::NEWEST);

/// What an SVM's account is not told is not documented: everything works with either.
mod with_an_account_of_the_svm_that {
    use super::*;

    fn sees_nothing_of_the_cluster(it: &mut SimConfig) {
        svm_account(it);
        it.unverified.svm_account_hidden = Hidden::Absent;
        it.unverified.svm_account_nodes = NodeView::Hidden;
        it.unverified.svm_account_cluster = ClusterView::VersionOnly;
    }

    #[tokio::test(start_paused = true)]
    async fn sees_nothing_of_a_new_cluster() {
        every_clause(cell(NEW, Personality::Unified, sees_nothing_of_the_cluster)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn sees_nothing_of_an_old_cluster() {
        every_clause(cell(Version::OLDEST, Personality::Unified, sees_nothing_of_the_cluster)).await;
    }
}
