//! Failure scenarios on the kernel's own iSCSI target: identity, attach, outages, detach, and many things at once.

mod attach;
pub mod bench;
mod calls;
mod crowd;
mod detach;
mod identity;
mod io;
mod outage;
mod play;
mod scale;
mod sessions;
mod stock;
mod tools;

use super::Group;

/// The groups of scenarios.
pub fn groups() -> Vec<Group> {
    vec![
        identity::group(),
        attach::group(),
        sessions::group(),
        outage::group(),
        detach::group(),
        scale::group(),
        calls::group(),
    ]
}
