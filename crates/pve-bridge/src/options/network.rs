//! The options about networks: how the array's management is reached, and by which roads its volumes.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use san_core::{Error, ErrorKind, Network, Result};
use san_rest::{CONNECT, Endpoint, Trust};
use san_transport_iscsi::IscsiConfig;

use super::parser::Parser;
use crate::secrets::ChapNames;

/// More addresses than an array of eight nodes has are a mistake, and each costs its wait while all are dead.
const ADDRESSES: usize = 8;
/// Below, a busy array counts as dead; above, a request is over before the second address is tried.
const CONNECT_SECONDS: RangeInclusive<u64> = 1..=15;
/// Enough for every interface of an array by itself.
const PORTALS: usize = 32;
/// The cards of one node.
const INTERFACES: usize = 8;
/// One path is no redundancy; the kernel and multipath handle more than 32, people do not.
const PATHS: RangeInclusive<u64> = 2..=32;
/// What ONTAP takes.
const USER_MAX: usize = 128;
/// Below, a busy array counts as refusing; above, one dead portal uses up the time in which a guest has to start.
const LOGIN_SECONDS: RangeInclusive<u64> = 2..=30;

/// Where the array's management is and how it proves itself.
pub(super) fn endpoint(parser: &mut Parser<'_>) -> Endpoint {
    let addresses = parser.required("address");
    let addresses = parser.list("address", &addresses, ADDRESSES);
    let trust = trust(parser);
    let connect = parser.number("connect-timeout", "seconds", CONNECT_SECONDS);
    Endpoint { addresses, trust, connect: connect.map_or(CONNECT, Duration::from_secs) }
}

/// Which of the array's data interfaces are used; empty: all.
pub(super) fn portals(parser: &mut Parser<'_>) -> Vec<Network> {
    let text = parser.optional("portals").unwrap_or_default();
    parser.list("portals", &text, PORTALS)
}

/// What a storage wants of its sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sessions {
    /// The interfaces they are bound to; empty: none.
    interfaces: Vec<String>,
    /// How long one login may take, where that is set.
    login_timeout: Option<Duration>,
}

impl Sessions {
    /// Makes the node's settings this storage's.
    pub(crate) fn apply(&self, config: &mut IscsiConfig) {
        config.interfaces.clone_from(&self.interfaces);
        config.login_timeout = self.login_timeout.unwrap_or(config.login_timeout);
    }
}

/// What the storage wants of its sessions.
pub(super) fn sessions(parser: &mut Parser<'_>) -> Sessions {
    let text = parser.optional("iscsi-interfaces").unwrap_or_default();
    let interfaces: Vec<Interface> = parser.list("iscsi-interfaces", &text, INTERFACES);
    let login_timeout = parser.number("login-timeout", "seconds", LOGIN_SECONDS).map(Duration::from_secs);
    Sessions { interfaces: interfaces.into_iter().map(|it| it.0).collect(), login_timeout }
}

/// The names that nodes and the array prove when sessions are made.
pub(super) fn chap(parser: &mut Parser<'_>) -> Option<ChapNames> {
    let (initiator, target) = (user(parser, "chap-username"), user(parser, "chap-target-username"));
    if initiator.is_none() && target.is_some() {
        parser.refuse(
            "chap-target-username",
            "needs sanbridge-chap-username: an array proves itself to nodes that do",
        );
    }
    initiator.map(|initiator| ChapNames { initiator, target })
}

fn user(parser: &mut Parser<'_>, name: &'static str) -> Option<String> {
    let text = parser.optional(name)?;
    if text.len() > USER_MAX || !text.bytes().all(|it| it.is_ascii_graphic()) {
        parser
            .refuse(name, format_args!("must be 1 to {USER_MAX} letters, digits and signs, without spaces"));
    }
    Some(text)
}

/// Most paths of one disk on a node.
pub(super) fn max_paths(parser: &mut Parser<'_>) -> Option<usize> {
    parser.number("max-paths", "paths", PATHS).and_then(|it| usize::try_from(it).ok())
}

/// The name of an interface of open-iscsi: it becomes the name of a file.
#[derive(Debug, PartialEq)]
struct Interface(String);

impl FromStr for Interface {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let is_plain = |it: u8| it.is_ascii_alphanumeric() || b"._:-".contains(&it);
        let is_file = !text.is_empty() && text.len() <= 64 && !text.starts_with(['.', '-']);
        if is_file && text.bytes().all(is_plain) {
            return Ok(Self(text.to_owned()));
        }
        let shown: String = text.chars().filter(|it| !it.is_control()).take(64).collect();
        Err(Error::new(ErrorKind::InvalidInput, format!("{shown:?} is no name of an open-iscsi interface")))
    }
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
