//! What an inference library must do to serve the appliance: one method that starts a generation.

use std::future::Future;

use cocoon_protocol::engine::{EngineFailure, Generation, ModelInfo, Text, TokenLogprob};
use cocoon_protocol::openai::FinishReason;
use tokio::sync::mpsc;

/// Something that generates text.
pub trait Backend: Send + Sync + 'static {
    /// The model, as clients may know it.
    fn info(&self) -> &ModelInfo;

    /// Runs one generation and sends what happens into `events`: [`Event::Started`] unless it fails at
    /// once, one [`Event::Token`] each, and [`Event::Done`] or [`Event::Failed`] at the end.
    ///
    /// Stop strings and calls of tools are not its business: whoever reads the events finds them and
    /// cancels. Dropping the receiver, or this future, cancels: no more than one further token is
    /// computed. A slow receiver must not hold up other generations.
    fn generate(
        &self,
        request: Generation,
        events: mpsc::Sender<Event>,
    ) -> impl Future<Output = ()> + Send;
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
        /// UTF-8 text, empty where a character is not whole yet.
        text: Text,
        /// When the request asked.
        logprob: Option<TokenLogprob>,
    },
    /// What is left of the text when the answer is cut within a character.
    Rest {
        /// UTF-8 text.
        text: Text,
    },
    /// The answer is complete.
    Done {
        /// Why it ended.
        finish_reason: FinishReason,
    },
    /// The generation failed.
    Failed(EngineFailure),
}
