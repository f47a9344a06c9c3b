//! Filters of a collection GET: the operators inside a query value, applied to records.

use std::cmp::Ordering;

use serde_json::Value;

use super::size::parse_size;

/// One `field=value` of a query. A record matches when any alternative does.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    pub(crate) path: String,
    alternatives: Vec<Test>,
}

#[derive(Debug, Clone)]
enum Test {
    Equals(String),
    Not(Box<Test>),
    Compare(&'static [Ordering], String),
    Between(String, String),
    Glob(String),
    Unset,
}

const GREATER: &[Ordering] = &[Ordering::Greater];
const LESS: &[Ordering] = &[Ordering::Less];
const AT_LEAST: &[Ordering] = &[Ordering::Greater, Ordering::Equal];
const AT_MOST: &[Ordering] = &[Ordering::Less, Ordering::Equal];

impl Filter {
    /// Reads the operators of `value`. Quotes around the whole value switch them off (not documented by the vendor).
    pub(crate) fn parse(path: &str, value: &str) -> Self {
        let alternatives = match quoted(value) {
            Some(literal) => vec![Test::Equals(literal.to_owned())],
            None => value.split('|').map(Test::parse).collect(),
        };
        Self { path: path.to_owned(), alternatives }
    }

    /// The values this filter allows when it only names values: lets collections skip records before building them.
    pub(crate) fn exact(&self) -> Option<Vec<&str>> {
        self.alternatives
            .iter()
            .map(|test| match test {
                Test::Equals(value) => Some(value.as_str()),
                _ => None,
            })
            .collect()
    }

    /// Whether the record matches. Arrays match when one element does; a field that is not set never does, except
    /// when the filter asks for `null`.
    pub(crate) fn matches(&self, record: &Value) -> bool {
        let mut found = Vec::new();
        collect(record, &self.path, &mut found);
        self.alternatives.iter().any(|test| match test {
            Test::Unset => found.is_empty(),
            test => found.iter().any(|value| test.holds(value)),
        })
    }
}

impl Test {
    fn parse(text: &str) -> Self {
        if let Some(literal) = quoted(text) {
            return Self::Equals(literal.to_owned());
        }
        for (operator, orderings) in [(">=", AT_LEAST), ("<=", AT_MOST), (">", GREATER), ("<", LESS)] {
            if let Some(rest) = text.strip_prefix(operator) {
                return Self::Compare(orderings, rest.to_owned());
            }
        }
        if let Some(rest) = text.strip_prefix('!') {
            return Self::Not(Box::new(Self::parse(rest)));
        }
        if text == "null" {
            return Self::Unset;
        }
        if let Some((low, high)) = text.split_once("..")
            && !low.is_empty()
            && !high.is_empty()
        {
            return Self::Between(low.to_owned(), high.to_owned());
        }
        if text.contains('*') { Self::Glob(text.to_owned()) } else { Self::Equals(text.to_owned()) }
    }

    fn holds(&self, value: &Value) -> bool {
        match self {
            Self::Equals(wanted) => compare(value, wanted) == Some(Ordering::Equal),
            Self::Not(inner) => !inner.holds(value),
            Self::Compare(orderings, bound) => {
                compare(value, bound).is_some_and(|order| orderings.contains(&order))
            }
            Self::Between(low, high) => {
                compare(value, low).is_some_and(Ordering::is_ge)
                    && compare(value, high).is_some_and(Ordering::is_le)
            }
            Self::Glob(pattern) => glob(pattern, &text_of(value)),
            Self::Unset => value.is_null(),
        }
    }
}

fn quoted(text: &str) -> Option<&str> {
    (text.len() >= 2).then(|| text.strip_prefix('"')?.strip_suffix('"')).flatten()
}

/// The values at a dotted path, through arrays.
pub(crate) fn collect<'a>(value: &'a Value, path: &str, found: &mut Vec<&'a Value>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| collect(item, path, found)),
        Value::Null => {}
        _ if path.is_empty() => found.push(value),
        Value::Object(members) => {
            let (head, rest) = path.split_once('.').unwrap_or((path, ""));
            if let Some(member) = members.get(head) {
                collect(member, rest, found);
            }
        }
        _ => {}
    }
}

/// Numbers compare as numbers (sizes may have a suffix), booleans by either spelling, the rest as text.
fn compare(value: &Value, text: &str) -> Option<Ordering> {
    match value {
        Value::Number(number) => Some(number.as_u64()?.cmp(&parse_size(text)?)),
        Value::Bool(it) => text.to_ascii_lowercase().parse().ok().map(|wanted: bool| it.cmp(&wanted)),
        Value::String(it) => Some(it.as_str().cmp(text)),
        _ => None,
    }
}

fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// `*` stands for any run of characters.
pub(crate) fn glob(pattern: &str, text: &str) -> bool {
    let mut pieces = pattern.split('*');
    let first = pieces.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let pieces: Vec<&str> = pieces.collect();
    let Some((last, middle)) = pieces.split_last() else { return rest.is_empty() };
    for piece in middle {
        match rest.find(piece) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn operators() {
        let record = json!({
            "name": "pve_101", "size": 10_737_418_240_u64, "on": true, "create_time": "2026-01-01T00:00:00+00:00",
            "gone": null, "initiators": [{"name": "iqn.a"}, {"name": "iqn.b"}], "services": ["data_iscsi", "data_core"],
            "space": {"used": 5}
        });
        for (path, value, matches) in [
            ("name", "pve_101", true),
            ("name", "PVE_101", false),
            ("name", "pve_*", true),
            ("name", "*_1*1", true),
            ("name", "pve_*2", false),
            ("name", "!pve_101", false),
            ("name", "!pve_*", false),
            ("name", "!other", true),
            ("name", "a|pve_101|b", true),
            ("name", "a|b", false),
            ("name", "\"pve_*\"", false),
            ("name", "null", false),
            ("name", "!null", true),
            ("gone", "null", true),
            ("gone", "!null", false),
            ("missing", "null", true),
            ("missing", "!null", false),
            ("missing", "!x", false),
            ("size", "10GB", true),
            ("size", ">=10gb", true),
            ("size", ">10GB", false),
            ("size", "<11GB", true),
            ("size", "<=10737418239", false),
            ("size", "1GB..20GB", true),
            ("size", "11GB..20GB", false),
            ("space.used", "5", true),
            ("on", "True", true),
            ("on", "false", false),
            ("initiators.name", "iqn.b", true),
            ("initiators.name", "iqn.c", false),
            ("services", "data_iscsi", true),
            ("create_time", ">2025-12-31T00:00:00+00:00", true),
        ] {
            assert_eq!(Filter::parse(path, value).matches(&record), matches, "{path}={value}");
        }
    }

    #[test]
    fn globs() {
        for (pattern, text, fits) in [
            ("a*", "a", true),
            ("*", "", true),
            ("a*b*c", "aXbYc", true),
            ("a*b", "ab", true),
            ("a*a", "a", false),
        ] {
            assert_eq!(glob(pattern, text), fits, "{pattern} {text}");
        }
    }
}
