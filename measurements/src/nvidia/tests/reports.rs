//! The report: its form, signature, nonce and chip.

use super::{Case, GPU, NONCE, parts};
use crate::nvidia::{
    opaque::OpaqueError,
    simulated::ReportParts,
    spdm::{MAX_REPORT, Report, ReportError},
};

type Edit = fn(&mut ReportParts);

/// A report with any invalid field is refused, although it is properly signed.
#[test]
fn cocoon_gpu_1() {
    let changes: [(Edit, &str); 18] = [
        (
            |p| p.request[0] = 0x12,
            "SPDM version of the request at offset 0x0 is 0x12, 0x11 expected",
        ),
        (
            |p| p.request[1] = 0xe1,
            "request code at offset 0x1 is 0xe1, 0xe0 expected",
        ),
        (
            |p| p.request[2] = 0,
            "request attributes at offset 0x2 is 0x0, 1 expected",
        ),
        (
            |p| p.request[3] = 1,
            "request operation at offset 0x3 is 0x1, 0xff expected",
        ),
        (
            |p| p.request[36] = 8,
            "slot at offset 0x24 is 0x8, 0 to 7 expected",
        ),
        (
            |p| p.response[0] = 0x10,
            "SPDM version of the response at offset 0x25 is 0x10, 0x11 expected",
        ),
        (
            |p| p.response[1] = 0x7f,
            "response code at offset 0x26 is 0x7f, 0x60 expected",
        ),
        (
            |p| p.response[2] = 1,
            "response Param1 at offset 0x27 is 0x1, 0 expected",
        ),
        (
            |p| p.response[3] = 1,
            "response slot at offset 0x28 is 0x1, the request's expected",
        ),
        (
            |p| p.blocks = Some(0),
            "number of measurements at offset 0x29 is 0x0, 1 to 64 expected",
        ),
        (
            |p| p.blocks = Some(65),
            "number of measurements at offset 0x29 is 0x41, 1 to 64 expected",
        ),
        (
            |p| p.blocks = Some(63),
            "measurement record of the GPU report has 55 bytes too many behind offset 0xd89",
        ),
        (
            |p| p.measurements[7].0 = 7,
            "measurement 7 stands twice, again at offset 0x181 of its record",
        ),
        (
            |p| p.measurements[7].0 = 65,
            "measurement index at offset 0x181 is 0x41, 1 to 64 expected",
        ),
        (
            |p| p.measurements[7].1 = 2,
            "measurement specification at offset 0x182 is 0x2, 1 (DMTF) expected",
        ),
        (
            |p| p.field(11).push(0),
            "opaque data of the GPU report: field 11 at offset 0x35 has 2 bytes, 1 expected",
        ),
        (
            |p| p.field(11)[0] = 0,
            "opaque data of the GPU report: field 11 at offset 0x35 holds 00, 0xaa (on) or 0x55 (off) expected",
        ),
        (
            |p| p.opaque.push((11, vec![0xaa])),
            "opaque data of the GPU report: field 11 stands twice, again at offset 0x73",
        ),
    ];
    for (edit, reason) in changes {
        let (id, cause) = Case::reporting(edit).refusal();
        assert_eq!(id, "gpu.report", "{cause}");
        assert!(
            cause.ends_with(reason),
            "{cause} does not end with {reason}"
        );
    }
}

/// Sizes and limits, by the parser's exact errors.
#[test]
fn sizes_are_held_against_what_is_there() {
    let good = parts().signed(&GPU.attestation.key);
    assert!(Report::parse(&good).is_ok());
    for length in 0..good.len() {
        let error = Report::parse(&good[..length]).unwrap_err();
        let truncated = |error: &ReportError| {
            matches!(
                error,
                ReportError::Truncated(_) | ReportError::Opaque(OpaqueError::Truncated(_))
            )
        };
        assert!(truncated(&error), "{length}: {error:?}");
    }
    let trailing = |count| [&good[..], &vec![0x0a; count]].concat();
    assert!(Report::parse(&trailing(3)).is_ok(), "the driver's padding");
    assert_eq!(
        Report::parse(&trailing(4)),
        Err(ReportError::Trailing {
            structure: "GPU report",
            offset: good.len(),
            count: 4
        })
    );
    let length = MAX_REPORT + 1;
    assert_eq!(
        Report::parse(&vec![0; length]),
        Err(ReportError::TooLarge { length })
    );
    let mut inside = good.clone();
    // Changes the length of the first measurement's value, inside its block.
    inside[37 + 8 + 5] += 1;
    assert_eq!(
        Report::parse(&inside),
        Err(ReportError::Field {
            field: "length of a measurement's value",
            offset: 5,
            found: 49,
            expected: "three less than its block's size"
        })
    );
}

/// The signature covers every byte in front of it, and must be made with the leaf's key.
#[test]
fn cocoon_gpu_2() {
    let reason = "the report was changed after the GPU signed it, or it and the certificates are of different GPUs";
    let good = Case::good();
    // A byte of the nonce, the last measurement, the GPU's nonce, the firmware's digest, r and s.
    let end = good.report.len();
    for at in [
        4,
        37 + 8 + 64 * 55 - 1,
        37 + 8 + 64 * 55,
        end - 106,
        end - 96,
        end - 1,
    ] {
        let mut case = good.clone();
        case.report[at] ^= 1;
        let (id, cause) = case.refusal();
        assert_eq!((id, &*cause), ("gpu.signature", reason), "offset {at:#x}");
    }
    let other = super::NVIDIA.gpu("other").unwrap();
    let case = Case {
        report: parts().signed(&other.attestation.key),
        ..good.clone()
    };
    assert_eq!(case.refusal(), ("gpu.signature", reason.to_owned()));
    let case = Case {
        report: parts().signed(&GPU.identity.key),
        ..good
    };
    assert_eq!(
        case.refusal().0,
        "gpu.signature",
        "not even the device's own key"
    );
}

#[test]
fn cocoon_gpu_5() {
    let mut case = Case::good();
    case.demand.nonce[31] ^= 1;
    let row = case.failure();
    assert_eq!(row.id, "gpu.nonce");
    assert_eq!(row.found, Some(hex::encode(NONCE)));
    assert_eq!(
        row.cause.as_deref(),
        Some("the report answers another question: an old one, or somebody else's")
    );
    // The GPU's own nonce in the response does not stand in for the requester's.
    let case = Case::reporting(|parts| {
        parts.request[4..36].fill(0);
        parts.response_nonce = NONCE;
    });
    assert_eq!(case.refusal().0, "gpu.nonce");
}

#[test]
fn cocoon_gpu_6() {
    let case = Case::reporting(|parts| *parts.field(35) = b"GB100\0".to_vec());
    let row = case.failure();
    assert_eq!(
        (row.id, row.expected.as_deref()),
        ("gpu.architecture", Some("GH100"))
    );
    assert_eq!(row.found.as_deref(), Some("GB100 (Blackwell)"));
    assert_eq!(
        row.cause.as_deref(),
        Some("unsupported: this verifier understands the evidence of Hopper (H100, H200) alone")
    );
    let same = Case::reporting(|parts| *parts.field(35) = b"GH100\0".to_vec());
    assert_eq!(same.failures(), []);
}

/// A report without a field that is needed to find its manifests is refused.
#[test]
fn a_report_says_what_it_is_of() {
    for (id, what) in [
        (3, "the report does not say its driver's version"),
        (6, "the report does not say its VBIOS's version"),
        (15, "the report does not say its chip's product"),
        (17, "the report does not say its board's project"),
        (18, "the report does not say its board's variant"),
    ] {
        let case = Case::reporting(|parts| parts.opaque.retain(|(own, _)| *own != id));
        assert_eq!(case.refusal(), ("gpu.report", what.to_owned()));
    }
}
