//! The result of an appraisal (SPEC.md §7): one row per check, and the class to which they amount.

use std::fmt::Display;

use serde::Serialize;

/// Overall result of an appraisal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// At least one check failed.
    Rejected,
    /// No check failed, under a development root that the policy names or with a GPU in developer mode that it accepts:
    /// nothing is protected from the host.
    Simulated,
    /// No check failed, under the CPU vendor's root.
    Confidential,
}

/// Result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The check passed.
    Pass,
    /// The check failed; the verdict is [`Class::Rejected`].
    Fail,
    /// Information that neither supports nor rejects the evidence.
    Note,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Stable name for programs, such as `tdx.mrtd`; listed in SPEC.md.
    pub id: &'static str,
    /// What was checked, for people.
    pub title: String,
    /// Result of the check.
    pub outcome: Outcome,
    /// Expected value.
    pub expected: Option<String>,
    /// Value found.
    pub found: Option<String>,
    /// Likeliest cause of a failure; in a note, what it means.
    pub cause: Option<String>,
    /// What the user can do about a failure.
    pub advice: Option<String>,
}

/// All checks of one appraisal, in the order in which they were made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[must_use = "a verdict has to be looked at before anything is sent"]
pub struct Verdict {
    /// Overall result.
    pub class: Class,
    /// The checks; every failed one says why and what to do.
    pub checks: Vec<Check>,
    /// Separate from `class`, which the owner of a verdict can overwrite.
    #[serde(skip)]
    authorization: Option<Authorization>,
    #[serde(skip)]
    holds_until: Option<u64>,
}

/// The right to send a prompt over the connection that was appraised.
///
/// Only [`Verdict::authorizes`] returns it, and only [`crate::appraise::appraise`] grants it, for a session document that no
/// check rejects. Code that sends prompts should demand one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authorization(Class);

impl Authorization {
    /// Returns [`Class::Confidential`] or [`Class::Simulated`], never [`Class::Rejected`].
    #[must_use]
    pub fn class(&self) -> Class {
        self.0
    }
}

impl Verdict {
    /// Returns the right to send prompts, if this verdict grants it. A rejected document does not, nor does any boot
    /// document, because nothing in it is fresh.
    #[must_use]
    pub fn authorizes(&self) -> Option<Authorization> {
        self.authorization
    }

    /// Returns the last second (Unix time) until which an appraisal of the same boot document would end the same way
    /// (SPEC.md, VERDICT-10). `None` means that the document must be judged anew: it is a session document, was rejected, or
    /// the time is not known.
    #[must_use]
    pub fn holds_until(&self) -> Option<u64> {
        self.holds_until
    }

    /// Returns the failed checks.
    pub fn failures(&self) -> impl Iterator<Item = &Check> {
        self.checks
            .iter()
            .filter(|check| check.outcome == Outcome::Fail)
    }

    /// Returns a rejection by a single check, for a failure that prevents an appraisal.
    pub fn rejected(check: Check) -> Self {
        Self {
            class: Class::Rejected,
            checks: vec![check],
            authorization: None,
            holds_until: None,
        }
    }

    /// Combines `checks` into a verdict. `best` is the class that the verified root allows. `session` says whether the
    /// document is a session document, and so fresh.
    pub(crate) fn of(checks: Vec<Check>, best: Class, session: bool) -> Self {
        let failed = checks.iter().any(|check| check.outcome == Outcome::Fail);
        let class = if failed { Class::Rejected } else { best };
        let authorization = (session && class != Class::Rejected).then_some(Authorization(class));
        Self {
            class,
            checks,
            authorization,
            holds_until: None,
        }
    }

    /// Adds the time until which the verdict holds. A rejection gets none, because its cause may end at any second.
    pub(crate) fn holding_until(self, until: Option<u64>) -> Self {
        Self {
            holds_until: until.filter(|_| self.class != Class::Rejected),
            ..self
        }
    }
}

impl From<&crate::manifest::ManifestRefusal> for Verdict {
    /// Converts a refusal, so that it is shown in the same table as everything else.
    fn from(refusal: &crate::manifest::ManifestRefusal) -> Self {
        Self::rejected(Check::fail(
            "manifest.trust",
            "manifest counts",
            chain(refusal),
            match refusal {
                crate::manifest::ManifestRefusal::ReleaseFloor { .. } => ROLLBACK_ADVICE,
                _ => MANIFEST_ADVICE,
            },
        ))
    }
}

impl From<&cocoon_protocol::document::DocumentError> for Verdict {
    fn from(error: &cocoon_protocol::document::DocumentError) -> Self {
        Self::rejected(Check::fail(
            "document.form",
            "attestation document",
            chain(error),
            DOCUMENT_ADVICE,
        ))
    }
}

const MANIFEST_ADVICE: &str = "take manifest and signature file from the release that the operator announces, and trust only signers whose keys you got another way";
const ROLLBACK_ADVICE: &str = "ask the operator to run the current release";
const DOCUMENT_ADVICE: &str = "the server is no Cocoon appliance of this version, or something between changes its answers: check the address, then ask the operator";

/// Joins an error and its causes on one line, because a row has no room for more.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    plain(&text)
}

/// Joins untrusted text on one line: libraries break and indent their messages.
pub(crate) fn one_line(text: impl Display) -> String {
    let text = text.to_string();
    plain(&text.split_whitespace().collect::<Vec<_>>().join(" "))
}

/// Returns whether a character moves a terminal's cursor, breaks a line or reorders text: control characters, which begin
/// every escape sequence, line and paragraph separators, and bidirectional controls.
#[must_use]
pub fn steers(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Sanitises text, because libraries repeat their input in errors: it cannot move a terminal's cursor, reorder a line or fill
/// a screen.
fn plain(text: &str) -> String {
    const LONGEST: usize = 2000;
    let shown = text.chars().map(|c| if steers(c) { '?' } else { c });
    let mut shown: String = shown.take(LONGEST).collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push_str("...");
    }
    shown
}

impl Check {
    /// Returns a check that passed with `found`.
    pub(crate) fn pass(id: &'static str, title: impl Into<String>, found: impl Display) -> Self {
        Self {
            found: Some(found.to_string()),
            ..Self::new(id, title, Outcome::Pass)
        }
    }

    /// Returns a check that failed for `cause`, where nothing can be compared.
    pub(crate) fn fail(
        id: &'static str,
        title: impl Into<String>,
        cause: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        let (cause, advice) = (Some(cause.into()), Some(advice.into()));
        Self {
            cause,
            advice,
            ..Self::new(id, title, Outcome::Fail)
        }
    }

    /// Returns a note; `cause` says what it means.
    pub(crate) fn note(
        id: &'static str,
        title: impl Into<String>,
        cause: impl Into<String>,
    ) -> Self {
        Self {
            cause: Some(cause.into()),
            ..Self::new(id, title, Outcome::Note)
        }
    }

    /// Compares for equality. `why` returns cause and advice, and is called only after a mismatch.
    pub(crate) fn equal<T: PartialEq + Display, C: Into<String>, A: Into<String>>(
        id: &'static str,
        title: impl Into<String>,
        expected: &T,
        found: &T,
        why: impl FnOnce() -> (C, A),
    ) -> Self {
        let check = Self::new(id, title, Outcome::Pass)
            .expected(expected)
            .found(found);
        if expected == found {
            return check;
        }
        let (cause, advice) = why();
        Self {
            outcome: Outcome::Fail,
            cause: Some(cause.into()),
            advice: Some(advice.into()),
            ..check
        }
    }

    /// Adds the expected value.
    pub(crate) fn expected(self, expected: impl Display) -> Self {
        Self {
            expected: Some(expected.to_string()),
            ..self
        }
    }

    /// Adds the value found.
    pub(crate) fn found(self, found: impl Display) -> Self {
        Self {
            found: Some(found.to_string()),
            ..self
        }
    }

    fn new(id: &'static str, title: impl Into<String>, outcome: Outcome) -> Self {
        Self {
            id,
            title: title.into(),
            outcome,
            expected: None,
            found: None,
            cause: None,
            advice: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Check, Class, Verdict, chain, one_line};

    fn passed() -> Check {
        Check::pass("a", "a check", "ok")
    }

    #[test]
    fn foreign_words_stay_on_their_line() {
        assert_eq!(one_line("a\n  b\tc"), "a b c");
        assert_eq!(
            one_line("\u{1b}[2J\u{1b}[HCONFIDENTIAL\u{202e}é"),
            "?[2J?[HCONFIDENTIAL?é"
        );
        assert_eq!(one_line("x".repeat(2001)).len(), 2003);
        let foreign = std::io::Error::other("unknown field `\u{9b}2J`");
        assert_eq!(chain(&foreign), "unknown field `?2J`");
    }

    #[test]
    fn cocoon_verdict_1() {
        let failed = Check::fail("b", "another", "because", "do something");
        let verdict = Verdict::of(vec![passed(), failed.clone()], Class::Confidential, true);
        assert_eq!(verdict.class, Class::Rejected);
        assert_eq!(verdict.failures().collect::<Vec<_>>(), [&failed]);
        assert_eq!(verdict.authorizes(), None);
        let note = Check::note("c", "a note", "to know");
        assert_eq!(
            Verdict::of(vec![passed(), note], Class::Confidential, true).class,
            Class::Confidential
        );
    }

    #[test]
    fn cocoon_verdict_2() {
        for class in [Class::Confidential, Class::Simulated] {
            assert_eq!(
                Verdict::of(vec![passed()], class, true)
                    .authorizes()
                    .unwrap()
                    .class(),
                class
            );
            assert_eq!(
                Verdict::of(vec![passed()], class, false).authorizes(),
                None,
                "boot documents never authorise"
            );
        }
        let mut forged = Verdict::rejected(Check::fail("b", "another", "because", "do something"));
        forged.class = Class::Confidential;
        assert_eq!(
            forged.authorizes(),
            None,
            "overwriting the class changes nothing"
        );
    }

    #[test]
    fn cocoon_verdict_4() {
        let verdict = Verdict::of(vec![passed()], Class::Simulated, true);
        assert_eq!(
            serde_json::to_string(&verdict).unwrap(),
            r#"{"class":"simulated","checks":[{"id":"a","title":"a check","outcome":"pass","expected":null,"found":"ok","cause":null,"advice":null}]}"#
        );
    }
}
