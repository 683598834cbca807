//! Tests of the layout byte by byte, and of receipts that must be refused.

use super::*;
use crate::bytes::Hex;
use proptest::prelude::*;

fn receipt() -> Receipt {
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
        request: Hex([8; 32]),
        response: Hex([9; 32]),
        engine: Some(EngineSection {
            weights_root: Hex([12; 32]),
            scrubbed_bytes: 13,
            residue_bytes: 14,
        }),
    }
}

fn delivery() -> Delivery {
    Delivery {
        signed: SignedReceipt {
            receipt: receipt(),
            signature: Hex([10; 64]),
        },
        salt: Hex([11; 32]),
    }
}

#[test]
fn cocoon_receipt_1() {
    let bytes = receipt().encode();
    assert_eq!(&bytes[..16], b"cocoon-receipt-1");
    assert_eq!(&bytes[16..20], &[0, 2, 2, 1]);
    for (at, value) in [
        (20, 1),
        (52, 2),
        (84, 3),
        (116, 4),
        (180, 8),
        (212, 9),
        (244, 12),
    ] {
        assert_eq!(bytes[at..at + 32], [value; 32], "field at offset {at}");
    }
    for (at, value) in [(148, 5), (156, 6), (164, 7), (172, 0), (276, 13), (284, 14)] {
        assert_eq!(
            bytes[at..at + 8],
            u64::to_be_bytes(value),
            "field at offset {at}"
        );
    }
    let signed = delivery().signed.encode();
    assert_eq!(
        (&signed[..RECEIPT_LEN], &signed[RECEIPT_LEN..]),
        (&bytes[..], &[10; 64][..])
    );
    assert_eq!(
        (RECEIPT_LEN, SIGNED_LEN, DELIVERY_LEN, signed.len()),
        (292, 356, 520, 356)
    );
    let on_processor = Receipt {
        engine: None,
        ..receipt()
    };
    let bytes = on_processor.encode();
    assert_eq!((bytes[19], &bytes[244..]), (0, &[0; 48][..]));
    assert_eq!(Receipt::parse(&bytes), Ok(on_processor));
}

/// The example of SPEC.md §11, for second implementations.
#[test]
fn the_example_of_the_specification() {
    assert_eq!(Hex32::sha256(&receipt().encode()).to_string(), EXAMPLE);
    let digest = Hex32::sha256(b"{}");
    let salt = Hex([11; 32]);
    assert_eq!(commit_request(&salt, &digest).to_string(), EXAMPLE_REQUEST);
    assert_eq!(
        commit_response(&salt, &digest).to_string(),
        EXAMPLE_RESPONSE
    );
}

const EXAMPLE: &str = "486fed37ddcb74796da4893d8a0fc7798807952d4ae9b76edf29817443d5a302";
const EXAMPLE_REQUEST: &str = "06a73ba2b5e5e3edccd8284f4a26528b1f8f25efed1bdc893c743c54e608f2c9";
const EXAMPLE_RESPONSE: &str = "07f78a688923cb99a38179ea0971252ff417a6010a1ce7e6a83f5ea84eb52e59";

#[test]
fn cocoon_receipt_2() {
    let good = delivery().signed.encode();
    let refused = |edit: fn(&mut [u8; SIGNED_LEN])| {
        let mut bytes = good;
        edit(&mut bytes);
        SignedReceipt::parse(&bytes).unwrap_err()
    };
    assert_eq!(refused(|b| b[0] ^= 1), ReceiptError::Tag);
    assert_eq!(refused(|b| b[15] = b'2'), ReceiptError::Tag);
    assert_eq!(refused(|b| b[17] = 1), ReceiptError::Version(1));
    assert_eq!(refused(|b| b[18] = 0), ReceiptError::Outcome(0));
    assert_eq!(refused(|b| b[18] = 4), ReceiptError::Outcome(4));
    // An engine section without its byte, the byte without a section, an unknown byte, and zero scrubbed bytes.
    assert_eq!(refused(|b| b[19] = 0), ReceiptError::Engine(0));
    assert_eq!(refused(|b| b[244..].fill(0)), ReceiptError::Engine(1));
    assert_eq!(refused(|b| b[19] = 2), ReceiptError::Engine(2));
    assert_eq!(refused(|b| b[283] = 0), ReceiptError::Engine(1));
    assert_eq!(refused(|b| b[155] = 0), ReceiptError::Number);
    assert_eq!(refused(|b| b[179] = 9), ReceiptError::Cached(9));
    for found in [0, SIGNED_LEN - 1, SIGNED_LEN + 1] {
        let bytes = vec![0; found];
        assert_eq!(
            SignedReceipt::parse(&bytes),
            Err(ReceiptError::Length {
                unit: "bytes",
                expected: SIGNED_LEN,
                found
            })
        );
    }
}

/// The length of a delivery is constant. A length that varied could reveal the contents, which are for the client alone.
#[test]
fn cocoon_receipt_3() {
    let text = delivery().to_text();
    assert_eq!(text.len(), DELIVERY_LEN);
    assert_eq!(Delivery::parse(text.as_bytes()), Ok(delivery()));
    let mut other = delivery();
    other.signed.receipt.tokens.prompt = u64::MAX;
    other.signed.receipt.number = u64::MAX;
    assert_eq!(other.to_text().len(), DELIVERY_LEN);
    let short = &text[..DELIVERY_LEN - 4];
    assert_eq!(
        Delivery::parse(short.as_bytes()),
        Err(ReceiptError::Length {
            unit: "characters",
            expected: DELIVERY_LEN,
            found: DELIVERY_LEN - 4
        })
    );
    let foreign = text.replacen('A', "*", 1);
    assert_eq!(
        Delivery::parse(foreign.as_bytes()),
        Err(ReceiptError::Base64)
    );
    // Text of the right length without its padding decodes to two more bytes.
    let unpadded = text.replace('=', "A");
    assert_eq!(
        Delivery::parse(unpadded.as_bytes()).unwrap_err(),
        ReceiptError::Length {
            unit: "bytes",
            expected: SIGNED_LEN,
            found: SIGNED_LEN + 2
        }
    );
}

#[test]
fn cocoon_receipt_4() {
    let (salt, body) = (Hex([11; 32]), Hex32::sha256(b"a likely question"));
    let commitment = commit_request(&salt, &body);
    let by_hand = [&b"cocoon-request-1"[..], &salt.0, &body.0].concat();
    assert_eq!(commitment, Hex32::sha256(&by_hand));
    let by_hand = [&b"cocoon-response1"[..], &salt.0, &body.0].concat();
    assert_eq!(commit_response(&salt, &body), Hex32::sha256(&by_hand));
    assert_ne!(commitment, commit_response(&salt, &body));
    assert_ne!(commitment, commit_request(&Hex([12; 32]), &body));
}

#[test]
fn receipts_for_programs_have_names() {
    let json = serde_json::to_value(receipt()).unwrap();
    assert_eq!(json["outcome"], "length");
    assert_eq!(
        json["tokens"],
        serde_json::json!({ "prompt": 6, "completion": 7 })
    );
}

proptest! {
    #[test]
    fn what_is_read_is_written_the_same(mut bytes in prop::array::uniform32(any::<u8>()), at in 0..SIGNED_LEN, flip in 1..=255_u8) {
        let mut signed = delivery().signed.encode();
        signed[20..52].swap_with_slice(&mut bytes);
        signed[at] ^= flip;
        if let Ok(read) = SignedReceipt::parse(&signed) {
            prop_assert_eq!(read.encode(), signed);
        } else {
            let counted = [148..156, 172..180, 276..284];
            prop_assert!(at < 20 || counted.iter().any(|range| range.contains(&at)), "{}", at);
        }
    }
}
