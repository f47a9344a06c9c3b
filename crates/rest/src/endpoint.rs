//! Where an array's management interface listens and how it proves itself.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use san_core::{Error, ErrorKind, Result};

use crate::Trust;

/// Longest wait for TCP and TLS together unless an endpoint says otherwise; a healthy management network needs
/// milliseconds.
pub const CONNECT: Duration = Duration::from_secs(5);

/// Where a management interface listens: `host` or `host:port`, the port being 443 unless given.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address(http::uri::Authority);

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            let shown: String = text.chars().filter(|it| !it.is_control()).take(64).collect();
            // What precedes an `@` may be a password.
            let shown = shown.rsplit('@').next().unwrap_or_default().to_owned();
            Error::new(
                ErrorKind::InvalidInput,
                format!("{shown:?} is not a host name or address with an optional port"),
            )
        };
        let authority: http::uri::Authority = text.trim().parse().map_err(|_| bad())?;
        let plain = !authority.as_str().contains('@') && !authority.host().is_empty();
        // A second colon outside brackets is an IPv6 address that lacks them.
        let port_is_number = match authority.as_str().strip_prefix(authority.host()) {
            Some("") => true,
            Some(rest) => rest.strip_prefix(':').is_some_and(|it| it.parse::<u16>().is_ok()),
            None => false,
        };
        if plain && port_is_number { Ok(Self(authority)) } else { Err(bad()) }
    }
}

impl Address {
    /// What a resolver takes: the host with its port.
    pub(crate) fn with_port(&self) -> String {
        if self.0.port().is_some() { self.to_string() } else { format!("{}:443", self.0) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// An array's management interface and how it proves itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// All addresses of one array, the one to prefer first. The next is tried where one cannot be connected to.
    pub addresses: Vec<Address>,
    /// How its certificate is judged, whichever address presents it.
    pub trust: Trust,
    /// Longest wait for TCP and TLS together, per address; [`CONNECT`] if in doubt.
    pub connect: Duration,
}

impl Endpoint {
    /// Each address as an endpoint of its own, where there are several.
    pub fn alone(&self) -> impl Iterator<Item = (&Address, Self)> {
        self.addresses.iter().map(|it| (it, Self { addresses: vec![it.clone()], ..self.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hosts_with_ports_and_nothing_else() {
        for text in ["filer", "filer.example.org:8443", "192.0.2.1", "[2001:db8::1]", "[2001:db8::1]:443"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        for text in
            ["", "a b", "https://filer", "filer/api", "filer:port", "filer:70000", "2001:db8::1", "filer:"]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        let error = "admin:canary@filer".parse::<Address>().unwrap_err();
        assert!(!format!("{error:?}").contains("canary"));
    }
}
