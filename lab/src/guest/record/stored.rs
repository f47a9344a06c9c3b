//! The transcripts that are stored in the repository, as they were when this program was built.

macro_rules! transcripts {
    ($($name:literal),* $(,)?) => {
        &[$(($name, include_str!(concat!("../../../../crates/sim/tests/recordings/debian13/", $name)))),*]
    };
}

const STORED: &[(&str, &str)] = transcripts![
    "versions",
    "records.txt",
    "login.txt",
    "refused.txt",
    "interfaces.txt",
    "proofs.txt",
    "scan.txt",
    "high.txt",
    "reuse.txt",
    "states.txt",
    "rescan.txt",
    "logout.txt",
    "map.txt",
    "one-leg.txt",
    "remembered.txt",
    "refusals.txt",
    "path-lost.txt",
    "all-lost.txt",
    "grow.txt",
    "retire.txt",
    "legs-gone.txt",
    "logout-under-map.txt",
];

/// A stored transcript.
pub(super) fn stored(name: &str) -> Option<&'static str> {
    STORED.iter().find(|(it, _)| *it == name).map(|(_, text)| *text)
}
