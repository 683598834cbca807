//! Answers as streams of OpenAI's server-sent events.

use std::pin::Pin;
use std::task::{Context, Poll};

use cocoon_protocol::openai::{FinishReason, Usage};
use hyper::body::{Body, Bytes, Frame};
use serde::Serialize;

use super::Meter;
use super::error::Refusal;
use super::event::event;
pub use super::event::{BUCKET, Shape};
use super::whole::call_id;
use super::wire::{
    ChatChoice, ChatLogprobs, Delta, Envelope, Function, Kind, TextChoice, TextLogprobs, ToolCall,
};
use crate::engine::{Answer, Piece};

/// The body of a streamed answer. Dropping it cancels the generations.
pub struct Events {
    choices: Vec<Choice>,
    /// The choice that is looked at first: none waits for the others.
    turn: usize,
    envelope: Envelope,
    shape: Shape,
    meter: Meter,
    counts: (u32, u32),
    state: State,
}

struct Choice {
    answer: Answer,
    /// Characters told, for the offsets of completions.
    told: usize,
    over: bool,
}

enum State {
    /// The first event of the choice of this number.
    Role(usize),
    Text,
    Usage(Usage),
    Terminator,
    End,
}

impl Events {
    /// A stream over answers.
    pub fn new(answers: Vec<Answer>, envelope: Envelope, shape: Shape, meter: Meter) -> Self {
        let choice = |answer| Choice {
            answer,
            told: 0,
            over: false,
        };
        Self {
            choices: answers.into_iter().map(choice).collect(),
            turn: 0,
            state: match envelope.kind {
                Kind::Chat => State::Role(0),
                Kind::Completion => State::Text,
            },
            envelope,
            shape,
            meter,
            counts: (0, 0),
        }
    }

    fn event(&self, choices: impl Serialize, usage: Option<Usage>) -> Bytes {
        let usage = self.shape.include_usage.then_some(usage);
        let obfuscate = self.shape.obfuscate;
        let body = self.envelope.around(choices, usage, (true, obfuscate));
        event(&body, self.shape)
    }

    fn delta(&self, index: usize, delta: Delta<'_>, reason: Option<FinishReason>) -> Bytes {
        let choice = ChatChoice {
            index,
            message: None,
            delta: Some(delta),
            logprobs: None,
            finish_reason: reason,
        };
        self.event([choice], None)
    }

    fn text(&self, index: usize, text: &str, reason: Option<FinishReason>) -> Bytes {
        let choice = TextChoice {
            text,
            index,
            logprobs: None,
            finish_reason: reason,
        };
        self.event([choice], None)
    }

    fn piece(&mut self, index: usize, piece: Piece) -> Result<Bytes, Refusal> {
        Ok(match (piece, self.envelope.kind) {
            (Piece::Delta(text, logprobs), Kind::Chat) => {
                let told = self.shape.top_logprobs.is_some() && !logprobs.is_empty();
                let choice = ChatChoice {
                    index,
                    message: None,
                    delta: Some(Delta {
                        content: Some(&text.0),
                        ..Delta::default()
                    }),
                    logprobs: told.then(|| ChatLogprobs::of(&logprobs)),
                    finish_reason: None,
                };
                self.event([choice], None)
            }
            (Piece::Delta(text, logprobs), Kind::Completion) => {
                let told = self.shape.top_logprobs.is_some() && !logprobs.is_empty();
                let offset = self.choices[index].told;
                self.choices[index].told += text.0.chars().count();
                let choice = TextChoice {
                    text: &text.0,
                    index,
                    logprobs: told.then(|| TextLogprobs::of(&logprobs, offset)),
                    finish_reason: None,
                };
                self.event([choice], None)
            }
            (
                Piece::Call {
                    index: call,
                    name,
                    arguments,
                },
                _,
            ) => {
                let first = name.is_some();
                let call = ToolCall {
                    index: Some(call),
                    id: first.then(call_id).transpose()?.map(Into::into),
                    kind: first.then_some("function"),
                    function: Function {
                        name: name.as_ref().map(|name| name.0.as_str()),
                        arguments: &arguments.0,
                    },
                };
                let delta = Delta {
                    tool_calls: Some([call]),
                    ..Delta::default()
                };
                self.delta(index, delta, None)
            }
            (
                Piece::Done {
                    finish_reason,
                    prompt_tokens,
                    completion_tokens,
                },
                kind,
            ) => {
                self.choices[index].over = true;
                let tokens = self.counts.1.saturating_add(completion_tokens);
                // The prompt is one, however many continue it.
                self.counts = (prompt_tokens, tokens);
                if self.choices.iter().all(|choice| choice.over) {
                    let usage = self.meter.done(self.counts.0, self.counts.1);
                    self.state = match self.shape.include_usage {
                        true => State::Usage(usage),
                        false => State::Terminator,
                    };
                }
                match kind {
                    Kind::Chat => self.delta(index, Delta::default(), Some(finish_reason)),
                    Kind::Completion => self.text(index, "", Some(finish_reason)),
                }
            }
            (Piece::Failed(failure), _) => return Err(failure.into()),
        })
    }

    /// The status is long sent: the error comes as an event, and no `[DONE]` after it.
    fn failed(&mut self, refusal: &Refusal) -> Bytes {
        self.meter.failed();
        self.state = State::End;
        // The other choices are of no use to anybody.
        self.choices.clear();
        let body = ErrorEvent {
            error: &refusal.to_body().error,
            obfuscation: self.shape.obfuscate.then_some(""),
        };
        event(&body, self.shape)
    }

    /// The next piece of any choice, in turns.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<(usize, Piece)>> {
        let count = self.choices.len();
        let mut pending = false;
        for step in 0..count {
            let index = (self.turn + step) % count;
            let choice = &mut self.choices[index];
            if choice.over {
                continue;
            }
            match choice.answer.poll_next(context) {
                Poll::Ready(Some(piece)) => {
                    self.turn = (index + 1) % count;
                    return Poll::Ready(Some((index, piece)));
                }
                Poll::Ready(None) => choice.over = true,
                Poll::Pending => pending = true,
            }
        }
        match pending {
            true => Poll::Pending,
            false => Poll::Ready(None),
        }
    }
}

#[derive(Serialize)]
struct ErrorEvent<'a> {
    error: &'a cocoon_protocol::openai::ApiError,
    #[serde(skip_serializing_if = "Option::is_none")]
    obfuscation: Option<&'static str>,
}

impl Body for Events {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let bytes = match this.state {
            State::Role(index) => {
                this.state = match index + 1 < this.choices.len() {
                    true => State::Role(index + 1),
                    false => State::Text,
                };
                let delta = Delta {
                    role: Some("assistant"),
                    content: Some(""),
                    ..Delta::default()
                };
                Some(this.delta(index, delta, None))
            }
            State::Text => match this.poll_piece(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some((index, piece))) => Some(match this.piece(index, piece) {
                    Ok(bytes) => bytes,
                    Err(refusal) => this.failed(&refusal),
                }),
                Poll::Ready(None) => None,
            },
            State::Usage(usage) => {
                this.state = State::Terminator;
                let nothing: [ChatChoice<'_>; 0] = [];
                Some(this.event(nothing, Some(usage)))
            }
            State::Terminator => {
                this.state = State::End;
                Some(Bytes::from_static(b"data: [DONE]\n\n"))
            }
            State::End => None,
        };
        Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
