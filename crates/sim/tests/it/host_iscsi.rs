//! Sessions: logging in and out, exit codes, outages, and who repairs them.

use std::path::Path;
use std::time::Duration;

use san_core::{Deadline, ErrorKind};
use san_host::{Host, Probe, Tool};
use san_sim::host::{LogKind, SessionState};
use san_sim::target::Reachability;
use tokio::time::Instant;

use crate::host_rig::{MIB, Rig, TARGET, portals, recorded, soon};

const AT: [&str; 6] = ["-m", "node", "-T", TARGET, "-p", "10.77.1.2:3260"];

async fn with_record(settings: &[(&str, &str)]) -> Rig {
    let rig = Rig::new();
    assert_eq!(rig.iscsiadm(&[&AT[..], &["-o", "new"]].concat()).await.code, Some(0));
    let mut update = vec!["-o", "update"];
    for (name, value) in settings {
        update.extend(["-n", name, "-v", value]);
    }
    assert_eq!(rig.iscsiadm(&[&AT[..], &update].concat()).await.code, Some(0));
    rig
}

/// Finding 8: a login to a dead portal costs the whole login timeout, also where the connection is refused.
#[tokio::test(start_paused = true)]
async fn a_login_to_a_dead_portal_costs_the_login_timeout() {
    for reachability in [Reachability::Refusing, Reachability::BlackHole] {
        let rig = with_record(&[
            ("node.conn[0].timeo.login_timeout", "3"),
            ("node.session.initial_login_retry_max", "1"),
        ])
        .await;
        rig.shelf.set(portals()[0], reachability);
        let began = Instant::now();
        let output = rig.iscsiadm(&[&AT[..], &["--login"]].concat()).await;
        assert_eq!(output.code, Some(8));
        assert_eq!(String::from_utf8(output.stderr).unwrap(), recorded("login-unreachable.err"));
        assert!((3.0..3.1).contains(&began.elapsed().as_secs_f64()));
        assert_eq!(rig.list("/sys/class/iscsi_session").await, [""; 0]);
    }
}

#[tokio::test(start_paused = true)]
async fn two_dead_portals_at_once_cost_no_more_than_one() {
    let rig = with_record(&[("node.conn[0].timeo.login_timeout", "5")]).await;
    let other = ["-m", "node", "-T", TARGET, "-p", "10.77.2.2:3260"];
    rig.iscsiadm(&[&other[..], &["-o", "new"]].concat()).await;
    rig.iscsiadm(&[
        "-m",
        "node",
        "-T",
        TARGET,
        "-o",
        "update",
        "-n",
        "node.session.initial_login_retry_max",
        "-v",
        "1",
    ])
    .await;
    rig.iscsiadm(&[
        "-m",
        "node",
        "-T",
        TARGET,
        "-o",
        "update",
        "-n",
        "node.conn[0].timeo.login_timeout",
        "-v",
        "5",
    ])
    .await;
    rig.shelf.set_all(Reachability::BlackHole);
    let began = Instant::now();
    assert_eq!(rig.iscsiadm(&["-m", "node", "-T", TARGET, "-l"]).await.code, Some(8));
    assert!(began.elapsed() < Duration::from_secs(6));
}

#[tokio::test(start_paused = true)]
async fn a_refused_login_has_its_own_code() {
    let rig = with_record(&[("node.session.scan", "manual")]).await;
    rig.node.refuse_logins(portals()[0], Some(24));
    let output = rig.iscsiadm(&[&AT[..], &["--login"]].concat()).await;
    assert_eq!(output.code, Some(24));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), recorded("login-no-acl.err"));
    rig.node.refuse_logins(portals()[0], None);
    assert_eq!(rig.iscsiadm(&[&AT[..], &["--login"]].concat()).await.code, Some(0));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_portal_group_is_fatal() {
    let rig = Rig::new();
    let at = ["-m", "node", "-T", TARGET, "-p", "10.77.1.2:3260,7"];
    rig.iscsiadm(&[&at[..], &["-o", "new"]].concat()).await;
    assert_eq!(rig.iscsiadm(&[&at[..], &["-l"]].concat()).await.code, Some(19));
}

#[tokio::test(start_paused = true)]
async fn without_iscsid_nothing_logs_in_and_nothing_is_repaired() {
    let rig = with_record(&[("node.session.scan", "manual")]).await;
    rig.node.stop_iscsid();
    assert_eq!(rig.iscsiadm(&[&AT[..], &["-l"]].concat()).await.code, Some(20));
    rig.node.start_iscsid();
    assert_eq!(rig.iscsiadm(&[&AT[..], &["-l"]].concat()).await.code, Some(0));
    rig.node.stop_iscsid();
    assert_eq!(rig.iscsiadm(&[&AT[..], &["-u"]].concat()).await.code, Some(20));
    rig.node.bounce(portals()[0]);
    rig.wait(60).await;
    assert_eq!(rig.node.inventory().sessions[0].state, SessionState::Failed);
    rig.node.start_iscsid();
    rig.wait(5).await;
    assert_eq!(rig.node.inventory().sessions[0].state, SessionState::LoggedIn);
}

#[tokio::test(start_paused = true)]
async fn a_lock_left_behind_fails_after_half_a_minute() {
    let rig = with_record(&[("node.session.scan", "manual")]).await;
    let lock = Path::new("/run/lock/iscsi/lock.write");
    rig.node.put_file(lock, b"");
    let began = Instant::now();
    assert_eq!(rig.iscsiadm(&[&AT[..], &["-l"]].concat()).await.code, Some(6));
    assert!(began.elapsed() > Duration::from_secs(29));
    assert!(rig.node.remove_file(lock));
    assert_eq!(rig.iscsiadm(&[&AT[..], &["-l"]].concat()).await.code, Some(0));
}

#[tokio::test(start_paused = true)]
async fn wrong_arguments_are_code_7() {
    let rig = with_record(&[("node.session.scan", "manual")]).await;
    for wrong in [&["--frobnicate"][..], &["-o", "update", "-n", "no.such.name", "-v", "1"], &["-o", "frob"]]
    {
        assert_eq!(rig.iscsiadm(&[&AT[..], wrong].concat()).await.code, Some(7), "{wrong:?}");
    }
    assert_eq!(rig.iscsiadm(&["-m", "discovery"]).await.code, Some(7));
    let version = rig.iscsiadm(&["--version"]).await;
    assert_eq!(version.stdout, b"iscsiadm version 2.1.11\n");
}

#[tokio::test(start_paused = true)]
async fn automatic_scan_brings_every_unit_and_manual_scan_none() {
    for (scan, legs) in [("auto", 2), ("manual", 0)] {
        let rig = with_record(&[("node.session.scan", scan)]).await;
        rig.shelf.map(1, 0x31, MIB);
        rig.shelf.map(2, 0x32, MIB);
        rig.iscsiadm(&[&AT[..], &["-l"]].concat()).await;
        rig.settle().await;
        assert_eq!(rig.node.inventory().legs.len(), legs, "{scan}");
        // A rescan by hand is never suppressed.
        rig.iscsiadm(&["-m", "session", "-R"]).await;
        rig.settle().await;
        assert_eq!(rig.node.inventory().legs.len(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_login_goes_on_when_its_iscsiadm_is_killed() {
    let rig = with_record(&[("node.session.scan", "manual")]).await;
    rig.node.set_timing(|it| it.login = Duration::from_secs(2));
    let arguments: Vec<String> = [&AT[..], &["-l"]].concat().iter().map(|it| (*it).to_owned()).collect();
    let killed = rig.node.run(Tool::Iscsiadm, &arguments, Deadline::after(Duration::from_secs(1))).await;
    assert_eq!(killed.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(rig.node.inventory().sessions.len(), 0);
    // Asked again meanwhile: somebody is at it.
    assert_eq!(rig.iscsiadm(&[&AT[..], &["-l"]].concat()).await.code, Some(15));
    rig.wait(2).await;
    assert_eq!(rig.node.inventory().sessions.len(), 1);
    assert_eq!(rig.node.counters().processes, 4);
}

#[tokio::test(start_paused = true)]
async fn a_silent_outage_is_noticed_by_pings_and_commands_fail_after_the_replacement_timeout() {
    let rig = with_record(&[
        ("node.session.scan", "manual"),
        ("node.session.timeo.replacement_timeout", "7"),
        ("node.conn[0].timeo.noop_out_interval", "5"),
        ("node.conn[0].timeo.noop_out_timeout", "5"),
    ])
    .await;
    rig.iscsiadm(&[&AT[..], &["-l"]].concat()).await;
    rig.shelf.map(1, 0x31, MIB);
    rig.write("/sys/class/scsi_host/host0/scan", "0 0 1\n").await.unwrap();
    rig.settle().await;
    let state = || async { rig.text("/sys/class/iscsi_session/session1/state").await.unwrap() };
    rig.node.partition(portals()[0]);
    assert_eq!(state().await, "LOGGED_IN");
    rig.wait(11).await;
    assert_eq!((state().await.as_str(), rig.state("0:0:0:1").await.as_deref()), ("FAILED", Some("blocked")));
    assert_eq!(rig.text("/sys/class/iscsi_connection/connection1:0/state").await.unwrap(), "failed");
    // While a session is down a scan finds nothing and says nothing.
    rig.shelf.map(2, 0x32, MIB);
    rig.write("/sys/class/scsi_host/host0/scan", "0 0 2\n").await.unwrap();
    rig.wait(7).await;
    let leg = rig.state("0:0:0:1").await;
    assert_eq!((state().await.as_str(), leg.as_deref()), ("FREE", Some("transport-offline")));
    rig.node.heal(portals()[0]);
    rig.wait(3).await;
    assert_eq!(
        (state().await.as_str(), rig.state("0:0:0:1").await.as_deref()),
        ("LOGGED_IN", Some("running"))
    );
    assert_eq!(rig.node.inventory().legs.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn multipathd_shortens_the_replacement_timeout() {
    let rig = Rig::connected().await;
    let timeout = || async { rig.text("/sys/class/iscsi_session/session1/recovery_tmo").await.unwrap() };
    assert_eq!(timeout().await, "120");
    rig.shelf.map(1, 0x31, MIB);
    rig.attach(1, 0x31).await;
    assert_eq!(timeout().await, "5");
    rig.write("/sys/class/iscsi_session/session1/recovery_tmo", "9\n").await.unwrap();
    assert_eq!(timeout().await, "9");
}

/// Finding 10: nobody asks whether the devices of a session are used.
#[tokio::test(start_paused = true)]
async fn a_logout_takes_devices_away_under_an_open_map() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.shelf.change(1, |it| it.vendor = "LIO-ORG".to_owned());
    rig.attach(1, 0x31).await;
    let path = format!("/dev/mapper/{}", crate::host_rig::wwid(0x31));
    let _open = rig.node.open(Path::new(&path)).unwrap();
    assert_eq!(rig.iscsiadm(&["-m", "node", "-T", TARGET, "-u"]).await.code, Some(0));
    rig.settle().await;
    let now = rig.node.inventory();
    assert_eq!((now.sessions.len(), now.legs.len(), now.maps.len()), (0, 0, 1));
    assert!(now.maps[0].paths.is_empty() && now.maps[0].queues);
    let read = rig.node.read_at(Path::new(&path), 0, 512);
    assert!(tokio::time::timeout(Duration::from_secs(600), read).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn sessions_of_others_are_there_with_all_their_devices() {
    let rig = Rig::new();
    rig.shelf.map(9, 0x39, MIB);
    assert!(rig.node.foreign_session(TARGET, portals()[1]));
    assert!(!rig.node.foreign_session("iqn.2010-10.org.other:x", portals()[0]));
    rig.settle().await;
    let now = rig.node.inventory();
    assert_eq!((now.sessions.len(), now.legs.len()), (1, 1));
    assert_eq!((now.records.len(), now.records[1].startup.as_str()), (2, "automatic"));
}

#[tokio::test(start_paused = true)]
async fn ports_answer_probes_as_they_are() {
    let rig = Rig::new();
    let [one, other] = portals();
    rig.shelf.set(other, Reachability::Refusing);
    assert_eq!(rig.node.probe(one, soon()).await.unwrap(), Probe::Open);
    assert_eq!(rig.node.probe(other, soon()).await.unwrap(), Probe::Refused);
    rig.node.partition(one);
    let began = Instant::now();
    let second = Deadline::after(Duration::from_secs(1));
    assert_eq!(rig.node.probe(one, second).await.unwrap(), Probe::Silent);
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    assert_eq!(rig.node.logged(LogKind::Probe).len(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_missing_tool_is_named_with_its_package() {
    let rig = Rig::new();
    rig.node.uninstall(Tool::Iscsiadm);
    let error = rig.node.run(Tool::Iscsiadm, &[], soon()).await.unwrap_err();
    assert_eq!((error.kind(), error.remedy()), (ErrorKind::Unavailable, Some("apt install open-iscsi")));
    assert_eq!(rig.node.counters().processes, 0);
}

#[tokio::test(start_paused = true)]
async fn the_initiator_name_is_in_its_file() {
    let rig = Rig::new();
    let file =
        rig.node.read(Path::new("/etc/iscsi/initiatorname.iscsi"), 4096, soon()).await.unwrap().unwrap();
    assert_eq!(String::from_utf8(file).unwrap(), "InitiatorName=iqn.1993-08.org.debian:01:pve-lab\n");
    let missing = rig.node.read(Path::new("/etc/iscsi/nothing"), 4096, soon()).await.unwrap();
    assert_eq!(missing, None);
}

#[tokio::test(start_paused = true)]
async fn after_an_outage_iscsid_looks_at_the_devices_of_sessions_that_scan_by_themselves() {
    for (scan, sectors) in [("auto", "4096"), ("manual", "2048")] {
        let rig = with_record(&[("node.session.scan", scan)]).await;
        rig.shelf.map(1, 0x31, MIB);
        rig.iscsiadm(&[&AT[..], &["-l"]].concat()).await;
        rig.write("/sys/class/scsi_host/host0/scan", "0 0 1\n").await.unwrap();
        rig.settle().await;
        rig.shelf.change(1, |it| it.size = 2 * MIB);
        rig.node.bounce(portals()[0]);
        rig.wait(5).await;
        assert_eq!(rig.text("/sys/block/sda/size").await.unwrap(), sectors, "{scan}");
    }
}
