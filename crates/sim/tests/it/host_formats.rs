//! Names, links, attributes and texts of a simulated node against recordings of real ones.

use std::path::Path;

use san_host::{Attr, Host};
use san_sim::host::{NodeSpec, Release};
use san_sim::target::Reachability;

use crate::host_rig::{MIB, Rig, TARGET, portals, recorded, soon, wwid};

/// The recorded situation: volume `..32` (size 1 GiB) as LUN 1 over both portals, in a map.
async fn recorded_rig() -> Rig {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x32, 1024 * MIB);
    rig.attach(1, 0x32).await;
    rig
}

/// Values that differ from run to run; the recording of `access_state` was made before the kernel had asked the target.
const VOLATILE: [&str; 13] = [
    "creator",
    "exp_statsn",
    "local_port",
    "diskseq",
    "uevent",
    "stat",
    "iodone_cnt",
    "ioerr_cnt",
    "iorequest_cnt",
    "vpd_pg83",
    "vpd_pg80",
    "inquiry",
    "access_state",
];

fn unhex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

/// Compares every recorded path with the node: links by text, attributes by value.
async fn compare(rig: &Rig, recording: &str) {
    for line in recorded(recording).lines().filter(|it| !it.starts_with('#')) {
        if let Some((path, target)) = line.split_once(" -> ") {
            assert_eq!(rig.link(path).await.as_deref(), Some(target), "{path}");
            continue;
        }
        let (path, value) = line.split_once(": ").unwrap_or((line.trim_end_matches(':'), ""));
        // Addresses hold colons without a blank, so the first colon and blank end the path.
        let name = path.rsplit('/').next().unwrap();
        let (device, attribute) = path.rsplit_once('/').unwrap();
        let found = rig.node.attr(Path::new(device), attribute, soon()).await.unwrap();
        let Attr::Value(found) = found else { panic!("{path}: {found:?}") };
        if VOLATILE.contains(&name) {
            continue;
        }
        if let Some(digits) = value.strip_prefix("hex:") {
            assert_eq!(found, unhex(digits), "{path}");
            continue;
        }
        let found = String::from_utf8(found).unwrap().replace('\n', "\\n");
        assert_eq!(found, value, "{path}");
    }
}

#[tokio::test(start_paused = true)]
async fn sysfs_of_sessions_is_as_recorded() {
    let rig = recorded_rig().await;
    for recording in [
        "sysfs-iscsi_session.sysfs",
        "sysfs-iscsi_connection.sysfs",
        "sysfs-iscsi_host.sysfs",
        "sysfs-scsi_host.sysfs",
    ] {
        compare(&rig, recording).await;
    }
}

#[tokio::test(start_paused = true)]
async fn sysfs_of_legs_and_maps_is_as_recorded() {
    let rig = recorded_rig().await;
    for recording in ["sysfs-scsi_device-all.sysfs", "sysfs-block-all.sysfs", "sysfs-block-dm.sysfs"] {
        compare(&rig, recording).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_session_shows_as_recorded() {
    let rig = recorded_rig().await;
    rig.shelf.set(portals()[0], Reachability::BlackHole);
    rig.wait(30).await;
    compare(&rig, "sysfs-iscsi_session-failed.sysfs").await;
}

#[tokio::test(start_paused = true)]
async fn identity_pages_hold_what_was_recorded() {
    let rig = recorded_rig().await;
    let device = Path::new("/sys/class/scsi_device/0:0:0:1/device");
    let bytes = |attribute: &'static str| {
        let node = rig.node.clone();
        async move {
            match node.attr(device, attribute, soon()).await.unwrap() {
                Attr::Value(bytes) => bytes,
                other => panic!("{other:?}"),
            }
        }
    };
    let recording = recorded("sysfs-scsi_device.sysfs");
    let of = |name: &str| {
        let line = recording.lines().find(|it| it.contains(&format!("/device/{name}:"))).unwrap();
        unhex(line.split_once("hex:").unwrap().1)
    };
    assert_eq!(bytes("inquiry").await, of("inquiry"));
    // The kernel target ends the serial number with a NUL, NetApp does not.
    assert_eq!(bytes("vpd_pg80").await[4..], of("vpd_pg80")[4..29]);
    // The first two designators: NAA and T10 vendor identification.
    assert_eq!(bytes("vpd_pg83").await[4..24], of("vpd_pg83")[4..24]);
    assert_eq!(bytes("vpd_pg83").await[28..72], of("vpd_pg83")[28..72]);
    assert_eq!(
        rig.text("/sys/class/scsi_device/0:0:0:1/device/wwid").await.unwrap(),
        format!("naa.{}", &wwid(0x32)[1..])
    );
}

#[tokio::test(start_paused = true)]
async fn links_in_dev_are_as_recorded() {
    let rig = recorded_rig().await;
    let id = wwid(0x32);
    for (link, target) in [
        (format!("mapper/{id}"), "../dm-0"),
        (format!("disk/by-id/dm-name-{id}"), "../../dm-0"),
        (format!("disk/by-id/dm-uuid-mpath-{id}"), "../../dm-0"),
        (format!("disk/by-id/scsi-{id}"), "../../dm-0"),
        (format!("disk/by-id/wwn-0x{}", &id[1..]), "../../dm-0"),
        (format!("disk/by-path/ip-10.77.1.2:3260-iscsi-{TARGET}-lun-1"), "../../sda"),
        (format!("disk/by-path/ip-10.77.2.2:3260-iscsi-{TARGET}-lun-1"), "../../sdb"),
    ] {
        assert_eq!(rig.link(&format!("/dev/{link}")).await.as_deref(), Some(target), "{link}");
    }
}

/// JSON lines that depend on what happened before.
fn steady(json: &str) -> String {
    json.lines()
        .filter(|it| !it.contains("map_loads") && !it.contains("path_faults"))
        .collect::<Vec<_>>()
        .join("\n")
}

#[tokio::test(start_paused = true)]
async fn multipathd_shows_maps_and_paths_as_recorded() {
    let rig = Rig::connected().await;
    assert_eq!(rig.multipathd("show maps json").await, recorded("multipathd-show-maps-json-none.out"));
    assert_eq!(rig.multipathd("show paths raw format \"%d %w\"").await, "ok\n");
    rig.shelf.map(1, 0x32, 1024 * MIB);
    rig.attach(1, 0x32).await;
    assert_eq!(
        steady(&rig.multipathd("show maps json").await),
        steady(&recorded("multipathd-show-maps-json.out"))
    );
    assert_eq!(
        rig.multipathd("show paths raw format %d|%i|%w|%t|%o|%T|%s|%p|%c|%R|%N|%n|%a|%r").await,
        recorded("multipathd-show-paths-raw.out")
    );
    assert_eq!(
        rig.multipathd("show maps raw format %n|%w|%d|%t|%Q|%S|%N|%f").await,
        recorded("multipathd-show-maps-raw.out")
    );
    assert_eq!(rig.multipathd("show status").await, recorded("multipathd-show-status.out"));
    assert_eq!(rig.multipathd("show daemon").await, "pid 210 idle\n");
}

#[tokio::test(start_paused = true)]
async fn multipathd_shows_lost_paths_as_recorded() {
    let rig = recorded_rig().await;
    rig.shelf.change(1, |it| it.size = 2048 * MIB);
    rig.shelf.set(portals()[0], Reachability::BlackHole);
    // Data goes over the other path meanwhile, so that the kernel has chosen its group.
    let path = format!("/dev/mapper/{}", wwid(0x32));
    rig.wait(30).await;
    rig.first_bytes(&path, 512).await;
    let json = rig.multipathd(&format!("show map {} json", wwid(0x32))).await;
    assert_eq!(steady(&json), steady(&recorded("multipathd-show-map-json-one-failed.out")));
}

#[tokio::test(start_paused = true)]
async fn config_shows_the_options_of_the_node() {
    let rig = Rig::with(|it| it.multipath.recheck_wwid = san_sim::host::RecheckWwid::Yes);
    let config = rig.multipathd("show config local").await;
    for line in [
        "\tfind_multipaths \"strict\"",
        "\trecheck_wwid \"yes\"",
        "\t\tno_path_retry \"queue\"",
        "multipaths {",
    ] {
        assert!(config.lines().any(|it| it == line), "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn iscsiadm_prints_what_was_recorded() {
    let rig = Rig::new();
    let said = |it: san_host::Output| {
        (it.code.unwrap(), String::from_utf8(it.stdout).unwrap(), String::from_utf8(it.stderr).unwrap())
    };
    let none = said(rig.iscsiadm(&["-m", "session"]).await);
    assert_eq!(none, (21, String::new(), recorded("iscsiadm-session-none.err")));
    let unknown =
        said(rig.iscsiadm(&["-m", "node", "-T", "iqn.1992-08.com.netapp:sn.none", "--login"]).await);
    assert_eq!(unknown, (21, String::new(), recorded("login-unknown-target.err")));
    for portal in ["10.77.1.2:3260,1028", "10.77.2.2:3260,1029"] {
        assert_eq!(
            rig.iscsiadm(&["-m", "node", "-T", TARGET, "-p", portal, "-o", "new"]).await.code,
            Some(0)
        );
    }
    assert_eq!(said(rig.iscsiadm(&["-m", "node"]).await), (0, recorded("node.out"), String::new()));
    let logout = said(rig.iscsiadm(&["-m", "node", "-T", TARGET, "--logout"]).await);
    assert_eq!(logout, (21, String::new(), recorded("logout-not-logged-in.err")));
    let one = ["-m", "node", "-T", TARGET, "-p", "10.77.1.2:3260", "--login"];
    assert_eq!(said(rig.iscsiadm(&one).await), (0, recorded("login-one.out"), String::new()));
    let all = said(rig.iscsiadm(&["-m", "node", "-T", TARGET, "--login"]).await);
    assert_eq!(all, (15, recorded("login-all.out"), recorded("login-all.err")));
    assert_eq!(said(rig.iscsiadm(&one).await), (15, String::new(), recorded("login-again.err")));
    assert_eq!(said(rig.iscsiadm(&["-m", "session", "-P0"]).await).0, 7);
    let list = said(rig.iscsiadm(&["-m", "session", "-P", "0"]).await);
    assert_eq!(list, (0, recorded("session-P0.out"), String::new()));
    let missing = said(rig.iscsiadm(&["-m", "session", "-r", "99"]).await);
    assert_eq!(missing, (22, String::new(), recorded("session-r99-missing.err")));
    let rescan = said(rig.iscsiadm(&["-m", "session", "--rescan"]).await);
    assert_eq!(rescan, (0, recorded("session-rescan.out"), String::new()));
    let logout = said(rig.iscsiadm(&["-m", "node", "-T", TARGET, "--logout"]).await);
    assert_eq!(logout, (0, recorded("logout.out"), String::new()));
    assert_eq!(rig.iscsiadm(&["-m", "node", "-T", TARGET, "-o", "delete"]).await.code, Some(0));
    let again = said(rig.iscsiadm(&["-m", "node", "-T", TARGET, "-o", "delete"]).await);
    assert_eq!(again, (21, String::new(), recorded("node-delete-again.err")));
}

#[tokio::test(start_paused = true)]
async fn records_are_stored_and_shown_as_recorded() {
    let rig = Rig::new();
    let at = ["-m", "node", "-T", TARGET, "-p", "10.77.1.2:3260,1028"];
    rig.iscsiadm(&[&at[..], &["-o", "new"]].concat()).await;
    let text = String::from_utf8(rig.iscsiadm(&at).await.stdout).unwrap();
    // The recording was found by discovery, so these differ.
    let strip = |text: &str| {
        text.lines().filter(|it| !it.contains("discovery_")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(strip(&text), strip(&recorded("node-show.out")));
    let path = format!("/var/lib/iscsi/nodes/{TARGET}/10.77.1.2,3260,1028/default");
    assert!(recorded("node-files.out").contains(path.strip_prefix("/var/lib/iscsi/").unwrap()));
    let file = rig.node.read(Path::new(&path), 1 << 16, soon()).await.unwrap().unwrap();
    let recording = recorded("node-files.out");
    let recording = &recording[recording.find("# BEGIN").unwrap()..];
    // The recorded file is the other portal's.
    let same = |text: &str| {
        let own = ["discovery_", "node.tpgt", "conn[0].address"];
        text.lines()
            .filter(|it| !own.iter().any(|part| it.contains(part)))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(same(&String::from_utf8(file).unwrap()), same(recording));
}

#[tokio::test(start_paused = true)]
async fn debian_12_says_less_and_more() {
    let rig = Rig::with(|it: &mut NodeSpec| it.release = Release::Debian12);
    let at = ["-m", "node", "-T", TARGET, "-p", "10.77.1.2:3260"];
    rig.iscsiadm(&[&at[..], &["-o", "new"]].concat()).await;
    let login = rig.iscsiadm(&[&at[..], &["-l"]].concat()).await;
    assert_eq!(String::from_utf8(login.stdout).unwrap(), recorded("login-one-debian12.out"));
    assert_eq!(rig.multipathd("del map nothing").await, "fail\n");
    assert_eq!(rig.multipathd("resize map nothing").await, "fail\n");
    assert!(
        rig.multipathd("frobnicate").await.starts_with("frobnicate \n: not found\nmultipath-tools v0.9.4")
    );
    assert!(rig.list("/etc/iscsi/nodes").await.contains(&TARGET.to_owned()));
}
