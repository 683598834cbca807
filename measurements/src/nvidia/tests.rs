//! Appraisal of a simulated H100 whose evidence is changed in one field at a time and signed again. Each change must fail
//! in its own row, with its own cause. Evidence of real GPUs is appraised in `tests/hardware`.

use std::sync::LazyLock;

use super::{
    DriverState, GpuAppraisal, GpuCollateral, GpuDemand, GpuEvidence, Known, appraise_knowing,
    simulated::{Gpu, Nvidia, ReportParts, Scene, Times},
};
use crate::{
    policy::Policy,
    verdict::{Check, Outcome},
};

mod canonical;
mod chains;
mod manifest_forms;
mod manifests;
mod properties;
mod reports;
mod revoked;
mod sets;

const NOW: u64 = 1_800_000_000;
const NONCE: [u8; 32] = Scene::NONCE;
const DRIVER: &str = Scene::DRIVER;
const VBIOS: &str = Scene::VBIOS;
const VBIOS_BYTES: [u8; 8] = Scene::VBIOS_BYTES;
const OF_DRIVER: [u8; 4] = Scene::OF_DRIVER;
const OF_VBIOS: [u8; 3] = Scene::OF_VBIOS;
/// Made an hour ago, with the next due in a day.
const TIMES: Times = Times {
    this_update: NOW - 3600,
    next_update: Some(NOW + 86_400),
};

static SCENE: LazyLock<Scene> = LazyLock::new(|| Scene::at(NOW).unwrap());
static NVIDIA: LazyLock<&Nvidia> = LazyLock::new(|| &SCENE.nvidia);
static GPU: LazyLock<&Gpu> = LazyLock::new(|| &SCENE.gpu);

/// All inputs of an appraisal, good unless a test changes them.
#[derive(Clone)]
struct Case {
    report: Vec<u8>,
    chain: String,
    driver: Option<DriverState>,
    rims: Vec<String>,
    ocsp: Vec<Vec<u8>>,
    demand: GpuDemand,
    policy: Policy,
    now: u64,
}

impl Case {
    fn good() -> Self {
        static GOOD: LazyLock<Case> = LazyLock::new(|| Case {
            report: SCENE.report(),
            chain: SCENE.chain.clone(),
            driver: Some(state()),
            rims: SCENE.rims.clone(),
            ocsp: SCENE.ocsp.clone(),
            demand: GpuDemand {
                nonce: NONCE,
                count: Some(1),
                driver_state: true,
            },
            policy: Policy {
                development_roots: NVIDIA.roots(),
                ..Policy::default()
            },
            now: NOW,
        });
        GOOD.clone()
    }

    /// Returns the good case with a report that `edit` changes before it is signed.
    fn reporting(edit: impl FnOnce(&mut ReportParts)) -> Self {
        let mut parts = parts();
        edit(&mut parts);
        Self {
            report: parts.signed(&GPU.attestation.key),
            ..Self::good()
        }
    }

    fn judge(&self) -> GpuAppraisal {
        self.judge_knowing(&Known::default())
    }

    fn judge_knowing(&self, known: &Known) -> GpuAppraisal {
        let evidence = GpuEvidence {
            report: &self.report,
            chain: self.chain.as_bytes(),
            driver: self.driver.as_ref(),
        };
        self.judge_with(&[evidence], known)
    }

    fn judge_all(&self, evidence: &[GpuEvidence<'_>]) -> GpuAppraisal {
        self.judge_with(evidence, &Known::default())
    }

    fn judge_with(&self, evidence: &[GpuEvidence<'_>], known: &Known) -> GpuAppraisal {
        let rims: Vec<&[u8]> = self.rims.iter().map(String::as_bytes).collect();
        let ocsp: Vec<&[u8]> = self.ocsp.iter().map(Vec::as_slice).collect();
        let collateral = GpuCollateral {
            rims: &rims,
            ocsp: &ocsp,
        };
        let (demand, policy) = (&self.demand, &self.policy);
        appraise_knowing(evidence, &collateral, demand, policy, self.now, known)
    }

    /// Returns the rows that fail.
    fn failures(&self) -> Vec<Check> {
        let appraisal = self.judge();
        let failed = failures(&appraisal);
        assert_eq!(appraisal.is_rejected(), !failed.is_empty());
        failed
    }

    /// Returns the row that fails, which must be exactly one.
    #[track_caller]
    fn failure(&self) -> Check {
        let failed = self.failures();
        let [only] = &failed[..] else {
            panic!("one row fails, not {failed:#?}")
        };
        assert!(only.cause.is_some() && only.advice.is_some(), "{only:#?}");
        only.clone()
    }

    /// Returns id and cause of the row that fails, which must be exactly one.
    #[track_caller]
    fn refusal(&self) -> (&'static str, String) {
        let row = self.failure();
        (row.id, row.cause.unwrap_or_default())
    }
}

fn failures(appraisal: &GpuAppraisal) -> Vec<Check> {
    let failed = |check: &&Check| check.outcome == Outcome::Fail;
    appraisal.checks.iter().filter(failed).cloned().collect()
}

fn parts() -> ReportParts {
    SCENE.parts.clone()
}

fn state() -> DriverState {
    DriverState {
        confidential_computing: true,
        developer_mode: false,
        protected_pcie: false,
        driver_version: DRIVER.to_owned(),
        vbios_version: VBIOS.to_owned(),
    }
}

#[test]
fn a_good_gpu_is_accepted_with_every_row() {
    let appraisal = Case::good().judge();
    assert_eq!(failures(&appraisal), [], "{:#?}", appraisal.checks);
    let ids: Vec<&str> = appraisal.checks.iter().map(|check| check.id).collect();
    let revocation = ["gpu.revocation"; 3];
    let expected: Vec<&str> = [
        &[
            "gpu.count",
            "gpu.report",
            "gpu.architecture",
            "gpu.root",
            "gpu.chain",
        ][..],
        &[
            "gpu.signature",
            "gpu.firmware_id",
            "gpu.nonce",
            "gpu.device",
            "gpu.mode",
        ],
        &[
            "gpu.developer_mode",
            "gpu.protected_pcie",
            "gpu.versions",
            "gpu.versions",
        ],
        &revocation,
        &["gpu.root", "gpu.rim.driver"],
        &revocation,
        &["gpu.root", "gpu.rim.vbios", "gpu.measurements"],
    ]
    .concat();
    assert_eq!(ids, expected);
    let [gpu] = &appraisal.gpus[..] else {
        panic!("one GPU")
    };
    assert_eq!(gpu.device, GPU.device().unwrap());
    assert_eq!(gpu.driver_rim, "NV_GPU_DRIVER_GH100_550.144.03");
    assert_eq!(gpu.vbios_rim, "NV_GPU_VBIOS_1010_0200_882_96005E0001");
}
