//! The trait [`DeviceManager`]: everything on this node that has a logical unit number.

use std::fmt;
use std::path::PathBuf;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{ByteSize, Cx, Error, Identity, Lun, Result, Route, Wwid};

/// A SCSI address: host, channel, target, LUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hctl {
    /// The number of the SCSI host.
    pub host: u32,
    /// The channel.
    pub channel: u32,
    /// The target id.
    pub target: u32,
    /// The logical unit number.
    pub lun: Lun,
}

impl fmt::Display for Hctl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}:{}", self.host, self.channel, self.target, self.lun)
    }
}

/// A block device number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct DeviceNumber {
    /// Major.
    pub major: u32,
    /// Minor.
    pub minor: u32,
}

impl fmt::Display for DeviceNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.major, self.minor)
    }
}

/// What must be found before a device is handed out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Expected {
    /// What every leg must report.
    pub identity: Identity,
    /// What every leg and the map must measure.
    pub size: ByteSize,
    /// Where the array put it for this node.
    pub lun: Lun,
}

/// One kernel device that leads to a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leg {
    /// Where it is.
    pub hctl: Hctl,
    /// The kernel's name at the moment, e.g. `sdb`: for messages, never for identity.
    pub name: String,
    /// Its device number.
    pub number: DeviceNumber,
}

/// Why a route has no usable leg.
#[derive(Debug, Clone)]
pub struct LegProblem {
    /// Which route.
    pub route: Route,
    /// Why.
    pub error: Error,
}

/// A volume present on this node: every leg's identity and size are proved.
#[derive(Debug, Clone)]
pub struct Device {
    /// What it is.
    pub identity: Identity,
    /// A path that stays valid as long as the device is attached and is the same on every node.
    pub path: PathBuf,
    /// The device number of the map, to ask the kernel about users.
    pub number: DeviceNumber,
    /// The measured size.
    pub size: ByteSize,
    /// The verified legs.
    pub legs: Vec<Leg>,
    /// Routes that should have led to it and do not.
    pub missing: Vec<LegProblem>,
}

/// Somebody who uses a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Holder {
    /// A block device stacked on it (LVM, md, dm-crypt), by kernel name.
    Device(String),
    /// A file system mounted here.
    Mount(PathBuf),
    /// Swap.
    Swap,
    /// So many open handles.
    Openers(u32),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(name) => write!(f, "block device {name}"),
            Self::Mount(path) => write!(f, "mounted at {}", path.display()),
            Self::Swap => f.write_str("used as swap"),
            Self::Openers(n) => write!(f, "opened {n} times"),
        }
    }
}

/// Whether a device is used. "Unknown" is an error, never one of these.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Usage {
    /// Proved unused.
    Idle,
    /// Used by these.
    InUse(Vec<Holder>),
}

/// What is on record about a volume's presence here: the only devices that may be removed for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownLegs {
    /// What it is.
    pub identity: Identity,
    /// Where the array put it for this node.
    pub lun: Lun,
    /// The addresses at which it was scanned for. Whatever is there must still prove its identity before it is touched.
    pub addresses: Vec<Hctl>,
}

/// Proof that the map is gone and the legs are offline: the array may take the mapping away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// What it was.
    pub identity: Identity,
    /// The legs that were put offline and have to be buried.
    pub legs: Vec<Hctl>,
}

/// What becomes of input and output on a device while none of its paths is usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// It waits until a path comes back.
    Waits,
    /// It fails at once.
    Fails,
}

/// How a device stands with its paths, as far as the system has noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Paths {
    /// How many are in use or could be.
    pub usable: u32,
    /// What happens where there are none.
    pub waiting: Waiting,
}

/// A device has lost its last usable path, or has got a first one back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathNews {
    /// Which one.
    pub wwid: Wwid,
    /// How many are usable now.
    pub usable: u32,
}

/// What the system tells of paths, from the moment it was asked for.
#[async_trait]
pub trait PathWatch: fmt::Debug + Send {
    /// The next news of any device of the node, whoever it belongs to. `None` where some were missed: ask
    /// [`DeviceManager::paths`] then. May be given up at any time without losing news.
    async fn next(&mut self) -> Option<PathNews>;
}

/// Devices of this node. Work on one identity is serialised by the caller.
#[async_trait]
pub trait DeviceManager: fmt::Debug + Send + Sync {
    /// Makes the volume a device: targeted scan of `routes`, proof of identity and size of every leg, map, size.
    /// Repeatable; an attached healthy device costs no scan and starts no program.
    ///
    /// # Errors
    /// `NotFound` where no route shows it, `IdentityMismatch` where only other volumes are found at its address,
    /// `InUse` where somebody holds a wrong device at its address, `Unavailable` where a daemon is missing (named).
    async fn attach(&self, cx: &Cx, expect: &Expected, routes: &[Route]) -> Result<Device>;

    /// The attached device with fresh proof of every leg's identity, or `None` where no map of it is here.
    ///
    /// # Errors
    /// `IdentityMismatch` where a leg under the map is another volume.
    async fn inspect(&self, cx: &Cx, expect: &Expected, routes: &[Route]) -> Result<Option<Device>>;

    /// Who uses it, by device number.
    async fn usage(&self, cx: &Cx, device: &Device) -> Result<Usage>;

    /// Writes out what the node's cache holds of this device only.
    async fn flush(&self, cx: &Cx, device: &Device) -> Result<()>;

    /// Makes the device as large as the array says (`expect.size`), every leg first. Never smaller.
    async fn grow(&self, cx: &Cx, expect: &Expected, routes: &[Route]) -> Result<Device>;

    /// Takes the device out of use: refuses while it is used, flushes, removes the map, puts the legs offline so that
    /// no scan can bring them back. Repeatable, also after a crash half-way.
    ///
    /// # Errors
    /// `InUse` with the holders; nothing was changed then.
    async fn retire(&self, cx: &Cx, known: &KnownLegs) -> Result<Retired>;

    /// After the array's unmap: deletes the retired legs and proves them gone. Repeatable.
    async fn bury(&self, cx: &Cx, retired: &Retired) -> Result<()>;

    /// Brings a retired volume that is still mapped back, after an identity check.
    async fn revive(&self, cx: &Cx, expect: &Expected, routes: &[Route]) -> Result<Device>;

    /// The LUNs that have any leg behind `routes`, whoever they belong to: numbers that must not be given out.
    async fn occupied(&self, cx: &Cx, routes: &[Route]) -> Result<Vec<Lun>>;

    /// How each of these stands with its paths; `None` where it is no device here. What has just happened may not be in the
    /// answer yet: [`PathWatch`] is quicker.
    async fn paths(&self, cx: &Cx, of: &[Identity]) -> Result<Vec<Option<Paths>>>;

    /// Begins to tell what becomes of paths.
    fn watch_paths(&self) -> Box<dyn PathWatch>;

    /// Whether the array denies the volume to this node: at least one leg answers, and whatever answers says that the volume
    /// is not behind it. The legs alone prove nothing for ever, since an array may deny what it serves while it takes over.
    async fn is_denied(&self, cx: &Cx, known: &KnownLegs) -> Result<bool>;

    /// What waits for a path of the device fails now, and further input and output at once, until
    /// [`DeviceManager::resume_waiting`]. Other devices keep what they have. Nothing to do where there is no such device.
    async fn end_waiting(&self, cx: &Cx, identity: &Identity) -> Result<()>;

    /// The host's settings for the device count again.
    async fn resume_waiting(&self, cx: &Cx, identity: &Identity) -> Result<()>;
}
