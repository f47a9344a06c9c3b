//! [`Shelf`]: a small array for scenes, one target on two portals, with volumes in sparse files.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::scene::Admission;
use super::scenes::{INITIATOR, TARGET, portals};
use super::scenes_logins::{HOST, OURSELVES, STRANGER};
use crate::target::{Access, ChapUser, Portal, Reachability, Target, Unit};

#[derive(Debug)]
struct Inside {
    portals: Vec<Portal>,
    /// By LUN number: which volume, and its size in bytes.
    units: BTreeMap<u16, (u8, u64)>,
    access: Access,
}

/// The array of the scenes. It shows its only initiator everything that is mapped, on every portal.
#[derive(Debug)]
pub struct Shelf {
    folder: PathBuf,
    inside: Mutex<Inside>,
}

impl Shelf {
    /// An array without volumes; their files are made in `folder`.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        let portal = |at: usize| Portal {
            address: portals()[at],
            target: TARGET.to_owned(),
            group: if at == 0 { 1028 } else { 1029 },
            node: format!("node-{at}"),
            reachability: Reachability::Up,
        };
        let portals = vec![portal(0), portal(1)];
        let inside = Inside { portals, units: BTreeMap::new(), access: Access::Open };
        Self { folder: folder.into(), inside: Mutex::new(inside) }
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn file(&self, volume: u8) -> PathBuf {
        self.folder.join(format!("volume-{volume:02x}"))
    }

    /// Shows a volume, made if need be, under a number. A larger size grows it.
    ///
    /// # Errors
    /// Where its file cannot be made.
    pub fn map(&self, lun: u16, volume: u8, bytes: u64) -> std::io::Result<()> {
        let file =
            File::options().create(true).truncate(false).read(true).write(true).open(self.file(volume))?;
        file.set_len(bytes)?;
        self.inside().units.insert(lun, (volume, bytes));
        Ok(())
    }

    /// Shows nothing under a number any more.
    pub fn unmap(&self, lun: u16) {
        self.inside().units.remove(&lun);
    }

    /// Changes who may log in.
    pub fn admit(&self, admission: Admission) {
        let user = |(user, secret): (&str, &str)| ChapUser { user: user.into(), secret: secret.into() };
        self.inside().access = match admission {
            Admission::Open => Access::Open,
            Admission::Nobody => Access::Refused,
            Admission::Secret => Access::Chap { initiator: user(STRANGER), target: None },
            Admission::OneWay => Access::Chap { initiator: user(HOST), target: None },
            Admission::Mutual => Access::Chap { initiator: user(HOST), target: Some(user(OURSELVES)) },
        };
    }

    /// Changes how a portal answers.
    pub fn set_portal(&self, at: usize, reachability: Reachability) {
        if let Some(portal) = self.inside().portals.get_mut(at) {
            portal.reachability = reachability;
        }
    }
}

impl Target for Shelf {
    fn portals(&self) -> Vec<Portal> {
        self.inside().portals.clone()
    }

    fn access(&self, _: &str, _: SocketAddr) -> Access {
        self.inside().access.clone()
    }

    fn units(&self, initiator: &str, portal: SocketAddr) -> BTreeMap<u16, Unit> {
        let inside = self.inside();
        let is_up = |it: &Portal| it.address == portal && it.reachability == Reachability::Up;
        if initiator != INITIATOR || !inside.portals.iter().any(is_up) {
            return BTreeMap::new();
        }
        let unit = |volume: u8, size: u64| {
            let mut naa = *b"\x60\x0a\x09\x80\x38\x30\x2d\x42\x6b\x3f\x54\x78\x79\x5a\x31\x00";
            naa[15] = volume;
            Unit {
                vendor: "NETAPP".to_owned(),
                product: "LUN C-Mode".to_owned(),
                revision: "9161".to_owned(),
                // The form that the kernel's target needs to make the identifier of.
                serial: format!("038302d426b3f5478795a31{volume:02x}").into_bytes(),
                naa,
                size,
                file: self.file(volume),
                optimized: portal == portals()[0],
            }
        };
        inside.units.iter().map(|(lun, (volume, size))| (*lun, unit(*volume, *size))).collect()
    }
}
