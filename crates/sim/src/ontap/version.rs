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

    /// Names a release by its three numbers.
    pub const fn new(generation: u16, major: u16, minor: u16) -> Self {
        Self { generation, major, minor }
    }

    /// Whether the tables cover this release.
    pub fn is_covered(self) -> bool {
        (Self::OLDEST..=Self::NEWEST).contains(&self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.generation, self.major, self.minor)
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

/// The kind of system. Others than FAS/AFF are not simulated yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Personality {
    /// FAS or AFF: volumes, LUNs and everything else ("unified").
    Unified,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_parse_print_and_compare() {
        let new: Version = "9.16.1".parse().unwrap();
        let old: Version = "9.12.1".parse().unwrap();
        assert!(old < new);
        assert_eq!(new.to_string(), "9.16.1");
        for bad in ["", "9", "9.7.0", "9.99.1", "9.12.1.1", "x.y.z", "10.1.0"] {
            assert!(bad.parse::<Version>().is_err(), "{bad}");
        }
    }
}
