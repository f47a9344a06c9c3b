//! An array with four portals on two nodes and, on demand, one logical unit.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use san_sim::target::{Portal, Reachability, Target, Unit};

pub(crate) const TARGET: &str = "iqn.1992-08.com.netapp:sn.0123456789:vs.3";

pub(crate) fn portals() -> Vec<SocketAddr> {
    (1..=4).map(|n| SocketAddr::from(([10, 0, 0, n], 3260))).collect()
}

/// The array.
#[derive(Debug, Default)]
pub(crate) struct TestArray {
    pub(crate) shows_unit: AtomicBool,
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

    fn units(&self, _: &str, _: SocketAddr) -> BTreeMap<u16, Unit> {
        let unit = Unit {
            vendor: "NETAPP".to_owned(),
            product: "LUN C-Mode".to_owned(),
            revision: "9161".to_owned(),
            serial: b"80-Bk?TxyZ12".to_vec(),
            naa: *b"\x60\x0a\x09\x8080-Bk?TxyZ12",
            size: 1 << 20,
            file: "/nonexistent".into(),
            optimized: true,
        };
        self.shows_unit.load(Ordering::Relaxed).then_some((7, unit)).into_iter().collect()
    }
}
