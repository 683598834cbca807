//! Answers as OpenAI's server-sent events, each padded to a size bucket.
//!
//! The length of a TLS record tells the length of a piece of text, and pieces are tokens: enough
//! to guess an answer. So every event is filled up to a multiple of [`BUCKET`] bytes, which is
//! larger than any usual token makes it.

use std::pin::Pin;
use std::task::{Context, Poll};

use cocoon_protocol::openai::{FinishReason, Usage};
use hyper::body::{Body, Bytes, Frame};
use serde::Serialize;
use zeroize::Zeroize as _;

use super::Meter;
use super::error::Refusal;
use crate::engine::{Answer, Piece};

/// Events are multiples of this many bytes.
pub const BUCKET: usize = 512;

/// What every event of an answer repeats.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// `chatcmpl-` and random digits.
    pub id: String,
    /// Seconds since 1970 on the guest's clock, which nothing depends on.
    pub created: u64,
    /// Identifier of the model.
    pub model: String,
}

/// How events are shaped.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Send the usage last.
    pub include_usage: bool,
    /// Pad to buckets.
    pub obfuscate: bool,
}

/// The body of a streamed answer. Dropping it cancels the generation.
pub struct Events {
    answer: Answer,
    envelope: Envelope,
    shape: Shape,
    meter: Meter,
    state: State,
}

enum State {
    Role,
    Text,
    Usage(Usage),
    Terminator,
    End,
}

#[derive(Serialize)]
struct Chunk<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: &'a [Choice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    obfuscation: Option<&'static str>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    delta: Delta<'a>,
    finish_reason: Option<FinishReason>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

impl Events {
    /// A stream over an answer.
    pub fn new(answer: Answer, envelope: Envelope, shape: Shape, meter: Meter) -> Self {
        Self {
            answer,
            envelope,
            shape,
            meter,
            state: State::Role,
        }
    }

    fn chunk(&self, choices: &[Choice<'_>], usage: Option<Usage>) -> Bytes {
        let chunk = Chunk {
            id: &self.envelope.id,
            object: "chat.completion.chunk",
            created: self.envelope.created,
            model: &self.envelope.model,
            choices,
            usage: self.shape.include_usage.then_some(usage),
            obfuscation: self.shape.obfuscate.then_some(""),
        };
        event(&chunk, self.shape.obfuscate)
    }

    fn text(&self, delta: Delta<'_>, finish_reason: Option<FinishReason>) -> Bytes {
        self.chunk(
            &[Choice {
                index: 0,
                delta,
                finish_reason,
            }],
            None,
        )
    }

    fn piece(&mut self, piece: Option<Piece>) -> Option<Bytes> {
        match piece {
            Some(Piece::Delta(text)) => Some(self.text(
                Delta {
                    content: Some(&text.0),
                    role: None,
                },
                None,
            )),
            Some(Piece::Done {
                finish_reason,
                prompt_tokens,
                completion_tokens,
            }) => {
                let usage = self.meter.done(prompt_tokens, completion_tokens);
                self.state = if self.shape.include_usage {
                    State::Usage(usage)
                } else {
                    State::Terminator
                };
                Some(self.text(Delta::default(), Some(finish_reason)))
            }
            Some(Piece::Failed(failure)) => {
                // The status is long sent: the error comes as an event, and no [DONE] after it.
                self.meter.failed();
                self.state = State::End;
                let body = ErrorEvent {
                    error: &Refusal::from(failure).to_body().error,
                    obfuscation: self.shape.obfuscate.then_some(""),
                };
                Some(event(&body, self.shape.obfuscate))
            }
            None => None,
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
            State::Role => {
                this.state = State::Text;
                Some(this.text(
                    Delta {
                        role: Some("assistant"),
                        content: Some(""),
                    },
                    None,
                ))
            }
            State::Text => match this.answer.poll_next(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(piece) => this.piece(piece),
            },
            State::Usage(usage) => {
                this.state = State::Terminator;
                Some(this.chunk(&[], Some(usage)))
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

/// One event. With `obfuscate`, the value's last field is an empty `obfuscation`, which is filled.
fn event(value: &impl Serialize, obfuscate: bool) -> Bytes {
    const TAIL: &[u8] = b"\"}\n\n";
    // Room for a whole bucket from the start: text does not leave copies in outgrown buffers.
    let mut bytes = Vec::with_capacity(2 * BUCKET);
    bytes.extend_from_slice(b"data: ");
    // Strings and numbers into memory: serialisation cannot fail.
    if serde_json::to_writer(&mut bytes, value).is_err() {
        bytes.zeroize();
        return Bytes::new();
    }
    if obfuscate {
        bytes.truncate(bytes.len() - 2);
        let whole = (bytes.len() + TAIL.len()).next_multiple_of(BUCKET);
        bytes.resize(whole - TAIL.len(), b'0');
        bytes.extend_from_slice(TAIL);
    } else {
        bytes.extend_from_slice(b"\n\n");
    }
    wiped(bytes)
}

/// Bytes whose memory is wiped when the last reader drops them.
pub fn wiped(bytes: Vec<u8>) -> Bytes {
    Bytes::from_owner(zeroize::Zeroizing::new(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn chunk(text: &str, obfuscate: bool) -> Bytes {
        let choices = [Choice {
            index: 0,
            delta: Delta {
                role: None,
                content: Some(text),
            },
            finish_reason: None,
        }];
        let chunk = Chunk {
            id: "chatcmpl-000000000000000000000000",
            object: "chat.completion.chunk",
            created: 1_800_000_000,
            model: "smollm2-135m-instruct-q4_1",
            choices: &choices,
            usage: None,
            obfuscation: obfuscate.then_some(""),
        };
        event(&chunk, obfuscate)
    }

    proptest! {
        #[test]
        fn events_of_usual_pieces_have_one_length(text in "\\PC{0,24}") {
            let event = chunk(&text, true);
            prop_assert_eq!(event.len(), BUCKET);
            let json = event.strip_prefix(b"data: ").and_then(|e| e.strip_suffix(b"\n\n")).unwrap();
            let value: serde_json::Value = serde_json::from_slice(json).unwrap();
            prop_assert_eq!(value["choices"][0]["delta"]["content"].as_str().unwrap(), text);
        }

        #[test]
        fn longer_ones_have_a_multiple_of_it(text in "\\PC{0,2000}") {
            prop_assert_eq!(chunk(&text, true).len() % BUCKET, 0);
        }
    }

    #[test]
    fn without_obfuscation_nothing_is_added() {
        let event = chunk("hi", false);
        assert!(!event.windows(11).any(|w| w == b"obfuscation"));
        assert!(event.ends_with(b"}\n\n"));
    }
}
