//! A model of the program `iscsiadm`: its arguments, its texts and its exit codes.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use san_host::Output;

use super::interfaces::{DEFAULT, Interface};
use super::iscsi::{Iscsid, Login, Session};
use super::machine::Machine;
use super::node::SimNode;
use super::records::Record;
use super::settings::Release;

/// How long iscsiadm tries to get the lock of its data base.
const LOCK_PATIENCE: Duration = Duration::from_secs(30);
/// The hard link a running iscsiadm holds.
const LOCK: &str = "/run/lock/iscsi/lock.write";

const OK: i32 = 0;
const DATABASE: i32 = 6;
const NO_MEMORY: i32 = 3;
const INVALID: i32 = 7;
const SESSION_EXISTS: i32 = 15;
const NO_ISCSID: i32 = 20;
const NO_OBJECTS: i32 = 21;
const SYSFS_LOOKUP: i32 = 22;

/// What iscsiadm was asked for.
#[derive(Debug, Default)]
struct Call {
    mode: String,
    target: Option<String>,
    portal: Option<SocketAddr>,
    group: Option<u16>,
    iface: Option<String>,
    operation: Option<String>,
    names: Vec<String>,
    values: Vec<String>,
    sid: Option<u32>,
    flags: BTreeSet<Flag>,
}

/// An argument that takes no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Flag {
    Login,
    Logout,
    Rescan,
    NoWait,
    Version,
}

impl Call {
    fn has(&self, flag: Flag) -> bool {
        self.flags.contains(&flag)
    }
}

/// The program's texts and exit code, as they grow.
#[derive(Debug, Default)]
struct Screen {
    code: i32,
    out: String,
    err: String,
}

impl Screen {
    fn say(&mut self, line: &str) {
        self.out.push_str(line);
        self.out.push('\n');
    }

    fn complain(&mut self, line: &str) {
        self.err.push_str("iscsiadm: ");
        self.err.push_str(line);
        self.err.push('\n');
    }

    fn fail(mut self, code: i32, line: &str) -> Self {
        self.complain(line);
        self.code = code;
        self
    }

    fn output(self) -> Output {
        Output { code: Some(self.code), stdout: self.out.into_bytes(), stderr: self.err.into_bytes() }
    }
}

/// `ADDRESS[:PORT][,GROUP]`.
fn portal(text: &str) -> Option<(SocketAddr, Option<u16>)> {
    let (address, group) = match text.split_once(',') {
        Some((address, group)) => (address, Some(group.parse().ok()?)),
        None => (text, None),
    };
    let address = match address.parse::<SocketAddr>() {
        Ok(it) => it,
        Err(_) => SocketAddr::new(address.trim_matches(['[', ']']).parse().ok()?, 3260),
    };
    Some((address, group))
}

/// Reads the arguments; the error is the argument that is not understood.
fn parse(arguments: &[String]) -> Result<Call, String> {
    let mut call = Call::default();
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        let (name, inline) = match argument.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
            _ => (argument.as_str(), None),
        };
        let mut value = || inline.clone().or_else(|| rest.next().cloned()).ok_or_else(|| argument.clone());
        match name {
            "-m" | "--mode" => call.mode = value()?,
            "-T" | "--targetname" => call.target = Some(value()?),
            "-p" | "--portal" => {
                let text = value()?;
                let (address, group) = portal(&text).ok_or(text)?;
                call.portal = Some(address);
                call.group = group;
            }
            "-I" | "--interface" => call.iface = Some(value()?),
            "-o" | "--op" => call.operation = Some(value()?),
            "-n" | "--name" => call.names.push(value()?),
            "-v" | "--value" => call.values.push(value()?),
            "-r" | "--sid" => {
                let text = value()?;
                call.sid = Some(text.parse().map_err(|_| text)?);
            }
            "-P" | "--print" => {
                value()?;
            }
            "-l" | "--login" => {
                call.flags.insert(Flag::Login);
            }
            "-u" | "--logout" => {
                call.flags.insert(Flag::Logout);
            }
            "-R" | "--rescan" => {
                call.flags.insert(Flag::Rescan);
            }
            "-W" | "--no_wait" => {
                call.flags.insert(Flag::NoWait);
            }
            "-V" | "--version" => {
                call.flags.insert(Flag::Version);
            }
            _ => return Err(argument.clone()),
        }
    }
    Ok(call)
}

/// The portal as iscsiadm prints it in messages.
fn shown(portal: SocketAddr) -> String {
    format!("{},{}", portal.ip(), portal.port())
}

/// The portal as iscsiadm prints it in lists.
fn listed(portal: SocketAddr, group: Option<u16>) -> String {
    format!("{portal},{}", group.map_or(u32::MAX, u32::from))
}

/// Runs the program to its end.
pub(crate) async fn run(node: &SimNode, arguments: &[String]) -> Output {
    let time = node.look(|it| it.spec.timing.program);
    tokio::time::sleep(time).await;
    let call = match parse(arguments) {
        Ok(call) => call,
        Err(argument) => {
            let text = format!("unrecognized option '{argument}'");
            return Screen::default().fail(INVALID, &text).output();
        }
    };
    if call.has(Flag::Version) {
        let mut screen = Screen::default();
        screen.say(&format!("iscsiadm version {}", node.look(|it| it.spec.release.open_iscsi())));
        return screen.output();
    }
    let screen = match call.mode.as_str() {
        "session" => node.look(|it| session(it, &call)),
        "iface" => node.look(|it| interface_mode(it, &call)),
        "node" => {
            if node.look(|it| it.tree.entry(LOCK).is_some()) {
                tokio::time::sleep(LOCK_PATIENCE).await;
                if node.look(|it| it.tree.entry(LOCK).is_some()) {
                    return Screen::default().fail(DATABASE, "Could not lock the database").output();
                }
            }
            node_mode(node, &call).await
        }
        _ => Screen::default().fail(INVALID, "This mode is not simulated."),
    };
    screen.output()
}

/// `-m session`.
fn session(machine: &mut Machine, call: &Call) -> Screen {
    let mut screen = Screen::default();
    let chosen: Vec<u32> = match call.sid {
        Some(sid) if !machine.iscsi.sessions.contains_key(&sid) => {
            screen.complain("could not read session targetname: 5");
            return screen.fail(SYSFS_LOOKUP, &format!("Could not get session info for sid {sid}"));
        }
        Some(sid) => vec![sid],
        None => machine.iscsi.sessions.keys().copied().collect(),
    };
    if chosen.is_empty() {
        let text = if call.has(Flag::Rescan) || call.has(Flag::Logout) {
            "No session found."
        } else {
            "No active sessions."
        };
        return screen.fail(NO_OBJECTS, text);
    }
    if call.has(Flag::Logout) {
        return logout(machine, &chosen);
    }
    for sid in chosen {
        let Some(it) = machine.iscsi.sessions.get(&sid) else { continue };
        if call.has(Flag::Rescan) {
            screen.say(&format!(
                "Rescanning session [sid: {sid}, target: {}, portal: {}]",
                it.target,
                shown(it.portal)
            ));
            machine.rescan_session(sid);
        } else {
            let portal = listed(it.portal, Some(it.group));
            screen.say(&format!("tcp: [{sid}] {portal} {} (non-flash)", it.target));
        }
    }
    screen
}

fn logout(machine: &mut Machine, sids: &[u32]) -> Screen {
    let mut screen = Screen::default();
    if machine.iscsi.iscsid == Iscsid::Stopped {
        screen.complain("can not connect to iSCSI daemon (111)!");
        return screen.fail(NO_ISCSID, "initiator reported error (20 - could not connect to iscsid)");
    }
    let sessions = || sids.iter().filter_map(|sid| machine.iscsi.sessions.get(sid));
    let named: Vec<String> = sessions()
        .map(|it| format!("[sid: {}, target: {}, portal: {}]", it.sid, it.target, shown(it.portal)))
        .collect();
    for name in &named {
        screen.say(&format!("Logging out of session {name}"));
    }
    for (sid, name) in sids.iter().zip(&named) {
        machine.logout(*sid);
        screen.say(&format!("Logout of {name} successful."));
    }
    screen
}

/// Whether a record is one the call means.
fn is_meant(call: &Call, record: &Record) -> bool {
    call.target.as_deref().is_none_or(|it| it == record.target())
        && call.portal.is_none_or(|it| it == record.portal())
        && call.group.is_none_or(|it| record.group().is_none_or(|own| own == it))
        && call.iface.as_deref().is_none_or(|it| it == record.iface())
}

fn is_meant_session(call: &Call, session: &Session) -> bool {
    call.target.as_deref().is_none_or(|it| it == session.target)
        && call.portal.is_none_or(|it| it == session.portal)
        && call.group.is_none_or(|it| it == session.group)
        && call.iface.as_deref().is_none_or(|it| it == session.iface)
}

/// `-m iface`.
fn interface_mode(machine: &mut Machine, call: &Call) -> Screen {
    let mut screen = Screen::default();
    let Some(name) = call.iface.as_deref() else {
        return screen.fail(INVALID, "This operation is not simulated.");
    };
    if call.operation.as_deref() == Some("new") {
        machine.save_interface(name, &Interface::new(name));
        screen.say(&format!("{name} updated."));
        screen.say(&format!("New interface {name} added"));
        return screen;
    }
    let Some(mut interface) = machine.interface(name) else {
        return screen.fail(NO_OBJECTS, &format!("Could not read iface {name}"));
    };
    match call.operation.as_deref() {
        Some("update") => {
            for (setting, value) in call.names.iter().zip(&call.values) {
                if !interface.put(setting, value) {
                    return screen.fail(INVALID, &format!("Cannot modify {setting}. Invalid param name."));
                }
            }
            machine.save_interface(name, &interface);
            screen.say(&format!("{name} updated."));
        }
        Some("delete") => {
            machine.delete_interface(name);
            screen.say(&format!("{name} unbound and deleted."));
        }
        _ => return screen.fail(INVALID, "This operation is not simulated."),
    }
    screen
}

/// `-m node`.
async fn node_mode(node: &SimNode, call: &Call) -> Screen {
    if let Some(name) = &call.iface
        && node.look(|it| it.interface(name).is_none())
    {
        return Screen::default().fail(NO_MEMORY, &format!("Could not read iface info for {name}."));
    }
    if call.operation.as_deref() == Some("new") {
        return node.look(|it| new_record(it, call));
    }
    if call.has(Flag::Logout) {
        // Sessions are found without their records.
        return node.look(|machine| {
            let sessions = machine.iscsi.sessions.values();
            let sids: Vec<u32> = sessions.filter(|it| is_meant_session(call, it)).map(|it| it.sid).collect();
            if sids.is_empty() {
                return Screen::default().fail(NO_OBJECTS, "No matching sessions found");
            }
            logout(machine, &sids)
        });
    }
    let records: Vec<Record> =
        node.look(|it| it.records().into_iter().filter(|record| is_meant(call, record)).collect());
    if records.is_empty() {
        return Screen::default().fail(NO_OBJECTS, "No records found");
    }
    if call.has(Flag::Login) {
        return login(node, call, &records).await;
    }
    node.look(|machine| match call.operation.as_deref() {
        Some("update") => update(machine, call, records),
        Some("delete") => delete(machine, &records),
        Some("show") => show(machine.spec.release, &records),
        None if call.target.is_some() => show(machine.spec.release, &records),
        None => {
            let mut screen = Screen::default();
            for it in &records {
                screen.say(&format!("{} {}", listed(it.portal(), it.group()), it.target()));
            }
            screen
        }
        Some(_) => Screen::default().fail(INVALID, "This operation is not simulated."),
    })
}

fn show(release: Release, records: &[Record]) -> Screen {
    let mut screen = Screen::default();
    for it in records {
        screen.out.push_str(&it.show(release));
    }
    screen
}

fn new_record(machine: &mut Machine, call: &Call) -> Screen {
    let mut screen = Screen::default();
    let (Some(target), Some(portal)) = (&call.target, call.portal) else {
        return screen.fail(INVALID, "portal and target required for new node record");
    };
    let name = call.iface.as_deref().unwrap_or(DEFAULT);
    let interface = machine.interface(name).unwrap_or_else(|| Interface::new(name));
    let known = machine.group_on_record(target, portal).filter(|_| call.group.is_none());
    if let Some(group) = known {
        screen.complain(&format!("using tpgt {group} from existing record"));
    }
    let record = Record::new(machine.spec.release, target, portal, call.group.or(known), &interface);
    machine.save_record(&record);
    let group = call.group.map_or(-1, i32::from);
    screen.say(&format!(
        "New iSCSI node [tcp:[hw=,ip=,net_if={},iscsi_if={name}] {},{group} {target}] added",
        interface.card(),
        shown(portal)
    ));
    screen
}

fn update(machine: &mut Machine, call: &Call, records: Vec<Record>) -> Screen {
    let screen = Screen::default();
    if call.names.is_empty() || call.names.len() != call.values.len() {
        return screen.fail(INVALID, "name and value must be given in pairs");
    }
    for mut record in records {
        for (name, value) in call.names.iter().zip(&call.values) {
            if !record.put(name, value) {
                let screen = screen.fail(INVALID, &format!("Cannot modify {name}. Invalid param name."));
                return screen.fail(INVALID, "Could not execute operation on all records: invalid parameter");
            }
        }
        machine.save_record(&record);
    }
    screen
}

fn delete(machine: &mut Machine, records: &[Record]) -> Screen {
    let mut screen = Screen::default();
    for it in records {
        if machine.session_with(it.target(), it.portal(), it.iface()).is_some() {
            screen.complain(&format!(
                "This command will remove the record {}, but a session is using it. Logout session then rerun \
                 command to remove record.",
                login_name(it)
            ));
            screen.code = SESSION_EXISTS;
        } else {
            machine.delete_record(it);
        }
    }
    if screen.code != OK {
        screen.complain("Could not execute operation on all records: session exists");
    }
    screen
}

fn login_name(record: &Record) -> String {
    format!("[iface: {}, target: {}, portal: {}]", record.iface(), record.target(), shown(record.portal()))
}

fn reason(code: i32) -> &'static str {
    match code {
        8 => "connection timed out",
        19 => "encountered non-retryable iSCSI login failure",
        20 => "could not connect to iscsid",
        24 => "iSCSI login failed due to authorization failure",
        _ => "unknown error",
    }
}

async fn login(node: &SimNode, call: &Call, records: &[Record]) -> Screen {
    let mut screen = Screen::default();
    let (stopped, release) = node.look(|it| (it.iscsi.iscsid == Iscsid::Stopped, it.spec.release));
    let mut asked = Vec::new();
    for record in records {
        let there = node.look(|it| {
            it.session_with(record.target(), record.portal(), record.iface()).is_some()
                || it.login_pending(record)
        });
        if there {
            screen.complain(&format!("{}: 1 session requested, but 1 already present.", record.iface()));
            screen.code = SESSION_EXISTS;
            continue;
        }
        if release == Release::Debian12 {
            screen.say(&format!("Logging in to {}", login_name(record)));
        }
        let id = if stopped { None } else { Some(node.look(|it| it.request_login(record))) };
        asked.push((record, id));
    }
    if stopped && !asked.is_empty() {
        screen.complain("can not connect to iSCSI daemon (111)!");
    }
    for (record, id) in asked {
        let outcome = match id {
            None => Login::Failed(NO_ISCSID),
            Some(_) if call.has(Flag::NoWait) => continue,
            Some(id) => node.until(|it| it.login_outcome(id)).await,
        };
        match outcome {
            Login::Done => screen.say(&format!("Login to {} successful.", login_name(record))),
            Login::Failed(code) => {
                screen.complain(&format!("Could not login to {}.", login_name(record)));
                screen.complain(&format!("initiator reported error ({code} - {})", reason(code)));
                screen.code = code;
            }
        }
    }
    if screen.code != OK {
        screen.complain("Could not log into all portals");
    }
    screen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portals_are_read_in_every_spelling() {
        let v4 = "10.0.0.1:3260".parse().unwrap();
        assert_eq!(portal("10.0.0.1"), Some((v4, None)));
        assert_eq!(portal("10.0.0.1:3260,1028"), Some((v4, Some(1028))));
        assert_eq!(portal("[fe80::1]:3261"), Some(("[fe80::1]:3261".parse().unwrap(), None)));
        assert_eq!(portal("nonsense"), None);
    }

    #[test]
    fn arguments_are_read_long_and_short() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let call =
            parse(&words("-m node --targetname=iqn.x -p 10.0.0.1 -o update -n a -v 1 -n b -v 2")).unwrap();
        assert_eq!(call.target.as_deref(), Some("iqn.x"));
        assert_eq!((call.names.len(), call.values[1].as_str()), (2, "2"));
        assert_eq!(parse(&words("-m node --frob")).unwrap_err(), "--frob");
    }
}
