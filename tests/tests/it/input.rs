//! Requests that must be refused before anything happens: shrinking, impossible sizes and names, what belongs to others.

use std::sync::Arc;

use san_core::{Array, ByteSize, Cx, Deadline, Effects, Error, ErrorKind, OperationId, VolumeQuery};
use san_engine::{Naming, Request, San};
use sanbridge_tests::daemons::{DaemonSite, SimWires};
use sanbridge_tests::site::{PATIENCE, SVM, Site};
use serde_json::json;

use crate::support::{DISK, GROWN, SIZE, assert_unchanged, changes, snapshot};

fn cx(san: &San) -> Cx {
    san.cx(Deadline::after(PATIENCE), OperationId::random())
}

/// Refused, and the array was not asked to change anything.
async fn refused(site: &Site, request: Request) -> Error {
    let before = site.audit();
    let mark = site.array.mark();
    let error = match site.node(0).call(request.clone()).await {
        Err(error) => error,
        Ok(done) => panic!("{request:?} was done: {done:?}"),
    };
    assert_eq!(changes(&site.array, mark), [], "{request:?}");
    assert_unchanged(site, &before);
    error
}

fn create(object: &str, size: ByteSize) -> Request {
    Request::Create { naming: Naming::Exact(object.to_owned()), size }
}

/// Everything that can be asked of a disk that exists.
fn everything(object: &str) -> Vec<Request> {
    let object = || object.to_owned();
    vec![
        Request::Attach { object: object() },
        Request::Grow { object: object(), size: GROWN },
        Request::Snapshot { object: object(), snapshot: snapshot() },
        Request::DeleteSnapshot { object: object(), snapshot: snapshot() },
        Request::Rollback { object: object(), snapshot: snapshot() },
        Request::Delete { object: object() },
    ]
}

#[tokio::test(start_paused = true)]
async fn sizes_out_of_range_are_refused() {
    let site = Site::started(1).await.unwrap();
    for size in [0, u64::MAX, u64::MAX - 511, 129 << 40, 200 << 50].map(ByteSize::from_bytes) {
        let error = refused(&site, create(DISK, size)).await;
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{size:?}: {error:?}");
    }
    site.node(0).create(DISK, GROWN).await.unwrap();
    for bytes in [0, 1, GROWN.bytes() - 4096, SIZE.bytes(), u64::MAX, 129 << 40] {
        let request = Request::Grow { object: DISK.to_owned(), size: ByteSize::from_bytes(bytes) };
        let error = refused(&site, request).await;
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{bytes}: {error:?}");
    }
    // The same size is no change and no error.
    let mark = site.array.mark();
    site.node(0).grow(DISK, GROWN).await.unwrap();
    assert_eq!(changes(&site.array, mark), []);
}

#[tokio::test(start_paused = true)]
async fn a_disk_somebody_grew_on_the_array_is_not_made_smaller() {
    let site = Site::started(1).await.unwrap();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let path = node.attach(DISK).await.unwrap();
    node.write(&path, 0, b"kept").await.unwrap();
    // Somebody grows it behind our back, far beyond what is asked for next.
    let array = site.connect(Effects::unobserved()).await.unwrap();
    let cx = cx(node.san());
    let found = array.volumes(&cx, &VolumeQuery { prefix: "sb".to_owned() }).await.unwrap();
    let volume = found.into_iter().find(|it| it.name.as_str().ends_with("disk_0")).unwrap();
    array.resize(&cx, &volume, ByteSize::from_mib(64)).await.unwrap();
    let error = node.grow(DISK, GROWN).await.unwrap_err();
    assert!(!error.is_passing(), "{error:?}");
    let lun = site.array.luns().into_iter().find(|it| it.path.contains("disk_0")).unwrap();
    assert_eq!(lun.size, 64 << 20, "never smaller");
    assert_eq!(node.read(&path, 0, 4).await.unwrap(), b"kept");
    // And what the array says next is believed.
    node.detach(DISK).await.unwrap();
    node.attach(DISK).await.unwrap();
    node.detach(DISK).await.unwrap();
    node.delete(DISK).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn names_that_cannot_be_are_refused() {
    let site = Site::started(1).await.unwrap();
    let long = "x".repeat(300);
    for object in ["", "a/b", "../x", ".", "..", "a\0b", "a\nb", &long] {
        let error = refused(&site, create(object, SIZE)).await;
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{object:?}: {error:?}");
        for request in everything(object) {
            refused(&site, request).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_pve_cannot_make_are_refused_by_the_daemon() {
    let site = DaemonSite::started(1).await.unwrap();
    let client = site.client(0);
    client.add().await.unwrap();
    let before = site.site.audit();
    let mark = site.site.array.mark();
    for name in
        ["vm-99-disk-0", "vm-1000000000-disk-0", "vm-100-a/b", "vm-100-..", "disk", "vm-100-a b", "vm-100-é"]
    {
        for (method, params) in [
            ("volume.create", json!({ "vmid": 100, "name": name, "size_bytes": 8 << 20 })),
            ("volume.attach", json!({ "name": name })),
            ("volume.grow", json!({ "name": name, "size_bytes": 8 << 20 })),
            ("volume.delete", json!({ "name": name })),
            ("snapshot.create", json!({ "name": name, "snapshot": "a1" })),
            ("volume.size", json!({ "name": name })),
        ] {
            let error = client.call(method, params).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{method} {name:?}: {error:?}");
        }
    }
    for vmid in [0, 99, 1_000_000_000] {
        let params = json!({ "vmid": vmid, "name": null, "size_bytes": 8 << 20 });
        assert_eq!(client.call("volume.create", params).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    // A name of another guest than the one it is said to be for.
    let params = json!({ "vmid": 100, "name": "vm-101-disk-0", "size_bytes": 8 << 20 });
    assert_eq!(client.call("volume.create", params).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    for snapshot in ["", "1a", "a b", "a/b", "../..", &"x".repeat(65)] {
        let params = json!({ "name": DISK, "snapshot": snapshot });
        let error = client.call("snapshot.create", params).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput, "{snapshot:?}: {error:?}");
    }
    assert_eq!(changes(&site.site.array, mark), []);
    let findings = site.site.audit().against(&before);
    assert!(findings.is_empty(), "{findings}");
}

#[tokio::test(start_paused = true)]
async fn what_is_not_there_is_not_found_and_its_removal_is_no_error() {
    let site = Site::started(1).await.unwrap();
    let before = site.audit();
    let mark = site.array.mark();
    let node = site.node(0);
    for request in everything(DISK) {
        match (&request, node.call(request.clone()).await) {
            (Request::Delete { .. } | Request::DeleteSnapshot { .. }, done) => drop(done.unwrap()),
            (_, done) => assert_eq!(done.unwrap_err().kind(), ErrorKind::NotFound, "{request:?}"),
        }
    }
    node.detach(DISK).await.unwrap();
    assert_eq!(changes(&site.array, mark), []);
    node.create(DISK, SIZE).await.unwrap();
    let error = node.roll_back(DISK, &snapshot()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    node.delete_snapshot(DISK, &snapshot()).await.unwrap();
    node.delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

/// Puts a volume on the array under the name that our disk would have, with this comment.
fn stranger(site: &Site, name: &str, comment: &str) {
    site.array.add_volume(SVM, name, 1 << 30, comment).unwrap();
    site.array.add_lun(SVM, &format!("/vol/{name}/lun0"), 8 << 20, "").unwrap();
}

/// The array name and the mark of our disk, which is gone afterwards.
async fn name_and_mark(site: &Site) -> (String, String) {
    site.node(0).create(DISK, SIZE).await.unwrap();
    let ours = site.array.volumes().into_iter().find(|it| it.name.starts_with("sb") && !it.deleted).unwrap();
    site.node(0).delete(DISK).await.unwrap();
    (ours.name, ours.comment)
}

/// A volume with the right name whose mark is missing, damaged, or names another cluster, storage or disk.
#[tokio::test(start_paused = true)]
async fn a_volume_whose_mark_disagrees_is_never_touched() {
    let marks: [fn(&str) -> String; 6] = [
        |_| String::new(),
        |_| "do not delete!".to_owned(),
        |mark| mark[..mark.len() / 2].to_owned(),
        |mark| mark.replace("\"lab\"", "\"lab2\""),
        |mark| mark.replace("\"san1\"", "\"san2\""),
        |mark| mark.replace(DISK, "vm-200-disk-0"),
    ];
    for (number, change) in marks.into_iter().enumerate() {
        let site = Site::started(1).await.unwrap();
        let (name, mark) = name_and_mark(&site).await;
        let changed = change(&mark);
        assert_ne!(changed, mark, "mark {number} is the same: {mark}");
        stranger(&site, &name, &changed);
        for request in everything(DISK) {
            let error = refused(&site, request.clone()).await;
            assert_eq!(error.kind(), ErrorKind::Conflict, "{changed:?}: {request:?}: {error:?}");
        }
        let listed = site.node(0).san().disks(&cx(site.node(0).san())).await.unwrap();
        assert!(listed.is_empty(), "{changed:?}: {listed:?}");
    }
}

/// Two clusters, or two storages, with guests of the same numbers on one SVM never meet.
#[tokio::test(start_paused = true)]
async fn clusters_and_storages_of_the_same_names_never_meet() {
    let one = DaemonSite::started(1).await.unwrap();
    // A second cluster of its own on the same array: its own /etc/pve, and so its own realm.
    let two =
        DaemonSite::on(Site::new(1).unwrap(), Arc::new(SimWires(one.site.array.clone()))).await.unwrap();
    let mut other_space = one.client(0);
    other_space.storage = "san2".to_owned();
    let clients = [one.client(0), two.client(0), other_space];
    let before = one.site.audit();
    for client in &clients {
        client.add().await.unwrap();
        let made =
            client.call("volume.create", json!({ "vmid": 100, "name": null, "size_bytes": 8 << 20 })).await;
        assert_eq!(made.unwrap().ok["name"], DISK);
    }
    for client in &clients {
        let listed = client.call("volume.list", json!({})).await.unwrap();
        assert_eq!(listed.ok["volumes"].as_array().unwrap().len(), 1, "{listed:?}");
        client.call("volume.delete", json!({ "name": DISK })).await.unwrap();
        let again = client.call("volume.list", json!({})).await.unwrap();
        assert_eq!(again.ok["volumes"], json!([]));
    }
    assert!(one.site.array.volumes().iter().all(|it| it.deleted || !it.name.starts_with("sb")));
    for client in &clients {
        client.call("storage.remove", json!({})).await.unwrap();
    }
    let findings = one.site.audit().against(&before);
    assert!(findings.is_empty(), "{findings}");
}
