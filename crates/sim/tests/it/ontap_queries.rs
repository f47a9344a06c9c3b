//! Collections: filters, fields, order, pages, and changes by query.

use std::time::Duration;

use serde_json::{Value, json};

use crate::ontap_rig::{NEW, Rig, Said};

fn full(count: usize) -> Rig {
    let rig = Rig::new(NEW);
    rig.sim.populate("svm1", "v", count, 20 << 20).unwrap();
    rig
}

/// Follows `next` to the end.
async fn all_pages(rig: &Rig, target: &str) -> (Vec<String>, usize) {
    let (mut names, mut pages, mut target) = (Vec::new(), 0, target.to_owned());
    loop {
        let said = rig.get(&target).await;
        assert_eq!(said.status, 200, "{said:?}");
        assert_eq!(said.at("/num_records").as_u64().unwrap(), said.count() as u64);
        names.extend(
            said.at("/records").as_array().unwrap().iter().map(|it| it["name"].as_str().unwrap().to_owned()),
        );
        pages += 1;
        match said.at("/_links/next/href").as_str() {
            Some(next) => next.strip_prefix("/api").unwrap().clone_into(&mut target),
            None => return (names, pages),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn every_page_size_gives_every_record_once() {
    let rig = full(25);
    for size in [1, 2, 7, 24, 25, 26, 100] {
        for order in ["", "&order_by=name%20desc", "&order_by=size,name", "&name=v*"] {
            let (mut names, pages) =
                all_pages(&rig, &format!("/storage/volumes?max_records={size}{order}")).await;
            assert_eq!(pages, 25_usize.div_ceil(size), "{size} {order}");
            names.sort();
            names.dedup();
            assert_eq!(names.len(), 25, "{size} {order}");
        }
    }
    let (names, _) = all_pages(&rig, "/storage/volumes?max_records=4&order_by=name%20desc").await;
    assert!(names.is_sorted_by(|a, b| a >= b), "{names:?}");
}

#[tokio::test(start_paused = true)]
async fn records_that_vanish_between_pages_do_not_disturb_the_rest() {
    let rig = full(10);
    let first = rig.get("/storage/volumes?max_records=5").await;
    let last = first.text("/records/4/name");
    rig.sim.destroy_volume("svm1", &last).unwrap();
    let next = first.text("/_links/next/href");
    let (names, _) = all_pages(&rig, next.strip_prefix("/api").unwrap()).await;
    assert_eq!(names.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn a_page_ends_when_its_time_is_up() {
    let rig = Rig::with(NEW, |config| config.pace.record = Duration::from_millis(100));
    rig.sim.populate("svm1", "v", 25, 20 << 20).unwrap();
    let said = rig.get("/storage/volumes?return_timeout=1").await;
    assert_eq!(said.count(), 10);
    assert_eq!(rig.sim.elapsed(), Duration::from_secs(1));
    assert_eq!(all_pages(&rig, "/storage/volumes?return_timeout=1").await.0.len(), 25);
}

#[tokio::test(start_paused = true)]
async fn keys_only_unless_asked() {
    let rig = full(1);
    let keys = |said: &Said| {
        let Some(Value::Object(members)) = said.body.pointer("/records/0") else { panic!("{said:?}") };
        members.keys().filter(|name| *name != "_links").cloned().collect::<Vec<_>>()
    };
    for (target, expected) in [
        ("/storage/volumes", &["name", "uuid"][..]),
        ("/storage/luns", &["name", "uuid"]),
        ("/storage/luns?svm.name=svm1", &["name", "svm", "uuid"]),
        ("/storage/luns?fields=space.size", &["name", "space", "uuid"]),
        ("/storage/luns?fields=status.mapped", &["name", "status", "uuid"]),
        ("/storage/aggregates", &["name", "uuid"]),
        ("/network/ip/interfaces", &["name", "uuid"]),
        ("/protocols/san/iscsi/services", &["svm"]),
    ] {
        assert_eq!(keys(&rig.get(target).await), expected, "{target}");
    }
    let cheap = rig.get("/storage/luns?fields=*").await;
    assert!(cheap.at("/records/0/status/mapped").is_null());
    assert_eq!(rig.get("/storage/luns?fields=**").await.at("/records/0/status/mapped"), &json!(false));
}

#[tokio::test(start_paused = true)]
async fn counting_needs_no_records() {
    let rig = full(12);
    let said = rig.get("/storage/volumes?return_records=false").await;
    assert_eq!((said.at("/num_records"), said.at("/records")), (&json!(12), &Value::Null));
    assert_eq!(rig.get("/storage/volumes?name=v1|v2|v3").await.count(), 3);
    assert_eq!(rig.get("/storage/volumes?name=!v1&size=>=20MB").await.count(), 11);
    assert_eq!(rig.get("/storage/luns?location.volume.name=v1*").await.count(), 4);
}

#[tokio::test(start_paused = true)]
async fn snapshots_of_all_volumes_in_one_list() {
    let rig = full(3);
    for volume in ["v1", "v2"] {
        rig.sim.add_snapshot("svm1", volume, "s").unwrap();
    }
    let said = rig.get("/storage/volumes/*/snapshots?volume.name=v*&order_by=volume.name").await;
    assert_eq!(said.count(), 2);
    assert_eq!(said.text("/records/1/volume/name"), "v2");
    let uuid = rig.sim.volume("svm1", "v1").unwrap().uuid;
    let target = format!("/storage/volumes/{uuid}/snapshots?name=s&return_timeout=5");
    let said = rig.delete(&target).await;
    assert_eq!((said.status.as_u16(), said.at("/num_records")), (200, &json!(1)));
    assert_eq!(rig.get("/storage/volumes/*/snapshots").await.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn volumes_change_and_go_by_query() {
    let rig = full(5);
    let said = rig.patch("/storage/volumes?name=v1|v2", json!({"comment": "both"})).await;
    assert_eq!((said.status.as_u16(), said.at("/num_records")), (200, &json!(2)));
    assert_eq!(said.at("/jobs").as_array().unwrap().len(), 2);
    assert_eq!(rig.get("/storage/volumes?comment=both").await.count(), 2);
    rig.sim.add_igroup("svm1", "node1", &["iqn.a.b:c"]).unwrap();
    rig.sim.add_map("svm1", "/vol/v3/lun0", "node1", None).unwrap();
    let said = rig.delete("/protocols/san/lun-maps?lun.name=/vol/v3/lun0&return_records=true").await;
    assert_eq!((said.status.as_u16(), said.at("/num_records")), (200, &json!(1)));
    assert_eq!(said.text("/records/0/igroup/name"), "node1");
    let said = rig.delete("/storage/volumes?name=v*&svm.name=svm1&force=true").await;
    assert_eq!((said.status.as_u16(), said.at("/num_records")), (200, &json!(5)));
    assert!(rig.sim.volumes().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_long_change_by_query_goes_on_at_next() {
    let rig = Rig::with(NEW, |config| config.pace.job = Duration::from_secs(4));
    rig.sim.populate("svm1", "v", 10, 20 << 20).unwrap();
    let mut target = "/storage/volumes?name=v*&force=true".to_owned();
    let mut slices = Vec::new();
    loop {
        let said = rig.delete(&target).await;
        slices.push(said.at("/num_records").as_u64().unwrap());
        match said.at("/_links/next/href").as_str() {
            Some(next) => next.strip_prefix("/api").unwrap().clone_into(&mut target),
            None => break,
        }
    }
    assert_eq!(slices, [3, 3, 3, 1]);
    assert!(rig.sim.volumes().is_empty());
}
