//! Checks whether a GPU can be given to a VM, and returns QEMU's settings of it. Pure.

use cocoon_qemu::PciAddress;
use cocoon_qemu::spec::{self, mmio64_mib};

use crate::doctor::facts::Gpus;

/// Why a GPU cannot be given to a VM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotGiven {
    /// There is no NVIDIA GPU at this address.
    #[error("there is no GPU of NVIDIA's at {0}: `cocoon-host gpu list` shows what there is")]
    Unknown(PciAddress),
    /// Another VM uses the GPU.
    #[error("{0} belongs to another VM that runs: stop that one first (`cocoon-host ps`)")]
    InUse(PciAddress),
    /// The GPU does not answer on the bus.
    #[error("{0} does not answer on the bus: `cocoon-host doctor --gpu` says what to do")]
    Silent(PciAddress),
    /// The GPU is not bound to vfio-pci.
    #[error(
        "{address} is held by {driver}, not by vfio-pci: `cocoon-host gpu prepare {address}` makes it ready"
    )]
    NotBound {
        /// Address of the GPU.
        address: PciAddress,
        /// Driver that it is bound to.
        driver: String,
    },
    /// This user cannot reset the GPU, and the kernel would not use the function-level reset.
    #[error(
        "{address} would not be reset before this boot, which in confidential mode it must be: this user may not do it, and \
         the kernel would by {method} and not by flr: `cocoon-host gpu prepare {address}`, as root, names that"
    )]
    NoReset {
        /// Address of the GPU.
        address: PciAddress,
        /// Reset method that the kernel would try first.
        method: String,
    },
    /// The reset failed.
    #[error("{address} cannot be reset before this boot: {why}")]
    Reset {
        /// Address of the GPU.
        address: PciAddress,
        /// The step and the kernel's error.
        why: String,
    },
    /// iommufd cannot be used.
    #[error("/dev/iommu cannot be opened ({0}): load iommufd, and let this user open it")]
    NoIommufd(std::io::ErrorKind),
}

/// Returns QEMU's settings of the GPU. The confidential-computing mode is not checked here. If no driver of NVIDIA's holds
/// the GPU, only NVIDIA's admin tool can read it, as root, and that resets `power/control`. `prepare` turns the mode on, and
/// guest and clients check it.
///
/// # Errors
/// Fails with [`NotGiven`], which names the first thing that is missing.
pub fn given(gpus: &Gpus, address: PciAddress) -> Result<spec::Gpu, NotGiven> {
    let gpu = gpus.all.iter().find(|gpu| gpu.address == address);
    let gpu = gpu.ok_or(NotGiven::Unknown(address))?;
    if gpu.in_use {
        return Err(NotGiven::InUse(address));
    }
    if !gpu.answers {
        return Err(NotGiven::Silent(address));
    }
    if !gpu.is_bound() {
        let driver = gpu.driver.clone().unwrap_or_else(|| "no driver".to_owned());
        return Err(NotGiven::NotBound { address, driver });
    }
    gpus.iommufd.map_err(NotGiven::NoIommufd)?;
    Ok(spec::Gpu {
        address,
        mmio64_mib: mmio64_mib(&gpu.bars),
    })
}
