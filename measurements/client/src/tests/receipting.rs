//! The receipts of the test double: valid ones, and every kind of invalid one.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::receipt::{
    Delivery, Outcome, RECEIPT_COMMENT, RECEIPT_HEADER, Receipt, SignedReceipt, Tokens,
    commit_request, commit_response,
};
use ed25519_dalek::{Signer as _, SigningKey};
use http::Response;
use http_body_util::{BodyExt, Full};
use hyper::body::Frame;

use super::double::Body;

const DONE: &[u8] = b"data: [DONE]";

/// What is done to the receipts.
#[derive(Clone)]
pub enum Receipts {
    Honest,
    Withheld,
    /// Signed with another key.
    Forged,
    /// Signed with other tokens than those in the answer.
    Counting(Tokens),
    /// Changed before signing.
    Changed(fn(&mut Receipt)),
    /// Sent twice.
    Twice,
    /// Replaced by a text.
    Replaced(&'static str),
}

/// State shared by the requests of one connection.
#[derive(Default)]
pub struct Served(Mutex<State>);

#[derive(Default)]
struct State {
    nonce: Hex32,
    evidence_digest: Hex32,
    number: u64,
}

/// A receipt whose response is not complete yet.
struct Entry {
    receipt: Receipt,
    key: SigningKey,
    salt: Hex32,
    how: Receipts,
}

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

/// The meter key in the double's documents.
pub fn meter_key() -> Hex32 {
    Hex(key(5).verifying_key().to_bytes())
}

impl Served {
    pub fn attested(&self, nonce: Hex32, document: &[u8]) {
        let mut state = self.0.lock().unwrap();
        (state.nonce, state.evidence_digest) = (nonce, Hex32::sha256(document));
    }

    /// Adds the receipt to a successful response where the guest puts it: in a header, or in a
    /// stream before its end mark.
    pub async fn receipted(
        &self,
        response: Response<Body>,
        request: &[u8],
        how: &Receipts,
    ) -> Response<Body> {
        if !response.status().is_success() || matches!(how, Receipts::Withheld) {
            return response;
        }
        let entry = self.entry(request, how);
        let (mut parts, body) = response.into_parts();
        if parts.headers["content-type"] == "text/event-stream" {
            let body = Stream {
                body,
                before: Vec::new(),
                entry,
                rest: None,
            };
            return Response::from_parts(parts, body.boxed());
        }
        let whole = body.collect().await.unwrap().to_bytes();
        let text = entry.text(&whole);
        parts.headers.insert(RECEIPT_HEADER, text.parse().unwrap());
        Response::from_parts(parts, Full::new(whole).boxed())
    }

    fn entry(&self, request: &[u8], how: &Receipts) -> Entry {
        let mut state = self.0.lock().unwrap();
        state.number += 1;
        let salt = Hex([u8::try_from(state.number).unwrap(); 32]);
        let receipt = Receipt {
            outcome: Outcome::Complete,
            manifest_id: Hex32::ZERO,
            model_digest: Hex32::ZERO,
            evidence_digest: state.evidence_digest,
            nonce: state.nonce,
            number: state.number,
            tokens: Tokens::default(),
            request: commit_request(&salt, &Hex32::sha256(request)),
            response: Hex32::ZERO,
            engine: None,
        };
        let seed = if matches!(how, Receipts::Forged) {
            6
        } else {
            5
        };
        Entry {
            receipt,
            key: key(seed),
            salt,
            how: how.clone(),
        }
    }
}

impl Entry {
    fn text(&self, response: &[u8]) -> String {
        let mut receipt = self.receipt.clone();
        receipt.response = commit_response(&self.salt, &Hex32::sha256(response));
        receipt.tokens = told(response);
        match &self.how {
            Receipts::Counting(tokens) => receipt.tokens = *tokens,
            Receipts::Changed(edit) => edit(&mut receipt),
            Receipts::Replaced(text) => return (*text).to_owned(),
            _ => {}
        }
        let signature = Hex(self.key.sign(&receipt.encode()).to_bytes());
        let signed = SignedReceipt { receipt, signature };
        let salt = self.salt;
        Delivery { signed, salt }.to_text().to_string()
    }
}

/// Returns the tokens in the usage of an answer, if it has any.
fn told(response: &[u8]) -> Tokens {
    let text = String::from_utf8_lossy(response);
    let number = |name: &str| {
        let (_, rest) = text.rsplit_once(&format!("\"{name}\":"))?;
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().ok()
    };
    Tokens {
        prompt: number("prompt_tokens").unwrap_or(0),
        completion: number("completion_tokens").unwrap_or(0),
    }
}

/// Passes frames on, and inserts a receipt before the end mark.
struct Stream {
    body: Body,
    before: Vec<u8>,
    entry: Entry,
    rest: Option<Bytes>,
}

impl hyper::body::Body for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if let Some(rest) = this.rest.take() {
            return Poll::Ready(Some(Ok(Frame::data(rest))));
        }
        let Some(Ok(frame)) = ready!(Pin::new(&mut this.body).poll_frame(context)) else {
            return Poll::Ready(None);
        };
        let data = frame.into_data().unwrap();
        let found = data.windows(DONE.len()).position(|window| window == DONE);
        let before = data.slice(..found.unwrap_or(data.len()));
        this.before.extend_from_slice(&before);
        let Some(at) = found else {
            return Poll::Ready(Some(Ok(Frame::data(before))));
        };
        let text = this.entry.text(&this.before);
        let mut comment = format!("{RECEIPT_COMMENT}{text}\n\n");
        if matches!(this.entry.how, Receipts::Twice) {
            comment.push_str(&comment.clone());
        }
        let rest = [comment.as_bytes(), &data[at..]].concat();
        this.rest = Some(Bytes::from(rest));
        Poll::Ready(Some(Ok(Frame::data(before))))
    }
}
