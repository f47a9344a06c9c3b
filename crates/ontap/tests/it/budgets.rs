//! How many requests each verb costs.

use std::fmt::Write as _;

use san_core::{Array, DeleteMode, ReaderSpec, SnapshotSet, TransportKind, VolumeKey, VolumeQuery};

use crate::fixture::{Fixture, NEW, OLD, SIZE, cx, host_spec, lun_choice, spec};

/// The requests that `call` sent, e.g. `POST /storage/luns`, sorted, one per line.
macro_rules! requests {
    ($fixture:ident, $call:expr) => {{
        let mark = $fixture.sim.mark();
        $call.await.unwrap();
        let mut text = String::new();
        for ((method, path), count) in $fixture.sim.counts(mark) {
            for _ in 0..count {
                writeln!(text, "{method} {path}").unwrap();
            }
        }
        text
    }};
}

#[tokio::test(start_paused = true)]
async fn each_verb_keeps_its_budget() {
    for version in [OLD, NEW] {
        let it = Fixture::new(version).await;
        let array = &it.array;
        let cx = cx();

        let sent = requests!(it, array.ensure_volume(&cx, &spec("vm-100-disk-0")));
        assert_eq!(sent, "POST /storage/luns\nPOST /storage/volumes\n");
        let volume = it.made("vm-100-disk-1").await;

        let sent = requests!(it, array.ensure_host(&cx, &host_spec()));
        assert_eq!(sent.lines().count(), 3);
        let host = it.host().await;

        // Attach: a look and a map. The ports are known from the start, the node from the look.
        let key = VolumeKey::Id(volume.id.clone());
        let sent = requests!(it, async {
            let volume = array.volume(&cx, &key).await?.unwrap();
            array.ensure_mapped(&cx, &volume, &host, &lun_choice(&[1])).await
        });
        assert_eq!(sent, "GET /storage/luns\nPOST /protocols/san/lun-maps\n");

        let sent = requests!(it, array.mapping(&cx, &volume, &host));
        assert_eq!(sent, "GET /protocols/san/lun-maps\n");
        let sent = requests!(it, array.ensure_unmapped(&cx, &volume.id, &host.id));
        assert_eq!(sent, "DELETE /protocols/san/lun-maps/{lun.uuid}/{igroup.uuid}\n");

        let sent = requests!(it, array.resize(&cx, &volume, SIZE.times(2)));
        assert_eq!(sent, "PATCH /storage/luns/{uuid}\nPATCH /storage/volumes/{uuid}\n");

        let snapshot = SnapshotSet { volumes: vec![volume.clone()], name: "one".parse().unwrap() };
        let sent = requests!(it, array.snapshot(&cx, &snapshot));
        assert_eq!(sent, "POST /storage/volumes/{volume.uuid}/snapshots\n");

        // A look, a clone, a map; and back.
        let of = ReaderSpec { node: "node1".parse().unwrap(), snapshot: "one".parse().unwrap() };
        let sent = requests!(it, async {
            let volume = array.volume(&cx, &key).await?.unwrap();
            let reader = array.ensure_reader(&cx, &volume, &of).await?.into_inner();
            array.ensure_mapped(&cx, &reader, &host, &lun_choice(&[1])).await
        });
        assert_eq!(sent, "GET /storage/luns\nPOST /protocols/san/lun-maps\nPOST /storage/luns\n");
        let seen = array.volume(&cx, &key).await.unwrap().unwrap();
        let reader = seen.readers().unwrap()[0].volume.id.clone();
        let sent = requests!(it, async {
            array.ensure_unmapped(&cx, &reader, &host.id).await?;
            array.ensure_no_reader(&cx, &reader).await
        });
        assert_eq!(sent, "DELETE /protocols/san/lun-maps/{lun.uuid}/{igroup.uuid}\nDELETE /storage/luns\n");

        let sent = requests!(it, array.rollback(&cx, &volume, &snapshot.name));
        assert_eq!(sent, "PATCH /storage/luns\n");
        let sent = requests!(it, array.ensure_no_snapshot(&cx, &volume, &snapshot.name));
        assert_eq!(sent, "DELETE /storage/volumes/{volume.uuid}/snapshots\n");

        let query = VolumeQuery { prefix: "sb__pve__san1__".into() };
        let sent = requests!(it, array.volumes(&cx, &query));
        assert_eq!(sent, "GET /storage/luns\nGET /storage/volumes\n");
        let sent = requests!(it, array.capacity(&cx));
        assert_eq!(sent, "GET /storage/aggregates\n");
        let sent = requests!(it, array.target_ports(&cx, TransportKind::Iscsi));
        assert_eq!(sent.lines().count(), 3);

        let sent = requests!(it, async {
            let volume = array.volume(&cx, &key).await?.unwrap();
            array.ensure_no_volume(&cx, &volume, DeleteMode::Recoverable).await
        });
        assert_eq!(sent, "DELETE /storage/volumes/{uuid}\nGET /storage/luns\n");
    }
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_volumes_are_two_pages() {
    let it = Fixture::new(NEW).await;
    it.sim.populate("svm1", "sb__pve__san1__vm_1_disk_", 10_000, 1 << 20).unwrap();
    let mark = it.sim.mark();
    let query = VolumeQuery { prefix: "sb__pve__san1__".into() };
    assert_eq!(it.array.volumes(&cx(), &query).await.unwrap().len(), 10_000);
    assert_eq!(it.sim.requests(mark).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_parallel_creations_cost_two_requests_each() {
    let it = std::sync::Arc::new(Fixture::new(NEW).await);
    let mark = it.sim.mark();
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..100 {
        let it = std::sync::Arc::clone(&it);
        tasks.spawn(async move { it.made(&format!("vm-100-disk-{number}")).await });
    }
    assert_eq!(tasks.join_all().await.len(), 100);
    assert_eq!(it.sim.requests(mark).len(), 200);
}

#[tokio::test]
async fn a_life_of_requests_is_one_connection() {
    let it = Fixture::over_https(NEW).await;
    let volume = it.made("vm-100-disk-0").await;
    let host = it.host().await;
    it.array.ensure_mapped(&cx(), &volume, &host, &lun_choice(&[1])).await.unwrap();
    it.array.ensure_unmapped(&cx(), &volume.id, &host.id).await.unwrap();
    it.array.ensure_no_volume(&cx(), &volume, DeleteMode::Immediate).await.unwrap();
    let server = it.server.as_ref().unwrap();
    // Two requests are sent side by side where neither needs the other's answer.
    assert!(server.handshakes() <= 2, "{}", server.handshakes());
    assert!(it.sim.requests(san_sim::ontap::Mark::START).len() > 10);
}
