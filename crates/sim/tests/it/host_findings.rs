//! What was found on real kernels about re-used LUN numbers, colliding identities and the order of detaching.

use std::fs;
use std::path::Path;
use std::time::Duration;

use san_core::ErrorKind;
use san_host::{Attr, Host};
use san_sim::host::{FindMultipaths, LegState, RecheckWwid};
use san_sim::target::Reachability;

use crate::host_rig::{MIB, Rig, portals, soon, wwid};

async fn with_a_on_lun_5(recheck: RecheckWwid) -> Rig {
    let rig = Rig::with(|it| {
        it.multipath.recheck_wwid = recheck;
        it.multipath.find_multipaths = FindMultipaths::Off;
    });
    rig.connect().await;
    rig.shelf.map(5, 0x41, MIB);
    rig.scan(5).await;
    rig.settle().await;
    rig
}

fn map_path(id: u8) -> String {
    format!("/dev/mapper/{}", wwid(id))
}

/// The identity a leg reports right now, from page 0x83.
async fn fresh(rig: &Rig, generic: &str) -> Vec<u8> {
    rig.node.inquiry(Path::new(generic), Some(0x83), soon()).await.unwrap()[8..24].to_vec()
}

/// Finding 1: the queued write for A is delivered into B.
#[tokio::test(start_paused = true)]
async fn a_lun_number_used_again_sends_queued_writes_to_another_volume() {
    let rig = with_a_on_lun_5(RecheckWwid::No).await;
    rig.shelf.unmap(5);
    let path = map_path(0x41);
    let node = rig.node.clone();
    let write = tokio::spawn(async move { node.write_at(Path::new(&path), 0, b"for A").await });
    rig.wait(12).await;
    assert!(!write.is_finished());
    rig.shelf.map(5, 0x42, MIB);
    // The checker sees a path that answers.
    rig.wait(6).await;
    write.await.unwrap().unwrap();
    assert_eq!(&fs::read(rig.shelf.file(0x42)).unwrap()[..5], b"for A");
    assert_eq!(&fs::read(rig.shelf.file(0x41)).unwrap()[..5], [0; 5]);
    // The kernel, a targeted scan and multipathd all still say A; only the unit itself says B.
    rig.scan(5).await;
    let device = "/sys/class/scsi_device/0:0:0:5/device";
    assert_eq!(rig.text(&format!("{device}/wwid")).await.unwrap(), format!("naa.{}", &wwid(0x41)[1..]));
    assert!(rig.multipathd("show paths raw format %w").await.contains(&wwid(0x41)));
    assert_eq!(fresh(&rig, "/dev/sg0").await.last(), Some(&0x42));
    let leg = &rig.node.inventory().legs[0];
    assert_eq!((&leg.cached_wwid, leg.real_wwid.as_ref()), (&wwid(0x41), Some(&wwid(0x42))));
    // A rescan of the device corrects sysfs, and multipathd keeps the map.
    rig.write(&format!("{device}/rescan"), "1\n").await.unwrap();
    rig.settle().await;
    assert_eq!(rig.text(&format!("{device}/wwid")).await.unwrap(), format!("naa.{}", &wwid(0x42)[1..]));
    let Attr::Value(page) = rig.node.attr(Path::new(device), "vpd_pg83", soon()).await.unwrap() else {
        panic!("no page 0x83");
    };
    assert_eq!(page[23], 0x42);
    assert_eq!(rig.node.inventory().maps[0].paths.len(), 2);
}

/// Finding 1, the other half: with `recheck_wwid` the paths move to a new map and the write is never delivered.
#[tokio::test(start_paused = true)]
async fn with_recheck_wwid_a_path_that_comes_back_as_another_volume_leaves_the_map() {
    let rig = with_a_on_lun_5(RecheckWwid::Yes).await;
    // Somebody has the map open, else it would go with its last path.
    let handle = rig.node.open(Path::new(&map_path(0x41))).unwrap();
    rig.shelf.unmap(5);
    let path = map_path(0x41);
    let node = rig.node.clone();
    let write = tokio::spawn(async move { node.write_at(Path::new(&path), 0, b"for A").await });
    rig.wait(12).await;
    rig.shelf.map(5, 0x42, MIB);
    rig.wait(12).await;
    // A map of this vendor fails what waits when its last path goes.
    assert_eq!(write.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    let maps = rig.node.inventory().maps;
    assert_eq!(
        maps.iter().map(|it| (it.name.clone(), it.paths.len())).collect::<Vec<_>>(),
        [(wwid(0x41), 0), (wwid(0x42), 2)]
    );
    assert_eq!(&fs::read(rig.shelf.file(0x42)).unwrap()[..5], [0; 5]);
    drop(handle);
}

/// Finding 2: a swap between two checks is noticed by nobody.
#[tokio::test(start_paused = true)]
async fn an_atomic_swap_is_never_noticed_even_with_recheck_wwid() {
    let rig = with_a_on_lun_5(RecheckWwid::Yes).await;
    rig.shelf.map(6, 0x42, MIB);
    fs::write(rig.shelf.file(0x42), b"I am B").unwrap();
    rig.shelf.unmap(5);
    rig.shelf.map(5, 0x42, MIB);
    rig.wait(60).await;
    let maps = rig.node.inventory().maps;
    assert_eq!(maps.len(), 1);
    assert!(maps[0].name == wwid(0x41) && maps[0].paths.iter().all(|it| !it.has_failed));
    assert_eq!(rig.first_bytes(&map_path(0x41), 6).await, b"I am B");
    assert_eq!(fresh(&rig, "/dev/sg1").await.last(), Some(&0x42));
}

/// Recorded: only a `change` event of the device, after sysfs is right again, moves a path to another map.
#[tokio::test(start_paused = true)]
async fn a_change_event_after_a_rescan_moves_the_path() {
    let rig = with_a_on_lun_5(RecheckWwid::No).await;
    rig.shelf.map(5, 0x42, MIB);
    rig.write("/sys/block/sda/uevent", "change\n").await.unwrap();
    rig.settle().await;
    assert_eq!(rig.node.inventory().maps.len(), 1);
    rig.write("/sys/class/scsi_device/0:0:0:5/device/rescan", "1\n").await.unwrap();
    rig.write("/sys/block/sda/uevent", "change\n").await.unwrap();
    rig.settle().await;
    let maps = rig.node.inventory().maps;
    let paths = |at: usize| maps[at].paths.iter().map(|it| it.disk.as_str()).collect::<Vec<_>>();
    assert_eq!((maps[0].name.as_str(), paths(0)), (wwid(0x41).as_str(), vec!["sdb"]));
    assert_eq!((maps[1].name.as_str(), paths(1)), (wwid(0x42).as_str(), vec!["sda"]));
}

/// Finding 3: volumes with one identity become one map.
#[tokio::test(start_paused = true)]
async fn volumes_with_equal_identities_merge_into_one_map() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.shelf.map(2, 0x32, MIB);
    let naa = *b"\x60\x0a\x09\x80\x38\x30\x2d\x42\x6b\x3f\x54\x78\x79\x5a\x31\x31";
    rig.shelf.change(2, |it| it.naa = naa);
    rig.scan(1).await;
    rig.scan(2).await;
    assert_eq!(rig.multipathd(&format!("add map {}", wwid(0x31))).await, "ok\n");
    let maps = rig.node.inventory().maps;
    assert_eq!((maps.len(), maps[0].paths.len()), (1, 4));
    // Only page 0x80 tells them apart.
    let serial = |generic| rig.node.inquiry(Path::new(generic), Some(0x80), soon());
    assert_ne!(serial("/dev/sg0").await.unwrap(), serial("/dev/sg2").await.unwrap());
}

/// Finding 4, race a: unmapped first, a udev worker hangs on the queueing map and keeps it in use.
#[tokio::test(start_paused = true)]
async fn unmapping_first_leaves_a_worker_stuck_on_the_map() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.attach(1, 0x31).await;
    rig.shelf.unmap(1);
    rig.write("/sys/block/dm-0/uevent", "change\n").await.unwrap();
    rig.wait(6).await;
    assert_eq!(rig.node.inventory().stuck_workers, [0]);
    let del = format!("del map {}", wwid(0x31));
    assert_eq!(rig.multipathd(&del).await, "fail\nmap or partition in use\n");
    assert_eq!(rig.multipathd(&format!("disablequeueing map {}", wwid(0x31))).await, "ok\n");
    rig.settle().await;
    assert_eq!(rig.multipathd(&del).await, "ok\n");
}

/// Finding 4, race b: deleted first, any full rescan brings legs and map back while the array still shows the volume.
#[tokio::test(start_paused = true)]
async fn deleting_first_lets_a_full_rescan_bring_everything_back() {
    let rig = with_a_on_lun_5(RecheckWwid::No).await;
    assert_eq!(rig.multipathd(&format!("del map {}", wwid(0x41))).await, "ok\n");
    for leg in ["0:0:0:5", "1:0:0:5"] {
        rig.write(&format!("/sys/class/scsi_device/{leg}/device/delete"), "1\n").await.unwrap();
    }
    rig.settle().await;
    rig.iscsiadm(&["-m", "session", "--rescan"]).await;
    rig.settle().await;
    let now = rig.node.inventory();
    assert_eq!((now.legs.len(), now.maps.len()), (2, 1));
}

/// Finding 4, the cure: map away, legs offline, unmap, delete. Nothing comes back, whatever others do in between.
#[tokio::test(start_paused = true)]
async fn tombstones_close_both_races() {
    let rig = with_a_on_lun_5(RecheckWwid::No).await;
    assert_eq!(rig.multipathd(&format!("del map {}", wwid(0x41))).await, "ok\n");
    for leg in ["0:0:0:5", "1:0:0:5"] {
        rig.set_state(leg, "offline").await.unwrap();
    }
    rig.iscsiadm(&["-m", "session", "--rescan"]).await;
    rig.write("/sys/block/sda/uevent", "add\n").await.unwrap();
    rig.write("/sys/block/sdb/uevent", "change\n").await.unwrap();
    rig.settle().await;
    assert!(rig.node.inventory().maps.is_empty());
    let error = rig.node.read_at(Path::new("/dev/sda"), 0, 512).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    // With every leg offline a map cannot even be asked for.
    assert_eq!(rig.multipathd(&format!("add map {}", wwid(0x41))).await, "fail\n");
    rig.shelf.unmap(5);
    for leg in ["0:0:0:5", "1:0:0:5"] {
        rig.write(&format!("/sys/class/scsi_device/{leg}/device/delete"), "1\n").await.unwrap();
    }
    rig.iscsiadm(&["-m", "session", "--rescan"]).await;
    rig.wait(10).await;
    let now = rig.node.inventory();
    assert_eq!((now.legs.len(), now.maps.len(), now.stuck_workers.len()), (0, 0, 0));
}

/// Finding 4, the limit found: a session that bounces brings offline legs back to running, and no map.
#[tokio::test(start_paused = true)]
async fn a_session_bounce_forgets_tombstones() {
    let rig = with_a_on_lun_5(RecheckWwid::No).await;
    assert_eq!(rig.multipathd(&format!("del map {}", wwid(0x41))).await, "ok\n");
    rig.set_state("0:0:0:5", "offline").await.unwrap();
    rig.shelf.set(portals()[0], Reachability::Refusing);
    rig.wait(6).await;
    assert_eq!(rig.state("0:0:0:5").await.as_deref(), Some("blocked"));
    rig.wait(10).await;
    assert_eq!(rig.state("0:0:0:5").await.as_deref(), Some("transport-offline"));
    rig.shelf.set(portals()[0], Reachability::Up);
    rig.wait(5).await;
    assert_eq!(rig.node.inventory().legs[0].state, LegState::Running);
    rig.write("/sys/block/sda/uevent", "add\n").await.unwrap();
    rig.wait(10).await;
    assert!(rig.node.inventory().maps.is_empty());
    rig.write("/sys/class/scsi_device/0:0:0:5/device/delete", "1\n").await.unwrap();
    assert_eq!(rig.state("0:0:0:5").await, None);
}

#[tokio::test(start_paused = true)]
async fn an_unmapped_unit_answers_inquiry_with_another_qualifier_and_keeps_its_leg() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.scan(1).await;
    let inquiry = |page| rig.node.inquiry(Path::new("/dev/sg0"), page, soon());
    assert_eq!(inquiry(None).await.unwrap()[0], 0x00);
    assert_eq!(inquiry(Some(0xc0)).await.unwrap_err().kind(), ErrorKind::Unsupported);
    rig.shelf.unmap(1);
    rig.wait(10).await;
    assert_eq!(inquiry(None).await.unwrap()[0], 0x20);
    assert_eq!(inquiry(Some(0x83)).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(rig.state("0:0:0:1").await.as_deref(), Some("running"));
    assert_eq!(rig.text("/sys/block/sda/size").await.unwrap(), "2048");
    rig.write("/sys/class/scsi_device/0:0:0:1/device/rescan", "1\n").await.unwrap();
    assert_eq!(rig.text("/sys/block/sda/size").await.unwrap(), "0");
    rig.set_state("0:0:0:1", "offline").await.unwrap();
    assert_eq!(inquiry(None).await.unwrap_err().kind(), ErrorKind::Unavailable);
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn an_idle_map_without_paths_is_removed_at_once() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.attach(1, 0x31).await;
    rig.shelf.set_all(Reachability::BlackHole);
    rig.wait(40).await;
    let began = tokio::time::Instant::now();
    assert_eq!(rig.multipathd(&format!("del map {}", wwid(0x31))).await, "ok\n");
    assert!(began.elapsed() < Duration::from_secs(1));
}
