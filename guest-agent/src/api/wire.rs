//! Answers as OpenAI writes them: whole ones and pieces, of chats and of completions.

use std::borrow::Cow;
use std::collections::BTreeMap;

use cocoon_protocol::engine::{Alternative, TokenLogprob};
use cocoon_protocol::openai::{FinishReason, Usage};
use serde::Serialize;

/// What kind of request is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completion,
}

/// What every event of an answer repeats.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// What is answered.
    pub kind: Kind,
    /// `chatcmpl-` or `cmpl-`, and random digits.
    pub id: String,
    /// Seconds since 1970 on the guest's clock, which nothing depends on.
    pub created: u64,
    /// Identifier of the model.
    pub model: String,
    /// `fp_` and the first digits of the model's digest.
    pub fingerprint: String,
}

/// A whole answer, or one event of a stream.
#[derive(Serialize)]
pub(super) struct Body<'a, C> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: C,
    system_fingerprint: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Tokens>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    obfuscation: Option<&'static str>,
}

impl Envelope {
    /// Around `choices`. `usage` is left out, or null, or there; `obfuscate` leaves room for padding.
    pub(super) fn around<C: Serialize>(
        &self,
        choices: C,
        usage: Option<Option<Usage>>,
        (stream, obfuscate): (bool, bool),
    ) -> Body<'_, C> {
        Body {
            id: &self.id,
            object: match (self.kind, stream) {
                (Kind::Chat, false) => "chat.completion",
                (Kind::Chat, true) => "chat.completion.chunk",
                (Kind::Completion, _) => "text_completion",
            },
            created: self.created,
            model: &self.model,
            choices,
            system_fingerprint: &self.fingerprint,
            usage: usage.map(|usage| usage.map(Tokens::from)),
            obfuscation: obfuscate.then_some(""),
        }
    }
}

/// The usage with its details.
#[derive(Serialize)]
struct Tokens {
    #[serde(flatten)]
    usage: Usage,
    prompt_tokens_details: Cached,
}

#[derive(Serialize)]
struct Cached {
    cached_tokens: u32,
}

impl From<Usage> for Tokens {
    fn from(usage: Usage) -> Self {
        Self {
            usage,
            // There is no cache: it would tell one user what another asked.
            prompt_tokens_details: Cached { cached_tokens: 0 },
        }
    }
}

/// A choice of a chat, whole or a piece of it.
#[derive(Serialize)]
pub(super) struct ChatChoice<'a> {
    pub index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delta: Option<Delta<'a>>,
    pub logprobs: Option<ChatLogprobs<'a>>,
    pub finish_reason: Option<FinishReason>,
}

#[derive(Serialize)]
pub(super) struct Message<'a> {
    pub role: &'static str,
    pub content: Option<&'a str>,
    pub refusal: Option<&'static str>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub tool_calls: &'a [ToolCall<'a>],
}

#[derive(Default, Serialize)]
pub(super) struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<[ToolCall<'a>; 1]>,
}

impl<'a> Delta<'a> {
    /// Text.
    pub fn of(text: &'a str) -> Self {
        Self {
            content: Some(text),
            ..Self::default()
        }
    }

    /// A piece of a call.
    pub fn calling(call: ToolCall<'a>) -> Self {
        Self {
            tool_calls: Some([call]),
            ..Self::default()
        }
    }
}

/// A call; of its later pieces only `index` and `arguments` are there.
#[derive(Serialize)]
pub(super) struct ToolCall<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<Cow<'a, str>>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<&'static str>,
    pub function: Function<'a>,
}

#[derive(Serialize)]
pub(super) struct Function<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<&'a str>,
    pub arguments: &'a str,
}

#[derive(Serialize)]
pub(super) struct ChatLogprobs<'a> {
    content: Vec<Token<'a>>,
    refusal: Option<()>,
}

#[derive(Serialize)]
struct Token<'a> {
    token: Cow<'a, str>,
    bytes: &'a [u8],
    logprob: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_logprobs: Option<Vec<Token<'a>>>,
}

impl<'a> Token<'a> {
    fn of(one: &'a Alternative, top: Option<&'a [Alternative]>) -> Self {
        Self {
            token: String::from_utf8_lossy(&one.bytes),
            bytes: &one.bytes,
            logprob: one.logprob,
            top_logprobs: top.map(|top| top.iter().map(|one| Token::of(one, None)).collect()),
        }
    }
}

impl<'a> ChatLogprobs<'a> {
    pub fn of(logprobs: &'a [TokenLogprob]) -> Self {
        let token = |one: &'a TokenLogprob| Token::of(&one.chosen, Some(&one.top));
        Self {
            content: logprobs.iter().map(token).collect(),
            refusal: None,
        }
    }
}

/// A choice of a completion, whole or a piece of it.
#[derive(Serialize)]
pub(super) struct TextChoice<'a> {
    pub text: &'a str,
    pub index: usize,
    pub logprobs: Option<TextLogprobs<'a>>,
    pub finish_reason: Option<FinishReason>,
}

#[derive(Serialize)]
pub(super) struct TextLogprobs<'a> {
    tokens: Vec<Cow<'a, str>>,
    token_logprobs: Vec<f32>,
    top_logprobs: Vec<BTreeMap<Cow<'a, str>, f32>>,
    text_offset: Vec<usize>,
}

impl<'a> TextLogprobs<'a> {
    /// `offset` is the number of characters before the first token.
    pub fn of(logprobs: &'a [TokenLogprob], mut offset: usize) -> Self {
        let word = |one: &'a Alternative| String::from_utf8_lossy(&one.bytes);
        let pair = |one: &'a Alternative| (word(one), one.logprob);
        let mut start = |one: &'a TokenLogprob| {
            let start = offset;
            offset += word(&one.chosen).chars().count();
            start
        };
        Self {
            tokens: logprobs.iter().map(|one| word(&one.chosen)).collect(),
            token_logprobs: logprobs.iter().map(|one| one.chosen.logprob).collect(),
            top_logprobs: logprobs
                .iter()
                .map(|one| one.top.iter().map(pair).collect())
                .collect(),
            text_offset: logprobs.iter().map(&mut start).collect(),
        }
    }
}
