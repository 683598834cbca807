//! The report on a job: its results and its requests.

use cocoon_measurements::verdict::Class;
use cocoon_protocol::openai::{FinishReason, Usage};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::chat::{Appliance, Ending};

/// Results and requests of a job so far. The results are wiped on drop and never printed.
#[derive(Default)]
pub struct Report {
    /// The result, or one text for each draft that was begun.
    pub results: Vec<Zeroizing<String>>,
    /// The requests that were answered.
    pub parts: Vec<Part>,
    /// The appliance that answered last.
    pub appliance: Option<Appliance>,
}

/// One request and its answer, without their text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Part {
    /// Name of the task, see [`Task::name`](super::Task::name).
    pub task: &'static str,
    /// Length of the text that was asked about, in bytes.
    pub text_bytes: usize,
    /// Reason why the answer ended.
    pub finish_reason: Option<FinishReason>,
    /// Tokens, as the appliance counted them.
    pub usage: Option<Usage>,
    /// URL of the appliance.
    pub url: Option<String>,
    /// Class of the verdict on the appliance.
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

    /// Returns the tokens of all requests; `None` if there was no request, or if an appliance did
    /// not report its tokens.
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

    /// Returns the lowest class of the verdicts on all appliances that answered.
    pub fn class(&self) -> Option<Class> {
        let classes = self.parts.iter().map(|part| part.class);
        classes.reduce(|a, b| match (a, b) {
            (Some(Class::Confidential), other) => other,
            (other, _) => other,
        })?
    }

    /// Returns whether every answer came to its end, rather than being cut at a token limit.
    pub fn is_complete(&self) -> bool {
        let cut = |part: &Part| part.finish_reason == Some(FinishReason::Length);
        !self.parts.iter().any(cut)
    }
}
