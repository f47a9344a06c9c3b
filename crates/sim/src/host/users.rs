//! Who uses the block devices of a node: open handles, mounts, swap, and devices stacked on others.

use std::collections::BTreeMap;
use std::path::PathBuf;

use san_core::DeviceNumber;

use super::dm::MAJOR;
use super::formats::push;
use super::machine::Machine;

/// Everybody who has a block device open by name or number.
#[derive(Debug, Default)]
pub(crate) struct Users {
    pub(crate) handles: BTreeMap<u64, (String, DeviceNumber)>,
    pub(crate) mounts: BTreeMap<PathBuf, (String, DeviceNumber)>,
    pub(crate) swaps: BTreeMap<String, DeviceNumber>,
}

impl Users {
    pub(crate) fn crash(&mut self) {
        *self = Self::default();
    }
}

impl Machine {
    /// How often a block device is open; `None` where there is no such map.
    pub(crate) fn open_count(&self, number: DeviceNumber) -> Option<u32> {
        let map = self.dm.maps.get(&number.minor).filter(|_| number.major == MAJOR)?;
        let users = &self.users;
        let handles = users.handles.values().filter(|(_, it)| *it == number).count();
        let mounts = users.mounts.values().filter(|(_, it)| *it == number).count();
        let swaps = users.swaps.values().filter(|it| **it == number).count();
        let over = self.dm.over(map.minor).len();
        let stuck = self.abandoned.iter().filter(|it| self.block(&it.to_string_lossy()).ok() == Some(number));
        let outside = self.plane.as_ref().map_or(0, |it| it.openers(&self.spec.name, &map.name));
        let count = handles + mounts + swaps + over + stuck.count() + usize::from(map.has_worker);
        Some(u32::try_from(count).unwrap_or(u32::MAX).saturating_add(outside))
    }

    /// Whether a map can be removed: its partitions may be there, but nobody may use it or them.
    pub(crate) fn is_in_use(&self, minor: u32) -> bool {
        let number = DeviceNumber { major: MAJOR, minor };
        let over = self.dm.over(minor);
        let partitions = over.iter().filter(|it| self.is_partition(**it)).count();
        let open = self.open_count(number).unwrap_or(0);
        let own = u32::try_from(partitions).unwrap_or(u32::MAX);
        open > own || over.iter().any(|it| self.is_partition(*it) && self.is_in_use(*it))
    }

    fn is_partition(&self, minor: u32) -> bool {
        self.dm.maps.get(&minor).is_some_and(|it| it.uuid.starts_with("part"))
    }

    /// `/proc/self/mountinfo` and `/proc/swaps` as of now.
    pub(crate) fn write_proc(&mut self) {
        let mut mounts = String::from("22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n");
        for (id, (path, (source, number))) in self.users.mounts.iter().enumerate() {
            let path = path.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040");
            let line = format!(
                "{} 22 {number} / {path} rw,relatime shared:{} - ext4 {source} rw\n",
                40 + id,
                10 + id
            );
            mounts.push_str(&line);
        }
        self.tree.put_file("/proc/self/mountinfo", mounts);
        let mut swaps = String::from("Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n");
        for path in self.users.swaps.keys() {
            push(&mut swaps, format_args!("{path:<40}partition\t1048572\t\t0\t\t-2\n"));
        }
        self.tree.put_file("/proc/swaps", swaps);
    }
}
