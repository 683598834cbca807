//! Targets for quotes and reports as foreign bytes. These targets sign nothing, so only bytes that mean the same as the good
//! evidence may be accepted.

use cocoon_measurements::appraise::{Presented, appraise};
use cocoon_measurements::snp::report::{self, REPORT_LENGTH, SnpChain};
use cocoon_measurements::tdx::quote::{self, TdxClaims};
use cocoon_measurements::tdx::tcb::TcbPolicy;
use cocoon_measurements::verdict::{Class, Outcome, Verdict};
use cocoon_protocol::binding::Tee;
use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::document::{Document, Evidence, Kind};
use cocoon_simulator::snp::SnpSimulator;

use crate::memory::bounded;
use crate::platform::{
    AMD, AMD_ROOT, EVENT_LOG, INTEL_ROOT, LEAF, MANIFEST, NOW, SNP_CRL, TDX_COLLATERAL, TDX_QUOTE,
    made, policy, presented, snp_document, td_report, tdx_document,
};

/// Memory in bytes that the appraisal of a quote or report may hold at once. Most of it is the collateral, which is parsed
/// several times.
pub(crate) const JUDGED: usize = 2 << 20;

/// Appraises foreign bytes as a quote (version 4 or 5) in the boot document of a certificate. It is parsed and compared, but
/// no signature is verified.
pub fn quote_shown(data: &[u8]) {
    let document = tdx_document(data.to_vec(), Vec::new(), Vec::new());
    boot(document, Tee::Tdx);
}

/// Appraises foreign bytes as an SEV-SNP report in the boot document of a certificate.
pub fn report_shown(data: &[u8]) {
    boot(snp_document(data.to_vec()), Tee::SevSnp);
}

/// Verifies foreign bytes as a quote (version 4 or 5) with good collateral.
pub fn quote(data: &[u8]) {
    let judged = bounded(JUDGED + 16 * data.len(), || {
        quote::verify(
            data,
            &TDX_COLLATERAL,
            &INTEL_ROOT,
            &TcbPolicy::judged_by_caller(),
            NOW,
        )
    });
    let Ok(claims) = judged else { return };
    let body = td_report();
    assert_eq!(
        signed_fields(&claims),
        body.to_bytes()[64..],
        "unsigned claims"
    );
    assert_eq!(claims.mrseam, body.mr_seam);
}

/// Returns the fields of a TD report that the claims repeat, from `MRSIGNERSEAM` to the report data.
fn signed_fields(claims: &TdxClaims) -> Vec<u8> {
    let [rtmr0, rtmr1, rtmr2, rtmr3] = &claims.rtmr;
    let fields: [&[u8]; 14] = [
        &claims.mrsignerseam,
        // The claims lack the module's attributes. Verification refuses other values than zero.
        &[0; 8],
        &claims.td_attributes,
        &claims.xfam,
        &claims.mrtd,
        &claims.mrconfigid,
        &claims.mrowner,
        &claims.mrownerconfig,
        rtmr0,
        rtmr1,
        rtmr2,
        rtmr3,
        &claims.report_data,
        &[],
    ];
    fields.concat()
}

/// Verifies foreign bytes as an SEV-SNP report (version 2 to 5) with good certificates.
pub fn report(data: &[u8]) {
    let certificates = SnpSimulator::new(&AMD).certificates();
    let [vek, intermediate, ..] = &certificates[..] else {
        return;
    };
    let chain = SnpChain {
        vek,
        intermediate,
        crl: Some(&SNP_CRL),
    };
    let judged = bounded(JUDGED, || report::verify(data, &chain, &AMD_ROOT, NOW));
    let Ok(claims) = judged else { return };
    assert_eq!(data.len(), REPORT_LENGTH);
    assert_eq!(data.get(0x50..0x90), Some(&claims.report_data[..]));
    assert_eq!(
        data.get(..0x2a0),
        crate::platform::SNP_REPORT.get(..0x2a0),
        "something else than the good report verifies"
    );
}

/// Appraises `document` as the boot document of a certificate. No signature covers it, so it must not authorise anything or be
/// more than simulated.
fn boot(mut document: Document, tee: Tee) {
    document.kind = Kind::Boot;
    document.nonce = Hex32::ZERO;
    document.collateral = None;
    if let Evidence::SevSnp { certificates, .. } = &mut document.evidence {
        certificates.clear();
    }
    let shown = Presented {
        document: &document,
        leaf_spki_sha256: LEAF,
        fresh: None,
        handshake_gpus: None,
    };
    let verdict = bounded(JUDGED, || appraise(&shown, &MANIFEST, &policy(tee), NOW));
    consistent(&verdict);
    assert!(verdict.authorizes().is_none(), "a boot document authorises");
}

/// Appraises a session document and returns whether it is accepted. It is simulated at best, because no vendor key is
/// involved.
pub(crate) fn session(document: &Document, tee: Tee) -> bool {
    let verdict = bounded(JUDGED, || {
        appraise(&presented(document), &MANIFEST, &policy(tee), NOW)
    });
    consistent(&verdict);
    let accepted = verdict.class != Class::Rejected;
    assert_eq!(verdict.authorizes().is_some(), accepted);
    accepted
}

/// Asserts what holds for every verdict.
fn consistent(verdict: &Verdict) {
    assert_ne!(
        verdict.class,
        Class::Confidential,
        "no vendor vouched for this: {verdict:#?}"
    );
    let failed = verdict.failures().count() > 0;
    assert_eq!(failed, verdict.class == Class::Rejected, "{verdict:#?}");
    for check in &verdict.checks {
        let explained = check.cause.is_some() && check.advice.is_some();
        assert!(
            check.outcome != Outcome::Fail || explained,
            "{} fails without a reason",
            check.id
        );
    }
    made(serde_json::to_vec(verdict));
}

/// Returns whether the unchanged documents of both simulated guests are accepted. Changed ones are compared with them.
pub fn good_evidence_is_accepted() -> bool {
    let quote = tdx_document(TDX_QUOTE.clone(), EVENT_LOG.clone(), TDX_COLLATERAL.clone());
    let report = snp_document(crate::platform::SNP_REPORT.clone());
    session(&quote, Tee::Tdx) && session(&report, Tee::SevSnp)
}
