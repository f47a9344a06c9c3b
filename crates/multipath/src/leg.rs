//! One leg: what sysfs shows of it, and the proof of what it is.

use std::path::{Path, PathBuf};

use san_core::{ByteSize, Cx, DeviceNumber, Error, ErrorKind, Hctl, Identity, Leg, Lun, Result, Wwid};
use san_host::Attr;

use crate::{Multipath, UnitSerial, vpd};

/// The kernel's word for how usable a SCSI device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum State {
    /// It takes commands.
    Running,
    /// Put out of use by hand; stays so until somebody changes it.
    Offline,
    /// Anything else, e.g. `blocked` or `transport-offline`: the road is gone at the moment.
    Other(String),
}

/// The block device of a leg.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    pub(crate) name: String,
    pub(crate) number: DeviceNumber,
    pub(crate) size: ByteSize,
}

/// What is at a SCSI address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) hctl: Hctl,
    pub(crate) state: State,
    /// Appears some time after the SCSI device.
    pub(crate) disk: Option<Disk>,
    /// The name of its SCSI generic device.
    pub(crate) generic: Option<String>,
    /// Kernel names of the block devices stacked on the disk.
    pub(crate) holders: Vec<String>,
}

impl Present {
    /// The leg, where its disk is there.
    pub(crate) fn leg(&self) -> Option<Leg> {
        let disk = self.disk.as_ref()?;
        Some(Leg { hctl: self.hctl, name: disk.name.clone(), number: disk.number })
    }

    /// Its name for people.
    pub(crate) fn name(&self) -> String {
        match &self.disk {
            Some(disk) => format!("{} ({})", disk.name, self.hctl),
            None => self.hctl.to_string(),
        }
    }
}

/// What a leg proved to be.
#[derive(Debug, Clone)]
pub(crate) enum Proof {
    /// The volume.
    Ours,
    /// Another one; what it says it is.
    Other(String),
    /// It could not be asked, or says nothing usable.
    Unknown(Error),
}

/// The folder of a SCSI device.
pub(crate) fn device_of(hctl: Hctl) -> PathBuf {
    Path::new("/sys/class/scsi_device").join(hctl.to_string()).join("device")
}

/// `H:C:T:L`.
pub(crate) fn parse_hctl(text: &str) -> Option<Hctl> {
    let numbers: Vec<u32> = text.split(':').map(|it| it.parse().ok()).collect::<Option<_>>()?;
    let [host, channel, target, lun] = numbers.as_slice() else { return None };
    let lun = Lun::new(u16::try_from(*lun).ok()?)?;
    Some(Hctl { host: *host, channel: *channel, target: *target, lun })
}

/// `MAJOR:MINOR`.
pub(crate) fn parse_number(text: &str) -> Option<DeviceNumber> {
    let (major, minor) = text.trim().split_once(':')?;
    Some(DeviceNumber { major: major.parse().ok()?, minor: minor.parse().ok()? })
}

fn unreadable(what: &str, subject: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Protocol, format!("the kernel shows no usable {what}")).on(subject)
}

impl Multipath {
    /// An attribute's text; `None` where it or its device is not there.
    pub(crate) async fn text(&self, cx: &Cx, device: &Path, attribute: &str) -> Result<Option<String>> {
        Ok(self.guard.attr(cx, device, attribute).await?.text().map(str::to_owned))
    }

    /// The number and size of a block device; `None` where it vanished.
    pub(crate) async fn measure(&self, cx: &Cx, block: &Path) -> Result<Option<(DeviceNumber, ByteSize)>> {
        let Some(number) = self.text(cx, block, "dev").await? else { return Ok(None) };
        let Some(sectors) = self.text(cx, block, "size").await? else { return Ok(None) };
        let number = parse_number(&number).ok_or_else(|| unreadable("device number", block.display()))?;
        let sectors: u64 = sectors.parse().map_err(|_| unreadable("size", block.display()))?;
        // Always 512-byte sectors, whatever the logical block size.
        Ok(Some((number, ByteSize::from_bytes(sectors.saturating_mul(512)))))
    }

    /// What is at `hctl` now; `None` where the address is proved empty.
    pub(crate) async fn look(&self, cx: &Cx, hctl: Hctl) -> Result<Option<Present>> {
        let device = device_of(hctl);
        let state = match self.guard.attr(cx, &device, "state").await {
            Ok(Attr::DeviceGone) => return Ok(None),
            Ok(value @ Attr::Value(_)) => match value.text() {
                Some("running") => State::Running,
                Some("offline") => State::Offline,
                Some(other) => State::Other(other.to_owned()),
                None => return Err(unreadable("state", hctl)),
            },
            // A device that is going loses its attributes before its folder.
            odd => {
                return match (self.guard.list(cx, &device).await?, odd) {
                    (None, _) => Ok(None),
                    (Some(_), Err(error)) => Err(error),
                    (Some(_), Ok(_)) => Err(unreadable("state", hctl)),
                };
            }
        };
        let generic = self.only_name(cx, &device.join("scsi_generic")).await?;
        let mut disk = None;
        let mut holders = Vec::new();
        if let Some(name) = self.only_name(cx, &device.join("block")).await? {
            let block = device.join("block").join(&name);
            if let Some((number, size)) = self.measure(cx, &block).await? {
                holders = self.guard.list(cx, &block.join("holders")).await?.unwrap_or_default();
                disk = Some(Disk { name, number, size });
            }
        }
        Ok(Some(Present { hctl, state, disk, generic, holders }))
    }

    async fn only_name(&self, cx: &Cx, directory: &Path) -> Result<Option<String>> {
        Ok(self.guard.list(cx, directory).await?.unwrap_or_default().into_iter().next())
    }

    /// Asks the unit itself, now.
    pub(crate) async fn prove(&self, cx: &Cx, leg: &Present, identity: &Identity) -> Proof {
        match self.ask(cx, leg, identity).await {
            Ok(proof) => proof,
            Err(error) => Proof::Unknown(error.on(leg.name())),
        }
    }

    async fn ask(&self, cx: &Cx, leg: &Present, identity: &Identity) -> Result<Proof> {
        let Some(generic) = &leg.generic else {
            return Err(Error::new(ErrorKind::Unavailable, "it has no SCSI generic device yet"));
        };
        let node = Path::new("/dev").join(generic);
        let page = self.guard.inquiry(cx, &node, Some(vpd::IDENTIFICATION), self.config.inquiry).await?;
        let wwid = vpd::wwid(&page)?;
        let serial = match self.config.unit_serial {
            UnitSerial::Ignored => Serial::Ignored,
            UnitSerial::MustMatch => {
                let page = self.guard.inquiry(cx, &node, Some(vpd::SERIAL), self.config.inquiry).await?;
                vpd::serial(&page)?.map_or(Serial::Empty, Serial::Is)
            }
        };
        // The generic device's name may have passed to another unit while it was asked.
        let now = self.only_name(cx, &device_of(leg.hctl).join("scsi_generic")).await?;
        if now.as_ref() != Some(generic) {
            return Err(Error::new(ErrorKind::Busy, "it changed while it was asked"));
        }
        Ok(compare(identity, wwid, serial))
    }

    /// Whether the target says that the volume is not behind a leg; `None` where it does not say.
    pub(crate) async fn denies(&self, cx: &Cx, leg: &Present, identity: &Identity) -> Option<bool> {
        let node = Path::new("/dev").join(leg.generic.as_ref()?);
        match self.guard.inquiry(cx, &node, None, self.config.inquiry).await {
            Ok(standard) if vpd::is_vacant(&standard) => Some(true),
            Ok(_) => match self.prove(cx, leg, identity).await {
                Proof::Ours => Some(false),
                Proof::Other(_) => Some(true),
                Proof::Unknown(_) => None,
            },
            Err(error) => (error.kind() == ErrorKind::NotFound).then_some(true),
        }
    }

    /// What the kernel remembers of the unit from when it was scanned: enough to recognise our own leg where the unit
    /// cannot be asked, never enough to use it.
    pub(crate) async fn remembered(&self, cx: &Cx, hctl: Hctl, identity: &Identity) -> Result<Proof> {
        let device = device_of(hctl);
        let Attr::Value(page) = self.guard.attr(cx, &device, "vpd_pg83").await? else {
            let error = Error::new(ErrorKind::IdentityMismatch, "the kernel remembers no identity of it");
            return Ok(Proof::Unknown(error.on(hctl)));
        };
        let serial = match (self.config.unit_serial, self.guard.attr(cx, &device, "vpd_pg80").await?) {
            (UnitSerial::MustMatch, Attr::Value(page)) => {
                vpd::serial(&vpd::whole(page)).map(|it| it.map_or(Serial::Empty, Serial::Is))
            }
            _ => Ok(Serial::Ignored),
        };
        Ok(match vpd::wwid(&vpd::whole(page)).and_then(|wwid| Ok((wwid, serial?))) {
            Ok((wwid, serial)) => compare(identity, wwid, serial),
            Err(error) => Proof::Unknown(error.on(hctl)),
        })
    }
}

/// What page 0x80 holds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Serial {
    /// Whatever it holds does not count.
    Ignored,
    Empty,
    Is(String),
}

/// Compares what a unit says with what it must be.
fn compare(identity: &Identity, wwid: Option<Wwid>, serial: Serial) -> Proof {
    // An empty identity is not a different one, but it can never be the right one either.
    let unknown = |why: &'static str| Proof::Unknown(Error::new(ErrorKind::IdentityMismatch, why));
    match (wwid, serial) {
        (None, _) => unknown("its identity is unknown: page 0x83 names no unit"),
        (Some(found), _) if found != identity.wwid => Proof::Other(found.to_string()),
        (Some(_), Serial::Empty) => unknown("its identity is unknown: page 0x80 is empty"),
        (Some(found), Serial::Is(serial)) if serial != identity.serial => {
            Proof::Other(format!("{found} (serial {serial})"))
        }
        (Some(_), _) => Proof::Ours,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenarios 4 and 5: equal identifiers with different serials, and units that say nothing.
    #[test]
    fn only_the_whole_identity_is_ours() {
        let wwid: Wwid = "naa.600a098038302d426b3f5478795a3132".parse().unwrap();
        let other: Wwid = "naa.600a098038302d426b3f5478795a3133".parse().unwrap();
        let identity = Identity { wwid, serial: "80-Bk?TxyZ12".into() };
        let text = |it: &str| Serial::Is(it.to_owned());
        let cases = [
            (Some(wwid), text("80-Bk?TxyZ12"), "ours"),
            (Some(wwid), Serial::Ignored, "ours"),
            (Some(wwid), text("80-Bk?TxyZ13"), "other"),
            (Some(wwid), text("80-bk?txyz12"), "other"),
            (Some(wwid), Serial::Empty, "unknown"),
            (Some(other), text("80-Bk?TxyZ12"), "other"),
            (None, text("80-Bk?TxyZ12"), "unknown"),
            (None, Serial::Ignored, "unknown"),
        ];
        for (wwid, serial, expected) in cases {
            let found = match compare(&identity, wwid, serial.clone()) {
                Proof::Ours => "ours",
                Proof::Other(_) => "other",
                Proof::Unknown(_) => "unknown",
            };
            assert_eq!(found, expected, "{wwid:?} {serial:?}");
        }
    }

    #[test]
    fn addresses() {
        assert_eq!(parse_hctl("2:0:0:300").unwrap().to_string(), "2:0:0:300");
        for text in ["", "2:0:0", "2:0:0:1:1", "a:0:0:1", "2:0:0:16384", "2:0:0:4294967296"] {
            assert_eq!(parse_hctl(text), None, "{text:?}");
        }
        assert_eq!(parse_number("253:12\n"), Some(DeviceNumber { major: 253, minor: 12 }));
        assert_eq!(parse_number("253"), None);
    }
}
