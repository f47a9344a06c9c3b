//! open-iscsi's node records: files of `name = value` lines below its folder.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::formats::push;
use super::interfaces::Interface;
use super::iscsi::ScanMode;
use super::machine::Machine;
use super::settings::Release;
use crate::target::{ChapUser, Proof};

pub(crate) const TEMPLATE: &str = include_str!("formats/node_record.txt");
pub(crate) const EMPTY: &str = "<empty>";

/// One record, all values in the order in which iscsiadm prints them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    values: Vec<(String, String)>,
}

impl Record {
    /// A record as `-o new` makes it.
    pub(crate) fn new(
        release: Release,
        target: &str,
        portal: SocketAddr,
        group: Option<u16>,
        interface: &Interface,
    ) -> Self {
        let mut record = Self::defaults(release);
        record.put("node.name", target);
        record.put("node.tpgt", &group.map_or_else(|| "-1".to_owned(), |it| it.to_string()));
        for (name, value) in interface.values() {
            record.put(name, value);
        }
        record.put("node.discovery_address", EMPTY);
        record.put("node.discovery_port", "0");
        record.put("node.discovery_type", "static");
        record.put("node.conn[0].address", &portal.ip().to_string());
        record.put("node.conn[0].port", &portal.port().to_string());
        record
    }

    fn defaults(release: Release) -> Self {
        let lines = TEMPLATE.lines().filter(|it| !it.starts_with('#'));
        let values = lines.filter_map(|it| it.split_once(" = "));
        let mut record =
            Self { values: values.map(|(name, value)| (name.to_owned(), value.to_owned())).collect() };
        if release == Release::Debian12 {
            record.put("node.session.xmit_thread_priority", "-20");
            record.values.retain(|(name, _)| name != "node.session.conn_reopen_log_freq");
        }
        record
    }

    fn parse(release: Release, text: &str) -> Self {
        let mut record = Self::defaults(release);
        for (_, value) in &mut record.values {
            EMPTY.clone_into(value);
        }
        for (name, value) in text.lines().filter_map(|it| it.split_once(" = ")) {
            record.put(name, value);
        }
        record
    }

    /// The value of a name; empty where it has none.
    pub(crate) fn get(&self, name: &str) -> &str {
        self.values
            .iter()
            .find(|(it, _)| it == name)
            .map_or("", |(_, value)| if value == EMPTY { "" } else { value })
    }

    /// Sets a value; `false` where there is no such name.
    pub(crate) fn put(&mut self, name: &str, value: &str) -> bool {
        let found = self.values.iter_mut().find(|(it, _)| it == name);
        if let Some((_, old)) = found {
            value.clone_into(old);
            true
        } else {
            false
        }
    }

    pub(crate) fn target(&self) -> &str {
        self.get("node.name")
    }

    pub(crate) fn iface(&self) -> &str {
        self.get("iface.iscsi_ifacename")
    }

    pub(crate) fn group(&self) -> Option<u16> {
        self.get("node.tpgt").parse().ok()
    }

    pub(crate) fn portal(&self) -> SocketAddr {
        let address = self.get("node.conn[0].address").parse().unwrap_or(IpAddr::from([0, 0, 0, 0]));
        SocketAddr::new(address, self.get("node.conn[0].port").parse().unwrap_or(3260))
    }

    pub(crate) fn scan(&self) -> ScanMode {
        if self.get("node.session.scan") == "manual" { ScanMode::Manual } else { ScanMode::Auto }
    }

    pub(crate) fn seconds(&self, name: &str) -> Duration {
        Duration::from_secs(self.get(name).parse().unwrap_or(0))
    }

    /// What a login by it proves, and wants to be proved.
    pub(crate) fn proof(&self) -> Proof {
        let pair = |user: &str, secret: &str| {
            let (user, secret) = (self.get(user), self.get(secret));
            (!user.is_empty()).then(|| ChapUser { user: user.to_owned(), secret: secret.to_owned() })
        };
        if self.get("node.session.auth.authmethod") != "CHAP" {
            return Proof::default();
        }
        Proof {
            of_initiator: pair("node.session.auth.username", "node.session.auth.password"),
            of_target: pair("node.session.auth.username_in", "node.session.auth.password_in"),
        }
    }

    /// How long a login to a portal that does not answer takes.
    pub(crate) fn login_patience(&self) -> Duration {
        let tries = self.get("node.session.initial_login_retry_max").parse::<u32>().unwrap_or(1).max(1);
        self.seconds("node.conn[0].timeo.login_timeout") * tries
    }

    /// As `-o show` prints it.
    pub(crate) fn show(&self, release: Release) -> String {
        self.print(release, Some, Some("********"))
    }

    fn stored(&self, release: Release) -> String {
        self.print(release, |value| (value != EMPTY).then_some(value), None)
    }

    fn print<'a>(
        &'a self,
        release: Release,
        keep: impl Fn(&'a str) -> Option<&'a str>,
        instead: Option<&str>,
    ) -> String {
        let mut text = format!("# BEGIN RECORD {}\n", release.open_iscsi());
        for (name, value) in &self.values {
            let Some(value) = keep(value) else { continue };
            let is_secret = name.contains(".password") && value != EMPTY;
            let shown = instead.filter(|_| is_secret).unwrap_or(value);
            push(&mut text, format_args!("{name} = {shown}\n"));
        }
        text.push_str("# END RECORD\n");
        text
    }

    fn path(&self, release: Release) -> String {
        let without = self.path_without_group(release);
        match self.group() {
            Some(group) => format!("{without},{group}/{}", self.iface()),
            None => without,
        }
    }

    /// Made without a group, the portal is the file, whatever the interface.
    fn path_without_group(&self, release: Release) -> String {
        let portal = self.portal();
        format!("{}/{}/{},{}", release.records(), self.target(), portal.ip(), portal.port())
    }
}

impl Machine {
    /// All records, in the order of their paths.
    pub(crate) fn records(&self) -> Vec<Record> {
        let release = self.spec.release;
        let files = self.tree.files_below(release.records());
        files.iter().map(|it| Record::parse(release, &self.tree.text(it))).collect()
    }

    pub(crate) fn save_record(&mut self, record: &Record) {
        let release = self.spec.release;
        if record.group().is_some() {
            // One with a group takes the place of the portal's one without, whosever that is.
            self.tree.remove(&record.path_without_group(release));
        }
        self.tree.put_file(&record.path(release), record.stored(release));
    }

    /// The group of the records that there are for a portal in folders.
    pub(crate) fn group_on_record(&self, target: &str, portal: SocketAddr) -> Option<u16> {
        let mut records =
            self.records().into_iter().filter(|it| it.target() == target && it.portal() == portal);
        records.find_map(|it| it.group())
    }

    pub(crate) fn delete_record(&mut self, record: &Record) {
        let path = record.path(self.spec.release);
        self.tree.remove(&path);
        // Folders that hold nothing any more go too.
        let target = format!("{}/{}", self.spec.release.records(), record.target());
        let portal = path.rsplit_once('/').map_or("", |it| it.0);
        for folder in [portal, &target] {
            if matches!(self.tree.list(folder), Ok(Some(names)) if names.is_empty()) {
                self.tree.remove(folder);
            }
        }
    }
}
