//! What the agent asks the engine for. Every text in it is a user's: all of it is wiped on drop.

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use crate::wiping::WipingWriter;

/// One answer to be written.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// What is answered or continued.
    pub prompt: Prompt,
    /// What the model may call.
    pub tools: Vec<Tool>,
    /// Whether it may, or must.
    pub choice: Choice,
    /// Whether it may call several tools in one answer.
    pub parallel: bool,
    /// What the answer must look like.
    pub format: Format,
    /// Most tokens to generate.
    pub max_tokens: u32,
    /// Most tokens of prompt and answer together: for more there is no memory. A longer prompt is refused, and an answer
    /// ends where it is full.
    pub room: u32,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Strings that end the answer.
    pub stop: Vec<String>,
    /// Tell the log probability of each token and of so many others.
    pub top_logprobs: Option<u8>,
}

/// What is answered or continued.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "kebab-case")]
pub enum Prompt {
    /// Turns, oldest first; the model's own template makes a text of them.
    Conversation(Vec<Turn>),
    /// The text itself.
    Text(String),
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Zeroize)]
#[serde(rename_all = "kebab-case")]
pub enum Speaker {
    /// Instructions.
    System,
    /// The person.
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
    /// Who speaks.
    pub speaker: Speaker,
    /// What is said; may be empty where tools are called.
    pub content: String,
    /// What the model called.
    pub calls: Vec<Call>,
    /// Which call a tool answers.
    pub call_id: Option<String>,
}

/// A call of a tool.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// Ties the tool's answer to the call.
    pub id: String,
    /// The tool.
    pub name: String,
    /// Arguments, a JSON object in text.
    pub arguments: String,
}

/// Something that the model may call.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// Letters, digits, `_` and `-`.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// Schema of its arguments, a JSON object in text.
    pub parameters: String,
}

/// Whether tools are called.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "kebab-case")]
pub enum Choice {
    /// The model decides.
    Auto,
    /// One is.
    Required,
    /// This one is.
    Named(String),
}

/// What an answer must look like.
#[derive(Clone, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "kebab-case")]
pub enum Format {
    /// Anything.
    Text,
    /// A JSON object.
    Json,
    /// JSON of this schema, which is JSON in text.
    Schema(String),
}

/// How tokens are drawn.
#[derive(Clone, PartialEq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(deny_unknown_fields)]
pub struct Sampling {
    /// 0 to 2; 0 is greedy.
    pub temperature: f32,
    /// Nucleus, 0 < `top_p` <= 1.
    pub top_p: f32,
    /// Only the likeliest so many; 0 is all.
    pub top_k: u32,
    /// Only those at least so likely as this part of the likeliest, 0 to 1.
    pub min_p: f32,
    /// Taken off a token's logit for each time the answer has it, -2 to 2.
    pub frequency_penalty: f32,
    /// Taken off once where the answer has it at all, -2 to 2.
    pub presence_penalty: f32,
    /// Divides the logits of what prompt and answer have, over 0 to 2; 1 is none.
    pub repetition_penalty: f32,
    /// Added to the logits of single tokens, -100 to 100.
    pub bias: Vec<(u32, f32)>,
    /// Seed of this answer's own generator.
    pub seed: Seed,
}

/// What an answer's draws begin with.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(rename_all = "kebab-case")]
pub enum Seed {
    /// The client's.
    Given(u64),
    /// Drawn by the agent where the client gave none: a whole key of the generator.
    Drawn(Key),
}

/// A key of ChaCha20, wiped when dropped.
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

/// Text as a JSON string, with its quotes.
pub fn json_string(text: &str) -> Zeroizing<String> {
    let mut json = WipingWriter::with_capacity(text.len() + 16);
    // Text into memory: serialisation cannot fail, and gives text.
    let _ = serde_json::to_writer(&mut json, text);
    Zeroizing::new(String::from_utf8(json.into_bytes()).unwrap_or_default())
}

/// JSON in text as a value, for libraries that want one. `None` when it is no JSON.
pub fn json_value(text: &str) -> Option<serde_json::Value> {
    serde_json::from_str(text).ok()
}

/// The same of an object.
pub fn json_object(text: &str) -> Option<serde_json::Map<String, serde_json::Value>> {
    serde_json::from_str(text).ok()
}
