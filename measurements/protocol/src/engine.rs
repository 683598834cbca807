//! Agent and engine: framed messages on an inherited socket pair.
//!
//! The engine's frames are hostile input to the agent: a compromised engine may lie about tokens
//! within its own requests and must gain nothing else. Messages that carry text wipe it on drop.

mod calls;
mod costs;
mod generation;
mod gpu;
mod padding;
mod start;
mod utf8;

pub use calls::{Spoken, is_json_object, parse as parse_calls, schema_of_calls, wipe};
pub use costs::Costs;
pub use generation::{
    Call, Choice, Format, Generation, Key, Prompt, Sampling, Seed, Speaker, Tool, Turn,
    json_object, json_string, json_value,
};
pub use gpu::{
    Crossings, GpuCounts, MAX_TENSORS, MAX_TENSORS_IN_FRAME, TensorRoot, WEIGHTS_PATH, Weights,
};
pub use padding::Padding;
pub use start::{StartFailure, StartStep};
pub use utf8::Utf8;

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::bytes::Hex32;
use crate::openai::FinishReason;

/// File descriptor on which the engine finds its socket.
pub const ENGINE_FD: i32 = 3;
/// Largest frame to the engine, in bytes: a whole conversation.
pub const MAX_TO_ENGINE: usize = 8 * 1024 * 1024;
/// Largest frame from the engine, in bytes: one piece of an answer.
pub const MAX_FROM_ENGINE: usize = 64 * 1024;

/// From the agent to the engine.
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
    /// Start a generation.
    Generate {
        /// Chosen by the agent, never reused within an engine's life.
        id: u64,
        /// What to generate.
        request: Generation,
    },
    /// Stop a generation: its client is gone. Of its frames [`FromEngine::Gone`] alone follows, or none where its end
    /// was on its way.
    Cancel {
        /// The generation.
        id: u64,
    },
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
    /// On how many GPUs it works; before it is ready, and left out by an engine that works on none.
    Devices {
        /// GPUs.
        count: u16,
    },
    /// Tensors in the GPUs' memory, at most [`MAX_TENSORS_IN_FRAME`], sorted through all such frames; left out as above.
    Tensors {
        /// The next ones.
        tensors: Vec<TensorRoot>,
    },
    /// What was made of them in the GPUs' memory, told in the same way.
    Derived {
        /// The next ones.
        tensors: Vec<TensorRoot>,
    },
    /// All of them were told, and this is the model's root; left out as above.
    Measured {
        /// BLAKE3 over [`Weights::encode`].
        root: Hex32,
        /// Bytes of caches and scratch memory, all of which every scrub overwrites.
        pool_bytes: u64,
    },
    /// What was done to the GPUs' memory until now; once before it is ready, then again and again; left out as above.
    Gpu(GpuCounts),
    /// It cannot start, and ends: the last frame, instead of [`Self::Ready`].
    Unable(StartFailure),
    /// Ready for requests; once.
    Ready(ModelInfo),
    /// The prompt was understood and counted. Comes before everything else about a generation.
    Started {
        /// The generation.
        id: u64,
        /// Tokens of the prompt.
        prompt_tokens: u32,
    },
    /// A piece of an answer.
    Delta {
        /// The generation.
        id: u64,
        /// UTF-8 text, possibly empty.
        text: Text,
        /// Tokens that this piece stands for.
        tokens: u32,
        /// What the model thought of them, when the request asked; a token whose text is held back
        /// comes with the piece that tells its text.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        logprobs: Vec<TokenLogprob>,
    },
    /// A piece of a call of a tool.
    Call {
        /// The generation.
        id: u64,
        /// Counts the calls of an answer, from zero.
        index: u32,
        /// The tool's name, with the first piece only.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        name: Option<Text>,
        /// A piece of the arguments, JSON when put together.
        arguments: Text,
    },
    /// The generation ended, and nothing of it is computed any more.
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
    /// A generation that was cancelled has left the engine: nothing of it is computed or held any more. A prompt is
    /// read in one step, which nothing interrupts, so that this may come long after the cancellation.
    Gone {
        /// The generation.
        id: u64,
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
    /// The schema of the answer, or of a tool's arguments, is not one that a grammar can be made of.
    Grammar,
    /// The grammar of the answer became too complex while it was written.
    GrammarLimit,
    /// The grammar of another answer took too long to wait for.
    Busy,
    /// Anything else.
    Internal,
}

/// A token, and those that could have come instead.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct TokenLogprob {
    /// The one that was chosen.
    pub chosen: Alternative,
    /// The likeliest ones, likeliest first, as many as the request asked for.
    pub top: Vec<Alternative>,
}

/// A token and its log probability.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Alternative {
    /// Its bytes, which need not be UTF-8; at most [`MAX_TOKEN`] of them.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability; at least [`LEAST_LOGPROB`].
    pub logprob: f32,
}

/// Most bytes of a token: an engine serves no vocabulary with a longer one.
pub const MAX_TOKEN: usize = 256;
/// Longest piece of text that was held back, and of a call's arguments, in one frame, in bytes: a piece of usual text, so
/// that the event made of it is as long as any other.
pub const MAX_PIECE: usize = 96;
/// Most alternatives of a token.
pub const MAX_TOP: usize = 20;
/// Stands for any smaller log probability, as in OpenAI's answers: JSON has no infinity.
pub const LEAST_LOGPROB: f32 = -9999.0;

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
    /// Tokens that the model knows: identifiers are below this.
    pub vocabulary: u32,
    /// What answers take of memory.
    pub costs: Costs,
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
