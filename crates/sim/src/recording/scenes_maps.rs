//! The scenes of maps.

use super::scene::{Act, Scene, Step, Until};
use super::scenes::{
    attribute, connected_scene, file, gone, holds, legs, link, map_volume, names, no_legs, order, quiet,
    quietly, there, tree, write,
};
use crate::target::Reachability;

const WWID: &str = "3600a098038302d426b3f5478795a3132";
const MAPPER: &str = "/dev/mapper/3600a098038302d426b3f5478795a3132";
const BY_ID: &str = "/dev/disk/by-id/dm-uuid-mpath-3600a098038302d426b3f5478795a3132";
const RECORD: &str = "/run/udev/data/b253:0";
const PATHS: &str = "show paths raw format \"%d|%i|%w\"";
const PATHS_WIDE: &str = "show paths raw format \"%d|%D|%i|%w|%m|%t|%o|%T|%s|%c|%p|%S|%z|%n|%a|%L|%N|%R|%r\"";
const MAPS_WIDE: &str = "show maps raw format \"%n|%w|%d|%t|%Q|%S|%N|%f\"";
/// multipathd sees the two legs as they are: one optimised, one not.
const SORTED: [&str; 4] = ["\"pri\" : 50", "\"pri\" : 10", "\"group\" : 2", "\"paths\" : 2"];

fn multipathd(command: &str) -> Step {
    Step::Multipathd(command.to_owned())
}

fn on_map(verb: &str) -> Step {
    Step::Multipathd(format!("{verb} map {WWID}"))
}

fn json() -> Step {
    multipathd(&format!("show map {WWID} json"))
}

fn reply(command: String, parts: &[&'static str]) -> Step {
    Step::Await(Until::Reply(command, parts.to_vec()))
}

fn until_json(parts: &[&'static str]) -> Step {
    reply(format!("show map {WWID} json"), parts)
}

fn road(portal: usize, reachability: Reachability) -> Step {
    Step::Array(Act::Road(portal, reachability))
}

/// LUN 1 with both legs, in a map that multipathd has sorted.
fn mapped() -> Vec<Step> {
    let mut steps = vec![map_volume(64)];
    steps.extend(legs());
    steps.extend([quietly(on_map("add")), there(MAPPER), until_json(&SORTED), quietly(Step::Events)]);
    steps
}

fn unmapped() -> Vec<Step> {
    let mut steps = vec![quiet(), quietly(on_map("del")), gone(MAPPER)];
    steps.extend(no_legs());
    steps
}

pub(super) fn map() -> Scene {
    let made = vec![
        multipathd("show daemon"),
        multipathd(PATHS),
        multipathd("show maps json"),
        multipathd("show status"),
        on_map("add"),
        order(&["/sys/block/dm-0", "/dev/dm-0", RECORD, BY_ID]),
        there(MAPPER),
        Step::Events,
        until_json(&SORTED),
        multipathd(PATHS),
        multipathd(PATHS_WIDE),
        multipathd(MAPS_WIDE),
        json(),
        multipathd("show maps json"),
        multipathd("show status"),
        on_map("add"),
        on_map("resume"),
        file(RECORD),
        file("/run/udev/data/b8:0"),
        link(MAPPER),
        link("/dev/disk/by-id/wwn-0x600a098038302d426b3f5478795a3132"),
        link(BY_ID),
        link("/sys/block/dm-0"),
        tree("/sys/block/dm-0"),
        names("/sys/block/sda/holders"),
        link("/sys/block/sda/holders/dm-0"),
        attribute("/sys/class/iscsi_session/session{host0}/recovery_tmo"),
        quietly(Step::Events),
    ];
    let removed = vec![
        Step::Open("/dev/dm-0".to_owned()),
        on_map("del"),
        Step::Close,
        on_map("del"),
        gone(MAPPER),
        Step::Events,
        file(RECORD),
        file("/run/udev/data/b8:0"),
        file("/etc/multipath/wwids"),
        link("/sys/block/dm-0"),
        names("/sys/block/sda/holders"),
        multipathd(PATHS),
        multipathd(PATHS_WIDE),
        multipathd("show maps json"),
        on_map("del"),
        json(),
    ];
    connected_scene(
        "map",
        "A map: made, looked at, in use, removed",
        &[vec![map_volume(64)], legs(), made, removed, no_legs()],
    )
}

pub(super) fn one_leg() -> Scene {
    let first = vec![
        map_volume(64),
        quietly(write("/sys/class/scsi_host/host0/scan", "0 0 1\n")),
        holds("/run/udev/data/b8:0", "ID_SERIAL="),
        quiet(),
        on_map("add"),
        there(MAPPER),
        quiet(),
        json(),
        quietly(Step::Events),
        // The second leg joins by itself.
        write("/sys/class/scsi_host/host1/scan", "0 0 1\n"),
        until_json(&["\"paths\" : 2"]),
        Step::Events,
        multipathd(PATHS),
        file("/run/udev/data/b8:16"),
        // The kernel asks for the legs' states when it needs the map.
        quietly(Step::Read("/dev/dm-0".to_owned())),
        until_json(&SORTED),
        json(),
        multipathd("del path sdb"),
        quiet(),
        json(),
        multipathd(PATHS),
        multipathd("add path sdb"),
        until_json(&["\"paths\" : 2"]),
        multipathd(PATHS),
    ];
    connected_scene("one-leg", "A map of one leg, and a leg that comes later", &[first, unmapped()])
}

/// A WWID that had a map once gets one again, without being asked for.
pub(super) fn remembered() -> Scene {
    let steps = vec![
        Step::Events,
        multipathd(PATHS),
        quietly(write("/sys/class/scsi_host/host0/scan", "0 0 1\n")),
        there(MAPPER),
        Step::Events,
        file("/run/udev/data/b8:0"),
        quietly(write("/sys/class/scsi_host/host1/scan", "0 0 1\n")),
        until_json(&["\"paths\" : 2"]),
        quietly(Step::Read("/dev/dm-0".to_owned())),
        until_json(&SORTED),
        json(),
        // But not from legs that were there before.
        quiet(),
        on_map("del"),
        gone(MAPPER),
        write("/sys/class/scsi_host/host0/scan", "0 0 1\n"),
        write("/sys/class/scsi_device/0:0:0:1/device/rescan", "1\n"),
        quiet(),
        link("/sys/block/dm-0"),
        on_map("add"),
        there(MAPPER),
    ];
    connected_scene(
        "remembered",
        "Legs of a volume that had a map once",
        &[mapped(), unmapped(), steps, unmapped()],
    )
}

pub(super) fn refusals() -> Scene {
    let commands = [
        "add map nothing",
        "add map 3600a098038302d426b3f5478795a3199",
        "del map nothing",
        "resize map nothing",
        "resume map nothing",
        "disablequeueing map nothing",
        "restorequeueing map nothing",
        "show map nothing json",
        "add path sdzz",
        "add path loop0",
        "del path sdzz",
        "fail path sdzz",
        "reinstate path sdzz",
        "nonsense",
        "show nonsense",
        "resume map",
    ];
    let steps = commands.map(multipathd).to_vec();
    connected_scene("refusals", "What multipathd does not do", &[steps])
}

pub(super) fn path_lost() -> Scene {
    let lost = vec![
        road(0, Reachability::BlackHole),
        until_json(&["\"chk_st\" : \"faulty\"", "\"dev_st\" : \"offline\""]),
        Step::Events,
        json(),
        multipathd(PATHS_WIDE),
        multipathd("show status"),
        attribute("/sys/class/scsi_device/0:0:0:1/device/state"),
        tree("/sys/class/iscsi_session/session{host0}"),
        tree("/sys/class/iscsi_connection/connection{host0}:0"),
        Step::Read("/dev/dm-0".to_owned()),
        write("/sys/class/scsi_device/0:0:0:1/device/state", "offline\n"),
        write("/sys/class/scsi_device/0:0:0:1/device/state", "running\n"),
        attribute("/sys/class/scsi_device/0:0:0:1/device/state"),
        write("/sys/class/scsi_device/0:0:0:1/device/rescan", "1\n"),
        on_map("resize"),
        quietly(Step::Events),
    ];
    let back = vec![
        road(0, Reachability::Up),
        until_json(&SORTED),
        until_json(&["\"dev_st\" : \"running\""]),
        Step::Events,
        json(),
        attribute("/sys/class/scsi_device/0:0:0:1/device/state"),
        attribute("/sys/class/iscsi_session/session{host0}/state"),
    ];
    connected_scene(
        "path-lost",
        "One road is cut and mended under a map",
        &[mapped(), lost, back, unmapped()],
    )
}

pub(super) fn all_lost() -> Scene {
    let lost = vec![
        road(0, Reachability::BlackHole),
        until_json(&["\"paths\" : 1"]),
        // A worker of udev that is just reading the map would wait with it.
        quiet(),
        road(1, Reachability::BlackHole),
        until_json(&["\"paths\" : 0"]),
        quiet(),
        json(),
        file(RECORD),
        multipathd(PATHS_WIDE),
        attribute("/sys/block/dm-0/inflight"),
        Step::Read("/dev/dm-0".to_owned()),
        attribute("/sys/block/dm-0/inflight"),
        on_map("del"),
        on_map("disablequeueing"),
        json(),
        attribute("/sys/block/dm-0/inflight"),
        Step::Await(Until::Quiet),
        Step::Read("/dev/dm-0".to_owned()),
        on_map("restorequeueing"),
        json(),
        on_map("disablequeueing"),
        on_map("del"),
        gone(MAPPER),
        Step::Events,
        multipathd(PATHS),
        quietly(road(0, Reachability::Up)),
        quietly(road(1, Reachability::Up)),
    ];
    let back = vec![
        holds("/sys/class/scsi_device/0:0:0:1/device/state", "running"),
        holds("/sys/class/scsi_device/1:0:0:1/device/state", "running"),
    ];
    connected_scene("all-lost", "Both roads are cut under a queueing map", &[mapped(), lost, back, no_legs()])
}

pub(super) fn grow() -> Scene {
    let steps = vec![
        map_volume(96),
        write("/sys/class/scsi_device/0:0:0:1/device/rescan", "1\n"),
        Step::Events,
        attribute("/sys/block/sda/size"),
        attribute("/sys/block/sdb/size"),
        on_map("resize"),
        Step::Events,
        attribute("/sys/block/dm-0/size"),
        write("/sys/class/scsi_device/1:0:0:1/device/rescan", "1\n"),
        quietly(Step::Events),
        on_map("resize"),
        Step::Events,
        attribute("/sys/block/dm-0/size"),
        on_map("resize"),
        json(),
    ];
    connected_scene("grow", "A map grows, also with one leg behind", &[mapped(), steps, unmapped()])
}

pub(super) fn retire() -> Scene {
    let state = |hctl: &str| format!("/sys/class/scsi_device/{hctl}/device/state");
    let steps = vec![
        on_map("del"),
        gone(MAPPER),
        write(&state("0:0:0:1"), "offline\n"),
        write(&state("1:0:0:1"), "offline\n"),
        Step::Events,
        multipathd(PATHS_WIDE),
        on_map("add"),
        link("/sys/block/dm-0"),
        // The session bounces: what comes back, and in which state.
        road(0, Reachability::BlackHole),
        holds("/sys/class/iscsi_session/session{host0}/state", "FREE"),
        attribute(&state("0:0:0:1")),
        road(0, Reachability::Up),
        holds("/sys/class/iscsi_session/session{host0}/state", "LOGGED_IN"),
        Step::Events,
        attribute(&state("0:0:0:1")),
        attribute(&state("1:0:0:1")),
        link("/sys/block/dm-0"),
        write(&state("0:0:0:1"), "offline\n"),
        Step::Array(Act::Unmap(1)),
        write("/sys/class/scsi_device/0:0:0:1/device/delete", "1\n"),
        gone("/sys/class/scsi_device/0:0:0:1"),
        Step::Events,
        multipathd(PATHS),
    ];
    let rest = vec![
        quietly(write("/sys/class/scsi_device/1:0:0:1/device/delete", "1\n")),
        gone("/sys/class/scsi_device/1:0:0:1"),
        quiet(),
        multipathd(PATHS),
    ];
    connected_scene(
        "retire",
        "Legs put offline before the array unmaps, with a session that bounces",
        &[mapped(), steps, rest],
    )
}

pub(super) fn legs_gone() -> Scene {
    let steps = vec![
        Step::Array(Act::Unmap(1)),
        until_json(&["\"paths\" : 0"]),
        json(),
        multipathd(PATHS_WIDE),
        attribute("/sys/class/scsi_device/0:0:0:1/device/state"),
        quietly(Step::Events),
        file(RECORD),
        write("/sys/class/scsi_device/0:0:0:1/device/delete", "1\n"),
        gone("/sys/class/scsi_device/0:0:0:1"),
        Step::Events,
        json(),
        write("/sys/class/scsi_device/1:0:0:1/device/delete", "1\n"),
        gone(MAPPER),
        Step::Events,
        multipathd(PATHS),
        multipathd("show maps json"),
    ];
    connected_scene("legs-gone", "The array unmaps under a map, and its legs are deleted", &[mapped(), steps])
}

pub(super) fn logout_under_map() -> Scene {
    let logout = |portal: &str| {
        super::scenes::iscsiadm(&[
            "-m",
            "node",
            "-T",
            super::scenes::TARGET,
            "-p",
            portal,
            "-I",
            "default",
            "--logout",
        ])
    };
    let login = |portal: &str| {
        super::scenes::iscsiadm(&[
            "-m",
            "node",
            "-T",
            super::scenes::TARGET,
            "-p",
            portal,
            "-I",
            "default",
            "--login",
        ])
    };
    let steps = vec![
        Step::Open("/dev/dm-0".to_owned()),
        logout("10.77.1.2:3260"),
        quiet(),
        json(),
        logout("10.77.2.2:3260"),
        quiet(),
        json(),
        names("/sys/block/dm-0/slaves"),
        multipathd(PATHS),
        // Manual scan: nothing comes back with the session.
        quietly(login("10.77.1.2:3260")),
        quietly(login("10.77.2.2:3260")),
        quiet(),
        names("/sys/class/scsi_device"),
        Step::Close,
        on_map("del"),
        gone(MAPPER),
        quiet(),
    ];
    connected_scene(
        "logout-under-map",
        "Sessions are logged out under a map that is open",
        &[mapped(), steps],
    )
}
