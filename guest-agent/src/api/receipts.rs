//! Receipts: what is signed about each request that reached the engine (SPEC.md §11). The salt goes to the client,
//! inside TLS, and stays nowhere; the host sees neither it nor the receipt.

use std::sync::Arc;

use cocoon_protocol::binding::Claims;
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::receipt::{
    EngineSection, Outcome, RECEIPT_COMMENT, Receipt, SignedReceipt, Tokens, commit_request,
    commit_response,
};
use ed25519_dalek::{Signer as _, SigningKey};
use hyper::body::Bytes;
use hyper::header::HeaderValue;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use super::error::Refusal;
use super::event::wiped;
use crate::keys::{self, Keys};

/// Signs receipts with the meter key. Clones are the same.
#[derive(Clone)]
pub struct Receipts(Arc<Signing>);

struct Signing {
    /// Wiped on drop.
    key: SigningKey,
    manifest_id: Hex32,
    model_digest: Hex32,
}

/// What was attested on a connection last: the receipts of requests after it name it.
#[derive(Clone, Copy)]
pub(super) struct Session {
    /// The client's.
    pub nonce: Hex32,
    /// SHA-256 of the document as it is sent.
    pub evidence_digest: Hex32,
}

impl Receipts {
    /// The signer of this boot.
    pub fn new(keys: &Keys, claims: &Claims) -> Self {
        Self(Arc::new(Signing {
            key: keys.meter().clone(),
            manifest_id: claims.manifest_id,
            model_digest: claims.model_digest,
        }))
    }

    /// Begins the receipt of a request with this body. What there is to say of the engine comes when that has taken it.
    pub(super) fn open(&self, session: Session, body: &[u8]) -> Result<Entry, Refusal> {
        let random = keys::random::<32>().map_err(|_| {
            Refusal::unavailable("no_randomness", "The kernel gave no random salt.")
        })?;
        let mut salt = Zeroizing::new(Hex32::ZERO);
        salt.0.copy_from_slice(&*random);
        let request = commit_request(&salt, &Hex32::sha256(body));
        Ok(Entry {
            signing: Arc::clone(&self.0),
            session,
            number: 0,
            salt,
            request,
            response: Sha256::new(),
            engine: None,
        })
    }
}

/// One request on its way to its receipt.
pub struct Entry {
    signing: Arc<Signing>,
    session: Session,
    number: u64,
    /// Nowhere else, but for what hashing it leaves on the stack.
    salt: Zeroizing<Hex32>,
    request: Hex32,
    response: Sha256,
    engine: Option<EngineSection>,
}

impl Entry {
    /// The engine, whose GPUs are so, has taken the request, as this one of its connection.
    pub(super) fn taken(self, number: u64, engine: Option<EngineSection>) -> Self {
        Self {
            number,
            engine,
            ..self
        }
    }

    /// Bytes of the response that go before the receipt.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        self.response.update(bytes);
    }

    /// Signs. The text has the same length always.
    fn text(&self, outcome: Outcome, tokens: Tokens) -> Zeroizing<String> {
        let response = Hex(self.response.clone().finalize().into());
        let receipt = Receipt {
            outcome,
            manifest_id: self.signing.manifest_id,
            model_digest: self.signing.model_digest,
            evidence_digest: self.session.evidence_digest,
            nonce: self.session.nonce,
            number: self.number,
            tokens,
            request: self.request,
            response: commit_response(&self.salt, &response),
            engine: self.engine,
        };
        let signature = self.signing.key.sign(&receipt.encode());
        let signed = SignedReceipt {
            receipt,
            signature: Hex(signature.to_bytes()),
        };
        signed.deliver(&self.salt)
    }

    /// As a line of a stream that clients pass over.
    pub(super) fn comment(&self, outcome: Outcome, tokens: Tokens) -> Bytes {
        let text = self.text(outcome, tokens);
        let line = [RECEIPT_COMMENT, text.as_str(), "\n\n"].concat();
        wiped(line.into_bytes())
    }

    /// As the header of a whole answer. `None` cannot be: Base64 is visible ASCII.
    pub(super) fn header(&self, outcome: Outcome, tokens: Tokens) -> Option<HeaderValue> {
        let text = std::mem::take(&mut *self.text(outcome, tokens));
        let mut value = HeaderValue::from_maybe_shared(wiped(text.into_bytes())).ok()?;
        // Kept out of HTTP/2's table of headers.
        value.set_sensitive(true);
        Some(value)
    }
}
