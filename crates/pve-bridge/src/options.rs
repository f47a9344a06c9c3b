//! A storage's section of PVE's configuration: parsed once, all problems named at once.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use san_core::{Error, ErrorKind, Result, TransportKind};
use san_engine::OUTAGE;
use san_ontap::OntapConfig;
use san_rest::{Address, Endpoint, Trust};
use serde_json::Value;

/// The options of one storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where the array is and how it proves itself.
    pub endpoint: Endpoint,
    /// The account.
    pub username: String,
    /// The tenant and where its volumes go.
    pub ontap: OntapConfig,
    /// How long a guest waits when its disk has lost every path.
    pub outage: Duration,
}

const PREFIX: &str = "sanbridge-";

/// Every option this version knows.
const KNOWN: [&str; 9] = [
    "array",
    "address",
    "username",
    "svm",
    "aggregate",
    "transport",
    "ca-file",
    "fingerprint",
    "outage-wait",
];
/// Below, guests would fail while an array hands its work over; above, they hang for longer than people wait.
const OUTAGE_SECONDS: RangeInclusive<u64> = 30..=3600;

/// Collects what is wrong, so that a person mends it all in one go.
struct Parser<'a> {
    options: &'a BTreeMap<String, Value>,
    problems: Vec<String>,
}

impl Parser<'_> {
    fn optional(&mut self, name: &str) -> Option<String> {
        match self.options.get(&format!("{PREFIX}{name}")) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if !text.trim().is_empty() => Some(text.trim().to_owned()),
            Some(_) => {
                self.problems.push(format!("{PREFIX}{name} is empty or no text"));
                None
            }
        }
    }

    fn required(&mut self, name: &str) -> String {
        let given = self.options.get(&format!("{PREFIX}{name}")).is_some_and(|it| !it.is_null());
        let value = self.optional(name);
        if !given {
            self.problems.push(format!("{PREFIX}{name} is missing"));
        }
        value.unwrap_or_default()
    }

    fn parse<T>(&mut self, name: &str, text: &str, parse: impl FnOnce(&str) -> Result<T>) -> Option<T> {
        if text.is_empty() {
            return None;
        }
        parse(text).map_err(|error| self.problems.push(format!("{PREFIX}{name}: {}", error.chain()))).ok()
    }

    /// ONTAP's names: letters, digits and a few signs; anything else could mean something in a query.
    fn name(&mut self, name: &str) -> String {
        let text = self.required(name);
        if !text.bytes().all(|it| it.is_ascii_alphanumeric() || b"_-.".contains(&it)) || text.len() > 200 {
            self.problems.push(format!("{PREFIX}{name} holds characters that no such name has"));
        }
        text
    }

    fn outage(&mut self) -> Duration {
        let Some(text) = self.optional("outage-wait") else { return OUTAGE };
        match text.parse() {
            Ok(seconds) if OUTAGE_SECONDS.contains(&seconds) => Duration::from_secs(seconds),
            _ => {
                let (least, most) = OUTAGE_SECONDS.into_inner();
                self.problems
                    .push(format!("{PREFIX}outage-wait must be a number of seconds, {least} to {most}"));
                OUTAGE
            }
        }
    }

    fn trust(&mut self) -> Trust {
        match (self.optional("ca-file"), self.optional("fingerprint")) {
            (Some(_), Some(_)) => {
                self.problems.push(format!("{PREFIX}ca-file and {PREFIX}fingerprint exclude each other"));
                Trust::System
            }
            (Some(path), None) if path.starts_with('/') => Trust::AuthorityFile(path.into()),
            (Some(_), None) => {
                self.problems.push(format!("{PREFIX}ca-file is not an absolute path"));
                Trust::System
            }
            (None, Some(text)) => {
                let pin = self.parse("fingerprint", &text, |it| it.parse().map(Trust::Fingerprint));
                pin.unwrap_or(Trust::System)
            }
            (None, None) => Trust::System,
        }
    }
}

impl Options {
    /// # Errors
    /// `InvalidInput` naming everything that is wrong.
    pub fn parse(options: &BTreeMap<String, Value>) -> Result<Self> {
        let mut parser = Parser { options, problems: Vec::new() };
        let unknown =
            options.keys().filter_map(|it| it.strip_prefix(PREFIX)).filter(|it| !KNOWN.contains(it));
        parser.problems.extend(unknown.map(|it| {
            let shown: String = it.chars().take(40).collect();
            format!("{PREFIX}{shown} is not known to this version")
        }));
        let array = parser.required("array");
        if !array.is_empty() && array != "ontap" {
            parser.problems.push(format!("{PREFIX}array must be \"ontap\""));
        }
        let transport = parser.optional("transport").unwrap_or_else(|| "iscsi".to_owned());
        if transport != "iscsi" {
            parser.problems.push(format!("{PREFIX}transport must be \"iscsi\""));
        }
        let address = parser.required("address");
        let address: Option<Address> = parser.parse("address", &address, str::parse);
        let username = parser.required("username");
        if username.contains(':') || username.chars().any(char::is_control) {
            parser.problems.push(format!("{PREFIX}username holds a colon or a control character"));
        }
        let (svm, aggregate) = (parser.name("svm"), parser.name("aggregate"));
        let (trust, outage) = (parser.trust(), parser.outage());
        let Some(address) = address.filter(|_| parser.problems.is_empty()) else {
            return Err(Error::new(ErrorKind::InvalidInput, parser.problems.join("; ")));
        };
        Ok(Self {
            endpoint: Endpoint { addresses: vec![address], trust },
            username,
            ontap: OntapConfig { svm, aggregate, transport: TransportKind::Iscsi },
            outage,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, Value> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect()
    }

    const GOOD: [(&str, &str); 5] = [
        ("sanbridge-array", "ontap"),
        ("sanbridge-address", "10.0.0.1:8443"),
        ("sanbridge-username", "pve"),
        ("sanbridge-svm", "svm_pve"),
        ("sanbridge-aggregate", "aggr1"),
    ];

    #[test]
    fn a_complete_section_parses() {
        let mut good = options(&GOOD);
        good.insert("content".to_owned(), serde_json::json!(["images"]));
        assert_eq!(Options::parse(&good).unwrap().ontap.svm, "svm_pve");
    }

    #[test]
    fn an_outage_is_waited_for_within_reason() {
        assert_eq!(Options::parse(&options(&GOOD)).unwrap().outage, OUTAGE);
        for (text, seconds) in
            [("30", Some(30)), (" 3600 ", Some(3600)), ("29", None), ("3601", None), ("-1", None)]
        {
            let mut given = options(&GOOD);
            given.insert("sanbridge-outage-wait".to_owned(), text.into());
            let parsed = Options::parse(&given).ok().map(|it| it.outage.as_secs());
            assert_eq!(parsed, seconds, "{text:?}");
        }
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let bad = options(&[
            ("sanbridge-array", "other"),
            ("sanbridge-address", "http://x/"),
            ("sanbridge-svm", "a*b"),
            ("sanbridge-fingerprint", "12"),
            ("sanbridge-outage-wait", "5 minutes"),
            ("sanbridge-frobnicate", "1"),
        ]);
        let error = Options::parse(&bad).unwrap_err().to_string();
        for word in [
            "array",
            "address",
            "username is missing",
            "svm",
            "aggregate is missing",
            "fingerprint",
            "outage-wait must be a number of seconds, 30 to 3600",
            "frobnicate",
        ] {
            assert!(error.contains(word), "{word} in {error}");
        }
    }
}
