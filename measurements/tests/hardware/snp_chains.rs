//! Verifies AMD's real chains of three generations, from chip to pinned root, and compares published copies of the CAs.
//!
//! No published report of a Turin machine comes with its certificates. The published Turin chain is therefore judged with
//! another machine's report, whose signature must be the first check that fails.

use cocoon_measurements::{
    roots::{TrustRoot, ValidityError},
    snp::report::{
        ChainError, LaunchIdentity, Product, ReportError, SnpChain, SnpClaims,
        certificates_from_pem, verify_launched_by,
    },
};

use crate::{unhex, vector};

/// Within the validity of every certificate here.
const NOW: u64 = 1_775_000_000;

fn pem(path: &str) -> Option<Vec<Vec<u8>>> {
    Some(certificates_from_pem(&vector(path)?).unwrap())
}

fn judge(
    report: &[u8],
    vek: &[u8],
    intermediate: &[u8],
    now: u64,
) -> Result<SnpClaims, ReportError> {
    let chain = SnpChain {
        vek,
        intermediate,
        crl: None,
    };
    // Taken from the report, because the launch identity is not tested here.
    let identity = LaunchIdentity {
        id_key_digest: report[0xe0..0x110].try_into().unwrap(),
        author_key_digest: report[0x110..0x140].try_into().unwrap(),
    };
    verify_launched_by(&identity, report, &chain, &TrustRoot::Vendor, now)
}

#[test]
fn a_real_turin_chain_holds_up_to_its_pinned_root() {
    let (Some(report), Some(vek), Some(chain)) = (
        vector("snp/sev_report_milan.hex"),
        vector("snp/sev_vcek_turin.der"),
        pem("snp/sev_cert_chain_turin"),
    ) else {
        return;
    };
    let report = unhex(&report);
    let [ask, _ark] = &chain[..] else {
        panic!("ASK and ARK")
    };
    assert_eq!(
        judge(&report, &vek, ask, NOW),
        Err(ReportError::Signature),
        "the chain holds, and its key signed no report of another machine"
    );
    let mut forged = vek.clone();
    *forged.last_mut().unwrap() ^= 1;
    let broken = |certificate| Err(ReportError::Chain(ChainError::Signature { certificate }));
    assert_eq!(
        judge(&report, &forged, ask, NOW),
        broken("the VCEK or VLEK")
    );
    let mut forged = ask.clone();
    *forged.last_mut().unwrap() ^= 1;
    assert_eq!(judge(&report, &vek, &forged, NOW), broken("the ASK"));
    // 2024-11-06 21:14:00 and seven years later.
    let (not_before, not_after) = (1_730_927_640, 1_951_766_040);
    let certificate = "the VCEK or VLEK";
    let untimely = |now| match judge(&report, &vek, ask, now) {
        Err(ReportError::Chain(ChainError::Validity(error))) => error,
        other => panic!("another outcome: {other:?}"),
    };
    let now = not_before - 1;
    let early = ValidityError::NotYetValid {
        certificate,
        not_before,
        now,
    };
    assert_eq!(untimely(now), early);
    let now = not_after + 1;
    let late = ValidityError::Expired {
        certificate,
        not_after,
        now,
    };
    assert_eq!(untimely(now), late);
    for now in [not_before, not_after] {
        assert_eq!(judge(&report, &vek, ask, now), Err(ReportError::Signature));
    }
}

/// The ASKs that are built into the crate `sev` can replace those that come with the reports.
#[test]
fn the_built_in_authorities_vouch_for_real_chips() {
    if let (Some(report), Some(vek), Some(ask)) = (
        vector("snp/sev_report_milan.hex"),
        vector("snp/sev_vcek_milan.der"),
        pem("snp/builtin_milan_ask.pem"),
    ) {
        let claims = judge(&unhex(&report), &vek, &ask[0], NOW).unwrap();
        assert_eq!(claims.product, Some(Product::Milan));
    }
    if let (Some(report), Some(vek), Some(ask)) = (
        vector("snp/msft_genoa_attestation_report.bin"),
        pem("snp/msft_genoa_vcek.pem"),
        pem("snp/builtin_genoa_ask.pem"),
    ) {
        let claims = judge(&report, &vek[0], &ask[0], NOW).unwrap();
        assert_eq!(claims.product, Some(Product::Genoa));
    }
    if let (Some(report), Some(vek), Some(ask)) = (
        vector("snp/sev_report_milan.hex"),
        vector("snp/sev_vcek_turin.der"),
        pem("snp/builtin_turin_ask.pem"),
    ) {
        let outcome = judge(&unhex(&report), &vek, &ask[0], NOW);
        assert_eq!(outcome, Err(ReportError::Signature));
    }
}

/// The pinned root keys come from one publisher; other publishers have the same certificates.
#[test]
fn root_keys_are_the_same_wherever_they_are_published() {
    for (one, other) in [
        ("snp/builtin_genoa_ark.pem", "snp/msft_genoa_ark.pem"),
        ("snp/builtin_genoa_ask.pem", "snp/msft_genoa_ask.pem"),
    ] {
        if let (Some(one), Some(other)) = (pem(one), pem(other)) {
            assert_eq!(one, other);
        }
    }
    for (chain, ask, ark) in [
        (
            "snp/sev_cert_chain_milan",
            "snp/builtin_milan_ask.pem",
            "snp/builtin_milan_ark.pem",
        ),
        (
            "snp/sev_cert_chain_turin",
            "snp/builtin_turin_ask.pem",
            "snp/builtin_turin_ark.pem",
        ),
    ] {
        if let (Some(chain), Some(ask), Some(ark)) = (pem(chain), pem(ask), pem(ark)) {
            assert_eq!(chain, [ask, ark].concat());
        }
    }
}
