//! How a unit's identity is written into LIO, which knows a company and a serial number and makes the rest of them.

use std::fmt::Write as _;
use std::io;

use crate::target::Unit;

/// How many hexadecimal digits of the serial number LIO takes into the NAA identifier.
const DIGITS: usize = 25;

/// The longest serial number LIO takes.
const SERIAL_MAX: usize = 253;

/// What INQUIRY shows of a unit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Shown {
    pub(super) vendor: String,
    pub(super) product: String,
    pub(super) revision: String,
    /// The IEEE company identifier, 24 bits.
    pub(super) company: u32,
    /// `vpd_unit_serial`; empty for a unit without an identity.
    pub(super) serial: String,
}

impl Shown {
    /// What LIO must be told to show this unit.
    ///
    /// # Errors
    /// `InvalidInput` for an identifier that is not of NAA type 6, and for what does not fit INQUIRY's fields.
    pub(super) fn of(unit: &Unit) -> io::Result<Self> {
        let (company, serial) = identity(&unit.naa, &unit.serial)?;
        let fits =
            |text: &str, most: usize| text.len() <= most && text.bytes().all(|it| (0x20..0x7f).contains(&it));
        if !fits(&unit.vendor, 8) || !fits(&unit.product, 16) || !fits(&unit.revision, 4) {
            return Err(refused("a vendor, product or revision that INQUIRY has no room for"));
        }
        if serial.len() > SERIAL_MAX {
            return Err(refused("a serial number longer than LIO takes"));
        }
        let (vendor, product) = (unit.vendor.clone(), unit.product.clone());
        Ok(Self { vendor, product, revision: unit.revision.clone(), company, serial })
    }
}

fn refused(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

/// The company identifier and the serial number that make LIO show this NAA identifier.
fn identity(naa: &[u8; 16], serial: &[u8]) -> io::Result<(u32, String)> {
    let text = std::str::from_utf8(serial).ok().filter(|it| it.bytes().all(|byte| byte.is_ascii_graphic()));
    if naa.iter().all(|byte| *byte == 0) {
        return Ok((0, text.unwrap_or_default().to_owned()));
    }
    if naa[0] >> 4 != 6 {
        return Err(refused("an identifier that is not of NAA type 6"));
    }
    let company = u32::from_be_bytes([naa[0] & 0xf, naa[1], naa[2], naa[3]]) >> 4;
    let digits: String = hex(naa).chars().skip(32 - DIGITS).collect();
    let made_of = |text: &&str| {
        let found = text.chars().filter(char::is_ascii_hexdigit).map(|it| it.to_ascii_lowercase());
        found.take(DIGITS).collect::<String>() == digits
    };
    // A serial number that LIO makes this very identifier of is shown as it is.
    if let Some(text) = text.filter(made_of) {
        return Ok((company, text.to_owned()));
    }
    // Vendors make the identifier of the serial number: then the digits stand for both. Where they differ, the
    // difference goes behind the digits that count.
    let same = naa[4..].iter().zip(serial.iter().chain(std::iter::repeat(&0))).all(|(a, b)| a == b);
    Ok((company, if same { digits } else { digits + &hex(serial) }))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAA: [u8; 16] = *b"\x60\x0a\x09\x8080-Bk?TxyZ12";

    fn check(naa: [u8; 16], serial: &[u8], company: u32, shown: &str) {
        assert_eq!(identity(&naa, serial).unwrap(), (company, shown.to_owned()));
    }

    #[test]
    fn identifiers_made_of_the_serial_number_stand_for_it() {
        check(NAA, b"80-Bk?TxyZ12", 0x00_a098, "038302d426b3f5478795a3132");
    }

    #[test]
    fn a_serial_number_in_the_kernels_form_is_shown_as_it_is() {
        check(NAA, b"038302d426b3f5478795a3132", 0x00_a098, "038302d426b3f5478795a3132");
        check(NAA, b"038302d426b3f5478795a3132ff", 0x00_a098, "038302d426b3f5478795a3132ff");
    }

    #[test]
    fn another_serial_number_under_an_equal_identifier_shows() {
        check(NAA, b"80-Bk?TxyZ13", 0x00_a098, "038302d426b3f5478795a313238302d426b3f5478795a3133");
    }

    #[test]
    fn no_identity_is_no_serial_number() {
        check([0; 16], b"", 0, "");
    }

    #[test]
    fn other_identifiers_are_refused() {
        let mut naa = NAA;
        naa[0] = 0x50;
        assert_eq!(identity(&naa, b"x").unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
