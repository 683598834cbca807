//! Signs the changed body of a quote or report, as the quoting enclave and the secure processor would.

use std::sync::LazyLock;

use cocoon_simulator::snp::SnpSimulator;
use cocoon_simulator::snp::report::{REPORT_LEN, SIGNED_LEN};
use cocoon_simulator::tdx::quote::TD_REPORT_LEN;
use cocoon_simulator::tdx::{QuoteVersion, TdxSimulator};

use crate::platform::{AMD, INTEL, made};

/// Length of a TD report of TDX 1.0.
pub const TD10: usize = TD_REPORT_LEN;
/// Length of the signed part of an SEV-SNP report.
pub const REPORT: usize = SIGNED_LEN;

/// One platform for all quotes, so that its attestation key is certified only once.
static PLATFORM: LazyLock<TdxSimulator<'_>> = LazyLock::new(|| TdxSimulator::new(&INTEL));

/// Returns a quote of version 4 with a TD report of TDX 1.0.
#[must_use]
pub fn quote_4(body: &[u8; TD10]) -> Vec<u8> {
    made(PLATFORM.signed(QuoteVersion::V4, body))
}

/// Returns a quote of version 5 with a TD report of TDX 1.0, 1.5 or 1.5 extended, according to the length.
#[must_use]
pub fn quote_5(body: &[u8]) -> Vec<u8> {
    made(PLATFORM.signed(QuoteVersion::V5, body))
}

/// Returns an SEV-SNP report of 1184 bytes with this signed part.
#[must_use]
pub fn report(body: &[u8; REPORT]) -> Vec<u8> {
    let mut report = [0; REPORT_LEN];
    report[..REPORT].copy_from_slice(body);
    made(SnpSimulator::new(&AMD).signed(report))
}
