//! What the collector asks of a driver.

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::gpu::collector::{Mode, PciAddress};

/// How a call of the driver's library failed: `nvmlReturn_t` as `nvml.h` numbers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(pub u32);

impl Fault {
    /// The call succeeded and answered what there cannot be.
    pub const NONSENSE: Self = Self(0);
    /// `NVML_ERROR_NOT_SUPPORTED`.
    pub const NOT_SUPPORTED: Self = Self(3);
    /// `NVML_ERROR_NO_PERMISSION`.
    pub const NO_PERMISSION: Self = Self(4);
    /// `NVML_ERROR_DRIVER_NOT_LOADED`: there is no kernel module, or no device of it.
    pub const DRIVER_NOT_LOADED: Self = Self(9);
    /// `NVML_ERROR_TIMEOUT`.
    pub const TIMEOUT: Self = Self(10);
    /// `NVML_ERROR_LIBRARY_NOT_FOUND`: there is no library.
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

/// A GPU as the driver lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its address.
    pub pci: PciAddress,
    /// Its PCI device number.
    pub device: u16,
}

/// The memory of a GPU, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// All of it.
    pub total: u64,
    /// What of it is in use.
    pub used: u64,
}

/// Something that happened to a GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Xid {
    /// Of which GPU; absent where the driver does not say.
    pub pci: Option<PciAddress>,
    /// NVIDIA's number of the error.
    pub code: u64,
}

/// A driver with its GPUs, each named by its place in the driver's own list.
pub trait Driver: Send + Sync + 'static {
    /// Its version, such as `580.65.06`.
    fn version(&self) -> Result<String, Fault>;
    /// How confidential computing is. [`Fault::FUNCTION_NOT_FOUND`] says that the driver knows nothing of it.
    fn mode(&self) -> Result<Mode, Fault>;
    /// How many GPUs there are.
    fn count(&self) -> Result<u32, Fault>;
    /// Address and kind of one.
    fn listed(&self, gpu: u32) -> Result<Listed, Fault>;
    /// Its VBIOS version, such as `96.00.5E.00.01`.
    fn vbios_version(&self, gpu: u32) -> Result<String, Fault>;
    /// The number N of its device file `nvidiaN`.
    fn minor(&self, gpu: u32) -> Result<u32, Fault>;
    /// Asks the driver to keep it initialised when nobody has it open.
    fn persist(&self, gpu: u32) -> Result<(), Fault>;
    /// The certificates of its attestation key, as the driver hands them out.
    fn certificates(&self, gpu: u32) -> Result<Vec<u8>, Fault>;
    /// Its report for this nonce.
    fn report(&self, gpu: u32, nonce: &Hex32) -> Result<Vec<u8>, Fault>;
    /// Lets all GPUs take work, or keeps them from it.
    fn set_ready(&self, ready: bool) -> Result<(), Fault>;
    /// Whether they take work.
    fn ready(&self) -> Result<bool, Fault>;
    /// Its memory, all of it and what of it is in use, in bytes.
    fn memory(&self, gpu: u32) -> Result<Memory, Fault>;
    /// Its temperature in degrees Celsius.
    fn temperature(&self, gpu: u32) -> Result<u32, Fault>;
    /// Waits for critical errors of all GPUs, and calls `tell` with each until it says false. Returns early only with the
    /// fault that keeps it from hearing more, after which it may be called again.
    fn listen(&self, tell: &mut dyn FnMut(Xid) -> bool) -> Result<(), Fault>;
}
