//! Judges evidence of real H100s with NVIDIA's own certificates and reference manifests.
//!
//! Within its dates, the evidence is accepted as far as its parts belong together; otherwise it is refused for one named
//! reason. Files are vectors, or those of NVIDIA's Python package `nv-local-gpu-verifier` if `COCOON_NVIDIA_SAMPLES` names
//! its unpacked folder `verifier/samples`. No published report comes with the manifests of its own driver and VBIOS, so none
//! can be accepted as a whole. Simulated ones can (`src/nvidia/tests.rs`).

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cocoon_measurements::{
    nvidia::{GpuAppraisal, GpuCollateral, GpuDemand, GpuEvidence, appraise},
    policy::Policy,
    roots::RootClass,
    verdict::{Check, Outcome},
};

use crate::{open, unhex, variable, vector};

/// Within the dates of every manifest but the one of 2024: January 2025.
const NOW: u64 = 1_736_000_000;

struct Sample {
    report: Vec<u8>,
    chain: Vec<u8>,
    nonce: [u8; 32],
}

impl Sample {
    /// A report that NVIDIA published with its first verifier: driver 550.90.07.
    fn first() -> Option<Self> {
        let report = unhex(&vector("nvidia/nvtrust_hopperAttestationReport.txt")?);
        Some(Self {
            nonce: report[4..36].try_into().unwrap(),
            chain: vector("nvidia/nvtrust_hopperCertChain.txt")?,
            report,
        })
    }

    /// A report of NVIDIA's later software kit, from a machine with protected PCIe: driver 590.12.
    fn later() -> Option<Self> {
        let json: serde_json::Value =
            serde_json::from_slice(&vector("nvidia/hopper_evidence.json")?).unwrap();
        let field = |name: &str| json[0][name].as_str().unwrap().to_owned();
        Some(Self {
            report: STANDARD.decode(field("evidence")).unwrap(),
            chain: STANDARD.decode(field("certificate")).unwrap(),
            nonce: unhex(field("nonce").as_bytes()).try_into().unwrap(),
        })
    }

    fn judge(&self, rims: &[&[u8]]) -> GpuAppraisal {
        let evidence = GpuEvidence {
            report: &self.report,
            chain: &self.chain,
            driver: None,
        };
        let collateral = GpuCollateral { rims, ocsp: &[] };
        let demand = GpuDemand {
            nonce: self.nonce,
            count: Some(1),
            driver_state: false,
        };
        appraise(&[evidence], &collateral, &demand, &lenient(), NOW)
    }
}

/// A policy that accepts missing OCSP responses, because none were published with this evidence.
fn lenient() -> Policy {
    Policy {
        accept_missing_gpu_revocation: true,
        ..Policy::default()
    }
}

fn failed(appraisal: &GpuAppraisal) -> Vec<&Check> {
    let failed = |check: &&Check| check.outcome == Outcome::Fail;
    appraisal.checks.iter().filter(failed).collect()
}

#[test]
fn real_reports_verify_up_to_their_manifests() {
    for (sample, driver, vbios, pcie, refused) in [
        (
            Sample::first(),
            "NV_GPU_DRIVER_GH100_550.90.07",
            "NV_GPU_VBIOS_1010_0200_882_96009F0001",
            "off",
            &[][..],
        ),
        (
            Sample::later(),
            "NV_GPU_DRIVER_GH100_590.12",
            "NV_GPU_VBIOS_G520_0200_885_9600A50001",
            "on",
            &["gpu.protected_pcie"][..],
        ),
    ] {
        let Some(sample) = sample else { return };
        let judged = sample.judge(&[]);
        assert_eq!(judged.root, Some(RootClass::Vendor), "{judged:#?}");
        let ids: Vec<&str> = failed(&judged).iter().map(|row| row.id).collect();
        let absent = ["gpu.rim.driver", "gpu.rim.vbios", "gpu.measurements"];
        assert_eq!(ids, [refused, &absent].concat());
        let gpu = &judged.gpus[0];
        assert_eq!((&*gpu.driver_rim, &*gpu.vbios_rim), (driver, vbios));
        let row = judged
            .checks
            .iter()
            .find(|row| row.id == "gpu.protected_pcie")
            .unwrap();
        assert_eq!(row.found.as_deref(), Some(pcie));
        let row = judged
            .checks
            .iter()
            .find(|row| row.id == "gpu.firmware_id")
            .unwrap();
        assert_eq!(row.outcome, Outcome::Pass);
    }
}

#[test]
fn a_real_report_is_covered_by_its_signature() {
    let Some(mut sample) = Sample::first() else {
        return;
    };
    let length = sample.report.len();
    for at in [60, 2000, 3600, length - 97, length - 1] {
        sample.report[at] ^= 1;
        let judged = sample.judge(&[]);
        let ids: Vec<&str> = failed(&judged).iter().map(|row| row.id).collect();
        assert!(
            ids == ["gpu.signature"] || ids == ["gpu.report"],
            "{at}: {ids:?}"
        );
        assert!(judged.gpus.is_empty() && judged.root.is_none());
        sample.report[at] ^= 1;
    }
    let Some(other) = Sample::later() else { return };
    sample.chain = other.chain;
    assert_eq!(
        failed(&sample.judge(&[]))[0].id,
        "gpu.signature",
        "another GPU's certificates"
    );
    assert_eq!(
        sample.judge(&[]).checks.last().unwrap().outcome,
        Outcome::Note
    );
}

/// By default, no NVIDIA certificate is accepted without revocation data.
#[test]
fn real_certificates_need_their_status() {
    let Some(sample) = Sample::first() else {
        return;
    };
    let evidence = GpuEvidence {
        report: &sample.report,
        chain: &sample.chain,
        driver: None,
    };
    let demand = GpuDemand {
        nonce: sample.nonce,
        count: Some(1),
        driver_state: false,
    };
    let collateral = GpuCollateral::default();
    let judged = appraise(&[evidence], &collateral, &demand, &Policy::default(), NOW);
    let missing: Vec<&str> = failed(&judged)
        .into_iter()
        .filter(|row| row.id == "gpu.revocation")
        .map(|row| row.title.as_str())
        .collect();
    let names = [
        "GH100 A01 GSP BROM",
        "NVIDIA GH100 Provisioner ICA 1",
        "NVIDIA GH100 Identity",
    ];
    assert_eq!(missing, names.map(|name| format!("revocation of {name}")));
}

/// Reference manifests alone, because no published report is of their versions.
mod rims {
    use cocoon_measurements::{
        nvidia::{
            rim::{Reference, Rim, RimError},
            verify_manifest,
        },
        policy::Policy,
    };

    use super::{NOW, open, variable, vector};

    /// Within the dates of the manifest of 2024: from the end of 2024 until the first certificate above its signer's ends.
    const LATER: u64 = 1_780_000_000;

    /// Names and versions of the manifests of 2023.
    const OF_2023: [(&str, &str); 26] = [
        ("1010_0200_882_96005E0001_PROD", "96.00.5E.00.01"),
        ("1010_0200_882_96005E0001_test_no_gpu", "96.00.5E.00.01"),
        ("1010_0200_882_96005E0003_PROD", "96.00.5E.00.03"),
        ("1010_0200_882_960074001A_PROD", "96.00.74.00.1A"),
        ("1010_0200_882_960074001C_PROD", "96.00.74.00.1C"),
        ("1010_0205_862_96005E0002_PROD", "96.00.5E.00.02"),
        ("1010_0205_862_96005E0004_PROD", "96.00.5E.00.04"),
        ("1010_0205_862_960074001F_PROD", "96.00.74.00.1F"),
        ("1010_0205_862_9600740020_PROD", "96.00.74.00.20"),
        ("1010_0210_886_9600740011_PROD", "96.00.74.00.11"),
        ("1010_0215_866_9600740010_PROD", "96.00.74.00.10"),
        ("Driver_RIM_test_no_gpu", "545.00"),
        ("g520_0200_885_9600740001_PROD", "96.00.74.00.01"),
        ("g520_0200_885_960074000D_PROD", "96.00.74.00.0D"),
        ("g520_0202_885_96006D0008_PROD", "96.00.6D.00.08"),
        ("g520_0202_885_96006D0027_PROD", "96.00.6D.00.27"),
        ("g520_0202_885_9600740014_PROD", "96.00.74.00.14"),
        ("g520_0202_885_9600740018_PROD", "96.00.74.00.18"),
        ("g520_0205_865_9600740006_PROD", "96.00.74.00.06"),
        ("g520_0205_865_960074000F_PROD", "96.00.74.00.0F"),
        ("g520_0207_865_9600740015_PROD", "96.00.74.00.15"),
        ("g520_0207_865_9600740019_PROD", "96.00.74.00.19"),
        ("g520_0213_881_96006D0007_PROD", "96.00.6D.00.07"),
        ("g520_0213_881_96006D0026_PROD", "96.00.6D.00.26"),
        ("g520_0228_889_96006D000A_PROD", "96.00.6D.00.0A"),
        ("g520_0228_889_96006D0029_PROD", "96.00.6D.00.29"),
    ];

    fn verified(bytes: &[u8], now: u64) -> Result<Reference, RimError> {
        verify_manifest(bytes, &Policy::default(), now)
    }

    fn of_2023(name: &str) -> Option<Vec<u8>> {
        let file = format!("{name}.swidtag");
        let samples = variable("COCOON_NVIDIA_SAMPLES");
        let own = samples.and_then(|folder| open(&folder.join(&file)).ok());
        own.or_else(|| vector(&format!("nvidia/rim/{file}")))
    }

    #[test]
    fn every_published_manifest_verifies_in_its_time() {
        for (name, version) in OF_2023 {
            let Some(bytes) = of_2023(name) else { return };
            let reference =
                verified(&bytes, NOW).unwrap_or_else(|error| panic!("{name}: {error:?}"));
            assert_eq!(
                (&*reference.version, &*reference.product),
                (version, "GH100")
            );
            let active = if version == "545.00" { 21 } else { 12 };
            assert_eq!(reference.measurements.len(), active, "{name}");
            let error = verified(&bytes, LATER).unwrap_err().to_string();
            assert!(
                error.starts_with("the reference manifest's certificates are refused"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_manifest_of_2024_and_its_forgery() {
        let Some(bytes) = vector("nvidia/NV_GPU_DRIVER_GH100_550.144.03.xml") else {
            return;
        };
        let reference = verified(&bytes, LATER).unwrap();
        assert_eq!(reference.version, "550.144.03");
        assert_eq!(reference.measurements.len(), 21);
        let alternatives = reference
            .measurements
            .values()
            .map(|golden| golden.alternatives.len());
        assert_eq!(alternatives.max(), Some(4));
        let Some(forged) = vector("nvidia/incorrect_signature_driver_rim.xml") else {
            return;
        };
        assert_eq!(Rim::parse(&forged).unwrap().claimed_version(), "550.144.03");
        let error = verified(&forged, LATER).unwrap_err();
        let causes = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        assert_eq!(
            causes,
            "the reference manifest's signature is refused: the signature on the manifest does not hold"
        );
    }
}
