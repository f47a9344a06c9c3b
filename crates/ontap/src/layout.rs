//! How large the FlexVol around a LUN is, and how far it may grow.

use san_core::{ArrayProfile, ByteSize, Error, ErrorKind, Result};

use crate::config::{Provisioning, VolumeSettings};
use crate::release::{Personality, Release};

/// Smallest FlexVol.
const FLEXVOL_MIN: ByteSize = ByteSize::from_mib(20);
/// Room in the FlexVol besides the LUN: a tenth for its metadata and this.
const OVERHEAD: ByteSize = ByteSize::from_mib(64);

/// The FlexVol around a LUN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Its size.
    pub(crate) size: ByteSize,
    /// How far it may grow by itself; as large as `size` where it may not.
    pub(crate) maximum: ByteSize,
}

impl Layout {
    /// What of the FlexVol is not kept for snapshots holds the LUN and its metadata.
    ///
    /// # Errors
    /// `LimitReached` where a thick LUN does not fit into the largest FlexVol: a thin one may be larger than its FlexVol.
    pub(crate) fn of(profile: &ArrayProfile, settings: &VolumeSettings, lun: ByteSize) -> Result<Self> {
        let limit = flexvol_limit(profile);
        let metadata = ByteSize::from_bytes(lun.bytes() / 10);
        let active = lun.plus(metadata).plus(OVERHEAD);
        let share = 100 - u128::from(settings.snapshot_reserve.min(90));
        let whole = (u128::from(active.bytes()) * 100).div_ceil(share);
        let whole = ByteSize::from_bytes(u64::try_from(whole).unwrap_or(u64::MAX)).max(FLEXVOL_MIN);
        if whole > limit && settings.provisioning == Provisioning::Thick {
            let message =
                format!("a thick disk of {lun} needs a volume of {whole}, and the largest has {limit}");
            return Err(Error::new(ErrorKind::LimitReached, message)
                .with_remedy("make it smaller, reserve less for snapshots, or provision thin"));
        }
        let size = whole.min(limit);
        let most = u128::from(size.bytes()) * u128::from(settings.autosize_limit.max(100)) / 100;
        let maximum = ByteSize::from_bytes(u64::try_from(most).unwrap_or(u64::MAX)).min(limit);
        Ok(Self { size, maximum: maximum.max(size) })
    }
}

/// Largest FlexVol of a release.
fn flexvol_limit(profile: &ArrayProfile) -> ByteSize {
    let release = profile.version.parse().unwrap_or(Release::OLDEST);
    release.largest(Personality::of_word(&profile.personality)).1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use san_core::{Limits, Lun, NameRules};

    use super::*;

    fn profile(version: &str) -> ArrayProfile {
        ArrayProfile {
            vendor: "NetApp".into(),
            personality: "FAS/AFF".into(),
            version: version.into(),
            serial: String::new(),
            name: String::new(),
            limits: Limits {
                volume_granule: ByteSize::from_kib(4),
                volume_min: ByteSize::from_kib(4),
                volume_max: ByteSize::from_gib(128 << 10),
                name: NameRules { max: 203 },
                lun_max: Lun::new(4095).unwrap(),
                snapshots_max: 1023,
            },
        }
    }

    fn settings() -> impl Strategy<Value = VolumeSettings> {
        (any::<bool>(), 0_u8..=90, 100_u16..=2000).prop_map(|(thick, snapshot_reserve, autosize_limit)| {
            let provisioning = if thick { Provisioning::Thick } else { Provisioning::Thin };
            VolumeSettings { provisioning, snapshot_reserve, autosize_limit, ..VolumeSettings::default() }
        })
    }

    proptest! {
        /// With its metadata, beside the snapshot reserve, and also after it has grown: whatever snapshots take is taken of
        /// the reserve and of what the FlexVol grows by.
        #[test]
        fn a_thick_lun_fits_its_flexvol(
            settings in settings(),
            kib in 4_u64..(16 << 30),
            more in 0_u64..(16 << 30),
            old in any::<bool>(),
        ) {
            let profile = profile(if old { "9.12.1" } else { "9.16.1" });
            let mut before: Option<Layout> = None;
            for kib in [kib, kib + more] {
                let lun = ByteSize::from_kib(kib);
                let Ok(layout) = Layout::of(&profile, &settings, lun) else {
                    prop_assert_eq!(settings.provisioning, Provisioning::Thick);
                    return Ok(());
                };
                prop_assert!(layout.size >= FLEXVOL_MIN && layout.size <= flexvol_limit(&profile));
                prop_assert!(layout.maximum >= layout.size && layout.maximum <= flexvol_limit(&profile));
                if settings.provisioning == Provisioning::Thick {
                    let reserve = layout.size.bytes() / 100 * u64::from(settings.snapshot_reserve);
                    prop_assert!(layout.size.bytes() - reserve >= lun.bytes() + lun.bytes() / 10);
                }
                if let Some(before) = before {
                    prop_assert!(layout.size >= before.size && layout.maximum >= before.maximum);
                }
                before = Some(layout);
            }
        }
    }

    #[test]
    fn without_options_it_is_as_it_always_was() {
        let layout =
            Layout::of(&profile("9.16.1"), &VolumeSettings::default(), ByteSize::from_gib(10)).unwrap();
        assert_eq!(layout.size, ByteSize::from_gib(11).plus(OVERHEAD));
        assert_eq!(layout.maximum, layout.size.times(10));
    }
}
