//! Vital product data pages (SPC-5, section 7.7): what a logical unit says of itself.

use san_core::{Error, ErrorKind, Result, Wwid};

/// The device identification page.
pub(crate) const IDENTIFICATION: u8 = 0x83;
/// The unit serial number page.
pub(crate) const SERIAL: u8 = 0x80;

/// The body of page `code`; `None` where no unit is behind the address (the peripheral qualifier says so).
fn body(code: u8, page: &[u8]) -> Result<Option<&[u8]>> {
    let [head, found, high, low, rest @ ..] = page else {
        return Err(garbled(code, "it is shorter than its header"));
    };
    if head >> 5 != 0 {
        return Ok(None);
    }
    if *found != code {
        return Err(garbled(code, "another page was sent"));
    }
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    rest.get(..length).map(Some).ok_or_else(|| garbled(code, "it is cut off"))
}

/// Whether standard INQUIRY data says that no unit is behind the address: any peripheral qualifier but 0.
pub(crate) fn is_vacant(standard: &[u8]) -> bool {
    standard.first().is_some_and(|it| it >> 5 != 0)
}

fn garbled(code: u8, why: &str) -> Error {
    Error::new(ErrorKind::Protocol, format!("VPD page {code:#04x} cannot be read: {why}"))
}

/// A page as read from an attribute, where a last byte that looks like a line break is cut off.
pub(crate) fn whole(mut page: Vec<u8>) -> Vec<u8> {
    if let [_, _, high, low, rest @ ..] = page.as_slice()
        && rest.len() + 1 == usize::from(u16::from_be_bytes([*high, *low]))
    {
        page.push(b'\n');
    }
    page
}

/// The NAA type 6 identifier of the logical unit in page 0x83. `None` where the page holds none.
///
/// # Errors
/// `Protocol` for a page that is no page, or that names two different units.
pub(crate) fn wwid(page: &[u8]) -> Result<Option<Wwid>> {
    let Some(mut rest) = body(IDENTIFICATION, page)? else { return Ok(None) };
    let mut found = None;
    while !rest.is_empty() {
        let [code_set, kind, _, length, tail @ ..] = rest else {
            return Err(garbled(IDENTIFICATION, "a designator is cut off"));
        };
        let designator = tail
            .get(..usize::from(*length))
            .ok_or_else(|| garbled(IDENTIFICATION, "a designator is cut off"))?;
        rest = &tail[designator.len()..];
        // Association 0 is the logical unit (others name ports and targets); designator type 3 is NAA; code set 1 binary.
        let is_naa = kind & 0x3f == 3 && code_set & 0x0f == 1;
        let Ok(bytes) = <[u8; 16]>::try_from(designator) else { continue };
        if !is_naa || bytes[0] >> 4 != 6 {
            continue;
        }
        let wwid = Wwid::Naa6(bytes);
        if found.is_some_and(|it| it != wwid) {
            return Err(garbled(IDENTIFICATION, "it names two different units"));
        }
        found = Some(wwid);
    }
    Ok(found)
}

/// The serial number in page 0x80 without padding. `None` where it is blank.
pub(crate) fn serial(page: &[u8]) -> Result<Option<String>> {
    let Some(text) = body(SERIAL, page)? else { return Ok(None) };
    let text = std::str::from_utf8(text).map_err(|_| garbled(SERIAL, "it is not text"))?;
    let text = text.trim_matches(|it: char| it == '\0' || it.is_ascii_whitespace());
    Ok((!text.is_empty()).then(|| text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pair = |it: &[u8]| u8::from_str_radix(std::str::from_utf8(it).unwrap(), 16).unwrap();
        digits.chunks(2).map(pair).collect()
    }

    fn page83(designators: &[(u8, u8, &[u8])]) -> Vec<u8> {
        let body: Vec<u8> = designators
            .iter()
            .flat_map(|(set, kind, it)| [&[*set, *kind, 0, u8::try_from(it.len()).unwrap()], *it].concat())
            .collect();
        [&[0, 0x83], &u16::try_from(body.len()).unwrap().to_be_bytes()[..], &body].concat()
    }

    const A: [u8; 16] = [0x60, 0x0a, 0x09, 0x80, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12];
    const B: [u8; 16] = [0x60, 0x0a, 0x09, 0x80, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13];

    /// Pages as sysfs of Linux 6.12 (Debian 13) and 6.1 (Debian 12) showed them.
    #[test]
    fn recorded_pages() {
        let recorded = include_str!("../tests/fixtures/vpd.txt");
        let lines: Vec<_> = recorded.lines().filter(|it| !it.starts_with('#')).collect();
        assert_eq!(lines.len(), 4);
        for line in lines {
            let (name, bytes) = line.split_once(": ").unwrap();
            let bytes = hex(bytes);
            if name.ends_with("vpd_pg83") {
                let expected = "naa.600a098038302d426b3f5478795a3132";
                assert_eq!(wwid(&bytes).unwrap().unwrap().to_string(), expected, "{name}");
            } else {
                assert_eq!(serial(&bytes).unwrap().as_deref(), Some("038302d426b3f5478795a3132"), "{name}");
            }
        }
    }

    #[test]
    fn only_the_units_own_naa_counts() {
        let cases = [
            ("plain", page83(&[(1, 3, &A)]), Some(A)),
            ("after others", page83(&[(2, 1, b"NETAPP  LUN"), (1, 3, &A)]), Some(A)),
            ("twice the same", page83(&[(1, 3, &A), (1, 3, &A)]), Some(A)),
            ("of a port", page83(&[(1, 0x13, &A)]), None),
            ("of the target", page83(&[(1, 0x23, &A)]), None),
            ("in text", page83(&[(2, 3, &A)]), None),
            ("type 5", page83(&[(1, 3, &[0x50; 8])]), None),
            ("type 3 of 16 bytes", page83(&[(1, 3, &[0x30; 16])]), None),
            ("empty", page83(&[]), None),
        ];
        for (name, page, expected) in cases {
            assert_eq!(wwid(&page).unwrap(), expected.map(Wwid::Naa6), "{name}");
        }
    }

    #[test]
    fn what_is_no_page_is_an_error_and_no_unit_is_none() {
        let whole = page83(&[(1, 3, &A)]);
        for cut in 0..whole.len() {
            assert!(wwid(&whole[..cut]).is_err(), "cut at {cut}");
        }
        assert!(wwid(&page83(&[(1, 3, &A), (1, 3, &B)])).is_err(), "two units");
        assert!(wwid(&[0, 0x80, 0, 0]).is_err(), "another page");
        assert!(wwid(&[0, 0x83, 0, 5, 1, 3, 0, 16, 0x60]).is_err(), "a designator longer than its page");
        // Peripheral qualifier 1 and 3: nothing is mapped at this address.
        assert_eq!(wwid(&[0x20, 0x83, 0, 0]).unwrap(), None);
        assert_eq!(wwid(&[0x7f, 0, 0, 0]).unwrap(), None);
    }

    #[test]
    fn a_page_that_ends_like_a_line_is_read_whole() {
        let mut naa = A;
        naa[15] = b'\n';
        let page = page83(&[(1, 3, &naa)]);
        let mut cut = page.clone();
        cut.pop();
        assert_eq!(whole(cut), page);
        assert_eq!(whole(page.clone()), page);
        assert_eq!(whole(page[..page.len() - 2].to_vec()), page[..page.len() - 2]);
        assert_eq!(whole(vec![0, 0x83]), [0, 0x83]);
    }

    #[test]
    fn serials_are_compared_without_padding() {
        let page = |it: &[u8]| [&[0, 0x80, 0, u8::try_from(it.len()).unwrap()], it].concat();
        assert_eq!(serial(&page(b"80-Bk?TxyZ12")).unwrap().as_deref(), Some("80-Bk?TxyZ12"));
        assert_eq!(serial(&page(b"  80-Bk\0\0 ")).unwrap().as_deref(), Some("80-Bk"));
        assert_eq!(serial(&page(b" \0 ")).unwrap(), None);
        assert_eq!(serial(&page(b"")).unwrap(), None);
        assert!(serial(&page(b"\xff\xfe")).is_err());
        assert!(serial(b"").is_err());
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>, body: Vec<u8>) {
            let _ = (wwid(&bytes), serial(&bytes));
            let length = u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes();
            let framed = [&[0, 0x83], &length[..], &body].concat();
            let _ = wwid(&framed);
        }
    }
}
