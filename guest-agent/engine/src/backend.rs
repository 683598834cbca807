//! Interface that an inference library implements to serve the appliance.

use std::future::Future;

use cocoon_protocol::engine::{
    EngineFailure, Generation, GpuCounts, ModelInfo, Text, TokenLogprob, Weights,
};
use cocoon_protocol::openai::FinishReason;
use tokio::sync::{mpsc, watch};

/// A source of generated text.
pub trait Backend: Send + Sync + 'static {
    /// Returns the properties of the model that clients may know.
    fn info(&self) -> &ModelInfo;

    /// Runs one generation and sends its events: [`Event::Started`] unless it fails at once, one [`Event::Token`] per token,
    /// and [`Event::Done`] or [`Event::Failed`] at the end.
    ///
    /// The backend does not look for stop strings or tool calls: the receiver of the events finds them and cancels. Dropping
    /// the receiver or this future cancels the generation. At most the current step is completed then: one token, or the
    /// reading of a prompt. The future completes once nothing of the generation is computed or queued any more, cancelled or
    /// not, because the number of running generations is limited by it. A slow receiver must not hold up other generations.
    fn generate(
        &self,
        request: Generation,
        events: mpsc::Sender<Event>,
    ) -> impl Future<Output = ()> + Send;

    /// Returns the GPU that the backend uses, if any.
    fn gpu(&self) -> Option<&Gpu> {
        None
    }

    /// Cleans up before the process ends, when no generation runs or will start.
    fn close(&self) -> impl Future<Output = ()> + Send {
        async {}
    }
}

/// Data about a GPU that the agent is told.
pub struct Gpu {
    /// Number of GPUs.
    pub devices: u16,
    /// Weights in GPU memory, measured after loading.
    pub weights: Weights,
    /// Counters of operations on GPU memory. The channel closes when they are no longer reliable; nothing may be served then.
    pub counts: watch::Receiver<GpuCounts>,
}

/// An event of a generation.
#[derive(Clone, PartialEq)]
pub enum Event {
    /// The prompt was read.
    Started {
        /// Number of tokens of the prompt.
        prompt_tokens: u32,
    },
    /// One token was generated.
    Token {
        /// UTF-8 text. Empty while a character is incomplete; the last token completes the text, even if it cuts a character.
        text: Text,
        /// Log probabilities, if the request asked for them.
        logprob: Option<TokenLogprob>,
    },
    /// The answer is complete.
    Done {
        /// Why the answer ended.
        finish_reason: FinishReason,
    },
    /// The generation failed.
    Failed(EngineFailure),
}
