//! The arguments that give a machine a GPU of the host's.

use serde::Serialize;

use super::Args;
use super::confidential::json;
use crate::accel::Accel;
use crate::spec::{Gpu, MMIO64_MAX, MMIO64_MIN, SpecError};
use crate::text::range;

/// The port, the GPU behind it, and room for its BARs.
pub(super) fn gpu(args: &mut Args, gpu: &Gpu, accel: Accel) -> Result<(), SpecError> {
    if accel != Accel::Kvm {
        return Err(SpecError::GpuNeedsKvm);
    }
    let (min, max) = (MMIO64_MIN, MMIO64_MAX);
    range("mmio64_mib", gpu.mmio64_mib.into(), min.into(), max.into())?;
    args.add(
        "-object",
        json(&Iommufd {
            qom_type: "iommufd",
            id: "iommu0",
        }),
        "the kernel's current interface to the IOMMU; its accounting of pinned memory is this process's own",
    );
    args.add(
        "-device",
        "pcie-root-port,id=gpu-port0,bus=pcie.0,chassis=1,hotplug=off",
        "a GPU is a PCI Express device and needs a port; nothing may be plugged into it later",
    );
    args.add(
        "-device",
        format!(
            "vfio-pci,id=gpu0,host={},bus=gpu-port0,iommufd=iommu0,rombar=0",
            gpu.address
        ),
        "the GPU itself; without its option ROM, which would be host code run before the kernel",
    );
    args.add(
        "-fw_cfg",
        format!("name=opt/ovmf/X-PciMmio64Mb,string={}", gpu.mmio64_mib),
        "measured (RTMR0): room for BARs that the firmware's own window does not hold",
    );
    Ok(())
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Iommufd {
    qom_type: &'static str,
    id: &'static str,
}
