//! Writes a folder of sysfs down.

use std::path::Path;

use san_core::Deadline;
use san_host::{Attr, Host};

use super::scrub::{BLANK, is_volatile};

/// Folders that every device has in the same way, about its power, its tracing, its queues and the other way to send it commands.
const GENERIC: [&str; 5] = ["power", "trace", "integrity", "mq", "bsg"];

/// The lines of a folder: `name: value`, `name: hex:...` for bytes, `name -> target`, `name/` for an empty folder.
pub(super) async fn walk(
    host: &dyn Host,
    folder: &str,
    deadline: Deadline,
) -> Result<Vec<String>, san_core::Error> {
    let mut lines = Vec::new();
    let mut todo = vec![String::new()];
    while let Some(below) = todo.pop() {
        let here = join(folder, &below);
        let Some(names) = host.list(Path::new(&here), deadline).await? else {
            lines.push(format!("{}: gone", if below.is_empty() { "." } else { &below }));
            continue;
        };
        if names.is_empty() {
            lines.push(format!("{below}/"));
        }
        for name in names.iter().filter(|it| !GENERIC.contains(&it.as_str())) {
            let relative = if below.is_empty() { name.clone() } else { format!("{below}/{name}") };
            let path = join(folder, &relative);
            if let Ok(Some(target)) = host.read_link(Path::new(&path), deadline).await {
                lines.push(format!("{relative} -> {}", target.display()));
            } else if matches!(host.list(Path::new(&path), deadline).await, Ok(Some(_))) {
                todo.push(relative);
            } else {
                lines.push(format!("{relative}: {}", value(host, &here, name, deadline).await));
            }
        }
    }
    lines.sort_unstable();
    Ok(lines)
}

fn join(folder: &str, below: &str) -> String {
    if below.is_empty() { folder.to_owned() } else { format!("{folder}/{below}") }
}

/// One attribute, as a transcript shows it.
pub(super) async fn value(host: &dyn Host, folder: &str, name: &str, deadline: Deadline) -> String {
    if is_volatile(name) {
        return BLANK.to_owned();
    }
    match host.attr(Path::new(folder), name, deadline).await {
        Ok(Attr::Value(bytes)) => shown(name, &bytes),
        Ok(Attr::Missing) => "(missing)".to_owned(),
        Ok(Attr::DeviceGone) => "(device gone)".to_owned(),
        // Attributes that can only be written, and those whose value is not there at the moment.
        Err(_) => "(not readable)".to_owned(),
    }
}

/// Text as it is with `\n` for line breaks, bytes in hex.
pub(super) fn shown(name: &str, bytes: &[u8]) -> String {
    let is_binary = name.starts_with("vpd_pg") || name == "inquiry";
    match std::str::from_utf8(bytes) {
        Ok(text) if !is_binary => text.replace('\n', "\\n"),
        _ => hex(bytes),
    }
}

/// Bytes in hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold("hex:".to_owned(), |mut text, it| {
        // Writing into a String cannot fail.
        let _ = write!(text, "{it:02x}");
        text
    })
}
