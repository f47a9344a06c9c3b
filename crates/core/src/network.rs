//! Networks of the internet protocol, and which of an array's ports a volume uses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Lun, Result, TargetPort};

/// An address, or all addresses that begin alike: `10.0.0.1`, `10.0.0.0/24`, `2001:db8::/64`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    first: IpAddr,
    prefix: u8,
}

impl Network {
    /// The network of this many leading bits around an address.
    fn around(address: IpAddr, prefix: u8) -> Self {
        Self { first: masked(address.to_canonical(), prefix), prefix }
    }

    /// Whether an address is in it. A version 4 address in the clothes of version 6 is the former.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.first.is_ipv4() && masked(address, self.prefix) == self.first
    }
}

fn masked(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(it) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
            Ipv4Addr::from_bits(it.to_bits() & mask).into()
        }
        IpAddr::V6(it) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
            Ipv6Addr::from_bits(it.to_bits() & mask).into()
        }
    }
}

impl FromStr for Network {
    type Err = Error;

    /// An address with or without brackets, and perhaps a `/` and the number of leading bits. What follows those bits must
    /// be zero: `10.0.0.1/24` may be meant either way.
    fn from_str(text: &str) -> Result<Self> {
        let text = text.trim();
        let bad = |why: &str| {
            let shown: String = text.chars().filter(|it| !it.is_control()).take(64).collect();
            Error::new(ErrorKind::InvalidInput, format!("{shown:?} {why}"))
        };
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address = address.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(address);
        let address: IpAddr =
            address.parse().map_err(|_| bad("is neither an IP address nor a network (address/bits)"))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix =
            match prefix {
                None => most,
                Some(it) => it.parse().ok().filter(|it| *it <= most).ok_or_else(|| {
                    bad(&format!("is no network: behind the / belongs a number up to {most}"))
                })?,
            };
        if masked(address, prefix) != address {
            let network = Self { first: masked(address, prefix), prefix };
            return Err(bad(&format!("is an address within the network {network}, not a network")));
        }
        // An address of version 4 written as one of version 6 has 96 bits more in front.
        let inner = if address.to_canonical() == address { prefix } else { prefix.saturating_sub(96) };
        Ok(Self::around(address, inner))
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = if self.first.is_ipv4() { 32 } else { 128 };
        match self.prefix {
            it if it == whole => write!(f, "{}", self.first),
            it => write!(f, "{}/{it}", self.first),
        }
    }
}

impl Serialize for Network {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text: String = Deserialize::deserialize(from)?;
        text.parse().map_err(|error: Error| serde::de::Error::custom(error.message()))
    }
}

/// What a port shares with others when something fails: its controller, and the network it is on.
fn shared(port: &TargetPort) -> (Option<String>, Option<Network>) {
    let fabric = match port {
        TargetPort::Iscsi { portal, .. } => {
            // Nobody tells the true length; storage networks of other lengths are rarely split finer.
            let bits = if portal.ip().to_canonical().is_ipv4() { 24 } else { 64 };
            Some(Network::around(portal.ip(), bits))
        }
    };
    (port.node().map(str::to_owned), fabric)
}

/// At most `most` of `ports`, spread over controllers first and over networks second. The same ports for the same number,
/// and others for the next one, so that many volumes together use all of them.
pub fn spread(ports: &[TargetPort], most: usize, lun: Lun) -> Vec<TargetPort> {
    if ports.len() <= most {
        return ports.to_vec();
    }
    let mut left = ports.to_vec();
    left.sort();
    left.rotate_left(usize::from(lun.number()) % ports.len());
    let mut chosen: Vec<TargetPort> = Vec::new();
    while chosen.len() < most && !left.is_empty() {
        // How much of what it would share is taken already.
        let taken = |port: &TargetPort| {
            let (node, fabric) = shared(port);
            let others = || chosen.iter().map(shared);
            (
                others().filter(|it| it.0 == node).count(),
                others().filter(|it| it.1 == fabric).count(),
                others().filter(|it| it.0 == node && it.1 == fabric).count(),
            )
        };
        let Some(best) = (0..left.len()).min_by_key(|it| left.get(*it).map(&taken)) else { break };
        chosen.push(left.remove(best));
    }
    chosen.sort();
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_addresses_or_begin_alike() {
        for (network, inside, outside) in [
            ("10.0.0.1", "10.0.0.1", "10.0.0.10"),
            ("10.0.0.0/24", "10.0.0.255", "10.0.1.0"),
            ("0.0.0.0/0", "192.0.2.1", "2001:db8::1"),
            ("2001:db8::/64", "2001:db8::ffff", "2001:db8:0:1::1"),
            ("[2001:db8::1]", "2001:db8:0::1", "2001:db8::2"),
            ("::ffff:10.0.0.1", "10.0.0.1", "10.0.0.2"),
            ("10.0.0.1", "::ffff:10.0.0.1", "::1"),
        ] {
            let it: Network = network.parse().unwrap();
            assert!(it.contains(inside.parse().unwrap()), "{network} {inside}");
            assert!(!it.contains(outside.parse().unwrap()), "{network} {outside}");
            assert_eq!(it.to_string().parse::<Network>().unwrap(), it);
        }
        for text in ["", "10.0.0.1/24", "10.0.0.0/33", "2001:db8::/129", "host", "10.0.0.0/", "10.0.0.0/x"] {
            assert_eq!(text.parse::<Network>().unwrap_err().kind(), ErrorKind::InvalidInput, "{text}");
        }
    }

    fn port(node: u8, fabric: u8, number: u8) -> TargetPort {
        TargetPort::Iscsi {
            portal: (IpAddr::from([10, 0, fabric, 10 * node + number]), 3260).into(),
            target: "iqn.1992-08.com.netapp:sn.1:vs.2".parse().unwrap(),
            node: Some(format!("node{node}")),
        }
    }

    #[test]
    fn few_ports_are_spread_over_controllers_and_networks_and_many_volumes_use_all() {
        let mut ports = Vec::new();
        for node in [1, 2] {
            for fabric in [1, 2] {
                ports.extend([port(node, fabric, 0), port(node, fabric, 1)]);
            }
        }
        let mut used = std::collections::BTreeSet::new();
        for number in 1..=8 {
            let lun = Lun::new(number).unwrap();
            let chosen = spread(&ports, 4, lun);
            let kinds: std::collections::BTreeSet<_> = chosen.iter().map(shared).collect();
            assert_eq!((chosen.len(), kinds.len()), (4, 4), "{chosen:?}");
            let two = spread(&ports, 2, lun);
            assert_ne!(two[0].node(), two[1].node());
            assert_ne!(shared(&two[0]).1, shared(&two[1]).1, "{two:?}");
            let mut turned = ports.clone();
            turned.reverse();
            assert_eq!(
                spread(&turned, 4, lun),
                chosen,
                "the order in which the array names them is no matter"
            );
            used.extend(chosen);
        }
        assert_eq!(used.len(), ports.len());
        assert_eq!(spread(&ports, 8, Lun::new(1).unwrap()), ports);
    }
}
