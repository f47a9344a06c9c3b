//! The ownership note on an array object: whose it is, and which operation made it.

use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, OperationId, Owner, Result};

/// The version this build writes.
const SCHEMA: u16 = 1;

/// What a volume is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VolumeKind {
    /// It is written to.
    #[default]
    Disk,
    /// It stays as it is, for clones to be made of it; several nodes may read it at a time.
    Template,
    /// It was deleted and could not go at once; nobody may use it any more.
    Deleting,
}

/// Our note on an array object, written by the request that creates it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// Whose it is, unabridged: names on the array may be shortened, this is not.
    #[serde(flatten)]
    pub owner: Owner,
    /// The operation that created it.
    pub claim: OperationId,
    /// What it is for.
    #[serde(default, skip_serializing_if = "is_disk")]
    pub kind: VolumeKind,
    /// The object of the template it was cloned from, also after it has been made independent of it: a part of the name
    /// by which people know it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the shape serde asks for")]
fn is_disk(kind: &VolumeKind) -> bool {
    *kind == VolumeKind::Disk
}

#[derive(Serialize)]
struct Envelope {
    sanbridge: Versioned,
}

#[derive(Serialize, Deserialize)]
struct Versioned {
    v: u16,
    #[serde(flatten)]
    mark: Mark,
}

#[derive(Deserialize)]
struct VersionOnly {
    v: u16,
}

impl Mark {
    /// The mark of a disk that was not cloned.
    pub fn disk(owner: Owner, claim: OperationId) -> Self {
        Self { owner, claim, kind: VolumeKind::Disk, template: None }
    }

    /// The text to store on the array: one line of JSON.
    pub fn to_text(&self) -> Result<String> {
        serde_json::to_string(&Envelope { sanbridge: Versioned { v: SCHEMA, mark: self.clone() } }).map_err(
            |error| Error::new(ErrorKind::Internal, "cannot write an ownership mark").caused_by(error),
        )
    }

    /// Reads a note. `None`: not one of ours. An error: ours, but of a newer version or damaged, so that nobody may
    /// treat the object as foreign or as free.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let Ok(serde_json::Value::Object(mut note)) = serde_json::from_str(text) else { return Ok(None) };
        let Some(ours) = note.remove("sanbridge") else { return Ok(None) };
        let damaged =
            |error| Error::new(ErrorKind::Conflict, "its ownership mark is damaged").caused_by(error);
        let VersionOnly { v } = serde_json::from_value(ours.clone()).map_err(damaged)?;
        if v != SCHEMA {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("its ownership mark has the unknown version {v}"),
            )
            .with_remedy("update sanbridge on this node"));
        }
        let Versioned { mark, .. } = serde_json::from_value(ours).map_err(damaged)?;
        Ok(Some(mark))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Mark {
        Mark::disk(Owner::new("pve", "san1", "vm-100-disk-0").unwrap(), OperationId::random())
    }

    #[test]
    fn reads_what_it_writes() {
        let template = Mark { kind: VolumeKind::Template, template: Some("base-9-disk-0".into()), ..mark() };
        let deleting = Mark { kind: VolumeKind::Deleting, ..mark() };
        for mark in [mark(), template, deleting] {
            assert_eq!(Mark::parse(&mark.to_text().unwrap()).unwrap(), Some(mark));
        }
    }

    #[test]
    fn a_disk_is_marked_as_it_always_was() {
        let text = mark().to_text().unwrap();
        assert!(!text.contains("kind") && !text.contains("template"), "{text}");
    }

    #[test]
    fn tells_foreign_from_newer() {
        for text in ["", "created by hand", "{}", r#"{"other":1}"#, "[1]"] {
            assert_eq!(Mark::parse(text).unwrap(), None, "{text}");
        }
        for text in [r#"{"sanbridge":{"v":2}}"#, r#"{"sanbridge":{"v":1}}"#, r#"{"sanbridge":7}"#] {
            assert_eq!(Mark::parse(text).unwrap_err().kind(), ErrorKind::Conflict, "{text}");
        }
    }
}
