//! A storage's section of PVE's configuration: parsed once, all problems named at once.

mod network;
mod ontap;
mod parser;

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use san_core::{Result, TransportKind, Visibility};
use san_engine::OUTAGE;
use san_ontap::OntapConfig;
use san_rest::Endpoint;
use serde_json::Value;

use self::network::Sessions;
use self::parser::Parser;
use crate::secrets::ChapNames;

/// The options of one storage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where the array is and how it proves itself.
    pub endpoint: Endpoint,
    /// The account.
    pub username: String,
    /// The tenant and where its volumes go.
    pub ontap: OntapConfig,
    /// What it wants of its sessions.
    pub sessions: Sessions,
    /// What nodes and array prove when sessions are made.
    pub chap: Option<ChapNames>,
    /// Most paths of one disk on a node.
    pub max_paths: Option<usize>,
    /// Whether disks are mapped node by node, or once for all nodes.
    pub visibility: Visibility,
    /// How long a guest waits when its disk has lost every path.
    pub outage: Duration,
}

/// Below, guests would fail while an array hands its work over; above, they hang for longer than people wait.
const OUTAGE_SECONDS: RangeInclusive<u64> = 30..=3600;

impl Options {
    /// # Errors
    /// `InvalidInput` naming everything that is wrong.
    pub fn parse(options: &BTreeMap<String, Value>) -> Result<Self> {
        Self::read(options).map(|(it, _)| it)
    }

    /// The options, and the names of all that this version knows.
    fn read(options: &BTreeMap<String, Value>) -> Result<(Self, BTreeSet<&'static str>)> {
        let mut parser = Parser::new(options);
        let array = parser.required("array");
        if !array.is_empty() && array != "ontap" {
            parser.refuse("array", "must be \"ontap\"");
        }
        let transport = parser.choice("transport", &[("iscsi", TransportKind::Iscsi)]);
        let endpoint = network::endpoint(&mut parser);
        let username = parser.required("username");
        if username.contains(':') || username.chars().any(char::is_control) {
            parser.refuse("username", "holds a colon or a control character");
        }
        let ontap = ontap::config(&mut parser, transport.unwrap_or(TransportKind::Iscsi));
        let outage = parser.number("outage-wait", "seconds", OUTAGE_SECONDS);
        let sessions = network::sessions(&mut parser);
        let chap = network::chap(&mut parser);
        let max_paths = network::max_paths(&mut parser);
        let all_nodes = [("0", Visibility::PerNode), ("1", Visibility::Shared)];
        let visibility = parser.choice("all-nodes", &all_nodes).unwrap_or_default();
        let known = parser.finish()?;
        let outage = outage.map_or(OUTAGE, Duration::from_secs);
        Ok((Self { endpoint, username, ontap, sessions, chap, max_paths, visibility, outage }, known))
    }
}

#[cfg(test)]
mod tests {
    use san_core::DeleteMode;
    use san_ontap::{Autodelete, Encryption, Provisioning, Tiering, VolumeSettings};

    use super::parser::PREFIX;
    use super::*;

    pub(super) fn options(pairs: &[(&str, &str)]) -> BTreeMap<String, Value> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), Value::from(*value))).collect()
    }

    pub(super) const GOOD: [(&str, &str); 5] = [
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
    fn what_volumes_are_like_is_read() {
        let usual = Options::parse(&options(&GOOD)).unwrap().ontap;
        assert_eq!((usual.volumes, usual.deletion), (VolumeSettings::default(), DeleteMode::Recoverable));
        let mut given = options(&GOOD);
        given.extend(options(&[
            ("sanbridge-aggregate", "aggr1, aggr2"),
            ("sanbridge-provisioning", "thick"),
            ("sanbridge-snapshot-reserve", "20"),
            ("sanbridge-autosize-limit", "150"),
            ("sanbridge-snapshot-autodelete", "oldest-first"),
            ("sanbridge-snapshot-policy", "default"),
            ("sanbridge-qos-policy", "gold"),
            ("sanbridge-tiering", "snapshot-only"),
            ("sanbridge-encryption", "required"),
            ("sanbridge-delete", "immediate"),
        ]));
        let ontap = Options::parse(&given).unwrap().ontap;
        assert_eq!(ontap.aggregates, ["aggr1", "aggr2"]);
        assert_eq!(ontap.deletion, DeleteMode::Immediate);
        let volumes = VolumeSettings {
            provisioning: Provisioning::Thick,
            snapshot_reserve: 20,
            autosize_limit: 150,
            autodelete: Autodelete::OldestFirst,
            snapshot_policy: "default".to_owned(),
            qos_policy: Some("gold".to_owned()),
            tiering: Some(Tiering::SnapshotOnly),
            encryption: Encryption::Required,
        };
        assert_eq!(ontap.volumes, volumes);
    }

    #[test]
    fn what_volumes_cannot_be_like_is_refused() {
        for (name, text) in [
            ("aggregate", "aggr1,"),
            ("aggregate", "aggr1,aggr1"),
            ("aggregate", "aggr1|aggr2"),
            ("provisioning", "thickish"),
            ("snapshot-reserve", "91"),
            ("snapshot-reserve", "-1"),
            ("autosize-limit", "99"),
            ("autosize-limit", "2001"),
            ("snapshot-autodelete", "on"),
            ("snapshot-policy", "a b"),
            ("qos-policy", "*"),
            ("tiering", "snapshot_only"),
            ("encryption", "yes"),
            ("delete", "now"),
        ] {
            let mut given = options(&GOOD);
            given.insert(format!("sanbridge-{name}"), text.into());
            let error = Options::parse(&given).unwrap_err().to_string();
            assert!(error.contains(&format!("sanbridge-{name} ")), "{name}={text}: {error}");
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

    /// Nobody can set what the plugin does not list, and nobody should set what is not documented.
    #[test]
    fn every_option_is_listed_and_documented() {
        let (_, known) = Options::read(&options(&GOOD)).unwrap();
        let plugin = include_str!("../../perl/PVE/Storage/Custom/SanbridgePlugin.pm");
        let protocol = include_str!("../../PROTOCOL.md");
        for name in &known {
            let words = [format!("'{PREFIX}{name}' => {{\n"), format!("'{PREFIX}{name}' => {{ ")];
            let plain = format!("'{PREFIX}{name}' => {{}}");
            assert!(plugin.contains(&words[0]), "{name} is no property");
            assert!(plugin.contains(&words[1]) || plugin.contains(&plain), "{name} is no option");
            assert!(protocol.contains(&format!("| `{PREFIX}{name}` |")), "{name} is not in the table");
        }
        let rows = protocol.lines().filter_map(|it| it.strip_prefix("| `sanbridge-")?.split_once('`'));
        for (name, rest) in rows {
            assert!(known.contains(name) || rest.starts_with(" | secret |"), "{name} is only documented");
        }
    }
}
