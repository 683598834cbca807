//! A good receipt passes. A changed field breaks the signature, and fails its own check when it is signed anew.

use cocoon_protocol::bytes::{Hex, Hex64};
use cocoon_protocol::receipt::{EngineSection, Outcome as Ended, Receipt, SignedReceipt, Tokens};
use ed25519_dalek::{Signer as _, SigningKey};

use super::*;
use crate::verdict::Outcome;

const SALT: Hex32 = Hex([11; 32]);

fn key(seed: u8) -> SigningKey {
    SigningKey::from_bytes(&[seed; 32])
}

fn expected() -> Expected {
    Expected {
        meter_key: Hex(key(1).verifying_key().to_bytes()),
        manifest_id: Hex([2; 32]),
        model_digest: Hex([3; 32]),
        evidence_digest: Hex([4; 32]),
        nonce: Hex([5; 32]),
        number: Some(6),
        request: Some(Hex32::sha256(b"question")),
        response: Some(Hex32::sha256(b"answer")),
    }
}

fn receipt() -> Receipt {
    Receipt {
        outcome: Ended::Complete,
        manifest_id: Hex([2; 32]),
        model_digest: Hex([3; 32]),
        evidence_digest: Hex([4; 32]),
        nonce: Hex([5; 32]),
        number: 6,
        tokens: Tokens {
            prompt: 7,
            completion: 8,
        },
        request: commit_request(&SALT, &Hex32::sha256(b"question")),
        response: commit_response(&SALT, &Hex32::sha256(b"answer")),
        engine: Some(EngineSection {
            weights_root: Hex([12; 32]),
            scrubbed_bytes: 13,
            residue_bytes: 0,
        }),
    }
}

fn signed(receipt: Receipt, key: &SigningKey) -> Delivery {
    let signature = Hex(key.sign(&receipt.encode()).to_bytes());
    let signed = SignedReceipt { receipt, signature };
    Delivery { signed, salt: SALT }
}

/// Returns the ids of the failed checks.
fn failed(delivery: &Delivery, expected: &Expected) -> Vec<&'static str> {
    let checks = judge(delivery, expected);
    let failed = checks.iter().filter(|check| check.outcome == Outcome::Fail);
    failed.map(|check| check.id).collect()
}

fn refused(edit: fn(&mut Receipt)) -> Vec<&'static str> {
    let mut changed = receipt();
    edit(&mut changed);
    assert_ne!(changed, receipt());
    let mut unsigned = signed(receipt(), &key(1));
    unsigned.signed.receipt = changed.clone();
    assert_eq!(failed(&unsigned, &expected()), ["receipt.signature"]);
    failed(&signed(changed, &key(1)), &expected())
}

#[test]
fn a_good_receipt_passes_every_check() {
    let checks = judge(&signed(receipt(), &key(1)), &expected());
    let ids: Vec<_> = checks.iter().map(|check| check.id).collect();
    assert_eq!(
        ids,
        [
            "receipt.signature",
            "receipt.manifest",
            "receipt.model",
            "receipt.evidence",
            "receipt.nonce",
            "receipt.number",
            "receipt.request",
            "receipt.response",
            "receipt.engine"
        ]
    );
    assert!(checks.iter().all(|check| check.outcome == Outcome::Pass));
}

#[test]
fn cocoon_receipt_9() {
    let nothing_after = ["receipt.signature"];
    assert_eq!(
        failed(&signed(receipt(), &key(2)), &expected()),
        nothing_after
    );
    for at in 0..64 {
        let mut altered = signed(receipt(), &key(1));
        altered.signed.signature.0[at] ^= 1;
        assert_eq!(failed(&altered, &expected()), nothing_after, "{at}");
    }
    // Under a key of small order, forged signatures verify unless strictly checked: this one for any message.
    let mut weak = expected();
    weak.meter_key = Hex32::ZERO;
    weak.meter_key.0[0] = 1;
    let mut forged = signed(receipt(), &key(1));
    forged.signed.signature = Hex64::ZERO;
    forged.signed.signature.0[0] = 1;
    let lax = VerifyingKey::from_bytes(&weak.meter_key.0).unwrap();
    let signature = Signature::from_bytes(&forged.signed.signature.0);
    let message = forged.signed.receipt.encode();
    assert!(ed25519_dalek::Verifier::verify(&lax, &message, &signature).is_ok());
    assert_eq!(failed(&forged, &weak), nothing_after);
    // Outcome and token counts are protected by the signature alone.
    assert!(refused(|receipt| receipt.outcome = Ended::Failed).is_empty());
    assert!(refused(|receipt| receipt.tokens.prompt += 1).is_empty());
    assert!(refused(|receipt| receipt.tokens.completion += 1).is_empty());
}

#[test]
fn cocoon_receipt_10() {
    assert_eq!(
        refused(|receipt| receipt.manifest_id.0[31] ^= 1),
        ["receipt.manifest"]
    );
    assert_eq!(
        refused(|receipt| receipt.model_digest.0[31] ^= 1),
        ["receipt.model"]
    );
    assert_eq!(
        refused(|receipt| receipt.evidence_digest.0[31] ^= 1),
        ["receipt.evidence"]
    );
    assert_eq!(
        refused(|receipt| receipt.nonce.0[31] ^= 1),
        ["receipt.nonce"]
    );
}

#[test]
fn cocoon_receipt_11() {
    assert_eq!(refused(|receipt| receipt.number = 5), ["receipt.number"]);
    assert_eq!(refused(|receipt| receipt.number = 7), ["receipt.number"]);
    let causes = |number| {
        let changed = Receipt {
            number,
            ..receipt()
        };
        let checks = judge(&signed(changed, &key(1)), &expected());
        let check = checks
            .into_iter()
            .find(|check| check.id == "receipt.number");
        check.unwrap().cause.unwrap()
    };
    assert_eq!(causes(5), "the receipt is an earlier one of the connection");
    assert_eq!(
        causes(7),
        "requests were served on the connection whose receipts were withheld"
    );
}

#[test]
fn cocoon_receipt_12() {
    assert_eq!(
        refused(|receipt| receipt.request.0[0] ^= 1),
        ["receipt.request"]
    );
    assert_eq!(
        refused(|receipt| receipt.response.0[0] ^= 1),
        ["receipt.response"]
    );
    let mut salted = signed(receipt(), &key(1));
    salted.salt.0[0] ^= 1;
    assert_eq!(
        failed(&salted, &expected()),
        ["receipt.request", "receipt.response"]
    );
    let unknown = Expected {
        number: None,
        request: None,
        response: None,
        ..expected()
    };
    let checks = judge(&salted, &unknown);
    let notes = checks.iter().filter(|check| check.outcome == Outcome::Note);
    assert_eq!(notes.count(), 3);
}

#[test]
fn cocoon_receipt_14() {
    let residue = |receipt: &mut Receipt| {
        let section = receipt.engine.as_mut().unwrap();
        section.residue_bytes = 1;
    };
    assert_eq!(refused(residue), ["receipt.engine"]);
    assert!(refused(|receipt| receipt.engine = None).is_empty());
    let mut on_processor = receipt();
    on_processor.engine = None;
    let checks = judge(&signed(on_processor, &key(1)), &expected());
    let last = checks.last().unwrap();
    assert_eq!(
        (last.outcome, last.cause.as_deref()),
        (Outcome::Note, Some("it computes on the processor"))
    );
}
