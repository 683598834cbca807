//! The arguments that pass a GPU of the host to a machine, and those of them that are measured whatever the GPU.

use serde::Serialize;

use super::confidential::json;
use super::{Args, Argument};
use crate::accel::Accel;
use crate::spec::{Gpu, MMIO64_MAX, MMIO64_MIN, SpecError};
use crate::text::range;

/// Adds the root port, the GPU behind it and a window for its BARs.
pub(super) fn gpu(args: &mut Args, gpu: &Gpu, accel: Accel) -> Result<(), SpecError> {
    if accel != Accel::Kvm {
        return Err(SpecError::GpuNeedsKvm);
    }
    let [port, window] = measured(gpu.mmio64_mib)?;
    args.add(
        "-object",
        json(&Iommufd {
            qom_type: "iommufd",
            id: "iommu0",
        }),
        "the kernel's current interface to the IOMMU; its accounting of pinned memory is this process's own",
    );
    args.0.push(port);
    args.add(
        "-device",
        format!(
            "vfio-pci,id=gpu0,host={},bus=gpu-port0,iommufd=iommu0,rombar=0",
            gpu.address
        ),
        "the GPU itself; without its option ROM, which would be host code run before the kernel",
    );
    args.0.push(window);
    Ok(())
}

/// Returns the root port and the firmware's window for a GPU. They are in the machine's tables even if nothing is behind
/// the port.
///
/// # Errors
/// [`SpecError::OutOfRange`] if the firmware does not support a window of this size.
pub fn measured(mmio64_mib: u32) -> Result<[Argument; 2], SpecError> {
    let (min, max) = (MMIO64_MIN, MMIO64_MAX);
    range("mmio64_mib", mmio64_mib.into(), min.into(), max.into())?;
    let port = Argument {
        flag: "-device",
        value: Some("pcie-root-port,id=gpu-port0,bus=pcie.0,chassis=1,hotplug=off".into()),
        reason: "a GPU is a PCI Express device and needs a port; nothing may be plugged into it later",
    };
    let window = Argument {
        flag: "-fw_cfg",
        value: Some(format!("name=opt/ovmf/X-PciMmio64Mb,string={mmio64_mib}")),
        reason: "measured (RTMR0): room for BARs that the firmware's own window does not hold",
    };
    Ok([port, window])
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Iommufd {
    qom_type: &'static str,
    id: &'static str,
}
