//! Identifiers: parsed once, printed one way.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Error, ErrorKind, Result};

fn invalid(what: &str, text: &str, why: &str) -> Error {
    // A hostile name must not flood a log.
    let shown: String = text.chars().take(64).collect();
    Error::new(ErrorKind::InvalidInput, format!("{shown:?} is not a valid {what}: {why}"))
}

/// A text newtype: one parser, one canonical value, bare `Debug` and `Display`, checked again when deserialised.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// The canonical text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = Error;
            fn from_str(text: &str) -> Result<Self> {
                let check: fn(&str) -> Result<String, &'static str> = $check;
                check(text).map(|it| Self(it.into())).map_err(|why| invalid($what, text, why))
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(text: String) -> Result<Self> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(it: $name) -> Self {
                it.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

fn plain(text: &str, max: usize, extra: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        Err("it is empty")
    } else if text.len() > max {
        Err("it is too long")
    } else if !text.bytes().all(|it| it.is_ascii_alphanumeric() || extra.as_bytes().contains(&it)) {
        Err("it holds a character that is not allowed")
    } else {
        Ok(text.to_owned())
    }
}

text_id!(
    /// The name of a volume on the array, as [`crate::NameCodec`] makes it.
    VolumeName,
    "volume name",
    |text| plain(text, 255, "_-.")
);

text_id!(
    /// The name a person gave a snapshot: a letter, then letters, digits, `-` and `_`, at most 64 characters.
    SnapshotName,
    "snapshot name",
    |text| {
        if text.starts_with(|it: char| it.is_ascii_alphabetic()) {
            plain(text, 64, "_-")
        } else {
            Err("it does not begin with a letter")
        }
    }
);

text_id!(
    /// The name of a hypervisor node: a host name without a domain, lower case.
    NodeName,
    "node name",
    |text| {
        let lower = text.to_ascii_lowercase();
        if lower.starts_with('-') || lower.ends_with('-') { Err("it begins or ends with '-'") } else { plain(&lower, 63, "-") }
    }
);

text_id!(
    /// An iSCSI qualified name (RFC 7143: `iqn.`, `eui.` or `naa.`, at most 223 bytes), lower-cased as the RFC compares it.
    Iqn,
    "iSCSI name",
    |text| {
        let lower = text.trim().to_ascii_lowercase();
        if ["iqn.", "eui.", "naa."].iter().any(|it| lower.starts_with(it)) {
            plain(&lower, 223, ".-:")
        } else {
            Err("it begins with neither iqn., eui. nor naa.")
        }
    }
);

text_id!(
    /// The array's own unchangeable key of an object (for example a UUID, or several joined): opaque to everybody but the backend that made it.
    ArrayId,
    "array object id",
    |text| plain(text, 255, "-:_./")
);

/// Whose an array object is. The bridge maps its hypervisor's words to the three parts (for PVE: cluster, storage, disk).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "OwnerParts", into = "OwnerParts")]
pub struct Owner {
    realm: Box<str>,
    space: Box<str>,
    object: Box<str>,
}

#[derive(Serialize, Deserialize)]
struct OwnerParts {
    realm: String,
    space: String,
    object: String,
}

impl Owner {
    /// Longest part. Three of them fit the smallest place a mark is stored in (1023 characters on a FlexVol).
    pub const MAX_PART: usize = 200;

    /// Parts are one to 200 characters of visible ASCII without `/`, `"` and `\`, and do not begin with `.`: each is
    /// also the name of a file.
    pub fn new(realm: &str, space: &str, object: &str) -> Result<Self> {
        for (part, text) in [("owner realm", realm), ("owner space", space), ("owner object", object)] {
            if text.is_empty() || text.len() > Self::MAX_PART {
                return Err(invalid(part, text, "its length is not 1 to 200"));
            }
            if text.starts_with('.')
                || !text.bytes().all(|it| it.is_ascii_graphic() && !b"/\"\\".contains(&it))
            {
                return Err(invalid(part, text, "it holds a character that is not allowed"));
            }
        }
        Ok(Self { realm: realm.into(), space: space.into(), object: object.into() })
    }

    /// The outermost part: two realms never see each other's objects.
    pub fn realm(&self) -> &str {
        &self.realm
    }

    /// The middle part: one storage.
    pub fn space(&self) -> &str {
        &self.space
    }

    /// The innermost part: one disk.
    pub fn object(&self) -> &str {
        &self.object
    }
}

impl TryFrom<OwnerParts> for Owner {
    type Error = Error;
    fn try_from(it: OwnerParts) -> Result<Self> {
        Self::new(&it.realm, &it.space, &it.object)
    }
}

impl From<Owner> for OwnerParts {
    fn from(it: Owner) -> Self {
        Self { realm: it.realm.into(), space: it.space.into(), object: it.object.into() }
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.realm, self.space, self.object)
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A logical unit number, 0 to 16383 (what flat addressing can carry).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct Lun(u16);

impl Lun {
    /// `None` above 16383.
    pub fn new(number: u16) -> Option<Self> {
        (number <= 16383).then_some(Self(number))
    }

    /// The number.
    pub fn number(self) -> u16 {
        self.0
    }
}

impl TryFrom<u16> for Lun {
    type Error = Error;
    fn try_from(number: u16) -> Result<Self> {
        Self::new(number)
            .ok_or_else(|| invalid("logical unit number", &number.to_string(), "it is above 16383"))
    }
}

impl From<Lun> for u16 {
    fn from(it: Lun) -> Self {
        it.0
    }
}

impl fmt::Display for Lun {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of one operation: also its claim on what it creates.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperationId(Uuid);

impl OperationId {
    /// A new id.
    pub fn random() -> Self {
        Self(Uuid::new_v4())
    }
}

impl FromStr for OperationId {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        Uuid::try_parse(text).map(Self).map_err(|_| invalid("operation id", text, "it is not a UUID"))
    }
}

impl fmt::Display for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.simple().fmt(f)
    }
}

impl fmt::Debug for OperationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_canonical() {
        assert_eq!("IQN.2010-10.org:Host".parse::<Iqn>().unwrap().as_str(), "iqn.2010-10.org:host");
        assert_eq!("PVE1".parse::<NodeName>().unwrap().as_str(), "pve1");
        for text in ["", "a b", "a/b", "naïve", "a\n", &"x".repeat(256)] {
            assert!(text.parse::<VolumeName>().is_err(), "{text:?}");
        }
        for text in ["", "1st", "-a", "a.b", "a/../b"] {
            assert!(text.parse::<SnapshotName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn what_was_stored_is_checked_again() {
        assert!(serde_json::from_str::<VolumeName>("\"a/b\"").is_err());
        assert!(serde_json::from_str::<Owner>(r#"{"realm":"","space":"s","object":"o"}"#).is_err());
        assert!(serde_json::from_str::<Lun>("16384").is_err());
    }
}
