//! Node records of open-iscsi: what is on disk, what we want in it, and the argument lists of `iscsiadm`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use san_core::{Cx, Iqn, Result};
use san_host::Guard;

use crate::IscsiConfig;
use crate::transport::DEFAULT;

/// Where the releases in use keep node records, newest first.
const FOLDERS: [&str; 2] = ["/var/lib/iscsi/nodes", "/etc/iscsi/nodes"];
/// The interface that a record is for.
const INTERFACE: &str = "iface.iscsi_ifacename";
/// What tells a record of ours, which nothing uses but our logins.
const OURS: [&str; 2] = [SCAN, STARTUP];
const SCAN: &str = "node.session.scan";
const STARTUP: &str = "node.startup";
const MANUAL: &str = "manual";
pub(crate) const RECORD_MAX: usize = 64 << 10;

/// One target at one portal through one interface: what every `iscsiadm` of ours is aimed at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Node<'a> {
    pub(crate) target: &'a Iqn,
    pub(crate) portal: SocketAddr,
    pub(crate) interface: &'a str,
}

/// What is on disk for a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Record {
    /// Nothing.
    Absent,
    /// A record with other settings; somebody else's, or an older release's.
    Differs,
    /// A record as we want it.
    Ready,
}

/// What our sessions need. `node.startup` is not among them: when a session is made is the record's owner's choice.
fn settings(config: &IscsiConfig) -> Vec<(&'static str, String)> {
    let seconds = |it: std::time::Duration| it.as_secs().max(1).to_string();
    vec![
        // Devices appear only where they are asked for.
        (SCAN, MANUAL.to_owned()),
        ("node.session.timeo.replacement_timeout", seconds(config.replacement_timeout)),
        ("node.conn[0].timeo.login_timeout", seconds(config.login_timeout)),
        ("node.session.initial_login_retry_max", "1".to_owned()),
        ("node.conn[0].timeo.noop_out_interval", seconds(config.ping)),
        ("node.conn[0].timeo.noop_out_timeout", seconds(config.ping)),
    ]
}

impl Node<'_> {
    fn arguments(&self, tail: &[&str]) -> Vec<String> {
        self.arguments_at(&self.shown(), tail)
    }

    /// `SocketAddr` prints IPv6 in brackets, as iscsiadm wants it.
    fn shown(&self) -> String {
        SocketAddr::new(self.portal.ip().to_canonical(), self.portal.port()).to_string()
    }

    fn arguments_at(&self, portal: &str, tail: &[&str]) -> Vec<String> {
        let head = ["-m", "node", "-T", self.target.as_str(), "-p", portal, "-I", self.interface];
        head.iter().chain(tail).map(|it| (*it).to_owned()).collect()
    }

    /// Makes the record, by the portal's group where that is known.
    pub(crate) fn new_arguments(&self, group: Option<u16>) -> Vec<String> {
        let portal = self.shown();
        let portal = group.map_or_else(|| portal.clone(), |it| format!("{portal},{it}"));
        self.arguments_at(&portal, &["-o", "new"])
    }

    /// Sets everything in one run. A record that is ours alone is never logged in by the system.
    pub(crate) fn update_arguments(&self, config: &IscsiConfig, record: Record) -> Vec<String> {
        let mut all = settings(config);
        if record == Record::Absent {
            all.push((STARTUP, MANUAL.to_owned()));
        }
        let mut tail = vec!["-o", "update"];
        for (name, value) in &all {
            tail.extend(["-n", *name, "-v", value.as_str()]);
        }
        self.arguments(&tail)
    }

    /// Logs in.
    pub(crate) fn login_arguments(&self) -> Vec<String> {
        self.arguments(&["--login"])
    }

    /// Logs out.
    pub(crate) fn logout_arguments(&self) -> Vec<String> {
        self.arguments(&["--logout"])
    }

    /// Removes the record.
    pub(crate) fn delete_arguments(&self) -> Vec<String> {
        self.arguments(&["-o", "delete"])
    }

    /// What is on disk.
    pub(crate) async fn record(&self, guard: &Guard, cx: &Cx, config: &IscsiConfig) -> Result<Record> {
        let Some((_, text)) = self.find(guard, cx).await? else { return Ok(Record::Absent) };
        let found = parse(&text);
        let fits = settings(config).iter().all(|(name, value)| found.get(*name) == Some(value));
        Ok(if fits { Record::Ready } else { Record::Differs })
    }

    /// The interface of the portal's record without a group, where that is another one's and not as ours are.
    pub(crate) async fn displaced(&self, guard: &Guard, cx: &Cx) -> Result<Option<String>> {
        for folder in FOLDERS {
            let folder = Path::new(folder).join(self.target.as_str());
            let entries = guard.list(cx, &folder).await?.unwrap_or_default();
            for entry in entries.iter().filter(|it| is_file(it) && self.is_entry(it)) {
                let Some(text) = guard.read(cx, &folder.join(entry), RECORD_MAX).await? else { continue };
                let found = parse(&text);
                let interface = found.get(INTERFACE).map_or(DEFAULT, String::as_str);
                // Ours are never used by anybody else; made anew they are the same.
                let is_as_ours = OURS.iter().all(|it| found.get(*it).is_some_and(|it| it == MANUAL));
                if interface != self.interface && !is_as_ours {
                    return Ok(Some(interface.to_owned()));
                }
            }
        }
        Ok(None)
    }

    /// Its file and what that holds, secrets included.
    pub(crate) async fn find(&self, guard: &Guard, cx: &Cx) -> Result<Option<(PathBuf, Vec<u8>)>> {
        for folder in FOLDERS {
            let folder = Path::new(folder).join(self.target.as_str());
            let entries = guard.list(cx, &folder).await?.unwrap_or_default();
            for entry in entries.iter().filter(|it| self.is_entry(it)) {
                let file = self.file(&folder.join(entry));
                let Some(text) = guard.read(cx, &file, RECORD_MAX).await? else { continue };
                // A record that is a file of its own may be another interface's.
                if parse(&text).get(INTERFACE).is_none_or(|it| it == self.interface) {
                    return Ok(Some((file, text)));
                }
            }
        }
        Ok(None)
    }

    /// `ADDRESS,PORT,GROUP`, a folder with a file for each interface, or, where the record was made without a group,
    /// `ADDRESS,PORT`, the file itself. The group is not compared.
    fn is_entry(&self, name: &str) -> bool {
        let mut parts = name.rsplitn(3, ',').skip(usize::from(!is_file(name)));
        let port = parts.next().and_then(|it| it.parse::<u16>().ok());
        let address = parts.next().and_then(|it| it.parse::<std::net::IpAddr>().ok());
        port == Some(self.portal.port())
            && address.map(|it| it.to_canonical()) == Some(self.portal.ip().to_canonical())
    }

    fn file(&self, entry: &Path) -> PathBuf {
        let in_folder = entry.file_name().is_none_or(|it| !is_file(&it.to_string_lossy()));
        if in_folder { entry.join(self.interface) } else { entry.to_owned() }
    }
}

fn is_file(entry: &str) -> bool {
    entry.matches(',').count() == 1
}

/// The `name = value` lines of a record.
pub(crate) fn parse(text: &[u8]) -> BTreeMap<String, String> {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().filter(|it| !it.starts_with('#')).filter_map(|it| it.split_once('='));
    lines.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn iqn() -> Iqn {
        "iqn.1992-08.com.netapp:sn.lab0:vs.2".parse().unwrap()
    }

    #[test]
    fn every_run_is_aimed_at_one_target_and_portal_and_none_scans() {
        let target = iqn();
        let config = IscsiConfig::default();
        for portal in ["10.77.1.2:3260", "[fd00::2]:3260"] {
            let node = Node { target: &target, portal: portal.parse().unwrap(), interface: "default" };
            let runs = [
                node.new_arguments(None),
                node.update_arguments(&config, Record::Absent),
                node.update_arguments(&config, Record::Differs),
                node.login_arguments(),
                node.logout_arguments(),
                node.delete_arguments(),
            ];
            for run in &runs {
                let head = ["-m", "node", "-T", target.as_str(), "-p", portal, "-I", "default"];
                assert_eq!(run[..8], head);
                for never in ["--rescan", "-R", "discovery", "discoverydb", "session", "-U", "-L", "all"] {
                    assert!(!run.iter().any(|it| it == never), "{run:?} holds {never}");
                }
            }
            assert!(runs[1].ends_with(&["-n".into(), "node.startup".into(), "-v".into(), "manual".into()]));
            assert!(!runs[2].contains(&"node.startup".to_owned()));
            assert_eq!(runs[1].iter().filter(|it| *it == "-o").count(), 1);
            assert_eq!(runs[1].iter().filter(|it| *it == "-n").count(), 7);
        }
    }

    #[test]
    fn a_record_for_a_further_interface_names_the_group() {
        let target = iqn();
        for (portal, named) in
            [("10.77.1.2:3260", "10.77.1.2:3260,1028"), ("[fd00::2]:3260", "[fd00::2]:3260,1028")]
        {
            let node = Node { target: &target, portal: portal.parse().unwrap(), interface: "iface.eth1" };
            let run = node.new_arguments(Some(1028));
            assert_eq!(run[4..], ["-p", named, "-I", "iface.eth1", "-o", "new"]);
            assert_eq!(node.login_arguments()[5], portal);
        }
    }

    /// The record is as open-iscsi 2.1.11 (Debian 13) wrote it after a discovery.
    #[test]
    fn a_recorded_record_with_other_settings_is_not_ours() {
        let found = parse(include_bytes!("../tests/fixtures/node-record-2.1.11.txt"));
        assert_eq!(found.get("node.session.timeo.replacement_timeout").map(String::as_str), Some("120"));
        assert_eq!(found.get("node.startup").map(String::as_str), Some("manual"));
        let fits = settings(&IscsiConfig::default()).iter().all(|(name, it)| found.get(*name) == Some(it));
        assert!(!fits);
    }

    #[test]
    fn folders_are_matched_by_number() {
        let target = iqn();
        let node = Node { target: &target, portal: "10.77.1.2:3260".parse().unwrap(), interface: "default" };
        for (name, expected) in [
            ("10.77.1.2,3260,1028", true),
            // Made by hand or by us: no group, and no folder.
            ("10.77.1.2,3260", true),
            ("10.77.1.2,3261", false),
            ("10.77.1.2,3260,4294967295", true),
            ("10.77.1.20,3260,1028", false),
            ("10.77.1.2,3261,1028", false),
            ("10.77.1.2", false),
            ("", false),
        ] {
            assert_eq!(node.is_entry(name), expected, "{name:?}");
        }
        let six = Node { target: &target, portal: "[fd00::2]:3260".parse().unwrap(), interface: "default" };
        assert!(six.is_entry("fd00::2,3260,1"));
    }
}
