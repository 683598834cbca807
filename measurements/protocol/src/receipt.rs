//! Receipts of answers (SPEC.md §11): signed statements of a guest about each request that reached its engine.
//!
//! ```text
//! offset size field
//!      0   16 tag: "cocoon-receipt-1"
//!     16    2 version, big-endian, 2
//!     18    1 outcome: 1 complete, 2 length, 3 failed
//!     19    1 engine: 0 on the processor, 1 on GPUs
//!     20   32 manifest id
//!     52   32 model digest
//!     84   32 evidence digest: SHA-256 of the session document as it was sent
//!    116   32 nonce that the session document answered
//!    148    8 number of the request on its connection, big-endian, from 1
//!    156    8 tokens of the prompt, big-endian
//!    164    8 tokens of the answer, big-endian
//!    172    8 cached tokens of the prompt, big-endian, 0
//!    180   32 commitment to the request's body
//!    212   32 commitment to the response's body
//!    244   48 engine section: 32 root of the weights, 8 scrubbed bytes, 8 residue bytes, big-endian; zero on the processor
//!    292   64 Ed25519 signature of all of the above by the meter key
//!    356
//! ```
//!
//! The client gets the receipt with the salt of both commitments appended, in Base64. Its length is therefore always the same.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::bytes::{Hex32, Hex64};

#[cfg(test)]
mod tests;

/// Length of the signed bytes.
pub const RECEIPT_LEN: usize = 292;
/// Length of the engine section, in bytes.
const SECTION_LEN: usize = 48;
/// Length of a receipt with its signature, in bytes.
pub const SIGNED_LEN: usize = RECEIPT_LEN + 64;
/// Length of receipt, signature and salt, in bytes.
const SALTED_LEN: usize = SIGNED_LEN + 32;
/// Length of the text that the client gets, in characters: receipt, signature and salt in Base64.
pub const DELIVERY_LEN: usize = SALTED_LEN.div_ceil(3) * 4;
/// Version of the layout described in the module's documentation.
pub const RECEIPT_VERSION: u16 = 2;
/// Header that carries the receipt of a whole (not streamed) answer.
pub const RECEIPT_HEADER: &str = "cocoon-receipt";
/// Prefix of the line that carries the receipt in a stream. Such a line is a comment, which other clients ignore.
pub const RECEIPT_COMMENT: &str = ": cocoon-receipt ";

const TAG: &[u8; 16] = b"cocoon-receipt-1";
const REQUEST_TAG: &[u8; 16] = b"cocoon-request-1";
const RESPONSE_TAG: &[u8; 16] = b"cocoon-response1";

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every choice ended by itself, at a stop string or with a call.
    Complete,
    /// A choice was cut at its limit of tokens.
    Length,
    /// The answer was broken off by an error.
    Failed,
}

/// Token counts of a request and its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Tokens of the prompt. They count once, however many choices continue the prompt, and only from the first token of an
    /// answer on.
    pub prompt: u64,
    /// Tokens of all choices of the answer, as the engine reported them.
    pub completion: u64,
}

/// The engine section: what an engine on GPUs has done to their memory.
///
/// No field depends on the requests of other clients. Counters over the requests of all clients go to the host only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EngineSection {
    /// BLAKE3 root of the weights in the GPUs' memory.
    pub weights_root: Hex32,
    /// Bytes of caches and scratch memory. All of them are overwritten and then read again, before the first request and
    /// whenever no request runs. Not zero.
    pub scrubbed_bytes: u64,
    /// Number of bytes that were not zero in all these readings since boot.
    pub residue_bytes: u64,
}

/// The signed fields of a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// How the answer ended.
    pub outcome: Outcome,
    /// Manifest id of the guest's claims.
    pub manifest_id: Hex32,
    /// Model digest of the guest's claims.
    pub model_digest: Hex32,
    /// SHA-256 of the session document that was last sent on this connection before the request.
    pub evidence_digest: Hex32,
    /// The client's nonce that this document answers.
    pub nonce: Hex32,
    /// Number of the request among those of its connection that reached the engine, from 1.
    pub number: u64,
    /// Token counts. No token is ever cached.
    pub tokens: Tokens,
    /// [`commit_request`] of the request's body.
    pub request: Hex32,
    /// [`commit_response`] of the response's body.
    pub response: Hex32,
    /// Engine section of an engine on GPUs; `None` if the engine computes on the processor.
    pub engine: Option<EngineSection>,
}

/// A receipt and its signature. Parsing does not check the signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedReceipt {
    /// The signed fields.
    pub receipt: Receipt,
    /// Ed25519 over [`Receipt::encode`].
    pub signature: Hex64,
}

/// A receipt as it is delivered to the client, and to nobody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The receipt with its signature.
    pub signed: SignedReceipt,
    /// Salt of both commitments. Without it a commitment reveals nothing about a text; with it, likely texts can be tried one
    /// by one.
    pub salt: Hex32,
}

/// Reason why bytes are not a valid receipt.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// The length is wrong.
    #[error("a receipt has {expected} {unit}, found {found}")]
    Length {
        /// Unit of the length.
        unit: &'static str,
        /// Length required.
        expected: usize,
        /// Length found.
        found: usize,
    },
    /// The text is not Base64.
    #[error("a receipt is handed over in Base64, found something else")]
    Base64,
    /// The bytes do not begin with the tag of a receipt.
    #[error("a receipt begins with its tag, found other bytes")]
    Tag,
    /// The receipt has another version of the layout.
    #[error("receipt has version {0}, this program knows version {RECEIPT_VERSION}: update it")]
    Version(u16),
    /// The outcome is not one of this version.
    #[error("receipt has outcome {0}, this version has 1, 2 and 3")]
    Outcome(u8),
    /// The engine byte does not fit the engine section.
    #[error(
        "byte 19 of a receipt is 1 before a section of an engine on GPUs, and 0 before zeros; found {0} before something else"
    )]
    Engine(u8),
    /// The number of the request is zero, but requests count from 1.
    #[error("requests count from 1, the receipt has number 0")]
    Number,
    /// The receipt counts cached tokens, but this version has no cache.
    #[error("receipt counts {0} cached tokens, this version has no cache")]
    Cached(u64),
}

impl Receipt {
    /// Returns the bytes that are signed.
    pub fn encode(&self) -> [u8; RECEIPT_LEN] {
        let version = RECEIPT_VERSION.to_be_bytes();
        let numbers = [self.number, self.tokens.prompt, self.tokens.completion, 0];
        let [number, prompt, completion, cached] = numbers.map(u64::to_be_bytes);
        let section = self.engine.map_or([0; SECTION_LEN], |one| one.encode());
        let fields: [&[u8]; 15] = [
            TAG,
            &version,
            &[self.outcome.code()],
            &[self.engine.is_some().into()],
            &self.manifest_id.0,
            &self.model_digest.0,
            &self.evidence_digest.0,
            &self.nonce.0,
            &number,
            &prompt,
            &completion,
            &cached,
            &self.request.0,
            &self.response.0,
            &section,
        ];
        let mut out = [0; RECEIPT_LEN];
        let mut at = 0;
        for field in fields {
            out[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        }
        debug_assert_eq!(at, RECEIPT_LEN);
        out
    }

    /// Parses the bytes that [`encode`](Self::encode) returns. Refuses any other encoding.
    pub fn parse(bytes: &[u8; RECEIPT_LEN]) -> Result<Self, ReceiptError> {
        let mut fields = Fields(bytes);
        if &fields.take() != TAG {
            return Err(ReceiptError::Tag);
        }
        let version = u16::from_be_bytes(fields.take());
        if version != RECEIPT_VERSION {
            return Err(ReceiptError::Version(version));
        }
        let [outcome, engine] = fields.take();
        let outcome = Outcome::of(outcome).ok_or(ReceiptError::Outcome(outcome))?;
        let [manifest_id, model_digest, evidence_digest, nonce] = fields.digests();
        let [number, prompt, completion, cached] =
            std::array::from_fn(|_| u64::from_be_bytes(fields.take()));
        if number == 0 {
            return Err(ReceiptError::Number);
        }
        if cached != 0 {
            return Err(ReceiptError::Cached(cached));
        }
        let [request, response] = fields.digests();
        let engine = EngineSection::parse(engine, &fields.take())?;
        Ok(Self {
            outcome,
            manifest_id,
            model_digest,
            evidence_digest,
            nonce,
            number,
            tokens: Tokens { prompt, completion },
            request,
            response,
            engine,
        })
    }
}

impl EngineSection {
    fn encode(&self) -> [u8; SECTION_LEN] {
        let mut out = [0; SECTION_LEN];
        out[..32].copy_from_slice(&self.weights_root.0);
        out[32..40].copy_from_slice(&self.scrubbed_bytes.to_be_bytes());
        out[40..].copy_from_slice(&self.residue_bytes.to_be_bytes());
        out
    }

    fn parse(kind: u8, bytes: &[u8; SECTION_LEN]) -> Result<Option<Self>, ReceiptError> {
        let mut fields = Fields(bytes);
        let [weights_root] = fields.digests();
        let [scrubbed_bytes, residue_bytes] =
            std::array::from_fn(|_| u64::from_be_bytes(fields.take()));
        match kind {
            0 if *bytes == [0; SECTION_LEN] => Ok(None),
            1 if scrubbed_bytes > 0 => Ok(Some(Self {
                weights_root,
                scrubbed_bytes,
                residue_bytes,
            })),
            kind => Err(ReceiptError::Engine(kind)),
        }
    }
}

impl SignedReceipt {
    /// Returns the receipt followed by its signature.
    pub fn encode(&self) -> [u8; SIGNED_LEN] {
        let mut out = [0; SIGNED_LEN];
        out[..RECEIPT_LEN].copy_from_slice(&self.receipt.encode());
        out[RECEIPT_LEN..].copy_from_slice(&self.signature.0);
        out
    }

    /// Returns receipt, signature and salt as text for a header or a stream's comment: [`DELIVERY_LEN`] characters. Leaves no
    /// other copy of the salt behind.
    pub fn deliver(&self, salt: &Hex32) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0; SALTED_LEN]);
        bytes[..SIGNED_LEN].copy_from_slice(&self.encode());
        bytes[SIGNED_LEN..].copy_from_slice(&salt.0);
        // Encoded in place, because the encoder for strings uses a buffer that is not wiped.
        let mut text = vec![0; DELIVERY_LEN];
        let written = STANDARD.encode_slice(bytes.as_slice(), &mut text);
        debug_assert_eq!(written, Ok(DELIVERY_LEN));
        // Base64 is ASCII.
        Zeroizing::new(String::from_utf8(text).unwrap_or_default())
    }

    /// Parses a receipt followed by its signature. Does not check the signature.
    pub fn parse(bytes: &[u8]) -> Result<Self, ReceiptError> {
        let exact: &[u8; SIGNED_LEN] = bytes.try_into().map_err(|_| ReceiptError::Length {
            unit: "bytes",
            expected: SIGNED_LEN,
            found: bytes.len(),
        })?;
        let mut fields = Fields(exact);
        Ok(Self {
            receipt: Receipt::parse(&fields.take())?,
            signature: crate::bytes::Hex(fields.take()),
        })
    }
}

impl Delivery {
    /// Returns the text that [`SignedReceipt::deliver`] writes.
    pub fn to_text(&self) -> Zeroizing<String> {
        self.signed.deliver(&self.salt)
    }

    /// Parses the text that [`SignedReceipt::deliver`] writes.
    pub fn parse(text: &[u8]) -> Result<Self, ReceiptError> {
        if text.len() != DELIVERY_LEN {
            return Err(ReceiptError::Length {
                unit: "characters",
                expected: DELIVERY_LEN,
                found: text.len(),
            });
        }
        // Room for every group of four characters, as if none were padding.
        let mut bytes = Zeroizing::new([0; DELIVERY_LEN / 4 * 3]);
        let read = STANDARD.decode_slice(text, bytes.as_mut_slice());
        let read = read.map_err(|_| ReceiptError::Base64)?;
        let Some((signed, salt)) = bytes[..read].split_last_chunk() else {
            return Err(ReceiptError::Base64);
        };
        Ok(Self {
            signed: SignedReceipt::parse(signed)?,
            salt: crate::bytes::Hex(*salt),
        })
    }
}

/// Returns the commitment to a request with this SHA-256 digest of its body: `SHA-256("cocoon-request-1" ‖ salt ‖ digest)`.
pub fn commit_request(salt: &Hex32, digest: &Hex32) -> Hex32 {
    commit(REQUEST_TAG, salt, digest)
}

/// Returns the commitment to a response with this SHA-256 digest of the body up to the receipt:
/// `SHA-256("cocoon-response1" ‖ salt ‖ digest)`.
pub fn commit_response(salt: &Hex32, digest: &Hex32) -> Hex32 {
    commit(RESPONSE_TAG, salt, digest)
}

fn commit(tag: &[u8; 16], salt: &Hex32, digest: &Hex32) -> Hex32 {
    let hash = Sha256::new()
        .chain_update(tag)
        .chain_update(salt)
        .chain_update(digest);
    crate::bytes::Hex(hash.finalize().into())
}

impl Outcome {
    const fn code(self) -> u8 {
        match self {
            Outcome::Complete => 1,
            Outcome::Length => 2,
            Outcome::Failed => 3,
        }
    }

    fn of(code: u8) -> Option<Self> {
        let all = [Outcome::Complete, Outcome::Length, Outcome::Failed];
        all.into_iter().find(|outcome| outcome.code() == code)
    }
}

/// Reads fields from the front of bytes whose length is the sum of the lengths of the fields.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            // Unreachable: each caller's layout is as long as its bytes.
            None => [0; N],
        }
    }

    fn digests<const N: usize>(&mut self) -> [Hex32; N] {
        std::array::from_fn(|_| crate::bytes::Hex(self.take()))
    }
}
