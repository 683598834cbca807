//! Tests of documents that are accepted and of documents that are refused.

use super::*;
use crate::bytes::Hex;

pub(super) fn document() -> Document {
    Document {
        version: DOCUMENT_VERSION,
        kind: Kind::Boot,
        claims: Claims {
            tee: Tee::Tdx,
            leaf_spki_sha256: Hex([1; 32]),
            meter_key: Hex([2; 32]),
            manifest_id: Hex([3; 32]),
            model_digest: Hex([4; 32]),
            config_digest: Hex([5; 48]),
            gpu_section_digest: Hex32::ZERO,
        },
        nonce: Hex32::ZERO,
        evidence: Evidence::Tdx {
            quote: Blob(vec![1, 2, 3]),
            event_log: Blob::default(),
        },
        config: Blob(b"{}".to_vec()),
        collateral: None,
        batch: None,
        gpu: None,
        gpu_collateral: None,
        named: None,
    }
}

/// Returns the JSON of a document with the first occurrence of `from` replaced.
fn edited(from: &str, to: &str) -> Vec<u8> {
    let json = String::from_utf8(document().to_json()).unwrap();
    assert!(json.contains(from), "{json}");
    json.replacen(from, to, 1).into_bytes()
}

#[test]
fn cocoon_doc_1() {
    let json = document().to_json();
    assert_eq!(Document::parse(&json, json.len()).unwrap(), document());
    assert_eq!(
        Document::parse(&json, json.len() - 1)
            .unwrap_err()
            .to_string(),
        format!(
            "attestation document of {} bytes exceeds the limit of {}",
            json.len(),
            json.len() - 1
        )
    );
    assert_eq!(
        (MAX_BOOT_DOCUMENT_LEN, MAX_DOCUMENT_LEN),
        (16_384, 4_194_304)
    );
}

#[test]
fn cocoon_doc_2() {
    for (from, to) in [
        ("{\"version\"", "{\"extra\":1,\"version\""),
        ("{\"tee\"", "{\"extra\":1,\"tee\""),
        ("{\"quote\"", "{\"extra\":1,\"quote\""),
        ("{\"version\":1", "{\"version\":1,\"version\":1"),
        ("\"boot\"", "\"other\""),
    ] {
        let error = Document::parse(&edited(from, to), MAX_DOCUMENT_LEN).unwrap_err();
        assert!(
            matches!(error, DocumentError::Malformed(_)),
            "{to}: {error}"
        );
    }
    let error = Document::parse(
        &edited("{\"version\":1", "{\"version\":2"),
        MAX_DOCUMENT_LEN,
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "attestation document has version 2, this verifier knows version 1: update it"
    );
    let mut behind = document().to_json();
    behind.push(b'x');
    assert!(matches!(
        Document::parse(&behind, MAX_DOCUMENT_LEN),
        Err(DocumentError::Malformed(_))
    ));
}

#[test]
fn cocoon_doc_3() {
    let error = Document::parse(
        &edited("\"tee\":\"tdx\"", "\"tee\":\"sev-snp\""),
        MAX_DOCUMENT_LEN,
    )
    .unwrap_err();
    assert_eq!(
        error.to_string(),
        "attestation document claims sev-snp but carries evidence of tdx"
    );
}

#[test]
fn cocoon_batch_3() {
    let place = |leaves, index, hashes| Batch {
        leaves,
        index,
        path: vec![Hex([7; 32]); hashes],
    };
    let reason = |kind, batch: Batch| {
        let shared = Document {
            kind,
            batch: Some(batch),
            ..document()
        };
        match Document::parse(&shared.to_json(), MAX_DOCUMENT_LEN) {
            Ok(parsed) => {
                assert_eq!(parsed, shared);
                String::new()
            }
            Err(DocumentError::Batch(error)) => error.to_string(),
            Err(error) => error.to_string(),
        }
    };
    // Positions in full and in odd batches, where the last leaf has a shorter path.
    for (leaves, index, hashes) in [(32, 31, 5), (5, 3, 3), (5, 4, 1), (2, 0, 1)] {
        assert_eq!(reason(Kind::Session, place(leaves, index, hashes)), "");
    }
    for (leaves, index, hashes, expected) in [
        (0, 0, 0, "a batch has 2 to 32 sessions, this one has 0"),
        (1, 0, 0, "a batch has 2 to 32 sessions, this one has 1"),
        (33, 0, 6, "a batch has 2 to 32 sessions, this one has 33"),
        (5, 5, 3, "session 5 of a batch of 5: they count from zero"),
        (
            5,
            4,
            3,
            "a path of 3 hashes, where session 4 of a batch of 5 has 1",
        ),
        (
            32,
            0,
            6,
            "a path of 6 hashes, where session 0 of a batch of 32 has 5",
        ),
        (
            2,
            0,
            0,
            "a path of 0 hashes, where session 0 of a batch of 2 has 1",
        ),
    ] {
        assert_eq!(
            reason(Kind::Session, place(leaves, index, hashes)),
            expected
        );
    }
    assert_eq!(
        reason(Kind::Boot, place(2, 0, 1)),
        "attestation document of the boot has a place in a batch: only sessions share evidence"
    );
    // The field is left out of the JSON if there is no batch, and its object accepts no unknown fields.
    assert!(
        !String::from_utf8(document().to_json())
            .unwrap()
            .contains("batch")
    );
    let error = Document::parse(
        &edited(
            "{\"version\"",
            "{\"batch\":{\"leaves\":2,\"index\":0,\"path\":[],\"extra\":1},\"version\"",
        ),
        MAX_DOCUMENT_LEN,
    );
    assert!(matches!(error, Err(DocumentError::Malformed(_))));
}

#[test]
fn evidence_of_snp_round_trips() {
    let mut snp = document();
    snp.claims.tee = Tee::SevSnp;
    snp.evidence = Evidence::SevSnp {
        report: Blob(vec![9]),
        certificates: vec![Blob(vec![8])],
    };
    snp.collateral = Some(Collateral::SevSnp {
        certificates: Vec::new(),
        crl: None,
    });
    assert_eq!(
        Document::parse(&snp.to_json(), MAX_DOCUMENT_LEN).unwrap(),
        snp
    );
}

/// GPU evidence is only allowed in session documents, GPU collateral only with evidence, and both must be well formed.
#[test]
fn documents_have_gpus_where_they_have_a_place() {
    use crate::gpu_section::tests::section;
    let with = |edit: fn(&mut Document)| {
        let mut changed = Document {
            kind: Kind::Session,
            gpu: Some(section()),
            gpu_collateral: Some(GpuCollateral {
                rims: vec!["<xml/>".into()],
                ocsp: vec![Blob(vec![1])],
            }),
            ..document()
        };
        edit(&mut changed);
        match Document::parse(&changed.to_json(), MAX_DOCUMENT_LEN) {
            Ok(parsed) => {
                assert_eq!(parsed, changed);
                String::new()
            }
            Err(error) => {
                let source = std::error::Error::source(&error);
                source.map_or_else(|| error.to_string(), |source| format!("{error}: {source}"))
            }
        }
    };
    const STRAY: &str = "attestation document has evidence or collateral of GPUs where none has a place: in a boot document, \
                         or without a GPU section";
    type Edit = fn(&mut Document);
    let cases: [(Edit, &str); 6] = [
        (|_| (), ""),
        (|d| d.gpu_collateral = None, ""),
        (|d| d.kind = Kind::Boot, STRAY),
        (|d| d.gpu = None, STRAY),
        (
            |d| d.gpu.as_mut().unwrap().gpus.clear(),
            "attestation document has a GPU section of no form: a GPU section has 1 to 16 GPUs, this one has 0",
        ),
        (
            |d| d.gpu_collateral.as_mut().unwrap().ocsp[0].0.clear(),
            "attestation document has collateral of GPUs of no form: no bytes of an OCSP response, where there must be some",
        ),
    ];
    for (edit, expected) in cases {
        assert_eq!(with(edit), expected);
    }
    // Both fields are left out of the JSON if they are absent.
    let text = String::from_utf8(document().to_json()).unwrap();
    assert!(!text.contains("\"gpu\"") && !text.contains("\"gpu_collateral\""));
}
