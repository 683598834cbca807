//! What an inference library must do to serve the appliance: one method that starts a generation.

use std::future::Future;

use cocoon_protocol::engine::{EngineFailure, Generation, ModelInfo, Text};
use cocoon_protocol::openai::FinishReason;
use tokio::sync::mpsc;

/// Something that generates text.
pub trait Backend: Send + Sync + 'static {
    /// The model, as clients may know it.
    fn info(&self) -> &ModelInfo;

    /// Runs one generation and sends what happens into `events`, ending with [`Event::Done`] or
    /// [`Event::Failed`].
    ///
    /// Dropping the receiver, or this future, cancels: no more than one further token is computed.
    /// A slow receiver must not hold up other generations.
    fn generate(
        &self,
        request: Generation,
        events: mpsc::Sender<Event>,
    ) -> impl Future<Output = ()> + Send;
}

/// What happens in a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A piece of the answer and the number of tokens that it stands for.
    Delta {
        /// UTF-8 text, possibly empty.
        text: Text,
        /// Tokens.
        tokens: u32,
    },
    /// The answer is complete.
    Done {
        /// Why it ended.
        finish_reason: FinishReason,
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens of the answer.
        completion_tokens: u32,
    },
    /// The generation failed.
    Failed(EngineFailure),
}
