//! Whether a GPU can be given to a VM now, and what QEMU is told of it: pure, from what is known of it.

use cocoon_qemu::PciAddress;
use cocoon_qemu::spec::{self, mmio64_mib};

use crate::doctor::facts::Gpus;

/// Why a GPU cannot be given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotGiven {
    /// Not here.
    #[error("there is no GPU of NVIDIA's at {0}: `cocoon-host gpu list` shows what there is")]
    Unknown(PciAddress),
    /// Somebody's.
    #[error("{0} belongs to another VM that runs: stop that one first (`cocoon-host ps`)")]
    InUse(PciAddress),
    /// Off the bus.
    #[error("{0} does not answer on the bus: `cocoon-host doctor --gpu` says what to do")]
    Silent(PciAddress),
    /// Not prepared.
    #[error(
        "{address} is held by {driver}, not by vfio-pci: `cocoon-host gpu prepare {address}` makes it ready"
    )]
    NotBound {
        /// The GPU.
        address: PciAddress,
        /// Who holds it.
        driver: String,
    },
    /// This user may not reset it, and the kernel would not do it as it must be done.
    #[error(
        "{address} would not be reset before this boot, which in confidential mode it must be: this user may not do it, and \
         the kernel would by {method} and not by flr: `cocoon-host gpu prepare {address}`, as root, names that"
    )]
    NoReset {
        /// The GPU.
        address: PciAddress,
        /// What the kernel would try first.
        method: String,
    },
    /// The reset failed.
    #[error("{address} cannot be reset before this boot: {why}")]
    Reset {
        /// The GPU.
        address: PciAddress,
        /// The step, and the kernel's word.
        why: String,
    },
    /// Nothing to hand it over with.
    #[error("/dev/iommu cannot be opened ({0}): load iommufd, and let this user open it")]
    NoIommufd(std::io::ErrorKind),
}

/// The GPU as QEMU gets it. Its mode is not judged: of a GPU that no driver holds only NVIDIA's admin tool can tell it, as
/// root, and undoes `power/control` by that. `prepare` switches it on, and the guest and clients judge it.
///
/// # Errors
/// [`NotGiven`] names the first thing that is missing.
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
