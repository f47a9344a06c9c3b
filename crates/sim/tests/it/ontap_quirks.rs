//! The array's peculiarities that a client must live with, one test each.

use std::time::Duration;

use http::Method;
use san_sim::ontap::{Identity, Online, Running};
use san_sim::target::{Reachability, Target};
use serde_json::{Value, json};

use crate::ontap_rig::{NEW, OLD, Rig, lun, volume};

const IQN: &str = "iqn.1993-08.org.debian:01:abc";

#[tokio::test(start_paused = true)]
async fn jobs_end_in_their_own_time() {
    let rig = Rig::with(NEW, |config| config.pace.job = Duration::from_secs(10));
    let said = rig.post("/storage/volumes", volume("a", "20MB")).await;
    assert_eq!(said.status, 202);
    let job = format!("/cluster/jobs/{}", said.text("/job/uuid"));
    assert_eq!(rig.get(&job).await.text("/state"), "running");
    assert_eq!(rig.get("/storage/volumes").await.count(), 0);
    assert_eq!(rig.post("/storage/volumes", volume("a", "20MB")).await.error(), (409, "13107405"));

    let said = rig.post("/storage/volumes?return_timeout=5", volume("b", "20MB")).await;
    assert_eq!(said.status, 202);
    let said = rig.post("/storage/volumes?return_timeout=60&return_records=true", volume("c", "20MB")).await;
    assert_eq!((said.status.as_u16(), said.text("/records/0/name").as_str()), (201, "c"));
    assert!(said.at("/job/uuid").is_string());
    assert_eq!(rig.get(&job).await.text("/state"), "success");
    assert_eq!(rig.sim.elapsed(), Duration::from_secs(15));
}

#[tokio::test(start_paused = true)]
async fn without_a_window_the_answer_is_202_however_fast_the_job_is() {
    let rig = Rig::new(NEW);
    let uuid = rig.volume("v", "20MB").await;
    assert_eq!(rig.patch(&format!("/storage/volumes/{uuid}"), json!({"comment": "x"})).await.status, 202);
    let target = format!("/storage/volumes/{uuid}?return_timeout=1");
    assert_eq!(rig.patch(&target, json!({"comment": "y"})).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_an_http_error_inside_the_window_and_a_failed_job_outside() {
    let rig = Rig::new(NEW);
    rig.sim.set_aggregate_free("aggr1", 0).unwrap();
    let said = rig.post("/storage/volumes?return_timeout=15", volume("v", "20MB")).await;
    assert_eq!(said.status, 409);
    let message = said.text("/error/message");
    assert!(message.contains("not enough space") && message.contains("aggr1"), "{message}");
    let said = rig.post("/storage/volumes", volume("v", "20MB")).await;
    assert_eq!(said.status, 202);
    let job = rig.get(&format!("/cluster/jobs/{}", said.text("/job/uuid"))).await;
    assert_eq!(job.text("/state"), "failure");
    assert_eq!(job.at("/code").to_string(), job.text("/error/code"));
    assert!(rig.sim.volumes().is_empty());
    assert_eq!(rig.get("/storage/aggregates?fields=space").await.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn defaults_are_thick_with_a_snapshot_policy() {
    let rig = Rig::new(NEW);
    let body = json!({"svm": {"name": "svm1"}, "name": "v", "aggregates": [{"name": "aggr1"}]});
    let said = rig.post("/storage/volumes?return_timeout=5&return_records=true", body).await;
    for (pointer, value) in [
        ("/size", json!(20 << 20)),
        ("/guarantee/type", json!("volume")),
        ("/snapshot_policy/name", json!("default")),
        ("/space/snapshot/reserve_percent", json!(5)),
        ("/autosize/mode", json!("off")),
    ] {
        assert_eq!(said.at(&format!("/records/0{pointer}")), &value, "{pointer}");
    }
    let free =
        |said: &crate::ontap_rig::Said| said.at("/records/0/space/block_storage/available").as_u64().unwrap();
    let space = rig.get("/storage/aggregates?name=aggr1&fields=space").await;
    assert_eq!(free(&space), (10 << 40) - (20 << 20));
}

#[tokio::test(start_paused = true)]
async fn a_deleted_volume_waits_in_the_recovery_queue() {
    let rig = Rig::new(NEW);
    let uuid = rig.volume("v", "20MB").await;
    rig.lun("v", "4MB").await;
    assert_eq!(rig.delete(&format!("/storage/volumes/{uuid}?return_timeout=5")).await.status, 200);
    assert_eq!(rig.get("/storage/volumes").await.count(), 0);
    assert_eq!(rig.get("/storage/luns").await.count(), 0);
    let queued = rig.sim.volumes();
    assert!(queued[0].deleted && queued[0].name.starts_with("v_"), "{queued:?}");
    let svm = rig.get("/svm/svms?fields=number_of_volumes_in_recovery_queue").await;
    assert_eq!(svm.at("/records/0/number_of_volumes_in_recovery_queue"), &json!(1));
    rig.volume("v", "20MB").await;
    tokio::time::advance(Duration::from_secs(12 * 3600)).await;
    assert_eq!(rig.sim.volumes().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_flexclone_pins_its_parent_even_in_the_recovery_queue() {
    let rig = Rig::new(NEW);
    let parent = rig.volume("parent", "50MB").await;
    let original = rig.post("/storage/luns?return_records=true", lun("parent", "lun0", "8MB")).await;
    let snapshot = rig.snapshot(&parent, "base").await;
    let body = json!({
        "svm": {"name": "svm1"}, "name": "child", "guarantee": {"type": "none"}, "clone": {
            "is_flexclone": true, "parent_volume": {"name": "parent"}, "parent_snapshot": {"name": "base"},
        },
    });
    let said = rig.post("/storage/volumes?return_timeout=5&return_records=true", body).await;
    assert_eq!(said.status, 201, "{said:?}");
    assert_eq!(said.text("/records/0/clone/parent_snapshot/name"), "base");
    let child = said.text("/records/0/uuid");
    let copy = rig.get("/storage/luns?name=/vol/child/lun0&fields=*,status.mapped").await;
    for field in ["uuid", "serial_number"] {
        assert_ne!(copy.at(&format!("/records/0/{field}")), original.at(&format!("/records/0/{field}")));
    }
    assert_eq!(copy.at("/records/0/status/mapped"), &json!(false));
    assert_eq!(copy.at("/records/0/space/size"), &json!(8 << 20));

    let snapshot = format!("/storage/volumes/{parent}/snapshots/{snapshot}");
    assert_eq!(rig.get(&snapshot).await.at("/owners"), &json!(["volume clone"]));
    assert_eq!(rig.delete(&snapshot).await.error(), (409, "1638543"));
    assert_eq!(rig.delete(&format!("/storage/volumes/{parent}")).await.error(), (409, "524615"));
    rig.delete(&format!("/storage/volumes/{child}?return_timeout=5")).await;
    assert_eq!(rig.delete(&format!("/storage/volumes/{parent}")).await.error(), (409, "524615"));
    rig.sim.purge_recovery_queue().unwrap();
    assert_eq!(rig.delete(&format!("{snapshot}?return_timeout=5")).await.status, 200);
    assert_eq!(rig.delete(&format!("/storage/volumes/{parent}?return_timeout=5")).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn a_split_clone_is_free_of_its_parent() {
    let rig = Rig::new(NEW);
    let parent = rig.volume("parent", "50MB").await;
    let body = json!({
        "svm": {"name": "svm1"}, "name": "child",
        "clone": {"is_flexclone": true, "parent_volume": {"uuid": parent}},
    });
    let said = rig.post("/storage/volumes?return_timeout=5&return_records=true", body).await;
    let child = format!("/storage/volumes/{}?return_timeout=5", said.text("/records/0/uuid"));
    assert_eq!(rig.patch(&child, json!({"clone": {"split_initiated": true}})).await.status, 200);
    assert_eq!(rig.get("/storage/volumes?clone.is_flexclone=true").await.count(), 0);
    assert_eq!(rig.delete(&format!("/storage/volumes/{parent}?return_timeout=5")).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn restore_drops_newer_snapshots_and_keeps_identities() {
    let rig = Rig::new(NEW);
    let volume = rig.volume("v", "100MB").await;
    let kept = rig.post("/storage/luns?return_records=true", lun("v", "kept", "8MB")).await;
    let (kept, serial) = (kept.text("/records/0/uuid"), kept.text("/records/0/serial_number"));
    let lost =
        rig.post("/storage/luns?return_records=true", lun("v", "lost", "8MB")).await.text("/records/0/uuid");
    let igroup = rig.igroup("node1", IQN).await;
    rig.map(&kept, &igroup, Some(5)).await;
    rig.snapshot(&volume, "one").await;
    rig.patch(&format!("/storage/luns/{kept}"), json!({"space": {"size": "16MB"}, "comment": "later"})).await;
    rig.delete(&format!("/storage/luns/{lost}")).await;
    rig.post("/storage/luns", lun("v", "later", "8MB")).await;
    rig.snapshot(&volume, "two").await;

    let target = format!("/storage/volumes/{volume}?restore_to.snapshot.name=one&return_timeout=15");
    assert_eq!(rig.patch(&target, json!({})).await.status, 200);
    let names: Vec<String> =
        rig.sim.volume("svm1", "v").unwrap().snapshots.into_iter().map(|it| it.name).collect();
    assert_eq!(names, ["one"]);
    let luns = rig.get("/storage/luns?order_by=name&fields=serial_number,space.size,comment,lun_maps").await;
    assert_eq!(luns.count(), 2, "{luns:?}");
    assert_eq!(luns.text("/records/0/uuid"), kept);
    assert_eq!(luns.text("/records/0/serial_number"), serial);
    assert_eq!(luns.at("/records/0/space/size"), &json!(8 << 20));
    assert_eq!(luns.text("/records/0/comment"), "");
    assert_eq!(luns.at("/records/0/lun_maps/0/logical_unit_number"), &json!(5));
    assert_eq!(luns.text("/records/1/uuid"), lost);
    assert!(luns.at("/records/1/lun_maps").is_null());
}

#[tokio::test(start_paused = true)]
async fn restore_is_refused_while_a_newer_snapshot_is_busy() {
    let rig = Rig::new(NEW);
    let volume = rig.volume("v", "100MB").await;
    rig.snapshot(&volume, "one").await;
    rig.snapshot(&volume, "two").await;
    let body = json!({
        "svm": {"name": "svm1"}, "name": "child",
        "clone": {"is_flexclone": true, "parent_volume": {"name": "v"}, "parent_snapshot": {"name": "two"}},
    });
    rig.post("/storage/volumes?return_timeout=5", body).await;
    let body = json!({"restore_to": {"snapshot": {"name": "one"}}});
    let said = rig.patch(&format!("/storage/volumes/{volume}?return_timeout=5"), body).await;
    assert_eq!(said.error(), (409, "524511"));
    assert_eq!(rig.sim.volume("svm1", "v").unwrap().snapshots.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_lun_clone_is_new_and_may_hold_its_snapshot_for_a_while() {
    let rig = Rig::with(NEW, |config| config.unverified.lun_clone_pins_snapshot = Duration::from_secs(30));
    let volume = rig.volume("v", "100MB").await;
    let original = rig.post("/storage/luns?return_records=true", lun("v", "lun0", "8MB")).await;
    rig.patch(&format!("/storage/luns/{}", original.text("/records/0/uuid")), json!({"comment": "mark"}))
        .await;
    let snapshot = rig.snapshot(&volume, "s").await;
    let body = json!({
        "svm": {"name": "svm1"}, "name": "/vol/v/copy", "clone": {"source": {"name": "/vol/v/.snapshot/s/lun0"}},
    });
    let copy = rig.post("/storage/luns?return_records=true", body).await;
    assert_eq!(copy.status, 201, "{copy:?}");
    assert_ne!(copy.text("/records/0/serial_number"), original.text("/records/0/serial_number"));
    assert_eq!(copy.text("/records/0/comment"), "mark");
    assert_eq!(copy.at("/records/0/space/size"), &json!(8 << 20));
    let snapshot = format!("/storage/volumes/{volume}/snapshots/{snapshot}?return_timeout=5");
    assert_eq!(rig.delete(&snapshot).await.error(), (409, "1638543"));
    tokio::time::advance(Duration::from_secs(30)).await;
    assert_eq!(rig.delete(&snapshot).await.status, 200);
}

#[tokio::test(start_paused = true)]
async fn lun_numbers_are_the_lowest_free_ones() {
    let rig = Rig::new(NEW);
    rig.volume("v", "20MB").await;
    let igroup = rig.igroup("node1", IQN).await;
    let mut luns = Vec::new();
    for at in 0..4 {
        let said = rig.post("/storage/luns?return_records=true", lun("v", &format!("l{at}"), "4MB")).await;
        luns.push(said.text("/records/0/uuid"));
    }
    for (lun, number) in [(0, 0), (1, 1), (2, 2)] {
        let said = rig.map(&luns[lun], &igroup, None).await;
        assert_eq!(said.at("/records/0/logical_unit_number"), &json!(number));
    }
    rig.delete(&format!("/protocols/san/lun-maps/{}/{igroup}", luns[1])).await;
    let said = rig.map(&luns[3], &igroup, None).await;
    assert_eq!(said.at("/records/0/logical_unit_number"), &json!(1));
}

#[tokio::test(start_paused = true)]
async fn serial_numbers_outlive_renaming_and_sizing() {
    let rig = Rig::new(OLD);
    let volume = rig.volume("v", "20MB").await;
    let uuid = rig.lun("v", "8MB").await;
    let serial = rig.get(&format!("/storage/luns/{uuid}")).await.text("/serial_number");
    assert_eq!(serial.len(), 12);
    rig.patch(&format!("/storage/luns/{uuid}"), json!({"name": "/vol/v/renamed", "space.size": "9MB"})).await;
    rig.patch(&format!("/storage/volumes/{volume}?return_timeout=5"), json!({"name": "w"})).await;
    let said = rig.get(&format!("/storage/luns/{uuid}")).await;
    assert_eq!(
        (said.text("/name").as_str(), said.text("/serial_number")),
        ("/vol/w/renamed", serial.clone())
    );
    let encoded = percent_encoding::utf8_percent_encode(&serial, percent_encoding::NON_ALPHANUMERIC);
    assert_eq!(rig.get(&format!("/storage/luns?serial_number={encoded}")).await.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn volumes_grow_by_themselves_when_hosts_fill_them() {
    let rig = Rig::new(NEW);
    let uuid = rig.volume("v", "20MB").await;
    let autosize = json!({"autosize": {"mode": "grow", "maximum": "60MB", "grow_threshold": 80}});
    rig.patch(&format!("/storage/volumes/{uuid}?return_timeout=5"), autosize).await;
    rig.lun("v", "64MB").await;
    let file = rig.sim.lun_file("svm1", "/vol/v/lun0").unwrap();
    std::fs::write(&file, vec![1; 30 << 20]).unwrap();
    let size = rig.get(&format!("/storage/volumes/{uuid}")).await.at("/size").as_u64().unwrap();
    assert!((36 << 20..60 << 20).contains(&size), "{size}");
    std::fs::write(&file, vec![1; 64 << 20]).unwrap();
    let said = rig.get(&format!("/storage/volumes/{uuid}?fields=size,space")).await;
    assert_eq!(said.at("/size"), &json!(60 << 20));
    assert_eq!(
        rig.get("/storage/luns?fields=status.state").await.text("/records/0/status/state"),
        "space_error"
    );
}

#[tokio::test(start_paused = true)]
async fn urls_and_bodies_are_read_leniently() {
    let rig = Rig::new(NEW);
    rig.volume("v", "20MB").await;
    for target in ["//storage/volumes/", "/storage/volumes/?svm=svm1", "/storage/volumes?svm.name=svm1"] {
        assert_eq!(rig.get(target).await.count(), 1, "{target}");
    }
    let body = json!({
        "svm.name": "svm1", "name": "/vol/v/l", "os_type": "linux", "space.size": "8388608",
        "space": {"guarantee.requested": "false"},
    });
    assert_eq!(rig.post("/storage/luns", body).await.status, 201);
    let headers = [("authorization", "Basic YWRtaW46bmV0YXBwMSE="), ("x-dot-svm-name", "svm1")];
    let body = json!({"name": "ig", "os_type": "linux"});
    assert_eq!(rig.ask_with(Method::POST, "/protocols/san/igroups", body, &headers).await.status, 201);
}

#[tokio::test(start_paused = true)]
async fn links_come_with_hal_only() {
    let rig = Rig::new(NEW);
    for at in 0..3 {
        rig.volume(&format!("v{at}"), "20MB").await;
    }
    let plain = [("authorization", "Basic YWRtaW46bmV0YXBwMSE="), ("accept", "application/json")];
    let said = rig.ask_with(Method::GET, "/storage/volumes?max_records=2", Value::Null, &plain).await;
    assert!(said.at("/records/0/_links").is_null() && said.at("/_links/self").is_null());
    assert!(said.at("/_links/next/href").is_string());
    let said = rig.get("/storage/volumes?max_records=2").await;
    let uuid = said.text("/records/0/uuid");
    assert_eq!(said.text("/records/0/_links/self/href"), format!("/api/storage/volumes/{uuid}"));
}

#[tokio::test(start_paused = true)]
async fn portals_show_luns_of_their_node_and_its_partner() {
    let rig = Rig::with(NEW, |config| {
        config.nodes = ["a", "b", "c", "d"].map(str::to_owned).to_vec();
        config.svms[0].portals[3].node = 2;
    });
    rig.volume("v", "20MB").await;
    let uuid = rig.lun("v", "4MB").await;
    let igroup = rig.igroup("node1", &IQN.to_ascii_uppercase()).await;
    let said = rig.map(&uuid, &igroup, None).await;
    assert!(said.at("/records/0/reporting_nodes").is_null());
    let said = rig.get(&format!("/protocols/san/lun-maps?lun.uuid={uuid}&fields=reporting_nodes.name")).await;
    assert_eq!(said.at("/records/0/reporting_nodes"), &json!([{"name": "a"}, {"name": "b"}]));
    let portals = rig.sim.portals();
    let seen: Vec<Option<bool>> = portals
        .iter()
        .map(|portal| rig.sim.units(IQN, portal.address).get(&0).map(|unit| unit.optimized))
        .collect();
    assert_eq!(seen, [Some(true), Some(true), Some(false), None]);
    assert!(rig.sim.units("iqn.someone.else:x", portals[0].address).is_empty());
    rig.sim.set_portal(portals[0].address, Reachability::BlackHole).unwrap();
    assert!(rig.sim.units(IQN, portals[0].address).is_empty());
    let said = rig.get("/network/ip/interfaces?services=data_iscsi&state=down").await;
    assert_eq!(said.count(), 1);
}

#[tokio::test(start_paused = true)]
async fn identities_can_be_wrong_on_one_path() {
    let rig = Rig::new(NEW);
    rig.volume("v", "20MB").await;
    let uuid = rig.lun("v", "4MB").await;
    let igroup = rig.igroup("node1", IQN).await;
    rig.map(&uuid, &igroup, None).await;
    let portals = rig.sim.portals();
    let wrong = Identity::Serial(b"wrong+serial".to_vec());
    rig.sim.override_identity("svm1", "/vol/v/lun0", Some(portals[1].address), Some(wrong)).unwrap();
    rig.sim
        .override_identity("svm1", "/vol/v/lun0", Some(portals[2].address), Some(Identity::Empty))
        .unwrap();
    let at = |index: usize| rig.sim.units(IQN, portals[index].address)[&0].clone();
    assert_eq!(at(1).serial, b"wrong+serial");
    assert_eq!(&at(1).naa[4..], b"wrong+serial");
    assert_eq!((at(2).serial, at(2).naa), (Vec::new(), [0; 16]));
    assert_eq!(at(0).serial, at(3).serial);
    rig.sim.add_volume("svm1", "foreign", 20 << 20, "").unwrap();
    rig.sim.add_lun("svm1", "/vol/foreign/x", 4 << 20, "").unwrap();
    rig.sim.reuse_number("svm1", "node1", 0, "/vol/foreign/x").unwrap();
    assert_eq!(at(0).serial, rig.sim.lun("svm1", "/vol/foreign/x").unwrap().serial.as_bytes());
}

#[tokio::test(start_paused = true)]
async fn svms_stop_and_luns_go_offline() {
    let rig = Rig::new(NEW);
    rig.volume("v", "20MB").await;
    let uuid = rig.lun("v", "4MB").await;
    let igroup = rig.igroup("node1", IQN).await;
    rig.map(&uuid, &igroup, None).await;
    let portal = rig.sim.portals()[0].address;
    rig.sim.set_lun_online("svm1", "/vol/v/lun0", Online::No).unwrap();
    assert!(rig.sim.units(IQN, portal).is_empty());
    assert_eq!(rig.get(&format!("/storage/luns/{uuid}")).await.text("/status/state"), "offline");
    rig.sim.set_lun_online("svm1", "/vol/v/lun0", Online::Yes).unwrap();
    assert_eq!(rig.sim.units(IQN, portal).len(), 1);
    rig.sim.set_svm_running("svm1", Running::No).unwrap();
    assert!(rig.sim.units(IQN, portal).is_empty());
    assert_eq!(rig.post("/storage/luns", lun("v", "x", "4MB")).await.status, 409);
    assert_eq!(rig.get("/svm/svms?state=stopped").await.count(), 1);
    assert_eq!(rig.sim.portals()[0].reachability, Reachability::Refusing);
}

#[tokio::test(start_paused = true)]
async fn arrays_and_svms_are_apart() {
    let one = Rig::new(NEW);
    let two = Rig::with(NEW, |config| config.seed = 2);
    let uuid = |said: crate::ontap_rig::Said| said.text("/uuid");
    assert_ne!(uuid(one.get("/cluster").await), uuid(two.get("/cluster").await));
    let before = uuid(one.get("/cluster").await);
    one.sim.replace_array(99);
    assert_ne!(uuid(one.get("/cluster").await), before);
    let rig = Rig::with(NEW, |config| config.svms.push(san_sim::ontap::SvmConfig::new("svm2", [10, 0, 1])));
    rig.volume("v", "20MB").await;
    rig.sim.add_volume("svm2", "v", 20 << 20, "").unwrap();
    assert_eq!(rig.get("/storage/volumes?name=v").await.count(), 2);
    assert_eq!(rig.get("/storage/volumes?name=v&svm.name=svm2").await.count(), 1);
    assert_eq!(rig.get("/protocols/san/iscsi/services?fields=target.name").await.count(), 2);
}
