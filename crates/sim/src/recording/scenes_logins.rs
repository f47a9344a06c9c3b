//! The scenes: records for interfaces of their own, and what is proved by CHAP.

use super::scene::{Act, Admission, Scene, Step};
use super::scenes::{RECORDS, TARGET, file, iscsiadm, names, quietly, scene, settings};

/// A user and secret that hosts do not know.
pub(super) const STRANGER: (&str, &str) = ("somebody", "not-this-host-s");
/// The user and secret of the host.
pub(super) const HOST: (&str, &str) = ("nodes", "secret-of-the-host");
/// The user and secret of the target.
pub(super) const OURSELVES: (&str, &str) = ("filer", "secret-of-the-array");

const PORTAL: &str = "10.77.1.2:3260";
/// Where open-iscsi keeps interfaces.
const INTERFACES: &str = "/var/lib/iscsi/ifaces";

fn through(interface: &str, portal: &str, tail: &[&str]) -> Step {
    let head = ["-m", "node", "-T", TARGET, "-p", portal, "-I", interface];
    iscsiadm(&[&head[..], tail].concat())
}

fn interface(name: &str, tail: &[&str]) -> Step {
    iscsiadm(&[&["-m", "iface", "-I", name][..], tail].concat())
}

/// Sessions through two interfaces, as the iSCSI transport makes them, and what becomes of records without a group.
pub(super) fn interfaces() -> Scene {
    let (first, second) = ("lab.first", "lab.second");
    let grouped = "10.77.1.2:3260,1028";
    let folder = format!("{RECORDS}/10.77.1.2,3260,1028");
    let bound = ["-o", "update", "-n", "iface.net_ifacename", "-v", "h1"];
    let steps = vec![
        through(first, PORTAL, &["-o", "new"]),
        through(first, PORTAL, &["--login"]),
        through(first, PORTAL, &["-o", "delete"]),
        names(RECORDS),
        interface(first, &["-o", "new"]),
        interface(first, &bound),
        file(&format!("{INTERFACES}/{first}")),
        quietly(interface(second, &["-o", "new"])),
        quietly(interface(second, &bound)),
        names(INTERFACES),
        // The first has a record without a group; the second's, with one, takes its place.
        through(first, PORTAL, &["-o", "new"]),
        file(&format!("{RECORDS}/10.77.1.2,3260")),
        quietly(through(first, PORTAL, &settings())),
        through(first, PORTAL, &["--login"]),
        through(second, grouped, &["-o", "new"]),
        names(RECORDS),
        names(&folder),
        quietly(through(second, PORTAL, &settings())),
        through(second, PORTAL, &["--login"]),
        iscsiadm(&["-m", "session"]),
        names("/sys/class/iscsi_session"),
        through(first, PORTAL, &["--login"]),
        // A session is found and ended without its record.
        through(first, PORTAL, &["--logout"]),
        through(first, PORTAL, &["-o", "delete"]),
        // Beside a record with a group, one without gets that group.
        through(first, PORTAL, &["-o", "new"]),
        names(&folder),
        quietly(through(first, PORTAL, &["-o", "delete"])),
        quietly(through(second, PORTAL, &["--logout"])),
        quietly(through(second, PORTAL, &["-o", "delete"])),
        names(RECORDS),
        // One portal has one record without a group, whoever makes it.
        quietly(through("default", PORTAL, &["-o", "new"])),
        through(first, PORTAL, &["-o", "new"]),
        through("default", PORTAL, &["-o", "delete"]),
        through(first, PORTAL, &["-o", "delete"]),
        names(RECORDS),
        interface(first, &["-o", "delete"]),
        quietly(interface(second, &["-o", "delete"])),
        names(INTERFACES),
    ];
    scene("interfaces", "Records and sessions through two interfaces", &[steps])
}

/// Changes what the record says of CHAP.
fn proves(settings: &[(&str, &str)]) -> Step {
    let names: Vec<String> = settings.iter().map(|(name, _)| format!("node.session.auth.{name}")).collect();
    let mut tail = vec!["-o", "update"];
    for (name, (_, value)) in names.iter().zip(settings) {
        tail.extend(["-n", name, "-v", value]);
    }
    through("default", PORTAL, &tail)
}

/// Logs in, and out where that went well.
fn attempt(goes_well: bool) -> Vec<Step> {
    let login = through("default", PORTAL, &["--login"]);
    let logout = goes_well.then(|| quietly(through("default", PORTAL, &["--logout"])));
    std::iter::once(login).chain(logout).collect()
}

/// What a login ends with when something is to be proved.
pub(super) fn proofs() -> Scene {
    let admit = |it| vec![Step::Array(Act::Admit(it))];
    // Nothing is silent here, and a proof takes several turns: a slow machine has time for them.
    let patience = ["-o", "update", "-n", "node.conn[0].timeo.login_timeout", "-v", "15"];
    let own = |secret| proves(&[("authmethod", "CHAP"), ("username", HOST.0), ("password", secret)]);
    let asks = |user, secret| proves(&[("username_in", user), ("password_in", secret)]);
    scene(
        "proofs",
        "Logins that prove something, and want to be proved something",
        &[
            vec![quietly(through("default", PORTAL, &["-o", "new"]))],
            vec![quietly(through("default", PORTAL, &settings()))],
            vec![quietly(through("default", PORTAL, &patience))],
            admit(Admission::Mutual),
            attempt(false),
            vec![own("another-secret")],
            attempt(false),
            vec![own(HOST.1)],
            attempt(true),
            vec![asks(OURSELVES.0, OURSELVES.1)],
            attempt(true),
            vec![asks(OURSELVES.0, "another-secret")],
            attempt(false),
            vec![asks("somebody", OURSELVES.1)],
            attempt(false),
            admit(Admission::OneWay),
            vec![asks(OURSELVES.0, OURSELVES.1)],
            attempt(false),
            admit(Admission::Open),
            vec![quietly(through("default", PORTAL, &["-o", "delete"]))],
        ],
    )
}
