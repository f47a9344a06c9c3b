//! The DeviceManager over dm-multipath and SCSI legs.
//!
//! A device is handed out only when every leg that carries its bytes has just answered an INQUIRY with the identity the
//! array gave us. What the kernel, udev or multipathd remember of a leg is never proof: all three keep the old identity
//! when an array re-uses a LUN number.
//!
//! What may be changed is narrow: one LUN at one address is scanned; a leg is deleted only where it is retired, or where
//! its kernel object is a stale one that nobody holds at the address the array gave us; a map is changed only under our
//! WWID. Nothing here acts on all devices of the host.

mod assemble;
mod attach;
mod bury;
mod client;
mod config;
mod grow;
mod leg;
mod manager;
mod map;
mod retire;
mod scan;
mod usage;
mod verify;
mod vpd;
mod waiting;
mod wire;

pub use config::{MultipathConfig, UnitSerial};
pub use manager::Multipath;
