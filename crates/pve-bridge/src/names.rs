//! PVE's names of volumes and storages, as far as this version makes them.

use san_core::{Error, ErrorKind, Result};

/// A volume of a guest: `vm-<id>-<text>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DiskName {
    /// The guest.
    pub(crate) vmid: u64,
}

/// Longest text behind the guest's id.
const TEXT: usize = 180;

impl DiskName {
    /// # Errors
    /// `Unsupported` for bases and linked clones, `InvalidInput` for everything else that is no volume name.
    pub(crate) fn parse(name: &str) -> Result<Self> {
        let bad = |why: &str| {
            let shown: String = name.chars().take(64).collect();
            Err(Error::new(ErrorKind::InvalidInput, format!("{shown:?} is no volume name: {why}")))
        };
        if name.starts_with("base-") {
            return Err(Error::new(ErrorKind::Unsupported, "templates and linked clones are not supported"));
        }
        let Some(rest) = name.strip_prefix("vm-") else { return bad("it does not begin with vm-") };
        let Some((id, text)) = rest.split_once('-') else { return bad("nothing follows the guest's id") };
        let plain =
            id.bytes().all(|it| it.is_ascii_digit()) && !id.starts_with('0') && (3..=9).contains(&id.len());
        let Some(vmid) = id.parse().ok().filter(|_| plain) else {
            return bad("the guest's id is not 100 to 999999999");
        };
        let allowed = |it: u8| it.is_ascii_alphanumeric() || b"._-".contains(&it);
        if text.is_empty() || text.len() > TEXT || text.starts_with('.') || !text.bytes().all(allowed) {
            return bad(
                "what follows the guest's id is empty, too long or holds other characters than A-Z a-z 0-9 . _ -",
            );
        }
        Ok(Self { vmid })
    }
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
        ] {
            assert!(DiskName::parse(name).is_ok(), "{name}");
        }
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
        ] {
            assert_eq!(DiskName::parse(name).unwrap_err().kind(), ErrorKind::InvalidInput, "{name}");
        }
        assert_eq!(DiskName::parse("base-100-disk-0").unwrap_err().kind(), ErrorKind::Unsupported);
        for id in ["", "a", "1a", "a-", "a/b", "a b", ".."] {
            assert!(check_storage_id(id).is_err(), "{id}");
        }
    }
}
