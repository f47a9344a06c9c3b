//! What the volumes of a storage are to be like: what requests that make them say, and what of one that exists differs.
//!
//! Every setting is one field of a FlexVol, in one table; only the LUN's own reservation is apart.

use async_trait::async_trait;
use san_core::{
    ByteSize, Cx, DeleteMode, Deviation, EffectState, Error, ErrorKind, Marked, Policies, Result, Volume,
};
use san_rest::Request;
use serde_json::{Map, Value, json};

use crate::array::Ontap;
use crate::client::{Api, patiently};
use crate::config::{Autodelete, Encryption, NONE, OntapConfig, Provisioning, Tiering, VolumeSettings};
use crate::convert::{self, Key, inconsistent, lun_path};
use crate::error::{code, is};
use crate::layout::Layout;
use crate::probe::Problems;
use crate::release::{Feature, Release};
use crate::snapshots::PREFIX as OUR_SNAPSHOTS;
use crate::wire;

/// A thick FlexVol is full to ten parts in eleven by its LUN alone, which must not make it grow.
const THICK_THRESHOLD: u8 = 95;
/// What is read of a FlexVol to compare it. What a release does not know of this is only asked for where it is wanted.
const SETTINGS: &str = "uuid,name,svm.uuid,comment,state,create_time,aggregates.name,size,guarantee.type,snapshot_policy.name,\
                        autosize,space.snapshot,qos.policy.name,tiering.policy";

/// Whether a FlexVol is encrypted, by itself or by its aggregate.
const ENCRYPTED: &str = "encryption.enabled";

/// One field of a FlexVol.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Setting {
    /// The word for it in configurations.
    option: &'static str,
    /// Where it is in requests and answers.
    path: &'static str,
    wanted: Value,
    when: When,
}

/// Which requests may set a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// The one that makes the FlexVol, and later ones.
    Always,
    /// Only later ones: the array refuses it in the first.
    Later,
}

/// The table. `size` is the one the FlexVol has, where it exists: it may grow at least so far.
fn table(
    settings: &VolumeSettings,
    has: impl Fn(Feature) -> bool,
    layout: Layout,
    size: u64,
) -> Vec<Setting> {
    let always = |option, path, wanted| Setting { option, path, wanted, when: When::Always };
    let later = |path, wanted| Setting { option: "snapshot-autodelete", path, wanted, when: When::Later };
    let thick = settings.provisioning == Provisioning::Thick;
    let grows = settings.autosize_limit > 100;
    let mut all = vec![
        always("provisioning", "guarantee.type", json!(if thick { "volume" } else { NONE })),
        always("snapshot-reserve", "space.snapshot.reserve_percent", json!(settings.snapshot_reserve)),
        always("snapshot-policy", "snapshot_policy.name", json!(settings.snapshot_policy)),
        always("autosize-limit", "autosize.mode", json!(if grows { "grow" } else { "off" })),
    ];
    if has(Feature::FractionalReserve) {
        // Overwriting what a snapshot holds takes the reserve and what the FlexVol grows by; a second copy of every LUN
        // would be kept otherwise.
        all.push(always("provisioning", "space.fractional_reserve", json!(0)));
    }
    if grows {
        let maximum = layout.maximum.bytes().max(size);
        all.push(always("autosize-limit", "autosize.maximum", json!(maximum)));
    }
    if grows && thick {
        all.push(always("provisioning", "autosize.grow_threshold", json!(THICK_THRESHOLD)));
    }
    if let Some(policy) = &settings.qos_policy {
        all.push(always("qos-policy", "qos.policy.name", json!(policy)));
    }
    if let Some(tiering) = settings.tiering {
        let word = match tiering {
            Tiering::Off => NONE,
            Tiering::SnapshotOnly => "snapshot_only",
            Tiering::Auto => "auto",
            Tiering::All => "all",
        };
        all.push(always("tiering", "tiering.policy", json!(word)));
    }
    let order = match settings.autodelete {
        Autodelete::Off => None,
        Autodelete::OldestFirst => Some("oldest_first"),
        Autodelete::NewestFirst => Some("newest_first"),
    };
    match order {
        None => all.push(later("space.snapshot.autodelete_enabled", json!(false))),
        Some(order) => all.extend([
            later("space.snapshot.autodelete.enabled", json!(true)),
            later("space.snapshot.autodelete.delete_order", json!(order)),
            // Never one that something depends on, and ours last.
            later("space.snapshot.autodelete.commitment", json!("try")),
            later("space.snapshot.autodelete.defer_delete", json!("prefix")),
            later("space.snapshot.autodelete.prefix", json!(OUR_SNAPSHOTS)),
        ]),
    }
    all
}

fn at<'a>(fields: &'a Map<String, Value>, path: &str) -> Option<&'a Value> {
    let mut parts = path.split('.');
    let first = fields.get(parts.next()?)?;
    parts.try_fold(first, |at, part| at.get(part)).filter(|it| !it.is_null())
}

impl Setting {
    /// Whether a FlexVol has it. ONTAP leaves out what is not set.
    fn is_so(&self, fields: &Map<String, Value>) -> bool {
        match at(fields, self.path) {
            Some(it) => *it == self.wanted,
            None => self.wanted == json!(NONE) || self.wanted == json!(false) || self.wanted == json!(0),
        }
    }

    fn deviation(&self, fields: &Map<String, Value>) -> Deviation {
        Deviation {
            setting: self.option.to_owned(),
            field: self.path.to_owned(),
            is: at(fields, self.path).map_or_else(|| NONE.to_owned(), shown),
            wanted: shown(&self.wanted),
        }
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), |it| it.chars().take(200).collect())
}

/// Puts settings into the body of a request.
fn put<'a>(body: &mut Value, settings: impl IntoIterator<Item = &'a Setting>) {
    for setting in settings {
        let mut place = &mut *body;
        for part in setting.path.split('.') {
            if !place.is_object() {
                *place = json!({});
            }
            place = &mut place[part];
        }
        place.clone_from(&setting.wanted);
    }
}

impl Ontap {
    pub(crate) fn layout(&self, lun: ByteSize) -> Result<Layout> {
        Layout::of(&self.profile, &self.config.volumes, lun)
    }

    pub(crate) fn is_thick(&self) -> bool {
        self.config.volumes.provisioning == Provisioning::Thick
    }

    /// Completes the body of a request that makes a FlexVol.
    pub(crate) fn put_settings(&self, layout: Layout, body: &mut Value) {
        let all = table(&self.config.volumes, |it| self.has(it), layout, 0);
        put(body, all.iter().filter(|it| it.when == When::Always));
        body["size"] = json!(layout.size.bytes());
    }

    /// Sets what the request that made a FlexVol could not say. No request where nothing differs.
    pub(crate) async fn complete_settings(
        &self,
        cx: &Cx,
        flexvol: &wire::Volume,
        layout: Layout,
    ) -> Result<()> {
        let mut differing = self.differing(flexvol, layout);
        differing.retain(|it| it.when == When::Later);
        self.set(cx, flexvol, &differing).await
    }

    /// Sets what a clone has of its parent, made under other settings, or has not. No request where nothing differs.
    pub(crate) async fn adapt_clone(&self, cx: &Cx, flexvol: &wire::Volume, lun: &wire::Lun) -> Result<()> {
        let layout = self.layout(convert::size(lun)?)?;
        self.set(cx, flexvol, &self.differing(flexvol, layout)).await?;
        self.reserve_as_configured(cx, lun).await.map(drop)
    }

    /// What differs, the size of the FlexVol included where it matters: it never shrinks.
    fn differing(&self, flexvol: &wire::Volume, layout: Layout) -> Vec<Setting> {
        let settings = &self.config.volumes;
        let size = flexvol.fields.get("size").and_then(Value::as_u64).unwrap_or(0);
        let mut all = table(settings, |it| self.has(it), layout, size);
        all.retain(|it| !it.is_so(&flexvol.fields));
        let must_hold_all =
            self.is_thick() || settings.autosize_limit <= 100 || settings.snapshot_reserve > 0;
        if must_hold_all && size < layout.size.bytes() {
            let wanted = json!(layout.size.bytes());
            all.push(Setting { option: "provisioning", path: "size", wanted, when: When::Always });
        }
        all
    }

    async fn set(&self, cx: &Cx, flexvol: &wire::Volume, settings: &[Setting]) -> Result<()> {
        if settings.is_empty() {
            return Ok(());
        }
        let mut body = json!({});
        put(&mut body, settings);
        self.patch_flexvol(cx, &flexvol.uuid, &body).await
    }

    async fn patch_flexvol(&self, cx: &Cx, uuid: &str, body: &Value) -> Result<()> {
        let request = Request::patch("/api/storage/volumes/{}", &[uuid]).json(body)?;
        self.api.insist(cx, patiently(cx, request)).await
    }

    /// Lets a FlexVol hold a larger LUN. One request where it may grow by itself; else its size is looked at first, which
    /// must not shrink.
    pub(crate) async fn make_roomier(&self, cx: &Cx, flexvol: &str, lun: ByteSize) -> Result<()> {
        let layout = self.layout(lun)?;
        let grows = self.config.volumes.autosize_limit > 100;
        if grows && !self.is_thick() {
            let body = json!({ "autosize": { "mode": "grow", "maximum": layout.maximum.bytes() } });
            match self.patch_flexvol(cx, flexvol, &body).await {
                // It has grown further than the settings would let it today.
                Err(error) if is(&error, code::ABOVE_AUTOSIZE) => {}
                other => return other,
            }
        }
        let request = Request::get("/api/storage/volumes/{}", &[flexvol]).query("fields", "uuid,size");
        let now: wire::SizeOf = self.api.get(cx, &request).await?;
        let size = layout.size.bytes().max(now.size);
        let mut body = json!({ "size": size });
        if grows {
            body["autosize"] = json!({ "mode": "grow", "maximum": layout.maximum.bytes().max(size) });
        }
        self.patch_flexvol(cx, flexvol, &body).await
    }

    fn compared(&self) -> String {
        let reserve = if self.has(Feature::FractionalReserve) { ",space.fractional_reserve" } else { "" };
        format!("{SETTINGS}{reserve}")
    }

    /// A volume that is certainly ours, with everything that is compared.
    async fn settings_of(&self, cx: &Cx, volume: &Volume) -> Result<(wire::Volume, wire::Lun)> {
        let key = Key::parse(&volume.id)?;
        let request =
            Request::get("/api/storage/volumes/{}", &[&key.flexvol]).query("fields", self.compared());
        let flexvol: wire::Volume = self.api.get(cx, &request).await?;
        self.check_svm(&flexvol.svm)?;
        if flexvol.uuid != key.flexvol {
            return Err(inconsistent("the array answered about another volume"));
        }
        if !matches!(convert::mark(&flexvol), Marked::Ours(_)) {
            let message = "the volume does not carry our mark any more";
            return Err(Error::new(ErrorKind::Conflict, message).with_effect(EffectState::None));
        }
        let lun = self.lun_at(cx, &lun_path(&flexvol.name.parse()?)).await?;
        let lun = lun.filter(|it| Some(it.uuid.as_str()) == key.lun.as_deref());
        let missing = || Error::new(ErrorKind::Conflict, "the volume is half-made: it has no LUN");
        Ok((flexvol, lun.ok_or_else(missing)?))
    }

    fn reservation(&self, lun: &wire::Lun) -> Option<Deviation> {
        let is = lun.space.as_ref().and_then(|it| it.guarantee.as_ref()).and_then(|it| it.requested);
        (is != Some(self.is_thick())).then(|| Deviation {
            setting: "provisioning".to_owned(),
            field: "lun.space.guarantee.requested".to_owned(),
            is: is.map_or_else(|| "unknown".to_owned(), |it| it.to_string()),
            wanted: self.is_thick().to_string(),
        })
    }

    pub(crate) async fn review_volume(&self, cx: &Cx, volume: &Volume) -> Result<Vec<Deviation>> {
        let (flexvol, lun) = self.settings_of(cx, volume).await?;
        let differing = self.differing(&flexvol, self.layout(convert::size(&lun)?)?);
        let mut found: Vec<Deviation> = differing.iter().map(|it| it.deviation(&flexvol.fields)).collect();
        found.extend(self.reservation(&lun));
        Ok(found)
    }

    /// The FlexVol first: it must hold the LUN before that reserves its room in it.
    pub(crate) async fn apply_to_volume(&self, cx: &Cx, volume: &Volume) -> Result<Vec<Deviation>> {
        let (flexvol, lun) = self.settings_of(cx, volume).await?;
        let differing = self.differing(&flexvol, self.layout(convert::size(&lun)?)?);
        self.set(cx, &flexvol, &differing).await?;
        let mut changed: Vec<Deviation> = differing.iter().map(|it| it.deviation(&flexvol.fields)).collect();
        changed.extend(self.reserve_as_configured(cx, &lun).await?);
        Ok(changed)
    }

    async fn reserve_as_configured(&self, cx: &Cx, lun: &wire::Lun) -> Result<Option<Deviation>> {
        let Some(deviation) = self.reservation(lun) else { return Ok(None) };
        let body = json!({ "space": { "guarantee": { "requested": self.is_thick() } } });
        let request = Request::patch("/api/storage/luns/{}", &[&lun.uuid]).json(&body)?;
        self.api.insist(cx, request).await?;
        Ok(Some(deviation))
    }

    /// Whether a volume on this aggregate must ask for encryption of its own: the aggregate's (NAE) comes first.
    pub(crate) fn needs_own_encryption(&self, aggregate: &str) -> bool {
        self.config.volumes.encryption == Encryption::Required && !self.is_encrypting(aggregate)
    }

    fn is_encrypting(&self, aggregate: &str) -> bool {
        self.room_of(aggregate).is_some_and(|it| it.encrypts)
    }

    /// That a new FlexVol is encrypted where that is required: asking for it is not proof.
    pub(crate) async fn require_encrypted(&self, cx: &Cx, flexvol: &wire::Volume) -> Result<()> {
        let by_aggregate = flexvol.aggregates.first().and_then(|it| it.name.as_deref());
        if self.config.volumes.encryption == Encryption::AsOnArray
            || by_aggregate.is_some_and(|it| self.is_encrypting(it))
        {
            return Ok(());
        }
        let mut is_encrypted = at(&flexvol.fields, ENCRYPTED).and_then(Value::as_bool);
        if is_encrypted.is_none() {
            let request = Request::get("/api/storage/volumes/{}", &[&flexvol.uuid])
                .query("fields", format!("uuid,{ENCRYPTED}"));
            let now: Map<String, Value> = self.api.get(cx, &request).await?;
            is_encrypted = at(&now, ENCRYPTED).and_then(Value::as_bool);
        }
        if is_encrypted == Some(true) {
            return Ok(());
        }
        let message = "the array made it without encryption, which is required";
        Err(Error::new(ErrorKind::Conflict, message).with_remedy(
            "set up a key manager on the array, or encrypt what it is cloned from, before disks are made here",
        ))
    }
}

/// Names everything of the settings that the array does not have or its release cannot do.
pub(crate) async fn check(
    cx: &Cx,
    api: &Api,
    config: &OntapConfig,
    release: Release,
    problems: &mut Problems,
) -> Result<()> {
    for message in too_new(config, release) {
        problems.add(ErrorKind::Unsupported, message, "leave the option out, or update the array");
    }
    let settings = &config.volumes;
    let snapshots = Some(&settings.snapshot_policy);
    check_policy(cx, api, config, "snapshot policy", "/api/storage/snapshot-policies", snapshots, problems)
        .await?;
    let qos = settings.qos_policy.as_ref();
    check_policy(cx, api, config, "QoS policy", "/api/storage/qos/policies", qos, problems).await
}

/// What of the settings a release cannot do.
fn too_new(config: &OntapConfig, release: Release) -> Vec<String> {
    let needs = [
        (config.deletion == DeleteMode::Immediate, Feature::ForcedDelete, "immediate deletion"),
        (
            config.volumes.autodelete != Autodelete::Off,
            Feature::AutodeleteOrder,
            "deleting snapshots by itself",
        ),
        // It would keep a second copy of every disk for overwriting.
        (
            config.volumes.provisioning == Provisioning::Thick,
            Feature::FractionalReserve,
            "thick provisioning",
        ),
    ];
    let missing = needs.into_iter().filter(|(wanted, feature, _)| *wanted && !release.has(*feature));
    missing.map(|(_, feature, what)| format!("{what} needs ONTAP {}", feature.since())).collect()
}

/// A policy of the SVM or of the whole cluster.
async fn check_policy(
    cx: &Cx,
    api: &Api,
    config: &OntapConfig,
    kind: &str,
    path: &'static str,
    name: Option<&String>,
    problems: &mut Problems,
) -> Result<()> {
    let Some(name) = name.filter(|it| *it != NONE) else { return Ok(()) };
    let request = Request::get(path, &[]).query("name", name).query("fields", "name,svm.name");
    match api.list::<wire::Policy>(cx, request).await {
        Err(error) => problems.keep(error, format!("cannot look up the {kind} {name}")),
        Ok(found) => {
            let is_usable = |it: &wire::Policy| {
                it.name == *name && it.svm.name.as_ref().is_none_or(|svm| *svm == config.svm)
            };
            if !found.iter().any(is_usable) {
                let message = format!("there is no {kind} {name} for the SVM {}", config.svm);
                problems.add(
                    ErrorKind::NotFound,
                    message,
                    "name an existing policy, or create it on the array",
                );
            }
            Ok(())
        }
    }
}

#[async_trait]
impl Policies for Ontap {
    async fn review(&self, cx: &Cx, volume: &Volume) -> Result<Vec<Deviation>> {
        let found = self.proved(cx, self.review_volume(cx, volume)).await;
        found.map_err(|error| {
            Error::wrap(error, "cannot compare the volume with its settings").on(&volume.name)
        })
    }

    async fn apply(&self, cx: &Cx, volume: &Volume) -> Result<Vec<Deviation>> {
        let changed = self.proved(cx, self.apply_to_volume(cx, volume)).await;
        changed.map_err(|error| Error::wrap(error, "cannot set the volume as configured").on(&volume.name))
    }
}
