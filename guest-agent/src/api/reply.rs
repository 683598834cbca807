//! Response bodies, and constructors of whole responses.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

use super::error::Refusal;
use super::stream::Events;
use crate::engine::Answer;

/// Bytes of a whole body that are handed to the connection at once, so that data that the client has not taken does not
/// look as if it had been.
const PIECE: usize = 16 * 1024;

/// Builds the response for a refusal, with OpenAI's error object as its body.
pub(super) fn refuse(refusal: &Refusal) -> Response<Reply> {
    // Serialising strings cannot fail.
    let json = serde_json::to_vec(&refusal.to_body()).unwrap_or_default();
    let mut response = reply(refusal.status, Bytes::from(json));
    if let Some(seconds) = refusal.retry_after {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if let Some(methods) = refusal.allow {
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static(methods));
    }
    response
}

/// Builds a successful response with a JSON body.
pub(super) fn reply_json(value: &serde_json::Value) -> Response<Reply> {
    reply(StatusCode::OK, Bytes::from(value.to_string()))
}

/// Builds a response with a JSON body.
pub(super) fn reply(status: StatusCode, body: Bytes) -> Response<Reply> {
    reply_whole(status, Whole::of(body))
}

/// Builds a successful response with a binary body.
pub(super) fn reply_bytes(body: Bytes) -> Response<Reply> {
    let mut response = reply(StatusCode::OK, body);
    let kind = HeaderValue::from_static("application/octet-stream");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// Builds a response whose JSON body contains answers of the engine.
pub(super) fn reply_whole(status: StatusCode, body: Whole) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(body));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
        .headers_mut()
        .insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The body of a response.
pub(super) enum Reply {
    Whole(Whole),
    Events(Box<Events>),
}

/// A body that is complete before its head is sent.
pub(super) struct Whole {
    bytes: Bytes,
    /// Answers that the body contains. They have ended, and hold their places until the client has taken the body.
    _answers: Vec<Answer>,
}

impl Whole {
    /// Wraps a body without answers.
    pub fn of(bytes: Bytes) -> Self {
        Self::with(bytes, Vec::new())
    }

    /// Wraps a body that contains `answers`.
    pub fn with(bytes: Bytes, answers: Vec<Answer>) -> Self {
        Self {
            bytes,
            _answers: answers,
        }
    }

    /// Returns the bytes that are not sent yet.
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Reply::Whole(Whole { bytes, .. }) => {
                let count = bytes.len().min(PIECE);
                let piece = (count > 0).then(|| Ok(Frame::data(bytes.split_to(count))));
                Poll::Ready(piece)
            }
            Reply::Events(events) => Pin::new(&mut **events).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Reply::Whole(whole) if whole.bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Reply::Whole(whole) => SizeHint::with_exact(whole.bytes.len() as u64),
            Reply::Events(_) => SizeHint::default(),
        }
    }
}
