//! Operations on volumes: plans, intents, attachment records, recovery. Knows no vendor, no transport and no hypervisor.
//!
//! A [`Node`] is this machine: its device manager, its folder of records. A [`San`] is one storage on
//! one array as this node sees it. Operations are submitted to a `San` under an id and run in tasks of the node; callers
//! only wait for them. What an operation set out to do lies on disk before its first effect, so that the next run
//! finishes or undoes whatever a crash interrupted.
//!
//! `cargo run -p san-engine --example attach` shows an embedder that makes and attaches a disk.

mod all_nodes;
mod clock;
mod cluster;
mod disk_view;
mod farewell;
mod idle;
mod import;
mod intent;
mod locks;
mod masks;
mod node;
mod outage;
mod paths;
mod plan;
mod readers;
mod reaper;
mod reconciled;
mod record;
mod recovery;
mod registry;
mod release;
mod rest;
mod runner;
mod san;
mod site;
mod store;
mod tombstone;
mod view;

pub use cluster::{Binding, Cluster, FolderCluster, Guest, Guests, Lease, Tie};
pub use disk_view::View;
pub use farewell::LoggedIn;
pub use idle::Asker;
pub use masks::masks;
pub use node::{Node, NodeConfig};
pub use plan::{Naming, Outcome, Request};
pub use reconciled::{Repair, Repaired, Repairs};
pub use record::{Attachment, AttachmentState, Reading};
pub use registry::Ticket;
pub use release::{ReleaseAnswer, ReleaseRequest};
pub use san::{Disk, OUTAGE, San, SanConfig, Status};
pub use store::Folder;
pub use tombstone::Leaving;
pub use view::{OpenOperation, OpenState, Portal, Presence, RemotePresence};
