//! Creating a volume: a FlexVol that carries the mark, then its LUN. Two requests, repeatable at any point.
//!
//! From 9.16.1 on one request could do both: a LUN with `provisioning_options.auto` brings its FlexVol along. It is not used.
//! That request says nothing of the FlexVol but its name, in the LUN's path: not the comment, so that a FlexVol whose
//! creation was interrupted would carry no claim, and nobody could tell whose it is; not its guarantee, snapshot reserve,
//! autosize or aggregate either. Where a FlexVol of that name exists, whoever made it, the request grows it and puts its LUN
//! there instead of being refused, so that two operations could share one. And it gives every FlexVol a QoS policy.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use san_core::{
    ByteSize, Cx, EffectState, Ensured, Error, ErrorKind, Limits, Mark, Result, Volume, VolumeName,
    VolumeSpec,
};
use san_rest::Request;
use serde_json::json;

use crate::array::Ontap;
use crate::client::patiently;
use crate::convert::{self, inconsistent, lun_path};
use crate::error::{code, code_of, is};
use crate::layout::Layout;
use crate::release::Feature;
use crate::wire;

/// Older releases round a LUN up to a whole cylinder of its geometry, at most.
pub(crate) const ROUNDING: ByteSize = ByteSize::from_mib(16);
/// How often a list may lack what was just created before that is an error.
const LAGS: usize = 5;
/// Longest comment of a FlexVol, which holds the mark.
const COMMENT: usize = 1023;

/// What a FlexVol that is being made is told by.
pub(crate) struct Wanted<'a> {
    pub(crate) name: &'a VolumeName,
    pub(crate) mark: Mark,
}

/// Whether an object was made by this call or found as this operation's own.
pub(crate) struct Made<T> {
    pub(crate) it: T,
    pub(crate) now: bool,
}

/// What to do after a request that should create something failed.
enum Next<T> {
    Use(Made<T>),
    Again,
}

impl Ontap {
    pub(crate) async fn create(&self, cx: &Cx, spec: &VolumeSpec) -> Result<Ensured<Volume>> {
        check_spec(&self.profile.limits, spec)?;
        let wanted = Wanted { name: &spec.name, mark: spec.mark() };
        let flexvol = self.create_placed(cx, &wanted, spec).await?;
        let lun = self.create_lun(cx, spec, &flexvol.it).await?;
        let mut volume = convert::volume(&flexvol.it, Some(&lun.it))?;
        // The mark is the one this claim was checked against, or the one just written.
        volume.mark = san_core::Marked::Ours(spec.mark());
        if lun.now {
            // Nobody can have mapped what did not exist a moment ago.
            volume.mapped = Some(Vec::new());
            volume.readers = Some(Vec::new());
        }
        Ok(if flexvol.now || lun.now { Ensured::Created(volume) } else { Ensured::Already(volume) })
    }

    /// On the best aggregate that has room. One that is fuller than was known refuses, and the next is tried.
    async fn create_placed(
        &self,
        cx: &Cx,
        wanted: &Wanted<'_>,
        spec: &VolumeSpec,
    ) -> Result<Made<wire::Volume>> {
        let layout = self.layout(spec.size)?;
        let needed = if self.is_thick() { layout.size.bytes() } else { 0 };
        let mut full = None;
        for aggregate in self.places(cx, needed, &spec.apart_from).await? {
            let body = self.flexvol_body(spec, &aggregate, layout)?;
            match self.create_flexvol(cx, wanted, &body).await {
                Err(error)
                    if error.kind() == ErrorKind::OutOfSpace && error.effect() == EffectState::None =>
                {
                    self.note_taken(&aggregate, u64::MAX);
                    full.get_or_insert(error);
                }
                Ok(made) => {
                    self.note_taken(&aggregate, needed);
                    self.require_encrypted(cx, &made.it).await?;
                    self.complete_settings(cx, &made.it, layout).await?;
                    return Ok(made);
                }
                Err(error) => return Err(error),
            }
        }
        Err(full.unwrap_or_else(|| Error::new(ErrorKind::Internal, "the storage has no aggregate")))
    }

    pub(crate) async fn create_flexvol(
        &self,
        cx: &Cx,
        wanted: &Wanted<'_>,
        body: &serde_json::Value,
    ) -> Result<Made<wire::Volume>> {
        let request = Request::post("/api/storage/volumes", &[]).query("return_records", true);
        let request = request.json(body)?;
        let mut pauses = pauses();
        loop {
            let error = match self.api.change::<wire::Volume>(cx, &patiently(cx, request.clone())).await {
                Ok(done) => return self.made_flexvol(cx, wanted, done.records).await,
                Err(error) => error,
            };
            match self.after_flexvol_failed(cx, wanted, error).await? {
                Next::Use(it) => return Ok(it),
                Next::Again => pause(cx, &mut pauses).await?,
            }
        }
    }

    async fn made_flexvol(
        &self,
        cx: &Cx,
        wanted: &Wanted<'_>,
        records: Vec<wire::Volume>,
    ) -> Result<Made<wire::Volume>> {
        // After a job that outlasted `return_timeout` there are no records.
        let it = match records.into_iter().next() {
            Some(it) => it,
            None => once_shown(cx, || self.flexvol_named(cx, wanted.name)).await?,
        };
        self.check_svm(&it.svm)?;
        if it.name != wanted.name.as_str() {
            return Err(inconsistent("the array created a volume of another name"));
        }
        Ok(Made { it, now: true })
    }

    /// A name that is taken may be taken by us: a lost answer, or the run before a crash. The claim in the mark tells.
    async fn after_flexvol_failed(
        &self,
        cx: &Cx,
        wanted: &Wanted<'_>,
        error: Error,
    ) -> Result<Next<wire::Volume>> {
        if is(&error, code::VOLUME_IN_CREATION) {
            return Ok(Next::Again);
        }
        let exists = is(&error, code::VOLUME_EXISTS);
        if !exists && error.effect() == EffectState::None {
            return Err(error);
        }
        let found = match self.flexvol_named(cx, wanted.name).await {
            Ok(found) => found,
            Err(looked) => return Err(unseen(error, exists, looked)),
        };
        match found {
            Some(it) if convert::mark(&it) == san_core::Marked::Ours(wanted.mark.clone()) => {
                Ok(Next::Use(Made { it, now: !exists }))
            }
            Some(_) => Err(Error::new(ErrorKind::AlreadyExists, "the name is taken by another volume")
                .with_effect(EffectState::None)),
            // Not there (any more): its creation may not have begun, or somebody's deletion has just ended.
            None if exists || error.is_passing() || code_of(&error).is_none() => Ok(Next::Again),
            // The array says that it failed, and shows that nothing came of it.
            None => Err(error.with_effect(EffectState::None)),
        }
    }

    async fn create_lun(
        &self,
        cx: &Cx,
        spec: &VolumeSpec,
        flexvol: &wire::Volume,
    ) -> Result<Made<wire::Lun>> {
        let mut body = json!({
            "svm": { "uuid": self.svm },
            "name": lun_path(&spec.name),
            "os_type": "linux",
            "space": { "size": spec.size.bytes(), "guarantee": { "requested": self.is_thick() } },
        });
        if self.has(Feature::UnmapSwitch) {
            // The default differs by release; without it hosts are not told that they may UNMAP.
            body["space"]["scsi_thin_provisioning_support_enabled"] = true.into();
        }
        let request = Request::post("/api/storage/luns", &[]).query("return_records", true).json(&body)?;
        let mut pauses = pauses();
        loop {
            let error = match self.api.change::<wire::Lun>(cx, &request).await {
                Ok(done) => {
                    let found = match done.records.into_iter().next() {
                        Some(it) => Some(it),
                        None => self.lun_at(cx, &lun_path(&spec.name)).await?,
                    };
                    let it = found
                        .ok_or_else(|| inconsistent("the array does not show the LUN it has just created"))?;
                    return self.check_lun(spec, flexvol, Made { it, now: true });
                }
                Err(error) => error,
            };
            let exists = is(&error, code::LUN_EXISTS) || is(&error, code::LUN_EXISTS_OLD);
            if !exists && !is(&error, code::LUN_IN_CREATION) && error.effect() == EffectState::None {
                return Err(error);
            }
            // The FlexVol is ours by its claim, so a LUN of this name in it is ours as well.
            let found = match self.lun_at(cx, &lun_path(&spec.name)).await {
                Ok(found) => found,
                Err(looked) => return Err(unseen(error, exists, looked)),
            };
            match found {
                Some(it) => return self.check_lun(spec, flexvol, Made { it, now: !exists }),
                None => pause(cx, &mut pauses).await?,
            }
        }
    }

    fn check_lun(
        &self,
        spec: &VolumeSpec,
        flexvol: &wire::Volume,
        lun: Made<wire::Lun>,
    ) -> Result<Made<wire::Lun>> {
        self.check_svm(&lun.it.svm)?;
        let place = &lun.it.location.volume.uuid;
        if lun.it.name != lun_path(&spec.name) || place.as_deref().is_some_and(|it| it != flexvol.uuid) {
            return Err(inconsistent("the array answered about another LUN"));
        }
        let size = convert::size(&lun.it)?;
        if size < spec.size || size > spec.size.plus(ROUNDING) {
            return Err(Error::new(
                ErrorKind::Conflict,
                format!("it exists with {size} instead of {}", spec.size),
            ));
        }
        self.keep_lun_node(&lun.it);
        Ok(lun)
    }

    fn flexvol_body(&self, spec: &VolumeSpec, aggregate: &str, layout: Layout) -> Result<serde_json::Value> {
        let comment = comment(&spec.mark())?;
        let mut body = json!({
            "svm": self.svm_by_both_names(),
            "name": spec.name,
            "comment": comment,
            "aggregates": [{ "name": aggregate }],
        });
        self.put_settings(layout, &mut body);
        if self.needs_own_encryption(aggregate) {
            body["encryption"] = json!({ "enabled": true });
        }
        Ok(body)
    }
}

/// Where a creation failed and the look failed too, the first error says more. Unless it says that the name is taken: whose it
/// is nobody knows then, and it may be this very operation's, of an earlier attempt.
fn unseen(failed: Error, is_taken: bool, looked: Error) -> Error {
    if is_taken { looked.with_effect(EffectState::Unknown) } else { failed }
}

/// The mark as a FlexVol's comment.
pub(crate) fn comment(mark: &Mark) -> Result<String> {
    let text = mark.to_text()?;
    if text.len() > COMMENT {
        let message = "the owner's names are too long for the volume's comment";
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    Ok(text)
}

/// What has just been created, as soon as `look` sees it: the array's lists may lag behind for a moment.
pub(crate) async fn once_shown<T, F>(cx: &Cx, look: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<Option<T>>>,
{
    for pause in pauses().take(LAGS) {
        if let Some(it) = look().await? {
            return Ok(it);
        }
        tokio::time::sleep(pause.min(cx.deadline().remaining())).await;
    }
    Err(inconsistent("the array does not show what it has just created"))
}

/// Waits before a creation is looked at or tried again; their end is the deadline.
fn pauses() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(5))
        .without_max_times()
        .with_jitter()
        .build()
}

async fn pause(cx: &Cx, pauses: &mut impl Iterator<Item = Duration>) -> Result<()> {
    let late = || {
        Error::new(
            ErrorKind::Timeout,
            "the array is still creating something of this name, or lost the request",
        )
        .with_effect(EffectState::Unknown)
    };
    let pause = pauses.next().ok_or_else(late)?;
    if cx.deadline().remaining() <= pause {
        return Err(late());
    }
    tokio::time::sleep(pause).await;
    Ok(())
}

fn check_spec(limits: &Limits, spec: &VolumeSpec) -> Result<()> {
    check_name(limits, &spec.name)?;
    check_size(limits, spec.size)
}

/// Refuses a name the array would refuse.
pub(crate) fn check_name(limits: &Limits, name: &VolumeName) -> Result<()> {
    let name = name.as_str();
    let plain = name.bytes().all(|it| it.is_ascii_alphanumeric() || it == b'_');
    if !plain || name.starts_with(|it: char| it.is_ascii_digit()) || name.len() > limits.name.max {
        return Err(Error::new(
            ErrorKind::InvalidInput,
            format!(
                "an ONTAP volume's name is a letter or '_', then letters, digits and '_', at most {}",
                limits.name.max
            ),
        ));
    }
    Ok(())
}

/// Refuses a size the array would refuse or round.
pub(crate) fn check_size(limits: &Limits, size: ByteSize) -> Result<()> {
    if size < limits.volume_min || size > limits.volume_max {
        let message = format!("{size} is not between {} and {}", limits.volume_min, limits.volume_max);
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    if size.round_up_to(limits.volume_granule) != Some(size) {
        let message = format!("{size} is not a multiple of {}", limits.volume_granule);
        return Err(Error::new(ErrorKind::InvalidInput, message));
    }
    Ok(())
}
