//! Answers that are told when they are whole.

use cocoon_protocol::engine::TokenLogprob;
use cocoon_protocol::openai::{FinishReason, Usage};
use cocoon_protocol::receipt::Outcome;
use cocoon_protocol::wiping::WipingWriter;
use hyper::body::Bytes;
use serde::Serialize;
use zeroize::{Zeroize as _, Zeroizing};

use super::error::Refusal;
use super::event::wiped;
use super::reply::Whole;
use super::wire::{
    ChatChoice, ChatLogprobs, Envelope, Function, Kind, Message, TextChoice, TextLogprobs, ToolCall,
};
use crate::engine::{Answer, Failure, Piece};
use crate::keys;
use crate::metering::{Meter, usage};

/// One choice as it grows. Wiped on drop.
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

/// Waits for all choices; the body of the response, and how they ended. `logprobs` says whether the request asked.
pub(super) async fn collect(
    mut answers: Vec<Answer>,
    envelope: &Envelope,
    meter: &Meter,
    logprobs: bool,
) -> Result<(Whole, Outcome), Refusal> {
    let (mut choices, mut reasons) = (Vec::new(), Vec::new());
    // They run side by side; each has room for all of its pieces, whoever is read first.
    for answer in &mut answers {
        let mut choice = Choice::default();
        reasons.push(read(answer, &mut choice).await?);
        choices.push(choice);
    }
    let ended = reasons.iter().copied().fold(Outcome::Complete, outcome);
    let usage = usage(meter.close());
    let size = size(&choices);
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
                    logprobs: logprobs.then(|| ChatLogprobs::of(&choice.logprobs)),
                    finish_reason: Some(reason),
                });
            }
            encode(envelope, &chats, usage, size)
        }
        Kind::Completion => {
            let mut texts = Vec::with_capacity(choices.len());
            for (index, (choice, reason)) in told {
                texts.push(TextChoice {
                    text: &choice.content,
                    index,
                    logprobs: logprobs.then(|| TextLogprobs::of(&choice.logprobs, 0)),
                    finish_reason: Some(reason),
                });
            }
            encode(envelope, &texts, usage, size)
        }
    };
    Ok((Whole::with(body, answers), ended))
}

/// How an answer ended whose choices ended so far like `before`, and one more for this reason.
pub(super) fn outcome(before: Outcome, reason: FinishReason) -> Outcome {
    match reason {
        FinishReason::Length if before == Outcome::Complete => Outcome::Length,
        _ => before,
    }
}

async fn read(answer: &mut Answer, choice: &mut Choice) -> Result<FinishReason, Refusal> {
    loop {
        match answer.next().await {
            Some(Piece::Delta(text, mut logprobs)) => {
                append(&mut choice.content, &text.0);
                choice.logprobs.append(&mut logprobs);
            }
            Some(Piece::Call {
                name, arguments, ..
            }) => {
                if let Some(name) = name {
                    choice.calls.push(Call {
                        id: call_id()?,
                        name: Zeroizing::new(name.0.clone()),
                        arguments: Zeroizing::default(),
                    });
                }
                if let Some(call) = choice.calls.last_mut() {
                    append(&mut call.arguments, &arguments.0);
                }
            }
            Some(Piece::Done { finish_reason }) => return Ok(finish_reason),
            // Counted by the caller, like every refusal.
            Some(Piece::Failed(failure)) => return Err(failure.into()),
            None => return Err(Failure::Died.into()),
        }
    }
}

impl Choice {
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

/// A new call's identifier.
pub(super) fn call_id() -> Result<String, Refusal> {
    let random = keys::random::<12>().map_err(|_| {
        Refusal::unavailable("no_randomness", "The kernel gave no random identifier.")
    })?;
    Ok(format!("call_{}", hex::encode(*random)))
}

/// Bytes that usually hold the answers.
fn size(choices: &[Choice]) -> usize {
    let of = |choice: &Choice| {
        let calls = choice.calls.iter().map(|call| call.arguments.len() + 256);
        let logprobs = choice.logprobs.iter().map(|one| 256 * (1 + one.top.len()));
        choice.content.len() + calls.sum::<usize>() + logprobs.sum::<usize>()
    };
    choices.iter().map(of).sum::<usize>() * 2 + 1024
}

fn encode(envelope: &Envelope, choices: impl Serialize, usage: Usage, size: usize) -> Bytes {
    let mut json = WipingWriter::with_capacity(size);
    let body = envelope.around(choices, Some(Some(usage)), (false, false));
    // Strings and numbers into memory: serialisation cannot fail.
    let _ = serde_json::to_writer(&mut json, &body);
    wiped(json.into_bytes())
}

/// Appends and wipes what a growing string leaves behind.
pub(super) fn append(content: &mut Zeroizing<String>, text: &str) {
    if content.capacity() < content.len() + text.len() {
        let mut grown = String::with_capacity((content.len() + text.len()) * 2);
        grown.push_str(content);
        content.zeroize();
        **content = grown;
    }
    content.push_str(text);
}
