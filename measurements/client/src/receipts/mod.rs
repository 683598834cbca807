//! Receipts: the receipt of every answer is checked before the answer counts as whole, and kept if
//! that is configured.
//!
//! A whole answer carries its receipt in a header, which is possible because all of it is known
//! before it is sent. A trailer would have to be requested with `TE`, which no client does. A
//! stream carries its receipt in a comment before its end mark.

mod bundle;
mod covered;
mod keeper;
mod stream;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use cocoon_measurements::receipt::{Expected, judge};
use cocoon_measurements::verdict::{Check, Outcome};
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::pieces::Pieces;
use cocoon_protocol::receipt::{Delivery, RECEIPT_HEADER, ReceiptError};
use http::header::CONTENT_TYPE;
use http::{Method, Response};
use hyper::body::{Body, Frame, SizeHint};

pub use bundle::{BUNDLE_VERSION, Bundle, BundleError, MAX_BUNDLE_LEN};
pub use keeper::{Bodies, KeepError, Keeper, MAX_KEPT_BODY};

use covered::Covered;
use stream::{Lines, Stop};

use crate::upstreams::{Answer, UpstreamError, Upstreams};

/// Data of an attested session against which its receipts are checked.
#[derive(Clone, Debug)]
pub struct Session {
    /// The session document as it arrived.
    pub document: Bytes,
    /// Collateral that the document names.
    pub collateral: Pieces,
    /// SHA-256 of the SubjectPublicKeyInfo that the connection presented.
    pub leaf_spki_sha256: Hex32,
    /// Exporter of the TLS session.
    pub exporter: Hex32,
    /// What receipts of this session must contain, from the document.
    pub expected: Expected,
}

/// What is wrong with an answer's receipt.
#[derive(Debug, thiserror::Error)]
pub enum ReceiptFault {
    /// The answer has no receipt.
    #[error(
        "the answer has no receipt: its appliance is of an older release, or hides what it served"
    )]
    Missing,
    /// The stream ended before its receipt.
    #[error("the answer was cut short: its stream ends without a receipt")]
    CutShort,
    /// The receipt is malformed or has another version.
    #[error("the answer's receipt cannot be read")]
    Malformed(#[source] ReceiptError),
    /// A line could be a receipt or an end mark, but is longer than either.
    #[error(
        "the answer holds a line that begins like a receipt, or like an end, and is longer than one"
    )]
    TooLong,
    /// The answer has a second receipt, or goes on after its receipt.
    #[error("the answer goes on behind its receipt")]
    Behind,
    /// The receipt does not match the session, the request or the answer.
    #[error("the answer's receipt is refused: {}: {}", .0.title, .0.cause.as_deref().unwrap_or("it differs"))]
    Refused(Box<Check>),
    /// The receipt has another number of tokens than the answer's usage.
    #[error("the answer tells {told} tokens, its receipt {signed}")]
    Usage {
        /// Total tokens in the answer's usage.
        told: u64,
        /// Total tokens in the receipt.
        signed: u64,
    },
}

/// Why an answer did not end well.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The connection broke.
    #[error("the connection broke in the middle of the answer")]
    Broken(#[source] hyper::Error),
    /// The receipt is missing or wrong.
    #[error(transparent)]
    Receipt(#[from] ReceiptFault),
}

/// An answer that is still arriving. Its end is reported only after its receipt passed the checks.
/// In a stream, the receipt is passed on as the comment that it is. The end mark is passed on only
/// after a receipt.
pub struct Receipted {
    answer: Answer,
    request: Hex32,
    /// The bytes before the receipt.
    response: Covered,
    form: Form,
    found: Option<Delivery>,
    keeping: Option<Keeping>,
    /// A fault to report after the bytes before it were passed on.
    fault: Option<ReceiptFault>,
    over: bool,
}

/// Where the receipt of an answer is.
enum Form {
    /// In a comment of the stream.
    Stream(Lines),
    /// In the header; an error if there is none or if it is malformed.
    Whole(Result<Box<Delivery>, ReceiptFault>),
    /// There is none, because the request was refused before it reached the engine.
    Refusal,
}

impl Upstreams {
    /// Sends a request that generates, with a JSON body, to the first appliance that can be
    /// verified. The answer ends well only with a valid receipt.
    pub async fn generate(
        &self,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Receipted>, UpstreamError> {
        let request = Hex32::sha256(&body);
        let keeping = self.keeper().map(|keeper| Keeping {
            request: (keeper.bodies() == Bodies::Kept).then(|| body.clone()),
            keeper,
        });
        let kept = keeping.as_ref().is_some_and(|one| one.request.is_some());
        let response = self.send(Method::POST, path, body).await?;
        let form = form(&response);
        Ok(response.map(|answer| Receipted {
            answer,
            request,
            response: Covered::new(kept),
            form,
            found: None,
            keeping,
            fault: None,
            over: false,
        }))
    }
}

/// What to write to the folder of receipts once the receipt is checked.
struct Keeping {
    keeper: Arc<Keeper>,
    request: Option<Bytes>,
}

fn form(response: &Response<Answer>) -> Form {
    let header = response.headers().get(RECEIPT_HEADER);
    let streams = response.headers().get(CONTENT_TYPE).is_some_and(|kind| {
        let kind = kind.as_bytes();
        kind.starts_with(b"text/event-stream")
    });
    match header {
        Some(header) => {
            let delivery = Delivery::parse(header.as_bytes()).map(Box::new);
            Form::Whole(delivery.map_err(ReceiptFault::Malformed))
        }
        None if streams => Form::Stream(Lines::default()),
        None if response.status().is_success() => Form::Whole(Err(ReceiptFault::Missing)),
        None => Form::Refusal,
    }
}

impl Receipted {
    /// Returns the underlying answer.
    pub fn answer(&self) -> &Answer {
        &self.answer
    }

    /// Returns the receipt, once it passed its checks.
    pub fn receipt(&self) -> Option<&Delivery> {
        self.found.as_ref()
    }

    /// Returns whether this answer is a stream.
    pub fn streams(&self) -> bool {
        matches!(self.form, Form::Stream(_))
    }

    /// Examines bytes that arrived. Returns those that may be passed on, and records a fault in the
    /// rest.
    fn pass(&mut self, mut data: Bytes) -> Bytes {
        // The usual case needs no copy.
        if matches!(&self.form, Form::Stream(lines) if lines.is_usual(&data)) {
            self.response.update(&data);
            return data;
        }
        let mut passed = BytesMut::with_capacity(data.len());
        loop {
            let Form::Stream(lines) = &mut self.form else {
                self.response.update(&data);
                return data;
            };
            let fault = match lines.push(&mut data, &mut passed, &mut self.response) {
                Stop::Dry => return passed.freeze(),
                Stop::Fault(fault) => fault,
                Stop::Receipt(delivery, line) => match self.check(*delivery) {
                    Ok(()) => {
                        passed.extend_from_slice(&line);
                        continue;
                    }
                    Err(fault) => fault,
                },
            };
            self.fault = Some(fault);
            return passed.freeze();
        }
    }

    /// Handles the end of the answer. If it is not a stream, checks its receipt now.
    fn end(&mut self) -> Result<(), ReceiptFault> {
        match std::mem::replace(&mut self.form, Form::Refusal) {
            Form::Stream(lines) => {
                let complete = lines.complete();
                self.form = Form::Stream(lines);
                match complete && self.found.is_some() {
                    true => Ok(()),
                    false => Err(ReceiptFault::CutShort),
                }
            }
            Form::Whole(delivery) => self.check(*delivery?),
            Form::Refusal => Ok(()),
        }
    }

    /// Checks a receipt against session, request and response.
    fn check(&mut self, delivery: Delivery) -> Result<(), ReceiptFault> {
        let expected = Expected {
            number: self.answer.next_number(),
            request: Some(self.request),
            response: Some(self.response.digest()),
            ..self.answer.session().expected.clone()
        };
        let checks = judge(&delivery, &expected);
        if let Some(check) = checks
            .into_iter()
            .find(|check| check.outcome == Outcome::Fail)
        {
            return Err(ReceiptFault::Refused(Box::new(check)));
        }
        self.answer.counted(delivery.signed.receipt.number);
        if let Some(Keeping { keeper, request }) = self.keeping.take() {
            let response = self.response.take();
            keeper.keep(&delivery, self.answer.session(), request, response);
        }
        self.found = Some(delivery);
        Ok(())
    }
}

impl Body for Receipted {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = &mut *self;
        while !this.over {
            let error = match this.fault.take() {
                Some(fault) => fault.into(),
                None => match ready!(Pin::new(&mut this.answer).poll_frame(context)) {
                    None => match this.end() {
                        Ok(()) => {
                            this.over = true;
                            break;
                        }
                        Err(fault) => fault.into(),
                    },
                    Some(Err(error)) => AnswerError::Broken(error),
                    Some(Ok(frame)) => {
                        // Trailers are dropped: none were requested.
                        let data = frame.into_data().unwrap_or_default();
                        let data = this.pass(data);
                        // No bytes are passed on while a line is held back until it is complete.
                        if data.is_empty() {
                            continue;
                        }
                        return Poll::Ready(Some(Ok(Frame::data(data))));
                    }
                },
            };
            this.over = true;
            this.answer.fails();
            return Poll::Ready(Some(Err(error)));
        }
        Poll::Ready(None)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
