//! What came of a run: as a table for people, as one JSON document for programs.

use std::collections::BTreeMap;

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value, json};

use super::lanes::Played;
use crate::scenarios::{self, Account};
use crate::verdict::{Outcome, Verdict};

/// Whether every scenario has to appear.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Everything was run.
    Everything,
    /// Only a part, chosen by the person.
    Part,
}

/// A run and its result.
#[derive(Debug)]
pub struct Report {
    played: Vec<Played>,
    accounts: Vec<Account>,
    scope: Scope,
    seconds: f64,
}

impl Report {
    /// Of the groups that were run.
    pub fn new(played: Vec<Played>, scope: Scope, seconds: f64) -> Self {
        let verdicts: Vec<Verdict> = played.iter().flat_map(|it| it.verdicts.iter().cloned()).collect();
        Self { accounts: scenarios::account(&verdicts), played, scope, seconds }
    }

    fn verdicts(&self) -> impl Iterator<Item = &Verdict> {
        self.played.iter().flat_map(|it| &it.verdicts)
    }

    /// Whether nothing failed and nothing is missing. A run without a verdict has shown nothing.
    pub fn is_good(&self) -> bool {
        let failed = self.verdicts().any(|it| it.outcome == Outcome::Failed);
        self.verdicts().next().is_some() && !failed && self.missing().next().is_none()
    }

    /// Scenarios without any check, where there has to be one.
    fn missing(&self) -> impl Iterator<Item = &Account> {
        let counted = self.scope == Scope::Everything;
        self.accounts.iter().filter(move |it| counted && it.outcome.is_none())
    }

    /// The same figure of our own doing and of the prior plugins' sequence: `ours_X` and `theirs_X`.
    fn figures(&self) -> Vec<(String, Option<f64>, Option<f64>)> {
        let mut pairs: BTreeMap<&str, (Option<f64>, Option<f64>)> = BTreeMap::new();
        for (name, value) in self.verdicts().flat_map(|it| &it.figures) {
            if let Some(name) = name.strip_prefix("ours_") {
                pairs.entry(name).or_default().0 = Some(*value);
            } else if let Some(name) = name.strip_prefix("theirs_") {
                pairs.entry(name).or_default().1 = Some(*value);
            }
        }
        pairs.into_iter().map(|(name, (ours, theirs))| (name.to_owned(), ours, theirs)).collect()
    }

    /// One document with everything.
    pub fn to_json(&self) -> Value {
        let groups = self.played.iter().map(|it| {
            let boots: Vec<f64> = it.boots.iter().map(std::time::Duration::as_secs_f64).collect();
            json!({ "group": it.group, "seconds": it.lasted.as_secs_f64(), "boot_seconds": boots })
        });
        let scenarios = self.accounts.iter().filter(|it| self.concerns(it)).map(|it| {
            let also: Vec<String> =
                it.scenario.held_by.iter().map(|test| format!("{}: {}", test.file, test.name)).collect();
            json!({
                "number": it.scenario.number, "what": it.scenario.what, "state": state(it.outcome),
                "checks": it.checks, "reason": self.reason(it), "also_held_without_a_kernel_by": also,
            })
        });
        let figures = self.figures().into_iter().map(|(name, ours, theirs)| {
            json!({ "figure": name, "ours": ours, "theirs": theirs, "ratio": ratio(ours, theirs) })
        });
        json!({
            "format": 1,
            "ok": self.is_good(),
            "complete": self.scope == Scope::Everything,
            "seconds": self.seconds,
            "groups": groups.collect::<Vec<_>>(),
            "verdicts": self.verdicts().collect::<Vec<_>>(),
            "scenarios": scenarios.collect::<Vec<_>>(),
            "figures": figures.collect::<Vec<_>>(),
        })
    }

    fn concerns(&self, account: &Account) -> bool {
        self.scope == Scope::Everything || account.outcome.is_some()
    }

    /// Why a scenario cannot be shown.
    fn reason(&self, account: &Account) -> Option<&str> {
        let number = account.scenario.number;
        let of = |it: &&Verdict| {
            it.outcome == Outcome::CannotBeShown && it.scenarios.iter().any(|it| it == number)
        };
        (account.outcome == Some(Outcome::CannotBeShown))
            .then(|| self.verdicts().find(of).map(|it| it.found.as_str()))
            .flatten()
    }

    /// Tables and a last sentence.
    pub fn to_text(&self) -> String {
        let mut checks = table(&["group", "check", "scenarios", "outcome", "seconds", "found"]);
        for it in self.verdicts() {
            let seconds = std::time::Duration::from_millis(it.millis).as_secs_f64();
            let numbers = it.scenarios.join(" ");
            let row = [&it.group, &it.check, &numbers, word(it.outcome), &format!("{seconds:.1}"), &it.found];
            checks.add_row(row);
        }
        let mut by_number = table(&["scenario", "what happens", "state", "by"]);
        for it in self.accounts.iter().filter(|it| self.concerns(it)) {
            let by = self.reason(it).map_or_else(|| it.checks.join(" "), str::to_owned);
            by_number.add_row([it.scenario.number, it.scenario.what, state(it.outcome), &by]);
        }
        let mut text = format!("{checks}\n\n{by_number}\n");
        let figures = self.figures();
        if !figures.is_empty() {
            let mut beside = table(&["figure", "ours", "theirs", "ours / theirs"]);
            let show = |it: Option<f64>| it.map_or_else(|| "-".to_owned(), |it| format!("{it:.0}"));
            for (name, ours, theirs) in figures {
                let ratio = ratio(ours, theirs).map_or_else(|| "-".to_owned(), |it| format!("{it:.2}"));
                beside.add_row([name, show(ours), show(theirs), ratio]);
            }
            for part in ["\n", &beside.to_string(), "\n"] {
                text.push_str(part);
            }
        }
        text.push_str(&self.sentence());
        text
    }

    fn sentence(&self) -> String {
        let count = |outcome| self.verdicts().filter(|it| it.outcome == outcome).count();
        let missing: Vec<&str> = self.missing().map(|it| it.scenario.number).collect();
        let missing = match missing.len() {
            0 => String::new(),
            _ => format!(", scenarios missing: {}", missing.join(" ")),
        };
        let part = if self.scope == Scope::Part { " (a part of the lab only)" } else { "" };
        format!(
            "\n{}: {} held, {} failed, {} cannot be shown{missing}, {:.0} s{part}",
            if self.is_good() { "good" } else { "NOT GOOD" },
            count(Outcome::Held),
            count(Outcome::Failed),
            count(Outcome::CannotBeShown),
            self.seconds
        )
    }
}

fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    // Where there is no terminal to ask.
    if table.width().is_none() {
        table.set_width(160);
    }
    table.set_header(head.to_vec());
    table
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Held => "held",
        Outcome::Failed => "FAILED",
        Outcome::CannotBeShown => "cannot be shown",
    }
}

fn state(outcome: Option<Outcome>) -> &'static str {
    match outcome {
        Some(Outcome::Held) => "shown",
        Some(Outcome::Failed) => "FAILED",
        Some(Outcome::CannotBeShown) => "cannot be shown",
        None => "MISSING",
    }
}

fn ratio(ours: Option<f64>, theirs: Option<f64>) -> Option<f64> {
    Some(ours? / theirs.filter(|it| *it > 0.0)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn verdict(check: &str, scenarios: &[&str], outcome: Outcome) -> Verdict {
        Verdict {
            group: "g".to_owned(),
            check: check.to_owned(),
            scenarios: scenarios.iter().map(ToString::to_string).collect(),
            outcome,
            done: "this".to_owned(),
            found: "that".to_owned(),
            millis: 1500,
            figures: BTreeMap::new(),
        }
    }

    fn report(verdicts: Vec<Verdict>, scope: Scope) -> Report {
        let lasted = Duration::from_secs(3);
        Report::new(vec![Played { group: "g", verdicts, lasted, boots: vec![lasted] }], scope, 3.0)
    }

    fn complete() -> Vec<Verdict> {
        let numbers: Vec<&str> = scenarios::SCENARIOS.iter().map(|it| it.number).collect();
        vec![verdict("all", &numbers, Outcome::Held)]
    }

    #[test]
    fn a_complete_run_is_good() {
        assert!(report(complete(), Scope::Everything).is_good());
    }

    #[test]
    fn a_missing_scenario_fails_a_complete_run_and_is_named() {
        let mut verdicts = complete();
        verdicts[0].scenarios.retain(|it| it != "61");
        let whole = report(verdicts.clone(), Scope::Everything);
        assert!(!whole.is_good());
        assert!(whole.to_text().contains("scenarios missing: 61,"), "{}", whole.to_text());
        assert!(report(verdicts, Scope::Part).is_good());
    }

    #[test]
    fn one_failure_fails_and_silence_is_no_success() {
        let mut verdicts = complete();
        verdicts.push(verdict("bad", &[], Outcome::Failed));
        assert!(!report(verdicts, Scope::Everything).is_good());
        assert!(!report(Vec::new(), Scope::Part).is_good());
    }

    #[test]
    fn what_cannot_be_shown_says_why() {
        let mut verdicts = complete();
        verdicts[0].scenarios.retain(|it| it != "56");
        verdicts.push(verdict("late", &["56"], Outcome::CannotBeShown));
        let report = report(verdicts, Scope::Everything);
        assert!(report.is_good());
        let document = report.to_json();
        let entry = document["scenarios"].as_array().unwrap().iter().find(|it| it["number"] == "56").unwrap();
        assert_eq!(
            (entry["state"].as_str(), entry["reason"].as_str()),
            (Some("cannot be shown"), Some("that"))
        );
    }

    #[test]
    fn figures_stand_side_by_side() {
        let mut verdicts = complete();
        verdicts[0].figures.insert("ours_attach_warm_ms".to_owned(), 50.0);
        verdicts[0].figures.insert("theirs_attach_warm_ms".to_owned(), 200.0);
        verdicts[0].figures.insert("other".to_owned(), 1.0);
        let report = report(verdicts, Scope::Everything);
        let expected = json!([{ "figure": "attach_warm_ms", "ours": 50.0, "theirs": 200.0, "ratio": 0.25 }]);
        assert_eq!(report.to_json()["figures"], expected);
        assert!(report.to_text().contains("0.25"));
    }
}
