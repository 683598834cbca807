//! Plans the steps that prepare or restore a GPU. Pure.

use std::fmt;

use cocoon_qemu::PciAddress;
use serde::{Serialize, Serializer};

use crate::doctor::facts::{CcMode, Gpu, Gpus};

const DRIVERS: &str = "/sys/bus/pci";
const DEVICES: &str = crate::doctor::facts::DEVICES;

/// The goal of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aim {
    /// The GPU is ready for a VM.
    Prepared,
    /// The GPU belongs to the host again.
    Restored,
}

/// An action of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write a text to a sysfs file.
    Write {
        /// Path of the file.
        path: String,
        /// The text.
        text: String,
    },
    /// Run NVIDIA's admin tool with these arguments.
    Run(Vec<String>),
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { path, text } => write!(f, "echo '{text}' > {path}"),
            Self::Run(command) => f.write_str(&command.join(" ")),
        }
    }
}

impl Serialize for Action {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A step of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// What to do.
    pub action: Action,
    /// Why it is done.
    pub reason: &'static str,
}

/// Why a GPU cannot be prepared or restored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// There is no NVIDIA GPU at this address.
    #[error("there is no GPU of NVIDIA's at {0}: `cocoon-host gpu list` shows what there is")]
    Unknown(PciAddress),
    /// A VM uses the GPU.
    #[error("{0} belongs to a VM that runs: stop it first (`cocoon-host ps`)")]
    InUse(PciAddress),
    /// The GPU does not answer on the bus.
    #[error(
        "{0} does not answer on the bus: reset the slot (nvidia_gpu_tools.py --recover-broken-gpu), or power the server off and on"
    )]
    Silent(PciAddress),
    /// The GPU has no known confidential-computing mode.
    #[error("{0} is not known to have a confidential mode: use an H100, H200 or later")]
    NotConfidential(PciAddress),
    /// The GPU is in no IOMMU group.
    #[error("{0} is in no IOMMU group: enable the IOMMU in the BIOS")]
    NoGroup(PciAddress),
    /// Another driver holds a function of the GPU's IOMMU group.
    #[error(
        "{address} shares its IOMMU group with {other}, which {driver} holds: free that one first, or move the GPU to another slot"
    )]
    Shared {
        /// Address of the GPU.
        address: PciAddress,
        /// Address of the other function.
        other: PciAddress,
        /// Driver of the other function.
        driver: String,
    },
    /// The GPU has no function-level reset.
    #[error("{0} has no function-level reset, without which it takes one attach and no second")]
    NoReset(PciAddress),
    /// The driver vfio-pci is not loaded.
    #[error("the driver vfio-pci is not loaded: modprobe vfio-pci")]
    NoVfio,
    /// The admin tool is missing, so the mode cannot be set.
    #[error(
        "NVIDIA's admin tool is not installed, and without it the mode of {0} cannot be set: put nvidia_gpu_tools.py of gpu-admin-tools on the PATH"
    )]
    NoTool(PciAddress),
}

/// Returns the steps that reach `aim`, in order.
///
/// # Errors
/// Fails with [`Unfit`] if something prevents it. Then nothing should be done at all.
pub fn plan(gpus: &Gpus, address: PciAddress, aim: Aim) -> Result<Vec<Planned>, Unfit> {
    let gpu = gpus.all.iter().find(|gpu| gpu.address == address);
    let gpu = gpu.ok_or(Unfit::Unknown(address))?;
    if gpu.in_use {
        return Err(Unfit::InUse(address));
    }
    if !gpu.answers {
        return Err(Unfit::Silent(address));
    }
    match aim {
        Aim::Prepared => prepare(gpus, gpu),
        Aim::Restored => restore(gpus, gpu),
    }
}

fn prepare(gpus: &Gpus, gpu: &Gpu) -> Result<Vec<Planned>, Unfit> {
    let address = gpu.address;
    fit(gpus, gpu)?;
    let mut steps = Vec::new();
    if !gpu.is_bound() {
        let reason = "no other driver takes it when drivers are asked again";
        steps.push(device(address, "driver_override", "vfio-pci", reason));
        if gpu.driver.is_some() {
            steps.push(unbind(address, "its driver lets go of it"));
        }
    }
    if gpu.cc != Some(CcMode::On) {
        let reason = "confidential mode, in force after the reset that follows";
        steps.push(mode(gpus, address, "on", reason)?);
    }
    steps.extend(reset(address));
    if !gpu.is_bound() {
        let reason = "vfio-pci takes it, and hands it to a VM";
        steps.push(probe(address, reason));
    }
    // The last step, because the admin tool undoes it.
    let reason = "never asleep: some GPUs do not wake up again";
    steps.push(device(address, "power/control", "on", reason));
    Ok(steps)
}

/// The function-level reset.
pub(super) fn reset(address: PciAddress) -> [Planned; 2] {
    [
        device(
            address,
            "reset_method",
            "flr",
            "the reset is of this function alone",
        ),
        device(
            address,
            "reset",
            "1",
            "one attach for each reset: the next one is the VM's",
        ),
    ]
}

/// Checks everything that no step can change.
fn fit(gpus: &Gpus, gpu: &Gpu) -> Result<(), Unfit> {
    let address = gpu.address;
    if gpu.model.is_none() {
        return Err(Unfit::NotConfidential(address));
    }
    if gpu.group.is_none() {
        return Err(Unfit::NoGroup(address));
    }
    let held = |(other, driver): &(PciAddress, Option<String>)| {
        let driver = driver.clone().filter(|driver| driver != "vfio-pci")?;
        Some((*other, driver))
    };
    if let Some((other, driver)) = gpu.companions.iter().find_map(held) {
        return Err(Unfit::Shared {
            address,
            other,
            driver,
        });
    }
    if !gpu.resets.iter().any(|method| method == "flr") {
        return Err(Unfit::NoReset(address));
    }
    if !gpus.vfio {
        return Err(Unfit::NoVfio);
    }
    Ok(())
}

fn restore(gpus: &Gpus, gpu: &Gpu) -> Result<Vec<Planned>, Unfit> {
    let address = gpu.address;
    let mut steps = Vec::new();
    let bound = gpu.is_bound();
    // A GPU without a known mode needs no switch.
    let switch = gpu.model.is_some() && gpu.cc != Some(CcMode::Off);
    // A switch resets the GPU, which must not happen while the host's own driver uses it.
    let released = bound || (switch && gpu.driver.is_some());
    if bound {
        steps.push(unbind(address, "vfio-pci lets go of it"));
    } else if released {
        steps.push(unbind(address, "its driver lets go of it"));
    }
    if switch {
        let reason = "the host's own driver cannot use a GPU in confidential mode";
        steps.push(mode(gpus, address, "off", reason)?);
    }
    if gpu.driver_override.is_some() {
        let reason = "every driver may take it again";
        steps.push(device(address, "driver_override", "", reason));
    }
    if released || gpu.driver.is_none() {
        steps.push(probe(address, "the host's own driver takes it"));
    }
    if !gpu.may_sleep {
        let reason = "the kernel manages its power again";
        steps.push(device(address, "power/control", "auto", reason));
    }
    Ok(steps)
}

fn device(address: PciAddress, file: &str, text: &str, reason: &'static str) -> Planned {
    Planned {
        action: Action::Write {
            path: format!("{DEVICES}/{address}/{file}"),
            text: text.to_owned(),
        },
        reason,
    }
}

fn unbind(address: PciAddress, reason: &'static str) -> Planned {
    device(address, "driver/unbind", &address.to_string(), reason)
}

fn probe(address: PciAddress, reason: &'static str) -> Planned {
    Planned {
        action: Action::Write {
            path: format!("{DRIVERS}/drivers_probe"),
            text: address.to_string(),
        },
        reason,
    }
}

fn mode(
    gpus: &Gpus,
    address: PciAddress,
    mode: &str,
    reason: &'static str,
) -> Result<Planned, Unfit> {
    let tool = gpus.tool.ok_or(Unfit::NoTool(address))?;
    let command = [
        tool.to_owned(),
        "--devices".to_owned(),
        address.to_string(),
        format!("--set-cc-mode={mode}"),
        "--reset-after-cc-mode-switch".to_owned(),
    ];
    Ok(Planned {
        action: Action::Run(command.to_vec()),
        reason,
    })
}
