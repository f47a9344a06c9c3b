//! The contract, for the oldest and the newest release that is served, with work that ends at once and work that takes
//! a while, in process and over HTTPS.

mod release_9_12_1 {
    use crate::fixture::{Fixture, OLD};
    san_contract::array_contract!(Fixture::new(OLD));
}

mod release_9_16_1 {
    use crate::fixture::{Fixture, NEW};
    san_contract::array_contract!(Fixture::new(NEW));
}

mod with_jobs {
    use std::time::Duration;

    use crate::fixture::{Fixture, NEW};
    san_contract::array_contract!(Fixture::with(NEW, |it| it.pace.job = Duration::from_millis(30)));
}

/// Where a clone does not take the mark it is made with.
mod with_unmarked_clones {
    use san_sim::ontap::CloneComment;

    use crate::fixture::{Fixture, NEW};
    san_contract::array_contract!(
        Fixture::with(NEW, |it| it.unverified.clone_comment = CloneComment::OfParent)
    );
}

mod over_https {
    use crate::fixture::{Fixture, NEW};
    san_contract::array_contract!(Fixture::over_https(NEW));
}
