//! Before each boot: in confidential mode a GPU takes one attach for each reset, so it is reset once more.
//!
//! Only root may do that through sysfs. Where this process may not, the kernel does it: vfio-pci resets a function when it is
//! opened for a VM, and again when it is closed, by the first of the GPU's `reset_method`s that works
//! (`vfio_pci_core_enable`, `pci_try_reset_function`). That has to be the function's own, which `cocoon-host gpu prepare`
//! writes, once after each start of the machine.

use std::io::ErrorKind;

use cocoon_qemu::PciAddress;

use super::given::NotGiven;
use super::hands::{Hands, carry_out};
use super::plan::reset;
use crate::doctor::facts::Gpus;
use crate::text::chain;

/// Who resets a GPU before a boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fresh {
    /// It has just been done.
    Reset,
    /// The kernel does it when QEMU opens the GPU.
    ByKernel,
}

impl Fresh {
    /// For people.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Reset => "was reset for this boot",
            Self::ByKernel => "is reset by the kernel when QEMU opens it",
        }
    }
}

/// Sees to it that the next attach of the GPU at `address` is the first one after a reset of the function.
///
/// # Errors
/// [`NotGiven::NoReset`] and [`NotGiven::Reset`].
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
