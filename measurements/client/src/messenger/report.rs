//! What came of a job: its results, and what each request took.

use cocoon_measurements::verdict::Class;
use cocoon_protocol::openai::{FinishReason, Usage};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::chat::{Appliance, Ending};

/// Results and requests so far. The results are wiped on drop, and never printed.
#[derive(Default)]
pub struct Report {
    /// One text, or as many as drafts were begun.
    pub results: Vec<Zeroizing<String>>,
    /// The requests that were answered.
    pub parts: Vec<Part>,
    /// Who answered last.
    pub appliance: Option<Appliance>,
}

/// One request and its answer, without a word of either.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// The [task's name](super::Task::name).
    pub task: &'static str,
    /// Bytes of the text that was asked about.
    pub text_bytes: usize,
    /// Why the answer ended.
    pub finish_reason: Option<FinishReason>,
    /// Tokens, as the appliance counted them.
    pub usage: Option<Usage>,
    /// The appliance.
    pub url: Option<String>,
    /// What the verdict on it is worth.
    pub class: Option<Class>,
}

impl Report {
    pub(super) fn add(&mut self, task: &'static str, text: &str, ending: Ending) {
        let appliance = ending.appliance;
        self.parts.push(Part {
            task,
            text_bytes: text.len(),
            finish_reason: ending.finish,
            usage: ending.usage,
            url: appliance.as_ref().map(|one| one.address.to_string()),
            class: appliance.as_ref().map(|one| one.class),
        });
        self.appliance = appliance.or(self.appliance.take());
    }

    /// Tokens of all requests; `None` when there was none, or when an appliance did not count.
    pub fn usage(&self) -> Option<Usage> {
        self.parts.first()?;
        let mut sum = Usage::default();
        for part in &self.parts {
            let one = part.usage?;
            sum.prompt_tokens = sum.prompt_tokens.saturating_add(one.prompt_tokens);
            sum.completion_tokens = sum.completion_tokens.saturating_add(one.completion_tokens);
            sum.total_tokens = sum.total_tokens.saturating_add(one.total_tokens);
        }
        Some(sum)
    }

    /// What the verdicts on all appliances that answered are worth together: what the least is.
    pub fn class(&self) -> Option<Class> {
        let classes = self.parts.iter().map(|part| part.class);
        classes.reduce(|a, b| match (a, b) {
            (Some(Class::Confidential), other) => other,
            (other, _) => other,
        })?
    }

    /// Whether every answer came to its end, rather than to a limit of tokens.
    pub fn is_complete(&self) -> bool {
        let cut = |part: &Part| part.finish_reason == Some(FinishReason::Length);
        !self.parts.iter().any(cut)
    }
}
