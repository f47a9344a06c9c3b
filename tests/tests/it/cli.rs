//! The commands for people against daemons on a simulated site: what they print, how they end, and that they touch nothing
//! but what they are told to.

use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use san_sim::ontap::Version;
use sanbridge::cli::{Command, Console, Screen};
use sanbridge_tests::daemons::{DaemonSite, SimWires};
use sanbridge_tests::site::{SVM, Site};
use serde_json::{Value, json};

use crate::support::DISK;

/// A command line.
#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

/// What a command wrote, and its exit code.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: u8,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.out).unwrap()
    }
}

pub(crate) async fn run_on(socket: &std::path::Path, screen: Screen, arguments: &[&str]) -> Ran {
    let socket = socket.to_str().unwrap();
    let (verb, rest) = arguments.split_at(1);
    let line = [&["sanbridge"], verb, &["--socket", socket], rest].concat();
    let Line { command } = Line::try_parse_from(line).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = command.run(&mut Console::new(&mut out, screen, &mut err, Screen::Pipe)).await;
    Ran { code: exit.code(), out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

/// Runs a command on the first node, its output read by another program.
async fn run(site: &DaemonSite, arguments: &[&str]) -> Ran {
    run_on(site.socket(0), Screen::Pipe, arguments).await
}

/// A site with one disk, attached on the first node.
async fn with_disk(nodes: usize) -> DaemonSite {
    let site = DaemonSite::started(nodes).await.unwrap();
    let client = site.client(0);
    client.add().await.unwrap();
    client.call("volume.create", json!({ "vmid": 100, "name": null, "size_bytes": 8 << 20 })).await.unwrap();
    site.place_guest(100, 0, &[DISK]).unwrap();
    client.call("volume.attach", json!({ "name": DISK })).await.unwrap();
    site
}

#[tokio::test]
async fn status_tells_how_things_stand_without_asking_the_array() {
    let site = with_disk(1).await;
    // The first poll of PVE is what makes the room known.
    site.client(0).call("storage.status", json!({})).await.unwrap();
    let (mark, before) = (site.site.array.mark(), site.audit());
    let seen = run(&site, &["status", "--json"]).await.json();
    let storage = &seen["storages"][0];
    assert_eq!(
        (&storage["id"], &storage["ready"], &storage["problem"]),
        (&json!("san1"), &json!(true), &Value::Null)
    );
    assert_eq!(storage["array"]["version"], "9.16.1");
    assert_eq!(storage["disks"][0]["name"], DISK);
    assert_eq!(storage["disks"][0]["paths_usable"], storage["disks"][0]["paths_expected"]);
    let portals = storage["portals"].as_array().unwrap();
    assert!(!portals.is_empty() && portals.iter().all(|it| it["up"] == true), "{portals:?}");
    let shown = run(&site, &["status", "--storage", "san1"]).await;
    assert_eq!(shown.code, 0, "{shown:?}");
    for expected in ["STORAGE", "san1", "active", "9.16.1", "Portals", DISK, "attached"] {
        assert!(shown.out.contains(expected), "{expected}: {}", shown.out);
    }
    assert_eq!(site.site.array.requests(mark).len(), 0);
    let findings = site.audit().against(&before);
    assert!(findings.is_empty(), "{findings}");
}

#[tokio::test]
async fn a_daemon_that_does_not_run_has_its_own_code_and_cure() {
    let folder = tempfile::tempdir().unwrap();
    let ran = run_on(&folder.path().join("none.sock"), Screen::Pipe, &["status"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (13, ""));
    assert!(ran.err.ends_with("-- systemctl start sanbridge\n"), "{}", ran.err);
}

#[tokio::test]
async fn a_storage_nobody_knows_is_not_found() {
    let site = with_disk(1).await;
    for (name, code) in [("san9", 3), ("../x", 2), ("\u{1b}[2J", 2)] {
        let ran = run(&site, &["status", "--storage", name]).await;
        assert_eq!(ran.code, code, "{ran:?}");
        assert!(!ran.err.contains('\u{1b}') && ran.err.lines().count() == 1, "{ran:?}");
    }
}

#[tokio::test]
async fn volumes_and_snapshots_are_listed_with_their_guests_and_places() {
    let site = with_disk(2).await;
    let client = site.client(0);
    client.call("snapshot.create", json!({ "name": DISK, "snapshot": "before" })).await.unwrap();
    let before = site.audit();
    let seen = run(&site, &["volumes", "--json"]).await.json();
    let volume = &seen["volumes"][0];
    assert_eq!(
        (&volume["name"], &volume["kind"], &volume["configured"]),
        (&json!(DISK), &json!("disk"), &json!(true))
    );
    assert_eq!((&volume["guest"], &volume["attached_on"]), (&json!("VM 100 on node1"), &json!(["node1"])));
    let shown = run(&site, &["volumes"]).await;
    let line = shown.out.lines().nth(1).unwrap();
    for expected in ["san1", DISK, "8 MiB", "VM 100 on node1"] {
        assert!(line.contains(expected), "{line}");
    }
    for arguments in [["snapshots", "san1:vm-100-disk-0"], ["snapshots", DISK]] {
        let shown = run(&site, &arguments).await;
        assert_eq!(shown.code, 0, "{shown:?}");
        assert!(shown.out.lines().nth(1).unwrap().starts_with("before "), "{}", shown.out);
    }
    for (name, code) in [("vm-100-disk-9", 3), ("vm-100-../x", 2), ("san9:vm-100-disk-0", 3), ("a:b:c", 2)] {
        let ran = run(&site, &["snapshots", name]).await;
        assert_eq!((ran.code, ran.out.as_str()), (code, ""), "{ran:?}");
    }
    let findings = site.audit().against(&before);
    assert!(findings.is_empty(), "{findings}");
}

#[tokio::test]
async fn an_array_that_is_down_is_said_so_and_does_not_hide_the_rest() {
    let site = with_disk(1).await;
    crate::support::inject(
        &site.site.array,
        "GET",
        "",
        san_sim::ontap::Times::Always,
        san_sim::ontap::Fault::Refuse,
    );
    let ran = run(&site, &["volumes"]).await;
    assert_eq!(ran.code, 20, "{ran:?}");
    assert!(ran.err.starts_with("sanbridge: san1: "), "{ran:?}");
    assert_eq!(run(&site, &["volumes", "--storage", "san1"]).await.code, 8);
    assert_eq!(run(&site, &["status"]).await.code, 0);
}

#[tokio::test(start_paused = true)]
async fn a_clone_is_split_and_waited_for() {
    let array = Site::with(1, Version::new(9, 16, 1), |it| it.pace.split = Duration::from_secs(600)).unwrap();
    let wires = Arc::new(SimWires(array.array.clone()));
    let site = DaemonSite::on(array, wires).await.unwrap();
    let client = site.client(0);
    client.add().await.unwrap();
    client.call("volume.create", json!({ "vmid": 100, "name": null, "size_bytes": 8 << 20 })).await.unwrap();
    client.call("volume.template", json!({ "name": DISK })).await.unwrap();
    let made = client.call("volume.clone", json!({ "name": "base-100-disk-0", "vmid": 101 })).await.unwrap();
    let name = made.ok["name"].as_str().unwrap();
    let begun = run(&site, &["split", name, "--json"]).await;
    assert_eq!(begun.json()["state"], "splitting", "{begun:?}");
    let done = run(&site, &["split", name, "--wait"]).await;
    assert_eq!((done.code, done.out.as_str(), done.err.as_str()), (0, "It is independent.\n", ""));
    // What is independent already is left alone.
    let mark = site.site.array.mark();
    assert_eq!(run(&site, &["split", name]).await.code, 0);
    assert_eq!(crate::support::changes(&site.site.array, mark), []);
    client.call("volume.delete", json!({ "name": "base-100-disk-0" })).await.unwrap();
}

#[tokio::test]
async fn orphans_are_told_apart_and_only_what_is_proved_unused_is_removed() {
    let site = with_disk(2).await;
    let client = site.client(0);
    let none = run(&site, &["orphans"]).await;
    assert_eq!((none.code, none.out.as_str()), (0, "There are no orphans.\n"), "{none:?}");
    let before = site.audit();
    // A volume no guest names, one that was deleted on the array, and the link of a disk nobody has on record.
    let made = client
        .call("volume.create", json!({ "vmid": 200, "name": null, "size_bytes": 8 << 20 }))
        .await
        .unwrap();
    let forgotten = made.ok["name"].as_str().unwrap().to_owned();
    client.call("volume.create", json!({ "vmid": 300, "name": null, "size_bytes": 8 << 20 })).await.unwrap();
    let array = &site.site.array;
    let gone = array.volumes().into_iter().find(|it| it.name.contains("vm_300")).unwrap();
    array.destroy_volume(sanbridge_tests::site::SVM, &gone.name).unwrap();
    let seen = run(&site, &["orphans", "--json"]).await.json();
    let kinds: Vec<(&str, &str, bool)> = seen["orphans"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| {
            (it["kind"].as_str().unwrap(), it["name"].as_str().unwrap(), it["removable"].as_bool().unwrap())
        })
        .collect();
    assert_eq!(kinds, [("unreferenced", "vm-200-disk-0", false), ("binding", "vm-300-disk-0", true)]);
    // Whatever has data in it is not removed this way, whatever is said.
    let mark = array.mark();
    let refused = run(&site, &["orphans", "remove", &forgotten, "--yes"]).await;
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.err.contains("pvesm free san1:vm-200-disk-0"), "{refused:?}");
    assert_eq!(run(&site, &["orphans", "remove", DISK, "--yes"]).await.code, 3);
    // Without --yes nothing is done.
    let planned = run(&site, &["orphans", "remove", "san1:vm-300-disk-0"]).await;
    assert!(planned.code == 0 && planned.out.contains("forget the notes"), "{planned:?}");
    assert_eq!(crate::support::changes(array, mark), []);
    let explained = run(&site, &["orphans", "explain", "vm-300-disk-0"]).await;
    assert!(explained.out.contains("why: somebody deleted the volume on the array"), "{explained:?}");
    let removed = run(&site, &["orphans", "remove", "vm-300-disk-0", "--yes"]).await;
    assert_eq!((removed.code, removed.out.as_str()), (0, "It is gone.\n"), "{removed:?}");
    client.call("volume.delete", json!({ "name": forgotten })).await.unwrap();
    array.purge_recovery_queue().unwrap();
    let findings = site.audit().against(&before);
    assert!(findings.is_empty(), "{findings}");
}

/// Its notes are needed until it has gone.
#[tokio::test]
async fn a_template_that_waits_for_its_deleted_clones_is_no_orphan() {
    let site = with_disk(1).await;
    let client = site.client(0);
    client.call("volume.template", json!({ "name": DISK })).await.unwrap();
    let made = client.call("volume.clone", json!({ "name": "base-100-disk-0", "vmid": 101 })).await.unwrap();
    for name in [&made.ok["name"], &json!("base-100-disk-0")] {
        client.call("volume.delete", json!({ "name": name })).await.unwrap();
    }
    assert!(site.site.array.volumes().iter().any(|it| it.name.contains("deleting")));
    assert_eq!(run(&site, &["orphans"]).await.out, "There are no orphans.\n");
}

#[tokio::test]
async fn a_disk_on_record_without_a_device_is_an_orphan_until_it_is_removed() {
    let site = with_disk(1).await;
    site.client(0).call("snapshot.create", json!({ "name": DISK, "snapshot": "kept" })).await.unwrap();
    let host = &site.site.node(0).host;
    host.crash();
    host.boot();
    let seen = run(&site, &["orphans", "--json"]).await.json();
    assert_eq!(
        (&seen["orphans"][0]["kind"], &seen["orphans"][0]["name"]),
        (&json!("record"), &json!(DISK)),
        "{seen}"
    );
    assert_eq!(run(&site, &["orphans", "remove", DISK, "--yes"]).await.code, 0);
    assert_eq!(run(&site, &["orphans"]).await.out, "There are no orphans.\n");
    // The disk itself is as it was.
    assert!(run(&site, &["snapshots", DISK]).await.out.contains("kept"));
}

#[tokio::test]
async fn a_deleted_disk_is_brought_back_by_its_name() {
    let site = with_disk(1).await;
    let client = site.client(0);
    let none = run(&site, &["undelete"]).await;
    assert_eq!((none.code, none.out.as_str()), (0, "No array keeps a deleted volume of ours.\n"), "{none:?}");
    assert_eq!(run(&site, &["undelete", DISK]).await.code, 4, "it is there");
    assert_eq!(run(&site, &["undelete", "vm-100-disk-9"]).await.code, 3);
    let named = json!({ "name": DISK });
    let path =
        client.call("volume.attach", named.clone()).await.unwrap().ok["path"].as_str().unwrap().to_owned();
    let host = &site.site.node(0).host;
    host.write_at(std::path::Path::new(&path), 0, b"kept").await.unwrap();
    client.call("volume.detach", named.clone()).await.unwrap();
    client.call("volume.delete", named.clone()).await.unwrap();
    let kept = run(&site, &["undelete", "--json"]).await.json();
    assert_eq!(kept["volumes"][0]["name"], DISK);
    let back = run(&site, &["undelete", "san1:vm-100-disk-0"]).await;
    assert_eq!((back.code, back.out.as_str()), (0, "vm-100-disk-0 is back (8 MiB).\n"), "{back:?}");
    client.call("volume.attach", named.clone()).await.unwrap();
    assert_eq!(host.read_at(std::path::Path::new(&path), 0, 4).await.unwrap(), b"kept");
    // Two that had the name: somebody has to say which.
    client.call("volume.detach", named.clone()).await.unwrap();
    client.call("volume.delete", named.clone()).await.unwrap();
    client.call("volume.create", json!({ "vmid": 100, "name": DISK, "size_bytes": 8 << 20 })).await.unwrap();
    client.call("volume.delete", named).await.unwrap();
    let refused = run(&site, &["undelete", DISK]).await;
    assert!(refused.code == 4 && refused.err.contains("--queued"), "{refused:?}");
    let kept = run(&site, &["undelete", "--json"]).await.json();
    let queued = kept["volumes"][0]["queued"].as_str().unwrap().to_owned();
    assert_eq!(run(&site, &["undelete", DISK, "--queued", &queued]).await.code, 0);
}

#[tokio::test]
async fn nonsense_is_refused_and_never_reaches_a_terminal() {
    let site = with_disk(1).await;
    let before = site.audit();
    let evil = "vm-100-\u{1b}]0;x\u{7}";
    let long = "a".repeat(70_000);
    for name in [evil, "vm-100-disk-0/../x", "-", "", "san1:", ":x", "san1:base-1/vm-100-disk-0", &long] {
        for verb in [&["snapshots"] as &[&str], &["split"], &["undelete"], &["orphans", "remove", "--yes"]] {
            let ran = run(&site, &[verb, &["--", name]].concat()).await;
            assert!([2, 3].contains(&ran.code), "{verb:?} {name:?}: {ran:?}");
            assert!(!ran.err.contains('\u{1b}') && !ran.err.contains('\u{7}'), "{ran:?}");
        }
    }
    let findings = site.audit().against(&before);
    assert!(findings.is_empty(), "{findings}");
}

#[tokio::test]
async fn policy_shows_what_differs_and_sets_it() {
    let site = with_disk(1).await;
    let before = site.audit();
    let name = |it: &san_sim::ontap::VolumeInfo| it.comment.contains(DISK).then(|| it.name.clone());
    let name = site.site.array.volumes().iter().find_map(name).unwrap();
    site.site.array.set_snapshot_policy(SVM, &name, "default").unwrap();
    let shown = run(&site, &["policy", "show"]).await;
    assert_eq!(shown.code, 20, "{shown:?}");
    for expected in ["OPTION", DISK, "snapshot-policy", "default", "none", "snapshot_policy.name"] {
        assert!(shown.out.contains(expected), "{expected}: {}", shown.out);
    }
    let dry = run(&site, &["policy", "apply", "--dry-run", "--volume", &format!("san1:{DISK}")]).await;
    assert_eq!((dry.code, &dry.out), (20, &shown.out));
    assert_eq!(site.site.array.volume(SVM, &name).unwrap().settings.snapshot_policy, "default");
    let applied = run(&site, &["policy", "apply"]).await;
    assert_eq!((applied.code, applied.err.as_str()), (0, "san1:vm-100-disk-0: set\n"), "{applied:?}");
    assert_eq!(site.site.array.volume(SVM, &name).unwrap().settings.snapshot_policy, "none");
    let seen = run(&site, &["policy", "show", "--json"]).await.json();
    assert_eq!((&seen["reviewed"], &seen["deviations"]), (&json!(1), &json!([])));
    let findings = site.audit().against(&before);
    assert!(findings.is_empty(), "{findings}");
}

/// A deletion that waits for a clone in the recovery queue, and an unmapping the array did not answer.
#[tokio::test(start_paused = true)]
async fn status_tells_what_waits_and_what_was_put_right() {
    let site = with_disk(1).await;
    let client = site.client(0);
    client.call("volume.create", json!({ "vmid": 200, "name": null, "size_bytes": 8 << 20 })).await.unwrap();
    client.call("volume.template", json!({ "name": "vm-200-disk-0" })).await.unwrap();
    let made = client.call("volume.clone", json!({ "name": "base-200-disk-0", "vmid": 201 })).await.unwrap();
    client.call("volume.delete", json!({ "name": made.ok["name"] })).await.unwrap();
    client.call("volume.delete", json!({ "name": "base-200-disk-0" })).await.unwrap();
    tokio::time::sleep(Duration::from_secs(70)).await;
    let storage = run(&site, &["status", "--json"]).await.json()["storages"][0].clone();
    let waiting = &storage["deleting"][0];
    assert_eq!(waiting["volume"], "base-200-disk-0", "{storage}");
    assert!(waiting["why"].as_str().unwrap().contains("clones"), "{waiting}");
    assert!(waiting["age_seconds"].is_u64() && waiting["next_try_seconds"].is_u64(), "{waiting}");
    assert_eq!(storage["repairs"], json!([]));
    let silent = || san_sim::ontap::Fault::Refuse;
    crate::support::inject(&site.site.array, "", "", san_sim::ontap::Times::Always, silent());
    client.call("volume.detach", json!({ "name": DISK })).await.unwrap();
    let shown = run(&site, &["status"]).await.out;
    for expected in ["have not gone yet", "base-200-disk-0", "have not ended", "waits for the array: unmap"] {
        assert!(shown.contains(expected), "{expected}: {shown}");
    }
    site.site.array.clear_faults();
    site.site.array.purge_recovery_queue().unwrap();
    tokio::time::sleep(Duration::from_secs(400)).await;
    let storage = run(&site, &["status", "--json"]).await.json()["storages"][0].clone();
    let repairs: Vec<_> = storage["repairs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| (&it["kind"], &it["count"], &it["last"]))
        .collect();
    let (ended, finished) = (json!("operation-ended"), json!("deletion-finished"));
    let (detach, template) = (json!(format!("detach {DISK}")), json!("base-200-disk-0"));
    assert_eq!(repairs, [(&ended, &json!(1), &detach), (&finished, &json!(1), &template)]);
    assert_eq!((&storage["deleting"], &storage["operations"]), (&json!([]), &json!([])));
    let shown = run(&site, &["status"]).await.out;
    assert!(shown.contains("Put right by this node") && shown.contains("finished a deletion"), "{shown}");
    client.call("volume.delete", json!({ "name": DISK })).await.unwrap();
}
