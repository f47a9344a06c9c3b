//! What each release of ONTAP has: the one place where releases and personalities are told apart.
//!
//! "Since" is the first release whose API definition, or whose client library generated from it, has the field. Where
//! that is not settled for a release, the next one counts: a client that does not use what exists loses little, one that
//! names what does not exist is refused.

use std::fmt;
use std::str::FromStr;

use san_core::{ByteSize, Error, ErrorKind};
use serde::Deserialize;

/// A release, e.g. 9, 12, 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) struct Release {
    pub(crate) generation: u16,
    pub(crate) major: u16,
    pub(crate) minor: u16,
}

impl Release {
    /// The oldest one that is served.
    pub(crate) const OLDEST: Self = Self::new(8, 0);

    const fn new(major: u16, minor: u16) -> Self {
        Self { generation: 9, major, minor }
    }

    /// Whether this release has `feature`.
    pub(crate) fn has(self, feature: Feature) -> bool {
        self >= feature.since()
    }

    /// Largest LUN, and largest FlexVol.
    pub(crate) fn largest(self, personality: Personality) -> (ByteSize, ByteSize) {
        let tib = |it: u64| ByteSize::from_gib(it << 10);
        // LUNs of 128 TiB and, on FAS and AFF, FlexVols of 300 TiB came with a patch of 9.12.1, which the release's number
        // does not tell: from 9.13.1 on every patch has them.
        let lun = if self.has(Feature::LargeLuns) { 128 } else { 16 };
        let flexvol = match personality {
            Personality::FasAff if self.has(Feature::LargeLuns) => 300,
            Personality::FasAff | Personality::Asa => 100,
        };
        (tib(lun), tib(flexvol))
    }
}

/// As in `9.12.1`; 9.8 is printed without its zero, as the vendor does.
impl fmt::Display for Release {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.major)?;
        if self.minor == 0 { Ok(()) } else { write!(f, ".{}", self.minor) }
    }
}

impl FromStr for Release {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::new(ErrorKind::InvalidInput, format!("{text:?} is no release of ONTAP"));
        let mut parts = text.split('.').map(str::parse::<u16>);
        let mut next = || parts.next().unwrap_or(Ok(0)).map_err(|_| bad());
        let release = Self { generation: next()?, major: next()?, minor: next()? };
        if parts.next().is_some() { Err(bad()) } else { Ok(release) }
    }
}

/// What a release may have or lack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feature {
    /// Igroups carry a comment. Without it our igroup is told by its name alone.
    IgroupComment,
    /// LUNs tell their node, and mappings the nodes they are reported on. Before, only a mapping tells the LUN's node.
    LunNode,
    /// A LUN can be told to let hosts UNMAP. Before, the array decides; guests' discards reach it only where it does so
    /// by itself.
    UnmapSwitch,
    /// A LUN has exactly the size that was asked for. "Older" releases round to the geometry of the disk they pretend to
    /// be, and which those are is not documented: sizes are read back until here.
    ExactSizes,
    /// A volume's reserve for overwrites can be set. A thin volume has none by itself.
    FractionalReserve,
    /// Deletion may bypass the recovery queue. Before, an immediate deletion is a recoverable one: its name is free at once,
    /// its room and what its clones hang on 12 hours later.
    ForcedDelete,
    /// Autodelete of snapshots has an order and exceptions.
    AutodeleteOrder,
    /// An SVM tells the room in the aggregates that are assigned to it.
    SvmRoom,
    /// The larger limits of [`Release::largest`].
    LargeLuns,
    /// ASA r2 and AFX exist, and the cluster says whether it is one.
    TellsDisaggregated,
}

impl Feature {
    pub(crate) const fn since(self) -> Release {
        match self {
            Self::IgroupComment => Release::new(9, 1),
            Self::LunNode | Self::UnmapSwitch => Release::new(10, 1),
            Self::ExactSizes | Self::FractionalReserve | Self::ForcedDelete | Self::SvmRoom => {
                Release::new(12, 1)
            }
            Self::AutodeleteOrder | Self::LargeLuns => Release::new(13, 1),
            Self::TellsDisaggregated => Release::new(16, 1),
        }
    }
}

/// The kind of system. Both have FlexVols and LUNs and the same API; an ASA serves only SAN protocols and reports all paths
/// of a LUN, those of its node's partner too, as equally good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Personality {
    FasAff,
    Asa,
}

impl Personality {
    /// As it stands in a profile.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::FasAff => "FAS/AFF",
            Self::Asa => "ASA",
        }
    }

    /// That of a stored profile.
    pub(crate) fn of_word(word: &str) -> Self {
        if word == Self::Asa.word() { Self::Asa } else { Self::FasAff }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_parse_print_and_compare() {
        for (text, printed) in [("9.8", "9.8"), ("9.8.0", "9.8"), ("9.12.1", "9.12.1"), ("9.17.1", "9.17.1")]
        {
            assert_eq!(text.parse::<Release>().unwrap().to_string(), printed);
        }
        for bad in ["", "9.x", "9.12.1.1", "nine"] {
            assert!(bad.parse::<Release>().is_err(), "{bad}");
        }
        assert!(Release::new(9, 1) < Release::new(10, 1));
    }

    #[test]
    fn features_come_and_stay() {
        let (old, new) = (Release::OLDEST, Release::new(17, 1));
        for feature in
            [Feature::IgroupComment, Feature::LunNode, Feature::ForcedDelete, Feature::TellsDisaggregated]
        {
            assert!(!old.has(feature) && new.has(feature), "{feature:?}");
            assert!(feature.since().has(feature));
        }
    }

    #[test]
    fn limits_follow_release_and_personality() {
        let tib = |it: u64| ByteSize::from_gib(it << 10);
        assert_eq!(Release::new(12, 1).largest(Personality::FasAff), (tib(16), tib(100)));
        assert_eq!(Release::new(13, 1).largest(Personality::FasAff), (tib(128), tib(300)));
        assert_eq!(Release::new(13, 1).largest(Personality::Asa), (tib(128), tib(100)));
    }
}
