//! Disks that nobody detaches: they are taken down when they are proved to be unused, and everything that says otherwise, or
//! that cannot be found out, keeps them.

use std::path::Path;
use std::time::Duration;

use san_core::Effects;
use san_sim::ontap::{Fault, Times};
use sanbridge_tests::daemons::{Client, DaemonSite};
use sanbridge_tests::site::Site;
use serde_json::{Value, json};

use crate::support::{DISK, SIZE, assert_unchanged, inject};

const PID_FILE: &str = "/run/qemu-server/100.pid";
const TASKS: &str = "/var/log/pve/tasks/active";
const PROCESS: &str = "/proc/4711/stat";

/// Two nodes; the guest lives on the first, which has its disk attached.
async fn with_disk() -> (DaemonSite, Client) {
    let site = DaemonSite::started(2).await.unwrap();
    let client = site.client(0);
    client.add().await.unwrap();
    client.call("volume.create", json!({ "vmid": 100, "name": null, "size_bytes": 8 << 20 })).await.unwrap();
    site.place_guest(100, 0, &[DISK]).unwrap();
    (site, client)
}

async fn minutes(count: u64) {
    tokio::time::sleep(Duration::from_secs(60 * count)).await;
}

fn is_attached(site: &DaemonSite) -> bool {
    !site.site.node(0).host.inventory().links.is_empty()
}

fn process(start: u64) -> String {
    format!("4711 (task) S{} {start} 0 0\n", " 0".repeat(18))
}

/// The configuration of the guest on a node, with one more line.
fn configure(site: &DaemonSite, index: usize, line: &str) {
    site.place_guest(100, index, &[DISK]).unwrap();
    let node = site.site.node(index).name.as_str();
    let file = site.pve().join("nodes").join(node).join("qemu-server/100.conf");
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(file, format!("{line}\n{text}")).unwrap();
}

/// What keeps a disk attached although nobody has asked for it lately, and what ends it.
#[derive(Debug, Clone, Copy)]
enum Keeper {
    Runs,
    StartsJustNow,
    ContainerRuns,
    Locked,
    MovesHere,
    Task,
    Backup,
    ConfigurationUnreadable,
    ArraySilent,
}

impl Keeper {
    const ALL: [Self; 9] = [
        Self::Runs,
        Self::StartsJustNow,
        Self::ContainerRuns,
        Self::Locked,
        Self::MovesHere,
        Self::Task,
        Self::Backup,
        Self::ConfigurationUnreadable,
        Self::ArraySilent,
    ];

    fn begins(self, site: &DaemonSite) {
        let host = &site.site.node(0).host;
        let task = |kind: &str, what: &str| {
            host.put_file(Path::new(PROCESS), process(0xabcd).as_bytes());
            let line = format!("UPID:node1:00001267:0000ABCD:65A1B2C3:{kind}:{what}:root@pam: 0\n");
            host.put_file(Path::new(TASKS), line.as_bytes());
        };
        match self {
            Self::Runs => {
                host.put_file(Path::new(PID_FILE), b"4711\n");
                host.put_file(Path::new(PROCESS), process(1).as_bytes());
            }
            Self::StartsJustNow => host.put_file(Path::new(PID_FILE), b""),
            Self::ContainerRuns => {
                let line = b"0000: 00000002 00000000 00010000 0001 01 4711 @/var/lib/lxc/100/command\n";
                host.put_file(Path::new("/proc/net/unix"), line);
            }
            Self::Locked => configure(site, 0, "lock: backup"),
            Self::MovesHere => configure(site, 1, "lock: migrate"),
            Self::Task => task("qmclone", "100"),
            Self::Backup => task("vzdump", ""),
            Self::ConfigurationUnreadable => {
                site.remove_guest(100).unwrap();
                let node = site.pve().join("nodes/node1/qemu-server");
                std::fs::create_dir_all(node.join("100.conf")).unwrap();
            }
            Self::ArraySilent => drop(inject(&site.site.array, "", "", Times::Always, Fault::Refuse)),
        }
    }

    fn ends(self, site: &DaemonSite) {
        let host = &site.site.node(0).host;
        for file in [PID_FILE, TASKS, PROCESS, "/proc/net/unix"] {
            host.remove_file(Path::new(file));
        }
        match self {
            Self::ConfigurationUnreadable => {
                std::fs::remove_dir(site.pve().join("nodes/node1/qemu-server/100.conf")).unwrap();
            }
            Self::ArraySilent => site.site.array.clear_faults(),
            _ => {}
        }
        site.place_guest(100, 0, &[DISK]).unwrap();
    }
}

async fn repairs(client: &Client) -> Value {
    let status = client.call("admin.status", json!({ "storage": null })).await.unwrap();
    status.ok["storages"][0]["repairs"].clone()
}

#[tokio::test(start_paused = true)]
async fn a_disk_nobody_uses_is_detached_after_a_quarter_of_an_hour() {
    let (site, client) = with_disk().await;
    let before = site.audit();
    client.call("volume.attach", json!({ "name": DISK })).await.unwrap();
    minutes(14).await;
    assert!(is_attached(&site));
    // Whoever asks for it again has it for as long again.
    client.call("volume.attach", json!({ "name": DISK })).await.unwrap();
    minutes(14).await;
    assert!(is_attached(&site));
    minutes(4).await;
    let left = site.audit().against(&before);
    assert!(left.is_empty(), "{left}");
    let repairs = repairs(&client).await;
    assert_eq!(
        (&repairs[0]["kind"], &repairs[0]["count"], &repairs[0]["last"]),
        (&json!("idle-detached"), &json!(1), &json!(DISK))
    );
    // It is there for the next one.
    client.call("volume.attach", json!({ "name": DISK })).await.unwrap();
    client.call("volume.detach", json!({ "name": DISK })).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_open_disk_stays_and_goes_after_two_looks_that_find_it_closed() {
    let (site, client) = with_disk().await;
    let before = site.audit();
    let path = client.call("volume.attach", json!({ "name": DISK })).await.unwrap().ok["path"].clone();
    let guest = site.site.node(0).host.open(Path::new(path.as_str().unwrap())).unwrap();
    minutes(120).await;
    assert!(is_attached(&site));
    drop(guest);
    minutes(20).await;
    let left = site.audit().against(&before);
    assert!(left.is_empty(), "{left}");
}

/// Openers come and go between the looks: it was in use all the same.
#[tokio::test(start_paused = true)]
async fn a_disk_that_is_open_at_the_second_look_stays() {
    let site = Site::started(1).await.unwrap();
    let before = site.audit();
    let node = site.node(0);
    node.create(DISK, SIZE).await.unwrap();
    let path = node.attach(DISK).await.unwrap();
    let look = async || {
        node.san().drop_idle().await.unwrap();
        node.host.inventory().links.len()
    };
    minutes(16).await;
    assert_eq!(look().await, 1, "one look is no proof");
    assert_eq!(look().await, 1, "nor are two at the same moment");
    let guest = node.host.open(&path).unwrap();
    minutes(1).await;
    assert_eq!(look().await, 1);
    drop(guest);
    minutes(14).await;
    assert_eq!(look().await, 1, "it was open a moment ago");
    minutes(2).await;
    assert_eq!(look().await, 1);
    minutes(1).await;
    assert_eq!(look().await, 0);
    node.delete(DISK).await.unwrap();
    assert_unchanged(&site, &before);
}

/// A daemon that was started anew does not know who has asked before.
#[tokio::test(start_paused = true)]
async fn a_new_daemon_lets_everything_rest_first() {
    let mut site = Site::started(1).await.unwrap();
    site.node(0).create(DISK, SIZE).await.unwrap();
    site.node(0).attach(DISK).await.unwrap();
    minutes(60).await;
    site.kill(0);
    site.start(0, Effects::unobserved()).await.unwrap();
    for _ in 0..14 {
        site.node(0).san().drop_idle().await.unwrap();
        minutes(1).await;
    }
    assert_eq!(site.node(0).host.inventory().links.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn whatever_speaks_for_a_disk_keeps_it_and_so_does_what_is_not_known() {
    for keeper in Keeper::ALL {
        let (site, client) = with_disk().await;
        let before = site.audit();
        client.call("volume.attach", json!({ "name": DISK })).await.unwrap();
        keeper.begins(&site);
        minutes(60).await;
        assert!(is_attached(&site), "{keeper:?}");
        assert_eq!(repairs(&client).await, json!([]), "{keeper:?}");
        keeper.ends(&site);
        minutes(40).await;
        let left = site.audit().against(&before);
        assert!(left.is_empty(), "{keeper:?}: {left}");
    }
}
