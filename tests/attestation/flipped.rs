//! Signed bytes changed without signing again: whatever the bytes mean, the signature is no longer valid.

use cocoon_measurements::verdict::Verdict;
use cocoon_protocol::binding::Tee;
use cocoon_protocol::document::{Document, Evidence};

use crate::machine::{Machine, judge, policy, refused};

/// Offsets and lengths of a quote's parts: header, TD report, and the signature data after its length field.
const HEADER: usize = 48;
const REPORT: usize = 584;
const SIGNATURE: usize = HEADER + REPORT + 4;
const KEY: usize = SIGNATURE + 64;
/// After the key: type and length of the certification data, then the quoting enclave's report and its signature.
const QE_REPORT: usize = KEY + 64 + 6;
const QE_SIGNATURE: usize = QE_REPORT + 384;

fn flipped(document: &Document, at: usize, bits: u8) -> Verdict {
    let mut document = document.clone();
    match &mut document.evidence {
        Evidence::Tdx { quote, .. } => quote.0[at] ^= bits,
        Evidence::SevSnp { report, .. } => report.0[at] ^= bits,
    }
    judge(&document, &policy())
}

#[track_caller]
fn unsigned(verdict: &Verdict, at: usize, reason: &str) {
    println!("offset {at:#x}");
    let text = format!(
        "TDX quote does not verify with its collateral under the development root: {reason}"
    );
    refused(verdict, &[("evidence.signature", &text)]);
}

const REPORT_SIGNATURE: &str = "ISV enclave report signature is invalid";
const QE_REPORT_SIGNATURE: &str = "Signature is invalid for qe_report in quote";
const KEY_HASH: &str = "QE report hash mismatch";

/// Offset in the TD report of each field's first byte. ATTRIBUTES is omitted, because it is read before the signature.
const TD_FIELDS: [(&str, usize); 14] = [
    ("TEE_TCB_SVN", 0),
    ("MRSEAM", 16),
    ("MRSIGNERSEAM", 64),
    ("SEAMATTRIBUTES", 112),
    ("XFAM", 128),
    ("MRTD", 136),
    ("MRCONFIGID", 184),
    ("MROWNER", 232),
    ("MROWNERCONFIG", 280),
    ("RTMR0", 328),
    ("RTMR1", 376),
    ("RTMR2", 424),
    ("RTMR3", 472),
    ("REPORTDATA", 520),
];

#[test]
fn fields_of_the_td_report() {
    let good = Machine::good(Tee::Tdx).document();
    for (field, at) in TD_FIELDS {
        println!("{field}");
        unsigned(
            &flipped(&good, HEADER + at, 0x80),
            HEADER + at,
            REPORT_SIGNATURE,
        );
    }
    // ATTRIBUTES: a bit that the early checks do not read.
    unsigned(
        &flipped(&good, HEADER + 123, 0x40),
        HEADER + 123,
        REPORT_SIGNATURE,
    );
}

#[test]
fn what_certifies_the_quote() {
    let good = Machine::good(Tee::Tdx).document();
    for (at, reason) in [
        (HEADER - 1, REPORT_SIGNATURE),
        (SIGNATURE, REPORT_SIGNATURE),
        (SIGNATURE + 63, REPORT_SIGNATURE),
        (KEY, KEY_HASH),
        (KEY + 63, KEY_HASH),
        (QE_REPORT, QE_REPORT_SIGNATURE),
        (QE_REPORT + 128, QE_REPORT_SIGNATURE),
        (QE_REPORT + 320, QE_REPORT_SIGNATURE),
        (QE_SIGNATURE, QE_REPORT_SIGNATURE),
        // The authentication data, which is hashed together with the key.
        (QE_SIGNATURE + 64 + 2, KEY_HASH),
    ] {
        unsigned(&flipped(&good, at, 1), at, reason);
    }
}

/// Offset of the first byte of each field of the SNP report that is not read before the signature, and of R and S.
const SNP_FIELDS: [(&str, usize); 17] = [
    ("GUEST_SVN", 0x04),
    ("FAMILY_ID", 0x10),
    ("IMAGE_ID", 0x20),
    ("CURRENT_TCB", 0x38),
    ("PLATFORM_INFO", 0x40),
    ("REPORT_DATA", 0x50),
    ("MEASUREMENT", 0x90),
    ("HOST_DATA", 0xc0),
    ("REPORT_ID", 0x140),
    ("REPORT_ID_MA", 0x160),
    ("REPORTED_TCB", 0x180),
    ("CHIP_ID", 0x1a0),
    ("COMMITTED_TCB", 0x1e0),
    ("CURRENT_BUILD", 0x1e8),
    ("LAUNCH_TCB", 0x1f0),
    ("SIGNATURE R", 0x2a0),
    ("SIGNATURE S", 0x2a0 + 72),
];

#[test]
fn fields_of_the_snp_report() {
    let good = Machine::good(Tee::SevSnp).document();
    for (field, at) in SNP_FIELDS {
        println!("{field}");
        refused(
            &flipped(&good, at, 1),
            &[(
                "evidence.signature",
                "the signature on the SNP report does not hold",
            )],
        );
    }
}

/// Fields that determine how to read the rest are refused by name before the signature is checked.
#[test]
fn fields_of_the_snp_report_that_are_read_first() {
    let good = Machine::good(Tee::SevSnp).document();
    for (at, bits, id, text) in [
        (
            0x00,
            0x04,
            "evidence.signature",
            "SNP report has version 7, 2 to 5 expected",
        ),
        (
            0x0a,
            0x08,
            "snp.policy",
            "SNP report: policy is 0xb0000: debugging is allowed, so the host can read the guest's memory",
        ),
        (
            0x30,
            0x02,
            "snp.vmpl",
            "SNP report: VMPL is 2: code of a higher privilege controls the guest",
        ),
        (
            0x34,
            0x02,
            "evidence.signature",
            "SNP report: signature algorithm is 3: only ECDSA P-384 with SHA-384 (1) exists",
        ),
    ] {
        refused(&flipped(&good, at, bits), &[(id, text)]);
    }
}

/// No signed byte can be changed undetected: the signature is invalid, or the byte is refused before the signature is
/// checked.
#[test]
fn every_signed_byte_counts() {
    const READ_FIRST: [&str; 5] = [
        "tdx.attributes",
        "snp.policy",
        "snp.vmpl",
        "snp.id_key",
        "snp.author_key",
    ];
    for (tee, signed) in [(Tee::Tdx, HEADER + REPORT), (Tee::SevSnp, 0x2a0)] {
        let good = Machine::good(tee).document();
        for at in (0..signed).step_by(13) {
            let verdict = flipped(&good, at, 0x10);
            assert_eq!(verdict.authorizes(), None, "{tee} {at:#x}");
            let [row] = verdict.failures().collect::<Vec<_>>()[..] else {
                panic!("{tee} {at:#x}: {verdict:#?}")
            };
            assert!(
                row.id == "evidence.signature" || READ_FIRST.contains(&row.id),
                "{tee} {at:#x}: {row:?}"
            );
        }
    }
}
