//! Hanging devices and the helpers lost on them, stopped daemons, crashes, and the data path in between.

use std::fs;
use std::path::Path;
use std::time::Duration;

use san_core::{Deadline, DeviceNumber, ErrorKind};
use san_host::Host;
use san_sim::host::{Address, Bystander, LogKind, NodeSpec, SessionState, Suspension};
use san_sim::target::Reachability;
use tokio::time::Instant;

use crate::host_rig::{MIB, Rig, TARGET, portals, soon, wwid};

const LEG: Address = Address { host: 0, channel: 0, target: 0, lun: 1 };

async fn attached() -> Rig {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.attach(1, 0x31).await;
    rig
}

fn map_path() -> String {
    format!("/dev/mapper/{}", wwid(0x31))
}

fn in_two() -> Deadline {
    Deadline::after(Duration::from_secs(2))
}

#[tokio::test(start_paused = true)]
async fn a_helper_on_a_hanging_leg_is_abandoned_and_its_path_refused_until_the_kernel_lets_go() {
    let rig = attached().await;
    let sg = Path::new("/dev/sg0");
    rig.node.hang(LEG);
    let began = Instant::now();
    let late = rig.node.inquiry(sg, Some(0x83), in_two()).await.unwrap_err();
    assert_eq!((late.kind(), began.elapsed()), (ErrorKind::Timeout, Duration::from_secs(2)));
    assert_eq!(rig.node.counters().abandoned, 1);
    let began = Instant::now();
    let refused = rig.node.inquiry(sg, Some(0x83), in_two()).await.unwrap_err();
    assert_eq!((refused.kind(), began.elapsed()), (ErrorKind::Busy, Duration::ZERO));
    // Others are not concerned, and putting the leg offline is the cure.
    rig.node.inquiry(Path::new("/dev/sg1"), Some(0x83), in_two()).await.unwrap();
    let late =
        rig.write_for(Duration::from_secs(1), "/sys/class/scsi_device/0:0:0:1/device/rescan", "1\n").await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(rig.node.inventory().abandoned.len(), 2);
    rig.set_state("0:0:0:1", "offline").await.unwrap();
    assert_eq!(rig.node.counters().abandoned, 0);
    rig.write("/sys/class/scsi_device/0:0:0:1/device/delete", "1\n").await.unwrap();
    assert_eq!(rig.state("0:0:0:1").await, None);
}

/// As on the kernel: one scan of a host at a time, and a unit may take as long as it likes to say who it is.
#[tokio::test(start_paused = true)]
async fn a_unit_that_answers_nothing_keeps_the_scans_of_its_host() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.shelf.map(2, 0x32, MIB);
    rig.node.hang(LEG);
    let second = Duration::from_secs(1);
    let scan = "/sys/class/scsi_host/host0/scan";
    assert_eq!(rig.write_for(second, scan, "0 0 1\n").await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(rig.write_for(second, scan, "0 0 2\n").await.unwrap_err().kind(), ErrorKind::Busy);
    rig.write_for(second, "/sys/class/scsi_host/host1/scan", "0 0 1\n").await.unwrap();
    rig.settle().await;
    assert_eq!(rig.list("/sys/class/scsi_device").await, ["1:0:0:1"]);
    rig.node.unhang();
    rig.write_for(second, scan, "0 0 2\n").await.unwrap();
    rig.settle().await;
    assert_eq!(rig.list("/sys/class/scsi_device").await, ["0:0:0:2", "1:0:0:1"]);
}

#[tokio::test(start_paused = true)]
async fn udev_waits_for_a_leg_that_answers_nothing() {
    let rig = attached().await;
    assert_eq!(rig.list("/run/udev").await, ["data"]);
    rig.node.hang(LEG);
    rig.write("/sys/block/sda/uevent", "change\n").await.unwrap();
    rig.wait(60).await;
    assert_eq!(rig.list("/run/udev").await, ["data", "queue"]);
    rig.node.unhang();
    rig.settle().await;
    assert_eq!(rig.list("/run/udev").await, ["data"]);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_stops_waiting_loses_its_helper_too() {
    let rig = attached().await;
    rig.node.hang(LEG);
    let flush = rig.node.flush(Path::new("/dev/sda"), soon());
    assert!(tokio::time::timeout(Duration::from_secs(1), flush).await.is_err());
    assert_eq!(rig.node.counters().abandoned, 1);
    rig.node.unhang();
    assert_eq!(rig.node.counters().abandoned, 0);
    rig.node.flush(Path::new("/dev/sda"), soon()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_queueing_map_without_paths_keeps_its_caller_and_counts_as_open() {
    let rig = attached().await;
    rig.shelf.set_all(Reachability::Refusing);
    rig.wait(30).await;
    let path = map_path();
    let path = Path::new(&path);
    assert_eq!(rig.node.flush(path, in_two()).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(rig.node.flush(path, in_two()).await.unwrap_err().kind(), ErrorKind::Busy);
    let dm = DeviceNumber { major: 253, minor: 0 };
    assert_eq!(rig.node.open_count(dm, soon()).await.unwrap(), Some(1));
    rig.shelf.set_all(Reachability::Up);
    rig.wait(20).await;
    assert_eq!(rig.node.open_count(dm, soon()).await.unwrap(), Some(0));
    assert_eq!(rig.node.read_block(path, 0, 4096, in_two()).await.unwrap(), vec![0; 4096]);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_or_suspended_map_hangs() {
    let rig = attached().await;
    let path = map_path();
    let path = Path::new(&path);
    rig.node.hang_device(path).unwrap();
    assert_eq!(rig.node.read_block(path, 0, 512, in_two()).await.unwrap_err().kind(), ErrorKind::Timeout);
    rig.node.unhang();
    assert!(rig.node.suspend(&wwid(0x31), Suspension::Suspended));
    assert_eq!(rig.text("/sys/block/dm-0/dm/suspended").await.unwrap(), "1");
    assert_eq!(rig.node.read_block(path, 0, 512, in_two()).await.unwrap_err().kind(), ErrorKind::Timeout);
    assert!(rig.node.suspend(&wwid(0x31), Suspension::Active));
    rig.node.read_block(path, 0, 512, in_two()).await.unwrap();
    assert_eq!(rig.node.hang_device(Path::new("/dev/nothing")).unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test(start_paused = true)]
async fn udev_works_off_what_waited_while_it_was_stopped() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.node.stop_udev();
    rig.scan(1).await;
    rig.wait(10).await;
    assert_eq!(rig.list("/run/udev/data").await, [""; 0]);
    assert_eq!(rig.multipathd(&format!("add map {}", wwid(0x31))).await, "fail\n");
    rig.node.start_udev();
    rig.settle().await;
    assert_eq!(rig.multipathd(&format!("add map {}", wwid(0x31))).await, "ok\n");
    // Stopped again before the map's event: the map is there, its name is not.
    rig.node.stop_udev();
    rig.wait(10).await;
    assert_eq!(rig.list("/dev/mapper").await, [""; 0]);
    assert!(rig.list("/dev").await.contains(&"dm-0".to_owned()));
    rig.node.start_udev();
    rig.settle().await;
    assert_eq!(rig.list("/dev/mapper").await, [wwid(0x31)]);
}

#[tokio::test(start_paused = true)]
async fn a_crash_keeps_files_and_nothing_else() {
    let rig = attached().await;
    rig.node.make_link(Path::new("/dev/sanbridge/s/v"), Path::new(&map_path()), soon()).await.unwrap();
    rig.node.put_file(Path::new("/var/lib/x/record"), b"kept");
    let handle = rig.node.open(Path::new(&map_path())).unwrap();
    rig.node.crash();
    let down = rig.node.list(Path::new("/sys/block"), soon()).await.unwrap_err();
    assert_eq!(down.kind(), ErrorKind::Unavailable);
    rig.node.boot();
    drop(handle);
    let now = rig.node.inventory();
    assert_eq!((now.sessions.len(), now.legs.len(), now.maps.len(), now.links.len()), (0, 0, 0, 0));
    assert_eq!((now.records.len(), now.users.len()), (2, 0));
    let kept = rig.node.read(Path::new("/var/lib/x/record"), 99, soon()).await.unwrap();
    assert_eq!(kept.as_deref(), Some(&b"kept"[..]));
    // A second start changes nothing.
    rig.node.boot();
    assert_eq!(rig.list("/sys/class/scsi_device").await, [""; 0]);
    rig.iscsiadm(&["-m", "node", "-T", TARGET, "-l"]).await;
    rig.attach(1, 0x31).await;
    rig.first_bytes(&map_path(), 1).await;
}

#[tokio::test(start_paused = true)]
async fn automatic_sessions_come_back_after_a_crash() {
    let rig = Rig::new();
    rig.shelf.map(1, 0x31, MIB);
    assert!(rig.node.foreign_session(TARGET, portals()[0]));
    rig.node.crash();
    rig.node.boot();
    rig.settle().await;
    let now = rig.node.inventory();
    assert_eq!((now.sessions.len(), now.legs.len()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn dirty_pages_reach_the_array_only_by_a_flush() {
    let rig = attached().await;
    let path = map_path();
    let path = Path::new(&path);
    rig.node.write_cached(path, 4000, &[7; 200]).await.unwrap();
    assert_eq!(rig.node.inventory().unwritten, 8192);
    assert_eq!(fs::read(rig.shelf.file(0x31)).unwrap()[4000..4200], [0; 200]);
    assert_eq!(rig.node.read_cached(path, 3999, 3).await.unwrap(), [0, 7, 7]);
    rig.shelf.set_all(Reachability::Refusing);
    rig.wait(30).await;
    assert_eq!(rig.node.flush(path, in_two()).await.unwrap_err().kind(), ErrorKind::Timeout);
    rig.shelf.set_all(Reachability::Up);
    rig.wait(20).await;
    rig.node.flush(path, soon()).await.unwrap();
    assert_eq!(rig.node.inventory().unwritten, 0);
    assert_eq!(fs::read(rig.shelf.file(0x31)).unwrap()[4000..4200], [7; 200]);
}

#[tokio::test(start_paused = true)]
async fn after_a_rollback_the_cache_is_stale_until_it_is_dropped() {
    let rig = attached().await;
    let path = map_path();
    let path = Path::new(&path);
    rig.node.write_at(path, 0, b"new").await.unwrap();
    assert_eq!(rig.node.read_cached(path, 0, 3).await.unwrap(), b"new");
    // The array puts the old bytes back, in place.
    fs::write(rig.shelf.file(0x31), b"old").unwrap();
    assert_eq!(rig.node.read_cached(path, 0, 3).await.unwrap(), b"new");
    assert_eq!(rig.node.read_at(path, 0, 3).await.unwrap(), b"old");
    rig.node.flush(path, soon()).await.unwrap();
    assert_eq!(rig.node.read_cached(path, 0, 3).await.unwrap(), b"old");
    let beyond = rig.node.read_at(path, MIB - 1, 2).await.unwrap_err();
    assert_eq!(beyond.kind(), ErrorKind::InvalidInput);
}

#[tokio::test(start_paused = true)]
async fn a_bystander_notices_an_outage_only_as_a_pause() {
    let rig = Rig::connected().await;
    rig.shelf.map(9, 0x39, MIB);
    rig.attach(9, 0x39).await;
    let path = format!("/dev/disk/by-id/dm-uuid-mpath-{}", wwid(0x39));
    let bystander = Bystander::start(&rig.node, Path::new(&path), Duration::from_millis(100));
    rig.wait(5).await;
    rig.shelf.set(portals()[0], Reachability::BlackHole);
    rig.wait(60).await;
    rig.shelf.set(portals()[0], Reachability::Up);
    rig.wait(20).await;
    let report = bystander.report();
    assert_eq!(report.errors, [""; 0]);
    assert!(report.rounds > 500, "{report:?}");
    let longest = report.longest.as_secs();
    assert!((5..=16).contains(&longest), "{report:?}");
    // It does notice what is wrong.
    rig.shelf.map(9, 0x40, MIB);
    rig.shelf.map(8, 0x39, MIB);
    rig.shelf.change(9, |it| it.file = "/nowhere".into());
    rig.multipathd(&format!("disablequeueing map {}", wwid(0x39))).await;
    rig.wait(5).await;
    assert!(!bystander.report().errors.is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_node_cut_off_does_not_concern_another() {
    let rig = attached().await;
    let mut spec = NodeSpec::new("pve2", "iqn.1993-08.org.debian:01:other");
    spec.station = Some(2);
    let other = rig.world.add_node(spec);
    assert!(other.foreign_session(TARGET, portals()[0]));
    rig.node.partition(portals()[0]);
    rig.wait(60).await;
    assert_eq!(rig.node.inventory().sessions[0].state, SessionState::Free);
    assert_eq!(other.inventory().sessions[0].state, SessionState::LoggedIn);
    assert_eq!(rig.world.nodes().len(), 2);
    assert_eq!(rig.world.node("pve2").unwrap().initiator(), "iqn.1993-08.org.debian:01:other");
    // The map goes on over the other portal.
    rig.first_bytes(&map_path(), 512).await;
}

#[tokio::test(start_paused = true)]
async fn snapshots_show_every_difference() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    let before = rig.world.snapshot();
    rig.attach(1, 0x31).await;
    let link = Path::new("/dev/sanbridge/store/disk");
    rig.node.make_link(link, Path::new(&map_path()), soon()).await.unwrap();
    rig.node.make_link(link, Path::new(&map_path()), soon()).await.unwrap();
    let handle = rig.node.open(link).unwrap();
    let diff = before.diff(&rig.world.snapshot());
    assert_eq!(diff.iter().filter(|it| it.starts_with("pve1: + ")).count(), 5, "{diff:#?}");
    drop(handle);
    assert!(rig.node.remove_link(link, soon()).await.unwrap());
    assert!(!rig.node.remove_link(link, soon()).await.unwrap());
    assert_eq!(rig.node.logged(LogKind::Link).len(), 2);
    rig.multipathd(&format!("del map {}", wwid(0x31))).await;
    for leg in ["0:0:0:1", "1:0:0:1"] {
        rig.write(&format!("/sys/class/scsi_device/{leg}/device/delete"), "1\n").await.unwrap();
    }
    rig.settle().await;
    assert_eq!(before.diff(&rig.world.snapshot()), [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn only_links_are_replaced_and_removed() {
    let rig = attached().await;
    let target = Path::new("/dev/dm-0");
    for taken in ["/dev/dm-0", "/etc/iscsi/initiatorname.iscsi", "/dev/disk"] {
        let error = rig.node.make_link(Path::new(taken), target, soon()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{taken}");
        assert_eq!(
            rig.node.remove_link(Path::new(taken), soon()).await.unwrap_err().kind(),
            ErrorKind::Conflict
        );
        assert_eq!(
            rig.node.read_link(Path::new(taken), soon()).await.unwrap_err().kind(),
            ErrorKind::Conflict
        );
    }
    assert_eq!(rig.node.read_link(Path::new("/dev/nothing"), soon()).await.unwrap(), None);
    let error = rig.write("/sys/block/sda/size", "1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    let error = rig.write("/sys/block/sdz/size", "1").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = rig.node.attr(Path::new("/sys/class/scsi_host/host0"), "scan", soon()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}

/// A busy minute with an outage in it; what happened, by time.
async fn history() -> Vec<String> {
    let rig = attached().await;
    let path = map_path();
    let bystander = Bystander::start(&rig.node, Path::new(&path), Duration::from_millis(70));
    rig.shelf.map(2, 0x32, MIB);
    rig.shelf.set(portals()[1], Reachability::Refusing);
    rig.attach(2, 0x32).await;
    rig.wait(20).await;
    rig.shelf.set(portals()[1], Reachability::Up);
    rig.node.hang(LEG);
    rig.wait(40).await;
    let rounds = bystander.report().rounds;
    rig.node.log().iter().map(ToString::to_string).chain([rounds.to_string()]).collect()
}

#[tokio::test(start_paused = true)]
async fn the_same_happens_again_at_the_same_time() {
    let first = history().await;
    assert!(first.len() > 30);
    // Times count from the beginning of each world.
    assert_eq!(first, history().await);
}
