//! Messages between the guest agent and the collector, the process that holds the GPUs, framed on a socket pair.
//!
//! The collector answers each request with one frame, in order, and also sends events unasked. It judges nothing: a missing
//! driver, a missing GPU and disabled confidential computing are answers, not failures. The agent treats its frames as
//! untrusted input.

use serde::{Deserialize, Serialize};

use super::{CollectedGpu, GpuError, GpuMetrics, MAX_GPUS, counted, version};
use crate::bytes::Hex32;

/// Version of this protocol, which both sides state.
pub const COLLECTOR_VERSION: u16 = 1;
/// Largest frame to the collector, in bytes.
pub const MAX_TO_COLLECTOR: usize = 1024;
/// Largest frame from the collector, in bytes. It holds the evidence of all GPUs.
pub const MAX_FROM_COLLECTOR: usize = 512 * 1024;

/// Message from the agent to the collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum ToCollector {
    /// Loads the driver's library, then opens every GPU and holds it until the collector ends. Sent first and once; answered
    /// by [`FromCollector::Attached`].
    Attach {
        /// Protocol version of the agent: [`COLLECTOR_VERSION`].
        version: u16,
    },
    /// Requests evidence of every GPU for this nonce; answered by [`FromCollector::Evidence`].
    Evidence {
        /// 32-byte nonce that every report must answer.
        nonce: Hex32,
    },
    /// Allows or forbids the GPUs to accept work; answered by [`FromCollector::Ready`].
    SetReady {
        /// Whether the GPUs may accept work.
        ready: bool,
    },
    /// Requests the use of the GPUs; answered by [`FromCollector::Metrics`].
    Metrics,
}

/// Message from the collector to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum FromCollector {
    /// Reports the driver and the GPUs that were found.
    Attached {
        /// Protocol version of the collector: [`COLLECTOR_VERSION`].
        version: u16,
        /// Driver and GPUs.
        found: Found,
    },
    /// Evidence of each GPU, in the order of [`Found::Gpus`].
    Evidence {
        /// The nonce of the request.
        nonce: Hex32,
        /// One entry for each GPU.
        gpus: Vec<Shown>,
    },
    /// Ready state of the GPUs after [`ToCollector::SetReady`].
    Ready {
        /// State that the driver reports after the change.
        state: ReadyState,
    },
    /// Use of each GPU, in the order of [`Found::Gpus`].
    Metrics {
        /// One entry for each GPU. Values that the driver refuses are absent.
        gpus: Vec<GpuMetrics>,
    },
    /// Reports an event of a GPU or of the driver, unasked.
    Event(GpuEvent),
}

/// Driver and GPUs found when the collector attached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "what",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum Found {
    /// There is no driver: its library is missing or its kernel module is not loaded.
    NoDriver,
    /// The driver does not support confidential computing.
    OldDriver {
        /// Version of the driver.
        driver_version: String,
    },
    /// There is a driver but no GPU.
    NoGpu {
        /// Version of the driver.
        driver_version: String,
    },
    /// There are GPUs, which the collector has opened and holds.
    Gpus {
        /// Version of the driver.
        driver_version: String,
        /// Mode of confidential computing.
        mode: Mode,
        /// The GPUs, 1 to [`MAX_GPUS`], ordered by PCI address.
        gpus: Vec<Held>,
    },
    /// Another call of the driver failed.
    Failed(NvmlFailure),
}

/// Mode of confidential computing of the machine, as the driver reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mode {
    /// Whether confidential computing is on.
    pub confidential_computing: bool,
    /// Whether developer mode is on. In this mode nothing is protected.
    pub developer_mode: bool,
    /// Whether the GPUs are several under protected PCIe.
    pub protected_pcie: bool,
}

/// A GPU that the collector holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Address on the PCI bus.
    pub pci: PciAddress,
    /// PCI device ID, such as `0x2330` for an H100 SXM5. NVIDIA's vendor ID is `0x10de`.
    pub device: u16,
    /// Version of the VBIOS.
    pub vbios_version: String,
    /// Whether the driver keeps the GPU initialised while no process has it open. The collector holds it open in any case.
    pub persistent: bool,
}

/// Domain, bus and device of a PCI function. A GPU is function 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PciAddress {
    /// PCI domain.
    pub domain: u32,
    /// PCI bus.
    pub bus: u8,
    /// PCI device, 0 to 31.
    pub device: u8,
}

/// Result of a request for evidence, for one GPU.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "what",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum Shown {
    /// The evidence of the GPU.
    Evidence(CollectedGpu),
    /// Confidential computing is off, so there is no report.
    Off,
    /// This GPU or this driver cannot make reports.
    Unsupported,
    /// The GPU has fallen off the bus or needs a reset.
    Lost,
    /// Another call of the driver failed.
    Failed(NvmlFailure),
}

/// Whether the GPUs accept work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "what",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum ReadyState {
    /// The GPUs accept work.
    Ready,
    /// The GPUs do not accept work.
    NotReady,
    /// There is no ready state, because confidential computing is off or no GPU is held.
    Unsupported,
    /// The driver refused the request or failed.
    Failed(NvmlFailure),
}

/// A failed call of the driver's library.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmlFailure {
    /// The call that failed.
    pub call: NvmlCall,
    /// `nvmlReturn_t` as numbered by `nvml.h`. Zero if the call succeeded but returned an impossible value.
    pub code: u32,
}

/// The calls of the driver's library that the collector makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NvmlCall {
    /// `nvmlInit_v2`.
    Init,
    /// `nvmlSystemGetDriverVersion`.
    DriverVersion,
    /// `nvmlSystemGetConfComputeSettings` or `nvmlSystemGetConfComputeState`.
    Mode,
    /// `nvmlDeviceGetCount_v2` or `nvmlDeviceGetHandleByIndex_v2`.
    Devices,
    /// `nvmlDeviceGetPciInfo_v3`.
    PciInfo,
    /// `nvmlDeviceGetVbiosVersion`.
    VbiosVersion,
    /// Opening the GPU's device file, or `nvmlDeviceGetMinorNumber`.
    Hold,
    /// `nvmlDeviceGetConfComputeGpuCertificate`.
    Certificate,
    /// `nvmlDeviceGetConfComputeGpuAttestationReport`.
    Report,
    /// `nvmlSystemSetConfComputeGpusReadyState`.
    SetReady,
    /// `nvmlSystemGetConfComputeGpusReadyState`.
    GetReady,
    /// `nvmlDeviceRegisterEvents` or `nvmlEventSetWait_v2`.
    Events,
}

/// An event of a GPU or of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "event",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum GpuEvent {
    /// The driver reported a critical error of a GPU (XID).
    Xid {
        /// Index of the GPU, from zero. Absent if the driver names no GPU that the collector holds.
        gpu: Option<u8>,
        /// NVIDIA's XID number of the error.
        code: u64,
    },
    /// A GPU has fallen off the bus.
    Lost {
        /// Index of the GPU, from zero. Absent if the driver does not say which it is.
        gpu: Option<u8>,
    },
    /// GPU events cannot be received, or not any more. The agent must request evidence instead of relying on them.
    Deaf(NvmlFailure),
}

impl FromCollector {
    /// Checks the form: number and order of the GPUs, and every version and report.
    ///
    /// # Errors
    /// [`GpuError`] if any of these is malformed.
    pub fn check(&self) -> Result<(), GpuError> {
        match self {
            FromCollector::Attached { found, .. } => found.check(),
            FromCollector::Evidence { gpus, .. } => {
                counted("GPUs", gpus.len(), MAX_GPUS)?;
                gpus.iter().try_for_each(|shown| match shown {
                    Shown::Evidence(gpu) => gpu.check(),
                    _ => Ok(()),
                })
            }
            FromCollector::Metrics { gpus } => counted("GPUs", gpus.len(), MAX_GPUS),
            FromCollector::Ready { .. } | FromCollector::Event(_) => Ok(()),
        }
    }
}

impl Found {
    fn check(&self) -> Result<(), GpuError> {
        let driver = "characters of the driver's version";
        match self {
            Found::NoDriver | Found::Failed(_) => Ok(()),
            Found::OldDriver { driver_version } | Found::NoGpu { driver_version } => {
                version(driver, driver_version)
            }
            Found::Gpus {
                driver_version,
                gpus,
                ..
            } => {
                version(driver, driver_version)?;
                if gpus.is_empty() {
                    return Err(GpuError::None("GPUs"));
                }
                counted("GPUs", gpus.len(), MAX_GPUS)?;
                // Ordered and unique, so that the index of a GPU identifies it.
                if !gpus.is_sorted_by(|one, next| one.pci < next.pci) {
                    return Err(GpuError::Order);
                }
                gpus.iter().try_for_each(|gpu| {
                    version("characters of the VBIOS's version", &gpu.vbios_version)
                })
            }
        }
    }
}

impl std::fmt::Display for PciAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            domain,
            bus,
            device,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.0")
    }
}
