//! Inside the machine: the groups of checks, and what runs them.

pub mod array;
pub mod bystander;
mod check;
pub mod daemons;
mod device;
pub mod direct;
mod fabrics;
mod figures;
mod handover;
mod hostconfig;
mod hung;
pub mod ledger;
mod life;
pub mod machine;
pub mod network;
pub mod node;
mod plane;
mod prior;
mod record;
mod roads;
pub mod scenarios;
pub mod scratch;
pub mod secrets;
pub mod site;
mod smoke;
pub mod tools;
mod transport;
pub mod udev;

pub mod watched;

pub use check::{Check, Failure, Group, Machines, Play, REBOOT, Recorder, Running, Shown, run};

/// Every group there is.
pub fn groups() -> Vec<Group> {
    let mut groups = vec![
        device::group(),
        transport::group(),
        plane::group(),
        life::group(),
        figures::group(),
        smoke::group(),
        handover::group(),
        fabrics::group(),
        hostconfig::group(),
        hostconfig::boot_group(),
        record::group(),
        roads::group(),
    ];
    groups.extend(scenarios::groups());
    groups
}
