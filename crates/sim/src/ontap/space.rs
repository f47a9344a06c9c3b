//! Space: what volumes and aggregates use, and volumes that grow by themselves.
//!
//! Bytes are what the files take on disk. A snapshot costs nothing while its LUN was not written since, and its whole
//! image afterwards: an upper bound of what a real array charges.

use uuid::Uuid;

use super::disk;
use super::error::{ApiError, Code};
use super::model::{AutosizeMode, State, Unit, Volume};

impl State {
    /// Bytes a LUN uses.
    pub(crate) fn unit_used(unit: &Unit) -> u64 {
        unit.file.as_deref().and_then(|file| disk::stat(file).ok()).map_or(0, |(bytes, _)| bytes)
    }

    /// Bytes in use in a volume, without its snapshots. Reserved LUNs count in full.
    pub(crate) fn volume_used(&self, volume: &Volume) -> u64 {
        if !volume.written && !volume.thick {
            return self.limits.volume_metadata;
        }
        let luns = volume.luns.iter().filter_map(|uuid| self.luns.get(uuid));
        let bytes: u64 =
            luns.map(|lun| {
                if volume.thick && lun.unit.reserved { lun.unit.size } else { Self::unit_used(&lun.unit) }
            })
            .sum();
        bytes + self.limits.volume_metadata
    }

    /// Bytes one snapshot of a volume holds on to.
    pub(crate) fn snapshot_size(&self, snapshot: &super::model::Snapshot) -> u64 {
        let images = snapshot.images.iter().filter(|image| {
            let live = self.luns.get(&image.lun).and_then(|lun| lun.unit.file.as_deref());
            let stamp = live.and_then(|file| disk::stat(file).ok()).map(|(_, stamp)| stamp);
            stamp.is_none() || stamp != image.stamp
        });
        images.map(|image| Self::unit_used(&image.unit)).sum()
    }

    /// Bytes all snapshots of a volume hold on to.
    pub(crate) fn snapshots_used(&self, volume: &Volume) -> u64 {
        volume.snapshots.iter().map(|snapshot| self.snapshot_size(snapshot)).sum()
    }

    /// Bytes a volume takes from its aggregate.
    pub(crate) fn footprint(&self, volume: &Volume) -> u64 {
        if !volume.written {
            return if volume.thick { volume.size } else { self.limits.volume_metadata };
        }
        let used = self.volume_used(volume) + self.snapshots_used(volume);
        if volume.thick { used.max(volume.size) } else { used }
    }

    /// Bytes in use in an aggregate, volumes in the recovery queue included.
    pub(crate) fn aggregate_used(&self, aggregate: usize) -> u64 {
        let volumes = self.volumes.values().filter(|volume| volume.aggregate == aggregate);
        let used = volumes.map(|volume| self.footprint(volume)).sum::<u64>();
        used.saturating_add(self.aggregates[aggregate].ballast).min(self.aggregates[aggregate].size)
    }

    /// Refuses what does not fit into an aggregate any more.
    pub(crate) fn check_room(&self, aggregate: usize, needed: u64) -> Result<(), ApiError> {
        let place = &self.aggregates[aggregate];
        let available = place.size - self.aggregate_used(aggregate);
        if needed <= available {
            return Ok(());
        }
        let message = format!(
            "not enough space in aggregate \"{}\": {needed} bytes are needed, {available} are available",
            place.name
        );
        Err(Code(self.unverified.no_space_code, 409).error(message))
    }

    /// Bytes that are free in a volume.
    pub(crate) fn volume_available(&self, volume: &Volume) -> u64 {
        let reserve = volume.size / 100 * u64::from(volume.reserve_percent);
        let spill = self.snapshots_used(volume).saturating_sub(reserve);
        (volume.size - reserve).saturating_sub(self.volume_used(volume) + spill)
    }

    /// Makes room for a reserved LUN that needs `more` bytes: from what is free, or by autosize.
    pub(crate) fn make_room(&mut self, uuid: Uuid, more: u64) -> Result<(), ApiError> {
        let Some(volume) = self.live_volume(uuid) else { return Err(ApiError::no_entry()) };
        let available = self.volume_available(volume);
        let Some(missing) = more.checked_sub(available).filter(|missing| *missing > 0) else { return Ok(()) };
        let size = volume.size + missing;
        if volume.autosize.mode != AutosizeMode::Off && size <= volume.autosize_maximum() {
            self.volume_mut(uuid)?.size = size;
            return Ok(());
        }
        let message = format!("not enough space in volume \"{}\": {missing} bytes are missing", volume.name);
        Err(Code(self.unverified.no_space_code, 409).error(message))
    }

    /// Lets volumes whose mode allows it grow when hosts have filled them beyond the threshold.
    pub(crate) fn autosize(&mut self) {
        let growing = |volume: &&Volume| volume.written && volume.autosize.mode != AutosizeMode::Off;
        let sizes: Vec<(Uuid, u64)> = self
            .live_volumes()
            .filter(growing)
            .filter_map(|volume| {
                let used = self.volume_used(volume) + self.snapshots_used(volume);
                let threshold = u64::from(volume.grow_threshold().max(1));
                (used > volume.size / 100 * threshold).then(|| {
                    let wanted = (used / threshold * 100 + 100).min(volume.autosize_maximum());
                    let aggregate = volume.aggregate;
                    let free = self.aggregates[aggregate].size - self.aggregate_used(aggregate);
                    let most = if volume.thick { volume.size + free } else { u64::MAX };
                    (volume.uuid, wanted.min(most).max(volume.size))
                })
            })
            .collect();
        for (uuid, size) in sizes {
            if let Some(volume) = self.volumes.get_mut(&uuid) {
                volume.size = size;
            }
        }
    }
}

impl Volume {
    /// The size up to which this volume may grow: 120 % of its size unless a client said.
    pub(crate) fn autosize_maximum(&self) -> u64 {
        self.autosize.maximum.unwrap_or(self.size / 5 * 6).max(self.size)
    }

    /// Percent of use at which it grows.
    pub(crate) fn grow_threshold(&self) -> u8 {
        self.autosize.grow_threshold.unwrap_or(85)
    }

    /// Percent of use at which it shrinks (reported only).
    pub(crate) fn shrink_threshold(&self) -> u8 {
        self.autosize.shrink_threshold.unwrap_or(50)
    }
}
