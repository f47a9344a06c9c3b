//! Writes kernel events down so that two runs can be compared: the kernel probes in parallel, so that only the order of
//! one device's events, and that of what is made and taken away of a few kinds, is the same every time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use san_host::Uevent;

/// Events of parts of the kernel that are no devices of this host: modules, the array's own side.
const NOISE: [&str; 9] = [
    "/module/",
    "/devices/virtual/iscsi_transport/",
    "/class/",
    "/bus/",
    "/kernel/",
    "/devices/virtual/bdi/",
    "/devices/virtual/block/loop",
    "/devices/virtual/net/",
    "/devices/virtual/workqueue/",
];

/// Keys that every event has, or whose values say nothing.
const COMMON: [&str; 8] =
    ["ACTION", "DEVPATH", "SUBSYSTEM", "SEQNUM", "DISKSEQ", "SYNTH_UUID", "DM_COOKIE", "DM_SEQNUM"];

/// The lines of some events.
pub(super) fn lines(events: &[Arc<Uevent>]) -> Vec<String> {
    let events: Vec<&Uevent> = events.iter().map(AsRef::as_ref).filter(|it| !is_noise(it)).collect();
    if events.is_empty() {
        return vec!["none".to_owned()];
    }
    let mut devices: BTreeMap<&str, (Vec<String>, BTreeSet<String>)> = BTreeMap::new();
    for event in &events {
        let (made, changes) = devices.entry(event.device.as_str()).or_default();
        let keys: Vec<String> = event
            .keys
            .iter()
            .filter(|(key, _)| !COMMON.contains(&key.as_str()))
            .map(|(key, value)| format!(" {key}={value}"))
            .collect();
        let line = format!("{}{}", event.action, keys.concat());
        if event.action == "change" {
            changes.insert(line);
        } else {
            made.push(line);
        }
    }
    let mut lines = Vec::new();
    for (device, (made, changes)) in devices {
        lines.push(device.to_owned());
        lines.extend(made.into_iter().chain(changes).map(|it| format!("  {it}")));
    }
    lines.push("order".to_owned());
    lines.extend(events.iter().filter(|it| is_ordered(it)).map(|it| {
        let name = it.device.rsplit('/').next().unwrap_or_default();
        format!("  {} {name}", it.action)
    }));
    lines
}

/// Whether an event says nothing of what is shown: also where somebody asked for it, udev after each device that was
/// open for writing.
fn is_noise(event: &Uevent) -> bool {
    let has = |key: &str| event.keys.contains_key(key);
    // How often a table is loaded anew depends on when multipathd learns the paths' priorities.
    let is_load = event.device.starts_with("/devices/virtual/block/dm-")
        && event.action == "change"
        && !has("DM_ACTION")
        && !has("RESIZE");
    NOISE.iter().any(|it| event.device.starts_with(it))
        || event.device.contains("/bsg/")
        || has("SYNTH_UUID")
        || is_load
}

/// Whether the order of this event among its like is the same every time.
fn is_ordered(event: &Uevent) -> bool {
    let key = |name: &str| event.keys.get(name).map_or("", String::as_str);
    event.action != "change"
        && match key("SUBSYSTEM") {
            "block" | "iscsi_session" | "iscsi_connection" => true,
            "scsi" => key("DEVTYPE") != "scsi_host",
            _ => false,
        }
}
