//! The iSCSI Transport over open-iscsi.
//!
//! What exists is read from the kernel (`/sys/class/iscsi_session`), never from a tool's text: a healthy session costs
//! a few reads and no process. `iscsiadm` is started only to make or end a session, and always for one target at one
//! portal. Nothing here scans: devices appear because the device manager asks for one LUN at one address.

mod auth;
mod config;
mod disconnect;
mod exit;
mod holds;
mod initiator;
mod link;
mod login;
mod record;
mod session;
mod transport;

pub use auth::LoginSource;
pub use config::IscsiConfig;
pub use transport::Iscsi;
