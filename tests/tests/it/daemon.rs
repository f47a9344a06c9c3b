//! The daemon over its socket.

use std::path::Path;

use serde_json::json;

use san_core::ErrorKind;
use sanbridge_tests::daemons::DaemonSite;

const DISK: &str = "vm-100-disk-0";

#[tokio::test]
async fn a_disk_lives_through_the_socket() {
    let site = DaemonSite::started(2).await.unwrap();
    let (one, two) = (site.client(0), site.client(1));
    assert_eq!(one.call("storage.activate", json!({})).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    one.add().await.unwrap();
    two.call("storage.activate", json!({})).await.unwrap();
    let made =
        one.call("volume.create", json!({ "vmid": 100, "name": null, "size_bytes": 8 << 20 })).await.unwrap();
    assert_eq!(made.ok, json!({ "name": DISK, "size_bytes": 8 << 20 }));
    site.place_guest(100, 0, &[DISK]).unwrap();
    let there = one.call("volume.attach", json!({ "name": DISK, "hints": {} })).await.unwrap();
    assert_eq!(there.ok["path"], "/dev/sanbridge/san1/vm-100-disk-0");
    two.call("volume.attach", json!({ "name": DISK, "snapshot": null })).await.unwrap();
    // Its QEMU is being started there and has not opened the disk yet.
    site.site.node(1).host.put_file(Path::new("/run/qemu-server/100.pid"), b"4711\n");
    site.site.node(1).host.put_file(Path::new("/proc/4711/stat"), b"4711 (kvm) S 1");
    let refused = one.call("volume.delete", json!({ "name": DISK })).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::InUse, "{refused:?}");
    assert!(refused.to_string().contains("node2") && refused.to_string().contains("4711"), "{refused:?}");
    two.call("volume.detach", json!({ "name": DISK })).await.unwrap();
    one.call("snapshot.create", json!({ "name": DISK, "snapshot": "a1" })).await.unwrap();
    let listed = two.call("volume.list", json!({ "vmid": 100, "names": null })).await.unwrap();
    assert_eq!(listed.ok["volumes"][0]["name"], DISK);
    one.call("volume.detach", json!({ "name": DISK })).await.unwrap();
    one.call("volume.delete", json!({ "name": DISK })).await.unwrap();
    assert_eq!(two.call("volume.list", json!({})).await.unwrap().ok, json!({ "volumes": [] }));
}
