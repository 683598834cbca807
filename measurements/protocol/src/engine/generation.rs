//! Requests from the agent to the engine. Every text in them comes from a user and is wiped on drop.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

use super::finite;

/// A request to generate one answer.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Text or conversation to continue.
    pub prompt: Prompt,
    /// Tools that the model may call.
    pub tools: Vec<Tool>,
    /// Whether the model may or must call a tool.
    pub choice: Choice,
    /// Whether the model may call several tools in one answer.
    pub parallel: bool,
    /// Required format of the answer.
    pub format: Format,
    /// Most tokens to generate.
    pub max_tokens: u32,
    /// Most tokens of prompt and answer together, limited by memory. A longer prompt is refused, and an answer ends when the
    /// room is full.
    pub room: u32,
    /// How tokens are sampled.
    pub sampling: Sampling,
    /// Strings that end the answer.
    pub stop: Vec<String>,
    /// If present, log probabilities are reported for each token and for this many alternatives.
    pub top_logprobs: Option<u8>,
}

/// Text or conversation to continue.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "kebab-case")]
pub enum Prompt {
    /// Turns of a conversation, oldest first. The model's chat template makes a prompt of them.
    Conversation(Vec<Turn>),
    /// The prompt itself.
    Text(String),
}

/// Author of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Zeroize)]
#[serde(rename_all = "kebab-case")]
pub enum Speaker {
    /// Author of the instructions.
    System,
    /// The user.
    User,
    /// The model.
    Assistant,
    /// A tool that the model called.
    Tool,
}

/// One turn of a conversation.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Author of the turn.
    pub speaker: Speaker,
    /// Text of the turn. May be empty if tools are called.
    pub content: String,
    /// Tool calls that the model made in this turn.
    pub calls: Vec<Call>,
    /// In a tool's turn, the identifier of the call that it answers.
    pub call_id: Option<String>,
}

/// A tool call.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Identifier that the tool's answer repeats.
    pub id: String,
    /// Name of the tool.
    pub name: String,
    /// Arguments of the call: the text of a JSON object.
    pub arguments: String,
}

/// A tool that the model may call.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Name of the tool: letters, digits, `_` and `-`.
    pub name: String,
    /// What the tool does, for the model.
    pub description: Option<String>,
    /// Schema of the arguments: the text of a JSON object.
    pub parameters: String,
    /// Whether the arguments follow the schema even if the model decides whether to call.
    pub strict: bool,
}

/// Whether tools are called.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// The model decides whether to call a tool.
    Auto,
    /// The model must call a tool.
    Required,
    /// The model must call the tool with this name.
    Named(String),
}

/// Required format of an answer.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Any text.
    Text,
    /// A JSON object.
    Json,
    /// JSON that satisfies this schema, which is given as JSON text.
    Schema(String),
}

/// Sampling parameters of an answer.
#[derive(Clone, PartialEq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// Temperature, 0 to 2. Zero selects the likeliest token.
    #[serde(deserialize_with = "finite::number")]
    pub temperature: f32,
    /// Nucleus sampling: probability mass to keep, 0 < `top_p` <= 1.
    #[serde(deserialize_with = "finite::number")]
    pub top_p: f32,
    /// Number of likeliest tokens to keep; 0 keeps all.
    pub top_k: u32,
    /// Least probability of a token, relative to the likeliest one, 0 to 1.
    #[serde(deserialize_with = "finite::number")]
    pub min_p: f32,
    /// Subtracted from a token's logit for each occurrence in the answer, -2 to 2.
    #[serde(deserialize_with = "finite::number")]
    pub frequency_penalty: f32,
    /// Subtracted once from the logit of a token that occurs in the answer, -2 to 2.
    #[serde(deserialize_with = "finite::number")]
    pub presence_penalty: f32,
    /// Penalty on tokens that occur in prompt or answer, above 0 up to 2. Positive logits are divided by it and negative ones
    /// multiplied; 1 changes nothing.
    #[serde(deserialize_with = "finite::number")]
    pub repetition_penalty: f32,
    /// Token identifiers with the value added to their logit, -100 to 100.
    #[serde(deserialize_with = "finite::numbers")]
    pub bias: Vec<(u32, f32)>,
    /// Seed of this answer's random generator.
    pub seed: Seed,
}

/// Seed of an answer's random generator.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "kebab-case")]
pub enum Seed {
    /// Seed given by the client.
    Given(u64),
    /// Complete key of the generator, drawn by the agent if the client gave no seed.
    Drawn(Key),
}

/// A ChaCha20 key, wiped on drop.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
pub struct Key(pub [u8; 32]);

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            repetition_penalty: 1.0,
            bias: Vec::new(),
            seed: Seed::Given(0),
        }
    }
}
