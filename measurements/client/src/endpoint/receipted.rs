//! Enforces receipts for applications, which do not check them. Without a valid receipt, an
//! application gets an error in OpenAI's format instead of a whole answer or of the end mark of a
//! stream.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use cocoon_protocol::openai::ErrorBody;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame};
use zeroize::Zeroizing;

use super::reply::{Refusal, Reply, refusal};
use crate::error::chain;
use crate::receipts::{AnswerError, ReceiptFault, Receipted};

/// Longest answer that is not a stream, in bytes.
const MAX_WHOLE: usize = 64 << 20;
/// Initial capacity for an answer that is not a stream, in bytes; most answers fit.
const USUAL_WHOLE: usize = 64 << 10;

/// Returns the answer so that it ends well only with a valid receipt. Reads an answer that is not a
/// stream to its end first, because its receipt covers all of it.
pub(super) async fn checked(response: Response<Receipted>) -> Result<Response<Reply>, Refusal> {
    if response.body().streams() {
        return Ok(response.map(|answer| {
            Streamed {
                answer,
                last: [b'\n'; 2],
                over: false,
            }
            .boxed_unsync()
        }));
    }
    let (parts, answer) = response.into_parts();
    let body = Bytes::from_owner(collect(answer).await?);
    let body = Full::new(body).map_err(|never| match never {});
    Ok(Response::from_parts(parts, body.boxed_unsync()))
}

async fn collect(mut answer: Receipted) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    let mut whole = Zeroizing::new(Vec::with_capacity(USUAL_WHOLE));
    while let Some(frame) = answer.frame().await {
        let frame = frame.map_err(|error| match error {
            AnswerError::Receipt(fault) => refused(&fault),
            AnswerError::Broken(_) => bad("appliance_failed", chain(&error)),
        })?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        let length = whole.len() + data.len();
        if length > MAX_WHOLE {
            let message = format!("the answer exceeds {MAX_WHOLE} bytes: ask for a stream");
            return Err(bad("answer_too_long", message));
        }
        if length > whole.capacity() {
            // Copied by hand, so that the old allocation is wiped.
            let mut larger = Zeroizing::new(Vec::with_capacity(2 * length));
            larger.extend_from_slice(&whole);
            whole = larger;
        }
        whole.extend_from_slice(&data);
    }
    Ok(whole)
}

fn refused(fault: &ReceiptFault) -> Refusal {
    let code = match fault {
        ReceiptFault::Missing | ReceiptFault::CutShort => "receipt_missing",
        _ => "receipt_refused",
    };
    bad(code, chain(fault))
}

fn bad(code: &str, message: String) -> Refusal {
    refusal(StatusCode::BAD_GATEWAY, "upstream_error", code, message)
}

/// A stream that is passed on as it arrives. Without a valid receipt, it ends with an error event.
struct Streamed {
    answer: Receipted,
    /// The last bytes that were passed on.
    last: [u8; 2],
    over: bool,
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let next = ready!(Pin::new(&mut self.answer).poll_frame(context));
        match &next {
            Some(Ok(frame)) => self.passed(frame.data_ref()),
            _ => self.over = true,
        }
        Poll::Ready(match next {
            None => None,
            Some(Ok(frame)) => Some(Ok(frame)),
            Some(Err(AnswerError::Broken(error))) => Some(Err(error)),
            Some(Err(AnswerError::Receipt(fault))) => {
                Some(Ok(Frame::data(event(&fault, self.last))))
            }
        })
    }
}

impl Streamed {
    fn passed(&mut self, data: Option<&Bytes>) {
        for byte in data
            .into_iter()
            .flat_map(|data| data.iter().rev().take(2).rev())
        {
            self.last = [self.last[1], *byte];
        }
    }
}

/// Returns an error event that applications understand; `last` are the bytes before it.
fn event(fault: &ReceiptFault, last: [u8; 2]) -> Bytes {
    // Ends an unfinished event first, which would otherwise absorb this one.
    let between = match last {
        [b'\n', b'\n'] => "",
        _ => "\n\n",
    };
    let error = *refused(fault).error;
    // Strings and options: serialisation cannot fail.
    let json = serde_json::to_string(&ErrorBody { error }).unwrap_or_default();
    Bytes::from(format!("{between}data: {json}\n\n"))
}
