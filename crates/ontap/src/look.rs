//! Looking up single volumes: found, proved absent, or an error.

use san_core::{Cx, Reader, Result, Volume, VolumeKey, VolumeName};
use san_rest::Request;

use crate::array::Ontap;
use crate::convert::{self, Key, LUN_NAME, inconsistent, mapped};
use crate::create::once_shown;
use crate::error::code;
use crate::release::Feature;
use crate::wire;

/// What is read of a FlexVol.
pub(crate) const VOLUME_FIELDS: &str = "uuid,name,svm.uuid,comment,state,create_time,aggregates.name";
/// What is read of a LUN in a list.
pub(crate) const LUN_FIELDS: &str =
    "uuid,name,svm.uuid,serial_number,space.size,space.used,status.state,location.volume,create_time";
/// What is read of the LUNs of one FlexVol: who may see them as well. Those fields are costly and only returned when named.
const LUN_AND_MAPS: &str = "uuid,name,svm.uuid,serial_number,space.size,space.used,space.guarantee.requested,\
                            status.state,status.mapped,location.volume,create_time,comment,lun_maps";
/// The same with the node it is on.
const LUN_NODE_AND_MAPS: &str = "uuid,name,svm.uuid,serial_number,space.size,space.used,space.guarantee.requested,\
                                 status.state,status.mapped,location.volume,location.node.name,create_time,comment,\
                                 lun_maps";

/// Our LUNs in one FlexVol.
#[derive(Debug, Default)]
pub(crate) struct Luns {
    /// The disk.
    pub(crate) disk: Option<wire::Lun>,
    /// Those that read snapshots of it.
    pub(crate) readers: Vec<Reader>,
}

/// How the FlexVol is named whose LUNs are looked up.
#[derive(Clone, Copy)]
enum Flexvol<'a> {
    Name(&'a VolumeName),
    Uuid(&'a str),
}

impl Ontap {
    pub(crate) async fn look_up(&self, cx: &Cx, key: &VolumeKey) -> Result<Option<Volume>> {
        match key {
            VolumeKey::Name(name) => self.look_up_name(cx, name).await,
            VolumeKey::Id(id) => self.look_up_key(cx, &Key::parse(id)?).await,
        }
    }

    async fn look_up_name(&self, cx: &Cx, name: &VolumeName) -> Result<Option<Volume>> {
        let (flexvol, luns) = both(self.flexvol_named(cx, name), self.luns_of(cx, name)).await?;
        let Some(flexvol) = flexvol else { return Ok(None) };
        whole(&flexvol, luns).map(Some)
    }

    async fn look_up_key(&self, cx: &Cx, key: &Key) -> Result<Option<Volume>> {
        if let Some(uuid) = &key.lun {
            let in_list = || async {
                let Luns { disk, readers } = self.luns_in(cx, Flexvol::Uuid(&key.flexvol)).await?;
                Ok(disk.filter(|it| it.uuid == *uuid).map(|it| (it, readers)))
            };
            let found = match in_list().await? {
                // Lists may lag behind: what is there shows in them after a while.
                None if self.lun(cx, uuid).await?.is_some() => Some(once_shown(cx, in_list).await?),
                other => other,
            };
            if let Some((lun, readers)) = found {
                let mut volume = convert::volume_of_lun(key, &lun)?;
                volume.mapped = Some(mapped(&lun)?);
                volume.readers = Some(readers);
                return Ok(Some(volume));
            }
        }
        // The LUN is gone or never was. The volume is absent only when its FlexVol is gone too.
        let Some(flexvol) = self.flexvol(cx, &key.flexvol).await? else { return Ok(None) };
        let luns = self.luns_of(cx, &flexvol.name.parse()?).await?;
        whole(&flexvol, luns).map(Some)
    }

    /// The FlexVol of this name.
    pub(crate) async fn flexvol_named(&self, cx: &Cx, name: &VolumeName) -> Result<Option<wire::Volume>> {
        let request = Request::get("/api/storage/volumes", &[])
            .query("name", name)
            .query("svm.uuid", &self.svm)
            .query("fields", VOLUME_FIELDS);
        let Some(it) = self.api.find_one::<wire::Volume>(cx, request).await? else {
            self.prove_svm(cx).await?;
            return Ok(None);
        };
        self.check_svm(&it.svm)?;
        if it.name == name.as_str() {
            Ok(Some(it))
        } else {
            Err(inconsistent("the array answered about another volume"))
        }
    }

    /// The FlexVol with this UUID.
    pub(crate) async fn flexvol(&self, cx: &Cx, uuid: &str) -> Result<Option<wire::Volume>> {
        let request = Request::get("/api/storage/volumes/{}", &[uuid]).query("fields", VOLUME_FIELDS);
        let Some(it) = self.api.find::<wire::Volume>(cx, &request, code::NO_VOLUME).await? else {
            self.prove_svm(cx).await?;
            return Ok(None);
        };
        self.check_svm(&it.svm)?;
        if it.uuid == uuid {
            Ok(Some(it))
        } else {
            Err(inconsistent("the array answered about another volume"))
        }
    }

    fn lun_fields(&self) -> &'static str {
        if self.has(Feature::LunNode) { LUN_NODE_AND_MAPS } else { LUN_AND_MAPS }
    }

    /// The LUN with this UUID, with its mappings.
    pub(crate) async fn lun(&self, cx: &Cx, uuid: &str) -> Result<Option<wire::Lun>> {
        let request = Request::get("/api/storage/luns/{}", &[uuid]).query("fields", self.lun_fields());
        let found: Option<wire::Lun> = self.api.find(cx, &request, code::NO_LUN).await?;
        match &found {
            Some(it) if it.uuid != uuid => return Err(inconsistent("the array answered about another LUN")),
            Some(it) => {
                self.check_svm(&it.svm)?;
                self.keep_lun_node(it);
            }
            None => self.forget_lun_node(uuid),
        }
        Ok(found)
    }

    /// Our LUNs in the FlexVol of this name, with their mappings. None proves nothing about the FlexVol.
    pub(crate) async fn luns_of(&self, cx: &Cx, name: &VolumeName) -> Result<Luns> {
        self.luns_in(cx, Flexvol::Name(name)).await
    }

    async fn luns_in(&self, cx: &Cx, flexvol: Flexvol<'_>) -> Result<Luns> {
        let request = Request::get("/api/storage/luns", &[]);
        let request = match flexvol {
            Flexvol::Name(it) => request.query("location.volume.name", it),
            Flexvol::Uuid(it) => request.query("location.volume.uuid", it),
        };
        let request = request.query("svm.uuid", &self.svm).query("fields", self.lun_fields());
        let mut found = Luns::default();
        for lun in self.api.list::<wire::Lun>(cx, request).await? {
            self.check_svm(&lun.svm)?;
            let is_there = match flexvol {
                Flexvol::Name(it) => convert::name_in_path(&lun.name)? == *it,
                Flexvol::Uuid(it) => lun.location.volume.uuid.as_deref() == Some(it),
            };
            if !is_there {
                return Err(inconsistent("the array answered about the LUNs of another volume"));
            }
            if convert::unit(&lun.name) == Some(LUN_NAME) {
                self.keep_lun_node(&lun);
                if found.disk.replace(lun).is_some() {
                    return Err(inconsistent("the array shows two LUNs of one name"));
                }
            } else if let Some(mut reader) = convert::reader(&lun)? {
                self.keep_lun_node(&lun);
                reader.volume.mapped = Some(mapped(&lun)?);
                found.readers.push(reader);
            }
        }
        Ok(found)
    }

    /// The LUN at this path, with its mappings. `None` proves nothing about the FlexVol.
    pub(crate) async fn lun_at(&self, cx: &Cx, path: &str) -> Result<Option<wire::Lun>> {
        let request = Request::get("/api/storage/luns", &[])
            .query("name", path)
            .query("svm.uuid", &self.svm)
            .query("fields", self.lun_fields());
        let Some(it) = self.api.find_one::<wire::Lun>(cx, request).await? else { return Ok(None) };
        self.check_svm(&it.svm)?;
        if it.name != path {
            return Err(inconsistent("the array answered about another LUN"));
        }
        self.keep_lun_node(&it);
        Ok(Some(it))
    }
}

fn whole(flexvol: &wire::Volume, luns: Luns) -> Result<Volume> {
    let disagrees = |it: &wire::Lun| it.location.volume.uuid.as_deref() != Some(&flexvol.uuid);
    if luns.disk.as_ref().is_some_and(disagrees) {
        return Err(inconsistent("a volume and its LUN disagree about belonging together"));
    }
    let mut volume = convert::volume(flexvol, luns.disk.as_ref())?;
    volume.mapped = Some(match &luns.disk {
        Some(lun) => mapped(lun)?,
        None => Vec::new(),
    });
    volume.readers = Some(luns.readers);
    Ok(volume)
}

/// Two requests at once, both to their ends: the first may be the one that finds out whether a silent array is back, while
/// the second is refused at once, and must not be dropped for that.
pub(crate) async fn both<A, B>(
    first: impl Future<Output = Result<A>>,
    second: impl Future<Output = Result<B>>,
) -> Result<(A, B)> {
    let (first, second) = tokio::join!(first, second);
    Ok((first?, second?))
}

#[cfg(test)]
mod tests {
    use san_core::{Error, ErrorKind};

    use super::both;

    #[tokio::test]
    async fn a_refused_request_does_not_take_the_other_along() {
        let mut has_ended = false;
        let slow = async {
            tokio::task::yield_now().await;
            has_ended = true;
            Ok(())
        };
        let refused = async { Err::<(), _>(Error::new(ErrorKind::Unavailable, "refused at once")) };
        assert_eq!(both(slow, refused).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert!(has_ended);
    }
}
