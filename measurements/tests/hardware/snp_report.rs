//! Real SEV-SNP reports with AMD's certificates: accepted within their dates, otherwise refused for one named reason.

use cocoon_measurements::{
    policy::{SnpPart, SnpTcbFloors},
    roots::{RootClass, TrustRoot, ValidityError},
    snp::report::{
        ChainError, LaunchIdentity, Product, ReportError, Revocation, SigningKey, SnpChain,
        SnpClaims, certificates_from_pem, verify, verify_launched_by,
    },
};

use crate::{unhex, vector};

/// Within the validity of Genoa's VCEK (from February 2026, for seven years).
const NOW: u64 = 1_775_000_000;

struct Sample {
    report: Vec<u8>,
    vek: Vec<u8>,
    ask: Vec<u8>,
    /// Launch identity; the Genoa sample was launched with an ID block.
    identity: LaunchIdentity,
}

impl Sample {
    /// A Genoa report of version 3.
    fn genoa() -> Option<Self> {
        let report = vector("snp/msft_genoa_attestation_report.bin")?;
        let identity = LaunchIdentity {
            id_key_digest: report[0xe0..0x110].try_into().unwrap(),
            author_key_digest: report[0x110..0x140].try_into().unwrap(),
        };
        Some(Self {
            report,
            identity,
            vek: certificates_from_pem(&vector("snp/msft_genoa_vcek.pem")?)
                .unwrap()
                .remove(0),
            ask: certificates_from_pem(&vector("snp/msft_genoa_ask.pem")?)
                .unwrap()
                .remove(0),
        })
    }

    /// A Milan report of version 2.
    fn milan() -> Option<Self> {
        Some(Self {
            report: unhex(&vector("snp/sev_report_milan.hex")?),
            identity: LaunchIdentity::default(),
            vek: vector("snp/sev_vcek_milan.der")?,
            ask: certificates_from_pem(&vector("snp/sev_cert_chain_milan")?)
                .unwrap()
                .remove(0),
        })
    }

    fn judge(&self, now: u64) -> Result<SnpClaims, ReportError> {
        let chain = SnpChain {
            vek: &self.vek,
            intermediate: &self.ask,
            crl: None,
        };
        verify_launched_by(
            &self.identity,
            &self.report,
            &chain,
            &TrustRoot::Vendor,
            now,
        )
    }
}

#[test]
fn a_real_genoa_report_is_accepted_in_its_time() {
    let Some(sample) = Sample::genoa() else {
        return;
    };
    let claims = sample.judge(NOW).unwrap();
    assert_eq!(
        (claims.root, claims.product),
        (RootClass::Vendor, Some(Product::Genoa))
    );
    assert_eq!((claims.version, claims.signing_key), (3, SigningKey::Vcek));
    assert_eq!(claims.revocation, Revocation::NotChecked);
    assert_eq!(claims.report_data[..], sample.report[0x50..0x90]);
    assert_eq!(claims.measurement[..], sample.report[0x90..0xc0]);
    assert_eq!(claims.host_data[..], sample.report[0xc0..0xe0]);
    assert_eq!(claims.chip_id[..], sample.report[0x1a0..0x1e0]);
}

#[test]
fn a_real_milan_report_is_judged_by_its_own_fields() {
    let Some(sample) = Sample::milan() else {
        return;
    };
    match sample.judge(NOW) {
        Ok(claims) => assert_eq!((claims.version, claims.product), (2, Some(Product::Milan))),
        Err(error) => panic!("{error:?}"),
    }
}

/// The built-in floor, chosen by the report's part, is above a machine without the fixes of January 2026, and far above an
/// early one of 2021.
#[test]
fn real_machines_against_the_built_in_floor() {
    let below = |sample: &Sample| {
        let claims = sample.judge(NOW).unwrap();
        let part = SnpPart::of(claims.product, claims.cpuid);
        let floors = SnpTcbFloors::default();
        let levels = [claims.reported_tcb, claims.committed_tcb, claims.launch_tcb];
        let low = levels.map(|level| floors.of(part).below(&level));
        (part, claims.cpuid, low)
    };
    if let Some(sample) = Sample::genoa() {
        let (part, cpuid, low) = below(&sample);
        assert_eq!(
            (part, cpuid),
            (SnpPart::Genoa, Some([0x19, 0x11, 0x01])),
            "version 3 tells its part"
        );
        let old = vec![("SNP firmware", 23, 27), ("microcode", 84, 86)];
        assert_eq!(low, [old.clone(), old.clone(), old]);
    }
    if let Some(sample) = Sample::milan() {
        let (part, cpuid, low) = below(&sample);
        assert_eq!((part, cpuid), (SnpPart::Milan, None), "version 2 does not");
        let old = vec![
            ("boot loader", 3, 4),
            ("SNP firmware", 8, 27),
            ("microcode", 115, 222),
        ];
        assert_eq!(low, [old.clone(), old.clone(), old]);
    }
}

#[test]
fn each_certificate_has_its_time() {
    let Some(sample) = Sample::genoa() else {
        return;
    };
    let validity = |now| match sample.judge(now).unwrap_err() {
        ReportError::Chain(ChainError::Validity(error)) => error,
        other => panic!("another error: {other:?}"),
    };
    // 2026-02-05 02:05:07 and 2033-02-05 02:05:07.
    let (not_before, not_after) = (1_770_257_107, 1_991_181_907);
    let certificate = "the VCEK or VLEK";
    assert!(sample.judge(not_before).is_ok() && sample.judge(not_after).is_ok());
    let (early, late) = (not_before - 1, not_after + 1);
    assert_eq!(
        validity(early),
        ValidityError::NotYetValid {
            certificate,
            not_before,
            now: early
        }
    );
    assert_eq!(
        validity(late),
        ValidityError::Expired {
            certificate,
            not_after,
            now: late
        }
    );
    assert!(matches!(
        validity(0),
        ValidityError::NotYetValid {
            certificate: "the ARK",
            now: 0,
            ..
        }
    ));
}

#[test]
fn every_signed_field_is_covered_by_the_signature() {
    // Report data, measurement, host data, report id, chip id.
    for at in [0x50, 0x90, 0xc0, 0x140, 0x1a0] {
        let Some(mut sample) = Sample::genoa() else {
            return;
        };
        sample.report[at] ^= 1;
        assert_eq!(
            sample.judge(NOW),
            Err(ReportError::Signature),
            "offset {at:#x}"
        );
    }
}

#[test]
fn dangerous_fields_have_their_own_errors() {
    for (at, bits, expected) in [
        (8 + 2, 0x08, "policy"), // debug
        (8 + 2, 0x04, "policy"), // migration
        (0x30, 1, "VMPL"),
        (0xe0, 1, "ID key digest"),
        (0x110, 1, "author key digest"),
        (0x34, 2, "signature algorithm"),
        (0x48, 0x08, "signing key"),
    ] {
        let Some(mut sample) = Sample::genoa() else {
            return;
        };
        sample.report[at] ^= bits;
        let error = sample.judge(NOW).unwrap_err();
        assert!(
            matches!(error, ReportError::Field { field, .. } if field == expected),
            "{expected}: {error:?}"
        );
    }
}

#[test]
fn shapes_that_are_no_report_are_named() {
    let Some(sample) = Sample::genoa() else {
        return;
    };
    let judge = |report: Vec<u8>| {
        let chain = SnpChain {
            vek: &sample.vek,
            intermediate: &sample.ask,
            crl: None,
        };
        verify_launched_by(&sample.identity, &report, &chain, &TrustRoot::Vendor, NOW)
    };
    assert_eq!(judge(Vec::new()), Err(ReportError::Length { length: 0 }));
    assert_eq!(
        judge(vec![0; 1185]),
        Err(ReportError::Length { length: 1185 })
    );
    for version in [0, 1, 6, u32::MAX] {
        let mut report = sample.report.clone();
        report[..4].copy_from_slice(&version.to_le_bytes());
        assert_eq!(judge(report), Err(ReportError::Version { version }));
    }
    let mut reserved = sample.report.clone();
    reserved[0x4c] = 1;
    assert!(matches!(
        judge(reserved),
        Err(ReportError::Malformed { .. })
    ));
}

#[test]
fn a_chain_of_other_certificates_is_refused() {
    let (Some(genoa), Some(milan)) = (Sample::genoa(), Sample::milan()) else {
        return;
    };
    let chain = |vek: &[u8], intermediate: &[u8]| {
        let chain = SnpChain {
            vek,
            intermediate,
            crl: None,
        };
        match verify_launched_by(
            &genoa.identity,
            &genoa.report,
            &chain,
            &TrustRoot::Vendor,
            NOW,
        )
        .unwrap_err()
        {
            ReportError::Chain(error) => error,
            other => panic!("another error: {other:?}"),
        }
    };
    let other_ask = chain(&genoa.vek, &milan.ask);
    assert!(
        matches!(
            other_ask,
            ChainError::Issuer {
                certificate: "the VCEK or VLEK",
                ..
            }
        ),
        "{other_ask:?}"
    );
    let no_ask = chain(&genoa.vek, &genoa.vek);
    assert!(
        matches!(
            no_ask,
            ChainError::Issuer {
                certificate: "the ASK",
                ..
            }
        ),
        "{no_ask:?}"
    );
    let mut forged = genoa.vek.clone();
    let last = forged.len() - 1;
    forged[last] ^= 1;
    assert_eq!(
        chain(&forged, &genoa.ask),
        ChainError::Signature {
            certificate: "the VCEK or VLEK"
        }
    );
    let cut = chain(&genoa.vek[..100], &genoa.ask);
    assert!(
        matches!(
            cut,
            ChainError::Malformed {
                certificate: "the VCEK or VLEK",
                ..
            }
        ),
        "{cut:?}"
    );
    assert_eq!(
        chain(&vec![0; 9000], &genoa.ask),
        ChainError::TooLarge {
            certificate: "the VCEK or VLEK",
            length: 9000,
            limit: 8192
        }
    );
}

#[test]
fn an_id_key_that_nobody_named_is_refused() {
    let Some(sample) = Sample::genoa() else {
        return;
    };
    let chain = SnpChain {
        vek: &sample.vek,
        intermediate: &sample.ask,
        crl: None,
    };
    let error = verify(&sample.report, &chain, &TrustRoot::Vendor, NOW).unwrap_err();
    assert!(
        matches!(
            error,
            ReportError::Field {
                field: "ID key digest",
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn a_revocation_list_must_be_the_roots_own() {
    let Some(sample) = Sample::genoa() else {
        return;
    };
    let judge = |crl: &[u8]| {
        let chain = SnpChain {
            vek: &sample.vek,
            intermediate: &sample.ask,
            crl: Some(crl),
        };
        verify_launched_by(
            &sample.identity,
            &sample.report,
            &chain,
            &TrustRoot::Vendor,
            NOW,
        )
        .unwrap_err()
    };
    assert!(matches!(
        judge(b"garbage"),
        ReportError::Chain(ChainError::Malformed {
            certificate: "the ARK's revocation list",
            ..
        })
    ));
}
