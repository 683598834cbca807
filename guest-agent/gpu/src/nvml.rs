//! The [`Driver`] trait on top of `nvml-wrapper`, which loads NVIDIA's library at run time and checks what it returns.
//!
//! `nvmlSystemGetConfComputeSettings`, which reports the mode, came with the drivers that support confidential computing. A
//! driver without it is reported as one that does not support confidential computing.

use std::time::{Duration, Instant};

use cocoon_protocol::bytes::Hex32;
use cocoon_protocol::gpu::collector::{Mode, PciAddress};
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enum_wrappers::device::TemperatureSensor;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::struct_wrappers::device::PciInfo;
use nvml_wrapper::{Device, Nvml as Library};

use crate::driver::{Driver, Fault, Listed, Memory, Xid};

/// NVIDIA's PCI vendor ID.
const NVIDIA: u16 = 0x10de;
/// Duration of one wait for events, after which the next wait begins.
const WAIT: Duration = Duration::from_secs(5);
/// A wait that ends sooner without an event was interrupted.
const SHORTEST: Duration = Duration::from_millis(100);

/// The initialised library.
pub struct Nvml(Library);

impl Nvml {
    /// Loads and initialises the library.
    ///
    /// # Errors
    /// [`Fault::LIBRARY_NOT_FOUND`], [`Fault::DRIVER_NOT_LOADED`], or another fault of the library.
    pub fn load() -> Result<Self, Fault> {
        Library::init().map(Self).map_err(fault)
    }

    fn device(&self, gpu: u32) -> Result<Device<'_>, Fault> {
        self.0.device_by_index(gpu).map_err(fault)
    }
}

impl Driver for Nvml {
    fn version(&self) -> Result<String, Fault> {
        self.0.sys_driver_version().map_err(fault)
    }

    fn mode(&self) -> Result<Mode, Fault> {
        // The wrapper requires a device, although the mode is that of the machine.
        let device = self.device(0)?;
        Ok(Mode {
            confidential_computing: device.is_cc_enabled().map_err(fault)?,
            developer_mode: device.is_cc_dev_mode_enabled().map_err(fault)?,
            protected_pcie: device
                .is_multi_gpu_protected_pcie_enabled()
                .map_err(fault)?,
        })
    }

    fn count(&self) -> Result<u32, Fault> {
        self.0.device_count().map_err(fault)
    }

    fn listed(&self, gpu: u32) -> Result<Listed, Fault> {
        listed(&self.device(gpu)?.pci_info().map_err(fault)?).ok_or(Fault::NONSENSE)
    }

    fn vbios_version(&self, gpu: u32) -> Result<String, Fault> {
        self.device(gpu)?.vbios_version().map_err(fault)
    }

    fn minor(&self, gpu: u32) -> Result<u32, Fault> {
        self.device(gpu)?.minor_number().map_err(fault)
    }

    fn persist(&self, gpu: u32) -> Result<(), Fault> {
        self.device(gpu)?.set_persistent(true).map_err(fault)
    }

    fn certificates(&self, gpu: u32) -> Result<Vec<u8>, Fault> {
        let certificates = self.device(gpu)?.confidential_compute_gpu_certificate();
        // The structure's other chain ends at the device's identity, with which no report is signed.
        Ok(certificates.map_err(fault)?.attestation_cert_chain)
    }

    fn report(&self, gpu: u32, nonce: &Hex32) -> Result<Vec<u8>, Fault> {
        let device = self.device(gpu)?;
        let report = device.confidential_compute_gpu_attestation_report(nonce.0);
        Ok(report.map_err(fault)?.attestation_report)
    }

    fn set_ready(&self, ready: bool) -> Result<(), Fault> {
        let device = self.device(0)?;
        device.set_confidential_compute_state(ready).map_err(fault)
    }

    fn ready(&self) -> Result<bool, Fault> {
        let device = self.device(0)?;
        device.get_confidential_compute_state().map_err(fault)
    }

    fn memory(&self, gpu: u32) -> Result<Memory, Fault> {
        let memory = self.device(gpu)?.memory_info().map_err(fault)?;
        Ok(Memory {
            total: memory.total,
            used: memory.used,
        })
    }

    fn temperature(&self, gpu: u32) -> Result<u32, Fault> {
        let device = self.device(gpu)?;
        device.temperature(TemperatureSensor::Gpu).map_err(fault)
    }

    fn listen(&self, tell: &mut dyn FnMut(Xid) -> bool) -> Result<(), Fault> {
        let mut events = self.0.create_event_set().map_err(fault)?;
        for gpu in 0..self.count()? {
            let device = self.device(gpu)?;
            events = device
                .register_events(EventTypes::CRITICAL_XID_ERROR, events)
                .map_err(|error| fault(error.error))?;
        }
        let patience = u32::try_from(WAIT.as_millis()).unwrap_or(u32::MAX);
        loop {
            let began = Instant::now();
            match events.wait(patience) {
                Ok(event) => {
                    let code = match event.event_data {
                        Some(XidError::Value(code)) => code,
                        Some(XidError::Unknown) | None => 0,
                    };
                    let pci = event.device.pci_info().ok();
                    let pci = pci.as_ref().and_then(listed).map(|listed| listed.pci);
                    if !tell(Xid { pci, code }) {
                        return Ok(());
                    }
                }
                Err(NvmlError::Timeout) => {
                    if began.elapsed() < SHORTEST {
                        // Without this, a library that never waits would use a whole core.
                        std::thread::sleep(SHORTEST);
                    }
                }
                Err(error) => return Err(fault(error)),
            }
        }
    }
}

fn listed(info: &PciInfo) -> Option<Listed> {
    // The device ID is in the upper half, the vendor ID in the lower.
    let vendor = u16::try_from(info.pci_device_id & 0xffff).ok()?;
    let pci = PciAddress {
        domain: info.domain,
        bus: u8::try_from(info.bus).ok()?,
        device: u8::try_from(info.device)
            .ok()
            .filter(|device| *device < 32)?,
    };
    let device = u16::try_from(info.pci_device_id >> 16).ok()?;
    (vendor == NVIDIA).then_some(Listed { pci, device })
}

fn fault(error: NvmlError) -> Fault {
    match error {
        NvmlError::LibloadingError(_) => Fault::LIBRARY_NOT_FOUND,
        NvmlError::FailedToLoadSymbol(_) => Fault::FUNCTION_NOT_FOUND,
        NvmlError::Utf8Error(_) | NvmlError::IncorrectBits(_) => Fault::NONSENSE,
        NvmlError::UnexpectedVariant(code) => Fault(code),
        other => Fault(other.into()),
    }
}
