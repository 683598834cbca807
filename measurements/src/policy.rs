//! The appraisal policy: what a verifier demands beyond the manifest.
//!
//! The defaults are the safe ones. The doc of each field that relaxes one says which protection is lost.

use cocoon_protocol::bytes::{Hex32, Hex48};
use serde::{Deserialize, Serialize};

use crate::tdx::tcb::TcbStatus;

mod age;
mod floor;
mod machine;

pub use floor::{SnpPart, SnpTcbFloor, SnpTcbFloors};
pub use machine::{MachineId, NotMachine};

/// Settings of an appraisal.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Development roots, each a certificate in DER. Evidence under one of them is **simulated**: nothing keeps the host from
    /// reading prompts. They never replace a vendor's root. A stored policy does not contain them: only a command-line flag
    /// may name one.
    #[serde(skip)]
    pub development_roots: Vec<Vec<u8>>,
    /// Accepted statuses of Intel's TCB levels, by Intel's names. Statuses other than `UpToDate` accept published weaknesses;
    /// `Revoked` is never accepted.
    #[serde(with = "status_names")]
    pub accepted_tcb_statuses: Vec<TcbStatus>,
    /// Intel advisories (`INTEL-SA-…`) that an accepted TCB level may carry.
    pub accepted_advisories: Vec<String>,
    /// Lowest accepted `tcbEvaluationDataNumber` of Intel's collateral. With a lower one a host may hide newer advisories.
    pub min_tcb_evaluation: u32,
    /// Accepted builds of the TDX module, each its MRSEAM as `tdx.module` shows it. Empty accepts any build that Intel signed
    /// and whose version the TCB level accepts.
    pub tdx_modules: Vec<Hex48>,
    /// Lowest accepted TCB of AMD's processors, per part and component; see [`SnpTcbFloors`]. Lower values accept published
    /// weaknesses.
    pub snp_tcb_floor: SnpTcbFloors,
    /// Greatest age of Intel's monthly collateral (TCB information, QE identity, revocation list of platforms), in seconds
    /// since its issue; as text `"30d"` or `"36h"`, like the other ages below. Collateral must be unexpired in any case.
    #[serde(with = "age")]
    pub max_collateral_age: u64,
    /// Greatest age in seconds of the revocation list of Intel's root, which is issued yearly.
    #[serde(with = "age")]
    pub max_intel_root_crl_age: u64,
    /// Greatest age in seconds of the revocation list of AMD's root. A session without any list is refused in any case.
    #[serde(with = "age")]
    pub max_amd_crl_age: u64,
    /// Machines that may serve, by the identity that their evidence proves. Empty accepts any genuine machine. A list is the
    /// only defence against evidence forged with a key extracted from someone else's hardware.
    pub machines: Vec<MachineId>,
    /// When evidence of a GPU is required.
    pub gpu: GpuRequirement,
    /// GPUs that may serve, each the SHA-256 of its device identity key as `gpu.device` shows it. Empty accepts any genuine
    /// GPU.
    pub gpus: Vec<Hex32>,
    /// Greatest age in seconds of an OCSP response on certificates of a GPU or a reference manifest.
    #[serde(with = "age")]
    pub max_gpu_ocsp_age: u64,
    /// Whether to accept NVIDIA certificates without an OCSP response, or with an outdated one. They may be revoked.
    pub accept_missing_gpu_revocation: bool,
    /// Whether to accept GPUs in developer mode. A debugger of such a GPU reads everything.
    pub accept_gpu_developer_mode: bool,
    /// Whether to accept SEV-SNP platforms that have not checked their memory for aliases since it was last trained. There,
    /// anyone who can change the data with which a memory module describes itself (BadRAM) reads and writes the guest's
    /// memory.
    pub accept_missing_alias_check: bool,
    /// Whether to accept SEV-SNP images whose kernel runs ACPI code from the host. SEV-SNP does not measure that code, and it
    /// can read and write the guest's memory.
    pub accept_missing_aml_guard: bool,
}

/// When evidence of a GPU is required.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuRequirement {
    /// When the manifest or the guest claims a GPU: such a claim must be proven, whatever the policy.
    #[default]
    IfClaimed,
    /// Always: an image without a GPU is refused.
    Required,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            development_roots: Vec::new(),
            accepted_tcb_statuses: vec![TcbStatus::UpToDate],
            accepted_advisories: Vec::new(),
            min_tcb_evaluation: MIN_TCB_EVALUATION,
            tdx_modules: Vec::new(),
            snp_tcb_floor: SnpTcbFloors::default(),
            max_collateral_age: MAX_COLLATERAL_AGE,
            max_intel_root_crl_age: MAX_ROOT_CRL_AGE,
            max_amd_crl_age: MAX_ROOT_CRL_AGE,
            machines: Vec::new(),
            gpu: GpuRequirement::IfClaimed,
            gpus: Vec::new(),
            max_gpu_ocsp_age: MAX_GPU_OCSP_AGE,
            accept_missing_gpu_revocation: false,
            accept_gpu_developer_mode: false,
            accept_missing_alias_check: false,
            accept_missing_aml_guard: false,
        }
    }
}

/// Default of [`Policy::min_tcb_evaluation`]: Intel's number of the TCB recovery of August 2025 (its levels are dated
/// 2025-08-13; the one before is of May 2025). Since August 2026 Intel's service delivers it as `standard` and answers "gone"
/// to requests for less, so an honest host has nothing older. Later recoveries have higher numbers: raise this one as they
/// become the standard, a year after each.
pub const MIN_TCB_EVALUATION: u32 = 20;
/// Default of [`Policy::max_collateral_age`]: 30 days, the validity with which Intel issues its collateral.
pub const MAX_COLLATERAL_AGE: u64 = 30 * 24 * 60 * 60;
/// Default of [`Policy::max_intel_root_crl_age`] and [`Policy::max_amd_crl_age`]: 400 days. Roots issue their lists once a
/// year (Intel's of March 2025 was due after 379 days), so a shorter age would refuse honest hosts. This one bounds lists
/// with a longer validity.
pub const MAX_ROOT_CRL_AGE: u64 = 400 * 24 * 60 * 60;
/// Default of [`Policy::max_gpu_ocsp_age`]: seven days. NVIDIA issues a new response at any time, and hosts fetch daily.
pub const MAX_GPU_OCSP_AGE: u64 = 7 * 24 * 60 * 60;

/// Serialises statuses by Intel's names. An unknown name is an error, so that it cannot become a status that never matches.
mod status_names {
    use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

    use crate::tdx::tcb::TcbStatus;

    pub(super) fn serialize<S: Serializer>(
        statuses: &[TcbStatus],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(statuses.iter().map(TcbStatus::to_string))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<TcbStatus>, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        names
            .iter()
            .map(|name| name.parse().map_err(D::Error::custom))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::{GpuRequirement, Policy, SnpPart, TcbStatus};

    /// The defaults are the safe ones, and a stored policy can never name a development root.
    #[test]
    fn cocoon_verdict_3() {
        let safe = Policy::default();
        assert_eq!(safe.accepted_tcb_statuses, [TcbStatus::UpToDate]);
        assert!(safe.development_roots.is_empty() && safe.accepted_advisories.is_empty());
        assert!(!safe.accept_missing_aml_guard && !safe.accept_missing_alias_check);
        assert!(safe.tdx_modules.is_empty());
        assert_eq!(
            (safe.min_tcb_evaluation, safe.max_collateral_age),
            (20, 2_592_000)
        );
        assert_eq!(
            (safe.max_intel_root_crl_age, safe.max_amd_crl_age),
            (34_560_000, 34_560_000)
        );
        assert_eq!(safe.gpu, GpuRequirement::IfClaimed);
        assert!(!safe.accept_missing_gpu_revocation && !safe.accept_gpu_developer_mode);
        assert_eq!((safe.max_gpu_ocsp_age, safe.gpus.len()), (604_800, 0));
        for part in SnpPart::ALL {
            let floor = safe.snp_tcb_floor.of(part);
            assert!(floor.snp > 0 && floor.microcode > 0, "{part}: {floor:?}");
        }
        assert_eq!(serde_json::from_str::<Policy>("{}").unwrap(), safe);
        assert_eq!(
            serde_json::from_str::<Policy>(r#"{"development_roots":[[1]]}"#)
                .unwrap_err()
                .to_string()
                .split(',')
                .next(),
            Some("unknown field `development_roots`")
        );
        let named = Policy {
            development_roots: vec![vec![1]],
            ..safe.clone()
        };
        assert_eq!(
            serde_json::from_value::<Policy>(serde_json::to_value(named).unwrap()).unwrap(),
            safe
        );
    }

    #[test]
    fn words_of_a_policy_have_one_form() {
        let policy: Policy =
            serde_json::from_str(r#"{"accepted_tcb_statuses":["SWHardeningNeeded"]}"#).unwrap();
        assert_eq!(policy.accepted_tcb_statuses, [TcbStatus::SwHardeningNeeded]);
        for (text, expected) in [
            (
                r#"{"accepted_tcb_statuses":["uptodate"]}"#,
                "\"uptodate\" is no TCB status: use Intel's words, one of UpToDate, SWHardeningNeeded, ",
            ),
            (
                r#"{"gpu":"IfClaimed"}"#,
                "unknown variant `IfClaimed`, expected `if_claimed` or `required`",
            ),
        ] {
            let error = serde_json::from_str::<Policy>(text)
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }
}
