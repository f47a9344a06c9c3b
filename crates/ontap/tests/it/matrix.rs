//! The contract over every release and personality that is served: one test per cell.

use san_sim::ontap::{Personality, Version};

use crate::fixture::Fixture;

/// One kind of array.
#[derive(Clone, Copy)]
struct Cell {
    version: Version,
    personality: Personality,
}

san_contract::array_contract!(every_clause(cell: Cell) => Fixture::of(cell.version, cell.personality));

/// The cells of one release.
macro_rules! release {
    ($name:ident, $version:expr) => {
        mod $name {
            use super::*;

            #[tokio::test(start_paused = true)]
            async fn fas_aff() {
                every_clause(Cell { version: $version, personality: Personality::Unified }).await;
            }

            #[tokio::test(start_paused = true)]
            async fn asa() {
                every_clause(Cell { version: $version, personality: Personality::Asa }).await;
            }
        }
    };
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
