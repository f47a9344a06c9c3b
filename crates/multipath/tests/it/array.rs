//! An array whose volumes can be shown anywhere, under any identity.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use san_core::{Identity, Wwid};
use san_sim::target::{Portal, Reachability, Target, Unit};
use tempfile::TempDir;

pub(crate) const TARGET: &str = "iqn.1992-08.com.netapp:sn.0123456789:vs.3";
const FIRST_SIZE: u64 = 64 << 20;

pub(crate) fn portals() -> Vec<SocketAddr> {
    (1..=4).map(|n| SocketAddr::from(([10, 0, 0, n], 3260))).collect()
}

#[derive(Debug, Default)]
struct State {
    units: BTreeMap<u8, Unit>,
    shown: BTreeMap<(SocketAddr, u16), u8>,
}

/// The array.
#[derive(Debug)]
pub(crate) struct TestArray {
    folder: TempDir,
    state: Mutex<State>,
}

/// What volume `n` says of itself, unless it is garbled.
pub(crate) fn identity(n: u8) -> Identity {
    let serial = format!("80-Bk?Txy{n:03}");
    let mut naa = *b"\x60\x0a\x09\x80............";
    naa[4..].copy_from_slice(serial.as_bytes());
    Identity { wwid: Wwid::Naa6(naa), serial }
}

impl TestArray {
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), state: Mutex::default() }
    }

    fn file(&self, n: u8) -> PathBuf {
        self.folder.path().join(n.to_string())
    }

    /// Changes volume `n`.
    pub(crate) fn unit(&self, n: u8, change: impl FnOnce(&mut Unit)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let unit = state.units.entry(n).or_insert_with(|| {
            let identity = identity(n);
            let Wwid::Naa6(naa) = identity.wwid else { panic!("another kind of identifier") };
            Unit {
                vendor: "NETAPP".to_owned(),
                product: "LUN C-Mode".to_owned(),
                revision: "9161".to_owned(),
                serial: identity.serial.into_bytes(),
                naa,
                size: FIRST_SIZE,
                file: self.file(n),
                optimized: true,
            }
        });
        change(unit);
        let file = OpenOptions::new().create(true).append(true).open(&unit.file).unwrap();
        file.set_len(unit.size.max(FIRST_SIZE)).unwrap();
    }

    pub(crate) fn show(&self, n: u8, lun: u16, portals: &[SocketAddr]) {
        self.unit(n, |_| ());
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.shown.extend(portals.iter().map(|it| ((*it, lun), n)));
    }

    pub(crate) fn hide(&self, lun: u16) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.shown.retain(|(_, it), _| *it != lun);
    }

    pub(crate) fn bytes(&self, n: u8, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        File::open(self.file(n)).unwrap().read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}

impl Target for TestArray {
    fn portals(&self) -> Vec<Portal> {
        let portal = |(address, group)| Portal {
            address,
            target: TARGET.to_owned(),
            group,
            node: format!("node-{}", group % 2),
            reachability: Reachability::Up,
        };
        portals().into_iter().zip(1028..).map(portal).collect()
    }

    fn units(&self, _: &str, portal: SocketAddr) -> BTreeMap<u16, Unit> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = state.shown.iter().filter(|((at, _), _)| *at == portal);
        shown.filter_map(|((_, lun), n)| Some((*lun, state.units.get(n)?.clone()))).collect()
    }
}
