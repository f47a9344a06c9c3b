//! What can be set on a simulated node: its releases, its daemons' options and how long things take.

use std::time::Duration;

/// Which user space a node runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Release {
    /// Debian 12: open-iscsi 2.1.8, multipath-tools 0.9.4 (`fail` without a reason).
    Debian12,
    /// Debian 13: open-iscsi 2.1.11, multipath-tools 0.11.1.
    #[default]
    Debian13,
}

impl Release {
    pub(crate) fn open_iscsi(self) -> &'static str {
        match self {
            Self::Debian12 => "2.1.8",
            Self::Debian13 => "2.1.11",
        }
    }

    /// Where open-iscsi keeps its records.
    pub(crate) fn records(self) -> &'static str {
        match self {
            Self::Debian12 => "/etc/iscsi/nodes",
            Self::Debian13 => "/var/lib/iscsi/nodes",
        }
    }

    /// Where open-iscsi keeps its interfaces.
    pub(crate) fn interfaces(self) -> &'static str {
        match self {
            Self::Debian12 => "/etc/iscsi/ifaces",
            Self::Debian13 => "/var/lib/iscsi/ifaces",
        }
    }

    pub(crate) fn multipath_version(self) -> &'static str {
        match self {
            Self::Debian12 => "v0.9.4 (12/19, 2022)",
            Self::Debian13 => "v0.11.1 (01/24, 2025)",
        }
    }

    pub(crate) fn multipath_config(self) -> &'static str {
        match self {
            Self::Debian12 => include_str!("formats/config_0.9.4.txt"),
            Self::Debian13 => include_str!("formats/config_0.11.1.txt"),
        }
    }
}

/// Where multipathd listens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Sockets {
    /// Only the abstract name (releases before 0.12).
    #[default]
    Abstract,
    /// Only `/run/multipathd.socket`.
    File,
    /// Both.
    Both,
}

/// When multipathd makes a map for a WWID it does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FindMultipaths {
    /// Never by itself.
    #[default]
    Strict,
    /// For every path.
    Off,
}

impl FindMultipaths {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Strict => "strict",
            Self::Off => "off",
        }
    }
}

/// Whether multipathd asks a path for its identity again when it comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RecheckWwid {
    /// It does not: the default of multipath-tools.
    #[default]
    No,
    /// It does.
    Yes,
}

/// What a map does with I/O when no path is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NoPathRetry {
    /// Keeps it for ever: the built-in value for NETAPP.
    #[default]
    Queue,
    /// Fails it after so many checks.
    Checks(u32),
    /// Fails it at once.
    Fail,
}

/// multipathd's options.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Multipath {
    /// `find_multipaths`.
    pub find_multipaths: FindMultipaths,
    /// `recheck_wwid`.
    pub recheck_wwid: RecheckWwid,
    /// `no_path_retry`.
    pub no_path_retry: NoPathRetry,
    /// Where it listens.
    pub sockets: Sockets,
}

/// How long things take on a node. Zero means: at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// One run of `iscsiadm`, without logging in.
    pub program: Duration,
    /// A login that succeeds.
    pub login: Duration,
    /// A write to `scan`, `rescan` or `delete`, until it returns.
    pub write: Duration,
    /// From the write to `scan` until the SCSI device is there; may be longer than `write`.
    pub leg: Duration,
    /// From the SCSI device until its block device and `/dev` node are there.
    pub disk: Duration,
    /// From an event of a disk until udev has recorded it.
    pub udev: Duration,
    /// From an event of a map until udev has recorded it and made its links.
    pub udev_map: Duration,
    /// One command to multipathd that only shows.
    pub show: Duration,
    /// One command to multipathd that loads, changes or removes a map.
    pub table: Duration,
    /// One INQUIRY, read or flush.
    pub command: Duration,
    /// multipathd's checker interval.
    pub checker: Duration,
    /// How often iscsid tries to log in again.
    pub reopen: Duration,
}

impl Default for Timing {
    /// A small server with a local network.
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            program: ms(8),
            login: ms(40),
            write: ms(2),
            leg: ms(3),
            disk: ms(3),
            udev: ms(60),
            udev_map: ms(60),
            show: ms(1),
            table: ms(15),
            command: ms(1),
            checker: ms(5_000),
            reopen: ms(2_000),
        }
    }
}

/// How the array's target answers for a LUN that this node is not shown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnshownLun {
    /// So that the kernel makes no device of it.
    #[default]
    NoDevice,
    /// With peripheral qualifier 1: the kernel makes a SCSI device without a disk, and scans it no more.
    Diskless,
}

/// What a node is made with.
#[derive(Debug, Clone)]
pub struct NodeSpec {
    /// Its name.
    pub name: String,
    /// Its iSCSI initiator name, as in `/etc/iscsi/initiatorname.iscsi`.
    pub initiator: String,
    /// Its user space.
    pub release: Release,
    /// The last byte of its addresses; by default 100 and a running number.
    pub station: Option<u8>,
    /// multipathd's options.
    pub multipath: Multipath,
    /// How long things take.
    pub timing: Timing,
    /// What a scan of a LUN that is not there leaves behind.
    pub unshown: UnshownLun,
}

impl NodeSpec {
    /// A Debian 13 node with defaults.
    pub fn new(name: impl Into<String>, initiator: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            initiator: initiator.into(),
            release: Release::default(),
            station: None,
            multipath: Multipath::default(),
            timing: Timing::default(),
            unshown: UnshownLun::default(),
        }
    }
}
