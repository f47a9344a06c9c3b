//! PVE's names of volumes and storages.

use san_core::{Error, ErrorKind, Result, VolumeKind};

/// A volume of a guest: `vm-<id>-<text>`, a template `base-<id>-<text>`, or either with the template it was cloned from:
/// `base-<id>-<text>/vm-<id>-<text>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskName {
    /// The guest.
    pub(crate) vmid: u64,
    /// What it is for.
    pub(crate) kind: VolumeKind,
    /// Its own name: the last part. No two volumes of a storage share it.
    pub(crate) object: String,
    /// The template it was cloned from.
    pub(crate) template: Option<String>,
}

/// Longest text behind the guest's id.
const TEXT: usize = 180;

impl DiskName {
    /// # Errors
    /// `InvalidInput` for everything that is no volume name.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        let bad = |why: &str| {
            let shown: String = name.chars().take(64).collect();
            Error::new(ErrorKind::InvalidInput, format!("{shown:?} is no volume name: {why}"))
        };
        let Some((template, own)) = name.split_once('/') else { return own_name(name).map_err(bad) };
        if own_name(template).map_err(bad)?.kind != VolumeKind::Template {
            return Err(bad("what stands before the / is no template"));
        }
        Ok(Self { template: Some(template.to_owned()), ..own_name(own).map_err(bad)? })
    }

    /// The name by which PVE knows a volume.
    pub(crate) fn full(template: Option<&str>, object: &str) -> String {
        template.map_or_else(|| object.to_owned(), |it| format!("{it}/{object}"))
    }

    /// The name of the template that this volume becomes.
    pub(crate) fn as_template(&self) -> String {
        self.object.replacen("vm-", "base-", 1)
    }
}

fn own_name(name: &str) -> Result<DiskName, &'static str> {
    let (kind, rest) = match (name.strip_prefix("vm-"), name.strip_prefix("base-")) {
        (Some(rest), _) => (VolumeKind::Disk, rest),
        (_, Some(rest)) => (VolumeKind::Template, rest),
        _ => return Err("it does not begin with vm- or base-"),
    };
    let Some((id, text)) = rest.split_once('-') else { return Err("nothing follows the guest's id") };
    let plain =
        id.bytes().all(|it| it.is_ascii_digit()) && !id.starts_with('0') && (3..=9).contains(&id.len());
    let Some(vmid) = id.parse().ok().filter(|_| plain) else {
        return Err("the guest's id is not 100 to 999999999");
    };
    let allowed = |it: u8| it.is_ascii_alphanumeric() || b"._-".contains(&it);
    if text.is_empty() || text.len() > TEXT || text.starts_with('.') || !text.bytes().all(allowed) {
        return Err(
            "what follows the guest's id is empty, too long or holds other characters than A-Z a-z 0-9 . _ -",
        );
    }
    Ok(DiskName { vmid, kind, object: name.to_owned(), template: None })
}

/// Checks a storage id: `[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]`, at most 100 characters.
pub(crate) fn check_storage_id(id: &str) -> Result<()> {
    let inner = |it: u8| it.is_ascii_alphanumeric() || b"._-".contains(&it);
    let valid = id.len() >= 2
        && id.len() <= 100
        && id.starts_with(|it: char| it.is_ascii_alphabetic())
        && id.ends_with(|it: char| it.is_ascii_alphanumeric())
        && id.bytes().all(inner);
    if valid {
        return Ok(());
    }
    let shown: String = id.chars().take(64).collect();
    Err(Error::new(ErrorKind::InvalidInput, format!("{shown:?} is no storage id")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_volume_kind_pve_makes_is_a_name() {
        for name in [
            "vm-100-disk-0",
            "vm-999999999-disk-1234",
            "vm-100-cloudinit",
            "vm-100-state-before_upgrade",
            "vm-100-state-suspend-2026-01-31",
            "vm-100-fleece-0",
            "vm-100-My.own_disk-7",
            "base-100-disk-0",
            "base-100-disk-0/vm-101-disk-0",
            "base-100-disk-0/base-101-disk-0",
        ] {
            let parsed = DiskName::parse(name).unwrap();
            assert_eq!(DiskName::full(parsed.template.as_deref(), &parsed.object), name);
        }
        let clone = DiskName::parse("base-100-disk-0/vm-101-disk-0").unwrap();
        assert_eq!((clone.vmid, clone.as_template().as_str()), (101, "base-101-disk-0"));
    }

    #[test]
    fn nothing_else_is() {
        for name in [
            "",
            "vm-",
            "vm-100",
            "vm-100-",
            "vm-99-disk-0",
            "vm-1000000000-disk-0",
            "vm-0100-disk-0",
            "vm-100-../x",
            "vm-100-a b",
            "vm-100-a\n",
            "vm-100-.x",
            "VM-100-disk-0",
            "disk",
            "vm-100-d/e",
            "vm-१२३-x",
            "base-100-",
            "/vm-100-disk-0",
            "base-100-disk-0/",
            "vm-100-disk-0/vm-101-disk-0",
            "base-100-disk-0/vm-101-disk-0/vm-102-disk-0",
            "base-100-disk-0/../vm-101-disk-0",
        ] {
            assert_eq!(DiskName::parse(name).unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
        }
        for id in ["", "a", "1a", "a-", "a/b", "a b", ".."] {
            assert!(check_storage_id(id).is_err(), "{id}");
        }
    }
}
