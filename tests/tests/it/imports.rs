//! Disks that are filled before they count: by whom, how long, and what becomes of them where that ends too early.

use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use san_contract::audit::Audit;
use san_core::{Effects, OperationId};
use san_sim::ontap::{Fault, Times};
use san_sim::target::{Reachability, Target};
use sanbridge_tests::daemons::{Client, DaemonSite, read, write};
use sanbridge_tests::walk::{Beside, DISK, PATH, Walking, converse};
use serde_json::{Value, json};
use tokio::net::UnixStream;
use tokio::time::Instant;

use crate::support::{answer, inject};

const HOUR: Duration = Duration::from_secs(3600);
const SIZE: u64 = 8 << 20;

/// Two daemons that serve the storage, and how the world is then.
async fn site() -> (DaemonSite, Audit) {
    let site = DaemonSite::started(2).await.unwrap();
    site.client(0).add().await.unwrap();
    site.client(1).call("storage.activate", json!({})).await.unwrap();
    let before = site.audit();
    (site, before)
}

/// An import that has begun, with the bytes written so far: its connection, which is open, and the device.
struct Import {
    id: OperationId,
    stream: UnixStream,
}

async fn begin(site: &DaemonSite, name: Option<&str>) -> Import {
    let client = site.client(0);
    let id = OperationId::random();
    let params = json!({ "vmid": 100, "name": name, "size_bytes": SIZE });
    let mut stream = client.send(id, "volume.import", params).await.unwrap();
    let answer = read(&mut stream).await.unwrap();
    assert_eq!((&answer["ok"]["name"], &answer["ack"]), (&json!(DISK), &json!(true)), "{answer}");
    let attached = client.call("volume.attach", named(DISK)).await.unwrap();
    assert_eq!(attached.ok["path"], PATH);
    site.site.node(0).write(Path::new(PATH), 0, b"some of it").await.unwrap();
    Import { id, stream }
}

impl Import {
    async fn confirm(&mut self) -> Value {
        write(&mut self.stream, &json!({ "v": 1, "id": self.id, "ack": true })).await.unwrap();
        read(&mut self.stream).await.unwrap()
    }

    /// The confirmation on a connection of its own, as after a daemon's restart.
    async fn confirm_late(&self, client: &Client) -> Value {
        let mut stream = UnixStream::connect(&client.socket).await.unwrap();
        write(&mut stream, &json!({ "v": 1, "id": self.id, "ack": true })).await.unwrap();
        read(&mut stream).await.unwrap()
    }
}

fn named(name: &str) -> Value {
    json!({ "name": name })
}

/// Makes this process visible on the simulated node, as it was started then; `None`: it is gone.
fn show_process(site: &DaemonSite, started: Option<u64>) {
    let path = PathBuf::from(format!("/proc/{}/stat", std::process::id()));
    let host = &site.site.node(0).host;
    match started {
        Some(it) => {
            let stat = format!("{} (perl) S{} {it} 0 0\n", std::process::id(), " 0".repeat(18));
            host.put_file(&path, stat.as_bytes());
        }
        None => drop(host.remove_file(&path)),
    }
}

async fn comes_back_to(site: &DaemonSite, before: &Audit) {
    for _ in 0..600 {
        if site.audit() == *before {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let left = site.audit().against(before);
    assert!(left.is_empty(), "{left}");
}

async fn is_whole(site: &DaemonSite) {
    let client = site.client(0);
    client.call("volume.attach", named(DISK)).await.unwrap();
    assert_eq!(site.site.node(0).read(Path::new(PATH), 0, 10).await.unwrap(), b"some of it");
    client.call("volume.detach", named(DISK)).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_import_may_take_hours_and_nobody_waits_for_it() {
    let (site, before) = site().await;
    let client = site.client(0);
    let mut import = begin(&site, None).await;
    let handle = site.site.node(0).host.open(Path::new(PATH)).unwrap();
    tokio::time::sleep(3 * HOUR).await;
    let status = client.call("admin.status", json!({})).await.unwrap().ok;
    let operation = &status["storages"][0]["operations"][0];
    let (verb, state, volume) = (&operation["verb"], &operation["state"], &operation["volume"]);
    assert_eq!((verb, state, volume), (&json!("import"), &json!("unconfirmed"), &json!(DISK)), "{status}");
    // Another disk of the same guest gets the next number at once.
    let more = json!({ "vmid": 100, "name": null, "size_bytes": SIZE });
    assert_eq!(client.call("volume.create", more).await.unwrap().ok["name"], "vm-100-disk-1");
    client.call("volume.delete", named("vm-100-disk-1")).await.unwrap();
    drop(handle);
    client.call("volume.detach", named(DISK)).await.unwrap();
    assert_eq!(import.confirm().await["acked"], true);
    drop(import);
    tokio::time::sleep(HOUR).await;
    is_whole(&site).await;
    client.call("volume.delete", named(DISK)).await.unwrap();
    comes_back_to(&site, &before).await;
}

#[tokio::test(start_paused = true)]
async fn a_killed_import_leaves_nothing() {
    for name in [None, Some(DISK)] {
        let (site, before) = site().await;
        let import = begin(&site, name).await;
        // The kernel closes everything of a process that is killed.
        drop(import);
        comes_back_to(&site, &before).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_in_use_is_not_taken_back_before_it_is_closed() {
    let (site, before) = site().await;
    let import = begin(&site, None).await;
    let handle = site.site.node(0).host.open(Path::new(PATH)).unwrap();
    drop(import);
    tokio::time::sleep(HOUR).await;
    site.site.node(0).write(Path::new(PATH), 0, b"still here").await.unwrap();
    drop(handle);
    comes_back_to(&site, &before).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_guest_names_is_kept() {
    let (site, _) = site().await;
    let import = begin(&site, None).await;
    site.place_guest(100, 0, &[DISK]).unwrap();
    drop(import);
    tokio::time::sleep(HOUR).await;
    is_whole(&site).await;
}

/// Between two attempts to take it back anything may have happened to it.
#[tokio::test(start_paused = true)]
async fn what_a_guest_names_by_now_is_kept_however_far_it_was_taken_back() {
    for is_begun in [false, true] {
        let (site, before) = site().await;
        let client = site.client(0);
        let import = begin(&site, None).await;
        let handle = site.site.node(0).host.open(Path::new(PATH)).unwrap();
        if is_begun {
            inject(&site.site.array, "DELETE", "/storage/volumes/{uuid}", Times::Always, answer(500, 1));
            drop(handle);
            drop(import);
            tokio::time::sleep(HOUR).await;
            site.place_guest(100, 0, &[DISK]).unwrap();
        } else {
            drop(import);
            tokio::time::sleep(HOUR).await;
            site.place_guest(100, 0, &[DISK]).unwrap();
            drop(handle);
        }
        tokio::time::sleep(HOUR).await;
        site.site.array.clear_faults();
        tokio::time::sleep(HOUR).await;
        let status = client.call("admin.status", json!({})).await.unwrap().ok;
        assert_eq!(status["storages"][0]["operations"], json!([]), "{status}");
        is_whole(&site).await;
        site.remove_guest(100).unwrap();
        client.call("volume.delete", named(DISK)).await.unwrap();
        comes_back_to(&site, &before).await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_another_node_has_attached_is_not_taken_back_before_it_is_detached() {
    let (site, before) = site().await;
    let import = begin(&site, None).await;
    let there = site.client(1);
    there.call("volume.attach", named(DISK)).await.unwrap();
    let handle = site.site.node(1).host.open(Path::new(PATH)).unwrap();
    drop(import);
    tokio::time::sleep(HOUR).await;
    assert_eq!(site.site.node(1).read(Path::new(PATH), 0, 10).await.unwrap(), b"some of it");
    let listed = there.call("volume.list", json!({ "vmid": 100 })).await.unwrap().ok;
    assert_eq!(listed["volumes"][0]["name"], DISK, "{listed}");
    drop(handle);
    there.call("volume.detach", named(DISK)).await.unwrap();
    comes_back_to(&site, &before).await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_decided_while_nobody_knows_who_names_it() {
    let (site, before) = site().await;
    let import = begin(&site, None).await;
    let unreadable = site.pve().join("nodes").join("node1").join("qemu-server").join("100.conf");
    std::fs::create_dir_all(&unreadable).unwrap();
    drop(import);
    tokio::time::sleep(HOUR).await;
    let status = site.client(0).call("admin.status", json!({})).await.unwrap().ok;
    assert_eq!(status["storages"][0]["operations"][0]["state"], "unconfirmed", "{status}");
    site.site.node(0).write(Path::new(PATH), 0, b"still here").await.unwrap();
    std::fs::remove_dir(&unreadable).unwrap();
    comes_back_to(&site, &before).await;
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_waits_for_nobody() {
    let (site, _) = site().await;
    let mut import = begin(&site, None).await;
    inject(&site.site.array, "PATCH", "", Times::Count(1), Fault::Delay(Duration::from_secs(15)));
    let client = site.client(0);
    let grown = json!({ "name": DISK, "size_bytes": 2 * SIZE });
    let growing = tokio::spawn(async move { client.call("volume.grow", grown).await });
    tokio::time::sleep(Duration::from_secs(1)).await;
    let asked = Instant::now();
    assert_eq!(import.confirm().await["acked"], true);
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    assert!(!growing.is_finished());
    growing.await.unwrap().unwrap();
    drop(import);
    tokio::time::sleep(HOUR).await;
    is_whole(&site).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_made_a_template_before_the_importer_was_killed_stays_as_it_is() {
    let mut site = DaemonSite::started(2).await.unwrap();
    site.options.insert("sanbridge-all-nodes".to_owned(), json!("1"));
    site.client(0).add().await.unwrap();
    let client = site.client(0);
    let import = begin(&site, None).await;
    client.call("volume.detach", named(DISK)).await.unwrap();
    let made = client.call("volume.template", named(DISK)).await.unwrap();
    let template = made.ok["name"].as_str().unwrap().to_owned();
    assert_eq!(template, "base-100-disk-0");
    let maps = site.site.array.maps();
    assert_eq!(maps.len(), 1, "all nodes see it");
    drop(import);
    tokio::time::sleep(HOUR).await;
    assert_eq!(site.site.array.maps(), maps);
    let status = client.call("admin.status", json!({})).await.unwrap().ok;
    assert_eq!(status["storages"][0]["operations"], json!([]), "{status}");
    let attached = site.client(1).call("volume.attach", named(&template)).await.unwrap();
    let path = PathBuf::from(attached.ok["path"].as_str().unwrap());
    assert_eq!(site.site.node(1).read(&path, 0, 10).await.unwrap(), b"some of it");
}

#[tokio::test(start_paused = true)]
async fn missing_paths_are_made_while_a_disk_is_filled() {
    let (site, _) = site().await;
    let dead = site.site.array.portals()[1].address;
    site.site.array.set_portal(dead, Reachability::Refusing).unwrap();
    let mut import = begin(&site, None).await;
    let handle = site.site.node(0).host.open(Path::new(PATH)).unwrap();
    let legs = || site.site.node(0).host.inventory().legs.len();
    let before = legs();
    site.site.array.set_portal(dead, Reachability::Up).unwrap();
    tokio::time::sleep(HOUR).await;
    assert_eq!(legs(), before + 1);
    drop(handle);
    site.client(0).call("volume.detach", named(DISK)).await.unwrap();
    assert_eq!(import.confirm().await["acked"], true);
    is_whole(&site).await;
}

#[tokio::test(start_paused = true)]
async fn an_import_outlives_the_daemon_and_is_confirmed_to_the_next_one() {
    let (mut site, _) = site().await;
    show_process(&site, Some(99));
    let import = begin(&site, None).await;
    for _ in 0..2 {
        site.kill(0);
        site.start(0, Effects::unobserved()).await.unwrap();
        tokio::time::sleep(HOUR).await;
    }
    let client = site.client(0);
    client.call("volume.detach", named(DISK)).await.unwrap();
    assert_eq!(import.confirm_late(&client).await["acked"], true);
    show_process(&site, None);
    tokio::time::sleep(HOUR).await;
    is_whole(&site).await;
}

#[tokio::test(start_paused = true)]
async fn an_importer_that_died_with_the_daemon_leaves_nothing() {
    // Another process of its number is not the importer.
    for later in [None, Some(100)] {
        let (mut site, before) = site().await;
        show_process(&site, Some(99));
        let import = begin(&site, None).await;
        site.kill(0);
        site.start(0, Effects::unobserved()).await.unwrap();
        tokio::time::sleep(HOUR).await;
        assert!(!site.audit().against(&before).is_empty(), "it lives");
        show_process(&site, later);
        let late = async {
            comes_back_to(&site, &before).await;
            import.confirm_late(&site.client(0)).await
        };
        assert_eq!(late.await["error"]["kind"], "Cancelled", "whoever comes too late is told so");
        show_process(&site, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_died_in_the_middle_takes_it_back_when_it_is_there_again() {
    let (mut site, before) = site().await;
    show_process(&site, Some(99));
    let import = begin(&site, None).await;
    site.kill(0);
    drop(import);
    site.site.node(0).host.crash();
    site.site.node(0).host.boot();
    show_process(&site, None);
    site.start(0, Effects::unobserved()).await.unwrap();
    comes_back_to(&site, &before).await;
}

/// What happens to the real plugin where it copies.
struct Copying {
    site: DaemonSite,
    kills: bool,
}

#[async_trait]
impl Beside for Copying {
    async fn at(&mut self, place: &str) -> Walking<()> {
        let (process, path) = place.split_once(' ').ok_or(place)?;
        let written = self.site.site.node(0).write(Path::new(path), 0, b"some of it").await;
        written.map_err(|error| error.chain().to_string())?;
        if self.kills {
            let pid = process.parse().ok().and_then(rustix::process::Pid::from_raw).ok_or(place)?;
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).map_err(|it| it.to_string())?;
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_plugins_import_is_whole_or_nothing_also_when_it_is_killed() {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("perl/import.pl");
    for kills in [true, false] {
        let (site, before) = site().await;
        let (socket, options) = (site.socket(0).to_owned(), site.options.clone());
        let mut copying = Copying { site, kills };
        let ended = converse(&script, &[socket], options, &mut copying).await;
        let site = copying.site;
        if kills {
            let error = ended.unwrap_err();
            assert!(error.contains("signal: 9") || error.contains("too early"), "{error}");
        } else {
            assert_eq!(ended.unwrap(), (format!("san1:{DISK}\n"), 1));
            is_whole(&site).await;
            site.client(0).call("volume.delete", named(DISK)).await.unwrap();
        }
        comes_back_to(&site, &before).await;
    }
}
