//! What an inference library must do to serve the appliance: one method that starts a generation.

use std::future::Future;

use cocoon_protocol::engine::{
    EngineFailure, Generation, GpuCounts, ModelInfo, Text, TokenLogprob, Weights,
};
use cocoon_protocol::openai::FinishReason;
use tokio::sync::{mpsc, watch};

/// Something that generates text.
pub trait Backend: Send + Sync + 'static {
    /// The model, as clients may know it.
    fn info(&self) -> &ModelInfo;

    /// Runs one generation and sends what happens into `events`: [`Event::Started`] unless it fails at
    /// once, one [`Event::Token`] each, and [`Event::Done`] or [`Event::Failed`] at the end.
    ///
    /// Stop strings and calls of tools are not its business: whoever reads the events finds them and
    /// cancels. Dropping the receiver, or this future, cancels: no more than the step that is being computed is, a token
    /// or the reading of a prompt. The future ends when nothing of the generation is computed or waits to be any more,
    /// cancelled or not: what may run beside it is counted by that. A slow receiver must not hold up other generations.
    fn generate(
        &self,
        request: Generation,
        events: mpsc::Sender<Event>,
    ) -> impl Future<Output = ()> + Send;

    /// The GPU that it works on, if it works on one.
    fn gpu(&self) -> Option<&Gpu> {
        None
    }

    /// What is left to do when no generation runs and none will any more: the process ends then.
    fn close(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// What there is to tell of a GPU.
pub struct Gpu {
    /// How many they are.
    pub devices: u16,
    /// The weights in its memory, measured after they were loaded.
    pub weights: Weights,
    /// What was done to its memory. Closed when that cannot be said any more: nothing may be served then.
    pub counts: watch::Receiver<GpuCounts>,
}

/// What happens in a generation.
#[derive(Clone, PartialEq)]
pub enum Event {
    /// The prompt was understood.
    Started {
        /// Tokens of the prompt.
        prompt_tokens: u32,
    },
    /// One token.
    Token {
        /// UTF-8 text, empty where a character is not whole yet; whole with the last token, even where that cuts one.
        text: Text,
        /// When the request asked.
        logprob: Option<TokenLogprob>,
    },
    /// The answer is complete.
    Done {
        /// Why it ended.
        finish_reason: FinishReason,
    },
    /// The generation failed.
    Failed(EngineFailure),
}
