//! Several GPUs, the mode of each, and the policy's list of devices.

use super::{Case, DRIVER, GPU, NONCE, NVIDIA, VBIOS_BYTES, failures, parts, state};
use crate::nvidia::{
    DriverState, GpuEvidence, MAX_CHAIN, MAX_GPUS, MAX_OCSP_RESPONSES, MAX_RIMS,
    ocsp::MAX_OCSP,
    simulated::{
        Identity, Key, ReportParts,
        pki::{pem, sign},
    },
};
use cocoon_protocol::gpu::MAX_RIM;

#[test]
fn cocoon_gpu_12() {
    let other = NVIDIA.gpu("second").unwrap();
    let report = ReportParts::new(NONCE, DRIVER, VBIOS_BYTES, other.firmware_id);
    let second = (
        report.signed(&other.attestation.key),
        NVIDIA.chain(&other).unwrap(),
    );
    let mut case = Case::good();
    case.demand.count = Some(2);
    case.ocsp.extend(NVIDIA.good(&other, super::TIMES).unwrap());
    let driver = state();
    let evidence = |report: &'static [u8], chain: &'static str| GpuEvidence {
        report,
        chain: chain.as_bytes(),
        driver: None,
    };
    let first: GpuEvidence<'static> =
        evidence(case.report.clone().leak(), case.chain.clone().leak());
    let second: GpuEvidence<'static> = evidence(second.0.leak(), second.1.leak());
    let with = |one: GpuEvidence<'static>| GpuEvidence {
        driver: Some(&driver),
        ..one
    };
    let (first, second) = (with(first), with(second));

    let both = case.judge_all(&[first, second]);
    assert_eq!(failures(&both), []);
    let devices: Vec<_> = both.gpus.iter().map(|gpu| gpu.device).collect();
    assert_eq!(devices, [GPU.device().unwrap(), other.device().unwrap()]);
    // Both GPUs share one row for each manifest and for each certificate above the devices.
    let rows = |id| both.checks.iter().filter(|check| check.id == id).count();
    assert_eq!(
        (
            rows("gpu.rim.driver"),
            rows("gpu.revocation"),
            rows("gpu.nonce")
        ),
        (1, 7, 2)
    );

    let twice = failures(&case.judge_all(&[first, first]));
    assert_eq!(twice.len(), 1);
    assert_eq!(
        (twice[0].id, twice[0].found.as_deref()),
        ("gpu.distinct", Some("1"))
    );
    for (shown, found) in [
        (&[first][..], "1"),
        (&[], "0"),
        (&[first, second, second], "3"),
    ] {
        let failed = failures(&case.judge_all(shown));
        assert_eq!(
            (failed[0].id, failed[0].found.as_deref()),
            ("gpu.count", Some(found))
        );
        assert_eq!(failed[0].expected.as_deref(), Some("2"));
    }
    // One of two answers an older nonce.
    let mut parts = ReportParts::new([1; 32], DRIVER, VBIOS_BYTES, other.firmware_id);
    let old = parts.signed(&other.attestation.key);
    let failed = failures(&case.judge_all(&[
        first,
        GpuEvidence {
            report: &old,
            ..second
        },
    ]));
    assert_eq!(
        (failed[0].id, &*failed[0].title),
        ("gpu.nonce", "GPU 1: nonce of the report")
    );
    // One of two has another VBIOS, for which there is no manifest.
    parts = ReportParts::new(
        NONCE,
        DRIVER,
        [0, 0x74, 0, 0x96, 0x1a, 0, 0, 0],
        other.firmware_id,
    );
    let newer = parts.signed(&other.attestation.key);
    let failed = failures(&case.judge_all(&[
        first,
        GpuEvidence {
            report: &newer,
            ..second
        },
    ]));
    let row = failed.iter().find(|row| row.id == "gpu.rim.vbios").unwrap();
    assert_eq!(
        row.expected.as_deref(),
        Some("96.00.74.00.1A (NV_GPU_VBIOS_1010_0200_882_960074001A)")
    );

    let many = vec![first; MAX_GPUS + 1];
    let failed = failures(&case.judge_all(&many));
    assert_eq!(failed[1].expected.as_deref(), Some("at most 16"));
    case.demand.count = None;
    assert_eq!(
        failures(&case.judge_all(&[]))[0].expected.as_deref(),
        Some("at least 1")
    );
    assert!(case.judge_all(&[]).is_rejected());
}

/// One item above each limit on numbers, and one byte above each limit on sizes.
#[test]
fn cocoon_gpu_23() {
    let refusal = |edit: &dyn Fn(&mut Case)| {
        let mut case = Case::good();
        edit(&mut case);
        let row = case.failures().remove(0);
        (row.id, row.title.clone(), row.expected.or(row.cause))
    };
    let refused = |id, title: &str, why: &str| (id, title.to_owned(), Some(why.to_owned()));
    assert_eq!(
        refusal(&|case| case.rims.resize(MAX_RIMS + 1, String::new())),
        refused("gpu.count", "number of reference manifests", "at most 32")
    );
    assert_eq!(
        refusal(&|case| case.ocsp.resize(MAX_OCSP_RESPONSES + 1, Vec::new())),
        refused("gpu.count", "number of OCSP responses", "at most 64")
    );
    let case = Case::good();
    let evidence = GpuEvidence {
        report: &case.report,
        chain: case.chain.as_bytes(),
        driver: case.driver.as_ref(),
    };
    let row = failures(&case.judge_all(&vec![evidence; MAX_GPUS + 1])).remove(1);
    assert_eq!((row.id, &*row.title), ("gpu.count", "number of GPUs"));
    assert_eq!(row.expected.as_deref(), Some("at most 16"));

    let longest = |chain: &mut String, length| *chain += &"\n".repeat(length - chain.len());
    let mut case = Case::good();
    longest(&mut case.chain, MAX_CHAIN);
    assert_eq!(case.failures(), []);
    assert_eq!(
        refusal(&|case| longest(&mut case.chain, MAX_CHAIN + 1)),
        refused(
            "gpu.chain",
            "certificates of the GPU",
            "the GPU's certificate chain has 8193 bytes of PEM, more than 8192"
        )
    );
    let (_, _, why) = refusal(&|case| case.rims.push(" ".repeat(MAX_RIM + 1)));
    let why = why.unwrap();
    assert!(
        why.ends_with("XML has 65537 bytes, more than 65536"),
        "{why}"
    );
    let (id, _, why) = refusal(&|case| case.ocsp.push(vec![0; MAX_OCSP + 1]));
    assert_eq!(id, "gpu.revocation");
    let expected = "the OCSP response has 16385 bytes, more than 16384";
    assert_eq!(why.as_deref(), Some(expected));
}

#[test]
fn cocoon_gpu_13() {
    let with = |edit: fn(&mut DriverState)| {
        let mut case = Case::good();
        edit(case.driver.as_mut().unwrap());
        case
    };
    let (off, developer) = (
        "confidential computing is off: the host can read what the GPU holds",
        "developer mode: debuggers and profilers can read everything",
    );
    let refusal = |id, cause: &str| (id, cause.to_owned());
    assert_eq!(
        with(|d| d.confidential_computing = false).refusal(),
        refusal("gpu.mode", off)
    );
    let mut lenient = with(|d| d.developer_mode = true);
    assert_eq!(lenient.refusal(), refusal("gpu.developer_mode", developer));
    lenient.policy.accept_gpu_developer_mode = true;
    assert_eq!(lenient.failures(), []);
    // Developer mode is accepted and reported, so that the whole appraisal counts as simulated.
    assert!(lenient.judge().developer_mode);
    assert!(!Case::good().judge().developer_mode);
    let (pcie, version) = (
        "the driver says otherwise than the report that the GPU signed",
        "the driver names another version than the report that the GPU signed",
    );
    assert_eq!(
        with(|d| d.protected_pcie = true).refusal(),
        refusal("gpu.protected_pcie", pcie)
    );
    assert_eq!(
        with(|d| d.driver_version.push('0')).refusal(),
        refusal("gpu.versions", version)
    );
    assert_eq!(
        with(|d| d.vbios_version.push('0')).refusal(),
        refusal("gpu.versions", version)
    );
    assert_eq!(
        with(|d| d.vbios_version.make_ascii_lowercase()).failures(),
        []
    );
    // The driver was not asked.
    let mut silent = Case::good();
    silent.driver = None;
    let (id, cause) = silent.refusal();
    assert_eq!(id, "gpu.mode");
    assert!(
        cause.starts_with("what the driver says of the GPU's mode is missing"),
        "{cause}"
    );
    silent.demand.driver_state = false;
    assert_eq!(silent.failures(), []);
}

/// Protected PCIe leaves NVLink in clear, and this verifier does not judge switches. It is refused if either the report or
/// the driver states it.
#[test]
fn protected_pcie_is_refused() {
    for (id, value) in [(21, vec![0xaa]), (36, vec![2, 0])] {
        let mut case = Case::reporting(|parts| *parts.field(id) = value);
        case.driver.as_mut().unwrap().protected_pcie = true;
        let failed = case.failures();
        let [row] = &failed[..] else {
            panic!("{failed:?}")
        };
        assert_eq!(
            (row.id, row.expected.as_deref(), row.found.as_deref()),
            ("gpu.protected_pcie", Some("off"), Some("on"))
        );
        // The driver was not asked.
        case.driver = None;
        case.demand.driver_state = false;
        assert_eq!(case.refusal().0, "gpu.protected_pcie");
        // Protected PCIe does not replace confidential computing.
        case.driver = Some(DriverState {
            protected_pcie: true,
            confidential_computing: false,
            ..Case::good().driver.unwrap()
        });
        let ids: Vec<&str> = case.failures().iter().map(|row| row.id).collect();
        assert_eq!(ids, ["gpu.mode", "gpu.protected_pcie"]);
    }
    // Only the driver states protected PCIe.
    let mut case = Case::good();
    let driver = case.driver.as_mut().unwrap();
    driver.protected_pcie = true;
    driver.confidential_computing = false;
    let ids: Vec<&str> = case.failures().iter().map(|row| row.id).collect();
    assert_eq!(ids, ["gpu.mode", "gpu.protected_pcie"]);
}

#[test]
fn cocoon_gpu_15() {
    let mut case = Case::good();
    let device = GPU.device().unwrap();
    case.policy.gpus = vec![device];
    assert_eq!(case.failures(), []);
    let mut other = device;
    other.0[0] ^= 1;
    case.policy.gpus = vec![other];
    let row = case.failure();
    assert_eq!(
        (row.id, row.expected),
        ("gpu.device", Some(other.to_string()))
    );
    assert_eq!(row.found, Some(device.to_string()));
    case.policy.gpus = vec![other, other];
    assert_eq!(
        case.failure().expected.as_deref(),
        Some("one of the 2 that the policy lists")
    );
    // The attestation key changes with the firmware; the device does not.
    assert_eq!(parts().opaque.len(), 8);
}

/// Authorities are verified once for all GPUs, but a forged one of the same name is not taken for a verified one.
#[test]
fn what_was_verified_says_nothing_of_others() {
    let [root, line, provisioner] = &NVIDIA.devices;
    let stranger = Key::from_seed("stranger").unwrap();
    let mut body = line.parsed().unwrap().tbs_certificate;
    body.subject_public_key_info = stranger.public().unwrap();
    let forged = Identity {
        certificate: sign(body, &stranger).unwrap(),
        key: stranger,
    };
    let chain = [&GPU.attestation, &GPU.identity, provisioner, &forged, root];
    let chain = pem(&chain).unwrap();
    let mut case = Case::good();
    case.demand.count = Some(2);
    let driver = state();
    let good = GpuEvidence {
        report: &case.report,
        chain: case.chain.as_bytes(),
        driver: Some(&driver),
    };
    let other = GpuEvidence {
        chain: chain.as_bytes(),
        ..good
    };
    let judged = case.judge_all(&[good, other]);
    assert_eq!(judged.gpus.len(), 1);
    let failed = failures(&judged);
    assert_eq!(failed.len(), 1);
    assert_eq!(failed[0].title, "GPU 1: certificates of the GPU");
    assert_eq!(
        failed[0].cause.as_deref(),
        Some("the signature on the certificate of NVIDIA's provisioner does not hold")
    );
}
