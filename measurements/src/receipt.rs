//! Judges receipts (SPEC.md §11): signed by an attested guest's meter key, for this session, request and response.

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::document::Document;
use cocoon_protocol::receipt::{Delivery, EngineSection, commit_request, commit_response};
use ed25519_dalek::{Signature, VerifyingKey};

use crate::verdict::Check;

#[cfg(test)]
mod tests;

/// The values that a receipt must have. They come from the verified session, never from the receipt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Meter key that the session document names.
    pub meter_key: Hex32,
    /// Manifest id that the session document names.
    pub manifest_id: Hex32,
    /// Model digest that the session document names.
    pub model_digest: Hex32,
    /// SHA-256 of the session document's bytes as they arrived.
    pub evidence_digest: Hex32,
    /// Nonce that the session document answers.
    pub nonce: Hex32,
    /// Number of the request among those of its connection that reached the engine, if known.
    pub number: Option<u64>,
    /// SHA-256 of the request's body, if at hand.
    pub request: Option<Hex32>,
    /// SHA-256 of the response's body as far as it came before the receipt, if at hand.
    pub response: Option<Hex32>,
}

impl Expected {
    /// Returns what a receipt must say in the session of `document`. `bytes` is the document as it arrived.
    #[must_use]
    pub fn of(document: &Document, bytes: &[u8]) -> Self {
        Self {
            meter_key: document.claims.meter_key,
            manifest_id: document.claims.manifest_id,
            model_digest: document.claims.model_digest,
            evidence_digest: Hex32::sha256(bytes),
            nonce: document.nonce,
            number: None,
            request: None,
            response: None,
        }
    }
}

/// Judges a receipt and returns all checks, in the order of SPEC.md §11. One failed check refuses the receipt. If the
/// signature does not verify, it is the only check.
#[must_use]
pub fn judge(delivery: &Delivery, expected: &Expected) -> Vec<Check> {
    let receipt = &delivery.signed.receipt;
    let signature = Signature::from_bytes(&delivery.signed.signature.0);
    let signed = VerifyingKey::from_bytes(&expected.meter_key.0)
        .is_ok_and(|key| key.verify_strict(&receipt.encode(), &signature).is_ok());
    if !signed {
        let check = Check::fail("receipt.signature", SIGNATURE, UNSIGNED, FORGED);
        return vec![check.expected(format_args!("by meter key {}", expected.meter_key))];
    }
    let mut checks = vec![Check::pass(
        "receipt.signature",
        SIGNATURE,
        format_args!("by meter key {}", expected.meter_key),
    )];
    let named: [(_, _, &Hex32, &Hex32, _); 4] = [
        (
            "receipt.manifest",
            "manifest of the session",
            &expected.manifest_id,
            &receipt.manifest_id,
            "the guest signs for another image than it attested",
        ),
        (
            "receipt.model",
            "model of the session",
            &expected.model_digest,
            &receipt.model_digest,
            "the guest signs for another model than it attested",
        ),
        (
            "receipt.evidence",
            "session document",
            &expected.evidence_digest,
            &receipt.evidence_digest,
            "the receipt is of another session",
        ),
        (
            "receipt.nonce",
            "nonce of the session",
            &expected.nonce,
            &receipt.nonce,
            "the receipt is of another session, or another client's",
        ),
    ];
    for (id, title, expected, found, cause) in named {
        checks.push(Check::equal(id, title, expected, found, || (cause, FORGED)));
    }
    checks.push(number(expected.number, receipt.number));
    let salt = &delivery.salt;
    let bodies = [
        (
            "receipt.request",
            "commitment to the request",
            expected.request.map(|digest| commit_request(salt, &digest)),
            receipt.request,
        ),
        (
            "receipt.response",
            "commitment to the response",
            expected
                .response
                .map(|digest| commit_response(salt, &digest)),
            receipt.response,
        ),
    ];
    for (id, title, expected, found) in bodies {
        checks.push(match expected {
            Some(expected) => Check::equal(id, title, &expected, &found, || (OTHER_BODY, ALTERED)),
            None => Check::note(id, title, "not opened: the body is not at hand"),
        });
    }
    checks.push(engine(receipt.engine.as_ref()));
    checks
}

/// Checks that the engine has left nothing in the memory of its GPUs.
fn engine(section: Option<&EngineSection>) -> Check {
    let (id, title) = ("receipt.engine", "what the engine leaves in GPUs");
    match section {
        None => Check::note(id, title, "it computes on the processor"),
        Some(section) if section.residue_bytes == 0 => Check::pass(
            id,
            title,
            format_args!(
                "nothing in {} bytes; weights {}",
                section.scrubbed_bytes, section.weights_root
            ),
        ),
        Some(section) => Check::fail(id, title, RESIDUE, ELSEWHERE)
            .expected("0 bytes")
            .found(format_args!("{} bytes", section.residue_bytes)),
    }
}

/// Checks whether a session document names the meter key `believed`, which the caller trusts for other reasons. Nothing else
/// about the session is judged.
#[must_use]
pub fn meter_key(document: &Document, believed: &Hex32) -> Vec<Check> {
    let named = &document.claims.meter_key;
    let why = || {
        (
            "the session was with another guest, or another boot of it",
            "take the meter key from a verdict on the session in question",
        )
    };
    vec![
        Check::note("receipt.session", "session document", UNJUDGED),
        Check::equal("receipt.meter_key", METER_KEY, believed, named, why),
    ]
}

fn number(expected: Option<u64>, found: u64) -> Check {
    let (id, title) = ("receipt.number", "number on its connection");
    let Some(expected) = expected else {
        return Check::note(id, title, "nothing to compare with: it stands alone").found(found);
    };
    Check::equal(id, title, &expected, &found, || match found < expected {
        true => ("the receipt is an earlier one of the connection", FORGED),
        false => (
            "requests were served on the connection whose receipts were withheld",
            FORGED,
        ),
    })
}

const RESIDUE: &str = "memory that was overwritten did not stay so: a GPU or its driver cannot be trusted with prompts";
const ELSEWHERE: &str = "ask another appliance, and tell its operator";
const METER_KEY: &str = "meter key of the session document";
const UNJUDGED: &str =
    "not judged without a manifest: what ran there is as good as the word for its meter key";
const SIGNATURE: &str = "signature";
const UNSIGNED: &str = "the receipt was altered, or another key signed it than the one that the session document names";
const FORGED: &str = "keep the receipt with its session document, and ask another appliance";
const OTHER_BODY: &str = "the guest signed for another body than this one, or for another salt";
const ALTERED: &str = "compare the very bytes: of the request as it was sent with its padding, of the response as it came before the receipt";
