//! The options of an ONTAP storage.

use std::collections::BTreeSet;

use san_core::{DeleteMode, TransportKind};
use san_ontap::{Autodelete, Encryption, OntapConfig, Provisioning, Tiering, VolumeSettings};

use super::network;
use super::parser::Parser;

/// More aggregates than an array has nodes serve no purpose; the largest clusters have 24.
const AGGREGATES: usize = 32;

/// The tenant, where its volumes go and what they are like.
pub(super) fn config(parser: &mut Parser<'_>, transport: TransportKind) -> OntapConfig {
    let svm = parser.required("svm");
    parser.array_name("svm", &svm);
    let aggregates = aggregates(parser);
    let deletion = parser
        .choice("delete", &[("recoverable", DeleteMode::Recoverable), ("immediate", DeleteMode::Immediate)]);
    OntapConfig {
        svm,
        aggregates,
        transport,
        portals: network::portals(parser),
        volumes: volumes(parser),
        deletion: deletion.unwrap_or(DeleteMode::Recoverable),
    }
}

fn aggregates(parser: &mut Parser<'_>) -> Vec<String> {
    let text = parser.required("aggregate");
    if text.is_empty() {
        return Vec::new();
    }
    let names: Vec<String> = text.split(',').map(|it| it.trim().to_owned()).collect();
    for name in &names {
        parser.array_name("aggregate", name);
    }
    if names.iter().any(String::is_empty) {
        parser.refuse("aggregate", "names an aggregate with no name");
    }
    if names.iter().collect::<BTreeSet<_>>().len() != names.len() {
        parser.refuse("aggregate", "names one aggregate twice");
    }
    if names.len() > AGGREGATES {
        parser.refuse("aggregate", format_args!("names more than {AGGREGATES} aggregates"));
    }
    names
}

fn volumes(parser: &mut Parser<'_>) -> VolumeSettings {
    let usual = VolumeSettings::default();
    let provisioning =
        parser.choice("provisioning", &[("thin", Provisioning::Thin), ("thick", Provisioning::Thick)]);
    let snapshot_reserve = parser.number("snapshot-reserve", "percent", 0..=90);
    let autosize_limit = parser.number("autosize-limit", "percent", 100..=2000);
    let autodelete = parser.choice(
        "snapshot-autodelete",
        &[
            ("off", Autodelete::Off),
            ("oldest-first", Autodelete::OldestFirst),
            ("newest-first", Autodelete::NewestFirst),
        ],
    );
    let tiering = parser.choice(
        "tiering",
        &[
            ("none", Tiering::Off),
            ("snapshot-only", Tiering::SnapshotOnly),
            ("auto", Tiering::Auto),
            ("all", Tiering::All),
        ],
    );
    let encryption = parser
        .choice("encryption", &[("as-aggregate", Encryption::AsOnArray), ("required", Encryption::Required)]);
    VolumeSettings {
        provisioning: provisioning.unwrap_or(usual.provisioning),
        snapshot_reserve: small(snapshot_reserve, usual.snapshot_reserve),
        autosize_limit: small(autosize_limit, usual.autosize_limit),
        autodelete: autodelete.unwrap_or(usual.autodelete),
        snapshot_policy: policy(parser, "snapshot-policy").unwrap_or(usual.snapshot_policy),
        qos_policy: policy(parser, "qos-policy"),
        tiering,
        encryption: encryption.unwrap_or(usual.encryption),
    }
}

fn policy(parser: &mut Parser<'_>, name: &'static str) -> Option<String> {
    let text = parser.optional(name)?;
    parser.array_name(name, &text);
    Some(text)
}

/// A number that was checked to be in its range, or the usual one.
fn small<T: TryFrom<u64>>(number: Option<u64>, usual: T) -> T {
    number.and_then(|it| T::try_from(it).ok()).unwrap_or(usual)
}
