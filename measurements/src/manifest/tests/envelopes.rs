//! The one accepted form of envelopes and their statements.

use cocoon_protocol::bytes::Blob;
use ed25519_dalek::{Signer as _, SigningKey};
use serde_json::{Value, json};

use super::*;

/// Shows the envelope's exact form, and that a signature covers payload type and payload together.
#[test]
fn cocoon_manifest_8() {
    let bytes = sample().to_json();
    let envelope: Value = serde_json::from_slice(&sign(&bytes, &ALICE).unwrap()).unwrap();
    assert_eq!(envelope["payloadType"], "application/vnd.in-toto+json");
    assert_eq!(
        envelope["signatures"][0]["keyid"],
        hex::encode(public_key(&ALICE))
    );
    let payload: Blob = serde_json::from_value(envelope["payload"].clone()).unwrap();
    let statement: Value = serde_json::from_slice(&payload.0).unwrap();
    assert_eq!(statement["_type"], "https://in-toto.io/Statement/v1");
    assert_eq!(statement["predicateType"], "urn:oid:2.25.246214499");
    let subjects: Vec<_> = statement["subject"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["name"].as_str().unwrap())
        .collect();
    assert_eq!(subjects, ["manifest.json", "initrd.img", "vmlinuz"]);
    assert_eq!(
        statement["subject"][0]["digest"]["sha256"],
        manifest_id(&bytes).to_string()
    );

    let mut message = b"DSSEv1 28 application/vnd.in-toto+json ".to_vec();
    message.extend(format!("{} ", payload.0.len()).as_bytes());
    message.extend(&payload.0);
    let key = ed25519_dalek::VerifyingKey::from_bytes(&public_key(&ALICE)).unwrap();
    let signature: Blob = serde_json::from_value(envelope["signatures"][0]["sig"].clone()).unwrap();
    let signature = ed25519_dalek::Signature::from_slice(&signature.0).unwrap();
    key.verify_strict(&message, &signature).unwrap();

    let mut other_type = envelope.clone();
    other_type["payloadType"] = "text/plain".into();
    assert_eq!(
        refusal(
            &bytes,
            Some(other_type.to_string().as_bytes()),
            &signed_by(&[&ALICE], 1),
            NOW
        ),
        format!(
            "the signature file of manifest {} cannot be read: get it again from where the manifest came from: \
             envelope's payload is not of the type application/vnd.in-toto+json",
            manifest_id(&bytes)
        )
    );

    // A statement that names the manifest but contradicts it elsewhere is refused.
    let contradiction = format!(
        "manifest {} is signed with a statement that contradicts it, in its artefacts or in what is said of the release: \
         its signers sign it anew",
        manifest_id(&bytes)
    );
    let digest = |byte: u8| json!({ "sha256": Hex([byte; 32]).to_string() });
    let edits: [&dyn Fn(&mut Value); 11] = [
        &|s| s["subject"][1]["digest"] = digest(7),
        &|s| s["subject"][1]["digest"] = json!({}),
        &|s| s["subject"][1]["name"] = "initrd".into(),
        &|s| drop(subjects_of(s).pop()),
        &|s| subjects_of(s).push(json!({ "name": "model.img", "digest": digest(3) })),
        &|s| subjects_of(s).push(json!({ "name": "manifest.json", "digest": digest(3) })),
        &|s| {
            let again = s["subject"][0].clone();
            subjects_of(s).push(again);
        },
        &|s| s["predicate"]["release"] = 6.into(),
        &|s| s["predicate"]["variant"] = "cuda".into(),
        &|s| s["predicate"]["source_revision"] = "".into(),
        &|s| s["predicate"]["not_after"] = u64::MAX.into(),
    ];
    for (place, edit) in edits.into_iter().enumerate() {
        let mut edited = statement.clone();
        edit(&mut edited);
        let envelope = signed(&edited);
        let found = refusal(&bytes, Some(&envelope), &signed_by(&[&ALICE], 1), NOW);
        assert_eq!(found, contradiction, "edit {place}");
    }
    // Other tools may order and space the statement differently, and later releases may add fields.
    let accepted: [&dyn Fn(&mut Value); 2] = [&|s| subjects_of(s).reverse(), &|s| {
        s["predicate"]["later"] = true.into();
        s["later"] = true.into();
    }];
    for edit in accepted {
        let mut edited = statement.clone();
        edit(&mut edited);
        trust(
            &bytes,
            Some(&signed(&edited)),
            &signed_by(&[&ALICE], 1),
            NOW,
        )
        .unwrap();
    }
}

fn subjects_of(statement: &mut Value) -> &mut Vec<Value> {
    statement["subject"].as_array_mut().unwrap()
}

/// Envelope and statement are JSON, and so UTF-8, also where they are not read.
#[test]
fn no_text_of_an_envelope_is_anything_but_utf8() {
    let bytes = sample().to_json();
    let envelope = sign(&bytes, &ALICE).unwrap();
    let read: Value = serde_json::from_slice(&envelope).unwrap();
    let payload: Blob = serde_json::from_value(read["payload"].clone()).unwrap();
    let later = |json: &[u8], text: &[u8]| [b"{\"later\":\"", text, b"\",", &json[1..]].concat();
    let refused = |envelope: &[u8]| refusal(&bytes, Some(envelope), &signed_by(&[&ALICE], 1), NOW);
    for (text, fails) in [("é".as_bytes(), false), (b"\xe9", true)] {
        let read = trust(
            &bytes,
            Some(&later(&envelope, text)),
            &signed_by(&[&ALICE], 1),
            NOW,
        );
        assert_eq!(read.is_err(), fails);
        let said = payload_signed(later(&payload.0, text));
        let read = trust(&bytes, Some(&said), &signed_by(&[&ALICE], 1), NOW);
        assert_eq!(read.is_err(), fails);
    }
    let said = refused(&later(&envelope, b"\xe9"));
    assert!(
        said.contains("envelope is not a DSSE envelope in JSON: invalid utf-8"),
        "{said}"
    );
}

/// Returns an envelope in which Alice signs `statement`.
fn signed(statement: &Value) -> Vec<u8> {
    payload_signed(serde_json::to_vec_pretty(statement).unwrap())
}

fn payload_signed(payload: Vec<u8>) -> Vec<u8> {
    let head = format!("DSSEv1 28 {PAYLOAD_TYPE} {} ", payload.len());
    let message = [head.as_bytes(), &payload].concat();
    let sig = SigningKey::from_bytes(&ALICE).sign(&message).to_bytes();
    let envelope = json!({
        "payloadType": PAYLOAD_TYPE,
        "payload": Blob(payload),
        "signatures": [{ "sig": Blob(sig.to_vec()) }],
    });
    serde_json::to_vec(&envelope).unwrap()
}

/// An artefact with the manifest's own name would make the statement ambiguous.
#[test]
fn no_artefact_is_called_like_the_manifest() {
    let mut manifest = sample();
    let artefact = manifest.artefacts["vmlinuz"].clone();
    manifest.artefacts.insert(MANIFEST_SUBJECT.into(), artefact);
    let bytes = manifest.to_json();
    let envelope = sign(&bytes, &ALICE).unwrap();
    assert!(matches!(
        trust(&bytes, Some(&envelope), &signed_by(&[&ALICE], 1), NOW),
        Err(ManifestRefusal::OtherStatement { .. })
    ));
}
