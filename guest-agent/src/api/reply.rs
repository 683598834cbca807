//! Responses, before they are on their way.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body, Bytes, Frame, SizeHint};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};

use super::error::Refusal;
use super::stream::Events;

/// A refusal as OpenAI's error object.
pub(super) fn refuse(refusal: &Refusal) -> Response<Reply> {
    // Strings only: serialisation cannot fail.
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

/// A success.
pub(super) fn reply_json(value: &serde_json::Value) -> Response<Reply> {
    reply(StatusCode::OK, Bytes::from(value.to_string()))
}

/// A response with a body of JSON.
pub(super) fn reply(status: StatusCode, body: Bytes) -> Response<Reply> {
    let mut response = Response::new(Reply::Whole(Some(body)));
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
    Whole(Option<Bytes>),
    Events(Box<Events>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Reply::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Reply::Events(events) => Pin::new(&mut **events).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Reply::Whole(None))
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Reply::Whole(Some(bytes)) => SizeHint::with_exact(bytes.len() as u64),
            Reply::Whole(None) => SizeHint::with_exact(0),
            Reply::Events(_) => SizeHint::default(),
        }
    }
}
