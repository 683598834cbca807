//! Signs what the fuzzer made of a quote's or a report's body, as the quoting enclave and the secure processor would.

use std::sync::LazyLock;

use cocoon_simulator::snp::SnpSimulator;
use cocoon_simulator::snp::report::{REPORT_LEN, SIGNED_LEN};
use cocoon_simulator::tdx::quote::TD_REPORT_LEN;
use cocoon_simulator::tdx::{QuoteVersion, TdxSimulator};

use crate::platform::{AMD, INTEL, made};

/// Length of a TD report of TDX 1.0.
pub const TD10: usize = TD_REPORT_LEN;
/// Length of an SEV-SNP report without its signature.
pub const REPORT: usize = SIGNED_LEN;

/// One platform for all quotes: it certifies its attestation key once.
static PLATFORM: LazyLock<TdxSimulator<'_>> = LazyLock::new(|| TdxSimulator::new(&INTEL));

/// A quote of version 4 around a TD report of TDX 1.0.
#[must_use]
pub fn quote_4(body: &[u8; TD10]) -> Vec<u8> {
    made(PLATFORM.signed(QuoteVersion::V4, body))
}

/// A quote of version 5 around a TD report of TDX 1.0, 1.5 or 1.5 extended, which its length tells.
#[must_use]
pub fn quote_5(body: &[u8]) -> Vec<u8> {
    made(PLATFORM.signed(QuoteVersion::V5, body))
}

/// A report of 1184 bytes around these 672.
#[must_use]
pub fn report(body: &[u8; REPORT]) -> Vec<u8> {
    let mut report = [0; REPORT_LEN];
    report[..REPORT].copy_from_slice(body);
    made(SnpSimulator::new(&AMD).signed(report))
}
