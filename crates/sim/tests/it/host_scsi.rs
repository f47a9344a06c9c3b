//! Scanning, states, rescans and deletion of legs.

use std::time::Duration;

use san_core::ErrorKind;
use san_host::Host;
use san_sim::host::{Address, LegState, LogKind};
use san_sim::target::Reachability;

use crate::host_rig::{MIB, Rig, portals, wwid};

#[tokio::test(start_paused = true)]
async fn a_targeted_scan_finds_one_unit_and_nothing_else() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.shelf.map(2, 0x32, MIB);
    rig.scan(2).await;
    assert_eq!(rig.list("/sys/class/scsi_device").await, ["0:0:0:2", "1:0:0:2"]);
    assert_eq!(rig.list("/sys/class/scsi_device/0:0:0:2/device/block").await, ["sda"]);
    assert_eq!(rig.list("/sys/class/scsi_device/1:0:0:2/device/scsi_generic").await, ["sg1"]);
    // Not there, another target, another channel: success, and nothing.
    for value in ["0 0 9\n", "0 1 1\n", "1 0 1\n"] {
        rig.write("/sys/class/scsi_host/host0/scan", value).await.unwrap();
    }
    rig.settle().await;
    assert_eq!(rig.list("/sys/class/scsi_device").await.len(), 2);
    assert_eq!(
        rig.write("/sys/class/scsi_host/host0/scan", "0 0\n").await.unwrap_err().kind(),
        ErrorKind::InvalidInput
    );
    rig.write("/sys/class/scsi_host/host0/scan", "- - -\n").await.unwrap();
    rig.settle().await;
    assert_eq!(rig.list("/sys/class/scsi_device").await.len(), 3);
    assert!(rig.node.logged(LogKind::Write).contains(&"/sys/class/scsi_host/host0/scan - - -".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn a_leg_may_appear_long_after_the_write_and_its_disk_after_that() {
    let rig = Rig::connected().await;
    rig.node.set_timing(|it| {
        it.leg = Duration::from_millis(700);
        it.disk = Duration::from_millis(300);
    });
    rig.shelf.map(1, 0x31, MIB);
    let mut events = rig.node.uevents();
    rig.write("/sys/class/scsi_host/host0/scan", "0 0 1\n").await.unwrap();
    assert_eq!(rig.state("0:0:0:1").await, None);
    let first = events.next().await.unwrap();
    assert_eq!((first.action.as_str(), first.keys["DEVTYPE"].as_str()), ("add", "scsi_target"));
    assert_eq!(rig.state("0:0:0:1").await.as_deref(), Some("running"));
    assert_eq!(rig.list("/sys/class/scsi_device/0:0:0:1/device/block").await, [""; 0]);
    let event = loop {
        let event = events.next().await.unwrap();
        if event.keys["SUBSYSTEM"] == "block" {
            break event;
        }
    };
    assert_eq!(event.action, "add");
    assert_eq!((event.keys["DEVNAME"].as_str(), event.keys["MAJOR"].as_str()), ("sda", "8"));
    assert_eq!(event.device, "/devices/platform/host0/session1/target0:0:0/0:0:0:1/block/sda");
    assert_eq!(rig.list("/dev").await, ["disk", "mapper", "sda", "sg0"]);
}

#[tokio::test(start_paused = true)]
async fn names_are_given_again_lowest_first() {
    let rig = Rig::connected().await;
    for (lun, id) in [(1, 0x31), (2, 0x32)] {
        rig.shelf.map(lun, id, MIB);
        rig.scan(lun).await;
    }
    rig.write("/sys/class/scsi_device/0:0:0:1/device/delete", "1\n").await.unwrap();
    rig.shelf.map(3, 0x33, MIB);
    rig.scan(3).await;
    let disk = |address: &str| {
        let legs = rig.node.inventory().legs;
        legs.into_iter().find(|it| it.address.to_string() == address).and_then(|it| it.disk).unwrap()
    };
    assert_eq!(disk("0:0:0:3"), "sda");
    assert_eq!(disk("1:0:0:3"), "sde");
    assert_eq!(rig.list("/sys/class/scsi_device/0:0:0:3/device/scsi_generic").await, ["sg0"]);
}

#[tokio::test(start_paused = true)]
async fn only_running_and_offline_can_be_written_over_each_other() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.scan(1).await;
    let state = "/sys/class/scsi_device/0:0:0:1/device/state";
    for bad in ["offline", "blocked\n", "deleted\n", "offline \n"] {
        assert_eq!(rig.write(state, bad).await.unwrap_err().kind(), ErrorKind::InvalidInput, "{bad:?}");
    }
    rig.write(state, "offline\n").await.unwrap();
    rig.write(state, "offline\n").await.unwrap();
    assert_eq!(rig.state("0:0:0:1").await.as_deref(), Some("offline"));
    rig.write(state, "running\n").await.unwrap();
    rig.shelf.set(portals()[0], Reachability::Refusing);
    rig.wait(7).await;
    assert_eq!(rig.state("0:0:0:1").await.as_deref(), Some("blocked"));
    assert_eq!(rig.write(state, "offline\n").await.unwrap_err().kind(), ErrorKind::InvalidInput);
    rig.wait(130).await;
    assert_eq!(rig.state("0:0:0:1").await.as_deref(), Some("transport-offline"));
    assert_eq!(rig.write(state, "offline\n").await.unwrap_err().kind(), ErrorKind::InvalidInput);
    // Deleting works in every state.
    rig.write("/sys/class/scsi_device/0:0:0:1/device/delete", "1\n").await.unwrap();
    assert_eq!(rig.state("0:0:0:1").await, None);
}

/// Finding 13: success of a write proves nothing.
#[tokio::test(start_paused = true)]
async fn a_rescan_of_a_leg_that_does_not_run_succeeds_and_does_nothing() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.scan(1).await;
    rig.set_state("0:0:0:1", "offline").await.unwrap();
    rig.shelf.change(1, |it| it.size = 2 * MIB);
    for leg in ["0:0:0:1", "1:0:0:1"] {
        rig.write(&format!("/sys/class/scsi_device/{leg}/device/rescan"), "1\n").await.unwrap();
    }
    assert_eq!(rig.text("/sys/block/sda/size").await.unwrap(), "2048");
    assert_eq!(rig.text("/sys/block/sdb/size").await.unwrap(), "4096");
    // Set running, the kernel looks by itself.
    rig.set_state("0:0:0:1", "running").await.unwrap();
    assert_eq!(rig.text("/sys/block/sda/size").await.unwrap(), "4096");
}

#[tokio::test(start_paused = true)]
async fn growth_shows_only_after_a_rescan() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.attach(1, 0x31).await;
    rig.shelf.change(1, |it| it.size = 3 * MIB);
    rig.wait(60).await;
    assert_eq!(rig.text("/sys/block/sda/size").await.unwrap(), "2048");
    rig.write("/sys/class/scsi_device/0:0:0:1/device/rescan", "1\n").await.unwrap();
    assert_eq!(rig.text("/sys/block/sda/size").await.unwrap(), "6144");
    assert_eq!(rig.multipathd(&format!("resize map {}", wwid(0x31))).await, "fail\n");
    rig.write("/sys/class/scsi_device/1:0:0:1/device/rescan", "1\n").await.unwrap();
    assert_eq!(rig.text("/sys/block/dm-0/size").await.unwrap(), "2048");
    assert_eq!(rig.multipathd(&format!("resize map {}", wwid(0x31))).await, "ok\n");
    assert_eq!(rig.text("/sys/block/dm-0/size").await.unwrap(), "6144");
    assert_eq!(rig.multipathd(&format!("resize map {}", wwid(0x31))).await, "ok\n");
}

#[tokio::test(start_paused = true)]
async fn numbers_above_255_appear_with_flat_addressing() {
    let rig = Rig::connected().await;
    rig.shelf.map(300, 0x31, MIB);
    rig.scan(300).await;
    assert_eq!(rig.list("/sys/class/scsi_device").await, [""; 0]);
    rig.write("/sys/class/scsi_host/host0/scan", "- - -\n").await.unwrap();
    rig.settle().await;
    assert_eq!(rig.list("/sys/class/scsi_device").await, ["0:0:0:16684"]);
}

#[tokio::test(start_paused = true)]
async fn an_offline_leg_keeps_its_place_against_every_scan() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.scan(1).await;
    rig.set_state("0:0:0:1", "offline").await.unwrap();
    rig.set_state("1:0:0:1", "offline").await.unwrap();
    let before = rig.world.snapshot();
    rig.iscsiadm(&["-m", "session", "--rescan"]).await;
    rig.scan(1).await;
    assert_eq!(before.diff(&rig.world.snapshot()), [""; 0]);
    assert!(rig.node.inventory().legs.iter().all(|it| it.state == LegState::Offline));
}

#[tokio::test(start_paused = true)]
async fn the_array_may_change_what_it_shows_and_a_unit_attention_tells() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.attach(1, 0x31).await;
    let mut events = rig.node.uevents();
    rig.shelf.map(2, 0x32, MIB);
    let told = async {
        loop {
            let event = events.next().await.unwrap();
            if event.keys.get("SDEV_UA").is_some_and(|it| it == "REPORTED_LUNS_DATA_HAS_CHANGED") {
                return event;
            }
        }
    };
    let event = tokio::time::timeout(Duration::from_secs(11), told).await.unwrap();
    assert_eq!((event.action.as_str(), event.keys["SUBSYSTEM"].as_str()), ("change", "scsi"));
    let leg = Address { host: 0, channel: 0, target: 0, lun: 1 };
    assert!(event.device.ends_with(&format!("/{leg}")));
}

#[tokio::test(start_paused = true)]
async fn a_command_is_told_of_new_assignments_at_once() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.attach(1, 0x31).await;
    rig.shelf.map(2, 0x32, MIB);
    let mut events = rig.node.uevents();
    // INQUIRY is answered whatever else there is to say.
    rig.node.inquiry(std::path::Path::new("/dev/sg0"), None, crate::host_rig::soon()).await.unwrap();
    rig.first_bytes("/dev/sda", 512).await;
    let event = events.next().await.unwrap();
    assert_eq!(event.keys["SDEV_UA"], "REPORTED_LUNS_DATA_HAS_CHANGED");
    assert!(event.device.ends_with("/0:0:0:1"));
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_a_table_still_holds_keeps_its_name() {
    let rig = Rig::connected().await;
    rig.shelf.map(1, 0x31, MIB);
    rig.attach(1, 0x31).await;
    // Nobody takes the path out of the table.
    rig.node.stop_multipathd();
    rig.write("/sys/class/scsi_device/0:0:0:1/device/delete", "1\n").await.unwrap();
    rig.scan(1).await;
    assert_eq!(rig.list("/sys/class/scsi_device/0:0:0:1/device/block").await, ["sdc"]);
    assert_eq!(rig.list("/sys/block").await, ["dm-0", "sdb", "sdc"]);
    rig.node.start_multipathd();
    rig.settle().await;
    let maps = rig.node.inventory().maps;
    assert_eq!(maps[0].paths.iter().map(|it| it.disk.as_str()).collect::<Vec<_>>(), ["sdc", "sdb"]);
}
