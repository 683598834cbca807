//! Targets for quotes and reports whose fields a script changes before the simulated hardware signs them. They reach
//! everything after the signature check.

use cocoon_measurements::snp::report::{self, ReportError, SnpChain};
use cocoon_measurements::tdx::quote::{self, QuoteError};
use cocoon_measurements::tdx::tcb::TcbPolicy;
use cocoon_protocol::binding::Tee;
use cocoon_simulator::snp::SnpSimulator;
use cocoon_simulator::tdx::Later;

use crate::edits;
use crate::evidence::{JUDGED, session};
use crate::memory::bounded;
use crate::platform::{
    AMD, AMD_ROOT, EVENT_LOG, INTEL_ROOT, NOW, SNP_CRL, TDX_COLLATERAL, snp_document, snp_report,
    td_report, tdx_document,
};
use crate::signer::{self, REPORT, TD10};

/// Offset and length of the fields of a TD report that a verdict compares. `TEE_TCB_SVN` and `MRSEAM` are left to the TCB
/// check.
const TD_COMPARED: [(usize, usize); 8] = [
    // MRSIGNERSEAM and the module's attributes.
    (64, 56),
    // MRTD, MRCONFIGID, MROWNER and MROWNERCONFIG.
    (136, 192),
    // RTMR0 to RTMR3.
    (328, 192),
    (520, 64),
    // Attribute bits for debugging and profiling.
    (120, 1),
    // MRSERVICETD of TDX 1.5, and everything but TDID in its extended report.
    (600, 48),
    (648, 1),
    (681, 204),
];

/// Offset and length of the fields of an SEV-SNP report that a verdict compares: VMPL, report data, launch digest, host data,
/// both key digests and the reported TCB.
const REPORT_COMPARED: [(usize, usize); 6] = [
    (0x30, 4),
    (0x50, 64),
    (0x90, 48),
    (0xc0, 32),
    (0xe0, 96),
    (0x180, 8),
];

/// Appraises signed quotes. The first byte selects the format; the rest is a script over TD report and event log.
pub fn quote_signed(data: &[u8]) {
    let Some((format, script)) = data.split_first() else {
        return;
    };
    let report = td_report();
    // The fields that TDX 1.5 adds must match the same TCB level and name no service domain.
    let mut body = match format % 4 {
        0 | 1 => report.to_bytes(),
        2 => report.to_bytes_15(&Later::good()),
        _ => report.to_bytes_15(&Later::extended()),
    };
    let good = body.clone();
    body.extend_from_slice(&EVENT_LOG);
    edits::apply(script, &mut body);
    let log = body.split_off(good.len());
    let quote = match (format % 4, <&[u8; TD10]>::try_from(&body[..])) {
        (0, Ok(body)) => signer::quote_4(body),
        _ => signer::quote_5(&body),
    };
    let policy = TcbPolicy::judged_by_caller();
    let judged = bounded(JUDGED, || {
        quote::verify(&quote, &TDX_COLLATERAL, &INTEL_ROOT, &policy, NOW)
    });
    match judged {
        Ok(claims) => {
            assert_eq!(claims.mrtd, body[136..184]);
            assert_eq!(claims.mrconfigid, body[184..232]);
            assert_eq!(claims.rtmr.concat(), body[328..520]);
            assert_eq!(claims.report_data, body[520..584]);
            let attributes = u64::from_le_bytes(claims.td_attributes);
            // Debug, profiling and migration bits are clear, and SEPT_VE_DISABLE is set.
            assert_eq!(attributes & 0x3000_0071, 0x1000_0000);
        }
        Err(QuoteError::Attributes(_) | QuoteError::Unverified { .. }) => {}
        Err(other) => panic!("a signed quote is refused for its form: {other:?}"),
    }
    assert_eq!(body.len(), good.len());
    let document = tdx_document(quote, log, TDX_COLLATERAL.clone());
    if session(&document, Tee::Tdx) {
        unchanged(&TD_COMPARED, &body, &good);
    } else {
        assert_ne!(script.len() / 3, 0, "the good quote is refused");
    }
}

/// Appraises signed SEV-SNP reports. The input is a script over the 672 signed bytes.
pub fn report_signed(script: &[u8]) {
    let good = snp_report().to_bytes();
    let mut body = [0; REPORT];
    body.copy_from_slice(&good[..REPORT]);
    edits::apply(script, &mut body);
    let report = signer::report(&body);
    let certificates = SnpSimulator::new(&AMD).certificates();
    let [vek, intermediate, ..] = &certificates[..] else {
        return;
    };
    let chain = SnpChain {
        vek,
        intermediate,
        crl: Some(&SNP_CRL),
    };
    match bounded(JUDGED, || report::verify(&report, &chain, &AMD_ROOT, NOW)) {
        Ok(claims) => {
            assert_eq!(claims.measurement, body[0x90..0xc0]);
            assert_eq!(claims.report_data, body[0x50..0x90]);
            assert_eq!(claims.host_data, body[0xc0..0xe0]);
            assert_eq!(claims.policy.to_le_bytes(), body[8..16]);
            // Bit 18 is the migration agent, bit 19 debugging.
            assert_eq!(claims.policy & 0xc_0000, 0);
        }
        Err(
            error @ (ReportError::Chain(_) | ReportError::Signature | ReportError::Length { .. }),
        ) => {
            panic!("a signed report under a good chain: {error:?}")
        }
        Err(_) => {}
    }
    if session(&snp_document(report), Tee::SevSnp) {
        unchanged(&REPORT_COMPARED, &body, &good);
    } else {
        assert_ne!(script.len() / 3, 0, "the good report is refused");
    }
}

fn unchanged(compared: &[(usize, usize)], body: &[u8], good: &[u8]) {
    for (offset, length) in compared {
        let range = *offset..*offset + *length;
        assert_eq!(
            body.get(range.clone()),
            good.get(range),
            "accepted with another field at offset {offset}"
        );
    }
}

/// Makes the certification data before any memory is measured.
pub(crate) fn warm() {
    quote_signed(&[0]);
    report_signed(&[]);
}
