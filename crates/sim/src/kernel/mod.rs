//! The kernel's own targets as the data plane of simulated arrays: what a [`Target`] says of its portals and units is
//! made true in configfs, so that real initiators see real devices. It needs root and a kernel with LIO.
//!
//! [`KernelPlane`] compares what arrays want with what it has made and carries out the difference; [`LivePlane`] keeps
//! the arrays and initiators of one plane, and [`LiveArray`] is an array whose every answer comes after the plane has
//! followed.
//!
//! [`NvmeTarget`] and [`FcTarget`] are the kernel's targets for NVMe/TCP and for Fibre Channel, set up by hand.
//!
//! Where the kernel cannot say what the array would:
//! - The unit serial number (VPD page 0x80) is not free: the NAA identifier is made of the first 25 hexadecimal digits
//!   found in it. A unit whose identifier is made of its serial number shows those 25 digits as its serial number.
//! - A unit without any identity lists no VPD page. An initiator that knows it by another one keeps that in its cache
//!   when it looks again, and asked for page 0x83 all the same the unit answers with the vendor's T10 identifier.
//! - Number 0 always shows a stand-in disk once it is unmapped, so units at number 0 are refused.
//! - A portal that is a black hole stays as it is here; losing its packets is the network's part.
//!
//! [`Target`]: crate::target::Target

mod configfs;
mod desired;
mod fc;
mod identity;
mod lio;
mod live;
mod loops;
mod namespace;
mod nvmet;
mod plan;
mod plane;
mod present;
mod stores;

pub use fc::{FcPort, FcTarget, wwpn};
pub use live::{LiveArray, LivePlane};
pub use nvmet::{AnaState, Namespace, NvmeTarget};
pub use plane::KernelPlane;
