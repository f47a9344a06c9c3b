//! From owner to array name and back: readable, injective whatever the array's alphabet loses, bounded.
//!
//! A name is `sb__<realm>__<space>__<object>`. Within a part, lower-case letters (but `q`) and digits stand for
//! themselves, and a `-` between two of them is written `_`; everything else is `q` and two hex digits. So `__` occurs
//! only between parts, and names stay distinct even where an array compares them without regard to case. A part that
//! is too long becomes a readable beginning, `qh` and 128 bits of its SHA-256: no escape begins with `qh`, so a
//! shortened part never equals a plain one. The original is always in the mark.

use sha2::{Digest, Sha256};

use crate::wwid::hex;
use crate::{Error, ErrorKind, Owner, Result, VolumeName};

/// What an array allows in a name. Our names use only `a-z`, `0-9` and `_`, which every supported array allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct NameRules {
    /// Longest name in characters.
    pub max: usize,
}

/// Makes array names of owners.
#[derive(Debug, Clone, Copy)]
pub struct NameCodec {
    max_part: usize,
    max_object: usize,
}

const PREFIX: &str = "sb";
const SEPARATOR: &str = "__";
const HASH_DIGITS: usize = 32;
/// `qh` and the digits.
const HASH_LENGTH: usize = 2 + HASH_DIGITS;

impl NameCodec {
    /// A codec for names of at most `rules.max` characters.
    ///
    /// # Errors
    /// `Unsupported` where three shortened parts would not fit.
    pub fn new(rules: NameRules) -> Result<Self> {
        let fixed = PREFIX.len() + 3 * SEPARATOR.len();
        let room = rules.max.saturating_sub(fixed);
        let max_part = (room / 4).max(HASH_LENGTH);
        match room.checked_sub(2 * max_part) {
            Some(max_object) if max_object >= HASH_LENGTH => Ok(Self { max_part, max_object }),
            _ => Err(Error::new(
                ErrorKind::Unsupported,
                format!("names of {} characters are too short", rules.max),
            )),
        }
    }

    /// The array name of `owner`.
    pub fn encode(&self, owner: &Owner) -> Result<VolumeName> {
        let object = part(owner.object(), self.max_object);
        format!("{}{object}", self.prefix(owner.realm(), owner.space())).parse()
    }

    /// What the names of all objects of one space begin with, and no other name does.
    pub fn prefix(&self, realm: &str, space: &str) -> String {
        let (realm, space) = (part(realm, self.max_part), part(space, self.max_part));
        [PREFIX, &realm, &space, ""].join(SEPARATOR)
    }

    /// The owner a name spells out. `None`: not a name of ours, or a shortened one, whose owner only the mark knows.
    pub fn decode(&self, name: &str) -> Option<Owner> {
        let mut parts = name.split(SEPARATOR);
        if parts.next()? != PREFIX {
            return None;
        }
        let (realm, space, object) = (unpart(parts.next()?)?, unpart(parts.next()?)?, unpart(parts.next()?)?);
        if parts.next().is_some() {
            return None;
        }
        let owner = Owner::new(&realm, &space, &object).ok()?;
        // Only the canonical spelling counts: a hand-made look-alike is not ours.
        (self.encode(&owner).ok()?.as_str() == name).then_some(owner)
    }
}

fn is_plain(byte: u8) -> bool {
    byte.is_ascii_digit() || (byte.is_ascii_lowercase() && byte != b'q')
}

fn part(text: &str, max: usize) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(bytes.len());
    // How much of `out` may stay when the part has to be shortened: never half an escape.
    let mut keep = 0;
    for (index, &byte) in bytes.iter().enumerate() {
        let between = index.checked_sub(1).is_some_and(|it| is_plain(bytes[it]))
            && bytes.get(index + 1).is_some_and(|it| is_plain(*it));
        if is_plain(byte) {
            out.push(char::from(byte));
        } else if byte == b'-' && between {
            out.push('_');
        } else {
            out.push('q');
            out.push_str(&hex(&[byte]));
        }
        if out.len() + HASH_LENGTH <= max {
            keep = out.len();
        }
    }
    if out.len() <= max {
        return out;
    }
    out.truncate(keep);
    out.push_str("qh");
    out.push_str(&hex(&Sha256::digest(bytes)[..HASH_DIGITS / 2]));
    out
}

fn unpart(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'_' => out.push('-'),
            b'q' => {
                let digits = [rest.next()?, rest.next()?];
                let code = u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?;
                out.push(char::from(code));
            }
            other if is_plain(other) => out.push(char::from(other)),
            _ => return None,
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RULES: NameRules = NameRules { max: 203 };

    fn codec() -> NameCodec {
        NameCodec::new(RULES).unwrap()
    }

    fn encode(realm: &str, space: &str, object: &str) -> String {
        codec().encode(&Owner::new(realm, space, object).unwrap()).unwrap().to_string()
    }

    #[test]
    fn usual_names_are_readable() {
        assert_eq!(encode("pve", "netapp-a", "vm-100-disk-0"), "sb__pve__netapp_a__vm_100_disk_0");
        assert_eq!(encode("PVE", "a_b", "vm-1-x"), "sb__q50q56q45__aq5fb__vm_1_x");
    }

    #[test]
    fn pairs_that_other_naming_schemes_let_collide_stay_apart() {
        let long = "s".repeat(40);
        let owners = [
            ("pve", "a-b", "vm-100-disk-0"),
            ("pve", "a_b", "vm-100-disk-0"),
            ("pve", "a.b", "vm-100-disk-0"),
            ("pve", "A-B", "vm-100-disk-0"),
            ("pve2", "a-b", "vm-100-disk-0"),
            ("pve", "a", "b-vm-100-disk-0"),
            ("pve", "a--b", "vm-100-disk-0"),
            ("pve", "a", "b__vm-100-disk-0"),
            ("pve", &format!("{long}1"), "vm-100-disk-0"),
            ("pve", &format!("{long}2"), "vm-100-disk-0"),
        ];
        let mut names: Vec<String> =
            owners.iter().map(|(realm, space, object)| encode(realm, space, object).to_lowercase()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), owners.len());
    }

    #[test]
    fn a_prefix_covers_its_space_and_no_other() {
        let prefix = codec().prefix("pve", "a");
        assert!(encode("pve", "a", "vm-1-x").starts_with(&prefix));
        assert!(!encode("pve", "a-b", "vm-1-x").starts_with(&prefix));
        assert!(!encode("pve", "ab", "vm-1-x").starts_with(&prefix));
    }

    #[test]
    fn look_alikes_are_not_ours() {
        for name in [
            "",
            "sb",
            "sb__a__b",
            "sb__a__b__c__d",
            "sb__a__b__q61",
            "SB__a__b__c",
            "sb__a__b__",
            "sb__a__b___c",
        ] {
            assert_eq!(codec().decode(name), None, "{name}");
        }
    }

    #[test]
    fn too_short_a_name_space_is_refused() {
        assert!(NameCodec::new(NameRules { max: 80 }).is_err());
        assert!(NameCodec::new(NameRules { max: 110 }).is_ok());
    }

    fn part_text() -> impl Strategy<Value = String> {
        prop_oneof![
            "[A-Za-z][A-Za-z0-9._-]{0,60}[A-Za-z0-9]",
            "[!-~&&[^/\"\\\\.]][!-~&&[^/\"\\\\]]{0,199}",
            "[a-c_q-]{1,6}"
        ]
    }

    fn object_text() -> impl Strategy<Value = String> {
        let id = 100..=999_999_999u32;
        prop_oneof![
            (id.clone(), 0..1000u16).prop_map(|(id, n)| format!("vm-{id}-disk-{n}")),
            id.clone().prop_map(|id| format!("vm-{id}-cloudinit")),
            (id.clone(), "[A-Za-z][A-Za-z0-9_-]{1,39}")
                .prop_map(|(id, snap)| format!("vm-{id}-state-{snap}")),
            (id.clone(), 0..99u8).prop_map(|(id, n)| format!("vm-{id}-fleece-{n}")),
            (id.clone(), "[A-Za-z0-9._+-]{1,150}").prop_map(|(id, text)| format!("vm-{id}-{text}")),
            (id, 0..99u8).prop_map(|(id, n)| format!("base-{id}-disk-{n}")),
            part_text(),
        ]
    }

    proptest! {
        #[test]
        fn names_are_bounded_injective_and_come_back(
            a in (part_text(), part_text(), object_text()),
            b in (part_text(), part_text(), object_text()),
            max in prop_oneof![Just(110usize), Just(203), Just(255)],
        ) {
            let codec = NameCodec::new(NameRules { max }).unwrap();
            let owner_a = Owner::new(&a.0, &a.1, &a.2).unwrap();
            let owner_b = Owner::new(&b.0, &b.1, &b.2).unwrap();
            let (name_a, name_b) = (codec.encode(&owner_a).unwrap(), codec.encode(&owner_b).unwrap());
            prop_assert!(name_a.as_str().len() <= max);
            prop_assert!(name_a.as_str().bytes().all(|it| it == b'_' || it.is_ascii_lowercase() || it.is_ascii_digit()));
            prop_assert!(name_a.as_str().starts_with(&codec.prefix(owner_a.realm(), owner_a.space())));
            prop_assert_eq!(owner_a == owner_b, name_a == name_b);
            if let Some(decoded) = codec.decode(name_a.as_str()) {
                prop_assert_eq!(decoded, owner_a);
            } else {
                prop_assert!(name_a.as_str().contains("qh"));
            }
        }
    }
}
