//! The recorded attribute lists of sysfs folders, and how they are laid out in the tree.

use std::fmt::{Arguments, Write as _};

use super::tree::{Action, Tree};

pub(crate) const ISCSI_SESSION: &str = include_str!("formats/iscsi_session.txt");
pub(crate) const ISCSI_CONNECTION: &str = include_str!("formats/iscsi_connection.txt");
pub(crate) const ISCSI_HOST: &str = include_str!("formats/iscsi_host.txt");
pub(crate) const SCSI_HOST: &str = include_str!("formats/scsi_host.txt");
pub(crate) const SCSI_DEVICE: &str = include_str!("formats/scsi_device.txt");
pub(crate) const SCSI_DISK: &str = include_str!("formats/scsi_disk.txt");
pub(crate) const BLOCK_SD: &str = include_str!("formats/block_sd.txt");
pub(crate) const BLOCK_DM: &str = include_str!("formats/block_dm.txt");

/// Attributes that can be written on Linux and only keep their value here.
const STORED: [&str; 6] =
    ["recovery_tmo", "timeout", "eh_timeout", "queue_depth", "queue/scheduler", "queue/max_sectors_kb"];

/// Appends formatted text.
pub(crate) fn push(text: &mut String, more: Arguments<'_>) {
    // Writing into a String cannot fail.
    let _ = text.write_fmt(more);
}

/// The lowest number that is not taken.
pub(crate) fn lowest_free(is_taken: impl Fn(u32) -> bool) -> u32 {
    let mut number = 0;
    while is_taken(number) {
        number += 1;
    }
    number
}

/// Lays out a recorded folder; `values` replaces what differs from the recording.
pub(crate) fn lay_out(tree: &mut Tree, folder: &str, recorded: &str, values: &[(&str, String)]) {
    for line in recorded.lines().filter(|it| !it.starts_with('#')) {
        let Some((name, value)) = line.split_once(':') else { continue };
        let value = match values.iter().find(|(it, _)| *it == name) {
            Some((_, value)) => value.clone().into_bytes(),
            None => decode(value.strip_prefix(' ').unwrap_or(value)),
        };
        let write = STORED.contains(&name).then_some(Action::Store);
        tree.put_attr(&format!("{folder}/{name}"), Some(value), write);
    }
}

/// A value as the recordings write it: `hex:` before bytes, `\n` for a line break.
fn decode(value: &str) -> Vec<u8> {
    match value.strip_prefix("hex:") {
        Some(hex) => {
            let digits: Vec<u8> = hex
                .chars()
                .filter_map(|it| it.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
                .collect();
            digits.chunks(2).map(|pair| pair.iter().fold(0, |byte, digit| byte << 4 | digit)).collect()
        }
        None => value.replace("\\n", "\n").into_bytes(),
    }
}
