//! Messages between the host agent and the simulator, which makes evidence where there is no TEE.
//!
//! The simulator measures the files that QEMU has opened. It reads them through `/proc/PID` of the process that the launch
//! names, and nobody tells it which measurements to expect.

use serde::{Deserialize, Serialize};

use crate::binding::Tee;
use crate::bytes::{Blob, Hex32, Hex64};
use crate::document::{Collateral, Evidence};
use crate::gpu::{CollectedGpu, GpuCollateral};

/// Largest message in either direction, in bytes.
pub const MAX_SIMULATOR_MESSAGE: usize = 6 * 1024 * 1024;

/// Request from the host agent to the simulator. Each gets one reply.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum SimulatorRequest {
    /// Simulates the launch of a confidential VM by measuring the files of the QEMU process `pid`. Sent once per connection.
    Launch {
        /// Process id of QEMU.
        pid: u32,
        /// TEE to simulate.
        tee: Tee,
        /// Path of the SNP firmware. For [`Tee::SevSnp`] it is measured in place of the firmware that QEMU boots, because SNP
        /// firmware does not start without SNP.
        snp_firmware: Option<String>,
        /// CPU model of the SNP launch digest, such as `EPYC-v4`.
        cpu_model: String,
        /// Canonical operator configuration. Its digest becomes MRCONFIGID or HOST_DATA.
        config: Blob,
    },
    /// Requests evidence over report data, after [`Self::Launch`].
    Evidence {
        /// 64 bytes of report data.
        report_data: Hex64,
    },
    /// Requests evidence of the VM's simulated GPUs, after [`Self::Launch`]. The VM's command line states their number.
    GpuEvidence {
        /// 32-byte nonce that every report must answer.
        nonce: Hex32,
    },
    /// Requests NVIDIA's endorsements of the simulated GPUs.
    GpuCollateral,
}

/// Reply from the simulator to the host agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum SimulatorReply {
    /// The VM has been measured.
    Launched {
        /// Endorsements under the development roots.
        collateral: Collateral,
        /// Development root of this TEE in PEM, which a client passes to `--trust-root`.
        root_pem: String,
    },
    /// Simulated evidence in the format of the real hardware.
    Evidence {
        /// Quote and event log, or report and certificates.
        evidence: Evidence,
    },
    /// Simulated evidence of the GPUs.
    GpuEvidence {
        /// Report, certificates and driver's statement of each GPU.
        gpus: Vec<CollectedGpu>,
    },
    /// Endorsements of the simulated GPUs.
    GpuCollateral {
        /// Reference manifests and OCSP responses under the development roots.
        collateral: GpuCollateral,
    },
    /// The request was refused.
    Error {
        /// Reason, and what to do.
        message: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody may tell the simulator the expected result: a request with an expected measurement is refused.
    #[test]
    fn a_launch_names_a_process_and_no_result() {
        let launch = r#"{"type":"launch","pid":1,"tee":"tdx","snp_firmware":null,"cpu_model":"EPYC-v4","config":""#;
        assert!(serde_json::from_str::<SimulatorRequest>(&format!("{launch}\"}}")).is_ok());
        let told = format!("{launch}\",\"mrtd\":\"00\"}}");
        assert!(serde_json::from_str::<SimulatorRequest>(&told).is_err());
    }
}
