//! What a verifier demands beyond the manifest. The defaults are the safe ones; each field that loosens one says
//! what is lost.

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
    /// Development roots, each a certificate in DER. Evidence under one of them is **simulated**: nothing keeps the
    /// host from reading prompts. They never stand in for a vendor's root. Not part of a stored policy: only a
    /// flag of the running command may name one.
    #[serde(skip)]
    pub development_roots: Vec<Vec<u8>>,
    /// Statuses of Intel's TCB levels that are good enough, by Intel's names. Others than `UpToDate` accept published
    /// weaknesses; `Revoked` is never accepted.
    #[serde(with = "status_names")]
    pub accepted_tcb_statuses: Vec<TcbStatus>,
    /// Intel's advisories (`INTEL-SA-…`) that a TCB level may carry all the same.
    pub accepted_advisories: Vec<String>,
    /// Lowest `tcbEvaluationDataNumber` of Intel's collateral: below it a host may hide newer advisories.
    pub min_tcb_evaluation: u32,
    /// Builds of the TDX module that may run, each its MRSEAM as `tdx.module` shows it; none means any that Intel signed
    /// and whose version the TCB level accepts.
    pub tdx_modules: Vec<Hex48>,
    /// Lowest TCB of AMD's parts, per part and component; see [`SnpTcbFloors`]. A lower one accepts published
    /// weaknesses.
    pub snp_tcb_floor: SnpTcbFloors,
    /// Greatest age of what Intel issues monthly (TCB information, QE identity, revocation list of platforms), in
    /// seconds since it was issued; in text `"30d"` or `"36h"`, like the two below. All of it must be unexpired in
    /// any case.
    #[serde(with = "age")]
    pub max_collateral_age: u64,
    /// Greatest age of the revocation list of Intel's root, which is issued yearly.
    #[serde(with = "age")]
    pub max_intel_root_crl_age: u64,
    /// Greatest age of the revocation list of AMD's root. Without any list a session is refused whatever stands here.
    #[serde(with = "age")]
    pub max_amd_crl_age: u64,
    /// Machines that may serve, by the identity that their evidence proves; none means any genuine one. The only
    /// defence against evidence that was forged with a key taken from somebody else's hardware.
    pub machines: Vec<MachineId>,
    /// When evidence of a GPU is needed.
    pub gpu: GpuRequirement,
    /// GPUs that may serve, each the SHA-256 of its device identity's key as `gpu.device` shows it; none means any
    /// genuine one.
    pub gpus: Vec<Hex32>,
    /// Greatest age of an OCSP response about a GPU's or a reference manifest's certificates, in text as above.
    #[serde(with = "age")]
    pub max_gpu_ocsp_age: u64,
    /// Accept certificates of NVIDIA about which no OCSP response was presented, or one that is over its time. They may be
    /// revoked.
    pub accept_missing_gpu_revocation: bool,
    /// Accept GPUs in developer mode. Whoever debugs them reads everything.
    pub accept_gpu_developer_mode: bool,
    /// Accept SEV-SNP platforms that have not looked for aliases in their memory since it was last trained. Whoever can
    /// change what a memory module says of itself (BadRAM) reads and writes the guest's memory there.
    pub accept_missing_alias_check: bool,
    /// Accept SEV-SNP images whose kernel runs ACPI code from the host. SEV-SNP does not measure that code, and it
    /// can read and write the guest's memory.
    pub accept_missing_aml_guard: bool,
}

/// When evidence of a GPU is needed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GpuRequirement {
    /// Whenever manifest or guest claim one: what they claim must be proven, whatever the policy.
    #[default]
    IfClaimed,
    /// Always: an image without GPU is refused.
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
/// 2025-08-13; the one before is of May 2025). Intel's service gives it out as `standard` since August 2026, and answers
/// "gone" to who asks for less, so that an honest host has nothing older. Later recoveries have higher ones: raise it as
/// they become the standard, a year after each.
pub const MIN_TCB_EVALUATION: u32 = 20;
/// Default of [`Policy::max_collateral_age`]: 30 days, the time for which Intel issues its collateral.
pub const MAX_COLLATERAL_AGE: u64 = 30 * 24 * 60 * 60;
/// Default of [`Policy::max_intel_root_crl_age`] and [`Policy::max_amd_crl_age`]: 400 days. Roots issue their lists
/// once a year (Intel's of March 2025 was due after 379 days), so a shorter time would refuse honest hosts; this one
/// bounds lists that would count for longer.
pub const MAX_ROOT_CRL_AGE: u64 = 400 * 24 * 60 * 60;
/// Default of [`Policy::max_gpu_ocsp_age`]: seven days. NVIDIA answers anew at any time, and hosts fetch daily.
pub const MAX_GPU_OCSP_AGE: u64 = 7 * 24 * 60 * 60;

/// Statuses as Intel names them: an unknown name is an error, not a status that never matches.
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
