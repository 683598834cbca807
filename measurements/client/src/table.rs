//! A verdict as a table that a person can read.

use cocoon_measurements::verdict::{Check, Class, Outcome, Verdict};
use comfy_table::{
    Attribute, Cell, Color, ColumnConstraint, ContentArrangement, Table, Width, presets,
};

use crate::error::printable;

/// Longest single text of a table, in characters: command lines are the longest honest ones.
const MAX_TEXT: usize = 4096;
/// A passing value longer than this is shortened unless everything was asked for: digests.
const SHORT: usize = 40;

/// How to draw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TableStyle {
    /// Colours, for terminals.
    pub color: bool,
    /// Columns to fill; texts wrap.
    pub width: u16,
    /// Passing digests in full.
    pub full: bool,
}

impl Default for TableStyle {
    /// Plain text for a file or a pipe.
    fn default() -> Self {
        Self {
            color: false,
            width: 100,
            full: true,
        }
    }
}

/// The whole verdict: one line of what it is worth, then every check.
pub fn table(verdict: &Verdict, style: TableStyle) -> String {
    let mut table = Table::new();
    table
        .load_preset(presets::UTF8_HORIZONTAL_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(style.width.max(40))
        .set_header(["", "check", "result"]);
    if style.color {
        table.enforce_styling();
    } else {
        table.force_no_tty();
    }
    for check in &verdict.checks {
        let (mark, color) = mark(check.outcome);
        table.add_row([
            Cell::new(mark).fg(color).add_attribute(Attribute::Bold),
            Cell::new(printable(&check.title, MAX_TEXT)),
            Cell::new(result(check, style.full)),
        ]);
    }
    table.set_constraints([
        ColumnConstraint::ContentWidth,
        ColumnConstraint::UpperBoundary(Width::Percentage(35)),
        ColumnConstraint::UpperBoundary(Width::Percentage(62)),
    ]);
    format!("{}\n{}", summary(verdict, style.color), table.trim_fmt())
}

/// What the verdict is worth, in one line.
pub fn summary(verdict: &Verdict, color: bool) -> String {
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
    let name = if color {
        format!("\x1b[1;{code}m{name}\x1b[0m")
    } else {
        name.to_owned()
    };
    let notes = match notes {
        0 => String::new(),
        1 => ", 1 note".to_owned(),
        n => format!(", {n} notes"),
    };
    format!("{name}: {means} ({passed} checks passed, {failed} failed{notes})")
}

fn mark(outcome: Outcome) -> (&'static str, Color) {
    match outcome {
        Outcome::Pass => ("ok", Color::Green),
        Outcome::Fail => ("FAIL", Color::Red),
        Outcome::Note => ("note", Color::Yellow),
    }
}

fn result(check: &Check, full: bool) -> String {
    let mut lines = Vec::new();
    let mut line = |name: &str, text: &Option<String>| {
        if let Some(text) = text {
            lines.push(format!("{name}{}", printable(text, MAX_TEXT)));
        }
    };
    match check.outcome {
        Outcome::Pass => {
            let value = check
                .found
                .as_ref()
                .or(check.expected.as_ref())
                .map(|text| if full { text.clone() } else { short(text) });
            line("", &value);
        }
        Outcome::Fail => {
            line("expected: ", &check.expected);
            line("found:    ", &check.found);
            line("likely:   ", &check.cause);
            line("do:       ", &check.advice);
        }
        Outcome::Note => {
            line("", &check.found);
            line("", &check.cause);
            line("", &check.advice);
        }
    }
    lines.join("\n")
}

fn short(text: &str) -> String {
    if text.chars().count() <= SHORT || text.contains(' ') {
        return text.to_owned();
    }
    let head: String = text.chars().take(SHORT - 1).collect();
    format!("{head}…")
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
            "expected: ",
            "found:",
            "likely:   another firmware",
            "do:       rebuild",
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
