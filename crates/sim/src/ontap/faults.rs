//! Faults of the management side: which requests they hit, and what happens to those.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A fault and the requests it is for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Which requests.
    #[serde(default)]
    pub when: When,
    /// What happens.
    pub fault: Fault,
}

/// Picks requests. What is not given picks all.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct When {
    /// `GET`, `POST`, `PATCH` or `DELETE`.
    pub method: Option<String>,
    /// A path template below `/api`, for example `/storage/volumes/{uuid}`.
    pub path: Option<String>,
    /// Text that the query must contain (as sent, encoded).
    pub query: Option<String>,
    /// Text that the sender's name (`X-Dot-Client-App` or `User-Agent`) must contain.
    pub agent: Option<String>,
    /// How many matching requests pass untouched first.
    pub skip: u32,
    /// How often the fault strikes then.
    pub times: Times,
}

/// How often a fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Times {
    /// This many times.
    Count(u32),
    /// Until it is cleared.
    Always,
}

impl Default for Times {
    fn default() -> Self {
        Self::Count(1)
    }
}

/// What happens to a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fault {
    /// It is not carried out; this error is the answer.
    Answer {
        /// HTTP status.
        status: u16,
        /// Vendor code in the body.
        code: u64,
        /// Message in the body.
        message: String,
        /// `Retry-After` in seconds.
        #[serde(default)]
        retry_after: Option<u64>,
    },
    /// It waits before it is carried out.
    Delay(#[serde(with = "millis")] Duration),
    /// It is not carried out and never answered.
    Hang,
    /// The connection is refused: nothing was sent. (Over a socket that is already open this is a reset.)
    Refuse,
    /// The connection breaks before the request is carried out.
    ResetBefore,
    /// The request is carried out, then the connection breaks.
    LoseAnswer,
    /// 401, as with a wrong password.
    Unauthorized,
    /// The job it starts ends in failure and has done nothing.
    JobFails {
        /// Vendor code of the job's error.
        code: u64,
        /// Its message.
        message: String,
    },
    /// The job it starts never ends and does nothing.
    JobNeverEnds,
    /// The job it starts does its work, but asking for it answers 404.
    JobVanishes,
    /// What it creates is missing from this many lists.
    Lag {
        /// Lists (pages) that leave it out.
        reads: u32,
    },
    /// A list has at most this many records; its `next` link works.
    ShortPage {
        /// Records in the page.
        records: usize,
    },
    /// A list's `next` link leads to an error.
    BrokenNext,
    /// A list holds this many records, then an error object in the same answer.
    PartialPage {
        /// Records before the error.
        records: usize,
    },
    /// The request is carried out; the answer is not JSON.
    Garbage,
    /// The request is carried out; the answer ends in the middle.
    Truncated,
    /// The request is carried out; every member of this name in the answer has this value instead of its own.
    Alter {
        /// The member's name, at whatever depth.
        member: String,
        /// What it says.
        value: serde_json::Value,
    },
    /// The request is carried out; the answer is this many bytes long.
    Huge {
        /// Bytes of the body.
        bytes: usize,
    },
}

/// Names a rule that was set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RuleId(pub u64);

/// What a rule is matched against.
#[derive(Debug)]
pub(crate) struct Seen<'a> {
    pub(crate) method: &'a str,
    pub(crate) template: &'a str,
    pub(crate) query: &'a str,
    pub(crate) agent: &'a str,
}

/// The rules in force.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    rules: Vec<Armed>,
    next: u64,
}

#[derive(Debug)]
struct Armed {
    id: RuleId,
    rule: Rule,
    matched: u32,
    struck: u32,
}

impl Faults {
    pub(crate) fn add(&mut self, rule: Rule) -> RuleId {
        self.next += 1;
        let id = RuleId(self.next);
        self.rules.push(Armed { id, rule, matched: 0, struck: 0 });
        id
    }

    pub(crate) fn remove(&mut self, id: RuleId) {
        self.rules.retain(|armed| armed.id != id);
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    /// How often a rule has struck; a rule that is not set never did.
    pub(crate) fn struck(&self, id: RuleId) -> u32 {
        self.rules.iter().find(|armed| armed.id == id).map_or(0, |armed| armed.struck)
    }

    pub(crate) fn list(&self) -> Vec<(RuleId, Rule, u32)> {
        self.rules.iter().map(|armed| (armed.id, armed.rule.clone(), armed.struck)).collect()
    }

    /// The faults that strike this request, in the order in which they were set.
    pub(crate) fn strike(&mut self, seen: &Seen<'_>) -> Vec<Fault> {
        self.rules.iter_mut().filter_map(|armed| armed.strike(seen)).collect()
    }
}

impl Armed {
    fn strike(&mut self, seen: &Seen<'_>) -> Option<Fault> {
        let when = &self.rule.when;
        let fits = when.method.as_ref().is_none_or(|method| method.eq_ignore_ascii_case(seen.method))
            && when.path.as_ref().is_none_or(|path| path == seen.template)
            && when.query.as_ref().is_none_or(|text| seen.query.contains(text.as_str()))
            && when.agent.as_ref().is_none_or(|text| seen.agent.contains(text.as_str()));
        if !fits {
            return None;
        }
        self.matched += 1;
        let spent = matches!(when.times, Times::Count(most) if self.struck >= most);
        if self.matched <= when.skip || spent {
            return None;
        }
        self.struck += 1;
        Some(self.rule.fault.clone())
    }
}

/// Durations as whole milliseconds.
mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(it: &Duration, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_u64(u64::try_from(it.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
        u64::deserialize(from).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_count_skip_and_stop() {
        let mut faults = Faults::default();
        let when = When { path: Some("/a".to_owned()), skip: 1, times: Times::Count(2), ..When::default() };
        let id = faults.add(Rule { when, fault: Fault::Hang });
        let mut hit = |template| {
            let seen = Seen { method: "GET", template, query: "", agent: "" };
            !faults.strike(&seen).is_empty()
        };
        assert_eq!(
            [hit("/b"), hit("/a"), hit("/a"), hit("/b"), hit("/a"), hit("/a")],
            [false, false, true, false, true, false]
        );
        assert_eq!(faults.struck(id), 2);
    }

    #[test]
    fn rules_read_from_json() {
        let text = r#"{"when":{"method":"POST","times":"always"},"fault":{"delay":250}}"#;
        let rule: Rule = serde_json::from_str(text).unwrap();
        assert_eq!(rule.fault, Fault::Delay(Duration::from_millis(250)));
        assert_eq!(rule.when.times, Times::Always);
    }
}
