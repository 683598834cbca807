//! The report of a real H100 with its certificates, published by NVIDIA with its Python verifier. It is appraised with
//! the reference manifests of the same package, none of which is for the report's driver or VBIOS.

use std::path::PathBuf;

use cocoon_inputs::unpack::wheel_file;
use cocoon_measurements::nvidia::{GpuAppraisal, GpuCollateral, GpuDemand, GpuEvidence, appraise};
use cocoon_measurements::policy::Policy;
use cocoon_measurements::roots::RootClass;
use cocoon_measurements::verdict::{Check, Outcome};

use crate::tools::{had, wheel};

/// A time at which the manifests are valid: January 2025.
const NOW: u64 = 1_736_000_000;
/// Maximum file size in bytes: a report has 4 KB, twice that in hexadecimal, and a manifest 21 KB.
const MOST: u64 = 64 << 10;
/// Manifests of other versions than the report's.
const MANIFESTS: [&str; 2] = ["Driver_RIM_test_no_gpu", "1010_0200_882_96005E0001_PROD"];

struct Published {
    report: Vec<u8>,
    chain: Vec<u8>,
    manifests: Vec<Vec<u8>>,
}

impl Published {
    fn open() -> anyhow::Result<Self> {
        let wheel: PathBuf = wheel("nv-local-gpu-verifier")?;
        let file = |name: &str| wheel_file(&wheel, &format!("verifier/samples/{name}"), MOST);
        let report = file("hopperAttestationReport.txt")?;
        let manifests = MANIFESTS.map(|name| file(&format!("{name}.swidtag")));
        Ok(Self {
            report: hex::decode(report.trim_ascii())?,
            chain: file("hopperCertChain.txt")?,
            manifests: manifests.into_iter().collect::<Result<_, _>>()?,
        })
    }

    /// Returns the nonce that the report answers.
    fn nonce(&self) -> [u8; 32] {
        self.report[4..36].try_into().unwrap()
    }

    /// Appraises the report for this nonce, under NVIDIA's own roots. No OCSP response was published with it.
    fn judge(&self, nonce: [u8; 32]) -> GpuAppraisal {
        let evidence = GpuEvidence {
            report: &self.report,
            chain: &self.chain,
            driver: None,
        };
        let rims: Vec<&[u8]> = self.manifests.iter().map(Vec::as_slice).collect();
        let collateral = GpuCollateral {
            rims: &rims,
            ocsp: &[],
        };
        let demand = GpuDemand {
            nonce,
            count: Some(1),
            driver_state: false,
        };
        let policy = Policy {
            accept_missing_gpu_revocation: true,
            ..Policy::default()
        };
        appraise(&[evidence], &collateral, &demand, &policy, NOW)
    }
}

fn failed(judged: &GpuAppraisal) -> Vec<&Check> {
    let failed = |check: &&Check| check.outcome == Outcome::Fail;
    judged.checks.iter().filter(failed).collect()
}

fn ids(judged: &GpuAppraisal) -> Vec<&'static str> {
    failed(judged).iter().map(|check| check.id).collect()
}

#[test]
fn a_real_report_verifies_under_nvidias_root() {
    let Some(mut real) = had("NVIDIA's Python verifier", Published::open) else {
        return;
    };
    let nonce = real.nonce();
    let judged = real.judge(nonce);
    assert_eq!(judged.root, Some(RootClass::Vendor));
    let passed: Vec<&str> = (judged.checks.iter())
        .filter(|check| check.outcome == Outcome::Pass)
        .map(|check| check.id)
        .collect();
    for id in [
        "gpu.report",
        "gpu.architecture",
        "gpu.root",
        "gpu.chain",
        "gpu.signature",
        "gpu.firmware_id",
        "gpu.nonce",
    ] {
        assert!(passed.contains(&id), "{id}: {:#?}", judged.checks);
    }
    let [gpu] = &judged.gpus[..] else {
        panic!("{:#?}", judged.gpus)
    };
    assert_eq!(
        (&*gpu.driver_rim, &*gpu.vbios_rim),
        (
            "NV_GPU_DRIVER_GH100_550.90.07",
            "NV_GPU_VBIOS_1010_0200_882_96009F0001"
        )
    );
    // The manifests in the package are for other versions.
    let lacking = ["gpu.rim.driver", "gpu.rim.vbios", "gpu.measurements"];
    assert_eq!(ids(&judged), lacking);
    assert_eq!(
        failed(&judged)[0].found.as_deref(),
        Some("manifests of 545.00, 96.00.5E.00.01")
    );
    // Another nonce, and then changed bytes throughout the report: the signature covers them all.
    let mut other = nonce;
    other[31] ^= 1;
    assert_eq!(ids(&real.judge(other))[0], "gpu.nonce");
    for at in (4..real.report.len()).step_by(97) {
        real.report[at] ^= 1;
        let ids = ids(&real.judge(nonce)).join(" ");
        let refused = ["gpu.signature", "gpu.report"];
        assert!(refused.contains(&&*ids), "byte {at}: {ids}");
        real.report[at] ^= 1;
    }
}
