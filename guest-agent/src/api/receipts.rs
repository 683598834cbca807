//! Signs a receipt for each request that reached the engine (SPEC.md §11). The salt goes to the client inside TLS and
//! is stored nowhere; the host sees neither the salt nor the receipt.

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

/// Signs receipts with the meter key. Clones share the same key.
#[derive(Clone)]
pub struct Receipts(Arc<Signing>);

struct Signing {
    /// The meter key, wiped on drop.
    key: SigningKey,
    manifest_id: Hex32,
    model_digest: Hex32,
}

/// The last attestation of a connection, which the receipts of later requests name.
#[derive(Clone, Copy)]
pub(super) struct Session {
    /// The nonce that the client sent.
    pub nonce: Hex32,
    /// SHA-256 of the document as it was sent.
    pub evidence_digest: Hex32,
}

impl Receipts {
    /// Creates the signer of this boot.
    pub fn new(keys: &Keys, claims: &Claims) -> Self {
        Self(Arc::new(Signing {
            key: keys.meter().clone(),
            manifest_id: claims.manifest_id,
            model_digest: claims.model_digest,
        }))
    }

    /// Begins the receipt of a request with this body. The engine's part is added once the engine has taken the request.
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

/// The data collected for the receipt of one request.
pub struct Entry {
    signing: Arc<Signing>,
    session: Session,
    number: u64,
    /// Stored nowhere else, apart from what hashing it leaves on the stack.
    salt: Zeroizing<Hex32>,
    request: Hex32,
    response: Sha256,
    engine: Option<EngineSection>,
}

impl Entry {
    /// Records that the engine has taken the request: its `number` on the connection, and what the engine says of its GPUs.
    pub(super) fn taken(self, number: u64, engine: Option<EngineSection>) -> Self {
        Self {
            number,
            engine,
            ..self
        }
    }

    /// Adds bytes of the response, all of which come before the receipt.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        self.response.update(bytes);
    }

    /// Signs the receipt. The text always has the same length.
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

    /// Returns the receipt as a comment line of an event stream, which clients skip.
    pub(super) fn comment(&self, outcome: Outcome, tokens: Tokens) -> Bytes {
        let text = self.text(outcome, tokens);
        let line = [RECEIPT_COMMENT, text.as_str(), "\n\n"].concat();
        wiped(line.into_bytes())
    }

    /// Returns the receipt as a header of a whole answer. It is never `None`, because Base64 is visible ASCII.
    pub(super) fn header(&self, outcome: Outcome, tokens: Tokens) -> Option<HeaderValue> {
        let text = std::mem::take(&mut *self.text(outcome, tokens));
        let mut value = HeaderValue::from_maybe_shared(wiped(text.into_bytes())).ok()?;
        // Sensitive values are kept out of HTTP/2's table of headers.
        value.set_sensitive(true);
        Some(value)
    }
}
