//! Dependencies point one way, and what must not be in the tree is not there.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

/// Which crates of ours each crate of ours may use in its product code.
const ALLOWED: [(&str, &[&str]); 11] = [
    ("san-core", &[]),
    ("san-host", &["san-core"]),
    ("san-rest", &["san-core"]),
    ("san-ontap", &["san-core", "san-rest"]),
    ("san-transport-iscsi", &["san-core", "san-host"]),
    ("san-multipath", &["san-core", "san-host"]),
    ("san-engine", &["san-core", "san-host"]),
    ("san-mock", &["san-core"]),
    ("san-contract", &["san-core"]),
    ("san-sim", &["san-core", "san-host", "san-rest"]),
    (
        "sanbridge",
        &[
            "san-core",
            "san-engine",
            "san-host",
            "san-multipath",
            "san-ontap",
            "san-rest",
            "san-transport-iscsi",
        ],
    ),
];

#[expect(clippy::disallowed_methods, reason = "asks cargo, once")]
fn metadata() -> Value {
    let output = std::process::Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--locked", "--offline"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn dependencies_point_one_way_and_second_tls_stacks_stay_out() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap();
    let ours: BTreeMap<&str, &Value> = packages
        .iter()
        .filter(|it| it["source"].is_null())
        .map(|it| (it["name"].as_str().unwrap(), it))
        .collect();
    for (name, allowed) in ALLOWED {
        let used: BTreeSet<&str> = ours[name]["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|it| it["kind"].is_null())
            .map(|it| it["name"].as_str().unwrap())
            .filter(|it| ours.contains_key(it))
            .collect();
        let allowed: BTreeSet<&str> = allowed.iter().copied().collect();
        assert!(used.is_subset(&allowed), "{name} uses {:?}", used.difference(&allowed));
    }
    for package in &ours {
        assert!(package.1["features"].as_object().unwrap().is_empty(), "{} has cargo features", package.0);
    }
    let lock = include_str!("../../../Cargo.lock");
    let count = |name: &str| lock.matches(&format!("\nname = \"{name}\"\n")).count();
    for banned in ["openssl-sys", "native-tls", "aws-lc-sys"] {
        assert_eq!(count(banned), 0, "{banned} is in the tree");
    }
    assert_eq!(count("rustls"), 1, "a second rustls would be an unknown TLS backend to reqwest");
}
