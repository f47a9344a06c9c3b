//! INQUIRY: the command, and what makes its answer complete (SPC-4, 6.4 and 7.8).

use rustix::io::Errno;
use san_core::ErrorKind;

use crate::ioctl::SgAnswer;
use crate::job::Failure;

/// Enough for every page that identifies a device; longer ones are asked for again by their own length.
const FIRST_LENGTH: u16 = 252;
/// What every device has to answer to a standard INQUIRY.
const STANDARD_MIN: usize = 36;

/// Asks for standard data (`None`) or a vital product data page with `send` and returns it whole, never cut short.
pub(crate) fn inquire(
    page: Option<u8>,
    mut send: impl FnMut([u8; 6], u16) -> Result<SgAnswer, Errno>,
) -> Result<Vec<u8>, Failure> {
    let mut ask = |length: u16| {
        let answer =
            send(command(page, length), length).map_err(|it| Failure::os("cannot send INQUIRY", it))?;
        judge(&answer)?;
        let total = announced(page, &answer.data)?;
        Ok::<_, Failure>((answer.data, total))
    };
    let mut length = usize::from(FIRST_LENGTH);
    let (mut data, mut total) = ask(FIRST_LENGTH)?;
    if page.is_some() && total > length {
        let Ok(whole) = u16::try_from(total) else {
            return Err(Failure::new(
                ErrorKind::Protocol,
                format!("the page claims to be {total} bytes long"),
            ));
        };
        length = total;
        (data, total) = ask(whole)?;
        if total > length {
            return Err(Failure::new(ErrorKind::Busy, "the page grew while it was read"));
        }
    }
    let complete = total.min(length);
    if data.len() < complete {
        let message = format!("INQUIRY data ended after {} of {complete} bytes", data.len());
        return Err(Failure::new(ErrorKind::Protocol, message));
    }
    data.truncate(complete);
    Ok(data)
}

fn command(page: Option<u8>, length: u16) -> [u8; 6] {
    let [high, low] = length.to_be_bytes();
    [0x12, u8::from(page.is_some()), page.unwrap_or(0), high, low, 0]
}

/// How many bytes the device says it has.
fn announced(page: Option<u8>, data: &[u8]) -> Result<usize, Failure> {
    let protocol = |message: String| Err(Failure::new(ErrorKind::Protocol, message));
    match (page, data) {
        (None, [_, _, _, _, additional, ..]) => {
            let total = usize::from(*additional) + 5;
            if total < STANDARD_MIN {
                return protocol(format!("the device announces only {total} bytes of INQUIRY data"));
            }
            Ok(total)
        }
        (Some(asked), [_, answered, high, low, ..]) => {
            if *answered != asked {
                return protocol(format!("asked for page {asked:#04x}, got page {answered:#04x}"));
            }
            Ok(usize::from(u16::from_be_bytes([*high, *low])) + 4)
        }
        _ => protocol(format!("only {} bytes of INQUIRY data came back", data.len())),
    }
}

/// An error unless host, driver and device all call the command good.
fn judge(answer: &SgAnswer) -> Result<(), Failure> {
    // SUGGEST_* in the upper half is advice; DRIVER_SENSE (8) only says that there is sense data.
    let driver = answer.driver_status & 0x0f;
    if answer.host_status != 0 {
        let what = host_status_name(answer.host_status);
        let message =
            format!("INQUIRY did not reach the device: host status {:#04x}{what}", answer.host_status);
        return Err(Failure::new(ErrorKind::Unavailable, message));
    }
    if driver != 0 && driver != 0x08 {
        return Err(Failure::new(
            ErrorKind::Unavailable,
            format!("INQUIRY failed: driver status {driver:#04x}"),
        ));
    }
    match answer.status {
        0x00 => Ok(()),
        0x02 => Err(refusal(&answer.sense)),
        0x08 | 0x28 => Err(Failure::new(ErrorKind::Busy, "the device is busy")),
        other => Err(Failure::new(ErrorKind::Protocol, format!("INQUIRY ended with status {other:#04x}"))),
    }
}

/// The names of the kernel's `DID_*` that are seen when a path is lost.
fn host_status_name(status: u16) -> &'static str {
    match status {
        0x01 => " (no connection)",
        0x02 => " (bus busy)",
        0x03 => " (timeout)",
        0x07 => " (internal error)",
        0x0d => " (requeue)",
        0x0e => " (transport disrupted)",
        0x0f => " (transport failed fast)",
        _ => "",
    }
}

/// What CHECK CONDITION meant. Sense keys and additional codes are those of SPC-4, 4.5.
fn refusal(sense: &[u8]) -> Failure {
    let (key, code, qualifier) = match sense {
        [0x70 | 0x71, _, key, _, _, _, _, _, _, _, _, _, code, qualifier, ..] => {
            (key & 0x0f, *code, *qualifier)
        }
        [0x72 | 0x73, key, code, qualifier, ..] => (key & 0x0f, *code, *qualifier),
        _ => return Failure::new(ErrorKind::Protocol, "INQUIRY was refused without a reason"),
    };
    let (kind, what) = match (key, code) {
        (0x5, 0x25) => (ErrorKind::NotFound, "no such logical unit"),
        (0x5, _) => (ErrorKind::Unsupported, "the device has no such page"),
        (0x2, _) => (ErrorKind::Unavailable, "the device is not ready"),
        (0x6 | 0xb, _) => (ErrorKind::Busy, "the device asks to repeat the command"),
        _ => (ErrorKind::Unavailable, "the device reports a failure"),
    };
    Failure::new(kind, format!("{what} (sense {key:x}/{code:02x}/{qualifier:02x})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn good(data: &[u8]) -> SgAnswer {
        SgAnswer { data: data.to_vec(), ..SgAnswer::default() }
    }

    fn page80(serial: &[u8]) -> Vec<u8> {
        let [high, low] = u16::try_from(serial.len()).unwrap().to_be_bytes();
        [&[0, 0x80, high, low], serial].concat()
    }

    fn once(page: Option<u8>, answer: &SgAnswer) -> Result<Vec<u8>, Failure> {
        inquire(page, |_, _| Ok(answer.clone()))
    }

    #[test]
    fn a_page_is_returned_whole_and_without_what_lies_behind_it() {
        let mut padded = page80(b"abc");
        padded.extend([0xff; 9]);
        assert_eq!(once(Some(0x80), &good(&padded)), Ok(page80(b"abc")));
        let mut standard = vec![0; 96];
        standard[4] = 31;
        assert_eq!(once(None, &good(&standard)).unwrap().len(), 36);
    }

    #[test]
    fn a_long_page_is_asked_for_by_its_own_length() {
        let page = page80(&[b'x'; 400]);
        let mut asked = Vec::new();
        let got = inquire(Some(0x80), |command, length| {
            asked.push((command, length));
            Ok(good(&page[..page.len().min(usize::from(length))]))
        });
        assert_eq!(got, Ok(page.clone()));
        assert_eq!(asked, [([0x12, 1, 0x80, 0, 252, 0], 252), ([0x12, 1, 0x80, 0x01, 0x94, 0], 404)]);
    }

    #[test]
    fn what_is_short_wrong_or_refused_is_an_error() {
        let mut lying = page80(b"abcdef");
        lying.truncate(7);
        let sense = |key, code| SgAnswer {
            status: 2,
            driver_status: 8,
            sense: vec![0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, 0],
            ..SgAnswer::default()
        };
        let cases = [
            ("short page", good(&lying), ErrorKind::Protocol),
            ("no data", good(&[]), ErrorKind::Protocol),
            ("another page", good(&[0, 0x83, 0, 0]), ErrorKind::Protocol),
            ("no such page", sense(5, 0x24), ErrorKind::Unsupported),
            ("no such unit", sense(5, 0x25), ErrorKind::NotFound),
            ("not ready", sense(2, 4), ErrorKind::Unavailable),
            ("attention", sense(6, 0x3f), ErrorKind::Busy),
            ("no sense", SgAnswer { status: 2, ..SgAnswer::default() }, ErrorKind::Protocol),
            ("busy", SgAnswer { status: 8, ..SgAnswer::default() }, ErrorKind::Busy),
            ("no path", SgAnswer { host_status: 1, ..good(&page80(b"a")) }, ErrorKind::Unavailable),
            ("driver", SgAnswer { driver_status: 6, ..good(&page80(b"a")) }, ErrorKind::Unavailable),
        ];
        for (name, answer, kind) in cases {
            assert_eq!(once(Some(0x80), &answer).unwrap_err().kind, kind, "{name}");
        }
        let mut stunted = vec![0; 36];
        stunted[4] = 2;
        assert_eq!(once(None, &good(&stunted)).unwrap_err().kind, ErrorKind::Protocol);
        assert_eq!(inquire(None, |_, _| Err(Errno::NXIO)).unwrap_err().kind, ErrorKind::Unavailable);
    }

    #[test]
    fn sense_in_descriptor_format_is_understood() {
        let failure = refusal(&[0x72, 0x05, 0x24, 0x00, 0, 0, 0, 0]);
        assert_eq!(failure.kind, ErrorKind::Unsupported);
        assert_eq!(failure.message, "the device has no such page (sense 5/24/00)");
    }

    proptest! {
        #[test]
        fn whatever_a_device_says_is_judged_in_two_steps(
            data in proptest::collection::vec(any::<u8>(), 0..300),
            sense in proptest::collection::vec(any::<u8>(), 0..64),
            status: u8, host_status in 0_u16..3, driver_status in 0_u16..12, page: Option<u8>,
        ) {
            let mut steps = 0;
            let answer = SgAnswer { status, host_status, driver_status, data, sense };
            let _ = inquire(page, |_, _| { steps += 1; Ok(answer.clone()) });
            prop_assert!(steps <= 2);
        }
    }
}
