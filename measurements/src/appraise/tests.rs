//! Appraisals of made-up claims: a mismatch in each row, with its exact cause. Signed evidence is tampered with in the
//! workspace's `tests/attestation`, where the simulator makes it.

use cocoon_protocol::{
    binding::{self, Claims, Tee},
    bytes::{Blob, Hex, Hex32, Hex64},
    config::{self, OperatorConfig},
    document::{Collateral, DEVELOPMENT_ROOT_OID, DOCUMENT_VERSION, Document, Evidence, Kind},
    manifest::Manifest,
};

use super::{Freshness, Presented, appraise, evidence};
use crate::{
    manifest::{ManifestTrust, TrustedManifest, tests::sample, trust},
    policy::Policy,
    verdict::{Check, Class, Outcome},
};

mod batch_rows;
mod binding_rows;
mod gpu_rows;
mod platform_rows;
mod rtmr_rows;
mod snp_rows;
mod tdx_boot;
mod tdx_rows;
mod untimely_rows;

/// A change to a good value.
type Edit<T> = fn(&mut T);

const NOW: u64 = 1_800_000_000;
const LEAF: Hex32 = Hex([0x21; 32]);
const FRESH: Freshness = Freshness {
    nonce: Hex([0x31; 32]),
    exporter: Hex([0x32; 32]),
};

fn trusted(manifest: &Manifest) -> TrustedManifest {
    let bytes = manifest.to_json();
    let pinned = vec![Hex32::sha256(&bytes)];
    trust(
        &bytes,
        None,
        &ManifestTrust {
            pinned,
            allow_unlocked: true,
            ..ManifestTrust::default()
        },
        NOW,
    )
    .unwrap()
}

fn document(tee: Tee, manifest: &TrustedManifest) -> Document {
    let config = OperatorConfig::default().canonical();
    let evidence = match tee {
        Tee::Tdx => Evidence::Tdx {
            quote: Blob::default(),
            event_log: Blob::default(),
        },
        Tee::SevSnp => Evidence::SevSnp {
            report: Blob::default(),
            certificates: Vec::new(),
        },
    };
    Document {
        version: DOCUMENT_VERSION,
        kind: Kind::Session,
        claims: Claims {
            tee,
            leaf_spki_sha256: LEAF,
            meter_key: Hex([0x22; 32]),
            manifest_id: manifest.id(),
            model_digest: manifest.model.verity_root,
            config_digest: config::digest(tee, &config),
            gpu_section_digest: Hex32::ZERO,
        },
        nonce: FRESH.nonce,
        evidence,
        config: Blob(config),
        collateral: None,
        batch: None,
        gpu: None,
        gpu_collateral: None,
        named: None,
    }
}

fn session(document: &Document) -> Presented<'_> {
    Presented {
        document,
        leaf_spki_sha256: LEAF,
        fresh: Some(FRESH),
        handshake_gpus: None,
    }
}

fn bound(claims: &Claims, fresh: Freshness) -> Hex64 {
    binding::report_data(&binding::session(claims, &fresh))
}

/// Returns id and cause of the failed row, which must be exactly one.
#[track_caller]
fn only_failure(checks: &[Check]) -> (&'static str, &str) {
    let failed: Vec<_> = checks
        .iter()
        .filter(|check| check.outcome == Outcome::Fail)
        .collect();
    let [check] = failed[..] else {
        panic!("one failed check expected: {failed:#?}")
    };
    assert!(
        check
            .advice
            .as_ref()
            .is_some_and(|advice| !advice.is_empty()),
        "{} gives no advice",
        check.id
    );
    (check.id, check.cause.as_deref().unwrap())
}

#[track_caller]
fn no_failure(checks: &[Check]) {
    let failed: Vec<_> = checks
        .iter()
        .filter(|check| check.outcome == Outcome::Fail)
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn cocoon_verdict_6() {
    let manifest = trusted(&sample());
    for tee in [Tee::Tdx, Tee::SevSnp] {
        let document = document(tee, &manifest);
        let verdict = appraise(&session(&document), &manifest, &Policy::default(), NOW);
        assert_eq!(verdict.class, Class::Rejected);
        assert_eq!(verdict.authorizes(), None);
        assert_eq!(
            only_failure(&verdict.checks),
            (
                "evidence.collateral",
                "missing collateral: without the vendor's certificates and revocation data nothing vouches for the evidence"
            )
        );
        let compared = verdict
            .checks
            .iter()
            .any(|c| c.id.starts_with("tdx.") || c.id.starts_with("snp."));
        assert!(
            !compared,
            "nothing unverified is compared: {:#?}",
            verdict.checks
        );
        let last = verdict.checks.last().unwrap();
        assert_eq!(
            (last.id, last.outcome),
            ("evidence.measurements", Outcome::Note)
        );
    }
}

#[test]
fn endorsements_of_another_vendor_are_refused() {
    let manifest = trusted(&sample());
    let tdx = Collateral::Tdx {
        json: Blob::default(),
    };
    let snp = Collateral::SevSnp {
        certificates: Vec::new(),
        crl: None,
    };
    for (tee, collateral) in [(Tee::Tdx, snp), (Tee::SevSnp, tdx)] {
        let document = Document {
            collateral: Some(collateral),
            ..document(tee, &manifest)
        };
        let verdict = appraise(&session(&document), &manifest, &Policy::default(), NOW);
        let expected = (
            "evidence.collateral",
            "the endorsements are another vendor's than the evidence",
        );
        assert_eq!(only_failure(&verdict.checks), expected);
    }
}

/// Returns an SEV-SNP report of zeroes, except for the given fields.
fn boot_report(report_data: &Hex64) -> Vec<u8> {
    let mut report = vec![0; crate::snp::report::REPORT_LENGTH];
    report[0x0a] = 2; // bit 17 of the policy: reserved, always set
    report[0x50..0x90].copy_from_slice(&report_data.0);
    report
}

/// A boot document is compared with the boot binding, is reported as not verified, and never authorises.
#[test]
fn cocoon_bind_6() {
    let mut reference = sample();
    reference
        .snp
        .launch
        .push(cocoon_protocol::manifest::SnpLaunch {
            cpu_model: "EPYC-v4".into(),
            vcpus: 1,
            digest: Hex([0; 48]),
        });
    let manifest = trusted(&reference);
    let mut document = Document {
        kind: Kind::Boot,
        nonce: Hex32::ZERO,
        ..document(Tee::SevSnp, &manifest)
    };
    let mut report = boot_report(&binding::report_data(&binding::boot(&document.claims)));
    report[0xc0..0xe0].copy_from_slice(&document.claims.config_digest.0[..32]);
    document.evidence = Evidence::SevSnp {
        report: Blob(report),
        certificates: Vec::new(),
    };
    let presented = Presented {
        fresh: None,
        ..session(&document)
    };
    let verdict = appraise(&presented, &manifest, &Policy::default(), NOW);
    no_failure(&verdict.checks);
    assert_eq!(
        (verdict.class, verdict.authorizes()),
        (Class::Simulated, None)
    );
    let note = verdict
        .checks
        .iter()
        .find(|check| check.id == "evidence.signature")
        .unwrap();
    assert_eq!(note.outcome, Outcome::Note);
    // The same document as a session's has the wrong kind, the wrong nonce and no collateral.
    let verdict = appraise(&session(&document), &manifest, &Policy::default(), NOW);
    let failed: Vec<_> = verdict.failures().map(|check| check.id).collect();
    assert_eq!(
        failed,
        ["document.kind", "document.nonce", "evidence.collateral"]
    );
}

/// Returns a vendor's root certificate with the extension of development roots, and so without a valid signature.
fn marked_root() -> Vec<u8> {
    use x509_cert::{
        Certificate,
        der::{DecodePem as _, Encode as _, asn1::OctetString, oid::ObjectIdentifier},
        ext::Extension,
    };
    let mut certificate = Certificate::from_pem(sev::certs::snp::builtin::milan::ARK).unwrap();
    let extension = Extension {
        extn_id: ObjectIdentifier::new_unwrap(DEVELOPMENT_ROOT_OID),
        critical: true,
        extn_value: OctetString::new([5, 0]).unwrap(),
    };
    certificate
        .tbs_certificate
        .extensions
        .get_or_insert_default()
        .push(extension);
    certificate.to_der().unwrap()
}

#[test]
fn cocoon_root_2() {
    let marked = marked_root();
    let refused =
        |tee| evidence::choose_root(&Policy::default(), vec![marked.clone()], tee).unwrap_err();
    assert_eq!(
        refused(Tee::Tdx).cause.unwrap(),
        "development root not named: this TDX quote comes from simulated hardware, and no development root for it was named"
    );
    assert_eq!(
        refused(Tee::SevSnp).cause.unwrap(),
        "development root not named: this SEV-SNP report comes from simulated hardware, and no development root for it was named"
    );
    let named = Policy {
        development_roots: vec![marked.clone()],
        ..Policy::default()
    };
    let root = evidence::choose_root(&named, vec![marked.clone()], Tee::Tdx).unwrap();
    assert_eq!(root.class(), crate::roots::RootClass::Development);
    // A named development root has no influence on evidence whose chain does not contain it.
    assert_eq!(
        evidence::choose_root(&named, Vec::new(), Tee::Tdx).unwrap(),
        crate::roots::TrustRoot::Vendor
    );
    let other = Policy {
        development_roots: vec![vec![1, 2, 3]],
        ..Policy::default()
    };
    assert_eq!(
        evidence::choose_root(&other, vec![marked], Tee::Tdx)
            .unwrap_err()
            .id,
        "evidence.root"
    );
}

#[test]
fn cocoon_root_1() {
    use crate::roots::{DevelopmentRoot, RootError};
    let plain = crate::snp::report::certificates_from_pem(sev::certs::snp::builtin::milan::ARK)
        .unwrap()
        .remove(0);
    assert_eq!(
        DevelopmentRoot::parse(&plain),
        Err(RootError::NotDevelopment)
    );
    let marked = marked_root();
    assert!(DevelopmentRoot::parse(&marked).is_ok());
    // The critical flag (01 01 ff) and the value (04 02 05 00) are the last bytes of the extension.
    let at = marked
        .windows(7)
        .position(|bytes| bytes == [1, 1, 0xff, 4, 2, 5, 0])
        .unwrap();
    let mut another_value = marked;
    another_value[at + 5] = 1;
    assert_eq!(
        DevelopmentRoot::parse(&another_value),
        Err(RootError::ExtensionForm)
    );
    // A vendor's certificate in the list of development roots has no influence, because it lacks the extension.
    let named = Policy {
        development_roots: vec![plain.clone()],
        ..Policy::default()
    };
    assert_eq!(
        evidence::choose_root(&named, vec![plain], Tee::SevSnp).unwrap(),
        crate::roots::TrustRoot::Vendor
    );
}
