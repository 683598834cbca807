//! Targets for receipts, as foreign bytes and signed with the meter key.

use std::sync::LazyLock;

use cocoon_measurements::receipt::{Expected, judge};
use cocoon_measurements::verdict::{Check, Outcome as Ended};
use cocoon_protocol::bytes::{Hex, Hex32};
use cocoon_protocol::receipt::{
    DELIVERY_LEN, Delivery, EngineSection, Outcome, RECEIPT_LEN, Receipt, SignedReceipt, Tokens,
    commit_request, commit_response,
};
use ed25519_dalek::{Signer as _, SigningKey};

use crate::edits::{self, flip};
use crate::memory::bounded;
use crate::platform::made;

/// Memory in bytes that parsing a receipt may hold at once: its text, its bytes and an error.
const READ: usize = 4 << 10;
const SALT: Hex32 = Hex([11; 32]);

static METER: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_bytes(&[0x66; 32]));

fn good() -> Receipt {
    Receipt {
        outcome: Outcome::Length,
        manifest_id: Hex([1; 32]),
        model_digest: Hex([2; 32]),
        evidence_digest: Hex([3; 32]),
        nonce: Hex([4; 32]),
        number: 5,
        tokens: Tokens {
            prompt: 6,
            completion: 7,
        },
        request: commit_request(&SALT, &Hex32::ZERO),
        response: commit_response(&SALT, &Hex32::ZERO),
        engine: Some(EngineSection {
            weights_root: Hex([12; 32]),
            scrubbed_bytes: 13,
            residue_bytes: 0,
        }),
    }
}

fn expected() -> Expected {
    let good = good();
    Expected {
        meter_key: Hex(METER.verifying_key().to_bytes()),
        manifest_id: good.manifest_id,
        model_digest: good.model_digest,
        evidence_digest: good.evidence_digest,
        nonce: good.nonce,
        number: Some(good.number),
        request: Some(Hex32::ZERO),
        response: Some(Hex32::ZERO),
    }
}

fn signed(receipt: Receipt) -> SignedReceipt {
    let signature = Hex(METER.sign(&receipt.encode()).to_bytes());
    SignedReceipt { receipt, signature }
}

fn accepted(delivery: &Delivery) -> bool {
    let failed = |check: &Check| check.outcome == Ended::Fail;
    !judge(delivery, &expected()).iter().any(failed)
}

/// Parses foreign bytes as a receipt, without verifying a signature. Each receipt has one encoding.
pub fn receipt_read(data: &[u8]) {
    if let Ok(signed) = bounded(READ, || SignedReceipt::parse(data)) {
        assert_eq!(signed.encode(), data, "two encodings of one receipt");
        delivered(signed);
    }
    if let Ok(delivery) = bounded(READ, || Delivery::parse(data)) {
        let text = delivery.to_text();
        assert_eq!(text.as_bytes(), data, "two texts of one receipt");
    }
}

/// Writes and parses the text in which a receipt is delivered.
fn delivered(signed: SignedReceipt) -> Delivery {
    let delivery = Delivery { signed, salt: SALT };
    let text = delivery.to_text();
    assert_eq!(text.len(), DELIVERY_LEN);
    assert_eq!(made(Delivery::parse(text.as_bytes())), delivery);
    delivery
}

/// Appraises foreign bytes as a receipt and as its text. Only the good receipt is accepted.
pub fn receipt(data: &[u8]) {
    receipt_read(data);
    if let Ok(read) = SignedReceipt::parse(data) {
        let original = read == signed(good());
        assert_eq!(accepted(&delivered(read)), original);
    }
    if let Ok(delivery) = Delivery::parse(data) {
        assert!(!accepted(&delivery) || delivery.signed == signed(good()));
    }
}

/// Appraises receipts that a script has changed before the meter key signed them. Outcome, token counts and engine section may
/// differ from the good receipt, as long as there is no residue.
pub fn receipt_signed(script: &[u8]) {
    let mut bytes = [0; RECEIPT_LEN];
    bytes.copy_from_slice(&edits::edited(script, &good().encode()));
    let Ok(receipt) = bounded(READ, || Receipt::parse(&bytes)) else {
        assert_ne!(bytes, good().encode(), "the good receipt is refused");
        return;
    };
    assert_eq!(receipt.encode(), bytes);
    let uncounted = Receipt {
        outcome: good().outcome,
        tokens: good().tokens,
        engine: match receipt.engine {
            Some(section) if section.residue_bytes > 0 => Some(section),
            _ => good().engine,
        },
        ..receipt.clone()
    };
    let delivery = Delivery {
        signed: signed(receipt),
        salt: SALT,
    };
    assert_eq!(accepted(&delivery), uncounted == good());
}

/// Returns the good receipt as bytes and as text.
pub fn receipt_seeds() -> Vec<Vec<u8>> {
    let signed = signed(good());
    let bytes = signed.encode().to_vec();
    let text = Delivery { signed, salt: SALT }.to_text();
    vec![bytes, text.as_bytes().to_vec()]
}

/// Returns scripts with one change in each field before the engine section.
pub fn receipt_script() -> Vec<Vec<u8>> {
    let offsets: [u16; 14] = [0, 16, 18, 19, 20, 52, 84, 116, 155, 163, 171, 179, 180, 212];
    let mut scripts: Vec<Vec<u8>> = offsets.iter().map(|at| flip(*at, 1).to_vec()).collect();
    scripts.push(Vec::new());
    scripts
}
