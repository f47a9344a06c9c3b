//! The life of a disk, request by request.

use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, MetadataExt};

use http::Method;
use san_sim::target::Target;
use serde_json::{Value, json};

use crate::ontap_rig::{NEW, OLD, Rig, lun, volume};

const IQN: &str = "iqn.1993-08.org.debian:01:abc";

#[tokio::test(start_paused = true)]
async fn create_map_grow_snapshot_roll_back_delete() {
    for version in [OLD, NEW] {
        let rig = Rig::new(version);
        let volume = rig.volume("pve_101", "100MB").await;
        let said = rig.post("/storage/luns?return_records=true", lun("pve_101", "lun0", "32MB")).await;
        assert_eq!(said.status, 201);
        let uuid = said.text("/records/0/uuid");
        let serial = said.text("/records/0/serial_number");
        assert_eq!(said.location, Some(format!("/api/storage/luns/{uuid}")));
        let igroup = rig.igroup("node1", IQN).await;
        let said = rig.map(&uuid, &igroup, Some(7)).await;
        assert_eq!((said.status.as_u16(), said.at("/records/0/logical_unit_number")), (201, &json!(7)));

        let portal = rig.sim.portals()[0].clone();
        let unit = rig.sim.units(IQN, portal.address)[&7].clone();
        assert_eq!(unit.serial, serial.as_bytes());
        assert_eq!(unit.naa[..4], [0x60, 0x0a, 0x09, 0x80]);
        assert_eq!(&unit.naa[4..], serial.as_bytes());
        assert_eq!((unit.size, unit.optimized), (32 << 20, true));
        let file = OpenOptions::new().read(true).write(true).open(&unit.file).unwrap();
        file.write_all_at(b"before", 4096).unwrap();

        let said = rig.patch(&format!("/storage/luns/{uuid}"), json!({"space": {"size": "48MB"}})).await;
        assert_eq!(said.status, 200);
        assert_eq!(rig.sim.units(IQN, portal.address)[&7].size, 48 << 20);

        rig.snapshot(&volume, "one").await;
        file.write_all_at(b"after!", 4096).unwrap();
        rig.snapshot(&volume, "two").await;
        let source = json!({"clone": {"source": {"name": "/vol/pve_101/.snapshot/one/lun0"}}});
        let said = rig.patch(&format!("/storage/luns/{uuid}"), source).await;
        assert_eq!(said.status, 200, "{said:?}");
        let mut bytes = [0; 6];
        file.read_exact_at(&mut bytes, 4096).unwrap();
        assert_eq!(&bytes, b"before");
        let unit = rig.sim.units(IQN, portal.address)[&7].clone();
        assert_eq!(unit.serial, serial.as_bytes());
        assert_eq!(std::fs::metadata(&unit.file).unwrap().ino(), file.metadata().unwrap().ino());
        assert_eq!(rig.get(&format!("/storage/volumes/{volume}/snapshots")).await.count(), 2);

        assert_eq!(rig.delete(&format!("/storage/luns/{uuid}")).await.error(), (409, "1254197"));
        assert_eq!(rig.delete(&format!("/protocols/san/lun-maps/{uuid}/{igroup}")).await.status, 200);
        assert!(rig.sim.units(IQN, portal.address).is_empty());
        let said = rig.delete(&format!("/storage/volumes/{volume}?force=true&return_timeout=15")).await;
        assert_eq!(said.status, 200);
        assert_eq!(rig.get("/storage/luns").await.count(), 0);
        assert!(rig.sim.volumes().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_volume_is_made_by_a_job() {
    let rig = Rig::new(NEW);
    let said = rig.post("/storage/volumes", volume("v", "20MB")).await;
    assert_eq!(said.status, 202);
    let href = said.text("/job/_links/self/href");
    let job = rig.get(href.strip_prefix("/api").unwrap()).await;
    assert_eq!((job.at("/state"), job.at("/code")), (&json!("success"), &json!(0)));
    let location = said.location.unwrap();
    assert_eq!(rig.get(location.strip_prefix("/api").unwrap()).await.at("/name"), &json!("v"));
}

#[tokio::test(start_paused = true)]
async fn no_credentials_no_answer() {
    let rig = Rig::new(NEW);
    for headers in [&[][..], &[("authorization", "Basic YWRtaW46d3Jvbmc=")]] {
        let said = rig.ask_with(Method::GET, "/cluster", Value::Null, headers).await;
        assert_eq!(said.error(), (401, "6"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_creators_of_one_name_one_wins() {
    let rig = std::sync::Arc::new(Rig::new(NEW));
    let create = |name: String| {
        let rig = std::sync::Arc::clone(&rig);
        async move { rig.post("/storage/volumes?return_timeout=15", volume(&name, "20MB")).await.status.as_u16() }
    };
    let same: Vec<_> = (0..32).map(|_| tokio::spawn(create("one".to_owned()))).collect();
    let others: Vec<_> = (0..32).map(|at| tokio::spawn(create(format!("v{at}")))).collect();
    let mut statuses = Vec::new();
    for task in same {
        statuses.push(task.await.unwrap());
    }
    statuses.sort_unstable();
    assert_eq!(statuses[0], 201);
    assert!(statuses[1..].iter().all(|status| *status == 409), "{statuses:?}");
    for task in others {
        assert_eq!(task.await.unwrap(), 201);
    }
    assert_eq!(rig.sim.volumes().len(), 33);
}
