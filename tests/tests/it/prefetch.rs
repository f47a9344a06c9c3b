//! The disks of a guest that starts: attached side by side as soon as PVE asks for the first.

use std::time::Duration;

use san_core::ErrorKind;
use san_sim::ontap::{Fault, Online, Times};
use sanbridge_tests::daemons::{Client, DaemonSite};
use sanbridge_tests::site::SVM;
use serde_json::{Value, json};

use crate::support::inject;

const DISKS: [&str; 4] = ["vm-100-disk-0", "vm-100-disk-1", "vm-100-disk-2", "vm-100-disk-3"];
/// Far more than an attach takes here.
const SOON: Duration = Duration::from_secs(30);

/// One node with a guest of four disks.
async fn site() -> (DaemonSite, Client) {
    let site = DaemonSite::started(1).await.unwrap();
    let client = site.client(0);
    client.add().await.unwrap();
    for _ in DISKS {
        let params = json!({ "vmid": 100, "name": null, "size_bytes": 8 << 20 });
        client.call("volume.create", params).await.unwrap();
    }
    site.place_guest(100, 0, &DISKS).unwrap();
    (site, client)
}

fn start_of(disk: &str) -> Value {
    json!({ "name": disk, "hints": { "guest-is-windows": "0" } })
}

/// Waits until so many disks are attached and nothing is under way any more.
async fn attached(site: &DaemonSite, count: usize) {
    let host = &site.site.node(0).host;
    let come = async {
        while host.inventory().links.len() != count {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, come).await.unwrap_or_else(|_| panic!("{:?}", host.inventory().links));
}

#[tokio::test(start_paused = true)]
async fn a_start_finds_its_other_disks_attached() {
    let (site, client) = site().await;
    let before = site.audit();
    client.call("volume.attach", start_of(DISKS[0])).await.unwrap();
    attached(&site, DISKS.len()).await;
    let mark = site.site.array.mark();
    for disk in &DISKS[1..] {
        client.call("volume.attach", start_of(disk)).await.unwrap();
    }
    let asked: usize = site.site.array.counts(mark).values().sum();
    assert_eq!(asked, 0, "{:?}", site.site.array.counts(mark));
    for disk in DISKS {
        client.call("volume.detach", json!({ "name": disk })).await.unwrap();
    }
    let left = site.audit().against(&before);
    assert!(left.is_empty(), "{left}");
}

#[tokio::test(start_paused = true)]
async fn whoever_wants_one_disk_gets_one() {
    let (site, client) = site().await;
    client.call("volume.attach", json!({ "name": DISKS[0] })).await.unwrap();
    tokio::time::sleep(SOON).await;
    attached(&site, 1).await;
}

/// A disk that cannot be attached ahead is told of when it is asked for, and keeps no other from being attached.
#[tokio::test(start_paused = true)]
async fn what_fails_ahead_is_told_to_whoever_asks() {
    let (site, client) = site().await;
    let luns = site.site.array.luns();
    let third = luns.iter().find(|it| it.path.ends_with("vm_100_disk_2/lun0")).unwrap();
    site.site.array.set_lun_online(SVM, &third.path, Online::No).unwrap();
    client.call("volume.attach", start_of(DISKS[0])).await.unwrap();
    attached(&site, DISKS.len() - 1).await;
    let error = client.call("volume.attach", start_of(DISKS[2])).await.unwrap_err();
    assert_ne!(error.kind(), ErrorKind::Internal, "{error:?}");
}

/// A start that fails at once takes back what it had asked for; what is still on its way comes down behind it.
#[tokio::test(start_paused = true)]
async fn a_start_that_fails_leaves_nothing() {
    let (site, client) = site().await;
    let before = site.audit();
    inject(&site.site.array, "POST", "/protocols/san/lun-maps", Times::Always, Fault::Delay(SOON / 30));
    let first = client.call("volume.attach", start_of(DISKS[0]));
    first.await.unwrap();
    for disk in DISKS {
        client.call("volume.detach", json!({ "name": disk })).await.unwrap();
    }
    attached(&site, 0).await;
    let left = site.audit().against(&before);
    assert!(left.is_empty(), "{left}");
}
