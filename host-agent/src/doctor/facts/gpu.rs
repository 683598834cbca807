//! NVIDIA GPUs, and what is needed to pass one to a machine.
//!
//! Sources: the PCI and IOMMU folders of sysfs (`Documentation/ABI/testing/sysfs-bus-pci`: `reset_method`, `power/control`,
//! `resource`), `/proc/driver/nvidia` of NVIDIA's driver, and NVIDIA's admin tool where it is installed
//! (`nvidia_gpu_tools.py` from gpu-admin-tools). Only that tool can read the CC mode of a GPU without a driver.

use std::str::FromStr as _;

use cocoon_qemu::PciAddress;

use super::super::source::{Refusal, World};

/// Folder of the PCI functions.
pub const DEVICES: &str = "/sys/bus/pci/devices";
/// Names of the admin tool, in NVIDIA's repository and in packages.
pub const ADMIN_TOOLS: [&str; 3] = [
    "nvidia_gpu_tools.py",
    "nvidia_gpu_tools",
    "nvidia-gpu-tools",
];

/// GPUs with a confidential-computing mode, by device id (pci.ids).
const CONFIDENTIAL: [(u16, &str); 11] = [
    (0x2321, "H100 NVL"),
    (0x2329, "H20"),
    (0x2330, "H100 SXM5 80 GB"),
    (0x2331, "H100 PCIe"),
    (0x2335, "H200 SXM"),
    (0x2336, "H100 SXM5 96 GB"),
    (0x2339, "H100 SXM5 64 GB"),
    (0x233b, "H200 NVL"),
    (0x2901, "B200"),
    (0x2bb5, "RTX PRO 6000 Blackwell Server Edition"),
    (0x3182, "B300 SXM6"),
];

/// Name of a GPU with a confidential-computing mode, by NVIDIA's device id.
#[must_use]
pub fn model(device: u16) -> Option<&'static str> {
    let known = CONFIDENTIAL.iter().find(|(id, _)| *id == device);
    known.map(|(_, name)| *name)
}

/// A GPU's confidential-computing mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CcMode {
    /// The mode is off.
    Off,
    /// The mode is on.
    On,
    /// The mode is on, but the host may debug. Evidence shows this, and clients refuse it.
    DevTools,
}

impl CcMode {
    /// Parses the admin tool's output of `--query-cc-mode`: a line that ends with `CC mode is on`.
    #[must_use]
    pub fn parse(output: &str) -> Option<Self> {
        let mode = |line: &str| match line.rsplit_once("CC mode is ")?.1.trim() {
            "on" => Some(Self::On),
            "off" => Some(Self::Off),
            "devtools" => Some(Self::DevTools),
            _ => None,
        };
        output.lines().rev().find_map(mode)
    }
}

/// Which GPUs to examine for being in use. That takes opening a GPU's IOMMU group, and a VM that starts at the same moment
/// fails to get the GPU (EBUSY). So only GPUs that matter should be examined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// No GPU; none counts as in use.
    Nowhere,
    /// The GPU at this address.
    At(PciAddress),
    /// Every GPU.
    Everywhere,
}

/// Where the GPUs' confidential-computing modes are read from. Each source is a program, which takes time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modes {
    /// Nowhere: no program is started.
    Ignored,
    /// From the drivers. Also looks for the admin tool.
    Told,
    /// Also from the admin tool, for unused GPUs that are examined. The tool reads the GPU's registers, and afterwards the
    /// kernel may suspend the GPU (`power/control`), so only use this before using a GPU.
    Asked,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// PCI address.
    pub address: PciAddress,
    /// Name, if the GPU has a confidential-computing mode.
    pub model: Option<&'static str>,
    /// PCI device id.
    pub device: u16,
    /// Driver bound to the GPU.
    pub driver: Option<String>,
    /// The only driver that may bind to the GPU, if one is set.
    pub driver_override: Option<String>,
    /// IOMMU group.
    pub group: Option<String>,
    /// Other functions of the group, with their drivers. Bridges are left out, since they cannot be passed through.
    pub companions: Vec<(PciAddress, Option<String>)>,
    /// Sizes of the memory BARs in bytes.
    pub bars: Vec<u64>,
    /// The kernel's reset methods, best first.
    pub resets: Vec<String>,
    /// Whether the kernel may suspend the GPU.
    pub may_sleep: bool,
    /// Whether the GPU answers on the bus.
    pub answers: bool,
    /// Whether a VM uses the GPU; false if this was not examined.
    pub in_use: bool,
    /// VBIOS version, which only NVIDIA's driver reports.
    pub vbios: Option<String>,
    /// Confidential-computing mode, if it could be read.
    pub cc: Option<CcMode>,
}

/// The machine's NVIDIA GPUs, and its support for passing them through.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpus {
    /// The GPUs, sorted by address.
    pub all: Vec<Gpu>,
    /// Number of NVSwitches, which join several GPUs into one fabric.
    pub switches: usize,
    /// Number of IOMMU groups; 0 without an IOMMU.
    pub iommu_groups: usize,
    /// Whether the driver vfio-pci is loaded.
    pub vfio: bool,
    /// Whether `/dev/iommu` can be opened.
    pub iommufd: Result<(), Refusal>,
    /// Name of the admin tool, if it was looked for and found.
    pub tool: Option<&'static str>,
}

impl Gpus {
    /// Examines `world`.
    pub fn read(world: &dyn World, look: Look, modes: Modes) -> Self {
        let looked = |address: PciAddress| match look {
            Look::Nowhere => false,
            Look::At(one) => one == address,
            Look::Everywhere => true,
        };
        let addresses: Vec<PciAddress> = (world.list(DEVICES).iter())
            .filter_map(|name| PciAddress::from_str(name).ok())
            .collect();
        let nvidia: Vec<(PciAddress, u32)> = (addresses.iter())
            .filter(|address| file(world, **address, "vendor") == Some("0x10de".to_owned()))
            .filter_map(|address| Some((*address, hex(&file(world, *address, "class")?)? >> 8)))
            .collect();
        let is_gpu = |class: &u32| matches!(class, 0x0300 | 0x0302);
        let mut gpus = nvidia.iter().filter(|(_, class)| is_gpu(class)).peekable();
        let sought = modes != Modes::Ignored && gpus.peek().is_some();
        let tool = sought.then(|| tool(world)).flatten();
        let read = |address: PciAddress| {
            let mut gpu = Gpu::read(world, address, looked(address));
            gpu.cc = match (gpu.driver.as_deref(), modes, tool) {
                (Some("nvidia"), Modes::Told | Modes::Asked, _) => driver_cc(world),
                // The tool reads the GPU's registers, which must not happen while a VM uses it.
                (_, Modes::Asked, Some(tool))
                    if looked(address) && gpu.is_bound() && !gpu.in_use =>
                {
                    ask(world, tool, address)
                }
                _ => None,
            };
            gpu
        };
        Self {
            all: gpus.map(|(address, _)| read(*address)).collect(),
            switches: nvidia.iter().filter(|(_, class)| *class == 0x0680).count(),
            iommu_groups: world.list("/sys/kernel/iommu_groups").len(),
            vfio: !world.list("/sys/bus/pci/drivers/vfio-pci").is_empty(),
            iommufd: world.open("/dev/iommu"),
            tool,
        }
    }
}

impl Gpu {
    /// Description of the GPU for people.
    #[must_use]
    pub fn shown(&self) -> String {
        match self.model {
            Some(model) => format!("{} ({model})", self.address),
            None => format!("{} (10de:{:04x})", self.address, self.device),
        }
    }

    /// Whether the GPU is bound to vfio-pci.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.driver.as_deref() == Some("vfio-pci")
    }

    /// Reads everything but the confidential-computing mode.
    fn read(world: &dyn World, address: PciAddress, looked: bool) -> Self {
        let device = file(world, address, "device").and_then(|text| hex(&text));
        let device = u16::try_from(device.unwrap_or_default()).unwrap_or_default();
        let driver = world.link(&format!("{DEVICES}/{address}/driver"));
        let group = world.link(&format!("{DEVICES}/{address}/iommu_group"));
        // A group that a VM has open cannot be opened again.
        let held = |group: &String| {
            world.open(&format!("/dev/vfio/{group}")) == Err(Refusal::ResourceBusy)
        };
        let in_use = group.as_ref().filter(|_| looked).is_some_and(held);
        let information = world.text(&format!("/proc/driver/nvidia/gpus/{address}/information"));
        let config = world.read(&format!("{DEVICES}/{address}/config"));
        Self {
            address,
            model: model(device),
            device,
            driver,
            driver_override: file(world, address, "driver_override")
                .filter(|name| name != "(null)" && !name.is_empty()),
            companions: (group.as_ref())
                .map(|group| companions(world, group, address))
                .unwrap_or_default(),
            group,
            bars: bars(&file(world, address, "resource").unwrap_or_default()),
            resets: (file(world, address, "reset_method").unwrap_or_default())
                .split_whitespace()
                .map(str::to_owned)
                .collect(),
            may_sleep: file(world, address, "power/control").is_none_or(|mode| mode != "on"),
            answers: !config.is_ok_and(|bytes| bytes.starts_with(&[0xff, 0xff])),
            in_use,
            vbios: information.as_deref().and_then(vbios),
            cc: None,
        }
    }
}

fn file(world: &dyn World, address: PciAddress, name: &str) -> Option<String> {
    world.text(&format!("{DEVICES}/{address}/{name}"))
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

fn companions(
    world: &dyn World,
    group: &str,
    address: PciAddress,
) -> Vec<(PciAddress, Option<String>)> {
    let names = world.list(&format!("/sys/kernel/iommu_groups/{group}/devices"));
    let others = names
        .iter()
        .filter_map(|name| PciAddress::from_str(name).ok());
    let others = others.filter(|other| *other != address);
    let bridge = |other: &PciAddress| {
        file(world, *other, "class")
            .and_then(|class| hex(&class))
            .map(|class| class >> 8)
            == Some(0x0604)
    };
    others
        .filter(|other| !bridge(other))
        .map(|other| (other, world.link(&format!("{DEVICES}/{other}/driver"))))
        .collect()
}

/// Parses sysfs `resource` into sizes: each line has start, end and flags, of which 0x200 marks memory. The first six lines
/// are BARs, the seventh is the option ROM.
fn bars(resource: &str) -> Vec<u64> {
    let number = |text: &str| u64::from_str_radix(text.strip_prefix("0x")?, 16).ok();
    let size = |line: &str| {
        let mut fields = line.split_whitespace().map(number);
        let (start, end, flags) = (fields.next()??, fields.next()??, fields.next()??);
        let memory = flags & 0x200 != 0;
        memory.then_some(end.checked_sub(start)?.checked_add(1)?)
    };
    resource.lines().take(6).filter_map(size).collect()
}

fn vbios(information: &str) -> Option<String> {
    let line = information
        .lines()
        .find_map(|line| line.strip_prefix("Video BIOS:"))?;
    Some(line.trim().to_uppercase())
}

fn tool(world: &dyn World) -> Option<&'static str> {
    let answers = |name: &&str| {
        let ran = world.run(&[name, "--help"]);
        ran.is_ok_and(|ran| ran.success && ran.output.contains("--query-cc-mode"))
    };
    ADMIN_TOOLS.into_iter().find(answers)
}

fn ask(world: &dyn World, tool: &str, address: PciAddress) -> Option<CcMode> {
    let address = address.to_string();
    let ran = world.run(&[tool, "--devices", &address, "--query-cc-mode"]);
    CcMode::parse(&ran.ok().filter(|ran| ran.success)?.output)
}

/// Asks NVIDIA's driver, which has one answer for all its GPUs because they cannot differ.
fn driver_cc(world: &dyn World) -> Option<CcMode> {
    let ran = world.run(&["nvidia-smi", "conf-compute", "-f"]).ok()?;
    let state = ran
        .output
        .lines()
        .find_map(|line| line.split_once("CC status:"))?;
    match state.1.trim() {
        "ON" => Some(CcMode::On),
        "OFF" => Some(CcMode::Off),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_memory_and_not_the_option_rom() {
        // An H100 PCIe: BAR0, BAR1 (128 GiB) and BAR3, each with its upper half; an I/O BAR; the option ROM.
        let resource = "\
            0x000038bf0a000000 0x000038bf0affffff 0x000000000014220c\n\
            0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
            0x000038a000000000 0x000038bfffffffff 0x000000000014220c\n\
            0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
            0x000038bf08000000 0x000038bf09ffffff 0x000000000014220c\n\
            0x0000000000001000 0x00000000000010ff 0x0000000000000101\n\
            0x00000000c0000000 0x00000000c007ffff 0x0000000000046200";
        assert_eq!(bars(resource), [16 << 20, 128 << 30, 32 << 20]);
        let odd = bars("0x5 0x1 0x200\n0x0 0xffffffffffffffff 0x200\nx");
        assert!(odd.is_empty(), "{odd:?}");
    }

    #[test]
    fn the_mode_is_the_last_one_that_the_tool_prints() {
        let line = |mode| format!("2026-01-01,00:00:00.000 INFO     CC mode is {mode}\n");
        for (mode, expected) in [
            ("on", Some(CcMode::On)),
            ("off", Some(CcMode::Off)),
            ("devtools", Some(CcMode::DevTools)),
            ("odd", None),
        ] {
            let text = format!("NVIDIA GPU Tools version v2025.03.26o\n{}\n", line(mode));
            assert_eq!(CcMode::parse(&text), expected, "{mode}");
        }
    }
}
