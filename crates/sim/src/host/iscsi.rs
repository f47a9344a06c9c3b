//! iSCSI sessions: the kernel's part (states, devices in sysfs) and iscsid's part (logging in, noticing and repairing).

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::formats::{self, lay_out, lowest_free};
use super::log::LogKind;
use super::machine::{Event, Machine};
use super::records::Record;
use super::scsi::{Address, LegState};
use super::tree::Action;
use crate::target::{LoginOutcome, Proof, Reachability};

/// The state of a session as sysfs names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SessionState {
    /// Usable.
    LoggedIn,
    /// Lost a moment ago; commands wait.
    Failed,
    /// Lost for longer than the replacement timeout; commands fail.
    Free,
}

impl SessionState {
    /// The text in sysfs.
    pub fn text(self) -> &'static str {
        match self {
            Self::LoggedIn => "LOGGED_IN",
            Self::Failed => "FAILED",
            Self::Free => "FREE",
        }
    }
}

/// Whether sessions are scanned by themselves (`node.session.scan`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ScanMode {
    Auto,
    Manual,
}

/// One session.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) sid: u32,
    pub(crate) host: u32,
    pub(crate) target: String,
    pub(crate) portal: SocketAddr,
    pub(crate) group: u16,
    pub(crate) iface: String,
    pub(crate) state: SessionState,
    pub(crate) scan: ScanMode,
    recovery: Duration,
    noop: (Duration, Duration),
    outage: u64,
    /// What iscsid proves when it logs in again: as it was when the session was made, whatever the record says since.
    proof: Proof,
    /// Whether any unit was found behind it.
    pub(crate) is_scanned: bool,
}

/// What came of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Login {
    Done,
    /// iscsiadm's exit code.
    Failed(i32),
}

/// A login under way in iscsid.
#[derive(Debug)]
struct Pending {
    record: Record,
    outcome: Option<Login>,
    /// Whether the portal answered when the login began.
    answered: bool,
}

/// Whether iscsid runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Iscsid {
    #[default]
    Running,
    Stopped,
}

/// All of it.
#[derive(Debug, Default)]
pub(crate) struct Iscsi {
    pub(crate) iscsid: Iscsid,
    pub(crate) sessions: BTreeMap<u32, Session>,
    pending: BTreeMap<u64, Pending>,
    last_sid: u32,
    outages: u64,
}

impl Iscsi {
    pub(crate) fn crash(&mut self) {
        *self = Self { outages: self.outages, ..Self::default() };
    }

    pub(crate) fn on_host(&self, host: u32) -> Option<&Session> {
        self.sessions.values().find(|it| it.host == host)
    }
}

impl Machine {
    /// The address of this node on a portal's network.
    pub(crate) fn local_address(&self, portal: SocketAddr) -> IpAddr {
        let numbered = u8::try_from(100 + self.number).unwrap_or(254);
        let last = self.spec.station.unwrap_or(numbered);
        match portal.ip() {
            IpAddr::V4(it) => {
                let [a, b, c, _] = it.octets();
                IpAddr::from([a, b, c, last])
            }
            IpAddr::V6(it) => {
                let mut octets = it.octets();
                octets[15] = last;
                IpAddr::from(octets)
            }
        }
    }

    /// Whether there is a session with this portal of this target, and its number.
    pub(crate) fn session_with(&self, target: &str, portal: SocketAddr, iface: &str) -> Option<u32> {
        let same = |it: &&Session| it.target == target && it.portal == portal && it.iface == iface;
        self.iscsi.sessions.values().find(same).map(|it| it.sid)
    }

    /// Asks iscsid to log in; the outcome is fetched with [`Machine::login_outcome`], and comes also if nobody asks.
    pub(crate) fn request_login(&mut self, record: &Record) -> u64 {
        let id = self.serial();
        let has_target = self.portal(record.portal()).is_some_and(|(it, _)| it.target == record.target());
        let answered = self.reachability(record.portal()) == Reachability::Up && has_target;
        let time = if answered { self.spec.timing.login } else { record.login_patience() };
        self.iscsi.pending.insert(id, Pending { record: record.clone(), outcome: None, answered });
        self.later(time, Event::Login { id });
        id
    }

    /// The outcome of a login once it is known; forgets it.
    pub(crate) fn login_outcome(&mut self, id: u64) -> Option<Login> {
        let outcome = self.iscsi.pending.get(&id).map_or(Some(Login::Failed(8)), |it| it.outcome)?;
        self.iscsi.pending.remove(&id);
        Some(outcome)
    }

    /// Whether a login to the same portal of the same target through the same interface is under way.
    pub(crate) fn login_pending(&self, record: &Record) -> bool {
        let same = |it: &Pending| {
            it.outcome.is_none()
                && it.record.target() == record.target()
                && it.record.portal() == record.portal()
                && it.record.iface() == record.iface()
        };
        self.iscsi.pending.values().any(same)
    }

    pub(crate) fn login_ends(&mut self, id: u64) {
        let Some(pending) = self.iscsi.pending.get(&id) else { return };
        let (record, answered) = (pending.record.clone(), pending.answered);
        let up = self.reachability(record.portal()) == Reachability::Up;
        let outcome = if answered && up { self.login(&record) } else { Login::Failed(8) };
        if let Some(pending) = self.iscsi.pending.get_mut(&id) {
            pending.outcome = Some(outcome);
        }
    }

    /// iscsid logs in once by a record. Reachability was looked at before.
    pub(crate) fn login(&mut self, record: &Record) -> Login {
        let address = record.portal();
        if let Some(code) = self.faults.logins.get(&address) {
            return Login::Failed(*code);
        }
        let Some((portal, array)) = self.portal(address) else { return Login::Failed(8) };
        if portal.target != record.target() {
            // The target says that there is none of that name, and iscsid asks again until its time is over.
            return Login::Failed(8);
        }
        if record.group().is_some_and(|it| it != portal.group) {
            return Login::Failed(19);
        }
        match array.access(&self.spec.initiator, address).outcome(&record.proof()) {
            LoginOutcome::Taken => {}
            LoginOutcome::RefusedByTarget => return Login::Failed(24),
            LoginOutcome::RefusedByInitiator => return Login::Failed(19),
        }
        let sid = self.session_appears(record, portal.group);
        array.logged_in(&self.spec.initiator, address);
        self.note(LogKind::Event, format!("session {sid} with {address} logged in"));
        if record.scan() == ScanMode::Auto {
            self.scan_all(sid);
        }
        Login::Done
    }

    fn session_appears(&mut self, record: &Record, group: u16) -> u32 {
        self.iscsi.last_sid += 1;
        let sid = self.iscsi.last_sid;
        let used: Vec<u32> = self.iscsi.sessions.values().map(|it| it.host).collect();
        let host = lowest_free(|it| used.contains(&it));
        let session = Session {
            sid,
            host,
            target: record.target().to_owned(),
            portal: record.portal(),
            group,
            iface: record.iface().to_owned(),
            state: SessionState::LoggedIn,
            scan: record.scan(),
            recovery: record.seconds("node.session.timeo.replacement_timeout"),
            noop: (
                record.seconds("node.conn[0].timeo.noop_out_interval"),
                record.seconds("node.conn[0].timeo.noop_out_timeout"),
            ),
            outage: 0,
            proof: record.proof(),
            is_scanned: false,
        };
        self.session_into_sysfs(&session);
        self.iscsi.sessions.insert(sid, session);
        self.show_session(sid);
        self.tell_of_session("add", host, sid);
        self.later(self.noop_interval(sid), Event::Session { sid });
        sid
    }

    fn session_into_sysfs(&mut self, it: &Session) {
        let (sid, host) = (it.sid, it.host);
        let base = format!("/sys/devices/platform/host{host}");
        let local = self.local_address(it.portal).to_string();
        let connection = format!("connection{sid}:0");
        let folders = [
            (format!("{base}/scsi_host/host{host}"), "scsi_host", format!("host{host}")),
            (format!("{base}/iscsi_host/host{host}"), "iscsi_host", format!("host{host}")),
            (
                format!("{base}/session{sid}/iscsi_session/session{sid}"),
                "iscsi_session",
                format!("session{sid}"),
            ),
            (
                format!("{base}/session{sid}/{connection}/iscsi_connection/{connection}"),
                "iscsi_connection",
                connection.clone(),
            ),
        ];
        let address = it.portal.ip().to_string();
        let port = it.portal.port().to_string();
        let values: [(&str, Vec<(&str, String)>); 4] = [
            (formats::SCSI_HOST, vec![("unique_id", host.to_string())]),
            (formats::ISCSI_HOST, vec![("ipaddress", local)]),
            (
                formats::ISCSI_SESSION,
                vec![
                    ("initiatorname", self.spec.initiator.clone()),
                    ("recovery_tmo", it.recovery.as_secs().to_string()),
                    ("targetname", it.target.clone()),
                    ("tpgt", it.group.to_string()),
                    ("ifacename", it.iface.clone()),
                ],
            ),
            (
                formats::ISCSI_CONNECTION,
                vec![
                    ("ping_tmo", it.noop.1.as_secs().to_string()),
                    ("recv_tmo", it.noop.0.as_secs().to_string()),
                    ("address", address.clone()),
                    ("persistent_address", address),
                    ("port", port.clone()),
                    ("persistent_port", port),
                ],
            ),
        ];
        for ((folder, class, name), (recorded, values)) in folders.iter().zip(&values) {
            lay_out(&mut self.tree, folder, recorded, values);
            let depth = folder.matches('/').count() - 1;
            let device = folder.rsplit('/').nth(2).unwrap_or_default();
            self.tree.put_link(&format!("{folder}/device"), &format!("../../../{device}"));
            self.tree
                .put_link(&format!("{folder}/subsystem"), &format!("{}class/{class}", "../".repeat(depth)));
            let target = folder.strip_prefix("/sys/").unwrap_or(folder);
            self.tree.put_link(&format!("/sys/class/{class}/{name}"), &format!("../../{target}"));
        }
        self.tree.put_attr(&format!("{base}/scsi_host/host{host}/scan"), None, Some(Action::Scan(host)));
        self.tree.put_attr(&format!("{base}/scsi_host/host{host}/host_reset"), None, None);
        self.tree.put_file(&format!("{base}/uevent"), "DEVTYPE=scsi_host");
        self.tree.put_link(&format!("{base}/subsystem"), "../../../bus/scsi");
        self.tree.put_file(&format!("{base}/session{sid}/uevent"), "");
        self.tree.put_file(&format!("{base}/session{sid}/connection{sid}:0/uevent"), "");
    }

    /// Logs out: every device of the session goes, whoever uses it.
    pub(crate) fn logout(&mut self, sid: u32) -> bool {
        let Some(session) = self.iscsi.sessions.get(&sid) else { return false };
        let (host, portal) = (session.host, session.portal);
        for leg in self.scsi.on_host(host) {
            self.leg_disappears(leg);
        }
        self.iscsi.sessions.remove(&sid);
        self.tell_of_logout(portal);
        for (class, name) in [
            ("iscsi_session", format!("session{sid}")),
            ("iscsi_connection", format!("connection{sid}:0")),
            ("iscsi_host", format!("host{host}")),
            ("scsi_host", format!("host{host}")),
        ] {
            self.tree.remove(&format!("/sys/class/{class}/{name}"));
        }
        self.tree.remove(&format!("/sys/devices/platform/host{host}"));
        self.tell_of_session("remove", host, sid);
        self.note(LogKind::Event, format!("session {sid} logged out"));
        true
    }

    /// A session with its host and its connection came or went.
    fn tell_of_session(&mut self, action: &str, host: u32, sid: u32) {
        let base = format!("/devices/platform/host{host}");
        let connection = format!("connection{sid}:0");
        let host_itself = (base.clone(), "scsi", vec![("DEVTYPE", "scsi_host".to_owned())]);
        let events = [
            host_itself,
            (format!("{base}/scsi_host/host{host}"), "scsi_host", vec![]),
            (format!("{base}/iscsi_host/host{host}"), "iscsi_host", vec![]),
            (format!("{base}/session{sid}/iscsi_session/session{sid}"), "iscsi_session", vec![]),
            (
                format!("{base}/session{sid}/{connection}/iscsi_connection/{connection}"),
                "iscsi_connection",
                vec![],
            ),
        ];
        let mut order: Vec<usize> = (0..events.len()).collect();
        if action == "remove" {
            order.reverse();
        }
        for (device, subsystem, keys) in order.into_iter().filter_map(|at| events.get(at)) {
            self.uevent(action, device, subsystem, keys);
        }
    }

    fn noop_interval(&self, sid: u32) -> Duration {
        let interval = self.iscsi.sessions.get(&sid).map_or(Duration::ZERO, |it| it.noop.0);
        if interval.is_zero() { Duration::from_secs(5) } else { interval }
    }

    /// The initiator's regular look at a session.
    pub(crate) fn look_after(&mut self, sid: u32) {
        let Some(session) = self.iscsi.sessions.get(&sid) else { return };
        let (portal, outage, noop) = (session.portal, session.outage, session.noop);
        match (session.state, self.reachability(portal)) {
            (SessionState::LoggedIn, Reachability::Up) => {
                self.later(self.noop_interval(sid), Event::Session { sid });
            }
            (SessionState::LoggedIn, Reachability::Refusing) => self.connection_lost(sid),
            (SessionState::LoggedIn, Reachability::BlackHole) if noop.0.is_zero() => {
                // Without NOPs a silent loss is not noticed.
                self.later(self.noop_interval(sid), Event::Session { sid });
            }
            (SessionState::LoggedIn, Reachability::BlackHole) => {
                self.later(noop.1, Event::NoAnswer { sid, outage });
            }
            (_, Reachability::Up) if self.iscsi.iscsid == Iscsid::Running => self.session_recovers(sid),
            _ => self.later(self.spec.timing.reopen, Event::Session { sid }),
        }
    }

    /// A NOP was sent and its time is over.
    pub(crate) fn no_answer(&mut self, sid: u32, outage: u64) {
        let Some(session) = self.iscsi.sessions.get(&sid) else { return };
        if session.outage != outage || session.state != SessionState::LoggedIn {
            return;
        }
        if self.reachability(session.portal) == Reachability::Up {
            self.later(self.noop_interval(sid), Event::Session { sid });
        } else {
            self.connection_lost(sid);
        }
    }

    /// The kernel blocks the session's devices and starts the replacement timeout.
    pub(crate) fn connection_lost(&mut self, sid: u32) {
        self.iscsi.outages += 1;
        let outage = self.iscsi.outages;
        let Some(session) = self.iscsi.sessions.get_mut(&sid) else { return };
        session.state = SessionState::Failed;
        session.outage = outage;
        let host = session.host;
        let recovery = self.recovery_timeout(sid);
        self.show_session(sid);
        for leg in self.scsi.on_host(host) {
            self.leg_blocked(leg);
        }
        self.note(LogKind::Event, format!("session {sid} failed"));
        self.later(recovery, Event::Recovery { sid, outage });
        self.later(self.spec.timing.reopen, Event::Session { sid });
    }

    /// The replacement timeout as sysfs holds it: others may have written it.
    fn recovery_timeout(&self, sid: u32) -> Duration {
        let text = self.tree.text(&format!("/sys/class/iscsi_session/session{sid}/recovery_tmo"));
        Duration::from_secs(text.trim().parse().unwrap_or(120))
    }

    /// The array knows it too: at once here, after its own timeout where a node has died.
    pub(crate) fn tell_of_logout(&self, portal: SocketAddr) {
        if let Some((_, array)) = self.portal(portal) {
            array.logged_out(&self.spec.initiator, portal);
        }
    }

    /// The replacement timeout is over: commands fail from now on.
    pub(crate) fn recovery_over(&mut self, sid: u32, outage: u64) {
        let Some(session) = self.iscsi.sessions.get_mut(&sid) else { return };
        if session.outage != outage || session.state != SessionState::Failed {
            return;
        }
        session.state = SessionState::Free;
        let host = session.host;
        self.show_session(sid);
        for leg in self.scsi.on_host(host) {
            self.leg_unblocked(leg, LegState::TransportOffline);
        }
        self.note(LogKind::Event, format!("session {sid} free"));
    }

    fn session_recovers(&mut self, sid: u32) {
        let admitted = self.iscsi.sessions.get(&sid).is_some_and(|it| {
            let array = self.portal(it.portal).map(|(_, array)| array);
            let access = array.map(|array| array.access(&self.spec.initiator, it.portal));
            access.is_some_and(|access| access.outcome(&it.proof) == LoginOutcome::Taken)
        });
        if !admitted {
            return self.later(self.spec.timing.reopen, Event::Session { sid });
        }
        let Some(session) = self.iscsi.sessions.get_mut(&sid) else { return };
        session.state = SessionState::LoggedIn;
        let (host, scan) = (session.host, session.scan);
        self.show_session(sid);
        let legs = self.scsi.on_host(host);
        for leg in &legs {
            self.leg_unblocked(*leg, LegState::Running);
        }
        self.note(LogKind::Event, format!("session {sid} recovered"));
        if scan == ScanMode::Auto {
            // iscsid looks at the devices it knows after logging in again.
            for leg in legs {
                self.rescan(leg);
            }
        }
        self.later(self.noop_interval(sid), Event::Session { sid });
    }

    pub(crate) fn show_session(&mut self, sid: u32) {
        let Some(session) = self.iscsi.sessions.get(&sid) else { return };
        let state = session.state;
        let base = format!("/sys/devices/platform/host{}/session{sid}", session.host);
        self.tree.set(&format!("{base}/iscsi_session/session{sid}/state"), state.text());
        let target = if session.is_scanned { "SCANNED" } else { "ALLOCATED" };
        self.tree.set(&format!("{base}/iscsi_session/session{sid}/target_state"), target);
        let connection = if state == SessionState::LoggedIn { "up" } else { "failed" };
        let portal = session.portal;
        let folder = format!("{base}/connection{sid}:0/iscsi_connection/connection{sid}:0");
        self.tree.set(&format!("{folder}/state"), connection);
        // Where it went can be read only while there is a connection.
        for (name, value) in [("address", portal.ip().to_string()), ("port", portal.port().to_string())] {
            let value = (connection == "up").then(|| value.into_bytes());
            self.tree.put_attr(&format!("{folder}/{name}"), value, None);
        }
        self.touch();
    }

    /// What a portal shows this node, by number: the memory behind a unit attention.
    pub(crate) fn identities(&self, portal: SocketAddr) -> BTreeMap<u32, [u8; 16]> {
        self.units(portal).into_iter().map(|(lun, unit)| (lun, unit.naa)).collect()
    }

    /// The units beside a leg's own.
    pub(crate) fn others(&self, leg: Address) -> BTreeMap<u32, [u8; 16]> {
        let portal = self.iscsi.on_host(leg.host).map(|it| it.portal);
        let mut units = portal.map(|it| self.identities(it)).unwrap_or_default();
        units.remove(&leg.lun);
        units
    }

    /// A command ran on this leg: where the array's other assignments changed, it was answered with a unit attention
    /// first.
    pub(crate) fn unit_attention(&mut self, leg: Address) {
        let current = self.others(leg);
        let device = match self.scsi.legs.get_mut(&leg) {
            Some(it) if it.others != current => {
                it.others = current;
                it.device_path(it.sid)
            }
            _ => return,
        };
        self.note(LogKind::Event, format!("{leg}: LUN assignments changed"));
        let more = [
            ("SDEV_UA", "REPORTED_LUNS_DATA_HAS_CHANGED".to_owned()),
            ("DEVTYPE", "scsi_device".to_owned()),
            ("DRIVER", "sd".to_owned()),
            ("MODALIAS", "scsi:t-0x00".to_owned()),
        ];
        self.uevent("change", &device, "scsi", &more);
    }

    /// After boot: sessions of records that start by themselves.
    pub(crate) fn login_automatic(&mut self) {
        for record in self.records() {
            if record.get("node.startup") == "automatic"
                && self.reachability(record.portal()) == Reachability::Up
                && self.session_with(record.target(), record.portal(), record.iface()).is_none()
            {
                self.login(&record);
            }
        }
    }
}
