//! multipathd and device-mapper: commands, users of maps, and what each refuses.

use std::path::Path;
use std::time::Duration;

use san_core::ErrorKind;
use san_host::{Host, SocketAddress};
use san_sim::host::{FindMultipaths, NoPathRetry, Sockets};
use san_sim::target::Reachability;

use crate::host_rig::{MIB, Rig, SOCKET, hear, portals, say, soon, wwid};

async fn attached() -> Rig {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.attach(1, 0x31).await;
    rig
}

fn map_path() -> String {
    format!("/dev/mapper/{}", wwid(0x31))
}

/// Finding 6: `add path` right after the scan fails, `add map` works as soon as udev has its record.
#[tokio::test(start_paused = true)]
async fn commands_about_a_leg_need_udevs_record() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    for host in 0..2 {
        rig.write(&format!("/sys/class/scsi_host/host{host}/scan"), "0 0 1\n").await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert!(rig.list("/dev").await.contains(&"sdb".to_owned()));
    assert_eq!(rig.list("/run/udev/data").await, [""; 0]);
    assert!(rig.list("/run/udev").await.contains(&"queue".to_owned()));
    assert_eq!(rig.multipathd("add path sda").await, "fail\n");
    assert_eq!(rig.multipathd(&format!("add map {}", wwid(0x31))).await, "fail\n");
    rig.settle().await;
    assert_eq!(rig.list("/run/udev/data").await, ["b8:0", "b8:16"]);
    let record = rig.node.read(Path::new("/run/udev/data/b8:16"), 9999, soon()).await.unwrap().unwrap();
    assert!(String::from_utf8(record).unwrap().contains(&format!("E:ID_SERIAL={}\n", wwid(0x31))));
    // Strict: nothing made a map by itself.
    assert_eq!(rig.node.inventory().maps.len(), 0);
    assert_eq!(rig.multipathd(&format!("add map {}", wwid(0x31))).await, "ok\n");
    let maps = rig.node.inventory().maps;
    assert_eq!((maps.len(), maps[0].paths.len()), (1, 2));
    assert_eq!(rig.list("/sys/block/dm-0/slaves").await, ["sda", "sdb"]);
    assert_eq!(rig.multipathd(&format!("add map {}", wwid(0x31))).await, "ok\n");
    rig.settle().await;
    assert_eq!(rig.list("/run/udev").await, ["data"]);
}

#[tokio::test(start_paused = true)]
async fn one_connection_carries_many_commands_and_frames_may_come_in_pieces() {
    use tokio::io::AsyncWriteExt as _;
    let rig = attached().await;
    let mut stream = rig.dial().await.unwrap();
    say(&mut stream, "show daemon").await;
    say(&mut stream, "show status").await;
    assert_eq!(hear(&mut stream).await.unwrap(), "pid 210 idle\n");
    assert!(hear(&mut stream).await.unwrap().contains("paths: 2"));
    let frame = [&13_u64.to_ne_bytes()[..], b"show daemons\0"].concat();
    for byte in frame {
        stream.write_all(&[byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(hear(&mut stream).await.unwrap().starts_with("fail\nshow daemons: not found\n"));
    // A command that is too long ends the conversation.
    stream.write_all(&600_u64.to_ne_bytes()).await.unwrap();
    assert_eq!(hear(&mut stream).await, None);
    assert_eq!(rig.node.counters().connections, 2);
}

#[tokio::test(start_paused = true)]
async fn both_sockets_can_be_served() {
    let file = SocketAddress::Path("/run/multipathd.socket".into());
    let name = SocketAddress::Abstract(SOCKET.to_owned());
    for (sockets, by_file, by_name) in
        [(Sockets::Abstract, false, true), (Sockets::File, true, false), (Sockets::Both, true, true)]
    {
        let rig = Rig::with(|it| it.multipath.sockets = sockets);
        assert_eq!(rig.node.connect(&file, soon()).await.is_ok(), by_file);
        assert_eq!(rig.node.connect(&name, soon()).await.is_ok(), by_name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_map_in_use_is_not_removed_whoever_uses_it() {
    let rig = attached().await;
    let path = map_path();
    let path = Path::new(&path);
    let del = format!("del map {}", wwid(0x31));
    let busy = "fail\nmap or partition in use\n";
    let number = rig.node.inventory().maps[0].minor;
    let number = san_core::DeviceNumber { major: 253, minor: number };
    assert_eq!(rig.node.open_count(number, soon()).await.unwrap(), Some(0));

    let handle = rig.node.open(path).unwrap();
    assert_eq!(rig.node.open_count(number, soon()).await.unwrap(), Some(1));
    assert_eq!(rig.multipathd(&del).await, busy);
    drop(handle);

    rig.node.mount(path, Path::new("/mnt/a b")).unwrap();
    assert_eq!(rig.multipathd(&del).await, busy);
    let mounts = rig.node.read(Path::new("/proc/self/mountinfo"), 9999, soon()).await.unwrap().unwrap();
    assert!(String::from_utf8(mounts).unwrap().contains(" 253:0 / /mnt/a\\040b "));
    assert!(rig.node.unmount(Path::new("/mnt/a b")));

    rig.node.swap_on(path).unwrap();
    assert_eq!(rig.multipathd(&del).await, busy);
    let swaps = rig.node.read(Path::new("/proc/swaps"), 9999, soon()).await.unwrap().unwrap();
    assert!(String::from_utf8(swaps).unwrap().contains("\n/dev/dm-0 "));
    rig.node.swap_off();

    rig.node.stack_device(&wwid(0x31), "vg-lv", "LVM-abc").unwrap();
    rig.settle().await;
    assert_eq!(rig.list("/sys/block/dm-0/holders").await, ["dm-1"]);
    assert_eq!(rig.multipathd(&del).await, busy);
    assert!(rig.node.unstack_device("vg-lv"));

    assert_eq!(rig.multipathd(&del).await, "ok\n");
    assert_eq!(rig.multipathd(&del).await, "fail\ndevice not found\n");
    assert_eq!(rig.node.open_count(number, soon()).await.unwrap(), None);
    assert_eq!(rig.list("/dev/mapper").await, [""; 0]);
    assert_eq!(rig.list("/run/udev/data").await, ["b8:0", "b8:16"]);
}

#[tokio::test(start_paused = true)]
async fn idle_partitions_go_with_their_map_and_used_ones_do_not() {
    let rig = attached().await;
    let partition = rig.node.add_partition(&wwid(0x31), 1).unwrap();
    rig.settle().await;
    assert_eq!(rig.list("/sys/block/dm-0/holders").await, ["dm-1"]);
    assert_eq!(rig.text("/sys/block/dm-1/dm/uuid").await.unwrap(), format!("part1-mpath-{}", wwid(0x31)));
    let del = format!("del map {}", wwid(0x31));
    let handle = rig.node.open(&partition).unwrap();
    assert_eq!(rig.multipathd(&del).await, "fail\nmap or partition in use\n");
    drop(handle);
    assert_eq!(rig.multipathd(&del).await, "ok\n");
    assert_eq!(rig.list("/dev/mapper").await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn udev_itself_has_a_map_open_for_a_moment() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.scan(1).await;
    assert_eq!(rig.multipathd(&format!("add map {}", wwid(0x31))).await, "ok\n");
    let del = format!("del map {}", wwid(0x31));
    assert_eq!(rig.multipathd(&del).await, "fail\nmap or partition in use\n");
    rig.settle().await;
    assert_eq!(rig.multipathd(&del).await, "ok\n");
}

#[tokio::test(start_paused = true)]
async fn legs_of_another_size_are_left_out_until_they_are_added() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.scan(1).await;
    rig.shelf.change(1, |it| it.size = 2 * MIB);
    rig.write("/sys/class/scsi_device/0:0:0:1/device/rescan", "1\n").await.unwrap();
    rig.settle().await;
    assert_eq!(rig.multipathd(&format!("add map {}", wwid(0x31))).await, "ok\n");
    assert_eq!(rig.list("/sys/block/dm-0/slaves").await, ["sda"]);
    rig.write("/sys/class/scsi_device/1:0:0:1/device/rescan", "1\n").await.unwrap();
    rig.settle().await;
    assert_eq!(rig.list("/sys/block/dm-0/slaves").await, ["sda"]);
    assert_eq!(rig.multipathd("add path sdb").await, "ok\n");
    assert_eq!(rig.list("/sys/block/dm-0/slaves").await, ["sda", "sdb"]);
    assert_eq!(rig.multipathd("del path sdb").await, "ok\n");
    assert_eq!(rig.list("/sys/block/dm-0/slaves").await, ["sda"]);
}

#[tokio::test(start_paused = true)]
async fn a_map_is_joined_by_late_legs_and_a_removed_one_does_not_come_back() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.write("/sys/class/scsi_host/host0/scan", "0 0 1\n").await.unwrap();
    rig.settle().await;
    assert_eq!(rig.multipathd(&format!("add map {}", wwid(0x31))).await, "ok\n");
    rig.write("/sys/class/scsi_host/host1/scan", "0 0 1\n").await.unwrap();
    rig.settle().await;
    assert_eq!(rig.list("/sys/block/dm-0/slaves").await, ["sda", "sdb"]);
    assert_eq!(rig.multipathd(&format!("del map {}", wwid(0x31))).await, "ok\n");
    // Neither strict nor generous multipathd makes it again for legs it knows.
    rig.node.set_multipath(|it| it.find_multipaths = FindMultipaths::Off);
    rig.write("/sys/block/sda/uevent", "add\n").await.unwrap();
    rig.write("/sys/block/sdb/uevent", "change\n").await.unwrap();
    rig.settle().await;
    assert_eq!(rig.node.inventory().maps.len(), 0);
    let paths = rig.multipathd("show paths raw format %d|%m").await;
    assert_eq!(paths, "sda|[orphan]\nsdb|[orphan]\n");
}

#[tokio::test(start_paused = true)]
async fn a_generous_multipathd_makes_maps_by_itself() {
    let rig = Rig::with(|it| it.multipath.find_multipaths = FindMultipaths::Off);
    rig.connect().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.scan(1).await;
    rig.settle().await;
    let maps = rig.node.inventory().maps;
    assert_eq!((maps[0].name.as_str(), maps[0].paths.len()), (wwid(0x31).as_str(), 2));
}

#[tokio::test(start_paused = true)]
async fn a_stopped_hung_or_late_multipathd_answers_accordingly() {
    let rig = attached().await;
    let mut stream = rig.dial().await.unwrap();
    rig.node.stop_multipathd();
    assert_eq!(hear(&mut stream).await, None);
    assert_eq!(rig.dial().await.err().unwrap().kind(), ErrorKind::Unavailable);
    // The map lives in the kernel.
    rig.first_bytes(&map_path(), 512).await;
    rig.node.start_multipathd();
    assert!(rig.multipathd("show maps json").await.contains(&wwid(0x31)));
    assert_eq!(
        rig.multipathd("show paths raw format %d|%m").await,
        format!("sda|{0}\nsdb|{0}\n", wwid(0x31))
    );

    rig.node.hang_multipathd();
    let mut stream = rig.dial().await.unwrap();
    say(&mut stream, "show daemon").await;
    assert!(tokio::time::timeout(Duration::from_secs(60), hear(&mut stream)).await.is_err());
    rig.node.start_multipathd();
    assert_eq!(hear(&mut stream).await.unwrap(), "pid 210 idle\n");

    rig.node.delay_multipathd(Duration::from_secs(11));
    assert_eq!(rig.multipathd("show daemon").await, "fail\ntimeout\n");
    rig.wait(11).await;
    assert_eq!(rig.multipathd("show daemon").await, "pid 210 idle\n");
}

#[tokio::test(start_paused = true)]
async fn queueing_ends_by_command_and_comes_back_by_command() {
    let rig = attached().await;
    for portal in portals() {
        rig.shelf.set(portal, Reachability::Refusing);
    }
    rig.wait(30).await;
    let path = map_path();
    let read = rig.node.read_at(Path::new(&path), 0, 512);
    tokio::pin!(read);
    assert!(tokio::time::timeout(Duration::from_secs(300), &mut read).await.is_err());
    // What a map holds back is not in flight.
    assert_eq!(rig.text("/sys/block/dm-0/inflight").await.unwrap(), "       0        0");
    assert_eq!(rig.multipathd(&format!("disablequeueing map {}", wwid(0x31))).await, "ok\n");
    assert_eq!(read.await.unwrap_err().kind(), ErrorKind::Unavailable);
    assert_eq!(rig.multipathd(&format!("restorequeueing map {}", wwid(0x31))).await, "ok\n");
    let again = rig.node.read_at(Path::new(&path), 0, 512);
    assert!(tokio::time::timeout(Duration::from_secs(300), again).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_number_of_retries_bounds_queueing() {
    let rig = Rig::with(|it| it.multipath.no_path_retry = NoPathRetry::Checks(4));
    rig.connect().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.attach(1, 0x31).await;
    assert!(rig.multipathd("show maps json").await.contains("\"queueing\" : \"4 chk\""));
    for portal in portals() {
        rig.shelf.set(portal, Reachability::Refusing);
    }
    let path = map_path();
    let read = tokio::time::timeout(Duration::from_secs(60), rig.node.read_at(Path::new(&path), 0, 512));
    assert_eq!(read.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(rig.multipathd("show maps json").await.contains("\"queueing\" : \"off\""));
    for portal in portals() {
        rig.shelf.set(portal, Reachability::Up);
    }
    rig.wait(20).await;
    rig.first_bytes(&path, 512).await;
    assert!(rig.multipathd("show maps json").await.contains("\"queueing\" : \"4 chk\""));
}

/// Finding 14: `paths` counts the usable ones.
#[tokio::test(start_paused = true)]
async fn the_count_of_paths_is_that_of_usable_ones() {
    let rig = attached().await;
    for portal in portals() {
        rig.shelf.set(portal, Reachability::Refusing);
    }
    rig.wait(30).await;
    let json = rig.multipathd(&format!("show map {} json", wwid(0x31))).await;
    assert!(json.contains("\"paths\" : 0,"), "{json}");
    assert_eq!(json.matches("\"dev\" :").count(), 2);
    assert_eq!(rig.multipathd("reinstate path sda").await, "ok\n");
    assert_eq!(rig.multipathd("fail path sda").await, "ok\n");
}
