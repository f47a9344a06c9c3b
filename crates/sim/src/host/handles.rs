//! Using a simulated node's block devices as others do: open handles, mounts, swap, devices stacked on maps.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use san_core::{Error, ErrorKind, Result};

use super::dm::{MAJOR, MapKind};
use super::node::{Inner, SimNode};

/// A block device held open; dropping it closes the device.
#[derive(Debug)]
pub struct OpenHandle {
    node: Weak<Inner>,
    id: u64,
}

impl Drop for OpenHandle {
    fn drop(&mut self) {
        if let Some(inner) = self.node.upgrade() {
            SimNode(inner).look(|it| {
                it.users.handles.remove(&self.id);
                it.touch();
            });
        }
    }
}

impl SimNode {
    /// Opens a block device as a guest's QEMU would, until the handle is dropped.
    ///
    /// # Errors
    /// `NotFound` where there is no such device.
    pub fn open(&self, path: &Path) -> Result<OpenHandle> {
        self.look(|it| {
            let text = path.to_string_lossy();
            let number = it.block(&text)?;
            let id = it.serial();
            it.users.handles.insert(id, (text.into_owned(), number));
            it.touch();
            Ok(OpenHandle { node: Arc::downgrade(&self.0), id })
        })
    }

    /// Mounts a block device.
    ///
    /// # Errors
    /// `NotFound` where there is no such device.
    pub fn mount(&self, device: &Path, at: &Path) -> Result<()> {
        self.look(|it| {
            let source = device.to_string_lossy().into_owned();
            let number = it.block(&source)?;
            it.users.mounts.insert(at.to_owned(), (source, number));
            it.write_proc();
            it.touch();
            Ok(())
        })
    }

    /// Unmounts; whether anything was mounted there.
    pub fn unmount(&self, at: &Path) -> bool {
        self.look(|it| {
            let was_mounted = it.users.mounts.remove(at).is_some();
            it.write_proc();
            it.touch();
            was_mounted
        })
    }

    /// Uses a block device as swap.
    ///
    /// # Errors
    /// `NotFound` where there is no such device.
    pub fn swap_on(&self, device: &Path) -> Result<()> {
        self.look(|it| {
            let number = it.block(&device.to_string_lossy())?;
            let name = if number.major == MAJOR {
                format!("/dev/dm-{}", number.minor)
            } else {
                device.to_string_lossy().into_owned()
            };
            it.users.swaps.insert(name, number);
            it.write_proc();
            it.touch();
            Ok(())
        })
    }

    /// Stops using all swap.
    pub fn swap_off(&self) {
        self.look(|it| {
            it.users.swaps.clear();
            it.write_proc();
            it.touch();
        });
    }

    /// Stacks a device on a map, as LVM or dm-crypt would: `name` in `/dev/mapper`, `uuid` with its usual prefix.
    ///
    /// # Errors
    /// `NotFound` where there is no such map.
    pub fn stack_device(&self, map: &str, name: &str, uuid: &str) -> Result<PathBuf> {
        self.look(|it| {
            let Some(below) = it.dm.find(map).map(|it| (it.minor, it.sectors)) else {
                return Err(Error::new(ErrorKind::NotFound, "no such map").on(map));
            };
            it.create_map(name, uuid, MapKind::Over(below.0), below.1, Vec::new());
            Ok(PathBuf::from(format!("/dev/mapper/{name}")))
        })
    }

    /// Makes a partition's map on a map, as kpartx does. Nobody has it open: multipathd removes it with the map.
    ///
    /// # Errors
    /// `NotFound` where there is no such map.
    pub fn add_partition(&self, map: &str, number: u32) -> Result<PathBuf> {
        self.stack_device(map, &format!("{map}-part{number}"), &format!("part{number}-mpath-{map}"))
    }

    /// Removes a stacked device; whether there was one.
    pub fn unstack_device(&self, name: &str) -> bool {
        self.look(|it| {
            let found = it.dm.maps.values().find(|it| it.name == name && it.wwid().is_none());
            let Some(minor) = found.map(|it| it.minor) else { return false };
            it.remove_map(minor);
            true
        })
    }
}
