//! Signatures over a manifest (SPEC.md §5): a DSSE envelope around an in-toto Statement v1, signed with Ed25519.
//!
//! The statement's subjects are `manifest.json` and every artefact.
//!
//! Formats: secure-systems-lab/dsse `protocol.md` and `envelope.md`; in-toto attestation `statement.md` v1.

use std::collections::BTreeMap;

use cocoon_protocol::{
    bytes::{Blob, Hex32},
    manifest::{Manifest, ManifestError, manifest_id},
};
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize, de::Error as _};

/// Largest envelope accepted, in bytes.
pub const MAX_ENVELOPE_LEN: usize = 1024 * 1024;
/// Largest number of signatures in an envelope.
pub const MAX_SIGNATURES: usize = 64;
/// Media type of the envelope's payload.
pub const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Type of the in-toto statement.
pub const STATEMENT_TYPE: &str = "https://in-toto.io/Statement/v1";
/// Type of the statement's predicate: an OID numbered like those in [`cocoon_protocol::document`].
pub const PREDICATE_TYPE: &str = "urn:oid:2.25.246214499";
/// Name of the subject that stands for the manifest itself.
pub const MANIFEST_SUBJECT: &str = "manifest.json";

/// Why a manifest cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// The bytes to sign are not a manifest.
    #[error("cannot sign: the bytes are not a manifest")]
    Manifest(#[source] ManifestError),
    /// The envelope cannot be read, or has no room for another signature.
    #[error("cannot add a signature: the envelope cannot be read; sign anew without it")]
    Envelope(#[source] EnvelopeError),
    /// The envelope's statement is not this manifest's statement.
    #[error(
        "cannot add a signature: the envelope is about other bytes than this manifest; sign anew without it"
    )]
    OtherStatement,
}

/// Why bytes are not a DSSE envelope with a manifest's statement.
#[derive(Debug, thiserror::Error)]
pub enum EnvelopeError {
    /// The envelope is longer than [`MAX_ENVELOPE_LEN`].
    #[error("envelope of {0} bytes exceeds the limit of {MAX_ENVELOPE_LEN}")]
    TooLong(usize),
    /// The bytes are not a DSSE envelope in JSON.
    #[error("envelope is not a DSSE envelope in JSON")]
    Malformed(#[source] serde_json::Error),
    /// The envelope has more than [`MAX_SIGNATURES`] signatures.
    #[error("envelope holds {0} signatures, at most {MAX_SIGNATURES} are allowed")]
    TooManySignatures(usize),
    /// The payload's type is not [`PAYLOAD_TYPE`].
    #[error("envelope's payload is not of the type {PAYLOAD_TYPE}")]
    PayloadType,
    /// The payload is not an in-toto statement in JSON.
    #[error("envelope's payload is not an in-toto statement in JSON")]
    Statement(#[source] serde_json::Error),
    /// The type of the statement or of its predicate is not that of a manifest's statement.
    #[error(
        "envelope's payload is a statement of another kind than a Cocoon manifest's (predicate {PREDICATE_TYPE})"
    )]
    StatementType,
}

/// Signs `manifest` with the Ed25519 key `secret` and returns the content of `manifest.json.dsse`. The result is
/// deterministic.
///
/// # Errors
/// [`SignError::Manifest`] when the bytes are not a manifest.
pub fn sign(manifest: &[u8], secret: &[u8; 32]) -> Result<Vec<u8>, SignError> {
    let payload = statement(manifest)?;
    let envelope = Envelope {
        payload_type: PAYLOAD_TYPE.to_owned(),
        signatures: vec![EnvelopeSignature::new(&payload, secret)],
        payload: Blob(payload),
    };
    Ok(envelope.to_json())
}

/// Adds the signature of `secret` to an envelope, or replaces that key's earlier one. The signer must hold the manifest: the
/// envelope's statement has to equal the one that [`sign`] makes of it.
///
/// # Errors
/// [`SignError`] when the manifest or the envelope cannot be read, they do not belong together, or the envelope is full.
pub fn add_signature(
    envelope: &[u8],
    manifest: &[u8],
    secret: &[u8; 32],
) -> Result<Vec<u8>, SignError> {
    let mut envelope = Envelope::parse(envelope).map_err(SignError::Envelope)?;
    if envelope.payload.0 != statement(manifest)? {
        return Err(SignError::OtherStatement);
    }
    let signature = EnvelopeSignature::new(&envelope.payload.0, secret);
    envelope
        .signatures
        .retain(|other| other.keyid != signature.keyid);
    envelope.signatures.push(signature);
    let found = envelope.signatures.len();
    if found > MAX_SIGNATURES {
        return Err(SignError::Envelope(EnvelopeError::TooManySignatures(found)));
    }
    Ok(envelope.to_json())
}

/// Returns the Ed25519 public key of `secret`, which verifiers pin.
#[must_use]
pub fn public_key(secret: &[u8; 32]) -> [u8; 32] {
    SigningKey::from_bytes(secret).verifying_key().to_bytes()
}

/// A DSSE envelope. Fields that DSSE does not define are ignored, as its specification demands.
#[derive(Serialize, Deserialize)]
pub(super) struct Envelope {
    #[serde(rename = "payloadType")]
    payload_type: String,
    payload: Blob,
    pub(super) signatures: Vec<EnvelopeSignature>,
}

/// One signature. `keyid` is not authenticated and never decides whether a signature counts.
#[derive(Serialize, Deserialize)]
pub(super) struct EnvelopeSignature {
    #[serde(default)]
    pub(super) keyid: String,
    sig: Blob,
}

/// The signed statement. Fields that in-toto does not define, or that later releases may add, are ignored.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Statement {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<Subject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    predicate: Predicate,
}

#[derive(PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Subject {
    name: String,
    #[serde(deserialize_with = "cocoon_protocol::unique::names")]
    digest: BTreeMap<String, String>,
}

/// Release facts for people and statement registries. Verifiers read them from the manifest and refuse a contradiction.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Predicate {
    release: u64,
    variant: String,
    source_revision: String,
    not_before: u64,
    not_after: u64,
}

impl Envelope {
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        if bytes.len() > MAX_ENVELOPE_LEN {
            return Err(EnvelopeError::TooLong(bytes.len()));
        }
        let envelope: Self = read(bytes).map_err(EnvelopeError::Malformed)?;
        if envelope.signatures.len() > MAX_SIGNATURES {
            return Err(EnvelopeError::TooManySignatures(envelope.signatures.len()));
        }
        if envelope.payload_type != PAYLOAD_TYPE {
            return Err(EnvelopeError::PayloadType);
        }
        Ok(envelope)
    }

    /// Returns whether any signature over this payload is `signer`'s.
    pub(super) fn signed_by(&self, signer: &[u8; 32]) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(signer) else {
            return false;
        };
        let message = pre_authentication_encoding(&self.payload.0);
        self.signatures.iter().any(|signature| {
            Signature::from_slice(&signature.sig.0)
                .is_ok_and(|sig| key.verify_strict(&message, &sig).is_ok())
        })
    }

    /// Returns the signed statement. Call it only after [`Self::signed_by`].
    pub(super) fn statement(&self) -> Result<Statement, EnvelopeError> {
        let statement: Statement = read(&self.payload.0).map_err(EnvelopeError::Statement)?;
        if statement.kind != STATEMENT_TYPE || statement.predicate_type != PREDICATE_TYPE {
            return Err(EnvelopeError::StatementType);
        }
        Ok(statement)
    }

    fn to_json(&self) -> Vec<u8> {
        // Serialising strings and vectors cannot fail.
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}

impl Statement {
    /// Builds the statement for the manifest with this id.
    pub(super) fn of(manifest: &Manifest, id: Hex32) -> Self {
        let subject = |name: &str, sha256: Hex32| Subject {
            name: name.to_owned(),
            digest: BTreeMap::from([("sha256".to_owned(), sha256.to_string())]),
        };
        let artefacts = manifest.artefacts.iter();
        let artefacts = artefacts.map(|(name, artefact)| subject(name, artefact.sha256));
        Self {
            kind: STATEMENT_TYPE.to_owned(),
            subject: std::iter::once(subject(MANIFEST_SUBJECT, id))
                .chain(artefacts)
                .collect(),
            predicate_type: PREDICATE_TYPE.to_owned(),
            predicate: Predicate {
                release: manifest.release,
                variant: manifest.variant.clone(),
                source_revision: manifest.source_revision.clone(),
                not_before: manifest.not_before,
                not_after: manifest.not_after,
            },
        }
    }

    /// Returns the SHA-256 of the manifest that the statement names, if any.
    pub(super) fn manifest(&self) -> Option<Hex32> {
        let mut subjects = self.subject.iter();
        let subject = subjects.find(|subject| subject.name == MANIFEST_SUBJECT)?;
        subject.digest.get("sha256")?.parse().ok()
    }

    /// Returns whether both statements are equal, up to the order of subjects, which are a set in in-toto. A repeated subject
    /// name is refused, because readers could pick different ones.
    pub(super) fn says(mut self, mut other: Self) -> bool {
        self.subject.sort_unstable();
        other.subject.sort_unstable();
        let once = |pair: &[Subject]| matches!(pair, [a, b] if a.name != b.name);
        self == other && self.subject.windows(2).all(once)
    }
}

impl EnvelopeSignature {
    fn new(payload: &[u8], secret: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(secret);
        let signature = key.sign(&pre_authentication_encoding(payload));
        Self {
            keyid: hex::encode(key.verifying_key().as_bytes()),
            sig: Blob(signature.to_bytes().to_vec()),
        }
    }
}

/// DSSE's pre-authentication encoding (PAE), which is signed instead of the payload, so that a signature made for another
/// format cannot be passed off as one of ours.
fn pre_authentication_encoding(payload: &[u8]) -> Vec<u8> {
    let head = format!(
        "DSSEv1 {} {PAYLOAD_TYPE} {} ",
        PAYLOAD_TYPE.len(),
        payload.len()
    );
    [head.as_bytes(), payload].concat()
}

fn statement(manifest_bytes: &[u8]) -> Result<Vec<u8>, SignError> {
    let manifest = Manifest::parse(manifest_bytes).map_err(SignError::Manifest)?;
    let statement = Statement::of(&manifest, manifest_id(manifest_bytes));
    // Serialising strings, numbers and maps with string keys cannot fail.
    Ok(serde_json::to_vec(&statement).unwrap_or_default())
}

/// Parses JSON, which is UTF-8. By itself the library does not look at the text of fields that it skips.
fn read<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, serde_json::Error> {
    serde_json::from_str(std::str::from_utf8(json).map_err(serde_json::Error::custom)?)
}
