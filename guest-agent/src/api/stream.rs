//! Sends answers as streams of OpenAI's server-sent events.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use cocoon_protocol::openai::{FinishReason, Usage};
use cocoon_protocol::receipt::{Outcome, Tokens};
use hyper::body::{Body, Bytes, Frame};
use serde::Serialize;

use super::choices::Choices;
use super::error::Refusal;
use super::event::event;
pub use super::event::{BUCKET, Shape};
use super::receipts::Entry;
use super::steady::{MIN_ROOM, Rooms, Steady};
use super::whole::{call_id, outcome};
use super::wire::{
    ChatChoice, ChatLogprobs, Delta, Envelope, Function, Kind, TextChoice, TextLogprobs, ToolCall,
};
use crate::engine::{Answer, MAX_NAME, Piece};
use crate::metering::{Meter, usage};

#[cfg(test)]
mod tests;

/// The body of a streamed answer. Dropping it cancels the generations.
pub struct Events {
    choices: Choices,
    envelope: Envelope,
    shape: Shape,
    meter: Meter,
    entry: Entry,
    outcome: Outcome,
    steady: Option<Steady>,
    state: State,
    /// Whether an event was returned that the connection may not have sent yet.
    told: bool,
}

#[derive(Clone, Copy)]
enum State {
    /// The first event of the choice with this index.
    Role(usize),
    Text,
    Usage(Tokens),
    Receipt(Tokens),
    Terminator,
    End,
}

/// How the events of an answer are built and sent.
pub struct Telling {
    /// The fields that every event repeats.
    pub envelope: Envelope,
    /// How events are formatted.
    pub shape: Shape,
    /// When events leave; `None` to send each piece as it comes.
    pub tick: Option<Tick>,
}

/// A fixed interval between events.
#[derive(Clone, Copy, Debug)]
pub struct Tick {
    /// Interval between two events.
    pub every: Duration,
    /// Least bytes per second, the same that a slow reader has to take. A long interval gets larger events, so that an
    /// answer does not wait longer for its ticks than it might for its reader.
    pub least_rate: u32,
}

impl Tick {
    fn least_event(self) -> usize {
        let bytes = self.every.as_millis() * u128::from(self.least_rate) / 1000;
        usize::try_from(bytes).unwrap_or(usize::MAX / 2)
    }
}

impl Events {
    /// Creates the stream over `answers`.
    pub fn new(answers: Vec<Answer>, telling: Telling, meter: Meter, entry: Entry) -> Self {
        let Telling {
            envelope,
            shape,
            tick,
        } = telling;
        let mut events = Self {
            choices: Choices::new(answers),
            state: match envelope.kind {
                Kind::Chat => State::Role(0),
                Kind::Completion => State::Text,
            },
            envelope,
            shape,
            meter,
            entry,
            outcome: Outcome::Complete,
            steady: None,
            told: false,
        };
        if let Some(tick) = tick {
            events.steady = Some(events.steady(tick));
        }
        events
    }

    /// Chooses an event size into which every event fits, and which leaves those with text at least [`MIN_ROOM`] bytes for it.
    fn steady(&mut self, tick: Tick) -> Steady {
        // Measures the longest events without padding.
        self.shape.bucket = 1;
        let reason = Some(FinishReason::ToolCalls);
        let text = match self.envelope.kind {
            Kind::Chat => self.delta(0, Delta::of(""), reason),
            Kind::Completion => self.text(0, "", reason),
        };
        let call = |name: Option<&str>| {
            let call = ToolCall {
                index: Some(u32::MAX),
                id: name.map(Into::into),
                kind: name.and(Some("function")),
                function: Function {
                    name,
                    arguments: "",
                },
            };
            self.delta(0, Delta::calling(call), None).len()
        };
        let (arguments, named) = (call(None), call(Some(&"x".repeat(MAX_NAME))));
        let most = Tokens {
            prompt: u32::MAX.into(),
            completion: u32::MAX.into(),
        };
        let (text, usage) = (text.len(), self.usage(most).len());
        let longest = usage.max(named).max(text.max(arguments) + MIN_ROOM);
        self.shape.bucket = longest.max(tick.least_event()).next_multiple_of(BUCKET);
        let rooms = Rooms {
            text: self.shape.bucket - text,
            arguments: self.shape.bucket - arguments,
        };
        Steady::new(tick.every, rooms)
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
                    delta: Some(Delta::of(&text.0)),
                    logprobs: told.then(|| ChatLogprobs::of(&logprobs)),
                    finish_reason: None,
                };
                self.event([choice], None)
            }
            (Piece::Delta(text, logprobs), Kind::Completion) => {
                let told = self.shape.top_logprobs.is_some() && !logprobs.is_empty();
                let offsets = self.choices.offsets(index);
                let logprobs = told.then(|| TextLogprobs::of(&logprobs, offsets));
                let choice = TextChoice {
                    text: &text.0,
                    index,
                    logprobs,
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
                self.delta(index, Delta::calling(call), None)
            }
            (Piece::Done { finish_reason }, kind) => {
                self.outcome = outcome(self.outcome, finish_reason);
                if self.choices.end(index) {
                    let tokens = self.meter.close();
                    self.state = match self.shape.include_usage {
                        true => State::Usage(tokens),
                        false => State::Receipt(tokens),
                    };
                }
                match kind {
                    Kind::Chat => self.delta(index, Delta::default(), Some(finish_reason)),
                    Kind::Completion => self.text(index, "", Some(finish_reason)),
                }
            }
            (Piece::Failed(failure), kind) => return Err(Refusal::failed(failure, kind)),
        })
    }

    fn usage(&self, tokens: Tokens) -> Bytes {
        let nothing: [ChatChoice<'_>; 0] = [];
        self.event(nothing, Some(usage(tokens)))
    }

    /// Builds the event for an error, because the status was sent long before. The receipt follows, and no `[DONE]`.
    fn failed(&mut self, refusal: &Refusal) -> Bytes {
        self.meter.failed();
        self.outcome = Outcome::Failed;
        self.state = State::Receipt(self.meter.close());
        // The client has no use for the other choices.
        self.choices.cancel();
        let body = ErrorEvent {
            error: &refusal.to_body().error,
            obfuscation: self.shape.obfuscate.then_some(""),
        };
        event(&body, self.shape)
    }

    /// Polls for the next piece: as soon as it comes, or what has come by this tick.
    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<(usize, Piece)>> {
        match &mut self.steady {
            Some(steady) => Poll::Ready(steady.next(&mut self.choices, context)),
            None => self.choices.poll(context),
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
        // hyper sends what it has when the body is pending. So each event becomes a TLS record of its own, and no
        // record length shows how many events were ready at once.
        if std::mem::take(&mut this.told) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        // The terminator needs no tick: it reveals nothing that the receipt before it has not revealed.
        if !matches!(this.state, State::Terminator | State::End)
            && let Some(steady) = &mut this.steady
        {
            ready!(steady.poll_tick(context));
        }
        let bytes = match this.state {
            State::Role(index) => {
                this.state = match index + 1 < this.choices.count() {
                    true => State::Role(index + 1),
                    false => State::Text,
                };
                let delta = Delta {
                    role: Some("assistant"),
                    ..Delta::of("")
                };
                this.delta(index, delta, None)
            }
            State::Text => match ready!(this.poll_piece(context)) {
                Some((index, piece)) => match this.piece(index, piece) {
                    Ok(bytes) => bytes,
                    Err(refusal) => this.failed(&refusal),
                },
                // Unreachable: every choice ends with `Piece::Done` or `Piece::Failed`.
                None => return Poll::Ready(None),
            },
            State::Usage(tokens) => {
                this.state = State::Receipt(tokens);
                this.usage(tokens)
            }
            State::Receipt(tokens) => {
                this.state = match this.outcome {
                    Outcome::Failed => State::End,
                    Outcome::Complete | Outcome::Length => State::Terminator,
                };
                this.entry.comment(this.outcome, tokens)
            }
            State::Terminator => {
                this.state = State::End;
                Bytes::from_static(b"data: [DONE]\n\n")
            }
            State::End => return Poll::Ready(None),
        };
        this.entry.sent(&bytes);
        this.told = true;
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }
}
