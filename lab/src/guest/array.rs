//! A test array: volumes by small numbers, which can be shown anywhere, under any identity, without a management
//! interface in the way. [`LivePlane::sync`](san_sim::kernel::LivePlane::sync) lets the kernel follow it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use san_core::{ByteSize, Identity, TargetPort, Wwid};
use san_sim::target::{Portal, Reachability, Target, Unit};

use super::Failure;

/// What a volume measures until it is resized.
pub const VOLUME_SIZE: ByteSize = ByteSize::from_mib(64);
/// The tag of the first portal's group; the others follow.
const FIRST_GROUP: u16 = 1028;

/// The array.
#[derive(Debug)]
pub struct TestArray {
    name: String,
    portals: Vec<SocketAddr>,
    folder: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    volumes: BTreeMap<u8, Unit>,
    shown: BTreeMap<(SocketAddr, u16), u8>,
    withheld: BTreeSet<(SocketAddr, u16)>,
    reachability: BTreeMap<SocketAddr, Reachability>,
}

impl TestArray {
    /// An array called `name` (at most nine letters or digits) with these portals, whose volumes are files in `folder`.
    pub fn new(name: &str, portals: Vec<SocketAddr>, folder: PathBuf) -> Self {
        Self { name: name.to_owned(), portals, folder, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of its one target.
    pub fn target(&self) -> String {
        format!("iqn.1992-08.com.netapp:sn.{}:vs.3", self.name)
    }

    /// Its portals, in order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.portals
    }

    /// Its ports, in order.
    ///
    /// # Errors
    /// Where the array's name makes no valid IQN.
    pub fn ports(&self) -> Result<Vec<TargetPort>, Failure> {
        let target: san_core::Iqn = self.target().parse()?;
        let port =
            |portal: &SocketAddr| TargetPort::Iscsi { portal: *portal, target: target.clone(), node: None };
        Ok(self.portals.iter().map(port).collect())
    }

    /// The identifier a volume has unless it is garbled: the form ONTAP makes of the serial number.
    fn naa(&self, n: u8) -> [u8; 16] {
        let serial = format!("{:-<9.9}{n:03}", self.name);
        let mut naa = *b"\x60\x0a\x09\x80............";
        naa[4..].copy_from_slice(&serial.as_bytes()[..12]);
        naa
    }

    /// What a host expects of volume `n`, and what it says of itself unless it is garbled. The serial number is the one
    /// the kernel's target shows, which makes the identifier of it.
    pub fn identity(&self, n: u8) -> Identity {
        let serial = self.state().volumes.get(&n).map(|it| String::from_utf8_lossy(&it.serial).into_owned());
        let naa = self.naa(n);
        let serial = serial.filter(|it| !it.is_empty()).unwrap_or_else(|| digits(&naa));
        Identity { wwid: Wwid::Naa6(naa), serial }
    }

    /// The file with the bytes of volume `n`.
    pub fn file(&self, n: u8) -> PathBuf {
        self.folder.join(format!("{}-{n}", self.name))
    }

    /// Changes volume `n`, making it where it is not there yet.
    ///
    /// # Errors
    /// Where its file cannot be made.
    pub fn change(&self, n: u8, change: impl FnOnce(&mut Unit)) -> io::Result<()> {
        let mut state = self.state();
        let unit = state.volumes.entry(n).or_insert_with(|| {
            let naa = self.naa(n);
            Unit {
                vendor: "NETAPP".to_owned(),
                product: "LUN C-Mode".to_owned(),
                revision: "9161".to_owned(),
                serial: digits(&naa).into_bytes(),
                naa,
                size: VOLUME_SIZE.bytes(),
                file: self.file(n),
                optimized: true,
            }
        });
        change(unit);
        OpenOptions::new().create(true).append(true).open(&unit.file)?.set_len(unit.size)
    }

    /// Volume `n` says nothing of what it is: no identifier, and so no serial number.
    ///
    /// # Errors
    /// Where its file cannot be made.
    pub fn make_nameless(&self, n: u8) -> io::Result<()> {
        self.change(n, |unit| {
            unit.naa = [0; 16];
            unit.serial = Vec::new();
        })
    }

    /// Volume `n` has the identifier of volume `other`, and a serial number of its own.
    ///
    /// # Errors
    /// Where its file cannot be made.
    pub fn make_alike(&self, n: u8, other: u8) -> io::Result<()> {
        let naa = self.naa(other);
        self.change(n, |unit| {
            unit.naa = naa;
            // Only the digits in front count for the identifier.
            unit.serial = format!("{}{n:02x}", digits(&naa)).into_bytes();
        })
    }

    /// Gives volume `n` another size.
    ///
    /// # Errors
    /// Where its file cannot be changed.
    pub fn resize(&self, n: u8, size: ByteSize) -> io::Result<()> {
        self.change(n, |unit| unit.size = size.bytes())
    }

    /// Shows volume `n` as `lun` behind these portals.
    ///
    /// # Errors
    /// Where its file cannot be made.
    pub fn show(&self, n: u8, lun: u16, portals: &[SocketAddr]) -> io::Result<()> {
        self.change(n, |_| ())?;
        self.state().shown.extend(portals.iter().map(|it| ((*it, lun), n)));
        Ok(())
    }

    /// Shows nothing as `lun` any more behind these portals.
    pub fn hide(&self, lun: u16, portals: &[SocketAddr]) {
        self.state().shown.retain(|(at, number), _| *number != lun || !portals.contains(at));
    }

    /// Shows nothing as `lun` behind `portal`, whatever is asked for, until [`TestArray::hide_everything`].
    pub fn withhold(&self, lun: u16, portal: SocketAddr) {
        self.state().withheld.insert((portal, lun));
    }

    /// How a portal takes connections from now on.
    pub fn set_reachability(&self, portal: SocketAddr, reachability: Reachability) {
        self.state().reachability.insert(portal, reachability);
    }

    /// Hides everything and takes every portal back into use. The volumes keep what they are until
    /// [`TestArray::forget`].
    pub fn hide_everything(&self) {
        let mut state = self.state();
        state.shown.clear();
        state.withheld.clear();
        state.reachability.clear();
    }

    /// Forgets every volume, with its bytes. Only once the kernel has followed [`TestArray::hide_everything`].
    ///
    /// # Errors
    /// Where a file cannot be removed.
    pub fn forget(&self) -> io::Result<()> {
        for unit in std::mem::take(&mut self.state().volumes).into_values() {
            std::fs::remove_file(&unit.file)?;
        }
        Ok(())
    }

    /// The first bytes of volume `n`.
    ///
    /// # Errors
    /// Where it has none.
    pub fn bytes(&self, n: u8, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        File::open(self.file(n))?.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// The serial number the kernel's target makes this identifier of: all its digits but those of the company.
fn digits(naa: &[u8; 16]) -> String {
    let text = naa.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    });
    text[7..].to_owned()
}

impl Target for TestArray {
    fn portals(&self) -> Vec<Portal> {
        let state = self.state();
        let portal = |(address, group): (&SocketAddr, u16)| Portal {
            address: *address,
            target: self.target(),
            group,
            node: format!("node-{}", group % 2),
            reachability: state.reachability.get(address).copied().unwrap_or(Reachability::Up),
        };
        self.portals.iter().zip(FIRST_GROUP..).map(portal).collect()
    }

    fn units(&self, _: &str, portal: SocketAddr) -> BTreeMap<u16, Unit> {
        let state = self.state();
        let shown =
            state.shown.iter().filter(|(place, _)| place.0 == portal && !state.withheld.contains(place));
        // Every other portal is on the node that owns the volumes.
        let optimized = self.portals.iter().position(|it| *it == portal).is_some_and(|it| it % 2 == 0);
        let unit = |n| state.volumes.get(n).map(|it| Unit { optimized, ..it.clone() });
        shown.filter_map(|((_, lun), n)| Some((*lun, unit(n)?))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn array(folder: &std::path::Path) -> TestArray {
        let portals = (1..=2).map(|n| SocketAddr::from(([10, 77, n, 2], 3260))).collect();
        TestArray::new("lab", portals, folder.to_owned())
    }

    #[test]
    fn a_volume_is_what_a_host_expects_until_it_is_garbled() {
        let folder = tempfile::tempdir().unwrap();
        let array = array(folder.path());
        let portals = array.addresses().to_vec();
        array.show(1, 5, &portals).unwrap();
        let identity = array.identity(1);
        assert_eq!(identity.wwid.to_string(), "naa.600a09806c61622d2d2d2d2d2d303031");
        assert_eq!(identity.serial, "06c61622d2d2d2d2d2d303031");
        let unit = &array.units("", portals[1])[&5];
        assert_eq!((unit.serial.as_slice(), unit.optimized), (identity.serial.as_bytes(), false));
        assert_eq!(array.bytes(1, 3).unwrap(), [0; 3]);

        array.make_alike(2, 1).unwrap();
        assert_eq!(array.identity(2).serial, "06c61622d2d2d2d2d2d30303102");
        assert_ne!(array.identity(2).wwid, identity.wwid, "what a host expects stays");
        array.make_nameless(1).unwrap();
        assert_eq!(array.units("", portals[0])[&5].naa, [0; 16]);
        assert_eq!(array.identity(1), identity);

        array.withhold(5, portals[0]);
        assert!(array.units("", portals[0]).is_empty() && array.units("", portals[1]).contains_key(&5));
        array.hide_everything();
        array.show(1, 5, &portals).unwrap();
        array.hide(5, &portals[..1]);
        assert!(array.units("", portals[0]).is_empty() && array.units("", portals[1]).contains_key(&5));
        array.hide_everything();
        array.forget().unwrap();
        assert!(array.bytes(1, 1).is_err());
    }
}
