//! multipathd's JSON, byte for byte as it prints it: nothing is escaped.

use super::dm::{Map, MapKind, MapPath};
use super::formats::push;
use super::machine::Machine;
use super::multipathd_commands::{device_state, lun_hex};

const HEAD: &str = "{\n   \"major_version\": 0,\n   \"minor_version\": 1,\n";

impl Machine {
    pub(crate) fn show_maps_json(&self) -> String {
        let maps: Vec<String> =
            self.dm.maps.values().filter(|it| it.wwid().is_some()).map(|it| self.map_json(it)).collect();
        format!("{HEAD}   \"maps\": [{}]\n}}\n", maps.join(","))
    }

    pub(crate) fn show_map_json(&self, name: &str) -> Option<String> {
        Some(format!("{HEAD}   \"map\":{}\n}}\n", self.map_json(self.dm.find(name)?)))
    }

    fn map_json(&self, map: &Map) -> String {
        let MapKind::Multipath { wwid, vendor, product, revision } = &map.kind else { return String::new() };
        // What it says of the array it takes from a path.
        let of_path =
            |text: &str| if map.paths.is_empty() { "\"##\"".to_owned() } else { format!("\"{text}\"") };
        let active = map.paths.iter().filter(|it| !it.has_failed).count();
        let mut text = String::from("{\n");
        let mut line =
            |name: &str, value: &str| push(&mut text, format_args!("      \"{name}\" : {value},\n"));
        let quoted = |value: &str| format!("\"{value}\"");
        line("name", &quoted(&map.name));
        line("uuid", &quoted(wwid));
        line("sysfs", &quoted(&format!("dm-{}", map.minor)));
        line("failback", "\"immediate\"");
        line("queueing", &quoted(&self.queueing_text(map.minor)));
        line("paths", &active.to_string());
        line("write_prot", "\"rw\"");
        line("dm_st", if map.is_suspended { "\"suspend\"" } else { "\"active\"" });
        line("features", &quoted(self.features(map.minor)));
        line("hwhandler", if map.paths.is_empty() { "\"0\"" } else { "\"1 alua\"" });
        line("action", "\"\"");
        line("path_faults", &map.faults.to_string());
        line("vend", &of_path(vendor));
        line("prod", &of_path(product));
        line("rev", &of_path(revision));
        line("switch_grp", "0");
        line("map_loads", &map.loads.to_string());
        line("total_q_time", "0");
        line("q_timeouts", "0");
        let groups: Vec<String> =
            groups(map).iter().enumerate().map(|(at, paths)| self.group_json(map, at, paths)).collect();
        push(&mut text, format_args!("      \"path_groups\": [{}]\n   }}", groups.join(",")));
        text
    }

    fn group_json(&self, map: &Map, at: usize, paths: &[&MapPath]) -> String {
        let state = if at == 0 && map.was_used { "active" } else { "enabled" };
        let mut text = String::from("{\n");
        text.push_str("         \"selector\" : \"service-time 0\",\n");
        push(&mut text, format_args!("         \"pri\" : {},\n", group_priority(paths)));
        push(&mut text, format_args!("         \"dm_st\" : \"{state}\",\n"));
        text.push_str("         \"marginal_st\" : \"normal\",\n");
        push(&mut text, format_args!("         \"group\" : {},\n", at + 1));
        let paths: Vec<String> = paths.iter().map(|it| self.path_json(it)).collect();
        push(&mut text, format_args!("         \"paths\": [{}]\n      }}", paths.join(",")));
        text
    }

    fn path_json(&self, path: &MapPath) -> String {
        let state = self.path_state(path).map_or("undef", |it| device_state(it.text()));
        let target =
            self.iscsi.on_host(path.leg.host).map_or_else(|| "[undef]".to_owned(), |it| it.target.clone());
        let ready = self.multipathd.paths.get(&path.leg).is_some_and(|it| it.is_ready);
        let mut text = String::from("{\n");
        let mut line =
            |name: &str, value: &str| push(&mut text, format_args!("            \"{name}\" : {value},\n"));
        let quoted = |value: &str| format!("\"{value}\"");
        line("dev", &quoted(&path.disk.name));
        line("dev_t", &quoted(&path.disk.number.to_string()));
        line("dm_st", if path.has_failed { "\"failed\"" } else { "\"active\"" });
        line("dev_st", &quoted(state));
        line("chk_st", if ready { "\"ready\"" } else { "\"faulty\"" });
        line("checker", "\"tur\"");
        line("pri", &path.priority.to_string());
        line("host_wwnn", "\"[undef]\"");
        line("target_wwnn", &quoted(&target));
        line("host_wwpn", "\"[undef]\"");
        line("target_wwpn", "\"[undef]\"");
        line("host_adapter", &quoted(&self.adapter(path.leg)));
        line("lun_hex", &quoted(&lun_hex(path.leg.lun)));
        text.push_str("            \"marginal_st\" : \"normal\"\n         }");
        text
    }
}

/// Paths of one priority are one group, in the order of the table.
fn groups(map: &Map) -> Vec<Vec<&MapPath>> {
    let mut groups: Vec<Vec<&MapPath>> = Vec::new();
    for path in &map.paths {
        match groups.iter_mut().find(|it| it.first().is_some_and(|one| one.priority == path.priority)) {
            Some(group) => group.push(path),
            None => groups.push(vec![path]),
        }
    }
    groups
}

fn group_priority(paths: &[&MapPath]) -> u32 {
    paths.iter().filter(|it| !it.has_failed).map(|it| it.priority).max().unwrap_or(0)
}
