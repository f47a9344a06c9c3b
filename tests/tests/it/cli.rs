//! The commands for people against daemons on a simulated site: what they print, how they end, and that they touch nothing
//! but what they are told to.

use clap::Parser;
use sanbridge::cli::{Command, Console, Screen};
use sanbridge_tests::daemons::DaemonSite;
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
struct Ran {
    code: u8,
    out: String,
    err: String,
}

impl Ran {
    fn json(&self) -> Value {
        assert_eq!(self.code, 0, "{self:?}");
        serde_json::from_str(&self.out).unwrap()
    }
}

async fn run_on(socket: &std::path::Path, screen: Screen, arguments: &[&str]) -> Ran {
    let socket = socket.to_str().unwrap();
    let line = [&["sanbridge"], arguments, &["--socket", socket]].concat();
    let Line { command } = Line::try_parse_from(line).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let exit = command.run(&mut Console::new(&mut out, screen, &mut err)).await;
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
