//! Simulated Linux hosts: a [`World`] of nodes and arrays, each [`SimNode`] a [`san_host::Host`].
//!
//! A node behaves as the parts of Linux, open-iscsi, udev and multipath-tools that attaching a volume needs, in their
//! good days and in their bad ones. All of its state is one value behind one lock; what happens later (a disk appears,
//! udev is done, a replacement timeout ends) stands on an agenda and happens in a fixed order at a virtual time. Names,
//! links and texts are those of real systems as far as they were recorded; the crate's README lists the rest.

mod bystander;
mod control;
mod data;
mod dm;
mod faults;
mod formats;
mod handles;
mod inquiry;
mod interfaces;
mod inventory;
mod io;
mod iscsi;
mod iscsiadm;
mod log;
mod machine;
mod multipathd;
mod multipathd_commands;
mod multipathd_json;
mod node;
mod plane;
mod records;
mod scsi;
mod scsi_sysfs;
mod settings;
mod socket;
mod system;
mod tree;
mod udev;
mod users;
mod world;

pub use bystander::{Bystander, Report};
pub use control::Suspension;
pub use handles::OpenHandle;
pub use inventory::{Inventory, LegView, MapView, PathView, RecordView, SessionView};
pub use iscsi::SessionState;
pub use log::{LogEntry, LogKind};
pub use node::SimNode;
pub use plane::{BlockPlane, LoopPlane};
pub use scsi::{Address, LegState};
pub use settings::{
    FindMultipaths, Multipath, NoPathRetry, NodeSpec, RecheckWwid, Release, Sockets, Timing, UnshownLun,
};
pub use world::{Snapshot, World};
