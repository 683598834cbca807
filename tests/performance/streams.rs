//! The question, and the times at which the parts of an answer arrive, from any source.

use std::time::Duration;

/// About forty tokens in the model's template. Small models write long answers to it.
pub const QUESTION: &str = "Write a long story about a river, a mill and seven villages.";

/// Times of an answer's parts since its request, and its token counts.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// When the first text arrived.
    pub first: Duration,
    /// When the last text arrived.
    pub last: Duration,
    /// Number of tokens in the answer.
    pub tokens: u32,
    /// Number of tokens in the prompt.
    pub prompt: u32,
}

/// Answers that ran concurrently.
pub struct Together {
    /// Times of each answer.
    pub answers: Vec<Timing>,
}

impl Together {
    /// Returns the tokens per second of all answers together, from the first request to the last token.
    pub fn throughput(&self) -> f64 {
        let tokens: u32 = self.answers.iter().map(|answer| answer.tokens).sum();
        let last = self.answers.iter().map(|answer| answer.last).max();
        f64::from(tokens) / last.unwrap_or_default().as_secs_f64()
    }

    /// Returns the mean time to the first text, in milliseconds.
    pub fn first(&self) -> f64 {
        let all: f64 = self
            .answers
            .iter()
            .map(|answer| answer.first.as_secs_f64())
            .sum();
        all * 1000.0 / f64::from(u32::try_from(self.answers.len()).unwrap_or(u32::MAX))
    }
}
