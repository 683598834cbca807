//! Malformed data wherever untrusted bytes are parsed: truncated, too long, or without any structure. Nothing panics,
//! nothing is accepted, and each refusal names the piece that it is about.

use cocoon_measurements::manifest::{ManifestTrust, public_key, sign, trust};
use cocoon_measurements::verdict::{Class, Verdict};
use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::{Blob, Hex32};
use cocoon_protocol::document::{
    Collateral, Document, Evidence, MAX_BOOT_DOCUMENT_LEN, MAX_DOCUMENT_LEN,
};

use crate::machine::{IMAGE, Machine, NOW, SIGNER, judge, policy, refused};

const SIGNATURE: &str = "evidence.signature";

#[track_caller]
fn unreadable(bytes: &[u8], limit: usize, expected: &str) {
    let error = Document::parse(bytes, limit).unwrap_err();
    let verdict = Verdict::from(&error);
    assert_eq!(
        (verdict.class, verdict.authorizes()),
        (Class::Rejected, None)
    );
    let [row] = verdict.failures().collect::<Vec<_>>()[..] else {
        panic!("{verdict:#?}")
    };
    assert_eq!(row.id, "document.form");
    assert_eq!(row.cause.as_deref(), Some(expected));
}

const SCHEMA: &str = "attestation document is not JSON of the expected schema: ";

#[test]
fn documents_cut_short() {
    let json = Machine::good(Tee::SevSnp).document().to_json();
    for length in (0..json.len()).step_by(97) {
        // The JSON parser determines the text for a document truncated here.
        let missing = serde_json::from_slice::<serde_json::Value>(&json[..length]).unwrap_err();
        assert!(missing.is_eof(), "{missing}");
        unreadable(
            &json[..length],
            MAX_DOCUMENT_LEN,
            &format!("{SCHEMA}{missing}"),
        );
    }
}

#[test]
fn documents_too_long() {
    let mut json = Machine::good(Tee::Tdx).document().to_json();
    json.resize(MAX_DOCUMENT_LEN + 1, b' ');
    unreadable(
        &json,
        MAX_DOCUMENT_LEN,
        "attestation document of 4194305 bytes exceeds the limit of 4194304",
    );
    json.truncate(MAX_BOOT_DOCUMENT_LEN + 1);
    unreadable(
        &json,
        MAX_BOOT_DOCUMENT_LEN,
        "attestation document of 16385 bytes exceeds the limit of 16384",
    );
}

#[test]
fn documents_of_no_form() {
    for (garbage, reason) in [
        (&b"nonsense"[..], "expected ident at line 1 column 2"),
        (b"", "EOF while parsing a value at line 1 column 0"),
        (
            b"[]",
            "invalid length 0, expected struct Document with 11 elements at line 1 column 2",
        ),
        (
            b"null",
            "invalid type: null, expected struct Document at line 1 column 4",
        ),
        (&[0xff; 64], "expected value at line 1 column 1"),
        (
            b"{\"version\":1}",
            "missing field `kind` at line 1 column 13",
        ),
    ] {
        unreadable(garbage, MAX_DOCUMENT_LEN, &format!("{SCHEMA}{reason}"));
    }
    // Nested so deeply that a recursive parser without a limit would overflow its stack.
    let deep = vec![b'['; MAX_DOCUMENT_LEN];
    unreadable(
        &deep,
        MAX_DOCUMENT_LEN,
        &format!("{SCHEMA}invalid type: sequence, expected u16 at line 1 column 1"),
    );
}

/// Returns the verdict on a good document that `edit` changed.
fn with(tee: Tee, edit: impl FnOnce(&mut Document)) -> Verdict {
    let mut document = Machine::good(tee).document();
    edit(&mut document);
    judge(&document, &policy())
}

fn quote(edit: impl FnOnce(&mut Vec<u8>)) -> Verdict {
    with(Tee::Tdx, |document| match &mut document.evidence {
        Evidence::Tdx { quote, .. } => edit(&mut quote.0),
        Evidence::SevSnp { .. } => panic!("TDX evidence was made"),
    })
}

fn report(edit: impl FnOnce(&mut Vec<u8>)) -> Verdict {
    with(Tee::SevSnp, |document| match &mut document.evidence {
        Evidence::SevSnp { report, .. } => edit(&mut report.0),
        Evidence::Tdx { .. } => panic!("SNP evidence was made"),
    })
}

fn stapled(edit: impl FnOnce(&mut Vec<Blob>, &mut Option<Blob>)) -> Verdict {
    with(Tee::SevSnp, |document| match &mut document.collateral {
        Some(Collateral::SevSnp { certificates, crl }) => edit(certificates, crl),
        _ => panic!("SNP has SNP's collateral"),
    })
}

fn json(bytes: Vec<u8>) -> Verdict {
    with(Tee::Tdx, |document| {
        document.collateral = Some(Collateral::Tdx { json: bytes.into() });
    })
}

#[test]
fn quotes() {
    refused(
        &quote(Vec::clear),
        &[(
            SIGNATURE,
            "TDX quote cannot be decoded: Could not decode `Header::version`: Not enough data to fill buffer",
        )],
    );
    refused(
        &quote(|bytes| bytes.fill(0xff)),
        &[(
            SIGNATURE,
            "TDX quote cannot be decoded: Unsupported quote version",
        )],
    );
    refused(
        &quote(|bytes| bytes.resize((64 << 10) + 1, 0)),
        &[(SIGNATURE, "TDX quote has 65537 bytes, more than 65536")],
    );
    let length = {
        let Evidence::Tdx { quote, .. } = Machine::good(Tee::Tdx).document().evidence else {
            panic!("TDX evidence was made")
        };
        quote.0.len()
    };
    for cut in (0..length).step_by(211) {
        let verdict = quote(|bytes| bytes.truncate(cut));
        let [row] = verdict.failures().collect::<Vec<_>>()[..] else {
            panic!("cut at {cut}: {verdict:#?}")
        };
        assert_eq!(row.id, SIGNATURE, "cut at {cut}: {row:?}");
    }
}

#[test]
fn reports() {
    for length in [0, 1, 1183, 1185, 1 << 20] {
        refused(
            &report(|bytes| bytes.resize(length, 0)),
            &[(
                SIGNATURE,
                &format!("SNP report has {length} bytes, 1184 expected"),
            )],
        );
    }
    refused(
        &report(|bytes| bytes.fill(0xff)),
        &[(
            SIGNATURE,
            "SNP report has version 4294967295, 2 to 5 expected",
        )],
    );
    // A bit that belongs to no field of this version: a verifier must not accept signed data that it does not understand.
    refused(
        &report(|bytes| bytes[0x18c] = 1),
        &[(
            SIGNATURE,
            "SNP report cannot be decoded: Skipped bytes were expected to be zeroed.",
        )],
    );
}

#[test]
fn endorsements_of_intel() {
    let schema =
        |reason: &str| format!("TDX collateral is not JSON of the expected schema: {reason}");
    refused(
        &json(Vec::new()),
        &[(
            SIGNATURE,
            &schema("EOF while parsing a value at line 1 column 0"),
        )],
    );
    refused(
        &json(b"nonsense".to_vec()),
        &[(SIGNATURE, &schema("expected ident at line 1 column 2"))],
    );
    refused(
        &json(vec![b' '; (4 << 20) + 1]),
        &[(
            SIGNATURE,
            "TDX collateral has 4194305 bytes, more than 4194304",
        )],
    );
}

#[test]
fn endorsements_of_amd() {
    let text = |what: &str| format!("the SNP report's certificates do not hold: {what}");
    for (at, name) in [(0, "the VCEK or VLEK"), (1, "the ASK")] {
        refused(
            &stapled(|certificates, _| certificates[at].0.resize(8193, 0)),
            &[(
                SIGNATURE,
                &text(&format!("{name} has 8193 bytes, more than 8192")),
            )],
        );
        let mut whole = 0;
        let verdict = stapled(|certificates, _| {
            whole = certificates[at].0.len();
            certificates[at].0.truncate(100);
        });
        refused(
            &verdict,
            &[(
                SIGNATURE,
                &text(&format!(
                    "{name} is not X.509 in DER: ASN.1 DER message is incomplete: expected {whole}, actual 100 at DER \
                     byte 4"
                )),
            )],
        );
    }
    refused(
        &stapled(|_, crl| *crl = Some(vec![0; (256 << 10) + 1].into())),
        &[(
            SIGNATURE,
            &text("the ARK's revocation list has 262145 bytes, more than 262144"),
        )],
    );
    // A thousand certificates do not form a chain.
    refused(
        &stapled(|certificates, _| *certificates = vec![Blob(vec![0; 16]); 1000]),
        &[(
            SIGNATURE,
            &text("the VCEK or VLEK is not X.509 in DER: unknown/unsupported ASN.1 DER tag: 0x00"),
        )],
    );
}

#[test]
fn manifests_and_envelopes() {
    let bytes = IMAGE.manifest(NOW).to_json();
    let envelope = sign(&bytes, &SIGNER).unwrap();
    let believed = ManifestTrust {
        signers: vec![public_key(&SIGNER)],
        ..ManifestTrust::default()
    };
    let refusal = |bytes: &[u8], envelope: &[u8]| {
        Verdict::from(&trust(bytes, Some(envelope), &believed, NOW).unwrap_err())
    };
    for cut in (0..bytes.len()).step_by(499) {
        let verdict = refusal(&bytes[..cut], &envelope);
        let cause = verdict.failures().next().unwrap().cause.clone().unwrap();
        let missing = serde_json::from_slice::<serde_json::Value>(&bytes[..cut]).unwrap_err();
        assert_eq!(
            cause,
            format!(
                "the file is not a manifest this program can read: manifest is not JSON of the expected schema: {missing}"
            )
        );
    }
    let id = Hex32::sha256(&bytes);
    for cut in (0..envelope.len() - 2).step_by(97) {
        let verdict = refusal(&bytes, &envelope[..cut]);
        let cause = verdict.failures().next().unwrap().cause.clone().unwrap();
        let missing = serde_json::from_slice::<serde_json::Value>(&envelope[..cut]).unwrap_err();
        assert_eq!(
            cause,
            format!(
                "the signature file of manifest {id} cannot be read: get it again from where the manifest came from: envelope is not a DSSE envelope in JSON: {missing}"
            )
        );
    }
}
