//! Answers as OpenAI writes them: whole ones and pieces, of chats and of completions.

use std::borrow::Cow;
use std::collections::BTreeMap;

use cocoon_protocol::engine::{Alternative, TokenLogprob, Utf8};
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

/// Where the tokens of a text begin in it, in characters. A token that begins inside of one has that one's place.
#[derive(Default)]
pub(super) struct Offsets {
    characters: usize,
    /// Puts the text together as the engine does.
    text: Utf8,
}

impl Offsets {
    /// Where the next token begins, which has these bytes.
    fn next(&mut self, token: &[u8]) -> usize {
        let start = self.characters;
        self.characters += self.text.push(token).0.chars().count();
        start
    }
}

impl<'a> TextLogprobs<'a> {
    /// `offsets` has counted the tokens before.
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

    /// Of all tokens at once, which is what they are one by one, too.
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
        // A character of three tokens, and one whose end is another's beginning.
        let rocket = "🚀".as_bytes();
        let cut: [&[u8]; 5] = [b"a", &rocket[..1], &rocket[1..3], &rocket[3..], b"b"];
        assert_eq!(offsets(&cut), [0, 1, 1, 1, 2]);
        assert_eq!(offsets(&[b"x\xd0", b"\xb4y", b"z"]), [0, 1, 3]);
        // What is no text is told as a character for each piece.
        assert_eq!(
            offsets(&[b"\xff\xb4", b"a\xe2\x82", b"b", b"c"]),
            [0, 2, 3, 5]
        );
    }
}
