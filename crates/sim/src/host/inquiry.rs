//! The bytes of INQUIRY and vital product data pages, laid out as SPC-4 says and as recorded from a kernel target.

use super::formats::push;
use crate::target::{Portal, Unit};

/// Standard INQUIRY data of a unit, 96 bytes.
pub(crate) fn standard(unit: &Unit) -> Vec<u8> {
    // Peripheral qualifier 0, disk; SPC-4; HiSup off, format 2; 91 more bytes; SCCS, implicit TPGS, 3PC; MultiP; CmdQue.
    let mut data = vec![0x00, 0x00, 0x06, 0x02, 0x5b, 0x98, 0x10, 0x02];
    data.extend(padded(&unit.vendor, 8));
    data.extend(padded(&unit.product, 16));
    data.extend(padded(&unit.revision, 4));
    data.resize(58, 0);
    // Version descriptors: SAM-5, iSCSI, SPC-4, SBC-3.
    data.extend([0x00, 0xa0, 0x09, 0x60, 0x04, 0x60, 0x04, 0xc0]);
    data.resize(96, 0);
    data
}

/// Standard INQUIRY data where no unit is mapped: peripheral qualifier 1, as ONTAP answers.
pub(crate) fn nothing_here() -> Vec<u8> {
    let mut data = vec![0x20, 0x00, 0x06, 0x02, 0x5b];
    data.resize(96, 0);
    data
}

/// One vital product data page; `None` where the unit does not have it.
pub(crate) fn page(unit: &Unit, portal: &Portal, page: u8) -> Option<Vec<u8>> {
    let body = match page {
        0x00 => vec![0x00, 0x80, 0x83],
        0x80 => unit.serial.clone(),
        0x83 => identification(unit, portal),
        _ => return None,
    };
    let length = u16::try_from(body.len()).ok()?;
    let mut data = vec![0x00, page];
    data.extend(length.to_be_bytes());
    data.extend(body);
    Some(data)
}

fn identification(unit: &Unit, portal: &Portal) -> Vec<u8> {
    let mut vendor: Vec<u8> = padded(&unit.vendor, 8);
    vendor.extend(unit.product.bytes());
    vendor.push(b':');
    vendor.extend(&unit.serial);
    vendor.push(0);
    let group = portal.group.to_be_bytes();
    let mut body = Vec::new();
    designator(&mut body, 0x01, 0x03, &unit.naa);
    designator(&mut body, 0x02, 0x01, &vendor);
    designator(&mut body, 0x51, 0x94, &[0, 0, group[0], group[1]]);
    designator(&mut body, 0x51, 0x95, &[0, 0, group[0], group[1]]);
    designator(&mut body, 0x01, 0x06, &[0, 0, 0, 0]);
    designator(&mut body, 0x53, 0x98, &name(&format!("{},t,0x{:04x}", portal.target, portal.group)));
    designator(&mut body, 0x53, 0xa8, &name(&portal.target));
    body
}

/// A SCSI name string: NUL-terminated and filled to a multiple of four.
fn name(text: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize((bytes.len() / 4 + 1) * 4, 0);
    bytes
}

fn designator(body: &mut Vec<u8>, codes: u8, kind: u8, value: &[u8]) {
    let value = &value[..value.len().min(255)];
    body.extend([codes, kind, 0, u8::try_from(value.len()).unwrap_or(u8::MAX)]);
    body.extend(value);
}

fn padded(text: &str, length: usize) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(length, b' ');
    bytes
}

/// Lower-case hex digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, it| {
        push(&mut text, format_args!("{it:02x}"));
        text
    })
}
