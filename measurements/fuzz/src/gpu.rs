//! Targets for GPU reports, reference manifests and OCSP responses: as foreign bytes, and changed by a script and signed again
//! by a simulated NVIDIA.

use std::sync::LazyLock;

use cocoon_measurements::nvidia::rim::{Rim, RimError};
use cocoon_measurements::nvidia::simulated::status::{self, Status, Times};
use cocoon_measurements::nvidia::simulated::{ManifestParts, Scene, manifest};
use cocoon_measurements::nvidia::spdm::{MAX_REPORT, Report};
use cocoon_measurements::nvidia::{
    GpuAppraisal, GpuCollateral, GpuDemand, GpuEvidence, appraise, ocsp, verify_manifest,
};
use cocoon_measurements::policy::Policy;
use cocoon_measurements::verdict::Outcome;
use cocoon_protocol::gpu::MAX_RIM;

use crate::edits;
use crate::memory::bounded;
use crate::platform::{NOW, made};

/// Memory in bytes that the appraisal of a GPU may hold at once. Most of it is two parsed manifests of 64 KiB each.
const JUDGED: usize = 4 << 20;

static SCENE: LazyLock<Scene> = LazyLock::new(|| made(Scene::at(NOW)));
static REPORT: LazyLock<Vec<u8>> = LazyLock::new(|| SCENE.report());
static POLICY: LazyLock<Policy> = LazyLock::new(|| Policy {
    development_roots: SCENE.nvidia.roots(),
    ..Policy::default()
});

/// Parses foreign bytes as a GPU report. All parsed values must lie within the input.
pub fn gpu_report_read(data: &[u8]) {
    reads_as_report(data);
}

/// Appraises foreign bytes as a GPU report. Only the good report is accepted.
pub fn gpu_report(data: &[u8]) {
    if reads_as_report(data) && !judge(data, &SCENE.rims, &SCENE.ocsp).is_rejected() {
        let signed = REPORT.len();
        assert_eq!(
            data.get(..signed),
            Some(&REPORT[..]),
            "another report is accepted"
        );
    }
}

fn reads_as_report(data: &[u8]) -> bool {
    let Ok(report) = bounded(128 << 10, || Report::parse(data)) else {
        return false;
    };
    assert!(data.len() <= MAX_REPORT && data.starts_with(report.transcript));
    let behind = data.len() - report.transcript.len();
    assert!(
        (96..100).contains(&behind),
        "{behind} bytes behind what is signed"
    );
    assert!((1..=64).contains(&report.measurements.len()));
    assert_eq!(data.get(4..36), Some(&report.nonce[..]));
    let within = data.as_ptr_range();
    for value in report.measurements.values() {
        let value = value.as_ptr_range();
        assert!(within.start <= value.start && value.end <= within.end);
    }
    true
}

/// Appraises GPU reports with a valid signature. The input is a script over the signed bytes.
pub fn gpu_report_signed(script: &[u8]) {
    let good = SCENE.parts.transcript();
    let bytes = edits::edited(script, &good);
    let key = &SCENE.gpu.attestation.key;
    let signed = [&bytes[..], &key.sign_raw(&bytes)].concat();
    let judged = judge(&signed, &SCENE.rims, &SCENE.ocsp);
    let Ok(report) = Report::parse(&signed) else {
        assert!(judged.is_rejected() && judged.gpus.is_empty());
        return;
    };
    if report.transcript.len() == bytes.len() {
        let refused = |row: &cocoon_measurements::verdict::Check| {
            row.id == "gpu.signature" && row.outcome == Outcome::Fail
        };
        assert!(
            !judged.checks.iter().any(refused),
            "a signed report is not the GPU's"
        );
    }
    if judged.is_rejected() {
        assert_ne!(bytes, good, "the good report is refused: {judged:#?}");
        return;
    }
    assert_eq!(report.nonce, Scene::NONCE);
    assert_eq!(report.opaque.driver_version.as_deref(), Some(Scene::DRIVER));
    assert_eq!(report.opaque.vbios_version.as_deref(), Some(Scene::VBIOS));
    // Measurement 35 is not compared if the report says that the decoder is not in use.
    let compared = [&Scene::OF_DRIVER[..], &Scene::OF_VBIOS].concat();
    for index in compared.into_iter().filter(|index| *index != 35) {
        let block = index + 1;
        assert_eq!(
            report.measurements.get(&block),
            Some(&&[block; 48][..]),
            "{index}"
        );
    }
}

/// Parses foreign bytes as a reference manifest, without verifying a signature.
pub fn rim_read(data: &[u8]) {
    if let Ok(parsed) = bounded(JUDGED, || Rim::parse(data)) {
        assert!(data.len() <= MAX_RIM && parsed.claimed_version().len() < data.len());
    }
}

/// Verifies foreign bytes as a reference manifest. Only the good manifests are accepted.
pub fn rim(data: &[u8]) {
    let parsed = bounded(JUDGED, || Rim::parse(data));
    let verified = bounded(JUDGED, || verify_manifest(data, &POLICY, NOW));
    assert!(parsed.is_ok() || verified.is_err());
    if let (Ok(parsed), Ok(reference)) = (parsed, verified) {
        assert_eq!(parsed.claimed_version(), reference.version);
        let known = [Scene::DRIVER, Scene::VBIOS].contains(&&*reference.version);
        assert!(known, "nobody signed {}", reference.version);
        let expected = if reference.version == Scene::DRIVER {
            &Scene::OF_DRIVER[..]
        } else {
            &Scene::OF_VBIOS
        };
        assert!(
            reference
                .measurements
                .keys()
                .all(|index| expected.contains(index))
        );
        assert_eq!(reference.measurements.len(), expected.len());
    }
}

/// Verifies reference manifests with a valid signature. The input is a script over the signed content.
pub fn rim_signed(script: &[u8]) {
    let good = ManifestParts::new(Scene::DRIVER, &Scene::OF_DRIVER).canonical();
    let bytes = edits::edited(script, good.as_bytes());
    let Ok(content) = std::str::from_utf8(&bytes) else {
        return;
    };
    let [root, values, above, signer] = &SCENE.nvidia.manifests;
    let chain = [signer, above, values, root].map(|identity| &identity.certificate[..]);
    let signed = manifest::signed(content, &signer.key, &chain);
    match bounded(JUDGED, || verify_manifest(signed.as_bytes(), &POLICY, NOW)) {
        Ok(reference) => {
            assert!(!reference.measurements.is_empty());
            for (index, golden) in &reference.measurements {
                assert!(*index < 64 && !golden.alternatives.is_empty());
                for digest in &golden.alternatives {
                    assert!(
                        content.contains(&hex::encode(digest)),
                        "{index}: not in the text"
                    );
                }
            }
        }
        Err(RimError::Certificate(_) | RimError::Root { .. }) => {
            panic!("a signed manifest is refused for its certificates")
        }
        // This includes changed content that is not canonical and therefore has another digest.
        Err(_) => assert_ne!(content, good, "the good manifest is refused"),
    }
}

/// Parses foreign bytes as an OCSP response, without verifying a signature.
pub fn ocsp_read(data: &[u8]) {
    let read = bounded(JUDGED, || ocsp::readable(data));
    let newest = bounded(JUDGED, || ocsp::newest(&[data]));
    assert!(read.is_ok() || newest.is_none(), "a date of no response");
    assert!(read.is_err() || data.len() <= ocsp::MAX_OCSP);
}

/// Appraises foreign bytes as the OCSP response about the GPU's identity certificate. The GPU is accepted only if they contain
/// what the responder signed.
pub fn ocsp(data: &[u8]) {
    let read = bounded(JUDGED, || ocsp::readable(data));
    let mut responses = SCENE.ocsp.clone();
    responses[0] = data.to_vec();
    let judged = judge(&REPORT, &SCENE.rims, &responses);
    if !judged.is_rejected() {
        assert!(read.is_ok());
        let signed = made(status::encoded(&answers(Status::Good)));
        let holds = data.windows(signed.len()).any(|bytes| bytes == signed);
        assert!(holds, "accepted without what the responder signed");
    }
}

/// Appraises OCSP responses with a valid signature. The first byte selects the status; the rest is a script over the signed
/// data.
pub fn ocsp_signed(data: &[u8]) {
    let Some((kind, script)) = data.split_first() else {
        return;
    };
    let said = [Status::Good, Status::Revoked(NOW - 5), Status::Unknown][usize::from(kind % 3)];
    let good = answers(said);
    let der = edits::edited(script, &made(status::encoded(&good)));
    let Ok(changed) = status::decoded(&der) else {
        return;
    };
    let [_, _, issuer] = &SCENE.nvidia.devices;
    let responder = made(status::responder(issuer));
    let signed = made(status::signed(
        changed.clone(),
        &responder.key,
        &[&responder],
    ));
    let mut responses = SCENE.ocsp.clone();
    responses[0] = signed;
    if judge(&REPORT, &SCENE.rims, &responses).is_rejected() {
        assert!(
            *kind % 3 != 0 || changed != good,
            "the good response is refused"
        );
        return;
    }
    let about = |answer: &&_| {
        let expected = &answers(Status::Good).responses[0];
        status::same(answer, expected)
    };
    assert!(
        changed.responses.iter().any(|answer| about(&answer)),
        "accepted with another answer"
    );
}

fn answers(said: Status) -> status::Answers {
    let [_, _, provisioner] = &SCENE.nvidia.devices;
    let times = Times {
        this_update: NOW - 3600,
        next_update: Some(NOW + 86_400),
    };
    made(status::data(&SCENE.gpu.identity, provisioner, said, times))
}

fn judge(report: &[u8], rims: &[String], ocsp: &[Vec<u8>]) -> GpuAppraisal {
    let evidence = GpuEvidence {
        report,
        chain: SCENE.chain.as_bytes(),
        driver: None,
    };
    let rims: Vec<&[u8]> = rims.iter().map(String::as_bytes).collect();
    let ocsp: Vec<&[u8]> = ocsp.iter().map(Vec::as_slice).collect();
    let collateral = GpuCollateral {
        rims: &rims,
        ocsp: &ocsp,
    };
    let demand = GpuDemand {
        nonce: Scene::NONCE,
        count: Some(1),
        driver_state: false,
    };
    let judged = bounded(JUDGED, || {
        appraise(&[evidence], &collateral, &demand, &POLICY, NOW)
    });
    for row in judged
        .checks
        .iter()
        .filter(|row| row.outcome == Outcome::Fail)
    {
        let explained = row.cause.is_some() && row.advice.is_some();
        assert!(explained, "{} fails without a reason", row.id);
    }
    judged
}

/// Appraises the good GPU once, so that no memory measurement includes the making of its fixtures.
pub(crate) fn warm() {
    let judged = judge(&REPORT, &SCENE.rims, &SCENE.ocsp);
    assert!(
        !judged.is_rejected(),
        "the good GPU is refused: {judged:#?}"
    );
}

/// Seeds of the targets in this module.
pub(crate) mod seeds {
    use super::{REPORT, SCENE};
    use crate::edits::flip;

    pub fn report() -> Vec<Vec<u8>> {
        vec![REPORT.clone(), [&REPORT[..], &[0x0a]].concat()]
    }

    pub fn report_script() -> Vec<Vec<u8>> {
        // Offsets in request, response, first and last measurement, nonce and opaque data.
        let offsets = [
            0, 4, 36, 38, 41, 42, 45, 49, 52, 3510, 3560, 3570, 3600, 3620, 3640,
        ];
        let mut scripts: Vec<Vec<u8>> = offsets.iter().map(|at| flip(*at, 1).to_vec()).collect();
        scripts.push(Vec::new());
        scripts
    }

    pub fn rim() -> Vec<Vec<u8>> {
        SCENE
            .rims
            .iter()
            .map(|text| text.clone().into_bytes())
            .collect()
    }

    pub fn rim_script() -> Vec<Vec<u8>> {
        let offsets = [
            0, 20, 60, 260, 320, 380, 520, 640, 700, 760, 900, 1200, 4000,
        ];
        let mut scripts: Vec<Vec<u8>> = offsets.iter().map(|at| flip(*at, 1).to_vec()).collect();
        scripts.push(Vec::new());
        scripts
    }

    pub fn ocsp() -> Vec<Vec<u8>> {
        SCENE.ocsp.iter().take(2).cloned().collect()
    }

    pub fn ocsp_script() -> Vec<Vec<u8>> {
        let mut scripts = vec![vec![0], vec![1], vec![2]];
        for at in [5, 40, 120, 160, 200, 240, 260, 280, 300] {
            scripts.push([&[0][..], &flip(at, 1)].concat());
        }
        scripts
    }
}
