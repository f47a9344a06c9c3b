//! The device contract on the releases in use and on the settings an administrator may have chosen.

use san_sim::host::{FindMultipaths, NodeSpec, Release, Sockets, UnshownLun};

use crate::fixture::Fixture;

fn spec() -> NodeSpec {
    NodeSpec::new("pve1", "iqn.1993-08.org.debian:01:pve1")
}

mod debian_13 {
    san_contract::device_contract!(super::Fixture::on(super::spec()));
}

/// multipath-tools that give no reasons.
mod debian_12 {
    fn spec() -> super::NodeSpec {
        super::NodeSpec { release: super::Release::Debian12, ..super::spec() }
    }

    san_contract::device_contract!(super::Fixture::on(spec()));
}

/// 17: a LUN that is not mapped yet leaves a device without a disk behind.
mod unmapped_luns_answer {
    fn spec() -> super::NodeSpec {
        super::NodeSpec { unshown: super::UnshownLun::Diskless, ..super::spec() }
    }

    san_contract::device_contract!(super::Fixture::on(spec()));
}

/// 42: multipathd takes every path by itself.
mod find_multipaths_off {
    fn spec() -> super::NodeSpec {
        let mut spec = super::spec();
        spec.multipath.find_multipaths = super::FindMultipaths::Off;
        // Newer releases listen in the file system too.
        spec.multipath.sockets = super::Sockets::Both;
        spec
    }

    san_contract::device_contract!(super::Fixture::on(spec()));
}
