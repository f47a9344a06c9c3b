//! Reads the texts of a section and collects what is wrong, so that a person mends it all in one go.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::str::FromStr;

use san_core::{Error, ErrorKind, Result};
use serde_json::Value;

/// What the names of all our options begin with.
pub(super) const PREFIX: &str = "sanbridge-";
/// Longest text of one option: more is no setting any more.
const TEXT_MAX: usize = 1024;
/// Longest name of an object on an array.
const NAME_MAX: usize = 200;

/// One section being read. Options are known by having been asked for: what nobody asked for is refused at the end.
#[derive(Debug)]
pub(super) struct Parser<'a> {
    options: &'a BTreeMap<String, Value>,
    asked: BTreeSet<&'static str>,
    problems: Vec<String>,
}

impl<'a> Parser<'a> {
    pub(super) fn new(options: &'a BTreeMap<String, Value>) -> Self {
        Self { options, asked: BTreeSet::new(), problems: Vec::new() }
    }

    /// Names what is wrong with an option.
    pub(super) fn refuse(&mut self, name: &'static str, why: impl std::fmt::Display) {
        self.problems.push(format!("{PREFIX}{name} {why}"));
    }

    /// The text of an option, without spaces around it.
    pub(super) fn optional(&mut self, name: &'static str) -> Option<String> {
        self.asked.insert(name);
        match self.options.get(&format!("{PREFIX}{name}")) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) if text.len() > TEXT_MAX => {
                self.refuse(name, format_args!("is longer than {TEXT_MAX} characters"));
                None
            }
            Some(Value::String(text)) if !text.trim().is_empty() => Some(text.trim().to_owned()),
            Some(_) => {
                self.refuse(name, "is empty or no text");
                None
            }
        }
    }

    /// The text of an option that must be there; empty where something is wrong with it.
    pub(super) fn required(&mut self, name: &'static str) -> String {
        let given = self.options.get(&format!("{PREFIX}{name}")).is_some_and(|it| !it.is_null());
        let value = self.optional(name);
        if !given {
            self.refuse(name, "is missing");
        }
        value.unwrap_or_default()
    }

    /// The parts of a list with commas, at most `most` of them, none twice; nothing out of an empty text.
    pub(super) fn list<T: FromStr<Err = Error> + PartialEq>(
        &mut self,
        name: &'static str,
        text: &str,
        most: usize,
    ) -> Vec<T> {
        let mut found = Vec::new();
        if text.is_empty() {
            return found;
        }
        for part in text.split(',').map(str::trim) {
            match part.parse::<T>() {
                Err(error) => self.problems.push(format!("{PREFIX}{name}: {}", error.chain())),
                Ok(it) if found.contains(&it) => self.refuse(name, format_args!("holds {part} twice")),
                Ok(it) => found.push(it),
            }
        }
        if found.len() > most {
            self.refuse(name, format_args!("holds more than {most} entries"));
        }
        found
    }

    /// A whole number; `unit` says of what.
    pub(super) fn number(
        &mut self,
        name: &'static str,
        unit: &str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        let text = self.optional(name)?;
        let number = text.parse().ok().filter(|it| range.contains(it));
        if number.is_none() {
            let (least, most) = range.into_inner();
            self.refuse(name, format_args!("must be a number of {unit}, {least} to {most}"));
        }
        number
    }

    /// One of some words, each with what it means.
    pub(super) fn choice<T: Copy>(&mut self, name: &'static str, words: &[(&str, T)]) -> Option<T> {
        let text = self.optional(name)?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let words: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            self.refuse(name, format_args!("must be {}", words.join(" or ")));
        }
        found
    }

    /// The name of an object on the array: letters, digits and a few signs; anything else could mean something in a query.
    pub(super) fn array_name(&mut self, name: &'static str, text: &str) {
        if !text.bytes().all(|it| it.is_ascii_alphanumeric() || b"_-.".contains(&it)) || text.len() > NAME_MAX
        {
            self.refuse(name, "holds characters that no such name has");
        }
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// `InvalidInput` naming everything that is wrong, options that nobody asked for among it.
    pub(super) fn finish(mut self) -> Result<BTreeSet<&'static str>> {
        for unknown in self.options.keys().filter_map(|it| it.strip_prefix(PREFIX)) {
            if !self.asked.contains(unknown) {
                let shown: String = unknown.chars().take(40).collect();
                self.problems.push(format!("{PREFIX}{shown} is not known to this version"));
            }
        }
        if self.problems.is_empty() {
            return Ok(self.asked);
        }
        Err(Error::new(ErrorKind::InvalidInput, self.problems.join("; ")))
    }
}
