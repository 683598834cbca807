//! Builds answers that are sent whole, once all of their choices have ended.

use cocoon_protocol::engine::TokenLogprob;
use cocoon_protocol::openai::{FinishReason, Usage};
use cocoon_protocol::receipt::Outcome;
use cocoon_protocol::wiping::{WipingWriter, append, json_len};
use hyper::body::Bytes;
use serde::Serialize;
use zeroize::Zeroizing;

use super::choices::Choices;
use super::error::Refusal;
use super::event::{BUCKET, logprobs, wiped};
use super::reply::Whole;
use super::wire::{
    ChatChoice, ChatLogprobs, Envelope, Function, Kind, Message, Offsets, TextChoice, TextLogprobs,
    ToolCall,
};
use crate::engine::{Answer, Piece};
use crate::keys;
use crate::metering::{Meter, usage};

/// Bytes of a token in a whole answer, generously.
const TOKEN: usize = 32;

/// One choice while it is collected. Wiped on drop.
#[derive(Default)]
struct Choice {
    content: Zeroizing<String>,
    calls: Vec<Call>,
    logprobs: Vec<TokenLogprob>,
}

struct Call {
    id: String,
    name: Zeroizing<String>,
    arguments: Zeroizing<String>,
}

/// Waits for all choices. Returns the body of the response and how the choices ended. `top_logprobs` is the number of
/// alternatives that the request asks for.
pub(super) async fn collect(
    answers: Vec<Answer>,
    envelope: &Envelope,
    meter: &Meter,
    top_logprobs: Option<u8>,
) -> Result<(Whole, Outcome), Refusal> {
    let with = top_logprobs.is_some();
    let mut choices: Vec<Choice> = answers.iter().map(|_| Choice::default()).collect();
    let mut reasons = vec![FinishReason::Stop; answers.len()];
    // No choice waits for the others: if one fails, the others are cancelled at once.
    let mut running = Choices::new(answers);
    while let Some((index, piece)) = running.next().await {
        if let Some(reason) = choices[index].take(piece, envelope.kind)? {
            reasons[index] = reason;
        }
    }
    let ended = reasons.iter().copied().fold(Outcome::Complete, outcome);
    let usage = usage(meter.close());
    let shown = Shown {
        choices: choices.len(),
        top_logprobs,
    };
    let told = choices.iter().zip(reasons).enumerate();
    let body = match envelope.kind {
        Kind::Chat => {
            let calls: Vec<Vec<ToolCall<'_>>> = choices.iter().map(Choice::tool_calls).collect();
            let mut chats = Vec::with_capacity(choices.len());
            for (index, (choice, reason)) in told {
                chats.push(ChatChoice {
                    index,
                    message: Some(Message {
                        role: "assistant",
                        content: (!choice.content.is_empty() || choice.calls.is_empty())
                            .then_some(choice.content.as_str()),
                        refusal: None,
                        tool_calls: &calls[index],
                    }),
                    delta: None,
                    logprobs: with.then(|| ChatLogprobs::of(&choice.logprobs)),
                    finish_reason: Some(reason),
                });
            }
            encode(envelope, &chats, usage, &shown)
        }
        Kind::Completion => {
            let mut texts = Vec::with_capacity(choices.len());
            for (index, (choice, reason)) in told {
                texts.push(TextChoice {
                    text: &choice.content,
                    index,
                    logprobs: with
                        .then(|| TextLogprobs::of(&choice.logprobs, &mut Offsets::default())),
                    finish_reason: Some(reason),
                });
            }
            encode(envelope, &texts, usage, &shown)
        }
    };
    Ok((Whole::with(body, running.into_answers()), ended))
}

/// Combines the outcome of earlier choices with the reason why one more ended.
pub(super) fn outcome(before: Outcome, reason: FinishReason) -> Outcome {
    match reason {
        FinishReason::Length if before == Outcome::Complete => Outcome::Length,
        _ => before,
    }
}

impl Choice {
    /// Adds a piece. Returns why the choice ended if the piece was its last.
    fn take(&mut self, piece: Piece, kind: Kind) -> Result<Option<FinishReason>, Refusal> {
        match piece {
            Piece::Delta(text, mut logprobs) => {
                append(&mut self.content, &text.0);
                self.logprobs.append(&mut logprobs);
            }
            Piece::Call {
                name, arguments, ..
            } => {
                if let Some(name) = name {
                    self.calls.push(Call {
                        id: call_id()?,
                        name: Zeroizing::new(name.0.clone()),
                        arguments: Zeroizing::default(),
                    });
                }
                if let Some(call) = self.calls.last_mut() {
                    append(&mut call.arguments, &arguments.0);
                }
            }
            Piece::Done { finish_reason } => return Ok(Some(finish_reason)),
            // The caller counts it, like every refusal.
            Piece::Failed(failure) => return Err(Refusal::failed(failure, kind)),
        }
        Ok(None)
    }

    fn tool_calls<'a>(&'a self) -> Vec<ToolCall<'a>> {
        let call = |call: &'a Call| ToolCall {
            index: None,
            id: Some(call.id.as_str().into()),
            kind: Some("function"),
            function: Function {
                name: Some(&call.name),
                arguments: &call.arguments,
            },
        };
        self.calls.iter().map(call).collect()
    }
}

/// Returns an identifier for a new call.
pub(super) fn call_id() -> Result<String, Refusal> {
    let random = keys::random::<12>().map_err(|_| {
        Refusal::unavailable("no_randomness", "The kernel gave no random identifier.")
    })?;
    Ok(format!("call_{}", hex::encode(*random)))
}

/// What the length of an answer may depend on, apart from its number of tokens.
struct Shown {
    /// Number of choices.
    choices: usize,
    /// Number of alternatives of each token, if log probabilities are reported.
    top_logprobs: Option<u8>,
}

impl Shown {
    /// Bytes that usual answers of `tokens` tokens do not exceed, whatever their text.
    fn usual(&self, tokens: u32) -> usize {
        let tokens = usize::try_from(tokens).unwrap_or(0);
        let bytes = tokens.saturating_mul(TOKEN + logprobs(self.top_logprobs));
        let around = BUCKET * (1 + self.choices);
        bytes.saturating_add(around).next_multiple_of(BUCKET)
    }
}

/// Encodes an answer. Its last field is padded, so that the length depends on the number of its tokens only.
fn encode(envelope: &Envelope, choices: impl Serialize, usage: Usage, shown: &Shown) -> Bytes {
    const TAIL: &[u8] = b"\"}";
    let tokens = usage.completion_tokens;
    let body = envelope.around(choices, Some(Some(usage)), (false, true));
    // Serialising strings and numbers into memory cannot fail.
    let length = json_len(&body).unwrap_or_default();
    let whole = length.max(1).next_multiple_of(shown.usual(tokens));
    let mut json = WipingWriter::with_capacity(whole);
    let _ = serde_json::to_writer(&mut json, &body);
    let mut bytes = json.into_bytes();
    bytes.truncate(bytes.len().saturating_sub(TAIL.len()));
    // Within the reserved capacity, so that the buffer does not move and leaves no copy behind.
    bytes.resize(whole - TAIL.len(), b'0');
    bytes.extend_from_slice(TAIL);
    wiped(bytes)
}

#[cfg(test)]
mod tests;
