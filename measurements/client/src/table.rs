//! Renders a verdict as a table for people.

use cocoon_measurements::verdict::{Check, Class, Outcome, Verdict};

use crate::error::printable;

/// Longest text in a cell, in characters. Kernel command lines are the longest legitimate ones.
const MAX_TEXT: usize = 4096;
/// Number of digits to which a digest is shortened.
const SHORT_DIGEST: usize = 16;
/// Columns before the name of a check, for its mark.
const INDENT: usize = 6;
/// Columns before the texts of a failed check, for their labels.
const LABEL: usize = 10;
/// Largest width, in columns: longer lines are hard to read.
const MAX_WIDTH: u16 = 120;

/// How a table is rendered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableStyle {
    /// Whether to use colours.
    pub color: bool,
    /// Width in columns, of which 40 to 120 are used; texts wrap.
    pub width: u16,
    /// Whether to show digests of passed checks in full instead of their first 16 digits.
    pub full: bool,
}

impl Default for TableStyle {
    /// Plain text for a file or a pipe.
    fn default() -> Self {
        Self {
            color: false,
            width: 100,
            full: false,
        }
    }
}

/// Renders the whole verdict: a line with its class, then every check, on one line if it fits.
pub fn table(verdict: &Verdict, style: TableStyle) -> String {
    let (name, code, worth) = worth(verdict);
    let mut lines = wrap(&format!("{name}: {worth}"), columns(style));
    if let Some(rest) = lines[0].strip_prefix(name) {
        lines[0] = paint(name, code, style.color) + rest;
    }
    lines.extend([String::new(), check_table(&verdict.checks, style)]);
    lines.join("\n")
}

/// Renders checks without a verdict, for callers that state their own result.
pub fn check_table(checks: &[Check], style: TableStyle) -> String {
    let width = columns(style);
    let names = checks.iter().map(|check| length(&check.title));
    // A few long names may stand out, so that nearly all results begin in one column.
    let column = names.max().unwrap_or(0).min(width * 2 / 5);
    let mut lines = vec![
        format!("{:INDENT$}{:column$}  result", "", "check"),
        "\u{2500}".repeat(width),
    ];
    for check in checks {
        row(&mut lines, check, style, (width, column));
    }
    lines.join("\n")
}

fn columns(style: TableStyle) -> usize {
    usize::from(style.width.clamp(40, MAX_WIDTH))
}

fn row(lines: &mut Vec<String>, check: &Check, style: TableStyle, (width, column): (usize, usize)) {
    let (value, texts) = texts(check, style.full);
    let title = printable(&check.title, MAX_TEXT);
    let title_and_value = format!("{title:column$}  {}", value.as_deref().unwrap_or_default());
    let room = width - INDENT;
    let fits = length(title_and_value.trim_end()) <= room;
    let head = if fits { &title_and_value } else { &title };
    for (number, line) in wrap(head.trim_end(), room).into_iter().enumerate() {
        let mark = if number == 0 {
            mark(check.outcome, style.color)
        } else {
            " ".repeat(INDENT)
        };
        lines.push(mark + &line);
    }
    let below = value
        .filter(|_| !fits)
        .map(|value| ("", value))
        .into_iter()
        .chain(texts);
    for (label, text) in below {
        let label_width = if label.is_empty() { 2 } else { LABEL };
        for (number, line) in wrap(&text, room - label_width).into_iter().enumerate() {
            let label = if number == 0 { label } else { "" };
            lines.push(format!("{:INDENT$}{label:label_width$}{line}", ""));
        }
    }
}

/// Returns the result next to the name of a check, and the labelled texts below it.
fn texts(check: &Check, full: bool) -> (Option<String>, Vec<(&'static str, String)>) {
    let text = |text: &Option<String>| text.as_deref().map(|text| printable(text, MAX_TEXT));
    let labelled = |all: [(&'static str, &Option<String>); 4]| {
        all.into_iter()
            .filter_map(|(label, value)| Some((label, text(value)?)))
            .collect()
    };
    match check.outcome {
        Outcome::Pass => {
            let value = text(&check.found).or_else(|| text(&check.expected));
            let value = value.map(|value| if full { value } else { short(&value) });
            (value, Vec::new())
        }
        Outcome::Fail => (
            None,
            labelled([
                ("expected", &check.expected),
                ("found", &check.found),
                ("likely", &check.cause),
                ("do", &check.advice),
            ]),
        ),
        Outcome::Note => (
            text(&check.found),
            labelled([
                ("", &check.cause),
                ("", &check.advice),
                ("", &None),
                ("", &None),
            ]),
        ),
    }
}

/// Shortens digests to their first digits.
fn short(text: &str) -> String {
    let mut digits = 0;
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        digits = if c.is_ascii_hexdigit() { digits + 1 } else { 0 };
        if digits <= SHORT_DIGEST {
            out.push(c);
        } else if digits == SHORT_DIGEST + 1 {
            out.push('\u{2026}');
        }
    }
    out
}

/// Splits a text into lines of at most `width` characters. Breaks between words, and inside words
/// that are longer than a line.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && length(&line) + 1 + length(word) > width {
            lines.push(std::mem::take(&mut line));
        } else if !line.is_empty() {
            line.push(' ');
        }
        for c in word.chars() {
            if length(&line) == width {
                lines.push(std::mem::take(&mut line));
            }
            line.push(c);
        }
    }
    lines.push(line);
    lines
}

fn length(text: &str) -> usize {
    text.chars().count()
}

/// Returns the class of a verdict and its meaning in one line.
pub fn summary(verdict: &Verdict, color: bool) -> String {
    let (name, code, worth) = worth(verdict);
    format!("{}: {worth}", paint(name, code, color))
}

/// Returns the class of a verdict, its colour code and its meaning.
fn worth(verdict: &Verdict) -> (&'static str, &'static str, String) {
    let count = |outcome| {
        verdict
            .checks
            .iter()
            .filter(|check| check.outcome == outcome)
            .count()
    };
    let (passed, failed, notes) = (
        count(Outcome::Pass),
        count(Outcome::Fail),
        count(Outcome::Note),
    );
    let (name, means, code) = match verdict.class {
        Class::Confidential => (
            "CONFIDENTIAL",
            "hardware evidence fits the manifest; the operator cannot read prompts",
            "32",
        ),
        Class::Simulated => (
            "SIMULATED",
            "everything fits, but under a development root: nothing is protected from the operator",
            "33",
        ),
        Class::Rejected => ("REJECTED", "no prompt was sent", "31"),
    };
    let notes = match notes {
        0 => String::new(),
        1 => ", 1 note".to_owned(),
        n => format!(", {n} notes"),
    };
    let worth = format!("{means} ({passed} checks passed, {failed} failed{notes})");
    (name, code, worth)
}

fn mark(outcome: Outcome, color: bool) -> String {
    let (name, code) = match outcome {
        Outcome::Pass => ("ok", "32"),
        Outcome::Fail => ("FAIL", "31"),
        Outcome::Note => ("note", "33"),
    };
    // Padded before it is coloured, because escape sequences have no width.
    paint(&format!("{name:INDENT$}"), code, color)
}

fn paint(text: &str, code: &str, color: bool) -> String {
    if color {
        format!("\x1b[1;{code}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(outcome: Outcome) -> Check {
        let some = |text: &str| Some(text.to_owned());
        Check {
            id: "tdx.mrtd",
            title: "firmware (MRTD)".into(),
            outcome,
            expected: some(&"a".repeat(96)),
            found: some(&"b\x1b[2J".repeat(24)),
            cause: some("another firmware"),
            advice: some("rebuild"),
        }
    }

    fn verdict(outcome: Outcome, class: Class) -> Verdict {
        let mut verdict = Verdict::rejected(check(outcome));
        verdict.class = class;
        verdict
    }

    #[test]
    fn a_failure_shows_everything_and_wraps() {
        let text = table(
            &verdict(Outcome::Fail, Class::Rejected),
            TableStyle {
                color: false,
                width: 72,
                full: false,
            },
        );
        for part in [
            "REJECTED",
            "FAIL",
            "expected  aaaa",
            "found     b[2Jb",
            "likely    another firmware",
            "do        rebuild",
        ] {
            assert!(text.contains(part), "{part} in\n{text}");
        }
        assert!(
            text.lines().skip(1).all(|line| line.chars().count() <= 72),
            "{text}"
        );
        assert!(
            !text.contains('\x1b'),
            "foreign escape sequences are not printed: {text:?}"
        );
    }

    #[test]
    fn a_pass_is_one_line_and_its_digest_short() {
        let mut passed = verdict(Outcome::Pass, Class::Confidential);
        passed.checks[0].found = Some("ab".repeat(48));
        let lines = |full| {
            let style = TableStyle {
                full,
                ..TableStyle::default()
            };
            let text = table(&passed, style);
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(
            lines(false).split_off(lines(false).len() - 3),
            [
                "      check            result".to_owned(),
                "\u{2500}".repeat(100),
                "ok    firmware (MRTD)  abababababababab\u{2026}".to_owned(),
            ]
        );
        let full = lines(true).join("").replace(' ', "");
        assert!(full.contains(&"ab".repeat(48)), "{full}");
    }

    #[test]
    fn texts_break_between_words() {
        assert_eq!(wrap("", 4), [""]);
        assert_eq!(wrap("one two", 7), ["one two"]);
        assert_eq!(wrap("one two", 6), ["one", "two"]);
        assert_eq!(wrap("a sevenfold b", 4), ["a", "seve", "nfol", "d b"]);
    }

    #[test]
    fn colours_only_when_asked_for() {
        let verdict = verdict(Outcome::Pass, Class::Confidential);
        assert!(!table(&verdict, TableStyle::default()).contains('\x1b'));
        assert!(
            table(
                &verdict,
                TableStyle {
                    color: true,
                    ..TableStyle::default()
                }
            )
            .contains('\x1b')
        );
    }
}
