//! The audit: after whatever was done, nothing is left over, nobody else was touched, and no secret was said.

use std::collections::BTreeSet;
use std::fmt;

/// Something that can hold leftovers: an array, a node, a folder of records. Each line is one thing, in words that stay
/// the same while nothing happens to it.
pub trait Ledger {
    /// A word for it.
    fn name(&self) -> String;

    /// What is there of ours.
    fn ours(&self) -> BTreeSet<String>;

    /// What is there of others.
    fn others(&self) -> BTreeSet<String>;
}

/// What the ledgers held at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Audit {
    ours: BTreeSet<String>,
    others: BTreeSet<String>,
}

/// What an audit found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings(pub Vec<String>);

impl Findings {
    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|it| writeln!(f, "  {it}"))
    }
}

impl Audit {
    /// Takes stock.
    pub fn of(ledgers: &[&dyn Ledger]) -> Self {
        let mut audit = Self::default();
        for ledger in ledgers {
            let name = ledger.name();
            audit.ours.extend(ledger.ours().into_iter().map(|it| format!("{name}: {it}")));
            audit.others.extend(ledger.others().into_iter().map(|it| format!("{name}: {it}")));
        }
        audit
    }

    /// The same stock with every line put in other words, for what two runs of the same work never share.
    #[must_use]
    pub fn reworded(&self, reword: impl Fn(&str) -> String) -> Self {
        let all = |lines: &BTreeSet<String>| lines.iter().map(|it| reword(it)).collect();
        Self { ours: all(&self.ours), others: all(&self.others) }
    }

    /// What differs from `before`: things of ours that are left over or missing, things of others that were touched.
    pub fn against(&self, before: &Self) -> Findings {
        let mut findings = Vec::new();
        findings.extend(self.ours.difference(&before.ours).map(|it| format!("left over: {it}")));
        findings.extend(before.ours.difference(&self.ours).map(|it| format!("missing: {it}")));
        findings.extend(self.others.difference(&before.others).map(|it| format!("new beside ours: {it}")));
        findings
            .extend(before.others.difference(&self.others).map(|it| format!("somebody else's, gone: {it}")));
        Findings(findings)
    }
}

/// Where `secret` was said in `texts`, by name.
pub fn said(secret: &str, texts: &[(&str, &str)]) -> Findings {
    let names = texts.iter().filter(|(_, text)| text.contains(secret));
    Findings(names.map(|(name, _)| format!("a secret was said in {name}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Shelf(&'static [&'static str], &'static [&'static str]);

    impl Ledger for Shelf {
        fn name(&self) -> String {
            "shelf".to_owned()
        }
        fn ours(&self) -> BTreeSet<String> {
            self.0.iter().map(|it| (*it).to_owned()).collect()
        }
        fn others(&self) -> BTreeSet<String> {
            self.1.iter().map(|it| (*it).to_owned()).collect()
        }
    }

    #[test]
    fn every_difference_is_found() {
        let before = Audit::of(&[&Shelf(&["a"], &["x"])]);
        assert!(Audit::of(&[&Shelf(&["a"], &["x"])]).against(&before).is_empty());
        for (ours, others, finding) in [
            (&["a", "b"][..], &["x"][..], "left over: shelf: b"),
            (&[], &["x"], "missing: shelf: a"),
            (&["a"], &[], "somebody else's, gone: shelf: x"),
            (&["a"], &["x", "y"], "new beside ours: shelf: y"),
        ] {
            assert_eq!(Audit::of(&[&Shelf(ours, others)]).against(&before).0, [finding]);
        }
        assert_eq!(said("pw", &[("log", "a pw b"), ("argv", "b")]).0, ["a secret was said in log"]);
    }
}
