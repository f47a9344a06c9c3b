//! The settings of the device manager.

use std::time::Duration;

use san_host::SocketAddress;

/// What VPD page 0x80 is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum UnitSerial {
    /// The array reports its serial number there (ONTAP does): it must be equal on every leg.
    #[default]
    MustMatch,
    /// The page holds something else; only page 0x83 counts.
    Ignored,
}

/// Where multipathd listens and how long the phases of an operation may take, whatever deadline the caller has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MultipathConfig {
    /// Where multipathd may listen; the first that answers is used.
    pub sockets: Vec<SocketAddress>,
    /// What VPD page 0x80 is worth.
    pub unit_serial: UnitSerial,
    /// One INQUIRY.
    pub inquiry: Duration,
    /// From the scan until a leg is there.
    pub leg: Duration,
    /// How long the other legs are waited for once one is proved.
    pub straggler: Duration,
    /// Until udev has recorded a leg or a map.
    pub udev: Duration,
    /// Until a map is complete, has its new size or is gone.
    pub map: Duration,
    /// One answer of multipathd: longer than it waits for its own lock.
    pub answer: Duration,
    /// Writing out one device.
    pub flush: Duration,
}

impl Default for MultipathConfig {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            sockets: vec![
                // multipath-tools 0.12 and newer; older ones have the abstract name only.
                SocketAddress::Path("/run/multipathd.socket".into()),
                SocketAddress::Abstract("/org/kernel/linux/storage/multipathd".to_owned()),
            ],
            unit_serial: UnitSerial::default(),
            inquiry: seconds(3),
            leg: seconds(8),
            straggler: seconds(2),
            udev: seconds(10),
            map: seconds(10),
            answer: seconds(15),
            flush: seconds(30),
        }
    }
}
