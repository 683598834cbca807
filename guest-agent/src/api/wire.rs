//! The JSON of OpenAI's answers: whole answers and stream events, for chats and completions.

use std::borrow::Cow;
use std::collections::BTreeMap;

use cocoon_protocol::engine::{Alternative, TokenLogprob, Utf8};
use cocoon_protocol::openai::{FinishReason, Usage};
use serde::Serialize;

/// The kind of request that is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completion,
}

/// The fields that every event of an answer repeats.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Kind of the request.
    pub kind: Kind,
    /// `chatcmpl-` or `cmpl-`, followed by random digits.
    pub id: String,
    /// Seconds since 1970 by the guest's clock, on which nothing depends.
    pub created: u64,
    /// Identifier of the model.
    pub model: String,
    /// `fp_`, followed by the first digits of the model's digest.
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
    /// Wraps `choices`. `usage` is omitted, null or present; `obfuscate` adds an empty field for padding.
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
            // There is no cache, because it would tell one user what another has asked.
            prompt_tokens_details: Cached { cached_tokens: 0 },
        }
    }
}

/// A choice of a chat, or a piece of one.
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
    /// A delta of text.
    pub fn of(text: &'a str) -> Self {
        Self {
            content: Some(text),
            ..Self::default()
        }
    }

    /// A delta of a tool call.
    pub fn calling(call: ToolCall<'a>) -> Self {
        Self {
            tool_calls: Some([call]),
            ..Self::default()
        }
    }
}

/// A tool call. Its later pieces have `index` and `arguments` only.
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

/// A choice of a completion, or a piece of one.
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

/// Counts where the tokens of a text begin, in characters. A token that begins within a character has that character's offset.
#[derive(Default)]
pub(super) struct Offsets {
    characters: usize,
    /// Decodes the text as the engine does.
    text: Utf8,
}

impl Offsets {
    /// Returns where the next token, with these bytes, begins.
    fn next(&mut self, token: &[u8]) -> usize {
        let start = self.characters;
        self.characters += self.text.push(token).0.chars().count();
        start
    }
}

impl<'a> TextLogprobs<'a> {
    /// `offsets` must have counted all earlier tokens.
    pub fn of(logprobs: &'a [TokenLogprob], offsets: &mut Offsets) -> Self {
        let word = |one: &'a Alternative| String::from_utf8_lossy(&one.bytes);
        let pair = |one: &'a Alternative| (word(one), one.logprob);
        let chosen = logprobs.iter().map(|one| &one.chosen);
        Self {
            tokens: chosen.clone().map(word).collect(),
            token_logprobs: chosen.clone().map(|one| one.logprob).collect(),
            top_logprobs: logprobs
                .iter()
                .map(|one| one.top.iter().map(pair).collect())
                .collect(),
            text_offset: chosen.map(|one| offsets.next(&one.bytes)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Offsets of all tokens at once, which must equal those of one token at a time.
    fn offsets(tokens: &[&[u8]]) -> Vec<usize> {
        let logprob = |token: &&[u8]| TokenLogprob {
            chosen: Alternative {
                bytes: token.to_vec(),
                logprob: -0.5,
            },
            top: vec![],
        };
        let all: Vec<TokenLogprob> = tokens.iter().map(logprob).collect();
        let whole = TextLogprobs::of(&all, &mut Offsets::default()).text_offset;
        let (mut counted, mut stream) = (Offsets::default(), Vec::new());
        for one in all.chunks(1) {
            stream.extend(TextLogprobs::of(one, &mut counted).text_offset);
        }
        assert_eq!(stream, whole);
        whole
    }

    #[test]
    fn tokens_begin_where_their_characters_do() {
        assert_eq!(offsets(&[b"one ", b"", b"two"]), [0, 4, 4]);
        assert_eq!(offsets(&["дa".as_bytes(), "я".as_bytes(), b"!"]), [0, 2, 3]);
        // A character of three tokens, and one whose end shares a token with the next.
        let rocket = "🚀".as_bytes();
        let cut: [&[u8]; 5] = [b"a", &rocket[..1], &rocket[1..3], &rocket[3..], b"b"];
        assert_eq!(offsets(&cut), [0, 1, 1, 1, 2]);
        assert_eq!(offsets(&[b"x\xd0", b"\xb4y", b"z"]), [0, 1, 3]);
        // Invalid UTF-8 counts as one character for each invalid part.
        assert_eq!(
            offsets(&[b"\xff\xb4", b"a\xe2\x82", b"b", b"c"]),
            [0, 2, 3, 5]
        );
    }
}
