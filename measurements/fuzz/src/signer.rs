//! Signs what the fuzzer made of a quote's or a report's body, as the quoting enclave and the secure processor would.

use std::sync::LazyLock;

use cocoon_simulator::x509::PrivateKey;
use p256::ecdsa::signature::Signer as _;
use sha2::{Digest as _, Sha256};

use crate::platform::{AMD, INTEL, TDX_QUOTE};

/// Offset of the TD report in a quote of version 4: behind the header.
pub const HEADER: usize = 48;
/// Length of a TD report of TDX 1.0.
pub const TD10: usize = 584;
/// Length of a TD report of TDX 1.5: behind the former stand `TEE_TCB_SVN_2` and `MRSERVICETD`.
pub const TD15: usize = TD10 + 16 + 48;
/// Length of an SEV-SNP report without its signature.
pub const REPORT: usize = 0x2a0;

/// Offset of the quoting enclave's report in the simulator's quote: behind both signatures' fields.
const QE_REPORT: usize = HEADER + TD10 + 4 + 64 + 64 + 6;
const QE_REPORT_LENGTH: usize = 384;
const QE_REPORT_DATA: usize = 320;
const QE_SIGNATURE: usize = 64;

static ATTESTATION_KEY: LazyLock<p256::ecdsa::SigningKey> = LazyLock::new(|| {
    // Any number below the curve's order will do; a fixed one makes every run sign alike.
    p256::ecdsa::SigningKey::from_slice(&[0x77; 32]).unwrap_or_else(|_| unreachable!())
});

/// The certification data of every quote: they depend on keys alone.
static CERTIFICATION: LazyLock<Vec<u8>> = LazyLock::new(certification);

/// A quote of version 4 around a TD report of TDX 1.0.
#[must_use]
pub fn quote_4(body: &[u8; TD10]) -> Vec<u8> {
    let mut quote = TDX_QUOTE.get(..HEADER).unwrap_or_default().to_vec();
    quote.extend(body);
    finish(quote)
}

/// A quote of version 5 around a TD report of TDX 1.0 or 1.5, which its length tells.
#[must_use]
pub fn quote_5(body: &[u8]) -> Vec<u8> {
    let mut quote = TDX_QUOTE.get(..HEADER).unwrap_or_default().to_vec();
    quote[0] = 5;
    let kind: u16 = if body.len() == TD10 { 2 } else { 3 };
    quote.extend(kind.to_le_bytes());
    quote.extend(length(body));
    quote.extend(body);
    finish(quote)
}

/// A report of 1184 bytes around these 672.
#[must_use]
pub fn report(body: &[u8; REPORT]) -> Vec<u8> {
    let PrivateKey::P384(key) = &AMD.vcek.key else {
        return Vec::new();
    };
    let signature: p384::ecdsa::Signature = key.sign(body);
    let mut report = body.to_vec();
    let (r, s) = signature.split_bytes();
    for number in [r, s] {
        // Little-endian, in 72 bytes each.
        report.extend(number.iter().rev());
        report.extend([0; 24]);
    }
    report.resize(1184, 0);
    report
}

fn finish(mut quote: Vec<u8>) -> Vec<u8> {
    let signature: p256::ecdsa::Signature = ATTESTATION_KEY.sign(&quote);
    let mut data = signature.to_bytes().to_vec();
    data.extend(public());
    data.extend(6_u16.to_le_bytes());
    data.extend(length(&CERTIFICATION));
    data.extend(&*CERTIFICATION);
    quote.extend(length(&data));
    quote.extend(data);
    quote
}

/// The simulator's certification data, made to name our attestation key.
fn certification() -> Vec<u8> {
    let mut data = TDX_QUOTE.get(QE_REPORT..).unwrap_or_default().to_vec();
    let authentication = QE_REPORT_LENGTH + QE_SIGNATURE + 2;
    let named = Sha256::new()
        .chain_update(public())
        .chain_update(&data[authentication..authentication + 32])
        .finalize();
    data[QE_REPORT_DATA..QE_REPORT_DATA + 32].copy_from_slice(&named);
    if let PrivateKey::P256(pck) = &INTEL.pck.key {
        let signature: p256::ecdsa::Signature = pck.sign(&data[..QE_REPORT_LENGTH]);
        data[QE_REPORT_LENGTH..QE_REPORT_LENGTH + QE_SIGNATURE]
            .copy_from_slice(&signature.to_bytes());
    }
    data
}

/// The two coordinates of the attestation key.
fn public() -> [u8; 64] {
    let point = ATTESTATION_KEY.verifying_key().to_encoded_point(false);
    let mut coordinates = [0; 64];
    // An uncompressed point is the byte 4 and two coordinates of 32 bytes.
    coordinates.copy_from_slice(&point.as_bytes()[1..]);
    coordinates
}

fn length(content: &[u8]) -> [u8; 4] {
    // Contents are a few certificates long.
    u32::try_from(content.len())
        .unwrap_or(u32::MAX)
        .to_le_bytes()
}
