//! Between ONTAP's records and the domain's values. Whatever does not fit is an error, never a guess.

use san_core::{
    ArrayId, ByteSize, EffectState, Error, ErrorKind, Identity, Lun, MappedHost, Mark, Marked, Reader,
    Result, Volume, VolumeName, VolumeState, Wwid,
};

use crate::wire;

/// The name of the LUN that is the disk in each FlexVol. Beside it lie readers ([`san_core::ReaderName`]) at most.
pub(crate) const LUN_NAME: &str = "lun0";
/// The vendor's part of every LUN's NAA identifier; the 12 bytes of the serial number follow.
const NAA_PREFIX: [u8; 4] = [0x60, 0x0a, 0x09, 0x80];

/// An answer that contradicts the question or itself. It proves nothing about what exists.
pub(crate) fn inconsistent(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Protocol, message)
}

/// The array's keys of a volume: its FlexVol and, unless it is half-made, its LUN. Printed `<flexvol>:<lun>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) flexvol: String,
    pub(crate) lun: Option<String>,
}

impl Key {
    pub(crate) fn parse(id: &ArrayId) -> Result<Self> {
        let bad = || {
            Error::new(ErrorKind::InvalidInput, "it is not a key this backend made")
                .with_effect(EffectState::None)
                .on(id)
        };
        let (flexvol, lun) = id.as_str().split_once(':').ok_or_else(bad)?;
        if !is_uuid(flexvol) || !(lun.is_empty() || is_uuid(lun)) {
            return Err(bad());
        }
        Ok(Self { flexvol: flexvol.into(), lun: (!lun.is_empty()).then(|| lun.into()) })
    }

    pub(crate) fn id(&self) -> Result<ArrayId> {
        format!("{}:{}", self.flexvol, self.lun.as_deref().unwrap_or_default()).parse()
    }

    /// The LUN of a volume that is to be mapped, grown or rolled back.
    pub(crate) fn lun(&self) -> Result<&str> {
        self.lun.as_deref().ok_or_else(|| {
            Error::new(ErrorKind::Conflict, "the volume is half-made: it has no LUN yet")
                .with_remedy("delete it, or wait until the node that was creating it has finished")
        })
    }
}

pub(crate) fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(index, byte)| match index {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        })
}

/// The path of the disk's LUN of a FlexVol.
pub(crate) fn lun_path(volume: &VolumeName) -> String {
    format!("/vol/{volume}/{LUN_NAME}")
}

/// What devices of a LUN report: its NAA identifier is the vendor's prefix and the bytes of its serial number.
pub(crate) fn identity(serial: &str) -> Result<Identity> {
    let bytes: [u8; 12] = serial
        .as_bytes()
        .try_into()
        .map_err(|_| inconsistent("a LUN's serial number does not have 12 characters"))?;
    let mut naa = [0; 16];
    naa[..4].copy_from_slice(&NAA_PREFIX);
    naa[4..].copy_from_slice(&bytes);
    Ok(Identity { wwid: Wwid::Naa6(naa), serial: serial.into() })
}

/// Seconds since 1970.
pub(crate) fn time(text: Option<&str>) -> Option<i64> {
    text?.parse::<jiff::Timestamp>().ok().map(jiff::Timestamp::as_second)
}

/// The mark in a FlexVol's comment. A mark that cannot be read must not make the object look like ours, nor hide all
/// others: it counts as unmarked, which destructive work refuses.
pub(crate) fn mark(volume: &wire::Volume) -> Marked {
    match Mark::parse(volume.comment.as_deref().unwrap_or_default()) {
        Ok(Some(mark)) => Marked::Ours(mark),
        Ok(None) => Marked::Unmarked,
        Err(error) => {
            tracing::warn!(volume = volume.name, %error, "the volume is left alone");
            Marked::Unmarked
        }
    }
}

/// A FlexVol and its LUN, if it has one, as one volume.
pub(crate) fn volume(flexvol: &wire::Volume, lun: Option<&wire::Lun>) -> Result<Volume> {
    let key = Key { flexvol: flexvol.uuid.clone(), lun: lun.map(|it| it.uuid.clone()) };
    let mut it = Volume {
        id: key.id()?,
        name: flexvol.name.parse()?,
        mark: mark(flexvol),
        identity: None,
        size: ByteSize::ZERO,
        used: None,
        created: time(flexvol.create_time.as_deref()),
        state: state(flexvol.state.as_deref()),
        mapped: None,
        readers: None,
        place: flexvol.aggregates.first().and_then(|it| it.name.clone()),
    };
    if let Some(lun) = lun {
        describe(&mut it, lun)?;
    }
    Ok(it)
}

/// A volume of which only the LUN was asked for.
pub(crate) fn volume_of_lun(key: &Key, lun: &wire::Lun) -> Result<Volume> {
    let name = name_in_path(&lun.name)?;
    let mut it = Volume {
        id: key.id()?,
        name,
        mark: Marked::NotRead,
        identity: None,
        size: ByteSize::ZERO,
        used: None,
        created: time(lun.create_time.as_deref()),
        state: VolumeState::Online,
        mapped: None,
        readers: None,
        place: None,
    };
    describe(&mut it, lun)?;
    Ok(it)
}

/// A reader in a FlexVol; `None` for a LUN that is none.
pub(crate) fn reader(lun: &wire::Lun) -> Result<Option<Reader>> {
    let Some(name) = unit(&lun.name).and_then(|it| it.parse().ok()) else { return Ok(None) };
    let flexvol = lun.location.volume.uuid.clone().ok_or_else(|| inconsistent("a LUN names no FlexVol"))?;
    let volume = volume_of_lun(&Key { flexvol, lun: Some(lun.uuid.clone()) }, lun)?;
    Ok(Some(Reader { name, volume }))
}

/// The LUN's name in its FlexVol.
pub(crate) fn unit(path: &str) -> Option<&str> {
    path.strip_prefix("/vol/")?.split_once('/').map(|(_, unit)| unit)
}

fn describe(volume: &mut Volume, lun: &wire::Lun) -> Result<()> {
    let serial = lun.serial_number.as_deref().ok_or_else(|| inconsistent("a LUN has no serial number"))?;
    volume.identity = Some(identity(serial)?);
    volume.size = size(lun)?;
    volume.used = lun.space.as_ref().and_then(|it| it.used).map(ByteSize::from_bytes);
    if volume.state == VolumeState::Online {
        volume.state = state(lun.status.state.as_deref());
    }
    Ok(())
}

pub(crate) fn size(lun: &wire::Lun) -> Result<ByteSize> {
    let size = lun.space.as_ref().and_then(|it| it.size);
    size.map(ByteSize::from_bytes).ok_or_else(|| inconsistent("a LUN has no size"))
}

fn state(word: Option<&str>) -> VolumeState {
    match word {
        Some("online") => VolumeState::Online,
        Some(other) => VolumeState::Offline(other.to_owned()),
        None => VolumeState::Offline("unknown".to_owned()),
    }
}

/// The FlexVol's name in a LUN's path.
pub(crate) fn name_in_path(path: &str) -> Result<VolumeName> {
    let name = path.strip_prefix("/vol/").and_then(|it| it.split_once('/')).map(|(name, _)| name);
    name.ok_or_else(|| inconsistent("a LUN's path is not understood"))?.parse()
}

/// Who may see a LUN. ONTAP leaves an empty list out, so its absence counts only where `status.mapped` agrees.
pub(crate) fn mapped(lun: &wire::Lun) -> Result<Vec<MappedHost>> {
    let agrees = match (&lun.maps, lun.status.mapped) {
        (Some(maps), Some(mapped)) => mapped != maps.is_empty(),
        (Some(_), None) => true,
        (None, mapped) => mapped == Some(false),
    };
    if !agrees {
        return Err(inconsistent("the array contradicts itself about who may see a LUN"));
    }
    lun.maps.iter().flatten().map(mapped_host).collect()
}

fn mapped_host(map: &wire::MapOfLun) -> Result<MappedHost> {
    let id = map.igroup.uuid.as_deref().ok_or_else(|| inconsistent("a mapping names no igroup"))?;
    Ok(MappedHost {
        id: id.parse()?,
        name: map.igroup.name.clone().unwrap_or_else(|| id.to_owned()),
        lun: lun_number(map.logical_unit_number)?,
    })
}

pub(crate) fn lun_number(number: u16) -> Result<Lun> {
    Lun::new(number).ok_or_else(|| inconsistent("a LUN number is out of range"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "71cd0dba-0000-11ee-b682-005056bb0001";
    const B: &str = "5a24ae5b-0000-11ee-a1b2-005056bb0001";

    #[test]
    fn keys_come_back() {
        for key in [Key { flexvol: A.into(), lun: Some(B.into()) }, Key { flexvol: A.into(), lun: None }] {
            assert_eq!(Key::parse(&key.id().unwrap()).unwrap(), key);
        }
        for text in [A, ":", &format!(":{B}"), &format!("{A}:x"), &format!("{A}:{B}:"), &A.to_uppercase()] {
            assert!(Key::parse(&text.parse().unwrap()).is_err(), "{text}");
        }
    }

    #[test]
    fn the_identity_is_the_serial_number() {
        let it = identity("wOj7X]SfEw1k").unwrap();
        assert_eq!(it.wwid.multipath_name(), "3600a0980774f6a37585d53664577316b");
        for serial in ["", "wOj7X]SfEw1", "wOj7X]SfEw1kk"] {
            assert!(identity(serial).is_err(), "{serial}");
        }
    }

    #[test]
    fn a_list_of_maps_that_contradicts_its_flag_is_refused() {
        let lun = |maps: Option<usize>, mapped| wire::Lun {
            maps: maps.map(|count| {
                let igroup = wire::Reference { name: Some("g".into()), uuid: Some(A.into()) };
                vec![wire::MapOfLun { logical_unit_number: 1, igroup }; count]
            }),
            status: wire::LunStatus { state: None, mapped },
            ..serde_json::from_str(r#"{"uuid":"u","name":"n"}"#).unwrap()
        };
        assert_eq!(mapped(&lun(Some(1), Some(true))).unwrap().len(), 1);
        assert_eq!(mapped(&lun(Some(0), Some(false))).unwrap().len(), 0);
        assert_eq!(mapped(&lun(None, Some(false))).unwrap().len(), 0);
        assert_eq!(mapped(&lun(Some(1), None)).unwrap().len(), 1);
        for (maps, flag) in [(None, None), (None, Some(true)), (Some(0), Some(true)), (Some(1), Some(false))]
        {
            assert!(mapped(&lun(maps, flag)).is_err(), "{maps:?} {flag:?}");
        }
    }

    #[test]
    fn times_are_read_with_any_offset() {
        assert_eq!(time(Some("2025-03-01T10:00:00+00:00")), Some(1_740_823_200));
        assert_eq!(time(Some("2025-03-01T12:00:00+02:00")), Some(1_740_823_200));
        assert_eq!(time(Some("yesterday")), None);
    }
}
