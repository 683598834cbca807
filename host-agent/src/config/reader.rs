//! Reads tables with the positions of their keys, and collects all problems instead of stopping at the first.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::problem::{Problem, Problems};
use crate::text::plain;

/// Two words are similar if their edit distance is at most a third of the longer one's length.
const NEAR: usize = 3;
/// Maximum length of a value that a message repeats, in characters.
const SHOWN: usize = 60;

/// The problems found so far.
pub(super) struct Report<'a> {
    text: &'a str,
    list: Vec<(usize, Problem)>,
    /// Problems that may keep one appliance from starting, but affect nothing else.
    warnings: Vec<(usize, Problem)>,
}

/// A problem with one value.
pub(super) struct Wrong {
    pub(super) message: String,
    pub(super) allowed: Option<String>,
    pub(super) suggestion: Option<String>,
}

impl Wrong {
    /// The value `found` is not among the `allowed` ones.
    pub(super) fn found(found: &impl std::fmt::Display, allowed: &str) -> Self {
        Self {
            message: format!("found {found}"),
            allowed: Some(allowed.to_owned()),
            suggestion: None,
        }
    }

    pub(super) fn because(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            allowed: None,
            suggestion: None,
        }
    }
}

impl<'a> Report<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self {
            text,
            list: vec![],
            warnings: vec![],
        }
    }

    /// Reports a problem at byte offset `at`.
    pub(super) fn add(&mut self, at: usize, key: &str, wrong: Wrong) {
        let problem = self.problem(at, key, wrong);
        self.list.push((at, problem));
    }

    /// Reports a warning at byte offset `at`: it may keep its appliance from starting.
    pub(super) fn warn(&mut self, at: usize, key: &str, wrong: Wrong) {
        let problem = self.problem(at, key, wrong);
        self.warnings.push((at, problem));
    }

    fn problem(&self, at: usize, key: &str, wrong: Wrong) -> Problem {
        let before = self.text.get(..at).unwrap_or(self.text);
        let line_start = before.rfind('\n').map_or(0, |end| end + 1);
        Problem {
            line: before.matches('\n').count() + 1,
            column: before[line_start..].chars().count() + 1,
            key: key.to_owned(),
            message: wrong.message,
            allowed: wrong.allowed,
            suggestion: wrong.suggestion,
        }
    }

    /// Returns the line, counted from 1, of byte offset `at`.
    pub(super) fn line(&self, at: usize) -> usize {
        self.text
            .get(..at)
            .unwrap_or(self.text)
            .matches('\n')
            .count()
            + 1
    }

    /// Returns the warnings or, if there are problems, the problems and warnings together, in the order of the file.
    pub(super) fn finish(mut self, file: &str) -> Result<Vec<Problem>, Problems> {
        let wrong = !self.list.is_empty();
        self.list.append(&mut self.warnings);
        self.list.sort_by_key(|(at, _)| *at);
        let list = self.list.into_iter().map(|(_, problem)| problem).collect();
        match wrong {
            false => Ok(list),
            true => Err(Problems {
                file: file.to_owned(),
                list,
            }),
        }
    }
}

/// A table of the file.
pub(super) struct Table<'t, 'i> {
    /// Path of the table, such as `appliance.restart`; empty for the file itself.
    path: String,
    table: Option<&'t DeTable<'i>>,
    /// Byte offset at which the table begins.
    at: usize,
}

impl<'t, 'i> Table<'t, 'i> {
    /// Opens a table, and reports keys that are not `known`.
    pub(super) fn open(
        report: &mut Report<'_>,
        path: &str,
        table: &'t DeTable<'i>,
        at: usize,
        known: &[&str],
    ) -> Self {
        let opened = Self {
            path: path.to_owned(),
            table: Some(table),
            at,
        };
        for key in table.keys() {
            let name = key.get_ref().as_ref();
            if !known.contains(&name) {
                let wrong = Wrong {
                    message: "unknown key".to_owned(),
                    allowed: Some(known.join(", ")),
                    suggestion: nearest(name, known).map(|near| format!("`{near}`")),
                };
                report.add(key.span().start, &opened.key(&plain(name, SHOWN)), wrong);
            }
        }
        opened
    }

    /// Opens the table `key` in this one. A missing table counts as empty, so that defaults apply.
    pub(super) fn table(&self, report: &mut Report<'_>, key: &str, known: &[&str]) -> Self {
        let path = self.key(key);
        match self.get(key) {
            Some(value) => match value.get_ref() {
                DeValue::Table(table) => {
                    Self::open(report, &path, table, value.span().start, known)
                }
                other => {
                    let wrong = Wrong::found(&described(other), "a table");
                    report.add(value.span().start, &path, wrong);
                    self.nothing(path)
                }
            },
            None => self.nothing(path),
        }
    }

    /// Returns the tables of `[[key]]`, each with its byte offset.
    pub(super) fn tables(
        &self,
        report: &mut Report<'_>,
        key: &str,
    ) -> Vec<(&'t DeTable<'i>, usize)> {
        let Some(value) = self.get(key) else {
            return vec![];
        };
        let mut found = vec![];
        let DeValue::Array(array) = value.get_ref() else {
            let wrong = Wrong::found(
                &described(value.get_ref()),
                &format!("tables, each begun with [[{key}]]"),
            );
            report.add(value.span().start, &self.key(key), wrong);
            return found;
        };
        for entry in array.iter() {
            match entry.get_ref() {
                DeValue::Table(table) => found.push((table, entry.span().start)),
                other => {
                    let wrong = Wrong::found(
                        &described(other),
                        &format!("tables, each begun with [[{key}]]"),
                    );
                    report.add(entry.span().start, &self.key(key), wrong);
                }
            }
        }
        found
    }

    /// Returns the value of `key` with its byte offset, or `None` if it is missing or wrong; a wrong value is reported.
    pub(super) fn optional<T>(
        &self,
        report: &mut Report<'_>,
        key: &str,
        read: impl FnOnce(&DeValue<'i>) -> Result<T, Wrong>,
    ) -> Option<(T, usize)> {
        let value = self.get(key)?;
        let Range { start, .. } = value.span();
        match read(value.get_ref()) {
            Ok(read) => Some((read, start)),
            Err(wrong) => {
                report.add(start, &self.key(key), wrong);
                None
            }
        }
    }

    /// As [`Self::optional`], but also reports a missing key, with an `example`.
    pub(super) fn required<T>(
        &self,
        report: &mut Report<'_>,
        key: &str,
        example: &str,
        read: impl FnOnce(&DeValue<'i>) -> Result<T, Wrong>,
    ) -> Option<(T, usize)> {
        if self.get(key).is_none() {
            let wrong = Wrong::because(format!("missing: add it, such as `{key} = {example}`"));
            report.add(self.at, &self.key(key), wrong);
        }
        self.optional(report, key, read)
    }

    /// Reports a problem with `key`, at its value if it has one.
    pub(super) fn wrong(&self, report: &mut Report<'_>, key: &str, wrong: Wrong) {
        let at = self.get(key).map_or(self.at, |value| value.span().start);
        report.add(at, &self.key(key), wrong);
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    fn get(&self, key: &str) -> Option<&'t Spanned<DeValue<'i>>> {
        self.table?.get(key)
    }

    fn key(&self, key: &str) -> String {
        if self.path.is_empty() {
            key.to_owned()
        } else {
            format!("{}.{key}", self.path)
        }
    }

    fn nothing(&self, path: String) -> Self {
        Self {
            path,
            table: None,
            at: self.at,
        }
    }
}

/// Returns the one of `known` that is similar to `word`, if any.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    // A long word is no typing error, and comparing takes time in the product of both lengths.
    let word = word.get(..64.min(word.len()))?.to_ascii_lowercase();
    let near = known
        .iter()
        .map(|known| (strsim::damerau_levenshtein(&word, known), *known))
        .min_by_key(|(distance, _)| *distance)?;
    let (distance, known) = near;
    (distance * NEAR <= word.len().max(known.len())).then_some(known)
}

/// Formats a value for a message: short, and without control characters.
pub(super) fn described(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => format!("{:?}", plain(text, SHOWN)),
        DeValue::Integer(number) => plain(number.as_str(), SHOWN),
        DeValue::Float(number) => plain(number.as_str(), SHOWN),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(_) => "a date".to_owned(),
        DeValue::Array(_) => "an array".to_owned(),
        DeValue::Table(_) => "a table".to_owned(),
    }
}
