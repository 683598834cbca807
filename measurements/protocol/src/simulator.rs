//! The simulator's socket: how a host agent asks for evidence where there is no TEE.
//!
//! The simulator measures what QEMU really opened, read through `/proc/PID` of the process named
//! here; it is told nothing about what the result should be.

use serde::{Deserialize, Serialize};

use crate::binding::Tee;
use crate::bytes::{Blob, Hex32, Hex64};
use crate::document::{Collateral, Evidence};
use crate::gpu::{CollectedGpu, GpuCollateral};

/// Largest message in either direction, in bytes.
pub const MAX_SIMULATOR_MESSAGE: usize = 6 * 1024 * 1024;

/// From the host agent to the simulator, one answer each.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum SimulatorRequest {
    /// "Launch" a confidential VM: measure the files of the QEMU process `pid`. Once per connection.
    Launch {
        /// Process id of QEMU.
        pid: u32,
        /// Which TEE to imitate.
        tee: Tee,
        /// Path of the SNP firmware, measured in place of the one that QEMU boots when `tee` is
        /// [`Tee::SevSnp`], because that one cannot start without SNP.
        snp_firmware: Option<String>,
        /// CPU model for the SNP launch digest, such as `EPYC-v4`.
        cpu_model: String,
        /// Canonical operator configuration: its digest becomes MRCONFIGID or HOST_DATA.
        config: Blob,
    },
    /// Evidence over report data, after `Launch`.
    Evidence {
        /// 64 bytes of report data.
        report_data: Hex64,
    },
    /// What the VM's simulated GPUs show, after `Launch`: as many as its command line asks for.
    GpuEvidence {
        /// 32 bytes that every report must be about.
        nonce: Hex32,
    },
    /// What NVIDIA says about them.
    GpuCollateral,
}

/// From the simulator to the host agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum SimulatorReply {
    /// The VM is measured.
    Launched {
        /// Endorsements under the development roots.
        collateral: Collateral,
        /// The development root of this TEE: what a client passes to `--trust-root`, PEM.
        root_pem: String,
    },
    /// Evidence in the real format.
    Evidence {
        /// Quote and event log, or report and certificates.
        evidence: Evidence,
    },
    /// Reports, certificates and the driver's word.
    GpuEvidence {
        /// One for each GPU.
        gpus: Vec<CollectedGpu>,
    },
    /// Reference manifests and answers on revocation.
    GpuCollateral {
        /// Under the development roots.
        collateral: GpuCollateral,
    },
    /// Refused.
    Error {
        /// Why and what to do.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The simulator must not be told what to measure: a request with an expected value is none.
    #[test]
    fn a_launch_names_a_process_and_no_result() {
        let launch = r#"{"type":"launch","pid":1,"tee":"tdx","snp_firmware":null,"cpu_model":"EPYC-v4","config":""#;
        assert!(serde_json::from_str::<SimulatorRequest>(&format!("{launch}\"}}")).is_ok());
        let told = format!("{launch}\",\"mrtd\":\"00\"}}");
        assert!(serde_json::from_str::<SimulatorRequest>(&told).is_err());
    }
}
