//! Suites that every Array, Transport and DeviceManager passes, and the audit.

pub mod array;
pub mod audit;
pub mod device;
pub mod transport;
