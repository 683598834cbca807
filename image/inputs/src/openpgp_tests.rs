//! Tests of which signatures are accepted.

use super::*;
use crate::testing::{key, now, public, sign};

#[test]
fn a_good_signature_yields_exactly_the_signed_text() {
    let key = key();
    let keys = keyring(&public(&key)).expect("parses");
    let signed = verify(&sign("Suite: x\n- dash\n", &key), &keys, now()).expect("verifies");
    assert_eq!(signed.text.trim_end(), "Suite: x\n- dash");
    assert_eq!(signed.signer, key.primary_key.fingerprint().to_string());
}

#[test]
fn another_key_or_an_edited_text_does_not_count() {
    let (ours, theirs) = (key(), key());
    let keys = keyring(&public(&ours)).expect("parses");
    let fingerprint = theirs.primary_key.fingerprint();
    let error = verify(&sign("a", &theirs), &keys, now()).expect_err("unknown key");
    let expected = format!(
        "no valid signature by a key of the keyring (signatures: key {fingerprint} unknown)"
    );
    assert_eq!(error.to_string(), expected);

    let edited = String::from_utf8(sign("size 1\n", &ours))
        .expect("text")
        .replace("size 1", "size 2");
    assert!(matches!(
        verify(edited.as_bytes(), &keys, now()),
        Err(SignatureError::Untrusted { .. })
    ));
}

#[test]
fn text_around_the_message_is_refused() {
    let key = key();
    let keys = keyring(&public(&key)).expect("parses");
    let signed = sign("a\n", &key);
    for message in [
        [b"Suite: evil\n".as_slice(), &signed].concat(),
        [&signed, b"Suite: evil\n".as_slice()].concat(),
        Vec::new(),
    ] {
        assert!(matches!(
            verify(&message, &keys, now()),
            Err(SignatureError::Message(_))
        ));
    }
}

#[test]
fn a_signature_from_the_future_does_not_count() {
    let key = key();
    let keys = keyring(&public(&key)).expect("parses");
    let error = verify(&sign("a", &key), &keys, now() - 90_000).expect_err("from the future");
    assert_eq!(
        error.to_string(),
        "no valid signature by a key of the keyring (signatures: made in the future)"
    );
}

#[test]
fn an_empty_keyring_is_refused() {
    assert!(matches!(keyring(b""), Err(SignatureError::Keyring)));
    assert!(matches!(
        keyring(b"not a key at all"),
        Err(SignatureError::Keyring)
    ));
}
