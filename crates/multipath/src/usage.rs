//! Who uses a device, by what the kernel says of its number: stacked devices, mounts, swap, open handles.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use san_core::{Cx, DeviceNumber, Error, ErrorKind, Holder, Result, Usage, Wwid};

use crate::Multipath;
use crate::leg::{Present, device_of, parse_number};
use crate::map::{BLOCK, Map};

const MOUNTS: &str = "/proc/self/mountinfo";
const SWAPS: &str = "/proc/swaps";
const TABLE_MAX: usize = 16 << 20;

/// What is mounted and swapped to on this node.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    mounts: HashMap<DeviceNumber, Vec<PathBuf>>,
    /// File names below `/dev`, as the kernel prints them.
    swaps: Vec<String>,
}

impl Tables {
    fn parse(mounts: &[u8], swaps: &[u8]) -> Self {
        let mut found = Self::default();
        for line in String::from_utf8_lossy(mounts).lines() {
            let mut fields = line.split(' ').skip(2);
            // Of each line: the device's number, the root within it, the mount point.
            if let (Some(number), Some(_), Some(point)) = (fields.next(), fields.next(), fields.next())
                && let Some(number) = parse_number(number)
            {
                found.mounts.entry(number).or_default().push(unescape(point).into());
            }
        }
        for line in String::from_utf8_lossy(swaps).lines().skip(1) {
            let name = unescape(line.split_whitespace().next().unwrap_or_default());
            found.swaps.extend(name.strip_prefix("/dev/").map(str::to_owned));
        }
        found
    }

    fn users(&self, kernel: &str, number: DeviceNumber) -> Vec<Holder> {
        let mounts = self.mounts.get(&number).into_iter().flatten().cloned().map(Holder::Mount);
        let swaps = self.swaps.iter().filter(|it| *it == kernel).map(|_| Holder::Swap);
        mounts.chain(swaps).collect()
    }
}

/// Undoes the kernel's octal escapes of blanks and backslashes.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        if let Some(code) = part.get(..3).and_then(|it| u8::from_str_radix(it, 8).ok()) {
            plain.push(char::from(code));
            plain.push_str(&part[3..]);
        } else {
            plain.push('\\');
            plain.push_str(part);
        }
    }
    plain
}

impl Multipath {
    pub(crate) async fn tables(&self, cx: &Cx) -> Result<Tables> {
        let unreadable = |path: &str| Error::new(ErrorKind::Internal, "it is not there").on(path);
        let mounts = self.guard.read(cx, Path::new(MOUNTS), TABLE_MAX).await?;
        // A kernel without swap has no such file.
        let swaps = self.guard.read(cx, Path::new(SWAPS), TABLE_MAX).await?.unwrap_or_default();
        Ok(Tables::parse(&mounts.ok_or_else(|| unreadable(MOUNTS))?, &swaps))
    }

    /// Who uses `map`: idle partition maps on it do not count, what is on them does.
    pub(crate) async fn usage_of_map(
        &self,
        cx: &Cx,
        map: &Map,
        wwid: &Wwid,
        tables: &Tables,
    ) -> Result<Usage> {
        let mut found = tables.users(&map.kernel, map.number);
        let mut explained = found.len();
        for name in self.holders(cx, &Path::new(BLOCK).join(&map.kernel)).await? {
            explained += 1;
            match self.partition_users(cx, &name, wwid, tables).await? {
                Some(users) => found.extend(users),
                None => found.push(Holder::Device(name)),
            }
        }
        // The map went away while it was asked about: gone is idle.
        let open = self.guard.open_count(cx, map.number).await?.unwrap_or(0);
        let explained = u32::try_from(explained).unwrap_or(u32::MAX);
        if open > explained {
            found.push(Holder::Openers(open - explained));
        }
        Ok(if found.is_empty() { Usage::Idle } else { Usage::InUse(found) })
    }

    /// Who uses a partition map of `wwid`; `None` where `name` is something else.
    async fn partition_users(
        &self,
        cx: &Cx,
        name: &str,
        wwid: &Wwid,
        tables: &Tables,
    ) -> Result<Option<Vec<Holder>>> {
        let block = Path::new(BLOCK).join(name);
        let Some(uuid) = self.text(cx, &block, "dm/uuid").await? else { return Ok(None) };
        // kpartx names them `partN-mpath-WWID`.
        let rest = uuid.strip_prefix("part").map(|it| it.trim_start_matches(|it: char| it.is_ascii_digit()));
        if rest != Some(&format!("-{}", crate::map::uuid_of(wwid))) {
            return Ok(None);
        }
        let Some((number, _)) = self.measure(cx, &block).await? else { return Ok(Some(Vec::new())) };
        let mut found = tables.users(name, number);
        let explained = found.len();
        let stacked = self.holders(cx, &block).await?;
        let explained = u32::try_from(explained + stacked.len()).unwrap_or(u32::MAX);
        found.extend(stacked.into_iter().map(Holder::Device));
        let open = self.guard.open_count(cx, number).await?.unwrap_or(0);
        if open > explained {
            found.push(Holder::Openers(open - explained));
        }
        Ok(Some(found))
    }

    async fn holders(&self, cx: &Cx, block: &Path) -> Result<Vec<String>> {
        Ok(self.guard.list(cx, &block.join("holders")).await?.unwrap_or_default())
    }

    /// Mounts and swap directly on a leg or on one of its partitions, and what is stacked on those.
    pub(crate) async fn uses_of_leg(&self, cx: &Cx, leg: &Present, tables: &Tables) -> Result<Vec<Holder>> {
        let Some(disk) = &leg.disk else { return Ok(Vec::new()) };
        let mut found = tables.users(&disk.name, disk.number);
        let block = device_of(leg.hctl).join("block").join(&disk.name);
        let entries = self.guard.list(cx, &block).await?.unwrap_or_default();
        for name in entries.iter().filter(|it| it.starts_with(disk.name.as_str())) {
            let partition = block.join(name);
            let Some((number, _)) = self.measure(cx, &partition).await? else { continue };
            found.extend(tables.users(name, number));
            found.extend(self.holders(cx, &partition).await?.into_iter().map(Holder::Device));
        }
        Ok(found)
    }
}

/// The holders in one phrase.
pub(crate) fn phrase(holders: &[Holder]) -> String {
    holders.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mounts_and_swap_are_found_by_number_and_name() {
        let mounts = b"22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                       97 22 253:7 / /mnt/a\\040b rw - xfs /dev/mapper/x rw\n\
                       98 22 253:7 /sub /srv rw - xfs /dev/mapper/x rw\n\
                       garbage\n";
        let swaps = b"Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/dev/dm-3  partition\t1048572\t0\t-2\n/swap.img file 1 0 -3\n";
        let tables = Tables::parse(mounts, swaps);
        let number = |minor| DeviceNumber { major: 253, minor };
        assert_eq!(
            tables.users("dm-7", number(7)),
            [Holder::Mount("/mnt/a b".into()), Holder::Mount("/srv".into())]
        );
        assert_eq!(tables.users("dm-3", number(3)), [Holder::Swap]);
        assert_eq!(tables.users("dm-70", number(70)), []);
    }

    #[test]
    fn escapes() {
        for (text, plain) in
            [("/a", "/a"), ("/a\\040b", "/a b"), ("/a\\134b", "/a\\b"), ("/a\\", "/a\\"), ("\\04", "\\04")]
        {
            assert_eq!(unescape(text), plain);
        }
    }

    proptest! {
        #[test]
        fn no_table_panics(mounts: Vec<u8>, swaps: Vec<u8>, text in any::<String>()) {
            let _ = (Tables::parse(&mounts, &swaps), unescape(&text));
        }
    }
}
