//! What the array refuses, row by row: request, status, code.

use http::Method;
use san_sim::ontap::{EmptyQuery, MappedDelete};
use serde_json::{Value, json};

use crate::ontap_rig::{NEW, OLD, Rig, lun, volume};

const IQN: &str = "iqn.1993-08.org.debian:01:abc";

/// A body with one field changed.
fn with(mut body: Value, pointer: &str, value: Value) -> Value {
    let (parent, name) = pointer.rsplit_once('/').unwrap();
    match (body.pointer_mut(parent).unwrap(), name.parse::<usize>()) {
        (Value::Array(items), Ok(at)) => items[at] = value,
        (parent, _) => parent[name] = value,
    }
    body
}

/// A rig with volume `v` (100 MB), its LUN `lun0` (32 MB), snapshot `s`, and igroup `node1`.
struct World {
    rig: Rig,
    volume: String,
    lun: String,
    igroup: String,
}

impl World {
    async fn new() -> Self {
        let rig = Rig::new(NEW);
        let volume = rig.volume("v", "100MB").await;
        let lun = rig.lun("v", "32MB").await;
        rig.snapshot(&volume, "s").await;
        let igroup = rig.igroup("node1", IQN).await;
        Self { rig, volume, lun, igroup }
    }

    async fn expect(&self, method: Method, target: &str, body: Value, status: u16, code: &str) {
        let target =
            target.replace("{v}", &self.volume).replace("{l}", &self.lun).replace("{i}", &self.igroup);
        let said = self.rig.ask(method.clone(), &target, body.clone()).await;
        assert_eq!(said.error(), (status, code), "{method} {target} {body}: {said:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn volume_creation() {
    let world = World::new().await;
    let good = || volume("new", "20MB");
    for (pointer, value, status, code) in [
        ("/name", json!("v"), 409, "917526"),
        ("/name", json!("1st"), 400, "917887"),
        ("/name", json!("a-b"), 400, "917888"),
        ("/name", json!("a".repeat(204)), 400, "917886"),
        ("/size", json!("19MB"), 400, "917534"),
        ("/size", json!("301TB"), 400, "262197"),
        ("/size", json!("lots"), 400, "262197"),
        ("/svm/name", json!("nobody"), 404, "2621462"),
        ("/svm", json!({}), 400, "2621707"),
        ("/aggregates", json!([]), 400, "918242"),
        ("/aggregates", json!([{"name": "aggr1"}, {"name": "aggr2"}]), 400, "918242"),
        ("/aggregates", json!(null), 400, "787140"),
        ("/aggregates/0/name", json!("none"), 404, "917508"),
        ("/snapshot_policy/name", json!("hourly!"), 400, "917551"),
        ("/space/snapshot/reserve_percent", json!(91), 400, "917835"),
        ("/comment", json!("c".repeat(1024)), 400, "262197"),
        ("/guarantee/type", json!("maybe"), 400, "262197"),
        ("/autosize", json!({"mode": "grow", "grow_threshold": 40, "shrink_threshold": 60}), 400, "917829"),
        ("/autosize", json!({"mode": "grow", "minimum": "30MB", "maximum": "30MB"}), 400, "917831"),
        ("/autosize", json!({"mode": "grow", "maximum": "10MB"}), 400, "918521"),
        ("/autosize", json!({"mode": "grow", "minimum": "30MB"}), 400, "918524"),
        ("/nonsense", json!(1), 400, "262179"),
        ("/uuid", json!("x"), 400, "262196"),
        ("/space/snapshot/autodelete", json!({"enabled": true}), 400, "262196"),
        ("/space/size", json!("30MB"), 400, "262186"),
    ] {
        let body = with(good(), pointer, value);
        world.expect(Method::POST, "/storage/volumes", body, status, code).await;
    }
    assert_eq!(world.rig.sim.volumes().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn volume_changes() {
    let world = World::new().await;
    let source = volume("full", "20MB");
    assert_eq!(world.rig.post("/storage/volumes?return_timeout=5", source).await.status, 201);
    for (target, body, status, code) in [
        ("/storage/volumes/{v}", json!({"name": "full"}), 409, "917526"),
        ("/storage/volumes/{v}", json!({"size": "1MB"}), 400, "917534"),
        ("/storage/volumes/{v}", json!({}), 400, "2"),
        ("/storage/volumes/{v}", json!({"create_time": "x"}), 400, "262196"),
        ("/storage/volumes/{v}", json!({"clone": {"split_initiated": true}}), 400, "3"),
        ("/storage/volumes/{v}?restore_to.snapshot.name=none", json!({}), 404, "1638600"),
        ("/storage/volumes/00000000-0000-0000-0000-000000000000", json!({"comment": "x"}), 404, "4"),
        ("/storage/volumes", json!({"comment": "x"}), 400, "2"),
    ] {
        world.expect(Method::PATCH, target, body, status, code).await;
    }
}

#[tokio::test(start_paused = true)]
async fn lun_creation_and_changes() {
    let world = World::new().await;
    let good = || lun("v", "new", "32MB");
    for (pointer, value, status, code) in [
        ("/name", json!("/vol/v/lun0"), 409, "5374242"),
        ("/name", json!("/vol/none/lun0"), 404, "917927"),
        ("/name", json!("lun0"), 400, "5374127"),
        ("/name", json!("/vol/v/a b"), 400, "5374121"),
        ("/name", json!(format!("/vol/v/{}", "a".repeat(250))), 400, "5376462"),
        ("/name", json!("/vol/v/.snapshot/s/lun1"), 400, "5374238"),
        ("/space/size", json!(4095), 400, "5374124"),
        ("/space/size", json!("129TB"), 400, "5374125"),
        ("/space/size", json!(null), 400, "5374884"),
        ("/os_type", json!(null), 400, "5374884"),
        ("/os_type", json!("beos"), 400, "262197"),
        ("/comment", json!("c".repeat(255)), 400, "262197"),
        ("/clone", json!({"source": {"name": "/vol/v/lun0"}}), 400, "5374883"),
        ("/space/guarantee", json!({"requested": true}), 201, ""),
        ("/provisioning_options", json!({"auto": true}), 400, "3"),
    ] {
        let body = with(good(), pointer, value);
        if status == 201 {
            assert_eq!(world.rig.post("/storage/luns", body).await.status, 201);
        } else {
            world.expect(Method::POST, "/storage/luns", body, status, code).await;
        }
    }
    let clone =
        json!({"svm": {"name": "svm1"}, "name": "/vol/v/c", "clone": {"source": {"name": "/vol/v/gone"}}});
    world.expect(Method::POST, "/storage/luns", clone, 404, "5374875").await;
    world.rig.volume("other", "20MB").await;
    let clone = json!({"svm": {"name": "svm1"}, "name": "/vol/other/c", "clone": {"source": {"name": "/vol/v/lun0"}}});
    world.expect(Method::POST, "/storage/luns", clone, 400, "1260121").await;
    for (body, code) in [
        (json!({"space": {"size": "16MB"}}), "5374892"),
        (json!({"space": {"size": "32MB"}}), "1254226"),
        (json!({"space": {"size": 33_554_431}}), "1254226"),
        (json!({"serial_number": "abcdefghijkl"}), "262196"),
    ] {
        world.expect(Method::PATCH, "/storage/luns/{l}", body, 400, code).await;
    }
}

#[tokio::test(start_paused = true)]
async fn reserved_luns_must_fit_thin_ones_need_not() {
    let rig = Rig::new(NEW);
    rig.volume("v", "50MB").await;
    let reserved = with(lun("v", "a", "60MB"), "/space/guarantee", json!({"requested": true}));
    let said = rig.post("/storage/luns", reserved.clone()).await;
    assert_eq!(said.status, 409);
    assert!(said.text("/error/message").contains("not enough space"), "{said:?}");
    assert_eq!(rig.post("/storage/luns", lun("v", "thin", "1TB")).await.status, 201);
    let uuid = rig.sim.volume("svm1", "v").unwrap().uuid;
    let grow = json!({"autosize": {"mode": "grow", "maximum": "200MB"}});
    assert_eq!(rig.patch(&format!("/storage/volumes/{uuid}?return_timeout=5"), grow).await.status, 200);
    assert_eq!(rig.post("/storage/luns", reserved).await.status, 201);
    assert!(rig.sim.volume("svm1", "v").unwrap().size > 60 << 20);
}

#[tokio::test(start_paused = true)]
async fn igroups_and_initiators() {
    let world = World::new().await;
    let good = || json!({"svm": {"name": "svm1"}, "name": "ig", "os_type": "linux", "protocol": "iscsi"});
    for (pointer, value, status, code) in [
        ("/name", json!("node1"), 409, "5374023"),
        ("/name", json!("a".repeat(97)), 400, "5373958"),
        ("/name", json!("a b"), 400, "5373958"),
        ("/os_type", json!(null), 400, "5374884"),
        ("/initiators", json!([{"name": "nonsense"}]), 400, "5373969"),
        ("/initiators", json!([{"name": "50:0a:09:80:12:34:56:78"}]), 400, "5374038"),
        ("/initiators", json!([{"name": "iqn.a.b:c"}, {"name": "iqn.a.b:c"}]), 400, "5374917"),
    ] {
        let body = with(good(), pointer, value);
        world.expect(Method::POST, "/protocols/san/igroups", body, status, code).await;
    }
    let windows = with(with(good(), "/os_type", json!("windows")), "/initiators", json!([{"name": IQN}]));
    world.expect(Method::POST, "/protocols/san/igroups", windows, 409, "5374732").await;
    let base = "/protocols/san/igroups/{i}/initiators";
    world.expect(Method::POST, base, json!({"name": IQN}), 409, "5374035").await;
    let both = json!({"records": [{"name": "iqn.a.b:d"}], "name": "iqn.a.b:e"});
    world.expect(Method::POST, base, both, 400, "262186").await;
    world.expect(Method::DELETE, &format!("{base}/iqn.a.b:none"), Value::Null, 404, "5374034").await;
    world.expect(Method::GET, "/protocols/san/igroups/x/initiators", Value::Null, 404, "5374852").await;

    world.rig.map(&world.lun, &world.igroup, None).await;
    world.expect(Method::DELETE, "/protocols/san/igroups/{i}", Value::Null, 409, "1254213").await;
    world.expect(Method::DELETE, &format!("{base}/{IQN}"), Value::Null, 409, "1254213").await;
    let target = format!("/protocols/san/igroups/{}?allow_delete_while_mapped=True", world.igroup);
    assert_eq!(world.rig.delete(&target).await.status, 200);
    assert!(world.rig.sim.maps().is_empty());
}

#[tokio::test(start_paused = true)]
async fn initiators_in_two_igroups_never_see_a_lun_or_a_number_twice() {
    let world = World::new().await;
    let rig = &world.rig;
    let second = rig.igroup("second", IQN).await;
    let other =
        rig.post("/storage/luns?return_records=true", lun("v", "lun1", "32MB")).await.text("/records/0/uuid");
    assert_eq!(rig.map(&world.lun, &world.igroup, Some(3)).await.status, 201);
    assert_eq!(rig.map(&world.lun, &second, None).await.error(), (409, "1254193"));
    assert_eq!(rig.map(&other, &second, Some(3)).await.status, 409);
    let third = rig.igroup("third", "iqn.a.b:z").await;
    assert_eq!(rig.map(&other, &third, Some(3)).await.status, 201);
    let target = format!("/protocols/san/igroups/{third}/initiators");
    assert_eq!(rig.post(&target, json!({"name": IQN})).await.error(), (409, "1254324"));
}

#[tokio::test(start_paused = true)]
async fn maps() {
    let world = World::new().await;
    let good =
        || json!({"svm": {"name": "svm1"}, "lun": {"name": "/vol/v/lun0"}, "igroup": {"name": "node1"}});
    for (pointer, value, status, code) in [
        ("/lun", json!({}), 400, "5374901"),
        ("/igroup", json!({}), 400, "5374902"),
        ("/lun/name", json!("/vol/v/none"), 404, "1254201"),
        ("/igroup/name", json!("none"), 404, "5374878"),
        ("/logical_unit_number", json!(4096), 400, "262197"),
    ] {
        let body = with(good(), pointer, value);
        world.expect(Method::POST, "/protocols/san/lun-maps", body, status, code).await;
    }
    assert_eq!(world.rig.post("/protocols/san/lun-maps", good()).await.status, 201);
    let said = world.rig.post("/protocols/san/lun-maps", good()).await;
    assert_eq!(said.error(), (409, "1254207"));
    assert!(said.text("/error/message").contains("LUN already mapped to this group"));
    let second = world.rig.post("/storage/luns?return_records=true", lun("v", "lun1", "32MB")).await;
    let second = second.text("/records/0/uuid");
    let said = world.rig.map(&second, &world.igroup, Some(0)).await;
    assert_eq!(said.status, 409);
    assert!(said.text("/error/message").contains("already in use"));
    let gone = format!("/protocols/san/lun-maps/{second}/{}", world.igroup);
    world.expect(Method::DELETE, &gone, Value::Null, 404, "5374922").await;
}

#[tokio::test(start_paused = true)]
async fn snapshots() {
    let world = World::new().await;
    let base = "/storage/volumes/{v}/snapshots";
    for (name, status, code) in
        [("s", 409, "525059"), ("all", 400, "1638477"), ("a/b", 400, "1638518"), ("", 400, "1638518")]
    {
        world.expect(Method::POST, base, json!({"name": name}), status, code).await;
    }
    let missing = format!("{base}/00000000-0000-0000-0000-000000000000");
    world.expect(Method::DELETE, &missing, Value::Null, 404, "1638600").await;
    let limited = Rig::with(NEW, |config| config.limits.snapshots_per_volume = 2);
    let volume = limited.volume("v", "20MB").await;
    limited.snapshot(&volume, "a").await;
    limited.snapshot(&volume, "b").await;
    let target = format!("/storage/volumes/{volume}/snapshots?return_timeout=5");
    assert_eq!(limited.post(&target, json!({"name": "c"})).await.error(), (409, "525062"));
}

#[tokio::test(start_paused = true)]
async fn counts_have_limits() {
    let rig = Rig::with(NEW, |config| {
        config.limits.volumes_per_svm = 2;
        config.limits.luns_per_volume = 2;
        config.limits.maps_per_igroup = 1;
    });
    rig.volume("a", "20MB").await;
    rig.volume("b", "20MB").await;
    let target = "/storage/volumes?return_timeout=5";
    assert_eq!(rig.post(target, volume("c", "20MB")).await.error(), (409, "917513"));
    let igroup = rig.igroup("node1", IQN).await;
    let mut luns = Vec::new();
    for name in ["x", "y"] {
        let said = rig.post("/storage/luns?return_records=true", lun("a", name, "4MB")).await;
        luns.push(said.text("/records/0/uuid"));
    }
    assert_eq!(rig.post("/storage/luns", lun("a", "z", "4MB")).await.error(), (409, "917513"));
    assert_eq!(rig.map(&luns[0], &igroup, None).await.status, 201);
    assert_eq!(rig.map(&luns[1], &igroup, None).await.error(), (409, "917513"));
    assert_eq!((rig.sim.volumes().len(), rig.sim.luns().len(), rig.sim.maps().len()), (2, 2, 1));
}

#[tokio::test(start_paused = true)]
async fn paths_methods_and_parameters() {
    let world = World::new().await;
    for (method, target, status, code) in [
        (Method::GET, "/storage/nothing", 404, "3"),
        (Method::GET, "/storage/volumes/x", 404, "4"),
        (Method::GET, "/storage/volumes/x/snapshots", 404, "4"),
        (Method::POST, "/cluster", 405, "3"),
        (Method::DELETE, "/storage/aggregates?name=aggr1", 405, "3"),
        (Method::GET, "/storage/volumes?nonsense=1", 400, "262179"),
        (Method::GET, "/storage/volumes?fields=nonsense", 400, "262197"),
        (Method::GET, "/storage/volumes?name=", 400, "262194"),
        (Method::GET, "/storage/volumes?name=a&name=b", 400, "262188"),
        (Method::GET, "/storage/volumes?max_records=0", 400, "262197"),
        (Method::GET, "/storage/volumes?return_timeout=121", 400, "262197"),
        (Method::GET, "/storage/volumes?order_by=nonsense", 400, "262197"),
        (Method::GET, "/storage/volumes/{v}?name=v", 400, "262179"),
        (Method::GET, "/storage/volumes?force=true", 400, "262179"),
        (Method::DELETE, "/storage/volumes/{v}?force=perhaps", 400, "262197"),
        (Method::DELETE, "/storage/luns/{l}?force=true", 400, "262179"),
    ] {
        world.expect(method, target, Value::Null, status, code).await;
    }
    let said = world.rig.get("/storage/volumes?nonsense=1").await;
    assert_eq!(said.text("/error/target"), "nonsense");
    let said = world.rig.get("/storage/volumes?fields=uuid,nonsense&ignore_unknown_fields=true").await;
    assert_eq!(said.status, 200);
}

#[tokio::test(start_paused = true)]
async fn what_a_release_does_not_have_it_refuses() {
    let old = Rig::new(OLD);
    let new = Rig::new(NEW);
    for target in [
        "/cluster?fields=disaggregated",
        "/storage/volumes?fields=clone.has_flexclone",
        "/storage/volumes?fields=space.max_size",
        "/svm/svms?fields=number_of_volumes_in_recovery_queue",
    ] {
        assert_eq!(old.get(target).await.error(), (400, "262197"), "{target}");
        assert_eq!(new.get(target).await.status, 200, "{target}");
    }
    assert_eq!(new.get("/storage/luns?fields=serial_number_hex").await.error(), (400, "262197"));
    let placed = with(volume("v", "20MB"), "/aggregates", Value::Null);
    let placed = with(placed, "/style", json!("flexvol"));
    let target = "/storage/volumes?return_timeout=5";
    assert_eq!(old.post(target, placed.clone()).await.error(), (400, "787140"));
    assert_eq!(new.post(target, placed).await.status, 201);
    let ancient = Rig::new("9.8.0".parse().unwrap());
    let uuid = ancient.volume("v", "20MB").await;
    assert_eq!(ancient.delete(&format!("/storage/volumes/{uuid}?force=true")).await.error(), (400, "262179"));
    assert_eq!(ancient.get("/storage/luns?ignore_unknown_fields=true").await.error(), (400, "262179"));
}

#[tokio::test(start_paused = true)]
async fn open_questions_are_settings() {
    let rig = Rig::with(NEW, |config| {
        config.unverified.empty_query = EmptyQuery::NotFound;
        config.unverified.delete_volume_with_maps = MappedDelete::Refused;
        config.unverified.unauthorized_code = 6_691_623;
    });
    assert_eq!(rig.delete("/storage/volumes?name=none").await.error(), (404, "4"));
    let said = rig.ask_with(Method::GET, "/cluster", Value::Null, &[]).await;
    assert_eq!(said.error(), (401, "6691623"));
    let volume = rig.volume("v", "50MB").await;
    let lun = rig.lun("v", "32MB").await;
    let igroup = rig.igroup("node1", IQN).await;
    rig.map(&lun, &igroup, None).await;
    assert_eq!(rig.delete(&format!("/storage/volumes/{volume}")).await.error(), (409, "524486"));
    let usual = Rig::new(NEW);
    let said = usual.delete("/storage/volumes?name=none").await;
    assert_eq!((said.status.as_u16(), said.at("/num_records")), (200, &json!(0)));
}
