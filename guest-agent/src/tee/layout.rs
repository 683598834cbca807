//! Reads the few fields of evidence that the guest itself checks, at their fixed offsets. Verifiers check everything else.

use cocoon_protocol::bytes::{Hex, Hex48, Hex64};
use cocoon_protocol::document::Evidence;

/// Length of a TDX quote's header in bytes (Intel DCAP quote format).
const TDX_HEADER: usize = 48;
/// Offsets in the TD report body. MRCONFIGID follows TEE_TCB_SVN (16), MRSEAM (48), MRSIGNERSEAM (48), three attribute words
/// (24) and MRTD (48). REPORTDATA ends the 584 bytes that all versions share.
const TDX_MRCONFIGID: usize = 184;
const TDX_REPORTDATA: usize = 520;
/// Bytes before the body in a version 5 quote: a type (2) and a size (4).
const TDX_V5_PREFIX: usize = 6;
/// Length of an SNP attestation report, and offsets in it (AMD 56860, table "ATTESTATION_REPORT").
const SNP_LEN: usize = 1184;
const SNP_REPORTDATA: usize = 0x50;
const SNP_HOSTDATA: usize = 0xC0;

/// Why evidence could not be parsed.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum LayoutError {
    /// The evidence has the wrong length.
    #[error("{what} has {found} bytes, expected {expected}")]
    Length {
        /// `TDX quote` or `SNP report`.
        what: &'static str,
        /// Length in bytes.
        found: usize,
        /// Expected length in bytes; for a quote, the minimum.
        expected: usize,
    },
    /// The TDX quote has an unsupported version.
    #[error("TDX quote has version {0}, expected 4 or 5")]
    Version(u16),
}

/// Fields of evidence that the guest checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields {
    /// The 64 bytes of report data.
    pub report_data: Hex64,
    /// Digest of the operator's configuration as the launch measured it: MRCONFIGID, or HOST_DATA and 16 zero bytes.
    pub config: Hex48,
}

/// Reads the fields from evidence.
pub fn read(evidence: &Evidence) -> Result<Fields, LayoutError> {
    match evidence {
        Evidence::Tdx { quote, .. } => tdx(&quote.0),
        Evidence::SevSnp { report, .. } => snp(&report.0),
    }
}

fn tdx(quote: &[u8]) -> Result<Fields, LayoutError> {
    let length = |expected| LayoutError::Length {
        what: "TDX quote",
        found: quote.len(),
        expected,
    };
    let version = quote.first_chunk::<2>().ok_or(length(2))?;
    let body = match u16::from_le_bytes(*version) {
        4 => TDX_HEADER,
        5 => TDX_HEADER + TDX_V5_PREFIX,
        other => return Err(LayoutError::Version(other)),
    };
    let expected = body + TDX_REPORTDATA + 64;
    Ok(Fields {
        report_data: Hex(array(quote, body + TDX_REPORTDATA).ok_or(length(expected))?),
        config: Hex(array(quote, body + TDX_MRCONFIGID).ok_or(length(expected))?),
    })
}

fn snp(report: &[u8]) -> Result<Fields, LayoutError> {
    let length = LayoutError::Length {
        what: "SNP report",
        found: report.len(),
        expected: SNP_LEN,
    };
    if report.len() != SNP_LEN {
        return Err(length);
    }
    let host_data: [u8; 32] = array(report, SNP_HOSTDATA).ok_or(length.clone())?;
    let mut config = [0; 48];
    config[..32].copy_from_slice(&host_data);
    Ok(Fields {
        report_data: Hex(array(report, SNP_REPORTDATA).ok_or(length)?),
        config: Hex(config),
    })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cocoon_protocol::bytes::Blob;

    #[test]
    fn fields_are_at_the_specified_offsets() {
        // In version 4, MRCONFIGID is at 232 and REPORTDATA at 568; in version 5, both are six bytes later.
        for (version, shift) in [(4, 0), (5, 6)] {
            let mut quote = vec![0; 640];
            quote[0] = version;
            quote[232 + shift..280 + shift].fill(7);
            quote[568 + shift..632 + shift].fill(9);
            let evidence = Evidence::Tdx {
                quote: Blob(quote),
                event_log: Blob::default(),
            };
            assert_eq!(
                read(&evidence).unwrap(),
                Fields {
                    report_data: Hex([9; 64]),
                    config: Hex([7; 48])
                }
            );
        }
        let mut report = vec![0; 1184];
        report[0x50..0x90].fill(9);
        report[0xC0..0xE0].fill(7);
        let fields = snp(&report).unwrap();
        assert_eq!(fields.report_data, Hex([9; 64]));
        assert_eq!(fields.config.0[..32], [7; 32]);
        assert_eq!(fields.config.0[32..], [0; 16]);
    }

    #[test]
    fn short_and_foreign_bytes_are_refused() {
        assert_eq!(tdx(&[3, 0]).unwrap_err(), LayoutError::Version(3));
        assert_eq!(
            tdx(&[4; 1]).unwrap_err().to_string(),
            "TDX quote has 1 bytes, expected 2"
        );
        let mut short = vec![0; 631];
        short[0] = 4;
        assert_eq!(
            tdx(&short).unwrap_err().to_string(),
            "TDX quote has 631 bytes, expected 632"
        );
        assert_eq!(
            snp(&[0; 1183]).unwrap_err().to_string(),
            "SNP report has 1183 bytes, expected 1184"
        );
    }
}
