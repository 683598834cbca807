//! Size limits, sanitising of untrusted text, deterministic signing.

use cocoon_protocol::manifest::{MAX_MANIFEST_LEN, ManifestError};

use super::*;

#[test]
fn sizes_are_bounded() {
    let huge = vec![b' '; MAX_MANIFEST_LEN + 1];
    assert_eq!(
        refusal(&huge, None, &pinning(&huge), NOW),
        "the file is not a manifest this program can read: manifest of 1048577 bytes exceeds the limit of 1048576"
    );
    let bytes = sample().to_json();
    let long = vec![b' '; MAX_ENVELOPE_LEN + 1];
    assert!(
        refusal(&bytes, Some(&long), &signed_by(&[&ALICE], 1), NOW)
            .ends_with("envelope of 1048577 bytes exceeds the limit of 1048576")
    );
    let mut many: serde_json::Value =
        serde_json::from_slice(&sign(&bytes, &ALICE).unwrap()).unwrap();
    let signature = many["signatures"][0].clone();
    many["signatures"] = vec![signature; MAX_SIGNATURES + 1].into();
    assert!(
        refusal(
            &bytes,
            Some(many.to_string().as_bytes()),
            &signed_by(&[&ALICE], 1),
            NOW
        )
        .ends_with("envelope holds 65 signatures, at most 64 are allowed")
    );
}

#[test]
fn foreign_text_cannot_forge_lines() {
    assert_eq!(printable("a\nb\u{202e}c"), "a?b?c");
    assert_eq!(
        printable(&"x".repeat(200)),
        format!("{}...", "x".repeat(120))
    );
    assert_eq!(printable(""), "(no name)");
}

/// Signing is deterministic, so that rebuilders can compare envelopes byte by byte.
#[test]
fn signing_is_deterministic() {
    let bytes = sample().to_json();
    assert_eq!(sign(&bytes, &ALICE).unwrap(), sign(&bytes, &ALICE).unwrap());
    assert!(matches!(
        sign(b"{}", &ALICE),
        Err(SignError::Manifest(ManifestError::Malformed(_)))
    ));
}
