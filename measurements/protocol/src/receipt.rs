//! The receipt of an answer (SPEC.md §11): what a guest signs about each request that reached its engine.
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
//! The client gets it with the salt of both commitments behind it, in Base64, so always as one length.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::bytes::{Hex32, Hex64};

#[cfg(test)]
mod tests;

/// Length of what is signed, in bytes.
pub const RECEIPT_LEN: usize = 292;
/// Length of the engine section, in bytes.
const SECTION_LEN: usize = 48;
/// Length of a receipt with its signature, in bytes.
pub const SIGNED_LEN: usize = RECEIPT_LEN + 64;
/// Length of receipt, signature and salt, in bytes.
const SALTED_LEN: usize = SIGNED_LEN + 32;
/// Length of what the client gets, in characters: all of these in Base64.
pub const DELIVERY_LEN: usize = SALTED_LEN.div_ceil(3) * 4;
/// Version of the layout above.
pub const RECEIPT_VERSION: u16 = 2;
/// The header of a whole answer that holds its receipt.
pub const RECEIPT_HEADER: &str = "cocoon-receipt";
/// What the line of a stream that holds its receipt begins with: a comment, which other clients pass over.
pub const RECEIPT_COMMENT: &str = ": cocoon-receipt ";

const TAG: &[u8; 16] = b"cocoon-receipt-1";
const REQUEST_TAG: &[u8; 16] = b"cocoon-request-1";
const RESPONSE_TAG: &[u8; 16] = b"cocoon-response1";

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Every choice came to its own end, or to a stop string or a call.
    Complete,
    /// A choice was cut at its limit of tokens.
    Length,
    /// It broke off with an error.
    Failed,
}

/// Tokens by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Of the prompt, which counts once however many choices continue it, and from the first token of an answer on.
    pub prompt: u64,
    /// Of all choices of the answer, as the engine told them.
    pub completion: u64,
}

/// What an engine on GPUs has done to their memory: the engine section.
///
/// Nothing in it depends on what others asked: what is counted of everybody together is for the host alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct EngineSection {
    /// BLAKE3 root of the weights as they were loaded into the GPUs' memory.
    pub weights_root: Hex32,
    /// Bytes for caches and scratch memory, all of which are overwritten and then read again before the first request and
    /// whenever none runs. Not 0.
    pub scrubbed_bytes: u64,
    /// How many bytes were not zero in all of these readings since boot.
    pub residue_bytes: u64,
}

/// What is signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Receipt {
    /// How the answer ended.
    pub outcome: Outcome,
    /// The manifest that the guest claims.
    pub manifest_id: Hex32,
    /// The model that answered.
    pub model_digest: Hex32,
    /// SHA-256 of the session document that was sent on this connection last before the request.
    pub evidence_digest: Hex32,
    /// The client's nonce which that document answers.
    pub nonce: Hex32,
    /// Counts the requests of a connection that reached the engine, from 1.
    pub number: u64,
    /// Tokens by class; none is ever cached.
    pub tokens: Tokens,
    /// [`commit_request`] of the request's body.
    pub request: Hex32,
    /// [`commit_response`] of the response's body.
    pub response: Hex32,
    /// The engine's GPUs; `None` where it computes on the processor.
    pub engine: Option<EngineSection>,
}

/// A receipt and its signature, which is not checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedReceipt {
    /// What is signed.
    pub receipt: Receipt,
    /// Ed25519 over [`Receipt::encode`].
    pub signature: Hex64,
}

/// What the client gets, and nobody else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The receipt.
    pub signed: SignedReceipt,
    /// The salt of both commitments. Without it they are a lottery; with it, a list of likely texts can be tried.
    pub salt: Hex32,
}

/// Why bytes are not a receipt.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// Another length.
    #[error("a receipt has {expected} {unit}, found {found}")]
    Length {
        /// What is counted.
        unit: &'static str,
        /// How many there should be.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// Not Base64.
    #[error("a receipt is handed over in Base64, found something else")]
    Base64,
    /// Signed bytes of another kind.
    #[error("a receipt begins with its tag, found other bytes")]
    Tag,
    /// Another version of the layout.
    #[error("receipt has version {0}, this program knows version {RECEIPT_VERSION}: update it")]
    Version(u16),
    /// An outcome of another version.
    #[error("receipt has outcome {0}, this version has 1, 2 and 3")]
    Outcome(u8),
    /// An engine section that is none.
    #[error(
        "byte 19 of a receipt is 1 before a section of an engine on GPUs, and 0 before zeros; found {0} before something else"
    )]
    Engine(u8),
    /// Requests count from 1.
    #[error("requests count from 1, the receipt has number 0")]
    Number,
    /// This version has no cache.
    #[error("receipt counts {0} cached tokens, this version has no cache")]
    Cached(u64),
}

impl Receipt {
    /// The bytes that are signed.
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

    /// Reads what [`encode`](Self::encode) writes, and nothing else.
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
    /// Receipt and signature.
    pub fn encode(&self) -> [u8; SIGNED_LEN] {
        let mut out = [0; SIGNED_LEN];
        out[..RECEIPT_LEN].copy_from_slice(&self.receipt.encode());
        out[RECEIPT_LEN..].copy_from_slice(&self.signature.0);
        out
    }

    /// As it stands, with its salt, in a header or in a stream's comment: [`DELIVERY_LEN`] characters. No other copy of
    /// the salt is left behind.
    pub fn deliver(&self, salt: &Hex32) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new([0; SALTED_LEN]);
        bytes[..SIGNED_LEN].copy_from_slice(&self.encode());
        bytes[SIGNED_LEN..].copy_from_slice(&salt.0);
        // Straight to its place: the encoder of strings goes by way of a buffer that nobody wipes.
        let mut text = vec![0; DELIVERY_LEN];
        let written = STANDARD.encode_slice(bytes.as_slice(), &mut text);
        debug_assert_eq!(written, Ok(DELIVERY_LEN));
        // Base64 is ASCII.
        Zeroizing::new(String::from_utf8(text).unwrap_or_default())
    }

    /// Reads receipt and signature.
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
    /// As [`SignedReceipt::deliver`] writes it.
    pub fn to_text(&self) -> Zeroizing<String> {
        self.signed.deliver(&self.salt)
    }

    /// Reads that text.
    pub fn parse(text: &[u8]) -> Result<Self, ReceiptError> {
        if text.len() != DELIVERY_LEN {
            return Err(ReceiptError::Length {
                unit: "characters",
                expected: DELIVERY_LEN,
                found: text.len(),
            });
        }
        // Whole groups of four characters, as if none of them were padding.
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

/// Commits to a request by the SHA-256 of its body: `SHA-256("cocoon-request-1" ‖ salt ‖ digest)`.
pub fn commit_request(salt: &Hex32, digest: &Hex32) -> Hex32 {
    commit(REQUEST_TAG, salt, digest)
}

/// Commits to a response by the SHA-256 of its body as far as it was sent before the receipt:
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

/// Fields from the front of bytes whose length is the sum of the fields'.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk() {
            Some((field, rest)) => {
                self.0 = rest;
                *field
            }
            // Cannot be: the callers' layouts are as long as their bytes.
            None => [0; N],
        }
    }

    fn digests<const N: usize>(&mut self) -> [Hex32; N] {
        std::array::from_fn(|_| crate::bytes::Hex(self.take()))
    }
}
