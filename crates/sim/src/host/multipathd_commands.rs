//! multipathd's commands and their replies, as it writes them on its socket.

use super::dm::{Map, Queueing};
use super::formats::push;
use super::inquiry;
use super::log::LogKind;
use super::machine::Machine;
use super::multipathd::Known;
use super::scsi::Address;
use super::settings::{NoPathRetry, Release};

const HELP: &str = include_str!("formats/multipathd_help.txt");
/// Devices that are never paths, by the beginnings of their names.
const BLACKLIST: [&str; 5] = ["ram", "loop", "dm-", "md", "vd"];

/// How a command ended when it has nothing to show.
enum Reply {
    Done,
    Fail(&'static str),
    Show(String),
}

impl Machine {
    /// Whether a command changes anything: such ones take longer.
    pub(crate) fn is_change(command: &str) -> bool {
        !command.trim_start().starts_with("show") && !command.trim_start().starts_with("list")
    }

    /// Runs one command and returns the reply's text.
    pub(crate) fn command(&mut self, command: &str) -> String {
        let reply = self.dispatch(command);
        self.touch();
        match reply {
            Reply::Show(text) if !text.is_empty() => text,
            // An empty answer is replaced by this word too, also where a list has no entries.
            Reply::Show(_) | Reply::Done => "ok\n".to_owned(),
            Reply::Fail(reason) => {
                // Reasons came with 0.9.8.
                let has_reasons = self.spec.release == Release::Debian13;
                if has_reasons && !reason.is_empty() {
                    format!("fail\n{reason}\n")
                } else {
                    "fail\n".to_owned()
                }
            }
        }
    }

    fn dispatch(&mut self, command: &str) -> Reply {
        let words: Vec<&str> = command.split_whitespace().collect();
        let raw_format = |after: &str| {
            let (_, format) = command.split_once(after)?;
            Some(format.trim().trim_matches('"').to_owned())
        };
        match words[..] {
            ["show" | "list", "daemon"] => Reply::Show("pid 210 idle\n".to_owned()),
            ["show" | "list", "status"] => Reply::Show(self.show_status()),
            ["show" | "list", "config", "local"] => Reply::Show(self.show_config()),
            ["show" | "list", "maps" | "multipaths", "json"] => Reply::Show(self.show_maps_json()),
            ["show" | "list", "map" | "multipath", map, "json"] => match self.show_map_json(map) {
                Some(text) => Reply::Show(text),
                None => Reply::Fail("device not found"),
            },
            ["show" | "list", "maps" | "multipaths", "raw", "format", ..] => {
                Reply::Show(self.show_maps_raw(&raw_format("format").unwrap_or_default()))
            }
            ["show" | "list", "paths", "raw", "format", ..] => {
                Reply::Show(self.show_paths_raw(&raw_format("format").unwrap_or_default()))
            }
            ["add", "map" | "multipath", wwid] => match self.add_map(wwid) {
                Some(_) => Reply::Done,
                None => Reply::Fail(""),
            },
            ["del" | "remove", "map" | "multipath", map] => self.del_map(map),
            ["add", "path", disk] if BLACKLIST.iter().any(|it| disk.starts_with(it)) => {
                Reply::Show("blacklisted\n".to_owned())
            }
            ["add", "path", disk] => self.add_path(disk),
            ["del" | "remove", "path", disk] => match self.path_named(disk) {
                Some((leg, known)) => {
                    self.drop_path(leg, known.serial);
                    Reply::Done
                }
                None => Reply::Fail("device not found"),
            },
            ["resize", "map" | "multipath", map] => self.resize_map(map),
            ["resume", "map" | "multipath", map] => self.resume_map(map),
            ["disablequeueing", "map" | "multipath", map] => self.queueing(map, Queueing::Disabled),
            ["restorequeueing", "map" | "multipath", map] => self.queueing(map, Queueing::On),
            ["reinstate", "path", disk] => match self.path_named(disk) {
                Some((leg, _)) if self.reinstate(leg) => Reply::Done,
                Some(_) => Reply::Fail(""),
                None => Reply::Fail("device not found"),
            },
            ["fail", "path", disk] => match self.path_named(disk) {
                Some((leg, _)) if self.fail_path(leg) => Reply::Done,
                Some(_) => Reply::Fail(""),
                None => Reply::Fail("device not found"),
            },
            ["reconfigure"] => Reply::Done,
            _ => Reply::Show(self.unknown(command)),
        }
    }

    fn unknown(&self, command: &str) -> String {
        let version = self.spec.release.multipath_version();
        let words: Vec<&str> = command.split_whitespace().collect();
        if self.spec.release == Release::Debian12 {
            let first = words.first().copied().unwrap_or_default();
            return format!("{first} \n: not found\nmultipath-tools {version}\n");
        }
        let lacks = matches!(words[..], [_, "map" | "multipath" | "path"]);
        let why = if lacks { "Missing argument" } else { "not found" };
        format!("fail\n{}: {why}\nmultipath-tools {version}\n{HELP}", words.join(" "))
    }

    fn path_named(&self, disk: &str) -> Option<(Address, Known)> {
        let mut paths = self.multipathd.paths.iter();
        paths.find(|(_, it)| it.disk.name == disk).map(|(leg, known)| (*leg, known.clone()))
    }

    fn del_map(&mut self, name: &str) -> Reply {
        let Some(minor) = self.dm.find(name).map(|it| it.minor) else {
            return Reply::Fail("device not found");
        };
        if self.is_in_use(minor) {
            return Reply::Fail("map or partition in use");
        }
        self.remove_map(minor);
        Reply::Done
    }

    /// Needs udev's record; a path known already is taken into its map by the identifier it has been known by.
    fn add_path(&mut self, disk: &str) -> Reply {
        let found = self.scsi.legs.values().find(|it| it.disk.as_ref().is_some_and(|own| own.name == disk));
        let Some(address) = found.map(|it| it.address) else { return Reply::Fail("") };
        let serial = found.map(|it| it.serial);
        if self.multipathd.paths.get(&address).map(|it| it.serial) != serial {
            self.path_event(address);
        }
        if !self.multipathd.paths.contains_key(&address) {
            return Reply::Fail("");
        }
        self.adopt(address);
        Reply::Done
    }

    fn resize_map(&mut self, name: &str) -> Reply {
        let Some(map) = self.dm.find(name) else { return Reply::Fail("device not found") };
        let (minor, sectors) = (map.minor, map.sectors);
        let sizes: Option<Vec<u64>> = map
            .paths
            .iter()
            .map(|it| {
                self.scsi.legs.get(&it.leg).filter(|leg| leg.serial == it.serial).map(|leg| leg.sectors)
            })
            .collect();
        match sizes.as_deref() {
            Some([first, rest @ ..]) if *first != 0 && rest.iter().all(|it| it == first) => {
                if *first != sectors {
                    self.size_map(minor, *first);
                }
                Reply::Done
            }
            _ => Reply::Fail(""),
        }
    }

    fn resume_map(&mut self, name: &str) -> Reply {
        let Some(minor) = self.dm.find(name).map(|it| it.minor) else { return Reply::Fail("") };
        self.suspend_map(minor, super::control::Suspension::Active);
        Reply::Done
    }

    fn queueing(&mut self, name: &str, wanted: Queueing) -> Reply {
        let Some(minor) = self.dm.find(name).map(|it| it.minor) else {
            return Reply::Fail("device not found");
        };
        let retry = self.spec.multipath.no_path_retry;
        if let Some(map) = self.dm.maps.get_mut(&minor) {
            map.queueing = match wanted {
                Queueing::On if retry == NoPathRetry::Fail => Queueing::Off,
                other => other,
            };
            map.checks_failed = 0;
        }
        self.note(LogKind::Event, format!("dm-{minor} queueing {wanted:?}"));
        self.free_workers();
        Reply::Done
    }

    fn show_status(&self) -> String {
        let mut counts = [("unchecked", 0), ("down", 0), ("up", 0)];
        for (leg, known) in &self.multipathd.paths {
            let state = match self.minor_of_path(*leg) {
                None => 0,
                Some(_) if known.is_ready => 2,
                Some(_) => 1,
            };
            counts[state].1 += 1;
        }
        let mut text = String::from("path checker states:\n");
        for (name, count) in counts.iter().filter(|it| it.1 > 0) {
            push(&mut text, format_args!("{name:<20}{count}\n"));
        }
        push(&mut text, format_args!("\npaths: {}\nbusy: False\n", counts[1].1 + counts[2].1));
        text
    }

    fn show_config(&self) -> String {
        let options = self.spec.multipath;
        let retry = match options.no_path_retry {
            NoPathRetry::Queue => "\"queue\"".to_owned(),
            NoPathRetry::Fail => "\"fail\"".to_owned(),
            NoPathRetry::Checks(count) => count.to_string(),
        };
        let recheck = match options.recheck_wwid {
            super::settings::RecheckWwid::No => "no",
            super::settings::RecheckWwid::Yes => "yes",
        };
        let mut text: String = self
            .spec
            .release
            .multipath_config()
            .replace(
                "find_multipaths \"off\"",
                &format!("find_multipaths \"{}\"", options.find_multipaths.text()),
            )
            .replace("recheck_wwid \"no\"", &format!("recheck_wwid \"{recheck}\""))
            .replace("no_path_retry \"queue\"", &format!("no_path_retry {retry}"));
        text.push_str("multipaths {\n");
        for wwid in self.dm.maps.values().filter_map(|it| it.wwid()) {
            push(&mut text, format_args!("\tmultipath {{\n\t\twwid \"{wwid}\"\n\t}}\n"));
        }
        text.push_str("}\n");
        text
    }

    fn show_maps_raw(&self, format: &str) -> String {
        let mut text = String::new();
        for map in self.dm.maps.values().filter(|it| it.wwid().is_some()) {
            let active = map.paths.iter().filter(|it| !it.has_failed).count();
            text.push_str(&fill(format, |wildcard| {
                Some(match wildcard {
                    'n' => map.name.clone(),
                    'w' => map.wwid().unwrap_or_default().to_owned(),
                    'd' => format!("dm-{}", map.minor),
                    't' => if map.is_suspended { "suspend" } else { "active" }.to_owned(),
                    'Q' => self.queueing_text(map.minor),
                    'S' => size_text(map.sectors),
                    'N' => active.to_string(),
                    'f' => self.features(map.minor).to_owned(),
                    _ => return None,
                })
            }));
            text.push('\n');
        }
        text
    }

    fn show_paths_raw(&self, format: &str) -> String {
        let mut text = String::new();
        for (address, known) in &self.multipathd.paths {
            let Some(leg) = self.scsi.legs.get(address) else { continue };
            let map = self.dm.maps.values().find(|it| it.paths.iter().any(|path| path.leg == *address));
            let path = map.and_then(|it| it.paths.iter().find(|path| path.leg == *address));
            let session = self.iscsi.on_host(address.host);
            text.push_str(&fill(format, |wildcard| {
                Some(match wildcard {
                    'd' => known.disk.name.clone(),
                    'D' => known.disk.number.to_string(),
                    'i' => address.to_string(),
                    'w' => known.wwid.clone(),
                    'm' => map.map_or_else(|| "[orphan]".to_owned(), |it| it.name.clone()),
                    't' => match path {
                        Some(path) if path.has_failed => "failed".to_owned(),
                        Some(_) => "active".to_owned(),
                        None => "undef".to_owned(),
                    },
                    'o' if map.is_none() => "unknown".to_owned(),
                    'T' if map.is_none() => "undef".to_owned(),
                    'c' if map.is_none() => "(null)".to_owned(),
                    'o' => device_state(leg.state.text()).to_owned(),
                    'T' => if known.is_ready { "ready" } else { "faulty" }.to_owned(),
                    's' if self.spec.release == Release::Debian12 => {
                        format!("{},{}", leg.vendor, leg.product)
                    }
                    's' => format!("{},{},{}", leg.vendor, leg.product, leg.revision),
                    'c' => "tur".to_owned(),
                    'p' => known.priority.to_string(),
                    'S' => size_text(leg.sectors),
                    'z' => String::from_utf8_lossy(&leg.unit_serial).into_owned(),
                    'n' => session.map_or_else(|| "[undef]".to_owned(), |it| it.target.clone()),
                    'a' => self.adapter(*address),
                    'L' => lun_hex(address.lun),
                    'N' | 'R' | 'r' => "[undef]".to_owned(),
                    _ => return None,
                })
            }));
            text.push('\n');
        }
        text
    }

    /// The initiator's address while the session is up.
    pub(crate) fn adapter(&self, leg: Address) -> String {
        match self.iscsi.on_host(leg.host) {
            Some(it) if it.state == super::iscsi::SessionState::LoggedIn => {
                self.local_address(it.portal).to_string()
            }
            _ => "[undef]".to_owned(),
        }
    }

    pub(crate) fn queueing_text(&self, minor: u32) -> String {
        let Some(map) = self.dm.maps.get(&minor) else { return String::new() };
        let active = map.paths.iter().any(|it| !it.has_failed);
        match self.spec.multipath.no_path_retry {
            NoPathRetry::Queue if map.queues() => "on".to_owned(),
            NoPathRetry::Checks(count) if active && map.queues() => format!("{count} chk"),
            NoPathRetry::Checks(count) if map.queues() => {
                let left = u64::from(count - map.checks_failed.min(count));
                format!("{} sec", left * self.spec.timing.checker.as_secs())
            }
            NoPathRetry::Fail | NoPathRetry::Queue | NoPathRetry::Checks(_) => "off".to_owned(),
        }
    }

    pub(crate) fn features(&self, minor: u32) -> &'static str {
        if self.dm.maps.get(&minor).is_some_and(Map::queues) {
            "3 queue_if_no_path pg_init_retries 50"
        } else {
            "2 pg_init_retries 50"
        }
    }
}

/// multipathd's word for a device's state.
pub(crate) fn device_state(state: &str) -> &str {
    if state == "transport-offline" { "offline" } else { state }
}

/// The eight bytes of a LUN as multipathd prints them.
pub(crate) fn lun_hex(lun: u32) -> String {
    let high = u16::try_from(lun).unwrap_or(u16::MAX).to_be_bytes();
    format!("0x{}000000000000", inquiry::hex(&high))
}

/// Sectors as multipath prints sizes.
fn size_text(sectors: u64) -> String {
    let mut tenths = sectors * 5;
    let mut unit = 0;
    while tenths >= 10_240 && unit < 4 {
        tenths /= 1024;
        unit += 1;
    }
    let letter = ["K", "M", "G", "T", "P"][unit];
    if tenths < 100 {
        format!("{}.{}{letter}", tenths / 10, tenths % 10)
    } else {
        format!("{}{letter}", tenths / 10)
    }
}

/// Replaces `%x` by what `value` says; unknown ones stay.
fn fill(format: &str, value: impl Fn(char) -> Option<String>) -> String {
    let mut text = String::new();
    let mut rest = format.chars();
    while let Some(it) = rest.next() {
        if it != '%' {
            text.push(it);
            continue;
        }
        match rest.next() {
            Some(wildcard) => match value(wildcard) {
                Some(filled) => text.push_str(&filled),
                None => text.extend(['%', wildcard]),
            },
            None => text.push('%'),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_printed_as_multipath_does() {
        for (sectors, text) in [(2_097_152, "1.0G"), (524_288, "256M"), (4_194_304, "2.0G"), (20_480, "10M")]
        {
            assert_eq!(size_text(sectors), text);
        }
    }

    #[test]
    fn wildcards_are_filled_and_unknown_ones_stay() {
        let value = |it| (it == 'd').then(|| "sda".to_owned());
        assert_eq!(fill("%d|%?|50%", value), "sda|%?|50%");
    }
}
