//! Interface to the driver, as the collector needs it.

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::gpu::collector::{Mode, PciAddress};

/// Error code of the driver's library: `nvmlReturn_t` as numbered by `nvml.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub u32);

impl Fault {
    /// The call succeeded but returned an impossible value.
    pub const NONSENSE: Self = Self(0);
    /// `NVML_ERROR_NOT_SUPPORTED`.
    pub const NOT_SUPPORTED: Self = Self(3);
    /// `NVML_ERROR_NO_PERMISSION`.
    pub const NO_PERMISSION: Self = Self(4);
    /// `NVML_ERROR_DRIVER_NOT_LOADED`: the kernel module is not loaded or has no device.
    pub const DRIVER_NOT_LOADED: Self = Self(9);
    /// `NVML_ERROR_TIMEOUT`.
    pub const TIMEOUT: Self = Self(10);
    /// `NVML_ERROR_LIBRARY_NOT_FOUND`: the library is missing.
    pub const LIBRARY_NOT_FOUND: Self = Self(12);
    /// `NVML_ERROR_FUNCTION_NOT_FOUND`: the library is older than the call.
    pub const FUNCTION_NOT_FOUND: Self = Self(13);
    /// `NVML_ERROR_GPU_IS_LOST`.
    pub const GPU_LOST: Self = Self(15);
    /// `NVML_ERROR_RESET_REQUIRED`.
    pub const RESET_REQUIRED: Self = Self(16);
    /// `NVML_ERROR_OPERATING_SYSTEM`.
    pub const OPERATING_SYSTEM: Self = Self(17);
}

/// A GPU in the driver's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Address on the PCI bus.
    pub pci: PciAddress,
    /// PCI device ID.
    pub device: u16,
}

/// Memory of a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Size of the memory, in bytes.
    pub total: u64,
    /// Memory in use, in bytes.
    pub used: u64,
}

/// A critical error of a GPU (XID).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xid {
    /// Address of the GPU; `None` if the driver does not report it.
    pub pci: Option<PciAddress>,
    /// NVIDIA's XID number of the error.
    pub code: u64,
}

/// A driver and its GPUs, which are identified by their index in the driver's list.
pub trait Driver: Send + Sync + 'static {
    /// Returns the driver's version, such as `580.65.06`.
    fn version(&self) -> Result<String, Fault>;
    /// Returns the mode of confidential computing. [`Fault::FUNCTION_NOT_FOUND`] means that the driver does not support it.
    fn mode(&self) -> Result<Mode, Fault>;
    /// Returns the number of GPUs.
    fn count(&self) -> Result<u32, Fault>;
    /// Returns address and device ID of a GPU.
    fn listed(&self, gpu: u32) -> Result<Listed, Fault>;
    /// Returns a GPU's VBIOS version, such as `96.00.5E.00.01`.
    fn vbios_version(&self, gpu: u32) -> Result<String, Fault>;
    /// Returns the number N of a GPU's device file `nvidiaN`.
    fn minor(&self, gpu: u32) -> Result<u32, Fault>;
    /// Asks the driver to keep a GPU initialised while no process has it open.
    fn persist(&self, gpu: u32) -> Result<(), Fault>;
    /// Returns the certificate chain of a GPU's attestation key, as the driver delivers it.
    fn certificates(&self, gpu: u32) -> Result<Vec<u8>, Fault>;
    /// Returns a GPU's attestation report for this nonce.
    fn report(&self, gpu: u32, nonce: &Hex32) -> Result<Vec<u8>, Fault>;
    /// Allows or forbids all GPUs to accept work.
    fn set_ready(&self, ready: bool) -> Result<(), Fault>;
    /// Returns whether the GPUs accept work.
    fn ready(&self) -> Result<bool, Fault>;
    /// Returns size and use of a GPU's memory.
    fn memory(&self, gpu: u32) -> Result<Memory, Fault>;
    /// Returns a GPU's temperature in degrees Celsius.
    fn temperature(&self, gpu: u32) -> Result<u32, Fault>;
    /// Waits for critical errors of all GPUs and calls `tell` with each until it returns false. Returns earlier only with a
    /// fault that prevents it from receiving more; it may be called again then.
    fn listen(&self, tell: &mut dyn FnMut(Xid) -> bool) -> Result<(), Fault>;
}
