//! NVIDIA GPUs, and what is needed to pass one to a machine.
//!
//! Where each comes from: the PCI and IOMMU folders of sysfs (`Documentation/ABI/testing/sysfs-bus-pci`: `reset_method`,
//! `power/control`, `resource`), `/proc/driver/nvidia` of NVIDIA's driver, and NVIDIA's admin tool where it is installed
//! (`nvidia_gpu_tools.py`, of gpu-admin-tools), which alone can tell the CC mode of a GPU without a driver.

use std::str::FromStr as _;

use cocoon_qemu::PciAddress;

use super::super::source::{Refusal, World};

/// Where the PCI functions are.
pub const DEVICES: &str = "/sys/bus/pci/devices";
/// Names of the admin tool: as NVIDIA's repository has it, and as packages install it.
pub const ADMIN_TOOLS: [&str; 3] = [
    "nvidia_gpu_tools.py",
    "nvidia_gpu_tools",
    "nvidia-gpu-tools",
];

/// GPUs that have a confidential mode, by device id (pci.ids).
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

/// The name of a GPU with a confidential mode, by NVIDIA's device id.
#[must_use]
pub fn model(device: u16) -> Option<&'static str> {
    let known = CONFIDENTIAL.iter().find(|(id, _)| *id == device);
    known.map(|(_, name)| *name)
}

/// A GPU's confidential-computing mode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CcMode {
    /// None.
    Off,
    /// In force.
    On,
    /// In force, but the host may debug: evidence says so, and clients refuse it.
    DevTools,
}

impl CcMode {
    /// Reads what the admin tool prints for `--query-cc-mode`: a line that ends with `CC mode is on`.
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

/// Which GPUs are looked at more closely than sysfs shows them. That a machine has one is seen by opening its IOMMU group,
/// and a VM that starts in that very moment does not get it (EBUSY): so nobody opens what is not his affair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// None: all seem to be nobody's.
    Nowhere,
    /// This one.
    At(PciAddress),
    /// Each.
    Everywhere,
}

/// Whose word on GPUs' confidential modes is wanted. Each takes a program, which takes its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Modes {
    /// Nobody's: no program is started.
    Ignored,
    /// The drivers'; and whether the admin tool is there.
    Told,
    /// The admin tool's, too, of GPUs that are looked at and that nobody uses: it reads their registers, and afterwards lets
    /// the kernel put them to sleep (`power/control`), so nobody should ask who is not about to use one.
    Asked,
}

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpu {
    /// Where it is.
    pub address: PciAddress,
    /// Its name, if it has a confidential mode.
    pub model: Option<&'static str>,
    /// Its device id.
    pub device: u16,
    /// The driver that holds it.
    pub driver: Option<String>,
    /// The driver that alone may take it, if one was named.
    pub driver_override: Option<String>,
    /// Its IOMMU group.
    pub group: Option<String>,
    /// Other functions of the group, with their drivers. Bridges do not count: they cannot be passed through.
    pub companions: Vec<(PciAddress, Option<String>)>,
    /// Sizes of its memory BARs in bytes.
    pub bars: Vec<u64>,
    /// How the kernel can reset it, best first.
    pub resets: Vec<String>,
    /// Whether the kernel may let it sleep.
    pub may_sleep: bool,
    /// Whether it answers on the bus.
    pub answers: bool,
    /// Whether a machine has it already; false where it was not looked at.
    pub in_use: bool,
    /// Its firmware's version, which only NVIDIA's driver tells.
    pub vbios: Option<String>,
    /// Its mode, where it could be asked.
    pub cc: Option<CcMode>,
}

/// All of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gpus {
    /// In order of their addresses.
    pub all: Vec<Gpu>,
    /// Switches between GPUs: with these, several GPUs are one fabric.
    pub switches: usize,
    /// Number of IOMMU groups; 0 means that there is no IOMMU.
    pub iommu_groups: usize,
    /// Whether vfio-pci is there.
    pub vfio: bool,
    /// `/dev/iommu`.
    pub iommufd: Result<(), Refusal>,
    /// The admin tool's name, where it is installed and was looked for.
    pub tool: Option<&'static str>,
}

impl Gpus {
    /// Reads all of it.
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
                // The tool reads the GPU's registers: never beside somebody who uses them.
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
    /// For people.
    #[must_use]
    pub fn shown(&self) -> String {
        match self.model {
            Some(model) => format!("{} ({model})", self.address),
            None => format!("{} (10de:{:04x})", self.address, self.device),
        }
    }

    /// Whether vfio-pci holds it.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.driver.as_deref() == Some("vfio-pci")
    }

    /// All but its mode.
    fn read(world: &dyn World, address: PciAddress, looked: bool) -> Self {
        let device = file(world, address, "device").and_then(|text| hex(&text));
        let device = u16::try_from(device.unwrap_or_default()).unwrap_or_default();
        let driver = world.link(&format!("{DEVICES}/{address}/driver"));
        let group = world.link(&format!("{DEVICES}/{address}/iommu_group"));
        // A group that a machine holds is opened by nobody else.
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

/// Sizes from sysfs `resource`: a line per BAR of start, end and flags, of which 0x200 says memory. The first six are
/// BARs, the seventh is the option ROM.
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

/// NVIDIA's driver answers for all GPUs at once: they cannot differ under it.
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
        // An H100 PCIe: BAR0, BAR1 (128 GiB), BAR3, each with its upper half; an I/O BAR; the ROM.
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
