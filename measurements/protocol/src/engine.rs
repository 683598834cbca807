//! Agent and engine: framed messages on an inherited socket pair.
//!
//! The engine's frames are hostile input to the agent: a compromised engine may lie about tokens
//! within its own requests and must gain nothing else. Messages that carry text wipe it on drop.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::openai::{FinishReason, Message};

/// File descriptor on which the engine finds its socket.
pub const ENGINE_FD: i32 = 3;
/// Largest frame to the engine, in bytes: a whole conversation.
pub const MAX_TO_ENGINE: usize = 8 * 1024 * 1024;
/// Largest frame from the engine, in bytes: one piece of an answer.
pub const MAX_FROM_ENGINE: usize = 64 * 1024;

/// From the agent to the engine.
#[derive(Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum ToEngine {
    /// Start a generation.
    Generate {
        /// Chosen by the agent, never reused within an engine's life.
        id: u64,
        /// What to generate.
        request: Generation,
    },
    /// Stop a generation: its client is gone. No frame for `id` follows.
    Cancel {
        /// The generation.
        id: u64,
    },
}

/// One generation as the engine sees it.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// The conversation.
    pub messages: Vec<Message>,
    /// Most tokens to generate.
    pub max_tokens: u32,
    /// 0 is greedy.
    pub temperature: f32,
    /// Nucleus, 0 < `top_p` <= 1.
    pub top_p: f32,
    /// Seed of this request's own generator; the agent draws one when the client gave none.
    pub seed: u64,
    /// Strings that end the answer.
    pub stop: Vec<String>,
}

/// From the engine to the agent.
#[derive(Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum FromEngine {
    /// Weights are being loaded.
    Loading {
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Ready for requests; once.
    Ready(ModelInfo),
    /// A piece of an answer.
    Delta {
        /// The generation.
        id: u64,
        /// UTF-8 text, possibly empty.
        text: Text,
        /// Tokens that this piece stands for.
        tokens: u32,
    },
    /// The generation ended.
    Done {
        /// The generation.
        id: u64,
        /// Why.
        finish_reason: FinishReason,
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens of the answer.
        completion_tokens: u32,
    },
    /// The generation failed.
    Failed {
        /// The generation.
        id: u64,
        /// Why, as one of a closed set: an engine's own words could carry a prompt.
        reason: EngineFailure,
    },
}

/// What an engine can say went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineFailure {
    /// The conversation has more tokens than the model's context.
    ContextLength,
    /// The chat template refused the conversation (roles in an order it does not allow).
    Template,
    /// Anything else.
    Internal,
}

/// What a client may know of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelInfo {
    /// Identifier for the API, such as `smollm2-135m-instruct-q4_1`.
    pub id: String,
    /// Tokens of context.
    pub context_length: u32,
    /// Weight format, such as `Q4_1`.
    pub quantization: String,
}

/// Text that is wiped when dropped and never printed.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct Text(pub String);

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "({} bytes)", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::{Decoder, encode};
    use crate::openai::Role;

    #[test]
    fn a_generation_survives_its_frame() {
        let request = Generation {
            messages: vec![Message {
                role: Role::User,
                content: "secret".into(),
            }],
            max_tokens: 5,
            temperature: 0.0,
            top_p: 1.0,
            seed: u64::MAX,
            stop: vec!["\n".into()],
        };
        let frame = encode(&ToEngine::Generate { id: 3, request }, MAX_TO_ENGINE).unwrap();
        let mut decoder = Decoder::new(MAX_TO_ENGINE);
        decoder.push(&frame);
        let Some(ToEngine::Generate { id: 3, request }) = decoder.next().unwrap() else {
            panic!("another message")
        };
        assert_eq!(
            (request.messages[0].content.as_str(), request.seed),
            ("secret", u64::MAX)
        );
    }

    #[test]
    fn text_is_never_printed() {
        assert_eq!(format!("{:?}", Text("secret".into())), "(6 bytes)");
    }

    #[test]
    fn an_engine_cannot_explain_itself_in_its_own_words() {
        let message = r#"{"type":"failed","id":1,"reason":"the prompt was: secret"}"#;
        assert!(serde_json::from_str::<FromEngine>(message).is_err());
        assert!(
            serde_json::from_str::<FromEngine>(
                r#"{"type":"failed","id":1,"reason":"context-length"}"#
            )
            .is_ok()
        );
    }
}
