//! What a volume is: identifiers the device itself reports, never names or numbers somebody gave it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind};

/// A world-wide identifier as the device reports it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum Wwid {
    /// A registered extended NAA identifier of type 6 (SPC, VPD page 0x83), 16 bytes.
    Naa6([u8; 16]),
}

impl Wwid {
    /// The name device-mapper multipath gives the map of such a device: `3` (the designator type) and the hex digits.
    pub fn multipath_name(&self) -> String {
        match self {
            Self::Naa6(bytes) => format!("3{}", hex(bytes)),
        }
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

impl fmt::Display for Wwid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Naa6(bytes) => write!(f, "naa.{}", hex(bytes)),
        }
    }
}

impl fmt::Debug for Wwid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Wwid {
    type Err = Error;

    /// Accepts `naa.6...`, `0x6...`, the bare digits, and the multipath form `36...`, in any case.
    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = || Error::new(ErrorKind::InvalidInput, format!("{text:?} is not an NAA type 6 identifier"));
        let lower = text.trim().to_ascii_lowercase();
        let digits = lower.strip_prefix("naa.").or_else(|| lower.strip_prefix("0x")).unwrap_or(&lower);
        let digits = if digits.len() == 33 { digits.strip_prefix('3').ok_or_else(bad)? } else { digits };
        if digits.len() != 32 || !digits.starts_with('6') || !digits.bytes().all(|it| it.is_ascii_hexdigit())
        {
            return Err(bad());
        }
        let mut bytes = [0; 16];
        for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Self::Naa6(bytes))
    }
}

impl TryFrom<String> for Wwid {
    type Error = Error;
    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Wwid> for String {
    fn from(it: Wwid) -> Self {
        it.to_string()
    }
}

/// The two independent identifiers of a volume. Every leg must report this one before it carries a byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// VPD page 0x83.
    pub wwid: Wwid,
    /// The array's serial number of the volume (VPD page 0x80 where the array reports it there).
    pub serial: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (serial {})", self.wwid, self.serial)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_what_is_not_naa6() {
        for text in
            ["", "3", "naa.5000c500a1b2c3d4", "eui.0025385b71b0d1c2", "36", &"6".repeat(31), &"z".repeat(32)]
        {
            assert!(text.parse::<Wwid>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn all_spellings_are_one_value(mut bytes: [u8; 16]) {
            bytes[0] = 0x60 | (bytes[0] & 0x0f);
            let wwid = Wwid::Naa6(bytes);
            let digits = hex(&bytes);
            for text in [wwid.to_string(), wwid.multipath_name(), format!("0x{digits}"), digits.to_uppercase()] {
                prop_assert_eq!(text.parse::<Wwid>().unwrap(), wwid);
            }
        }
    }
}
