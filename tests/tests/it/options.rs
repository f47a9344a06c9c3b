//! What a storage's options come to on the array: where volumes go, what they are like, and how they leave.

use std::sync::Arc;

use san_core::{Error, ErrorKind, Mark};
use san_sim::ontap::{
    AggregateEncryption, CloneSettings, LunInfo, OntapConfig, Version, VolumeEncryption, VolumeInfo,
};
use sanbridge_tests::daemons::{Client, DaemonSite, SimWires};
use sanbridge_tests::site::{PASSWORD, SVM, Site};
use serde_json::{Value, json};

use crate::support::changes;

const MIB: u64 = 1 << 20;
const SIZE: u64 = 8 * MIB;

async fn site_with(change: impl FnOnce(&mut OntapConfig)) -> DaemonSite {
    let site = Site::with(1, Version::new(9, 16, 1), change).unwrap();
    let wires = Arc::new(SimWires(site.array.clone()));
    DaemonSite::on(site, wires).await.unwrap()
}

/// A client whose storage has these options as well, not added yet.
fn client(site: &DaemonSite, options: &[(&str, &str)]) -> Client {
    let mut client = site.client(0);
    for (name, value) in options {
        client.options.insert(format!("sanbridge-{name}"), Value::from(*value));
    }
    client
}

async fn added(site: &DaemonSite, options: &[(&str, &str)]) -> Client {
    let client = client(site, options);
    client.add().await.unwrap();
    client
}

async fn create(client: &Client, vmid: u32) -> Result<String, Error> {
    let made = client.call("volume.create", json!({ "vmid": vmid, "size_bytes": SIZE })).await?;
    Ok(made.ok["name"].as_str().unwrap().to_owned())
}

async fn delete(client: &Client, name: &str) {
    client.call("volume.delete", json!({ "name": name })).await.unwrap();
}

/// The volumes that the product made and that are not deleted, by the object in their marks.
fn ours(site: &DaemonSite) -> Vec<VolumeInfo> {
    let mut all = site.site.array.volumes();
    all.retain(|it| it.comment.contains("sanbridge") && !it.deleted);
    all
}

/// A clone's mark names its template too.
fn volume(site: &DaemonSite, object: &str) -> VolumeInfo {
    let is_it = |it: &VolumeInfo| Mark::parse(&it.comment).unwrap().unwrap().owner.object() == object;
    ours(site).into_iter().find(is_it).unwrap()
}

fn lun(site: &DaemonSite, object: &str) -> LunInfo {
    site.site.array.lun(SVM, &format!("/vol/{}/lun0", volume(site, object).name)).unwrap()
}

fn assert_unchanged(site: &DaemonSite, before: &san_contract::audit::Audit) {
    let findings = site.audit().against(before);
    assert!(findings.is_empty(), "{findings}");
}

fn text(error: &Error) -> String {
    format!("{error:?}")
}

#[tokio::test(start_paused = true)]
async fn without_options_volumes_are_thin_and_leave_snapshots_to_people() {
    let site = site_with(|_| {}).await;
    let client = added(&site, &[]).await;
    let before = site.audit();
    let name = create(&client, 100).await.unwrap();
    let settings = volume(&site, &name).settings;
    assert_eq!((settings.guarantee, settings.snapshot_reserve, settings.fractional_reserve), ("none", 0, 0));
    assert_eq!((settings.autosize, settings.autodelete), ("grow", None));
    assert_eq!((settings.snapshot_policy.as_str(), settings.qos_policy), ("none", None));
    assert!(!lun(&site, &name).reserved);
    delete(&client, &name).await;
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn a_thick_disk_has_its_room_and_keeps_it_as_it_grows() {
    let site = site_with(|_| {}).await;
    let client = added(&site, &[("provisioning", "thick"), ("snapshot-reserve", "20")]).await;
    let before = site.audit();
    let name = create(&client, 100).await.unwrap();
    let holds = |size: u64| {
        let volume = volume(&site, &name);
        assert_eq!(volume.settings.guarantee, "volume");
        assert_eq!((volume.settings.snapshot_reserve, volume.settings.fractional_reserve), (20, 0));
        let lun = lun(&site, &name);
        assert!(lun.reserved && lun.size >= size, "{lun:?}");
        assert!(volume.size / 100 * 80 >= lun.size + lun.size / 10, "{volume:?}");
        assert!(volume.settings.autosize_maximum >= volume.size);
        volume.size
    };
    let first = holds(SIZE);
    let grow = |size: u64| json!({ "name": name, "size_bytes": size, "running": false });
    client.call("volume.grow", grow(400 * MIB)).await.unwrap();
    assert!(holds(400 * MIB) > first);
    // What does not fit is refused, and everything is as it was.
    site.site.array.set_aggregate_free("aggr1", 50 * MIB).unwrap();
    let error = client.call("volume.grow", grow(800 * MIB)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfSpace, "{error:?}");
    assert_eq!(lun(&site, &name).size, 400 * MIB);
    delete(&client, &name).await;
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn a_thick_disk_that_fits_nowhere_is_refused_before_anything_is_made() {
    let site = site_with(|_| {}).await;
    let client = added(&site, &[("provisioning", "thick"), ("aggregate", "aggr1,aggr2")]).await;
    for aggregate in ["aggr1", "aggr2"] {
        site.site.array.set_aggregate_free(aggregate, 30 * MIB).unwrap();
    }
    let before = site.audit();
    let mark = site.site.array.mark();
    let error = create(&client, 100).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfSpace, "{error:?}");
    assert!(error.remedy().is_some());
    assert_unchanged(&site, &before);
    // Both were asked at most once; after that what is known is enough.
    assert!(changes(&site.site.array, mark).len() <= 2);
    let mark = site.site.array.mark();
    let error = create(&client, 100).await.unwrap_err();
    assert!(text(&error).contains("aggr1 has") && text(&error).contains("aggr2 has"), "{error:?}");
    assert_eq!(changes(&site.site.array, mark), []);
}

#[tokio::test(start_paused = true)]
async fn the_disks_of_a_guest_are_kept_apart_where_room_allows() {
    let site = site_with(|_| {}).await;
    let client = added(&site, &[("aggregate", "aggr1,aggr2")]).await;
    client.call("storage.status", json!({})).await.unwrap();
    let before = site.audit();
    let mark = site.site.array.mark();
    let mut names = Vec::new();
    for _ in 0..4 {
        names.push(create(&client, 100).await.unwrap());
    }
    assert_eq!(changes(&site.site.array, mark).len(), 8);
    // A look of the daemon's own may fall in between.
    let sent = site.site.array.requests(mark);
    let looks = sent.iter().filter(|it| it.template == "/storage/aggregates").count();
    assert!(looks <= 1, "placing costs no request: {looks}");
    let on = |name: &str| volume(&site, name).aggregate;
    assert_ne!(on(&names[0]), on(&names[1]));
    assert_ne!(on(&names[2]), on(&names[3]));
    // A full one is passed over, and the next disk needs not learn that again.
    site.site.array.set_aggregate_free("aggr1", 0).unwrap();
    for _ in 0..2 {
        names.push(create(&client, 100).await.unwrap());
        assert_eq!(on(names.last().unwrap()), "aggr2");
    }
    for name in &names {
        delete(&client, name).await;
    }
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn the_room_of_a_storage_is_that_of_all_its_aggregates() {
    let site = site_with(|_| {}).await;
    let one = added(&site, &[]).await.call("storage.status", json!({})).await.unwrap().ok;
    let mut both = client(&site, &[("aggregate", "aggr1, aggr2")]);
    both.storage = "both".to_owned();
    both.add().await.unwrap();
    let both = both.call("storage.status", json!({})).await.unwrap().ok;
    let total = |it: &Value| it["total"].as_u64().unwrap();
    assert_eq!(total(&both), 2 * total(&one));
}

#[tokio::test(start_paused = true)]
async fn a_volume_gets_the_settings_of_its_storage() {
    let site = site_with(|it| it.aggregates[0].object_stores = vec!["s3".to_owned()]).await;
    let client = added(
        &site,
        &[
            ("autosize-limit", "100"),
            ("snapshot-reserve", "10"),
            ("snapshot-autodelete", "newest-first"),
            ("snapshot-policy", "default"),
            ("qos-policy", "gold"),
            ("tiering", "snapshot-only"),
        ],
    )
    .await;
    let before = site.audit();
    let name = create(&client, 100).await.unwrap();
    let made = volume(&site, &name);
    let settings = &made.settings;
    assert_eq!((settings.autosize, settings.snapshot_reserve), ("off", 10));
    assert_eq!((settings.autodelete, settings.tiering), (Some("newest_first"), "snapshot_only"));
    assert_eq!(
        (settings.snapshot_policy.as_str(), settings.qos_policy.as_deref()),
        ("default", Some("gold"))
    );
    // What cannot grow by itself is made larger with the disk.
    let larger = json!({ "name": name, "size_bytes": 400 * MIB, "running": false });
    client.call("volume.grow", larger).await.unwrap();
    assert!(volume(&site, &name).size / 100 * 90 >= 440 * MIB);
    delete(&client, &name).await;
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn everything_the_array_does_not_have_is_named_at_once() {
    let site = Site::with(1, Version::new(9, 12, 1), |_| {}).unwrap();
    let wires = Arc::new(SimWires(site.array.clone()));
    let site = DaemonSite::on(site, wires).await.unwrap();
    let before = site.audit();
    let client = client(
        &site,
        &[
            ("aggregate", "aggr1,aggr9"),
            ("snapshot-autodelete", "oldest-first"),
            ("snapshot-policy", "hourly"),
            ("qos-policy", "platinum"),
            ("tiering", "auto"),
        ],
    );
    let error = client.add().await.unwrap_err();
    for word in
        ["aggr9", "9.13.1", "snapshot policy hourly", "QoS policy platinum", "aggr1 has no cloud tier"]
    {
        assert!(text(&error).contains(word), "{word} is not in {error:?}");
    }
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn deleted_volumes_leave_as_the_storage_says() {
    for (way, left) in [("recoverable", 1), ("immediate", 0)] {
        let site = site_with(|_| {}).await;
        let client = added(&site, &[("delete", way)]).await;
        let before = site.audit();
        let name = create(&client, 100).await.unwrap();
        delete(&client, &name).await;
        let queued = site.site.array.volumes().into_iter().filter(|it| it.deleted).count();
        assert_eq!(queued, left, "{way}");
        assert_unchanged(&site, &before);
    }
}

#[tokio::test(start_paused = true)]
async fn where_encryption_is_required_there_is_nothing_else() {
    // The aggregate's own comes first.
    let cases = [
        (AggregateEncryption::On, VolumeEncryption::Refused, true),
        (AggregateEncryption::Off, VolumeEncryption::Works, true),
        (AggregateEncryption::Off, VolumeEncryption::Ignored, false),
        (AggregateEncryption::Off, VolumeEncryption::Refused, false),
    ];
    for (aggregate, volumes, is_possible) in cases {
        let site = site_with(|it| {
            it.aggregates[0].encryption = aggregate;
            it.unverified.volume_encryption = volumes;
        })
        .await;
        let client = added(&site, &[("encryption", "required")]).await;
        let before = site.audit();
        let made = create(&client, 100).await;
        assert_eq!(made.is_ok(), is_possible, "{aggregate:?} {volumes:?}: {made:?}");
        assert!(ours(&site).iter().all(|it| it.settings.encryption));
        if let Ok(name) = made {
            delete(&client, &name).await;
        }
        assert_unchanged(&site, &before);
    }
}

#[tokio::test(start_paused = true)]
async fn a_clone_is_like_any_other_volume_of_its_storage() {
    for (settings, qos) in [
        (CloneSettings::OfParent, CloneSettings::OfNewVolume),
        (CloneSettings::OfNewVolume, CloneSettings::OfParent),
    ] {
        let site = site_with(|it| {
            it.unverified.clone_settings = settings;
            it.unverified.clone_qos = qos;
        })
        .await;
        let client =
            added(&site, &[("provisioning", "thick"), ("snapshot-reserve", "5"), ("qos-policy", "silver")])
                .await;
        let before = site.audit();
        let name = create(&client, 100).await.unwrap();
        let template = client.call("volume.template", json!({ "name": name })).await.unwrap().ok;
        let template = template["name"].as_str().unwrap().to_owned();
        let cloned = json!({ "name": template, "vmid": 101, "snapshot": null });
        let cloned = client.call("volume.clone", cloned).await.unwrap().ok;
        let cloned = cloned["name"].as_str().unwrap();
        let (of, object) = (volume(&site, &template), cloned.rsplit('/').next().unwrap());
        let clone = ours(&site).into_iter().find(|it| it.parent == Some(of.uuid)).unwrap();
        assert_eq!(clone.settings, of.settings, "{object}");
        assert_eq!(clone.settings.qos_policy.as_deref(), Some("silver"));
        delete(&client, cloned).await;
        site.site.array.purge_recovery_queue().unwrap();
        delete(&client, &template).await;
        assert_unchanged(&site, &before);
    }
}

#[tokio::test(start_paused = true)]
async fn snapshots_that_the_array_takes_are_nobody_elses() {
    let site = site_with(|_| {}).await;
    let client = added(&site, &[("snapshot-policy", "default")]).await;
    let before = site.audit();
    let name = create(&client, 100).await.unwrap();
    let of = json!({ "name": name, "snapshot": "mine" });
    let hourly = |at: &str| {
        site.site.array.add_snapshot(SVM, &volume(&site, &name).name, at).unwrap();
    };
    hourly("hourly.2026-11-27_0105");
    client.call("snapshot.create", of.clone()).await.unwrap();
    hourly("hourly.2026-11-27_0205");
    // One that looks like ours and carries no note.
    hourly("sb_theirs");
    let listed = client.call("snapshot.list", json!({ "name": name })).await.unwrap().ok;
    assert_eq!(listed["snapshots"].as_object().unwrap().keys().collect::<Vec<_>>(), ["mine"]);
    client.call("snapshot.rollback", of.clone()).await.unwrap();
    client
        .call("snapshot.delete", json!({ "name": name, "snapshot": "mine", "running": false }))
        .await
        .unwrap();
    let theirs = json!({ "name": name, "snapshot": "theirs", "running": false });
    client.call("snapshot.delete", theirs).await.unwrap();
    let left: Vec<String> = volume(&site, &name).snapshots.into_iter().map(|it| it.name).collect();
    assert_eq!(left, ["hourly.2026-11-27_0105", "hourly.2026-11-27_0205", "sb_theirs"]);
    let template = client.call("volume.template", json!({ "name": name })).await.unwrap().ok;
    delete(&client, template["name"].as_str().unwrap()).await;
    assert_unchanged(&site, &before);
}

#[tokio::test(start_paused = true)]
async fn changed_options_are_checked_and_concern_new_volumes() {
    let site = site_with(|_| {}).await;
    let mut client = added(&site, &[]).await;
    let before = site.audit();
    let old = create(&client, 100).await.unwrap();
    let wrong = json!({ "changes": { "sanbridge-qos-policy": "platinum" }, "delete": [], "secrets": {} });
    let error = client.call("storage.update", wrong).await.unwrap_err();
    assert!(text(&error).contains("platinum"), "{error:?}");
    let changed = json!({ "changes": { "sanbridge-qos-policy": "gold" }, "delete": [], "secrets": {} });
    client.call("storage.update", changed).await.unwrap();
    client.options.insert("sanbridge-qos-policy".to_owned(), Value::from("gold"));
    let new = create(&client, 100).await.unwrap();
    let qos = |name: &str| volume(&site, name).settings.qos_policy;
    assert_eq!((qos(&old), qos(&new).as_deref()), (None, Some("gold")));
    for name in [&old, &new] {
        delete(&client, name).await;
    }
    assert_unchanged(&site, &before);
    assert!(!text(&error).contains(PASSWORD));
}

#[tokio::test(start_paused = true)]
async fn changed_options_reach_older_volumes_when_they_are_applied() {
    let site = site_with(|it| it.aggregates[0].object_stores = vec!["s3".to_owned()]).await;
    let mut client = added(&site, &[]).await;
    let before = site.audit();
    let old = create(&client, 100).await.unwrap();
    let nothing = client.call("admin.policy", json!({ "storage": null, "name": null })).await.unwrap().ok;
    assert_eq!((&nothing["reviewed"], &nothing["deviations"]), (&json!(1), &json!([])));
    let options = [
        ("sanbridge-provisioning", "thick"),
        ("sanbridge-snapshot-reserve", "30"),
        ("sanbridge-autosize-limit", "200"),
        ("sanbridge-snapshot-autodelete", "oldest-first"),
        ("sanbridge-snapshot-policy", "default"),
        ("sanbridge-qos-policy", "gold"),
        ("sanbridge-tiering", "auto"),
    ];
    let changes_of = |options: &[(&str, &str)]| {
        let changes: serde_json::Map<String, Value> =
            options.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect();
        json!({ "changes": changes, "delete": [], "secrets": {} })
    };
    client.call("storage.update", changes_of(&options)).await.unwrap();
    client.options.extend(options.map(|(key, value)| (key.to_owned(), Value::from(value))));
    client.call("storage.activate", json!({})).await.unwrap();

    let mark = site.site.array.mark();
    let review = client.call("admin.policy", json!({ "storage": "san1", "name": old })).await.unwrap().ok;
    let named: Vec<&str> =
        review["deviations"].as_array().unwrap().iter().filter_map(|it| it["option"].as_str()).collect();
    for (option, _) in options {
        let option = option.trim_start_matches("sanbridge-");
        assert!(named.contains(&option), "{option} in {review}");
    }
    assert_eq!(changes(&site.site.array, mark), [], "looking changes nothing");

    // Without room for it nothing is made thick.
    site.site.array.set_aggregate_free("aggr1", MIB).unwrap();
    let apply = json!({ "storage": null, "name": old });
    let error = client.call("admin.policy-apply", apply.clone()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfSpace, "{error:?}");
    assert_eq!(volume(&site, &old).settings.guarantee, "none");
    site.site.array.set_aggregate_free("aggr1", 10_000 * MIB).unwrap();

    let changed = client.call("admin.policy-apply", apply.clone()).await.unwrap().ok;
    assert_eq!(changed["changed"], without_names(&review["deviations"]));
    let again = client.call("admin.policy-apply", apply).await.unwrap().ok;
    assert_eq!(again["changed"], json!([]));
    let new = create(&client, 100).await.unwrap();
    assert_eq!(volume(&site, &old).settings, volume(&site, &new).settings);
    assert_eq!((lun(&site, &old).reserved, volume(&site, &old).size), (true, volume(&site, &new).size));

    // And back again; what was made larger stays so.
    let thin = [("sanbridge-provisioning", "thin"), ("sanbridge-snapshot-autodelete", "off")];
    client.call("storage.update", changes_of(&thin)).await.unwrap();
    client.options.extend(thin.map(|(key, value)| (key.to_owned(), Value::from(value))));
    client.call("storage.activate", json!({})).await.unwrap();
    client.call("admin.policy-apply", json!({ "storage": null, "name": old })).await.unwrap();
    let settings = volume(&site, &old).settings;
    assert_eq!((settings.guarantee, settings.autodelete, lun(&site, &old).reserved), ("none", None, false));
    let missing = json!({ "storage": null, "name": "vm-100-disk-9" });
    for method in ["admin.policy", "admin.policy-apply"] {
        let error = client.call(method, missing.clone()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{method}: {error:?}");
    }
    for name in [&old, &new] {
        delete(&client, name).await;
    }
    assert_unchanged(&site, &before);
}

fn without_names(deviations: &Value) -> Value {
    let mut all = deviations.clone();
    for it in all.as_array_mut().unwrap() {
        let it = it.as_object_mut().unwrap();
        it.remove("storage");
        it.remove("name");
    }
    all
}
