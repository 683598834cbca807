//! One answer as it arrives, timed, whoever gives it; and what is asked.

use std::time::Duration;

/// About forty tokens in the model's template; small models go on and on about it.
pub const QUESTION: &str = "Write a long story about a river, a mill and seven villages.";

/// When what of an answer came, from the moment that it was asked for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timing {
    /// The first text.
    pub first: Duration,
    /// The last text.
    pub last: Duration,
    /// Tokens of the answer.
    pub tokens: u32,
    /// Tokens of the prompt.
    pub prompt: u32,
}

/// Answers that ran at once.
pub struct Together {
    /// Each of them.
    pub answers: Vec<Timing>,
}

impl Together {
    /// Tokens per second of all of them, from the first request to the last token.
    pub fn throughput(&self) -> f64 {
        let tokens: u32 = self.answers.iter().map(|answer| answer.tokens).sum();
        let last = self.answers.iter().map(|answer| answer.last).max();
        f64::from(tokens) / last.unwrap_or_default().as_secs_f64()
    }

    /// Milliseconds to the first text, the mean over the answers.
    pub fn first(&self) -> f64 {
        let all: f64 = self
            .answers
            .iter()
            .map(|answer| answer.first.as_secs_f64())
            .sum();
        all * 1000.0 / f64::from(u32::try_from(self.answers.len()).unwrap_or(u32::MAX))
    }
}
