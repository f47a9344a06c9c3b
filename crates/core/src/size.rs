//! Capacity. Always in bytes inside, always named at the edge.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ByteSize(u64);

impl ByteSize {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// `n` bytes.
    pub const fn from_bytes(n: u64) -> Self {
        Self(n)
    }

    /// `n` x 1024 bytes, saturating.
    pub const fn from_kib(n: u64) -> Self {
        Self(n.saturating_mul(1 << 10))
    }

    /// `n` x 1024^2 bytes, saturating.
    pub const fn from_mib(n: u64) -> Self {
        Self(n.saturating_mul(1 << 20))
    }

    /// `n` x 1024^3 bytes, saturating.
    pub const fn from_gib(n: u64) -> Self {
        Self(n.saturating_mul(1 << 30))
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The next multiple of `granule`, or `None` where it does not fit in 64 bits or the granule is zero.
    pub fn round_up_to(self, granule: Self) -> Option<Self> {
        self.0.checked_next_multiple_of(granule.0).map(Self)
    }

    /// The sum, saturating.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference, zero where `other` is larger.
    #[must_use]
    pub const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// `n` times, saturating.
    #[must_use]
    pub const fn times(self, n: u64) -> Self {
        Self(self.0.saturating_mul(n))
    }
}

impl fmt::Display for ByteSize {
    /// The largest binary unit that divides the size exactly, so that nothing is hidden by rounding.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)];
        match units.iter().find(|(_, shift)| self.0 != 0 && self.0.trailing_zeros() >= *shift) {
            Some((unit, shift)) => write!(f, "{} {unit}", self.0 >> shift),
            None => write!(f, "{} B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn prints_exactly() {
        let cases =
            [(0, "0 B"), (528 << 10, "528 KiB"), (4 << 20, "4 MiB"), (1 << 30, "1 GiB"), (1025, "1025 B")];
        for (bytes, text) in cases {
            assert_eq!(ByteSize::from_bytes(bytes).to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn rounding_never_shrinks_and_wastes_less_than_a_granule(bytes: u64, granule in 1..1u64 << 40) {
            if let Some(rounded) = ByteSize(bytes).round_up_to(ByteSize(granule)) {
                prop_assert!(rounded.0 >= bytes && rounded.0 - bytes < granule && rounded.0 % granule == 0);
            }
        }
    }
}
