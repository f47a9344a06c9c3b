//! ONTAP releases and personalities: what a simulated array claims to be.

use std::fmt;
use std::str::FromStr;

/// An ONTAP release, for example 9.16.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 9 for every release with the REST API.
    pub generation: u16,
    /// 12 in 9.12.1.
    pub major: u16,
    /// 1 in 9.12.1.
    pub minor: u16,
}

impl Version {
    /// The oldest release whose rows are in the tables.
    pub const OLDEST: Self = Self::new(9, 8, 0);
    /// The newest release whose rows are in the tables.
    pub const NEWEST: Self = Self::new(9, 17, 1);
    /// Every release that the tables cover, oldest first.
    pub const ALL: [Self; 10] = [
        Self::OLDEST,
        Self::new(9, 9, 1),
        Self::new(9, 10, 1),
        Self::new(9, 11, 1),
        Self::new(9, 12, 1),
        Self::new(9, 13, 1),
        Self::new(9, 14, 1),
        Self::new(9, 15, 1),
        Self::new(9, 16, 1),
        Self::NEWEST,
    ];

    /// Names a release by its three numbers.
    pub const fn new(generation: u16, major: u16, minor: u16) -> Self {
        Self { generation, major, minor }
    }

    /// Whether the tables cover this release.
    pub fn is_covered(self) -> bool {
        Self::ALL.contains(&self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.generation, self.major)?;
        // As the vendor writes it: 9.8, and 9.9.1.
        if self.minor == 0 { Ok(()) } else { write!(f, ".{}", self.minor) }
    }
}

/// Why a text is not a release this simulator knows.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an ONTAP release from {old} to {new}", old = Version::OLDEST, new = Version::NEWEST)]
pub struct UnknownVersion(String);

impl FromStr for Version {
    type Err = UnknownVersion;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split('.').map(str::parse::<u16>);
        let mut next = || parts.next().unwrap_or(Ok(0)).map_err(|_| UnknownVersion(text.to_owned()));
        let version = Self::new(next()?, next()?, next()?);
        if parts.next().is_some() || !version.is_covered() {
            return Err(UnknownVersion(text.to_owned()));
        }
        Ok(version)
    }
}

/// The kind of system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Personality {
    /// FAS or AFF: volumes, LUNs and everything else ("unified").
    Unified,
    /// ASA, the SAN-only system with the same API: every path of a LUN is as good as any other.
    Asa,
    /// ASA r2: only what tells a client that it is one; its storage units are not simulated.
    AsaR2,
    /// AFX: only what tells a client that it is one.
    Afx,
}

impl Personality {
    /// Whether the cluster calls itself optimised for SAN.
    pub(crate) fn is_san_optimized(self) -> bool {
        matches!(self, Self::Asa | Self::AsaR2)
    }

    /// Whether the cluster calls itself disaggregated.
    pub(crate) fn is_disaggregated(self) -> bool {
        matches!(self, Self::AsaR2 | Self::Afx)
    }

    /// The first release that such systems run.
    pub(crate) fn since(self) -> Version {
        if self.is_disaggregated() { Version::new(9, 16, 1) } else { Version::OLDEST }
    }

    /// What a node calls its model.
    pub(crate) fn model(self) -> &'static str {
        match self {
            Self::Unified => "AFF-A250",
            Self::Asa => "ASA-A250",
            Self::AsaR2 => "ASA-A20",
            Self::Afx => "AFX-1K",
        }
    }
}

/// `fas`, `aff` and `unified` are one; then `asa`, `asar2`, `afx`.
impl FromStr for Personality {
    type Err = UnknownPersonality;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "fas" | "aff" | "unified" => Ok(Self::Unified),
            "asa" => Ok(Self::Asa),
            "asar2" => Ok(Self::AsaR2),
            "afx" => Ok(Self::Afx),
            _ => Err(UnknownPersonality(text.to_owned())),
        }
    }
}

/// Why a text is not a kind of system.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not one of fas, aff, asa, asar2, afx")]
pub struct UnknownPersonality(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_parse_print_and_compare() {
        let new: Version = "9.16.1".parse().unwrap();
        let old: Version = "9.12.1".parse().unwrap();
        assert!(old < new);
        assert_eq!(new.to_string(), "9.16.1");
        assert_eq!("9.8".parse::<Version>().unwrap().to_string(), "9.8");
        assert!(Version::ALL.is_sorted());
        for bad in ["", "9", "9.7.0", "9.12.3", "9.99.1", "9.12.1.1", "x.y.z", "10.1.0"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }
}
