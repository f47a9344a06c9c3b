//! The scenes: records, sessions and legs. Those of maps are in `scenes_maps`.

use std::net::SocketAddr;

use super::scene::{Act, Admission, Scene, Step, Until};
use super::{scenes_logins, scenes_maps};
use crate::target::Reachability;

/// The array's target.
pub const TARGET: &str = "iqn.1992-08.com.netapp:sn.lab0:vs.2";
/// The host's initiator name.
pub const INITIATOR: &str = "iqn.1993-08.org.debian:01:pve-lab";

/// The two portals, on networks of their own.
pub fn portals() -> [SocketAddr; 2] {
    [SocketAddr::from(([10, 77, 1, 2], 3260)), SocketAddr::from(([10, 77, 2, 2], 3260))]
}

/// Where open-iscsi keeps the records of the target.
pub(super) const RECORDS: &str = "/var/lib/iscsi/nodes/iqn.1992-08.com.netapp:sn.lab0:vs.2";
const SESSIONS: &str = "/sys/class/iscsi_session";
/// What our sessions are made with. The times are short, so that outages are noticed soon.
const SETTINGS: [(&str, &str); 7] = [
    ("node.session.scan", "manual"),
    ("node.session.timeo.replacement_timeout", "2"),
    ("node.conn[0].timeo.login_timeout", "2"),
    ("node.session.initial_login_retry_max", "1"),
    ("node.conn[0].timeo.noop_out_interval", "1"),
    ("node.conn[0].timeo.noop_out_timeout", "1"),
    ("node.startup", "manual"),
];

/// All scenes, in the order in which they are played.
pub fn scenes() -> Vec<Scene> {
    vec![
        records(),
        login(),
        refused(),
        scenes_logins::interfaces(),
        scenes_logins::proofs(),
        scan(),
        high(),
        reuse(),
        states(),
        rescan(),
        logout(),
        scenes_maps::map(),
        scenes_maps::one_leg(),
        scenes_maps::remembered(),
        scenes_maps::refusals(),
        scenes_maps::path_lost(),
        scenes_maps::all_lost(),
        scenes_maps::grow(),
        scenes_maps::retire(),
        scenes_maps::legs_gone(),
        scenes_maps::logout_under_map(),
    ]
}

pub(super) fn iscsiadm(arguments: &[&str]) -> Step {
    Step::Iscsiadm(arguments.iter().map(|it| (*it).to_owned()).collect())
}

/// A run of `iscsiadm` aimed at one record, as the iSCSI transport does it.
fn node(portal: &str, tail: &[&str]) -> Step {
    let head = ["-m", "node", "-T", TARGET, "-p", portal, "-I", "default"];
    iscsiadm(&[&head[..], tail].concat())
}

pub(super) fn settings() -> Vec<&'static str> {
    let mut tail = vec!["-o", "update"];
    for (name, value) in SETTINGS {
        tail.extend(["-n", name, "-v", value]);
    }
    tail
}

fn update(portal: &str) -> Step {
    node(portal, &settings())
}

pub(super) fn quietly(step: Step) -> Step {
    Step::Quietly(Box::new(step))
}

pub(super) fn write(path: &str, value: &'static str) -> Step {
    Step::Write(path.to_owned(), value)
}

pub(super) fn tree(path: &str) -> Step {
    Step::Tree(path.to_owned())
}

pub(super) fn file(path: &str) -> Step {
    Step::File(path.to_owned())
}

pub(super) fn attribute(path: &str) -> Step {
    Step::Attribute(path.to_owned())
}

pub(super) fn names(path: &str) -> Step {
    Step::Names(path.to_owned())
}

pub(super) fn link(path: &str) -> Step {
    Step::Link(path.to_owned())
}

pub(super) fn there(path: &str) -> Step {
    Step::Await(Until::There(path.to_owned()))
}

pub(super) fn gone(path: &str) -> Step {
    Step::Await(Until::Gone(path.to_owned()))
}

pub(super) fn holds(path: &str, part: &'static str) -> Step {
    Step::Await(Until::File(path.to_owned(), part))
}

pub(super) fn order(paths: &[&str]) -> Step {
    Step::Order(paths.iter().map(|it| (*it).to_owned()).collect())
}

pub(super) fn quiet() -> Step {
    Step::Await(Until::Quiet)
}

/// Volume `..32` as LUN 1.
pub(super) fn map_volume(mebibytes: u64) -> Step {
    Step::Array(Act::Map { lun: 1, volume: 0x32, mebibytes })
}

/// Sessions with both portals, made as the transport makes them: hosts 0 and 1.
pub(super) fn connected() -> Vec<Step> {
    let mut steps = vec![quietly(Step::Forget)];
    for (portal, host) in [("10.77.1.2:3260", "host0"), ("10.77.2.2:3260", "host1")] {
        steps.extend([node(portal, &["-o", "new"]), update(portal), node(portal, &["--login"])].map(quietly));
        steps.push(there(&format!("/sys/class/scsi_host/{host}")));
    }
    steps.push(quietly(Step::Events));
    steps
}

/// The end of a scene with [`connected`].
pub(super) fn disconnected() -> Vec<Step> {
    let mut steps = Vec::new();
    for portal in ["10.77.1.2:3260", "10.77.2.2:3260"] {
        steps.extend([node(portal, &["--logout"]), node(portal, &["-o", "delete"])].map(quietly));
    }
    steps.extend([quietly(Step::Array(Act::Unmap(1))), quiet()]);
    steps
}

/// Both legs of LUN 1, known to udev: sda and sdb.
pub(super) fn legs() -> Vec<Step> {
    let mut steps = Vec::new();
    for (host, number) in [("host0", "8:0"), ("host1", "8:16")] {
        steps.push(quietly(write(&format!("/sys/class/scsi_host/{host}/scan"), "0 0 1\n")));
        steps.push(holds(&format!("/run/udev/data/b{number}"), "ID_SERIAL="));
    }
    steps.push(quietly(Step::Events));
    steps
}

/// Deletes both legs.
pub(super) fn no_legs() -> Vec<Step> {
    let mut steps = Vec::new();
    for hctl in ["0:0:0:1", "1:0:0:1"] {
        steps.push(quietly(write(&format!("/sys/class/scsi_device/{hctl}/device/delete"), "1\n")));
        steps.push(gone(&format!("/sys/class/scsi_device/{hctl}")));
    }
    steps.push(quiet());
    steps
}

pub(super) fn scene(name: &'static str, about: &'static str, parts: &[Vec<Step>]) -> Scene {
    Scene { name, about, steps: parts.concat() }
}

/// The beginning and the end of a scene that needs sessions.
pub(super) fn connected_scene(name: &'static str, about: &'static str, parts: &[Vec<Step>]) -> Scene {
    scene(name, about, &[connected(), parts.concat(), disconnected()])
}

fn records() -> Scene {
    let ours = "10.77.1.2:3260";
    let found = "10.77.2.2:3260,1029";
    let steps = vec![
        update(ours),
        node(ours, &["-o", "delete"]),
        node(ours, &["--login"]),
        node(ours, &["--logout"]),
        iscsiadm(&["-m", "session"]),
        iscsiadm(&["-m", "node"]),
        node(ours, &["-o", "new"]),
        names(RECORDS),
        file(&format!("{RECORDS}/10.77.1.2,3260")),
        update(ours),
        file(&format!("{RECORDS}/10.77.1.2,3260")),
        node(ours, &["-o", "new"]),
        file(&format!("{RECORDS}/10.77.1.2,3260")),
        node(ours, &["-o", "update", "-n", "node.session.nonsense", "-v", "1"]),
        node(ours, &[]),
        // With a group, as a discovery makes them: a folder.
        node(found, &["-o", "new"]),
        names(RECORDS),
        names(&format!("{RECORDS}/10.77.2.2,3260,1029")),
        iscsiadm(&["-m", "node"]),
        node(ours, &["-o", "delete"]),
        names(RECORDS),
        node(ours, &["-o", "delete"]),
        node("10.77.2.2:3260", &["-o", "delete"]),
        names(RECORDS),
        iscsiadm(&["-m", "node"]),
    ];
    scene("records", "Node records without a session", &[steps])
}

fn login() -> Scene {
    let ours = "10.77.1.2:3260";
    let steps = vec![
        quietly(node(ours, &["-o", "new"])),
        quietly(update(ours)),
        quietly(Step::Events),
        node(ours, &["--login"]),
        Step::Events,
        names(RECORDS),
        iscsiadm(&["-m", "session"]),
        names(SESSIONS),
        link("/sys/class/scsi_host/host0"),
        link("/sys/class/iscsi_host/host0"),
        tree("/sys/class/scsi_host/host0"),
        tree("/sys/class/iscsi_host/host0"),
        tree("/sys/devices/platform/host0"),
        node(ours, &["--login"]),
        node(ours, &["-o", "new"]),
        node(ours, &["-o", "delete"]),
        names(RECORDS),
        node(ours, &["--logout"]),
        Step::Events,
        names(SESSIONS),
        node(ours, &["--logout"]),
        node(ours, &["-o", "delete"]),
        names(RECORDS),
    ];
    scene("login", "A session: log in, again, log out, again", &[steps])
}

fn refused() -> Scene {
    let ours = "10.77.1.2:3260";
    let road = |it| Step::Array(Act::Road(0, it));
    let admit = |it| Step::Array(Act::Admit(it));
    let elsewhere = "iqn.1992-08.com.netapp:sn.lab0:vs.9";
    let unknown = |tail: &[&str]| {
        iscsiadm(&[&["-m", "node", "-T", elsewhere, "-p", ours, "-I", "default"][..], tail].concat())
    };
    let steps = vec![
        quietly(node(ours, &["-o", "new"])),
        quietly(update(ours)),
        admit(Admission::Nobody),
        node(ours, &["--login"]),
        admit(Admission::Secret),
        node(ours, &["--login"]),
        quietly(admit(Admission::Open)),
        road(Reachability::Refusing),
        node(ours, &["--login"]),
        road(Reachability::BlackHole),
        node(ours, &["--login"]),
        road(Reachability::Up),
        names(SESSIONS),
        quietly(unknown(&["-o", "new"])),
        quietly(unknown(&settings())),
        unknown(&["--login"]),
        quietly(unknown(&["-o", "delete"])),
        quietly(node(ours, &["--login"])),
        quietly(node(ours, &["--logout"])),
        quietly(node(ours, &["-o", "delete"])),
    ];
    scene("refused", "Logins that fail", &[steps])
}

fn scan() -> Scene {
    let scan = "/sys/class/scsi_host/host0/scan";
    let device = "/sys/class/scsi_device/0:0:0:1/device";
    let mut steps = vec![
        map_volume(64),
        quietly(write(scan, "0 0 1\n")),
        order(&[
            "/sys/class/scsi_device/0:0:0:1",
            "/sys/class/scsi_generic/sg0",
            "/dev/sda",
            "/dev/disk/by-id/scsi-3600a098038302d426b3f5478795a3132",
            "/run/udev/data/b8:0",
        ]),
        holds("/run/udev/data/b8:0", "ID_SERIAL="),
        Step::Events,
        names("/sys/class/scsi_device"),
        link("/sys/class/scsi_device/0:0:0:1"),
        tree(device),
        link("/sys/block/sda"),
        names("/sys/class/scsi_generic"),
        link("/sys/class/scsi_generic/sg0"),
        file("/run/udev/data/b8:0"),
        link("/dev/disk/by-id/wwn-0x600a098038302d426b3f5478795a3132"),
        link("/dev/disk/by-id/scsi-3600a098038302d426b3f5478795a3132"),
        link("/dev/disk/by-path/ip-10.77.1.2:3260-iscsi-iqn.1992-08.com.netapp:sn.lab0:vs.2-lun-1"),
    ];
    for page in [None, Some(0x00), Some(0x80), Some(0x83), Some(0xc0)] {
        steps.push(Step::Inquiry("/dev/sg0".to_owned(), page));
    }
    for value in ["0 0 1\n", "0 0 7\n", "0 0 0\n", "0 1 1\n", "1 0 1\n", "0 0\n", "all\n"] {
        steps.extend([write(scan, value), Step::Events, names("/sys/class/scsi_device")]);
    }
    steps.extend([
        quietly(Step::Array(Act::Unmap(1))),
        write(scan, "0 0 1\n"),
        names("/sys/class/scsi_device"),
        write(&format!("{device}/delete"), "1\n"),
        gone("/sys/class/scsi_device/0:0:0:1"),
        Step::Events,
        file("/run/udev/data/b8:0"),
        link("/sys/block/sda"),
        write(scan, "0 0 1\n"),
        Step::Events,
        names("/sys/class/scsi_device"),
    ]);
    connected_scene("scan", "Targeted scans: of what is shown, of what is not, and deleting", &[steps])
}

/// Numbers above 255 are addressed in another way, which shows in the number.
fn high() -> Scene {
    let scan = "/sys/class/scsi_host/host0/scan";
    let device = "/sys/class/scsi_device/0:0:0:16684";
    let steps = vec![
        Step::Array(Act::Map { lun: 300, volume: 0x34, mebibytes: 64 }),
        write(scan, "0 0 300\n"),
        Step::Events,
        names("/sys/class/scsi_device"),
        write(scan, "0 0 16684\n"),
        holds("/run/udev/data/b8:0", "ID_SERIAL="),
        Step::Events,
        names("/sys/class/scsi_device"),
        attribute(&format!("{device}/device/wwid")),
        Step::Inquiry("/dev/sg0".to_owned(), None),
        file("/run/udev/data/b8:0"),
        Step::Multipathd("show paths raw format \"%d|%i|%w|%L\"".to_owned()),
        quietly(write(&format!("{device}/device/delete"), "1\n")),
        gone(device),
        quietly(Step::Array(Act::Unmap(300))),
    ];
    connected_scene("high", "A LUN number above 255", &[steps])
}

fn reuse() -> Scene {
    let device = "/sys/class/scsi_device/0:0:0:1/device";
    let look = vec![
        attribute(&format!("{device}/wwid")),
        attribute(&format!("{device}/state")),
        attribute("/sys/block/sda/size"),
        Step::Inquiry("/dev/sg0".to_owned(), Some(0x80)),
    ];
    let steps =
        vec![Step::Array(Act::Unmap(1)), Step::Array(Act::Map { lun: 1, volume: 0x33, mebibytes: 96 })];
    let rescan = vec![write("/sys/class/scsi_host/host0/scan", "0 0 1\n"), Step::Events];
    let device_rescan = vec![write(&format!("{device}/rescan"), "1\n"), Step::Events];
    connected_scene(
        "reuse",
        "A LUN number given to another volume, with the old device there",
        &[
            vec![map_volume(64)],
            legs(),
            look.clone(),
            steps,
            look.clone(),
            rescan,
            look.clone(),
            device_rescan,
            look,
            vec![file("/run/udev/data/b8:0")],
            no_legs(),
        ],
    )
}

fn states() -> Scene {
    let device = "/sys/class/scsi_device/0:0:0:1/device";
    let state = format!("{device}/state");
    let mut steps = Vec::new();
    for value in ["offline\n", "offline\n", "running\n", "running\n", "offline", "blocked\n", "nonsense\n"] {
        steps.extend([write(&state, value), attribute(&state)]);
    }
    steps.extend([
        Step::Events,
        write(&state, "offline\n"),
        write(&format!("{device}/rescan"), "1\n"),
        Step::Inquiry("/dev/sg0".to_owned(), None),
        Step::Read("/dev/sda".to_owned()),
        write("/sys/block/sda/size", "1\n"),
        Step::Events,
    ]);
    connected_scene("states", "States of a leg", &[vec![map_volume(64)], legs(), steps, no_legs()])
}

fn logout() -> Scene {
    let ours = "10.77.1.2:3260";
    let steps = vec![
        node(ours, &["--logout"]),
        Step::Events,
        names("/sys/class/scsi_device"),
        file("/run/udev/data/b8:0"),
        quietly(node(ours, &["--login"])),
        // A manual scan: nothing comes back by itself.
        Step::Await(Until::Quiet),
        names("/sys/class/scsi_device"),
        quietly(write("/sys/class/scsi_device/1:0:0:1/device/delete", "1\n")),
        gone("/sys/class/scsi_device/1:0:0:1"),
    ];
    connected_scene("logout", "A session with a leg is logged out", &[vec![map_volume(64)], legs(), steps])
}

fn rescan() -> Scene {
    let device = "/sys/class/scsi_device/0:0:0:1/device";
    let steps = vec![
        map_volume(96),
        attribute("/sys/block/sda/size"),
        write(&format!("{device}/rescan"), "1\n"),
        Step::Events,
        attribute("/sys/block/sda/size"),
        attribute("/sys/block/sdb/size"),
        // Nothing changed any more.
        write(&format!("{device}/rescan"), "1\n"),
        Step::Events,
        Step::Array(Act::Unmap(1)),
        write(&format!("{device}/rescan"), "1\n"),
        Step::Events,
        attribute("/sys/block/sda/size"),
        attribute(&format!("{device}/wwid")),
        attribute(&format!("{device}/state")),
    ];
    connected_scene(
        "rescan",
        "Growing and unmapping under a leg",
        &[vec![map_volume(64)], legs(), steps, no_legs()],
    )
}
