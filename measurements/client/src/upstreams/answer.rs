//! Answers as they arrive, and what their end means for the connection and the appliance.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use cocoon_protocol::openai::ErrorBody;
use cocoon_protocol::receipt::RECEIPT_HEADER;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use super::{Taken, Upstreams};
use crate::attested::AttestedConnection;
use crate::connect::MAX_ERROR_LEN;
use crate::receipts::Session;

/// Error codes of an appliance that is shutting down, and of one whose model is not loaded yet.
const SERVES_NOTHING: [&str; 2] = ["draining", "engine_not_ready"];

/// An answer that is still arriving, with its connection.
pub struct Answer {
    /// Frames that were already read to recognise an error.
    begun: VecDeque<Result<Frame<Bytes>, hyper::Error>>,
    body: Incoming,
    session: Arc<Session>,
    // Kept for later requests if the body was read to its end, else closed: dropping an answer
    // stops its generation.
    taken: Option<Taken>,
    owner: Upstreams,
    index: usize,
    ended: bool,
}

/// Returns whether the response says that the appliance cannot serve any request, so that another
/// should be tried. Nothing of the request was served, because there is no receipt.
pub(super) async fn turns_away(response: &mut Response<Answer>) -> bool {
    if response.status() != StatusCode::SERVICE_UNAVAILABLE
        || response.headers().contains_key(RECEIPT_HEADER)
    {
        return false;
    }
    let text = response.body_mut().begin().await;
    serde_json::from_slice::<ErrorBody>(&text).is_ok_and(|body| {
        let code = body.error.code.as_deref();
        code.is_some_and(|code| SERVES_NOTHING.contains(&code))
    })
}

impl Answer {
    pub(super) fn new(body: Incoming, taken: Taken, owner: Upstreams) -> Self {
        Self {
            begun: VecDeque::new(),
            body,
            session: Arc::clone(taken.connection.session()),
            index: taken.index,
            taken: Some(taken),
            owner,
            ended: false,
        }
    }

    /// Returns the connection on which the answer arrives, unless it failed.
    pub fn connection(&self) -> Option<&AttestedConnection> {
        self.taken.as_ref().map(|taken| &taken.connection)
    }

    /// Returns the session against which the receipt is checked.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    /// Returns the number that the receipt must have, if it is known.
    pub(crate) fn next_number(&self) -> Option<u64> {
        self.connection()?.next_number()
    }

    /// Records that the answer is wrong or incomplete: the connection gets no more requests, and
    /// the appliance is tried last for a while.
    pub(crate) fn fails(&mut self) {
        self.taken = None;
        self.owner.upstreams[self.index].fails();
    }

    /// Records the number of a receipt that passed its checks.
    pub(crate) fn counted(&mut self, number: u64) {
        if let Some(taken) = &mut self.taken {
            taken.connection.counted(number);
        }
    }

    /// Records that the receipt of this answer is not checked.
    pub(super) fn uncounted(&mut self) {
        if let Some(taken) = &mut self.taken {
            taken.connection.uncounted();
        }
    }

    /// Reads and returns the first bytes, enough for an error object. The frames are still handed
    /// out afterwards.
    async fn begin(&mut self) -> Vec<u8> {
        let mut text = Vec::new();
        while text.len() < MAX_ERROR_LEN {
            let Some(frame) = self.body.frame().await else {
                self.ended = true;
                break;
            };
            let data = frame.as_ref().ok().and_then(Frame::data_ref);
            text.extend_from_slice(data.map_or(&[], Bytes::as_ref));
            let broken = frame.is_err();
            self.begun.push_back(frame);
            if broken {
                break;
            }
        }
        text
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = match self.begun.pop_front() {
            Some(begun) => Poll::Ready(Some(begun)),
            None => Pin::new(&mut self.body).poll_frame(cx),
        };
        match polled {
            Poll::Ready(None) => self.ended = true,
            Poll::Ready(Some(Err(_))) => self.fails(),
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.begun.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        match self.begun.is_empty() {
            true => self.body.size_hint(),
            false => SizeHint::default(),
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(taken) = self.taken.take()
            && (self.ended || self.body.is_end_stream())
        {
            self.owner.give_back(taken);
        }
    }
}
