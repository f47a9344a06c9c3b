//! Readers: what makes a volume readable on one node as it was at a snapshot, beside the volume itself.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::wwid::hex;
use crate::{Error, ErrorKind, NodeName, Result, SnapshotName, Volume};

/// Who reads which state of a volume. There is one reader for each, however often it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ReaderSpec {
    /// The node that reads.
    pub node: NodeName,
    /// The state that is read.
    pub snapshot: SnapshotName,
}

impl ReaderSpec {
    /// What its reader is called on the array, beside the volume.
    pub fn name(&self) -> ReaderName {
        let plain = format!("{PREFIX}{}.{}", self.node, self.snapshot);
        if plain.len() <= ReaderName::MAX {
            return ReaderName(plain.into());
        }
        ReaderName(
            format!("{}{}", shortened(&self.node), hash(self.snapshot.as_str(), SNAPSHOT_DIGITS)).into(),
        )
    }
}

/// The name of a reader on the array: `r.<node>.<snapshot>`, or, where that is too long, hashes of both in place of them
/// (`r..<node>.<snapshot>`). Neither part holds a `.`, so that names are distinct; which node reads can always be told.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ReaderName(Box<str>);

const PREFIX: &str = "r.";
/// A cluster has few nodes.
const NODE_DIGITS: usize = 16;
const SNAPSHOT_DIGITS: usize = 24;

impl ReaderName {
    /// Longest name: what the path of a LUN (254) leaves behind the longest name of a FlexVol (203).
    pub const MAX: usize = 45;

    /// What all names of readers begin with, and no name of a disk.
    pub const PREFIX: &str = PREFIX;

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is a reader of this node.
    pub fn is_of(&self, node: &NodeName) -> bool {
        self.0.starts_with(&format!("{PREFIX}{node}.")) || self.0.starts_with(&shortened(node))
    }
}

fn shortened(node: &NodeName) -> String {
    format!("{PREFIX}.{}.", hash(node.as_str(), NODE_DIGITS))
}

fn hash(text: &str, digits: usize) -> String {
    hex(&Sha256::digest(text.as_bytes())[..digits / 2])
}

impl FromStr for ReaderName {
    type Err = Error;
    fn from_str(text: &str) -> Result<Self> {
        let is_hash =
            |it: &str, digits| it.len() == digits && it.bytes().all(|it| b"0123456789abcdef".contains(&it));
        let parts = text.strip_prefix(PREFIX).filter(|_| text.len() <= Self::MAX);
        let is_valid = match parts.map(|it| it.split('.').collect::<Vec<_>>()).as_deref() {
            Some(["", node, snapshot]) => is_hash(node, NODE_DIGITS) && is_hash(snapshot, SNAPSHOT_DIGITS),
            // Only the canonical spelling counts.
            Some([node, snapshot]) => {
                node.parse::<NodeName>().is_ok_and(|it| it.as_str() == *node)
                    && snapshot.parse::<SnapshotName>().is_ok()
            }
            _ => false,
        };
        if is_valid {
            return Ok(Self(text.into()));
        }
        let shown: String = text.chars().take(64).collect();
        Err(Error::new(ErrorKind::InvalidInput, format!("{shown:?} is not the name of a reader")))
    }
}

impl TryFrom<String> for ReaderName {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<ReaderName> for String {
    fn from(it: ReaderName) -> Self {
        it.0.into()
    }
}

impl fmt::Display for ReaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ReaderName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A reader as the array shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reader {
    /// Who reads what.
    pub name: ReaderName,
    /// What is mapped and attached for it: another identity than the volume it reads.
    pub volume: Volume,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(node: &str, snapshot: &str) -> ReaderName {
        ReaderSpec { node: node.parse().unwrap(), snapshot: snapshot.parse().unwrap() }.name()
    }

    #[test]
    fn usual_names_are_readable() {
        assert_eq!(name("pve1", "vzdump").as_str(), "r.pve1.vzdump");
        assert_eq!(name("a-b", "before_update").as_str(), "r.a-b.before_update");
    }

    #[test]
    fn what_is_no_reader_is_told() {
        for text in
            ["", "lun0", "r.", "r.a", "r..", "r.a.", "r.A.b", "r.a.b.c", "r..0123.0123", "x.a.b", "r.a.1b"]
        {
            assert!(text.parse::<ReaderName>().is_err(), "{text}");
        }
    }

    fn node() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z][a-z0-9]{0,4}", "[a-z][a-z0-9-]{0,61}[a-z0-9]", "[ab]{30,40}"]
    }

    fn snapshot() -> impl Strategy<Value = String> {
        prop_oneof!["[a-z]{2,4}", "[A-Za-z][A-Za-z0-9_-]{1,63}", "[ab]{30,40}"]
    }

    proptest! {
        #[test]
        fn names_are_bounded_injective_and_tell_their_node(a in (node(), snapshot()), b in (node(), snapshot())) {
            let (name_a, name_b) = (name(&a.0, &a.1), name(&b.0, &b.1));
            prop_assert!(name_a.as_str().len() <= ReaderName::MAX);
            prop_assert_eq!(name_a.as_str().parse::<ReaderName>().unwrap(), name_a.clone());
            prop_assert_eq!(a == b, name_a == name_b);
            prop_assert!(name_a.is_of(&a.0.parse().unwrap()));
            prop_assert_eq!(a.0 == b.0, name_a.is_of(&b.0.parse().unwrap()));
        }
    }
}
