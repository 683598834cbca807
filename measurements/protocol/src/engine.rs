//! Messages between the guest agent and the engine, framed on an inherited socket pair.
//!
//! The agent treats the engine's frames as hostile input. A compromised engine can lie about the tokens of its own requests
//! and must gain nothing else. Messages that carry text wipe it on drop.

mod calls;
mod costs;
mod finite;
mod generation;
mod gpu;
mod json;
mod opening;
mod padding;
mod schema;
mod start;
mod utf8;

pub use calls::{Spoken, opened as opened_call, parse as parse_calls};
pub use costs::Costs;
pub use generation::{
    Call, Choice, Format, Generation, Key, Prompt, Sampling, Seed, Speaker, Tool, Turn,
};
pub use gpu::{
    Crossings, GpuCounts, MAX_TENSORS, MAX_TENSORS_IN_FRAME, TensorRoot, WEIGHTS_PATH, Weights,
};
pub use json::{is_json_object, json_object, json_string, json_value, wipe};
pub use opening::Opening;
pub use padding::Padding;
pub use schema::schema_of_calls;
pub use start::{StartFailure, StartStep};
pub use utf8::Utf8;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::bytes::Hex32;
use crate::openai::FinishReason;

/// File descriptor of the engine's end of the socket pair.
pub const ENGINE_FD: i32 = 3;
/// Largest frame to the engine, in bytes. It holds a whole conversation.
pub const MAX_TO_ENGINE: usize = 8 * 1024 * 1024;
/// Largest frame from the engine, in bytes. It holds one piece of an answer.
pub const MAX_FROM_ENGINE: usize = 64 * 1024;

/// Message from the agent to the engine.
#[expect(
    clippy::large_enum_variant,
    reason = "moved a few times for each request, whose texts are larger by far"
)]
#[derive(Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum ToEngine {
    /// Starts a generation.
    Generate {
        /// Identifier chosen by the agent, never reused while the engine lives.
        id: u64,
        /// What to generate.
        request: Generation,
    },
    /// Cancels a generation whose client is gone. The engine answers with [`FromEngine::Gone`] and sends no other frame of
    /// this generation. It sends nothing if the last frame was already under way.
    Cancel {
        /// Identifier of the generation.
        id: u64,
    },
}

/// Message from the engine to the agent.
#[derive(Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum FromEngine {
    /// Number of GPUs that the engine uses. Sent before [`Self::Ready`]; not sent by an engine that uses none.
    Devices {
        /// Number of GPUs.
        count: u16,
    },
    /// Tensors in the GPUs' memory, at most [`MAX_TENSORS_IN_FRAME`] per frame, sorted across all these frames. Not sent
    /// without GPUs.
    Tensors {
        /// The next tensors of the list.
        tensors: Vec<TensorRoot>,
    },
    /// Data that was made of the tensors in the GPUs' memory, sent in the same way as [`Self::Tensors`].
    Derived {
        /// The next entries of the list.
        tensors: Vec<TensorRoot>,
    },
    /// Root of the model's weights, sent after all tensors and derived data. Not sent without GPUs.
    Measured {
        /// BLAKE3 over [`Weights::encode`].
        root: Hex32,
        /// Bytes of caches and scratch memory, all of which each scrub overwrites.
        pool_bytes: u64,
    },
    /// Counters of operations on the GPUs' memory. Sent once before [`Self::Ready`] and again whenever they change; not sent
    /// without GPUs.
    Gpu(GpuCounts),
    /// Reports that the engine cannot start and ends. This is the last frame, sent in place of [`Self::Ready`].
    Unable(StartFailure),
    /// Reports that the engine is ready for requests. Sent once.
    Ready(ModelInfo),
    /// Reports that the prompt was accepted and counted. First frame of a generation, unless it fails at once.
    Started {
        /// Identifier of the generation.
        id: u64,
        /// Number of tokens of the prompt.
        prompt_tokens: u32,
    },
    /// A piece of the answer's text.
    Delta {
        /// Identifier of the generation.
        id: u64,
        /// UTF-8 text, possibly empty.
        text: Text,
        /// Number of tokens that this piece stands for.
        tokens: u32,
        /// Log probabilities of these tokens, if the request asked for them. A token whose text is held back comes with the
        /// piece that contains its text.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        logprobs: Vec<TokenLogprob>,
    },
    /// A piece of a tool call.
    Call {
        /// Identifier of the generation.
        id: u64,
        /// Index of the call in the answer, from zero.
        index: u32,
        /// Name of the tool, only with the first piece of the call.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<Text>,
        /// A piece of the arguments. All pieces together are JSON.
        arguments: Text,
    },
    /// The generation has ended, and nothing of it is computed any more.
    Done {
        /// Identifier of the generation.
        id: u64,
        /// Why the answer ended.
        finish_reason: FinishReason,
        /// Number of tokens of the prompt.
        prompt_tokens: u32,
        /// Number of tokens of the answer.
        completion_tokens: u32,
    },
    /// The generation failed.
    Failed {
        /// Identifier of the generation.
        id: u64,
        /// Reason from a closed set, because free text from the engine could contain parts of a prompt.
        reason: EngineFailure,
    },
    /// A cancelled generation has left the engine: nothing of it is computed or kept any more. This may come long after the
    /// cancellation, because a prompt is read in one step that nothing interrupts.
    Gone {
        /// Identifier of the generation.
        id: u64,
    },
}

/// Reasons that an engine can give for a failed generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EngineFailure {
    /// The conversation has more tokens than the model's context.
    ContextLength,
    /// The chat template refused the conversation, for example because of the order of its roles.
    Template,
    /// No grammar can be made of the schema of the answer or of a tool's arguments.
    Grammar,
    /// The answer's grammar became too complex while the answer was generated.
    GrammarLimit,
    /// The wait for the grammar of another answer took too long.
    Busy,
    /// Any other failure.
    Internal,
}

/// Log probabilities of a chosen token and of its likeliest alternatives.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct TokenLogprob {
    /// The token that was chosen.
    pub chosen: Alternative,
    /// The likeliest tokens, most likely first, as many as the request asked for.
    pub top: Vec<Alternative>,
}

/// A token and its log probability.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Alternative {
    /// Bytes of the token, at most [`MAX_TOKEN`]. They need not be UTF-8.
    pub bytes: Vec<u8>,
    /// Natural logarithm of the token's probability, at least [`LEAST_LOGPROB`].
    #[serde(deserialize_with = "finite::number")]
    pub logprob: f32,
}

/// Most bytes of a token. An engine refuses a model whose vocabulary has a longer one.
pub const MAX_TOKEN: usize = 256;
/// Longest piece, in bytes per frame, of text that was held back or of a call's arguments. It is the length of a piece of
/// ordinary text, so that the event made of it is as long as any other.
pub const MAX_PIECE: usize = 96;
/// Most alternatives reported for a token.
pub const MAX_TOP: usize = 20;
/// Least log probability that is reported; smaller ones are replaced by it, as in OpenAI's answers. JSON cannot express
/// infinity.
pub const LEAST_LOGPROB: f32 = -9999.0;

/// Properties of the model that clients may know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ModelInfo {
    /// Identifier of the model in the API, such as `smollm2-135m-instruct-q4_1`.
    pub id: String,
    /// Context length in tokens.
    pub context_length: u32,
    /// Weight format, such as `Q4_1`.
    pub quantization: String,
    /// Size of the vocabulary. Token identifiers are below it.
    pub vocabulary: u32,
    /// Memory that answers take.
    pub costs: Costs,
}

/// Text that is wiped on drop and never printed.
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

    #[test]
    fn a_generation_survives_its_frame() {
        let mut request = Generation {
            prompt: Prompt::Conversation(vec![Turn {
                speaker: Speaker::User,
                content: "secret".into(),
                calls: vec![],
                call_id: None,
            }]),
            tools: vec![],
            choice: Choice::Named("f".into()),
            parallel: true,
            format: Format::Schema("{}".into()),
            max_tokens: 5,
            room: 9,
            sampling: Sampling::default(),
            stop: vec!["\n".into()],
            top_logprobs: Some(2),
        };
        request.sampling.seed = Seed::Given(u64::MAX);
        request.sampling.bias = vec![(7, -100.0)];
        let frame = encode(&ToEngine::Generate { id: 3, request }, MAX_TO_ENGINE).unwrap();
        let mut decoder = Decoder::new(MAX_TO_ENGINE);
        decoder.push(&frame);
        let Some(ToEngine::Generate { id: 3, request }) = decoder.next().unwrap() else {
            panic!("another message")
        };
        let Prompt::Conversation(turns) = &request.prompt else {
            panic!("another prompt")
        };
        assert_eq!(turns[0].content, "secret");
        assert!(request.sampling.seed == Seed::Given(u64::MAX));
        assert_eq!(request.sampling.bias, [(7, -100.0)]);
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
