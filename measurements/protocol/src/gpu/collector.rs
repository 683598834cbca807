//! Between the guest agent and the collector, the process that holds the GPUs: frames over a socket pair.
//!
//! The collector answers each request with one frame, in order, and tells events unasked. It judges nothing: that there is
//! no driver, no GPU, or no confidential computing are answers, not failures. To the agent its frames are foreign input.

use serde::{Deserialize, Serialize};

use super::{CollectedGpu, GpuError, GpuMetrics, MAX_GPUS, counted, version};
use crate::bytes::Hex32;

/// Version of this protocol, named by both sides.
pub const COLLECTOR_VERSION: u16 = 1;
/// Largest frame to the collector, in bytes.
pub const MAX_TO_COLLECTOR: usize = 1024;
/// Largest frame from the collector, in bytes: evidence of all GPUs.
pub const MAX_FROM_COLLECTOR: usize = 512 * 1024;

/// From the agent to the collector.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum ToCollector {
    /// Load the driver's library, open every GPU and hold it until this process ends. First, and once; answered by
    /// [`FromCollector::Attached`].
    Attach {
        /// [`COLLECTOR_VERSION`].
        version: u16,
    },
    /// Evidence of every GPU for this nonce; answered by [`FromCollector::Evidence`].
    Evidence {
        /// 32 bytes that every report must be about.
        nonce: Hex32,
    },
    /// Let the GPUs take work, or keep them from it; answered by [`FromCollector::Ready`].
    SetReady {
        /// Which.
        ready: bool,
    },
    /// How the GPUs are used; answered by [`FromCollector::Metrics`].
    Metrics,
}

/// From the collector to the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "type",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum FromCollector {
    /// What there is.
    Attached {
        /// [`COLLECTOR_VERSION`].
        version: u16,
        /// Driver and GPUs.
        found: Found,
    },
    /// What each GPU shows, in the order of [`Found::Gpus`].
    Evidence {
        /// For this nonce.
        nonce: Hex32,
        /// One for each GPU.
        gpus: Vec<Shown>,
    },
    /// How the GPUs are after [`ToCollector::SetReady`].
    Ready {
        /// What the driver says when it is asked afterwards.
        state: ReadyState,
    },
    /// How each GPU is used, in the order of [`Found::Gpus`].
    Metrics {
        /// One for each GPU; what the driver refuses is absent.
        gpus: Vec<GpuMetrics>,
    },
    /// Something happened to a GPU or to the driver; unasked.
    Event(GpuEvent),
}

/// Driver and GPUs, as they were found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "what",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum Found {
    /// No driver: its library is not there, or its kernel module is not loaded.
    NoDriver,
    /// A driver that knows nothing of confidential computing.
    OldDriver {
        /// Its version.
        driver_version: String,
    },
    /// A driver and no GPU.
    NoGpu {
        /// Its version.
        driver_version: String,
    },
    /// GPUs, opened and held.
    Gpus {
        /// The driver's version.
        driver_version: String,
        /// How confidential computing is.
        mode: Mode,
        /// 1 to [`MAX_GPUS`], by their address.
        gpus: Vec<Held>,
    },
    /// The driver failed otherwise.
    Failed(NvmlFailure),
}

/// Confidential computing of the machine, as the driver says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mode {
    /// It is on.
    pub confidential_computing: bool,
    /// In developer mode: nothing is protected.
    pub developer_mode: bool,
    /// Several GPUs under PCIe protection.
    pub protected_pcie: bool,
}

/// A GPU that is held.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Held {
    /// Its address on the PCI bus.
    pub pci: PciAddress,
    /// Its PCI device number, such as `0x2330` for an H100 SXM5; NVIDIA's vendor number is `0x10de`.
    pub device: u16,
    /// Its VBIOS version.
    pub vbios_version: String,
    /// Whether the driver keeps it initialised when nobody has it open. It is held open in any case.
    pub persistent: bool,
}

/// Domain, bus and device of a PCI function; a GPU is function 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PciAddress {
    /// Domain.
    pub domain: u32,
    /// Bus.
    pub bus: u8,
    /// Device, 0 to 31.
    pub device: u8,
}

/// What one GPU shows when evidence is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "what",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum Shown {
    /// Evidence.
    Evidence(CollectedGpu),
    /// Confidential computing is off: there is no report.
    Off,
    /// This GPU or this driver makes no reports.
    Unsupported,
    /// The GPU has fallen off the bus or needs a reset.
    Lost,
    /// The driver failed otherwise.
    Failed(NvmlFailure),
}

/// Whether the GPUs take work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(
    tag = "what",
    rename_all = "kebab-case",
    rename_all_fields = "snake_case",
    deny_unknown_fields
)]
pub enum ReadyState {
    /// They do.
    Ready,
    /// They do not.
    NotReady,
    /// There is no such state: confidential computing is off, or nothing is attached.
    Unsupported,
    /// The driver refused or failed.
    Failed(NvmlFailure),
}

/// A call of the driver's library that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NvmlFailure {
    /// Which one.
    pub call: NvmlCall,
    /// `nvmlReturn_t` as `nvml.h` numbers it; 0 where the call succeeded and answered what there cannot be.
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

/// Something that happened.
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
        /// Place among the GPUs, from zero; absent where the driver names none that is held.
        gpu: Option<u8>,
        /// NVIDIA's number of the error.
        code: u64,
    },
    /// A GPU has fallen off the bus.
    Lost {
        /// Place among the GPUs; absent where the driver does not say which.
        gpu: Option<u8>,
    },
    /// Events of the GPUs cannot be heard, or not any more: whoever relied on them asks for evidence instead.
    Deaf(NvmlFailure),
}

impl FromCollector {
    /// Checks form: every count and every version.
    ///
    /// # Errors
    /// [`GpuError`].
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
                // Each once, in their order: so their places are their names.
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
