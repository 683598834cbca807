//! Conversations for programs: one line of JSON per question, also for questions that could not be
//! asked.

use std::time::{Duration, Instant};

use cocoon_measurements::verdict::{Class, Verdict};
use cocoon_protocol::openai::{FinishReason, Usage};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::address::Address;
use crate::chat::{ChatError, Conversation, Ending};
use crate::error::chain;
use crate::wiped::{self, push};

/// One line. Unknown values are null, so that every line has the same fields.
#[derive(Serialize)]
pub struct Line<'a> {
    /// URL of the appliance that answered, or of the first one that was given.
    pub url: String,
    /// Whether the appliance was verified.
    pub accepted: bool,
    /// Class of the verdict.
    pub class: Option<Class>,
    /// The verdict in one line.
    pub summary: Option<&'a str>,
    /// The whole verdict, if the appliance was rejected.
    pub verdict: Option<&'a Verdict>,
    /// The model that was used.
    pub model: Option<&'a str>,
    /// The answer, as far as it arrived.
    pub answer: Option<&'a str>,
    /// Reason why the answer ended.
    pub finish_reason: Option<FinishReason>,
    /// Tokens, as the appliance counted them.
    pub usage: Option<Usage>,
    /// Durations of the question.
    pub timing: Timing,
    /// The error, if the question failed.
    pub error: Option<&'a str>,
}

/// Durations in milliseconds.
#[derive(Clone, Copy, Default, Serialize)]
pub struct Timing {
    /// Duration of connecting and appraising, before the first question.
    pub attested_ms: Option<u64>,
    /// Time from the question to the first piece of its answer.
    pub first_piece_ms: Option<u64>,
    /// Time from the question to the end of its answer.
    pub answer_ms: Option<u64>,
}

impl<'a> Line<'a> {
    /// Makes the line about an error that came before any question could be asked.
    pub fn failed(url: String, verdict: Option<&'a Verdict>, error: &'a str) -> Self {
        Self {
            url,
            accepted: false,
            class: verdict.map(|verdict| verdict.class),
            summary: None,
            verdict,
            model: None,
            answer: None,
            finish_reason: None,
            usage: None,
            timing: Timing::default(),
            error: Some(error),
        }
    }

    /// Returns the line as text without a line break. Wiped on drop.
    pub fn text(&self) -> Zeroizing<String> {
        json(self)
    }
}

/// Returns a value as one line of JSON. Wiped on drop.
pub(crate) fn json(line: &impl Serialize) -> Zeroizing<String> {
    // Only non-string map keys or failing Serialize impls make this fail: there are none. JSON is
    // UTF-8.
    let mut bytes = wiped::json(line).unwrap_or_default();
    Zeroizing::new(String::from_utf8(std::mem::take(&mut *bytes)).unwrap_or_default())
}

/// Converts a duration to the milliseconds of [`Timing`].
pub fn milliseconds(since: Duration) -> Option<u64> {
    u64::try_from(since.as_millis()).ok()
}

/// Returns the line about a question that could not be asked of the appliance described by `first`.
pub fn unasked(first: &Line<'_>, error: &str) -> Zeroizing<String> {
    Line {
        url: first.url.clone(),
        error: Some(error),
        answer: Some(""),
        ..*first
    }
    .text()
}

/// Asks a question and returns the line about it. `first` describes the appliance until it answers.
pub async fn ask(
    conversation: &mut Conversation,
    prompt: &str,
    first: &Line<'_>,
) -> (Zeroizing<String>, Result<(), ChatError>) {
    let mut answer = Zeroizing::default();
    let begun = Instant::now();
    let mut first_piece = None;
    let result = conversation
        .ask(prompt, |piece| {
            first_piece.get_or_insert_with(|| begun.elapsed());
            push(&mut answer, piece);
        })
        .await;
    let timing = Timing {
        attested_ms: first.timing.attested_ms,
        first_piece_ms: first_piece.and_then(milliseconds),
        answer_ms: milliseconds(begun.elapsed()),
    };
    let (ending, error) = match &result {
        Ok(ending) => (Some(ending), None),
        Err(error) => (None, Some(chain(error))),
    };
    let appliance = ending.and_then(|ending: &Ending| ending.appliance.as_ref());
    // The first connection was accepted, but a later one may have been refused.
    let rejection = result.as_ref().err().filter(|error| error.is_rejection());
    let judged = rejection.and_then(ChatError::verdict);
    let address = judged.map(|(address, _)| address);
    let address = address.or(appliance.map(|one| &one.address));
    let line = Line {
        url: address.map_or_else(|| first.url.clone(), Address::to_string),
        accepted: rejection.is_none(),
        class: match rejection {
            Some(_) => judged.map(|(_, verdict)| verdict.class),
            None => appliance.map(|one| one.class).or(first.class),
        },
        summary: match rejection {
            Some(_) => None,
            None => appliance.map(|one| one.summary.as_str()).or(first.summary),
        },
        verdict: judged.map(|(_, verdict)| verdict),
        model: first.model,
        answer: Some(&answer),
        finish_reason: ending.and_then(|ending| ending.finish),
        usage: ending.and_then(|ending| ending.usage),
        timing,
        error: error.as_deref(),
    };
    (line.text(), result.map(|_| ()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The text fills its allocation exactly, so it was never reallocated.
    #[test]
    fn a_line_leaves_no_copies_behind() {
        let answer = "\u{1}é\"".repeat(1000);
        let line = Line {
            answer: Some(&answer),
            ..Line::failed("https://a.example".into(), None, "")
        };
        let text = line.text();
        assert_eq!(text.capacity(), text.len());
        assert_eq!(*text, serde_json::to_string(&line).unwrap());
    }
}
