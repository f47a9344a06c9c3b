//! What an array's answers tell of it beside what was asked: what time it has, and until when its certificate is valid.

use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::Response;
use http::header::DATE;

/// When the certificate ends that the array proved itself by, in seconds since 1970. A wire that has one adds it to its answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ValidUntil(pub i64);

/// What is known of an array by its answers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peer {
    /// By how many seconds its clock was ahead of this node's when it last answered; negative: behind.
    pub ahead: Option<i64>,
    /// When its certificate ends, in seconds since 1970.
    pub valid_until: Option<i64>,
}

#[derive(Debug, Default)]
pub(crate) struct Observed(Mutex<Peer>);

impl Observed {
    pub(crate) fn note(&self, answer: &Response<Bytes>) {
        let date = answer.headers().get(DATE).and_then(|it| it.to_str().ok()).and_then(seconds_of);
        let valid_until = answer.extensions().get::<ValidUntil>().map(|it| it.0);
        let mut peer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(date) = date {
            peer.ahead = Some(date - now());
        }
        peer.valid_until = valid_until.or(peer.valid_until);
    }

    pub(crate) fn peer(&self) -> Peer {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
    i64::try_from(since).unwrap_or(i64::MAX)
}

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The time of the form that servers have to use: `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7).
fn seconds_of(date: &str) -> Option<i64> {
    let words: Vec<&str> = date.split_whitespace().collect();
    let [_, day, month, year, time, "GMT"] = words.as_slice() else { return None };
    let month = MONTHS.iter().position(|it| it == month)? + 1;
    let clock: Vec<i64> = time.split(':').map(|it| it.parse().ok()).collect::<Option<_>>()?;
    let [hours, minutes, seconds] = clock.as_slice() else { return None };
    let days = days_until(year.parse().ok()?, i64::try_from(month).ok()?, day.parse().ok()?);
    Some(days * 86_400 + hours * 3_600 + minutes * 60 + seconds)
}

/// Days from 1970 to a day of the Gregorian calendar.
fn days_until(year: i64, month: i64, day: i64) -> i64 {
    // Years begin in March, so that the leap day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let leap_days = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    let days_of_months = (153 * month + 2) / 5;
    // From the first of March of the year 0 to 1970.
    year * 365 + leap_days + days_of_months + day - 1 - 719_468
}

/// When a certificate ends: `notAfter` of RFC 5280, section 4.1, found by the lengths of what stands before it. The wire has
/// verified the certificate already; one that cannot be read has no end that is known.
pub(crate) fn end_of(certificate: &[u8]) -> Option<i64> {
    let (SEQUENCE, signed, _) = element(certificate)? else { return None };
    let (SEQUENCE, mut rest, _) = element(signed)? else { return None };
    // The version may be left out; the serial number, the algorithm and the issuer may not.
    let (first, _, after) = element(rest)?;
    if first == VERSION {
        rest = after;
    }
    for _ in 0..3 {
        rest = element(rest)?.2;
    }
    let (SEQUENCE, validity, _) = element(rest)? else { return None };
    let (_, _, after_begin) = element(validity)?;
    let (kind, end, _) = element(after_begin)?;
    time_of(kind, std::str::from_utf8(end).ok()?)
}

const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// The first element of DER: its tag, its content, and what follows it.
fn element(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let length =
            digits.iter().try_fold(0usize, |sum, it| sum.checked_mul(256)?.checked_add(usize::from(*it)))?;
        (length, rest)
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((*tag, content, after))
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn time_of(kind: u8, text: &str) -> Option<i64> {
    let digits = text.strip_suffix('Z').filter(|it| it.bytes().all(|it| it.is_ascii_digit()))?;
    let (year, rest) = match kind {
        UTC_TIME => {
            let (year, rest) = digits.split_at_checked(2)?;
            let year: i64 = year.parse().ok()?;
            (if year < 50 { 2000 + year } else { 1900 + year }, rest)
        }
        GENERALIZED_TIME => {
            let (year, rest) = digits.split_at_checked(4)?;
            (year.parse().ok()?, rest)
        }
        _ => return None,
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day) = (part(0)?, part(2)?);
    Some(days_until(year, month, day) * 86_400 + part(4)? * 3_600 + part(6)? * 60 + part(8)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_seconds_since_1970() {
        for (date, expected) in [
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(784_111_777)),
            ("Thu, 01 Jan 1970 00:00:00 GMT", Some(0)),
            ("Thu, 29 Feb 2024 12:00:00 GMT", Some(1_709_208_000)),
            ("Tue, 31 Dec 2030 23:59:59 GMT", Some(1_924_991_999)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", None),
            ("Sun, 06 Nov 1994 08:49:37 CET", None),
            ("", None),
        ] {
            assert_eq!(seconds_of(date), expected, "{date}");
        }
        assert_eq!(time_of(UTC_TIME, "941106084937Z"), Some(784_111_777));
        assert_eq!(time_of(GENERALIZED_TIME, "20301231235959Z"), Some(1_924_991_999));
        assert_eq!(time_of(UTC_TIME, "9411060849Z"), None);
        assert_eq!(time_of(GENERALIZED_TIME, "2030123123595xZ"), None);
    }

    #[test]
    fn the_end_of_a_certificate_is_read_and_nonsense_has_none() {
        let key = rcgen::KeyPair::generate().unwrap();
        for (year, month, day) in [(2031, 5, 17), (2060, 1, 2)] {
            let mut params = rcgen::CertificateParams::new(["filer.example".to_owned()]).unwrap();
            params.not_after = rcgen::date_time_ymd(year, month, day);
            let certificate = params.self_signed(&key).unwrap();
            let expected = days_until(i64::from(year), i64::from(month), i64::from(day)) * 86_400;
            assert_eq!(end_of(certificate.der()), Some(expected));
            for cut in 0..certificate.der().len().min(200) {
                assert_eq!(end_of(&certificate.der()[..cut]), None, "{cut}");
            }
        }
        assert_eq!(end_of(&[0x30, 0x84, 0xff, 0xff, 0xff, 0xff, 0x00]), None);
    }
}
