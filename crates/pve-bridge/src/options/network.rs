//! The options about networks: how the array's management is reached.

use std::ops::RangeInclusive;
use std::time::Duration;

use san_rest::{CONNECT, Endpoint, Trust};

use super::parser::Parser;

/// More addresses than an array of eight nodes has are a mistake, and each costs its wait while all are dead.
const ADDRESSES: usize = 8;
/// Below, a busy array counts as dead; above, a request is over before the second address is tried.
const CONNECT_SECONDS: RangeInclusive<u64> = 1..=15;

/// Where the array's management is and how it proves itself.
pub(super) fn endpoint(parser: &mut Parser<'_>) -> Endpoint {
    let addresses = parser.required("address");
    let addresses = parser.list("address", &addresses, ADDRESSES);
    let trust = trust(parser);
    let connect = parser.number("connect-timeout", "seconds", CONNECT_SECONDS);
    Endpoint { addresses, trust, connect: connect.map_or(CONNECT, Duration::from_secs) }
}

fn trust(parser: &mut Parser<'_>) -> Trust {
    match (parser.optional("ca-file"), parser.optional("fingerprint")) {
        (Some(_), Some(_)) => {
            parser.refuse("ca-file", "and sanbridge-fingerprint exclude each other");
            Trust::System
        }
        (Some(path), None) if path.starts_with('/') => Trust::AuthorityFile(path.into()),
        (Some(_), None) => {
            parser.refuse("ca-file", "is not an absolute path");
            Trust::System
        }
        (None, Some(text)) => Trust::Pinned(parser.list("fingerprint", &text, ADDRESSES)),
        (None, None) => Trust::System,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Options;
    use crate::options::tests::{GOOD, options};

    fn parsed(pairs: &[(&str, &str)]) -> Result<Endpoint, String> {
        let mut all = options(&GOOD);
        all.extend(options(pairs));
        Options::parse(&all).map(|it| it.endpoint).map_err(|error| error.to_string())
    }

    #[test]
    fn several_addresses_and_fingerprints_are_lists_with_commas() {
        let pins = format!("{},{}", "ab".repeat(32), "CD:".repeat(31) + "CD");
        let it = parsed(&[
            ("sanbridge-address", "filer, 10.0.0.2:8443,[2001:db8::1], [2001:db8::2]:443"),
            ("sanbridge-fingerprint", &pins),
            ("sanbridge-connect-timeout", "2"),
        ])
        .unwrap();
        let shown: Vec<String> = it.addresses.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["filer", "10.0.0.2:8443", "[2001:db8::1]", "[2001:db8::2]:443"]);
        assert!(matches!(it.trust, Trust::Pinned(pins) if pins.len() == 2));
        assert_eq!(it.connect, Duration::from_secs(2));
        let nine = (1..=9).map(|it| format!("10.0.0.{it}")).collect::<Vec<_>>().join(",");
        for (address, word) in [
            ("10.0.0.1,", "not a host name"),
            ("10.0.0.1,2001:db8::1", "2001:db8::1"),
            ("10.0.0.1, 10.0.0.1", "twice"),
            (nine.as_str(), "more than 8"),
        ] {
            let error = parsed(&[("sanbridge-address", address)]).unwrap_err();
            assert!(error.contains(word), "{word} in {error}");
        }
        for seconds in ["0", "16", "x"] {
            assert!(parsed(&[("sanbridge-connect-timeout", seconds)]).unwrap_err().contains("1 to 15"));
        }
    }
}
