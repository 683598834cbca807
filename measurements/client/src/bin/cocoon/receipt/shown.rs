//! The result of verifying a receipt, and its output.

use std::error::Error;

use cocoon_client::terminal::{print, style};
use cocoon_client::{chain, check_table, printable, table};
use cocoon_measurements::verdict::{Check, Class, Outcome, Verdict};
use cocoon_protocol::receipt::{Outcome as Ended, Receipt};
use serde_json::json;

use crate::MAX_REASON;

/// Result of verifying a receipt.
pub struct Shown {
    /// The signed receipt, if it is well-formed.
    pub receipt: Option<Receipt>,
    /// Verdict on the session document, if there was a manifest.
    pub verdict: Option<Verdict>,
    /// Every check of the receipt itself.
    pub checks: Vec<Check>,
}

impl Shown {
    /// Returns whether the receipt is rejected: a single failed check of the receipt or of its
    /// session document is enough.
    pub fn is_rejected(&self) -> bool {
        let verdict = self.verdict.as_ref();
        verdict.is_some_and(|verdict| verdict.class == Class::Rejected)
            || self.failures().next().is_some()
            || self.receipt.is_none()
            || self.checks.is_empty()
    }

    fn failures(&self) -> impl Iterator<Item = &Check> {
        (self.checks.iter()).filter(|check| check.outcome == Outcome::Fail)
    }

    /// Prints the result, for people or as JSON.
    pub fn show(&self, full: bool, json: bool) -> anyhow::Result<()> {
        if json {
            let text = serde_json::to_string_pretty(&self.json())?;
            return Ok(print(format_args!("{text}\n"))?);
        }
        let style = style(full);
        if let Some(verdict) = &self.verdict {
            let session = match verdict.class {
                // The usual table would say that no prompt was sent, but this one was answered.
                Class::Rejected => format!("{REJECTED}\n\n{}", check_table(&verdict.checks, style)),
                Class::Confidential | Class::Simulated => table(verdict, style),
            };
            print(format_args!("session: {session}\n\n"))?;
        }
        print(format_args!("{}\n\n", check_table(&self.checks, style)))?;
        Ok(print(format_args!("{}\n", self.worth()))?)
    }

    fn worth(&self) -> String {
        let Some(receipt) = self.receipt.as_ref().filter(|_| !self.is_rejected()) else {
            let causes = self
                .failures()
                .map(|check| check.cause.as_deref().unwrap_or(&check.title));
            let causes: Vec<_> = causes.collect();
            return match causes.is_empty() {
                true => "REJECTED: its session document is".to_owned(),
                false => format!("REJECTED: {}", printable(&causes.join("; "), MAX_REASON)),
            };
        };
        let session = match self.verdict.as_ref().map(|verdict| verdict.class) {
            Some(Class::Confidential) => "a confidential session",
            Some(Class::Simulated) => "a SIMULATED session, which protects nothing",
            Some(Class::Rejected) | None => "the given meter key",
        };
        let ended = match receipt.outcome {
            Ended::Complete => "complete",
            Ended::Length => "cut at its limit of tokens",
            Ended::Failed => "broken off by an error",
        };
        format!(
            "VERIFIED under {session}: answer {} of its connection, {ended}, {} tokens of prompt (0 cached), {} of answer",
            receipt.number, receipt.tokens.prompt, receipt.tokens.completion
        )
    }

    fn json(&self) -> serde_json::Value {
        let mut receipt = serde_json::to_value(&self.receipt).unwrap_or_default();
        if let Some(tokens) = receipt.get_mut("tokens") {
            tokens["cached"] = 0.into();
        }
        json!({
            "accepted": !self.is_rejected(),
            "receipt": receipt,
            "verdict": self.verdict,
            "checks": self.checks,
        })
    }
}

const REJECTED: &str =
    "REJECTED: under this manifest and policy its prompt should not have been sent";

/// Returns the only check of a receipt or document that is malformed.
pub fn unreadable(error: &dyn Error) -> Check {
    Check {
        id: "receipt.form",
        title: "form of the receipt and its session document".to_owned(),
        outcome: Outcome::Fail,
        expected: None,
        found: None,
        cause: Some(chain(error)),
        advice: Some("take the file as it was kept".to_owned()),
    }
}
