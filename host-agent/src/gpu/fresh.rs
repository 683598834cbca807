//! Resets a GPU before each boot, because in confidential-computing mode it allows one attach per reset.
//!
//! Only root can do so through sysfs. Otherwise the kernel does it: vfio-pci resets a function when it is opened for a VM,
//! and again when it is closed, by the first of the GPU's `reset_method`s that works (`vfio_pci_core_enable`,
//! `pci_try_reset_function`). The first must be the function-level reset, which `cocoon-host gpu prepare` sets once after
//! each start of the machine.

use std::io::ErrorKind;

use cocoon_qemu::PciAddress;

use super::given::NotGiven;
use super::hands::{Hands, carry_out};
use super::plan::reset;
use crate::doctor::facts::Gpus;
use crate::text::chain;

/// How a GPU is reset for a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fresh {
    /// This process has reset it.
    Reset,
    /// The kernel resets it when QEMU opens it.
    ByKernel,
}

impl Fresh {
    /// Description for people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Reset => "was reset for this boot",
            Self::ByKernel => "is reset by the kernel when QEMU opens it",
        }
    }
}

/// Ensures that the next attach of the GPU at `address` is the first after a function-level reset.
///
/// # Errors
/// Fails with [`NotGiven::NoReset`] if neither this process nor the kernel can reset it so, or with [`NotGiven::Reset`] if
/// the reset failed.
pub fn fresh(gpus: &Gpus, address: PciAddress, hands: &dyn Hands) -> Result<Fresh, NotGiven> {
    let failed = match carry_out(&reset(address), hands, |_| ()) {
        Ok(()) => return Ok(Fresh::Reset),
        Err(failed) => failed,
    };
    let forbidden = [ErrorKind::PermissionDenied, ErrorKind::ReadOnlyFilesystem];
    if !forbidden.contains(&failed.source.kind()) {
        let why = chain(&failed);
        return Err(NotGiven::Reset { address, why });
    }
    let gpu = gpus.all.iter().find(|gpu| gpu.address == address);
    let methods = gpu.map_or(&[][..], |gpu| &gpu.resets);
    match methods.first().map(String::as_str) {
        Some("flr") => Ok(Fresh::ByKernel),
        first => Err(NotGiven::NoReset {
            address,
            method: first.unwrap_or("no method").to_owned(),
        }),
    }
}
